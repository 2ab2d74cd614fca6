//! A server for a subset of the Redis protocol: strings, lists, sets, hashes, and messages to
//! subscribers.
//!
//! ```text
//! cargo run --release --example resp
//! redis-cli -p 7379 set greeting hello
//! redis-benchmark -p 7379 -t ping,set,get,incr,lpush,lpop,sadd,hset,lrange,mset -P 16 -q
//! ```

#[path = "../support/cli.rs"]
mod cli;
mod codec;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use codec::{Args, Requests};
use store::{End, OUT_OF_MEMORY, Refused, Store};
use unstick::{Closed, Config, ConnId, Context, FrameError, Framing, Handler, Reactor};

const HELP: &str = "\
A server for a subset of the Redis protocol.

Usage: resp [--listen ADDR] [--memory-max BYTES]

  --listen ADDR       address to listen on: HOST:PORT or unix:PATH
                      (default 127.0.0.1:7379)
  --memory-max BYTES  maximum size of all keys and values (default 1073741824)
  -h, --help          print this help

Commands: PING ECHO HELLO SELECT QUIT, GET SET DEL EXISTS INCR INCRBY DECR MGET MSET,
LPUSH RPUSH LPOP RPOP LLEN LRANGE, SADD SPOP SCARD SMEMBERS, HSET HGET HGETALL,
SUBSCRIBE UNSUBSCRIBE PUBLISH, DBSIZE FLUSHALL INFO CONFIG CLIENT COMMAND.
Keys do not expire. HELLO 3 selects version 3 of the protocol (RESP3).";

/// Maximum length of a command, in bytes.
const COMMAND_LEN_MAX: usize = 16 << 20;
/// Maximum number of channels that one client may subscribe to.
const CHANNELS_MAX: usize = 10_000;
/// The commands that need memory. They are rejected while the memory is used up.
const ADDING: [&[u8]; 9] = [
    b"SET", b"MSET", b"INCR", b"DECR", b"INCRBY", b"LPUSH", b"RPUSH", b"SADD", b"HSET",
];

/// Version of the protocol that a client has selected with HELLO.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Version {
    #[default]
    Resp2,
    Resp3,
}

#[derive(Default)]
struct Session {
    version: Version,
    /// The channels that the client has subscribed to.
    channels: BTreeSet<Vec<u8>>,
}

/// Subscribers of a channel. The first byte of a message depends on the version.
type Subscribers = BTreeMap<ConnId, Version>;

struct Server {
    store: Store,
    subscribers: BTreeMap<Vec<u8>, Subscribers>,
    reply: Reply,
}

/// The reply that is being written. Its memory is used again.
#[derive(Default)]
struct Reply {
    bytes: Vec<u8>,
    version: Version,
}

impl Reply {
    fn begin(&mut self, version: Version) {
        self.bytes.clear();
        self.version = version;
    }

    fn line(&mut self, kind: char, text: impl std::fmt::Display) {
        write!(self.bytes, "{kind}{text}\r\n").expect("a Vec accepts any output");
    }

    fn ok(&mut self) {
        self.bytes.extend(b"+OK\r\n");
    }

    fn number(&mut self, number: i64) {
        self.line(':', number);
    }

    /// Writes a line with a count. `write!` would take several times as long.
    fn decimal(&mut self, kind: u8, count: usize) {
        let mut line = [0; 23];
        let mut start = line.len() - 2;
        line[start..].copy_from_slice(b"\r\n");
        let mut rest = count;
        loop {
            start -= 1;
            line[start] = b'0' + u8::try_from(rest % 10).expect("a digit fits");
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        line[start - 1] = kind;
        self.bytes.extend_from_slice(&line[start - 1..]);
    }

    fn count(&mut self, count: usize) {
        self.decimal(b':', count);
    }

    fn array(&mut self, len: usize) {
        self.decimal(b'*', len);
    }

    /// Begins a map, a set or a push. RESP2 has none of these types, so it sends an array.
    fn aggregate(&mut self, kind: u8, len: usize) {
        match (self.version, kind) {
            (Version::Resp3, _) => self.decimal(kind, len),
            (Version::Resp2, b'%') => self.array(2 * len),
            (Version::Resp2, _) => self.array(len),
        }
    }

    fn bulk(&mut self, bytes: &[u8]) {
        self.decimal(b'$', bytes.len());
        self.bytes.extend(bytes);
        self.bytes.extend(b"\r\n");
    }

    fn bulk_or_nil(&mut self, bytes: Option<impl AsRef<[u8]>>) {
        match bytes {
            Some(bytes) => self.bulk(bytes.as_ref()),
            None if self.version == Version::Resp3 => self.bytes.extend(b"_\r\n"),
            None => self.bytes.extend(b"$-1\r\n"),
        }
    }

    fn bulks<'b>(&mut self, all: impl ExactSizeIterator<Item = &'b Vec<u8>>) {
        self.array(all.len());
        all.for_each(|bytes| self.bulk(bytes));
    }
}

const WRONG_ARGS: Refused = "ERR wrong number of arguments";

/// Returns the next argument of a command.
fn arg<'a>(args: &mut Args<'a>) -> Result<&'a [u8], Refused> {
    args.next().ok_or(WRONG_ARGS)
}

/// Checks that the remaining arguments form pairs, and that there is at least one pair. A command
/// calls this before its first change, so wrong arguments change nothing.
fn check_pairs(args: &Args<'_>) -> Result<(), Refused> {
    match args.clone().count() {
        0 => Err(WRONG_ARGS),
        count if count % 2 == 1 => Err(WRONG_ARGS),
        _ => Ok(()),
    }
}

/// Returns the next argument as a number.
fn number(args: &mut Args<'_>) -> Result<i64, Refused> {
    let text = std::str::from_utf8(arg(args)?).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or("ERR value is not an integer or out of range")
}

/// Returns the range of elements that two offsets name. Negative offsets count from the end.
fn range(start: i64, end: i64, len: usize) -> (usize, usize) {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    let place = |offset: i64| {
        if offset < 0 {
            offset.saturating_add(len)
        } else {
            offset
        }
    };
    let start = place(start).clamp(0, len);
    let end = place(end).saturating_add(1).clamp(start, len);
    let to_usize = |offset| usize::try_from(offset).unwrap_or(0);
    (to_usize(start), to_usize(end - start))
}

impl Server {
    /// Runs a command about keys. Returns false if the command is unknown.
    fn keys(&mut self, name: &[u8], args: &mut Args<'_>) -> Result<bool, Refused> {
        let Self { store, reply, .. } = self;
        match name {
            b"GET" => reply.bulk_or_nil(store.text(arg(args)?)?),
            b"SET" => {
                let (key, text) = (arg(args)?, arg(args)?);
                if args.next().is_some() {
                    return Err("ERR options of SET are not supported");
                }
                store.put(key, text)?;
                reply.ok();
            }
            b"MSET" => {
                check_pairs(args)?;
                while let Some(key) = args.next() {
                    store.put(key, arg(args)?)?;
                }
                reply.ok();
            }
            b"MGET" => {
                reply.array(args.clone().count());
                args.for_each(|key| reply.bulk_or_nil(store.text(key).ok().flatten()));
            }
            b"DEL" => reply.count(args.filter(|key| store.remove(key)).count()),
            b"EXISTS" => reply.count(args.filter(|key| store.contains(key)).count()),
            b"INCR" => reply.number(store.add(arg(args)?, 1)?),
            b"DECR" => reply.number(store.add(arg(args)?, -1)?),
            b"INCRBY" => {
                let key = arg(args)?;
                reply.number(store.add(key, number(args)?)?);
            }
            b"DBSIZE" => reply.count(store.len()),
            b"FLUSHALL" | b"FLUSHDB" => {
                store.clear();
                reply.ok();
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Runs a command about lists, sets or hashes. Returns false if the command is unknown.
    fn collections(&mut self, name: &[u8], args: &mut Args<'_>) -> Result<bool, Refused> {
        let Self { store, reply, .. } = self;
        match name {
            b"LPUSH" | b"RPUSH" => {
                let at = end_of(name);
                let key = arg(args)?;
                let mut len = store.push(key, at, arg(args)?)?;
                for value in args {
                    len = store.push(key, at, value)?;
                }
                reply.count(len);
            }
            b"LPOP" | b"RPOP" => reply.bulk_or_nil(store.pop(arg(args)?, end_of(name))?),
            b"LLEN" => reply.count(store.list(arg(args)?)?.map_or(0, |list| list.len())),
            b"LRANGE" => {
                let key = arg(args)?;
                let (start, end) = (number(args)?, number(args)?);
                let list = store.list(key)?;
                let (skip, take) = range(start, end, list.map_or(0, |list| list.len()));
                match list {
                    Some(list) => reply.bulks(list.range(skip..skip + take)),
                    None => reply.array(0),
                }
            }
            b"SADD" => {
                let key = arg(args)?;
                let mut added = usize::from(store.add_member(key, arg(args)?)?);
                for member in args {
                    added += usize::from(store.add_member(key, member)?);
                }
                reply.count(added);
            }
            b"SPOP" => reply.bulk_or_nil(store.pop_member(arg(args)?)?),
            b"SCARD" => reply.count(store.set(arg(args)?)?.map_or(0, |set| set.len())),
            b"SMEMBERS" => match store.set(arg(args)?)? {
                Some(set) => {
                    reply.aggregate(b'~', set.len());
                    set.iter().for_each(|member| reply.bulk(member));
                }
                None => reply.aggregate(b'~', 0),
            },
            b"HSET" => {
                let key = arg(args)?;
                check_pairs(args)?;
                let mut added = 0;
                while let Some(field) = args.next() {
                    added += usize::from(store.put_field(key, field, arg(args)?)?);
                }
                reply.count(added);
            }
            b"HGET" => {
                let hash = store.hash(arg(args)?)?;
                let field = arg(args)?;
                reply.bulk_or_nil(hash.and_then(|hash| hash.get(field)));
            }
            b"HGETALL" => {
                let hash = store.hash(arg(args)?)?;
                reply.aggregate(b'%', hash.map_or(0, |hash| hash.len()));
                for (field, value) in hash.into_iter().flatten() {
                    reply.bulk(field);
                    reply.bulk(value);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Runs a command about the connection or the server.
    fn connection_or_server(
        &mut self,
        conn: ConnId,
        session: &mut Session,
        name: &[u8],
        args: &mut Args<'_>,
    ) -> Result<(), Refused> {
        let reply = &mut self.reply;
        match name {
            b"PING" if session.version == Version::Resp2 && !session.channels.is_empty() => {
                // To a subscriber, RESP2 sends nothing but arrays.
                reply.array(2);
                reply.bulk(b"pong");
                reply.bulk(args.next().unwrap_or_default());
            }
            b"PING" => match args.next() {
                Some(text) => reply.bulk(text),
                None => reply.line('+', "PONG"),
            },
            b"HELLO" => return self.hello(conn, session, args),
            b"ECHO" => reply.bulk(arg(args)?),
            b"SELECT" | b"CLIENT" | b"QUIT" => reply.ok(),
            b"COMMAND" => reply.array(0),
            b"CONFIG" => {
                let _get = args.next();
                let parameter = arg(args)?;
                reply.aggregate(b'%', 1);
                reply.bulk(parameter);
                reply.bulk(b""); // no parameter has a value
            }
            b"INFO" => {
                let (keys, bytes) = (self.store.len(), self.store.bytes());
                let info = format!("redis_version:7.0.0\r\nkeys:{keys}\r\nused_memory:{bytes}\r\n");
                reply.bulk(info.as_bytes());
            }
            _ => return Err("ERR unknown command"),
        }
        Ok(())
    }

    /// Selects the version of the protocol, and describes the server.
    fn hello(
        &mut self,
        conn: ConnId,
        session: &mut Session,
        args: &mut Args<'_>,
    ) -> Result<(), Refused> {
        session.version = match args.next() {
            None => session.version,
            Some(b"2") => Version::Resp2,
            Some(b"3") => Version::Resp3,
            Some(_) => return Err("NOPROTO unsupported protocol version"),
        };
        for channel in &session.channels {
            if let Some(subscribers) = self.subscribers.get_mut(channel) {
                subscribers.insert(conn, session.version);
            }
        }
        let reply = &mut self.reply;
        reply.version = session.version;
        let texts = [
            ("server", "redis"),
            ("version", "7.0.0"),
            ("mode", "standalone"),
            ("role", "master"),
        ];
        reply.aggregate(b'%', texts.len() + 3);
        for (key, value) in texts {
            reply.bulk(key.as_bytes());
            reply.bulk(value.as_bytes());
        }
        reply.bulk(b"proto");
        reply.number(if session.version == Version::Resp3 {
            3
        } else {
            2
        });
        reply.bulk(b"id");
        reply.number(i64::try_from(conn.to_bits()).unwrap_or(i64::MAX));
        reply.bulk(b"modules");
        reply.array(0);
        Ok(())
    }

    /// Sends a message to the subscribers of a channel.
    fn publish(&mut self, cx: &mut Context<'_, Self>, args: &mut Args<'_>) -> Result<(), Refused> {
        let (channel, message) = (arg(args)?, arg(args)?);
        let version = self.reply.version;
        let reply = &mut self.reply;
        let mut receivers = 0;
        for wanted in [Version::Resp2, Version::Resp3] {
            let subscribers = self.subscribers.get(channel).into_iter().flatten();
            let subscribers = subscribers.filter(|(_, version)| **version == wanted);
            reply.begin(wanted);
            reply.aggregate(b'>', 3);
            for part in [b"message", channel, message] {
                reply.bulk(part);
            }
            receivers += cx.broadcast(subscribers.map(|(conn, _)| conn), &reply.bytes);
        }
        reply.begin(version);
        reply.count(receivers);
        Ok(())
    }

    fn subscribe(
        &mut self,
        conn: ConnId,
        session: &mut Session,
        args: &mut Args<'_>,
    ) -> Result<(), Refused> {
        let count = args.clone().count();
        if count == 0 {
            return Err(WRONG_ARGS);
        }
        if session.channels.len() + count > CHANNELS_MAX {
            return Err("ERR too many channels");
        }
        for channel in args {
            session.channels.insert(channel.to_vec());
            let subscribers = self.subscribers.entry(channel.to_vec()).or_default();
            subscribers.insert(conn, session.version);
            self.confirm(b"subscribe", Some(channel), session);
        }
        Ok(())
    }

    fn unsubscribe(&mut self, conn: ConnId, session: &mut Session, args: &mut Args<'_>) {
        let mut named: Vec<Vec<u8>> = args.map(<[u8]>::to_vec).collect();
        if named.is_empty() {
            named = session.channels.iter().cloned().collect();
        }
        if named.is_empty() {
            self.confirm(b"unsubscribe", None, session);
        }
        for channel in named {
            session.channels.remove(&channel);
            self.forget(conn, &channel);
            self.confirm(b"unsubscribe", Some(&channel), session);
        }
    }

    /// Adds a confirmation to the reply. `channel` is `None` if the client had no channel to leave.
    fn confirm(&mut self, kind: &[u8], channel: Option<&[u8]>, session: &Session) {
        let reply = &mut self.reply;
        reply.aggregate(b'>', 3);
        reply.bulk(kind);
        reply.bulk_or_nil(channel);
        reply.count(session.channels.len());
    }

    fn forget(&mut self, conn: ConnId, channel: &[u8]) {
        if let Some(subscribers) = self.subscribers.get_mut(channel) {
            subscribers.remove(&conn);
            if subscribers.is_empty() {
                self.subscribers.remove(channel);
            }
        }
    }
}

fn end_of(name: &[u8]) -> End {
    match name[0] {
        b'L' => End::Left,
        _ => End::Right,
    }
}

impl Handler for Server {
    type Session = Session;

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Session,
        frame: &[u8],
    ) {
        let mut args = Args::new(frame);
        let Some(name) = args.next() else {
            return; // an empty line or an empty array
        };
        let mut upper = [0; 16];
        let name = match upper.get_mut(..name.len()) {
            Some(upper) => {
                upper.copy_from_slice(name);
                upper.make_ascii_uppercase();
                &*upper
            }
            None => name,
        };
        self.reply.begin(session.version);
        let done = match name {
            b"PUBLISH" => self.publish(cx, &mut args),
            b"SUBSCRIBE" => self.subscribe(conn, session, &mut args),
            b"UNSUBSCRIBE" => {
                self.unsubscribe(conn, session, &mut args);
                Ok(())
            }
            _ if self.store.is_full() && ADDING.contains(&name) => Err(OUT_OF_MEMORY),
            _ => match self.keys(name, &mut args.clone()) {
                Ok(false) => match self.collections(name, &mut args.clone()) {
                    Ok(false) => self.connection_or_server(conn, session, name, &mut args),
                    done => done.map(|_| ()),
                },
                done => done.map(|_| ()),
            },
        };
        if let Err(refused) = done {
            self.reply.begin(session.version);
            self.reply.line('-', refused);
        }
        if let Err(error) = cx.send(conn, &self.reply.bytes) {
            log::warn!("{conn}: cannot reply: {error}");
            return cx.close(conn);
        }
        if name == b"QUIT" {
            cx.close(conn);
        }
    }

    fn on_frame_error(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        _: &mut Session,
        error: &FrameError,
    ) {
        let _ = cx.send(conn, format!("-ERR Protocol error: {error}\r\n"));
    }

    fn on_close(
        &mut self,
        _: &mut Context<'_, Self>,
        conn: ConnId,
        session: Session,
        closed: Closed,
    ) {
        log::info!("{conn} closed: {}", closed.reason);
        for channel in session.channels {
            self.forget(conn, &channel);
        }
    }
}

fn main() -> ExitCode {
    use lexopt::prelude::*;

    cli::run("resp", HELP, |mut args| {
        let (mut addr, mut bytes_max) = ("127.0.0.1:7379".to_owned(), 1 << 30);
        while let Some(arg) = args.next()? {
            match arg {
                Long("listen") => addr = cli::text(args.value()?)?,
                Long("memory-max") => bytes_max = args.value()?.parse()?,
                arg => return Err(cli::unexpected(arg)),
            }
        }
        // A subscriber that reads nothing is disconnected.
        let config = Config::new().write_stall_timeout(Duration::from_secs(60));
        let server = Server {
            store: Store::new(bytes_max),
            subscribers: BTreeMap::new(),
            reply: Reply::default(),
        };
        let mut reactor = Reactor::with_config(server, config)?;
        reactor.shutdown_on_signals(Duration::from_secs(1))?;
        let framing = Framing::custom(Requests {
            len_max: COMMAND_LEN_MAX,
        });
        cli::listen(&mut reactor, &addr, framing)?;
        Ok(reactor.run()?)
    })
}
