//! Signals that end a program: what is queued is sent first, unless a second one comes.

#![cfg(all(unix, feature = "signals"))]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{DEADLINE, Event, Probe, listening};
use unstick::{Config, Framing};

/// More than the kernel takes for a peer that does not read.
const PAYLOAD_LEN: usize = 12 << 20;

/// The program: it sends its first client a long frame, and ends by a signal.
fn serve() {
    let mut is_first = true;
    let probe = Probe::new(move |cx, event| {
        if let Event::Open(conn, _) = event
            && std::mem::take(&mut is_first)
        {
            assert!(cx.send(*conn, &vec![7; PAYLOAD_LEN]).is_ok());
        }
    });
    let framing = Framing::length_u32().frame_len_max(PAYLOAD_LEN);
    let mut config = Config::default();
    config.close_deadline = 10 * DEADLINE;
    let (mut reactor, addr) = listening(probe, config, framing);
    reactor
        .shutdown_on_signals(10 * DEADLINE)
        .expect("nobody catches them yet");
    let again = reactor.shutdown_on_signals(DEADLINE);
    let kind = again.expect_err("they are caught").kind();
    assert_eq!(kind, std::io::ErrorKind::AlreadyExists);
    println!("\nlistening {addr}");
    reactor.run().expect("the poll works");
    println!("\nunsent {}", reactor.stats().unsent_bytes);
}

struct Program {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Program {
    fn start(test: &str) -> (Self, SocketAddr) {
        let mut child = common::rerun(test)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it can be run again");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut program = Self { child, stdout };
        let addr = program.said("listening ");
        (program, addr.parse().expect("an address"))
    }

    /// The rest of the next line that begins so.
    fn said(&mut self, start: &str) -> String {
        let lines = self.stdout.by_ref().lines();
        let mut lines = lines.map(|line| line.expect("it is text"));
        let line = lines.find_map(|line| line.strip_prefix(start).map(str::to_owned));
        line.expect("it says so before it ends")
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status();
        assert!(status.expect("kill is there").success());
    }

    /// How many bytes it did not send; it has ended without an error.
    fn end(mut self) -> usize {
        let unsent = self.said("unsent ").parse().expect("a number");
        assert!(self.child.wait().expect("it ends").success());
        unsent
    }
}

/// A client that has read no more than a header.
fn stalled_client(addr: SocketAddr) -> TcpStream {
    let mut client = common::client(addr);
    let mut header = [0; 4];
    client.read_exact(&mut header).expect("a header");
    assert_eq!(u32::from_be_bytes(header) as usize, PAYLOAD_LEN);
    client
}

#[test]
fn sigterm_and_sigint_flush_what_is_queued() {
    const NAME: &str = "sigterm_and_sigint_flush_what_is_queued";
    if common::is_child() {
        return serve();
    }
    for signal in ["-TERM", "-INT"] {
        let (program, addr) = Program::start(NAME);
        let mut client = stalled_client(addr);
        program.signal(signal);
        until_refused(addr);
        let mut rest = Vec::new();
        client
            .read_to_end(&mut rest)
            .expect("all of it, and the end");
        assert_eq!(rest.len(), PAYLOAD_LEN);
        drop(client);
        assert_eq!(program.end(), 0, "nothing was lost");
    }
}

#[test]
fn a_second_signal_does_not_wait() {
    const NAME: &str = "a_second_signal_does_not_wait";
    if common::is_child() {
        return serve();
    }
    let (program, addr) = Program::start(NAME);
    let client = stalled_client(addr);
    program.signal("-TERM");
    until_refused(addr);
    program.signal("-TERM");
    assert!(program.end() > 0, "the client has read next to nothing");
    drop(client);
}

/// Nobody listens any more: the first signal was heard.
fn until_refused(addr: SocketAddr) {
    let end = Instant::now() + DEADLINE;
    while TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_ok() {
        assert!(Instant::now() < end, "the signal was not heard");
    }
}
