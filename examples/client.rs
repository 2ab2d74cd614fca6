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

use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::thread;
use std::time::Duration;

use unstick::{
    Backoff, CloseReason, Closed, ConnId, ConnectOptions, Context, Framing, Handler, Origin,
    Reactor, Reconnect, Remote, SendError, TimerId,
};

const HELP: &str = "\
A client for lines that connects again when its connection ends.

Usage: client [ADDR] [--tls FILE]

  ADDR        address of the server (HOST:PORT, default 127.0.0.1:7002)
  --tls FILE  encrypt with TLS, and trust the certificates of this PEM file
  -h, --help  print this help

Sends each line of standard input, and prints each received line. At the end of the
input, the client sends the waiting lines and ends.";

/// Maximum number of lines that wait to be sent. At this number, the client stops reading its
/// input.
const WAITING_MAX: usize = 100;

/// Maximum time that the client waits, at its end, for the server to read the sent lines and close.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// A line of the input, or the error that ended the input.
type Input = io::Result<Vec<u8>>;

struct Client {
    server: Reconnect<String>,
    is_open: bool,
    input: Receiver<Input>,
    /// The line to send next, if the connection did not accept it.
    unsent: Option<Vec<u8>>,
    /// The error that ended the client.
    error: Option<CloseReason>,
}

impl Client {
    /// Sends the waiting lines in their order, and shuts down after the last line of the input.
    /// Does not send during a connect: if the connect failed, the line would be lost.
    fn send_lines(&mut self, cx: &mut Context<'_, Self>) {
        loop {
            let next = self.unsent.take().map(|line| Ok(Ok(line)));
            let line = match next.unwrap_or_else(|| self.input.try_recv()) {
                Ok(Ok(line)) => line,
                Ok(Err(error)) => {
                    self.error = Some(CloseReason::Io(error));
                    return cx.stop();
                }
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => return cx.shutdown(SHUTDOWN_DEADLINE),
            };
            let conn = self.server.conn().filter(|_| self.is_open);
            match conn.map(|conn| cx.send(conn, &line)) {
                Some(Ok(_)) => {}
                Some(Err(SendError::Frame(error))) => eprintln!("a line is not sent: {error}"),
                // `on_open` or `on_drained` sends the line.
                Some(Err(_)) | None => {
                    self.unsent = Some(line);
                    return;
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
        self.send_lines(cx);
    }

    fn on_drained(&mut self, cx: &mut Context<'_, Self>, _: ConnId, _: &mut ()) {
        self.send_lines(cx);
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, _: ConnId, _: &mut (), frame: &[u8]) {
        if let Err(error) = writeln!(io::stdout(), "{}", String::from_utf8_lossy(frame)) {
            self.error = Some(CloseReason::Io(error));
            cx.stop();
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: (), closed: Closed) {
        self.is_open = false;
        if closed.unsent_bytes > 0 {
            eprintln!("lost {} bytes that were not sent", closed.unsent_bytes);
        }
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

/// Passes each line of standard input to the reactor. Runs in its own thread, because reading
/// standard input blocks.
fn read_lines(lines: SyncSender<Input>, remote: &Remote<Client>) {
    // If the queue of posts is full, an earlier post sends the line.
    let wake = || drop(remote.post(Client::send_lines));
    for line in io::stdin().lock().split(b'\n') {
        let line = line.map(|line| line.strip_suffix(b"\r").unwrap_or(&line).to_vec());
        // Waits while the channel is full. Fails if the client has ended.
        if lines.send(line).is_err() {
            return;
        }
        wake();
    }
    drop(lines); // the end of the input
    wake();
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
        let (lines, input) = mpsc::sync_channel(WAITING_MAX);
        let mut reactor = Reactor::new(Client {
            server: Reconnect::new(addr.clone(), Framing::line(), backoff).options(options),
            is_open: false,
            input,
            unsent: None,
            error: None,
        })?;
        reactor.shutdown_on_signals(Duration::from_secs(1))?;
        reactor.with(|client, cx| client.server.open(cx, ()));
        let remote = reactor.remote();
        thread::spawn(move || read_lines(lines, &remote));
        reactor.run()?;
        match reactor.into_handler().error {
            Some(CloseReason::ConnectFailed(error)) => Err(cli::at("connect to", addr, &error)),
            Some(reason) => Err(cli::Failure::Runtime(reason.to_string())),
            None => Ok(()),
        }
    })
}
