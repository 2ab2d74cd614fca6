//! A client that reconnects: it sends each line of standard input and prints each received line.
//!
//! If the connection ends, the client connects again. The delay between the attempts grows.
//!
//! ```text
//! cargo run --release --example chat
//! cargo run --release --example client -- 127.0.0.1:7002
//! ```

#[path = "support/cli.rs"]
mod cli;
#[path = "support/tls.rs"]
mod tls;

use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use unstick::{
    Backoff, CloseReason, Closed, ConnId, ConnectOptions, Context, Framing, Handler, Origin,
    PostError, Reactor, Reconnect, Remote, TimerId,
};

const HELP: &str = "\
A client for lines that connects again when its connection ends.

Usage: client [ADDR] [--tls FILE]

  ADDR        address of the server (HOST:PORT, default 127.0.0.1:7002)
  --tls FILE  encrypt with TLS, and trust the certificates of this PEM file
  --help      print this help

Sends each line of standard input, and prints each received line. At the end of the
input, the client ends within a second.";

/// Maximum number of lines kept while there is no connection. If there are more lines, the oldest
/// ones are dropped.
const UNSENT_MAX: usize = 100;

struct Client {
    server: Reconnect<String>,
    is_open: bool,
    /// Lines to send when the next connection is open, oldest first.
    unsent: VecDeque<String>,
    /// The error that ended the client.
    error: Option<CloseReason>,
}

impl Client {
    /// Sends a line, or keeps it for the next connection. Does not send during a connect: if the
    /// connect failed, the line would be lost.
    fn send(&mut self, cx: &mut Context<'_, Self>, line: String) {
        match self.server.conn().filter(|_| self.is_open) {
            Some(conn) if cx.send(conn, line.as_bytes()).is_ok() => {}
            _ => {
                self.unsent.push_back(line);
                if self.unsent.len() > UNSENT_MAX {
                    self.unsent.pop_front();
                }
            }
        }
    }
}

impl Handler for Client {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: Origin) {
        eprintln!("connected");
        self.is_open = true;
        for line in std::mem::take(&mut self.unsent) {
            self.send(cx, line);
        }
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, _: ConnId, _: &mut (), frame: &[u8]) {
        if let Err(error) = writeln!(io::stdout(), "{}", String::from_utf8_lossy(frame)) {
            self.error = Some(CloseReason::Io(error));
            cx.stop();
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: (), closed: Closed) {
        self.is_open = false;
        match self.server.on_close(cx, conn, &closed) {
            Some(delay) => eprintln!(
                "{}; connecting again in {} ms",
                closed.reason,
                delay.as_millis()
            ),
            None if cx.is_shutting_down() => {}
            None => {
                // The address is invalid.
                self.error = Some(closed.reason);
                cx.stop();
            }
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: TimerId, _: u64) {
        self.server.on_timer(cx, timer, ());
    }
}

/// Reads standard input and posts each line to the reactor. Runs in its own thread, because
/// reading standard input blocks.
fn read_lines(remote: &Remote<Client>) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line?;
        let send = move |client: &mut Client, cx: &mut Context<'_, Client>| client.send(cx, line);
        if let Err(PostError::Closed(_)) = remote.post(send) {
            break;
        }
    }
    remote.shutdown(Duration::from_secs(1))
}

/// Returns the address of the server, and the file of trusted certificates if TLS is wanted.
fn parse_options(mut args: lexopt::Parser) -> Result<(String, Option<String>), cli::Failure> {
    use lexopt::prelude::*;

    let (mut addr, mut trusted) = (None, None);
    while let Some(arg) = args.next()? {
        match arg {
            Long("tls") => trusted = Some(cli::text(args.value()?)?),
            Value(value) if addr.is_none() => addr = Some(cli::text(value)?),
            arg => return Err(cli::unexpected(arg)),
        }
    }
    let addr = addr.unwrap_or_else(|| "127.0.0.1:7002".to_owned());
    Ok((addr, trusted))
}

fn main() -> ExitCode {
    cli::run("client", HELP, |args| {
        let (addr, trusted) = parse_options(args)?;
        let mut options = ConnectOptions::new();
        if let Some(file) = trusted {
            let (config, name) = tls::client(&file, &addr)?;
            options = options.tls(config, name);
        }
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut reactor = Reactor::new(Client {
            server: Reconnect::new(addr.clone(), Framing::line(), backoff).options(options),
            is_open: false,
            unsent: VecDeque::new(),
            error: None,
        })?;
        reactor.shutdown_on_signals(Duration::from_secs(1))?;
        reactor.with(|client, cx| client.server.open(cx, ()));
        let remote = reactor.remote();
        thread::spawn(move || read_lines(&remote));
        reactor.run()?;
        match reactor.into_handler().error {
            Some(CloseReason::ConnectFailed(error)) => Err(cli::at("connect to", addr, &error)),
            Some(reason) => Err(cli::Failure::Runtime(reason.to_string())),
            None => Ok(()),
        }
    })
}
