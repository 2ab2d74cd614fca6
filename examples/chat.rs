//! A chat server: sends every line of a client to all other clients.
//!
//! ```text
//! cargo run --release --example chat
//! nc 127.0.0.1 7002        (in two terminals; the first line is the name)
//! ```

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

use unstick::{Closed, ConnId, Context, Framing, Handler, Origin, Reactor};

/// Maximum length of a line, so that a long line does not delay the other clients.
const LINE_LEN_MAX: usize = 1000;

#[derive(Default)]
struct Chat {
    /// Clients that have sent their name.
    members: BTreeSet<ConnId>,
}

impl Chat {
    fn tell_others(&self, cx: &mut Context<'_, Self>, from: ConnId, line: &str) {
        let others = self
            .members
            .iter()
            .copied()
            .filter(|member| *member != from);
        cx.broadcast(others, line.as_bytes());
    }
}

impl Handler for Chat {
    /// Name of the client; `None` until the client has sent its name.
    type Session = Option<String>;

    fn on_open(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        _: &mut Option<String>,
        _: Origin,
    ) {
        let _ = cx.send(conn, b"what is your name?");
    }

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        name: &mut Option<String>,
        frame: &[u8],
    ) {
        let line = String::from_utf8_lossy(frame);
        match name {
            Some(name) => self.tell_others(cx, conn, &format!("{name}: {line}")),
            None => {
                self.members.insert(conn);
                self.tell_others(cx, conn, &format!("{line} is here"));
                *name = Some(line.into_owned());
            }
        }
    }

    fn on_close(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        name: Option<String>,
        closed: Closed,
    ) {
        log::info!("{conn} left: {}", closed.reason);
        self.members.remove(&conn);
        if let Some(name) = name {
            self.tell_others(cx, conn, &format!("{name} has left"));
        }
    }
}

fn main() -> io::Result<()> {
    env_logger::init();
    let addr = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7002".to_owned());
    let mut reactor = Reactor::new(Chat::default())?;
    let listener = reactor.listen(addr, Framing::line().frame_len_max(LINE_LEN_MAX))?;
    writeln!(
        io::stdout(),
        "listening tcp {}",
        reactor.local_inet_addr(listener)?
    )?;

    reactor.shutdown_on_signals(Duration::from_secs(1))?;
    reactor.run()
}
