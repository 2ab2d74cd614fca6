//! An echo server for lines that can inherit its listening sockets from the program that starts it.
//!
//! The server supports systemd's socket activation (`LISTEN_FDS`, sd_listen_fds(3)). Without
//! inherited sockets, the server listens on a TCP address or on a Unix socket.
//!
//! ```text
//! systemd-socket-activate -l 7003 target/release/examples/activated
//! cargo run --release --example activated -- 127.0.0.1:7003
//! cargo run --release --example activated -- unix:/tmp/echo.sock
//! ```

use std::io::{self, Write};
use std::time::Duration;

use listenfd::ListenFd;
use unstick::{Addr, ConnId, Context, Framing, Handler, Reactor};

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), line: &[u8]) {
        let _ = cx.send(conn, line);
    }
}

fn main() -> io::Result<()> {
    env_logger::init();
    let mut reactor = Reactor::new(Echo)?;
    let mut inherited = ListenFd::from_env();
    for index in 0..inherited.len() {
        // Fails if the inherited socket is not a TCP listener.
        if let Some(listener) = inherited.take_tcp_listener(index)? {
            let listener = reactor.with(|_, cx| cx.adopt_listener(listener, Framing::line()))?;
            writeln!(io::stdout(), "listening {}", reactor.local_addr(listener)?)?;
        }
    }
    if inherited.len() == 0 {
        let addr: Addr = match std::env::args().nth(1) {
            Some(addr) => addr.parse()?,
            None => std::net::SocketAddr::from(([127, 0, 0, 1], 7003)).into(),
        };
        let listener = reactor.listen(addr, Framing::line())?;
        writeln!(io::stdout(), "listening {}", reactor.local_addr(listener)?)?;
    }

    reactor.shutdown_on_signals(Duration::from_secs(1))?;
    reactor.run()
}
