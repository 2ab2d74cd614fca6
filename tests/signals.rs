//! Signals that end a program: queued output is sent first, unless a second signal arrives.

#![cfg(all(unix, feature = "signals"))]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{DEADLINE, Event, Probe, listening};
use unstick::{Config, Framing};

/// Length of a payload in bytes; it exceeds the kernel's buffers for a peer that does not read.
const PAYLOAD_LEN: usize = 12 << 20;

/// Runs the program under test: it sends a long frame to its first client and ends on a signal.
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
        .expect("no signal handler is installed yet");
    let again = reactor.shutdown_on_signals(DEADLINE);
    let kind = again.expect_err("the signals are handled already").kind();
    assert_eq!(kind, std::io::ErrorKind::AlreadyExists);
    println!("\nlistening {addr}");
    reactor.run().expect("the loop runs without an error");
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
            .expect("the test binary starts again");
        let stdout = BufReader::new(child.stdout.take().expect("the stream is piped"));
        let mut program = Self { child, stdout };
        let addr = program.line_after("listening ");
        (program, addr.parse().expect("the address is valid"))
    }

    /// Returns the rest of the next output line that starts with `start`.
    fn line_after(&mut self, start: &str) -> String {
        let lines = self.stdout.by_ref().lines();
        let mut lines = lines.map(|line| line.expect("the output is UTF-8"));
        let line = lines.find_map(|line| line.strip_prefix(start).map(str::to_owned));
        line.expect("the program prints the line before it ends")
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status();
        assert!(status.expect("the kill command can be started").success());
    }

    /// Waits for the program to end without an error. Returns the number of unsent bytes.
    fn end(mut self) -> usize {
        let unsent = self.line_after("unsent ");
        let unsent = unsent.parse().expect("the text is a number");
        assert!(
            self.child
                .wait()
                .expect("the process is a child of this one")
                .success()
        );
        unsent
    }
}

/// Connects a client and reads only the header of the frame.
fn stalled_client(addr: SocketAddr) -> TcpStream {
    let mut client = common::client(addr);
    let mut header = [0; 4];
    client
        .read_exact(&mut header)
        .expect("the frame's header arrives");
    assert_eq!(u32::from_be_bytes(header) as usize, PAYLOAD_LEN);
    client
}

#[test]
fn sigterm_and_sigint_flush_queued_output() {
    const NAME: &str = "sigterm_and_sigint_flush_queued_output";
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
            .expect("the rest of the frame and the end of the stream arrive");
        assert_eq!(rest.len(), PAYLOAD_LEN);
        drop(client);
        assert_eq!(program.end(), 0, "no byte was lost");
    }
}

#[test]
fn second_signal_stops_without_flushing() {
    const NAME: &str = "second_signal_stops_without_flushing";
    if common::is_child() {
        return serve();
    }
    let (program, addr) = Program::start(NAME);
    let client = stalled_client(addr);
    program.signal("-TERM");
    until_refused(addr);
    program.signal("-TERM");
    assert!(
        program.end() > 0,
        "the client had not read the queued output"
    );
    drop(client);
}

/// Waits until connects are refused, which shows that the first signal was handled.
fn until_refused(addr: SocketAddr) {
    let end = Instant::now() + DEADLINE;
    while TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_ok() {
        assert!(Instant::now() < end, "the first signal was not handled");
    }
}
