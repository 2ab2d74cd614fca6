//! An echo server for lines. It can inherit its listening sockets from the program that starts it.
//!
//! The server supports systemd's socket activation (`LISTEN_FDS`, sd_listen_fds(3)). Without
//! inherited sockets, the server listens on a TCP address or on a Unix socket.
//!
//! ```text
//! systemd-socket-activate -l 7003 target/release/examples/activated
//! cargo run --release --example activated -- 127.0.0.1:7003
//! cargo run --release --example activated -- unix:/tmp/echo.sock
//! ```

#[path = "support/cli.rs"]
mod cli;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use listenfd::ListenFd;
use unstick::{ConnId, Context, Framing, Handler, Reactor};

const HELP: &str = "\
An echo server for lines. It can inherit its listening sockets.

Usage: activated [ADDR]

  ADDR        address to listen on if no socket is inherited: HOST:PORT or unix:PATH
              (default 127.0.0.1:7003)
  -h, --help  print this help

systemd passes the sockets, and their number in the environment variable LISTEN_FDS
(sd_listen_fds(3)).";

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), line: &[u8]) {
        let _ = cx.send(conn, line);
    }
}

fn main() -> ExitCode {
    cli::run("activated", HELP, |args| {
        let [addr] = cli::operands(args)?;
        let mut reactor = Reactor::new(Echo)?;
        reactor.shutdown_on_signals(Duration::from_secs(1))?;
        let mut inherited = ListenFd::from_env();
        for index in 0..inherited.len() {
            // Fails if the inherited socket is not a TCP listener.
            if let Some(listener) = inherited.take_tcp_listener(index)? {
                let listener =
                    reactor.with(|_, cx| cx.adopt_listener(listener, Framing::line()))?;
                writeln!(
                    io::stdout(),
                    "listening tcp {}",
                    reactor.local_addr(listener)?
                )?;
            }
        }
        if inherited.len() == 0 {
            let addr = addr.as_deref().unwrap_or("127.0.0.1:7003");
            cli::listen(&mut reactor, addr, Framing::line())?;
        }
        Ok(reactor.run()?)
    })
}
