//! A chat server with rooms, nicknames and a rate limit.
//!
//! ```text
//! cargo run --release --example chat
//! nc 127.0.0.1 7002        (in two terminals; the first line is the nickname)
//! ```

#[path = "support/cli.rs"]
mod cli;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use unstick::{
    Closed, Config, ConnId, Context, Framing, Handler, Hangup, Origin, Reactor, ShutdownPhase,
    TimerId,
};

const HELP: &str = "\
A chat server for lines of text.

Usage: chat [ADDR]

  ADDR        address to listen on: HOST:PORT or unix:PATH (default 127.0.0.1:7002)
  -h, --help  print this help

The first line of a client is its nickname. Further lines are sent to all members of
its room, or are commands:

  /join ROOM    go to another room (everyone starts in `lobby`)
  /nick NAME    change the nickname
  /who          list the members of the room
  /quit         leave

Each client may send 10 lines at once and 5 lines per second on average.";

/// Maximum length of a line, in bytes. A longer line ends the connection of its client.
const LINE_LEN_MAX: usize = 1000;
/// Maximum length of a nickname or of the name of a room, in bytes.
const NAME_LEN_MAX: usize = 20;
/// Number of lines that a client may send at once.
const LINES_AT_ONCE: u64 = 10;
/// Number of lines per second that a client may send after the first `LINES_AT_ONCE` lines.
const LINES_PER_SECOND: u64 = 5;

/// The nickname and the room of a client.
struct Member {
    name: String,
    room: String,
}

#[derive(Default)]
struct Chat {
    /// The nicknames of all members, by room.
    rooms: BTreeMap<String, BTreeMap<ConnId, String>>,
    /// Number of lines of each client whose credit the timer has not given back yet.
    spent: BTreeMap<ConnId, u64>,
}

impl Chat {
    fn tell(&self, cx: &mut Context<'_, Self>, room: &str, except: ConnId, line: &str) {
        let members = self.rooms.get(room).into_iter().flat_map(BTreeMap::keys);
        cx.broadcast(members.filter(|member| **member != except), line);
    }

    fn enter(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, member: &Member) {
        let Member { name, room } = member;
        self.tell(cx, room, conn, &format!("* {name} is here"));
        let members = self.rooms.entry(room.clone()).or_default();
        members.insert(conn, name.clone());
    }

    fn leave(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, member: &Member) {
        let Member { name, room } = member;
        if let Some(members) = self.rooms.get_mut(room) {
            members.remove(&conn);
            if members.is_empty() {
                self.rooms.remove(room);
            }
        }
        self.tell(cx, room, conn, &format!("* {name} has left"));
    }

    /// Returns the wanted nickname, or an error text if it is invalid or in use.
    fn free_name(&self, wanted: &str) -> Result<String, String> {
        let name = valid_name(wanted)?;
        let mut names = self.rooms.values().flat_map(BTreeMap::values);
        match names.any(|used| *used == name) {
            true => Err(format!("* {name} is in use: choose another nickname")),
            false => Ok(name),
        }
    }

    /// Runs a command: its name, and the text after it. Returns the reply, or an error text.
    fn command(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        member: &mut Member,
        command: (&str, &str),
    ) -> Result<String, String> {
        match command {
            ("/join", room) => {
                let room = valid_name(room)?;
                self.leave(cx, conn, member);
                member.room = room;
                self.enter(cx, conn, member);
                Ok(format!("* you are in {}", member.room))
            }
            ("/nick", name) => {
                let name = self.free_name(name)?;
                let renamed = format!("* {} is now {name}", member.name);
                self.tell(cx, &member.room, conn, &renamed);
                member.name.clone_from(&name);
                let room = self.rooms.entry(member.room.clone()).or_default();
                room.insert(conn, name);
                Ok(format!("* you are {}", member.name))
            }
            ("/who", _) => {
                let members = self.rooms.get(&member.room).into_iter();
                let names: Vec<_> = members.flat_map(BTreeMap::values).cloned().collect();
                Ok(format!("* {}: {}", member.room, names.join(", ")))
            }
            _ => Err("* commands: /join ROOM, /nick NAME, /who, /quit".to_owned()),
        }
    }
}

fn valid_name(name: &str) -> Result<String, String> {
    let name = name.trim();
    let is_valid = name.chars().all(char::is_alphanumeric);
    match is_valid && (1..=NAME_LEN_MAX).contains(&name.len()) {
        true => Ok(name.to_owned()),
        false => Err(format!(
            "* a name has 1 to {NAME_LEN_MAX} bytes, all of letters or digits"
        )),
    }
}

impl Handler for Chat {
    /// `None` until the client has sent its nickname, and after it has left.
    type Session = Option<Member>;

    fn on_open(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        _: &mut Option<Member>,
        _: Origin,
    ) {
        // Without credit, a client is not read. Its lines wait, and nothing is lost.
        let _ = cx.grant(conn, LINES_AT_ONCE);
        let _ = cx.send(conn, "what is your name?");
    }

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Option<Member>,
        frame: &[u8],
    ) {
        *self.spent.entry(conn).or_default() += 1;
        let line = String::from_utf8_lossy(frame);
        let reply = match (
            session.as_mut(),
            line.split_once(' ').unwrap_or((&line, "")),
        ) {
            (None, _) => self.free_name(&line).map(|name| {
                let room = "lobby".to_owned();
                let member = session.insert(Member { name, room });
                self.enter(cx, conn, member);
                format!("* welcome, {}: you are in lobby", member.name)
            }),
            (Some(_), ("/quit", _)) => {
                // Free the nickname now. `on_close` comes later: when the client has ended its side
                // too, or at the close deadline.
                if let Some(member) = session.take() {
                    self.leave(cx, conn, &member);
                }
                let _ = cx.send(conn, "* goodbye");
                return cx.close(conn);
            }
            (Some(member), command) if line.starts_with('/') => {
                self.command(cx, conn, member, command)
            }
            (Some(member), _) => {
                let said = format!("{}: {line}", member.name);
                return self.tell(cx, &member.room, conn, &said);
            }
        };
        let (Ok(reply) | Err(reply)) = reply;
        let _ = cx.send(conn, reply);
    }

    /// Removes a client that has ended its side while its lines wait for credit. Those lines are
    /// dropped. Without this callback, the client would stay a member until its last line is
    /// handled.
    fn on_hangup(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Option<Member>,
        _: Hangup,
    ) {
        if let Some(member) = session.take() {
            self.leave(cx, conn, &member);
        }
        cx.close(conn);
    }

    fn on_close(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: Option<Member>,
        closed: Closed,
    ) {
        log::info!("{conn} left: {}", closed.reason);
        self.spent.remove(&conn);
        if let Some(member) = session {
            self.leave(cx, conn, &member);
        }
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_, Self>, phase: ShutdownPhase) {
        if phase == ShutdownPhase::Close {
            let members = self.rooms.values().flat_map(BTreeMap::keys);
            cx.broadcast(members, "* the server is shutting down: goodbye");
        }
    }

    /// Gives back the credit of one second to each client that has spent credit.
    fn on_timer(&mut self, cx: &mut Context<'_, Self>, _: TimerId, _: u64) {
        for (conn, spent) in &mut self.spent {
            let back = LINES_PER_SECOND.min(*spent);
            if cx.grant(*conn, back).is_ok() {
                *spent -= back;
            }
        }
        self.spent.retain(|_, spent| *spent > 0);
    }
}

fn main() -> ExitCode {
    cli::run("chat", HELP, |args| {
        let [addr] = cli::operands(args)?;
        let config = Config::new().write_stall_timeout(Duration::from_secs(30));
        let mut reactor = Reactor::with_config(Chat::default(), config)?;
        reactor.shutdown_on_signals(Duration::from_secs(1))?;
        reactor.with(|_, cx| cx.set_interval(Duration::from_secs(1), 0));
        let framing = Framing::line().frame_len_max(LINE_LEN_MAX);
        cli::listen(
            &mut reactor,
            addr.as_deref().unwrap_or("127.0.0.1:7002"),
            framing,
        )?;
        Ok(reactor.run()?)
    })
}
