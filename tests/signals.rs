//! Signals that shut a reactor down, and signals that are reported to the handler. A shutdown first
//! sends the queued output, unless a second signal arrives.

#![cfg(all(unix, feature = "signals"))]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{DEADLINE, Event, Probe, drive, listening};
use unstick::{CloseReason, Config, Framing, Reactor, Signal};

/// Length of a payload in bytes. It exceeds the kernel's buffers, so a peer that does not read
/// leaves output in the write queue.
const PAYLOAD_LEN: usize = 12 << 20;

/// Runs the program under test, which sends a long frame to its first client and ends on a signal.
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

/// A running program under test.
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

    /// Returns the text after `start` in the next output line that starts with `start`.
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

/// Waits until connects are refused, because then the first signal was handled.
fn until_refused(addr: SocketAddr) {
    let end = Instant::now() + DEADLINE;
    while TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_ok() {
        assert!(Instant::now() < end, "the first signal was not handled");
    }
}

/// Sends signals to this process, and waits until each signal is delivered. To detect the delivery,
/// a new reactor catches the signal after all other reactors. When the new reactor reports the
/// signal, the other reactors have received it, too.
fn raise(signals: &[Signal]) {
    let pid = std::process::id().to_string();
    for &signal in signals {
        let mut last = reactor();
        catch(&mut last, signal);
        let number = format!("-{}", signal.as_raw());
        let status = Command::new("kill").args([&number, &pid]).status();
        assert!(status.expect("the kill command can be started").success());
        drive(&mut last, |reactor| reported(reactor) == [signal]);
    }
}

fn reactor() -> Reactor<Probe> {
    Reactor::new(Probe::silent()).expect("the reactor is created")
}

fn catch(reactor: &mut Reactor<Probe>, signal: Signal) {
    reactor
        .with(|_, cx| cx.catch_signal(signal))
        .expect("the signal can be caught");
}

fn reported(reactor: &Reactor<Probe>) -> Vec<Signal> {
    let events = reactor.handler().events.iter();
    let mut signals: Vec<_> = events
        .filter_map(|event| match event {
            Event::Signal(signal) => Some(*signal),
            _ => None,
        })
        .collect();
    signals.sort_unstable();
    signals
}

/// Runs a test again in a child process, because signals belong to the process. Returns true in the
/// parent, which has nothing more to do.
fn has_run_in_child(test: &str) -> bool {
    if common::is_child() {
        return false;
    }
    let output = common::rerun(test).output();
    let output = output.expect("the test binary starts again");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("1 passed"), "{stdout}");
    true
}

#[test]
fn caught_signals_are_callbacks_of_every_reactor() {
    if has_run_in_child("caught_signals_are_callbacks_of_every_reactor") {
        return;
    }
    let (mut first, mut second) = (reactor(), reactor());
    catch(&mut first, Signal::SIGUSR1);
    catch(&mut first, Signal::SIGUSR1);
    catch(&mut first, Signal::SIGUSR2);
    catch(&mut second, Signal::SIGUSR1);
    // A real-time signal (signal(7)).
    #[cfg(target_os = "linux")]
    catch(&mut second, Signal::from_raw(40));
    // Several signals of one kind that arrive before the callback are reported once.
    raise(&[
        Signal::SIGUSR1,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGUSR1,
    ]);
    drive(&mut first, |reactor| reported(reactor).len() == 2);
    assert_eq!(reported(&first), [Signal::SIGUSR1, Signal::SIGUSR2]);
    drive(&mut second, |reactor| reported(reactor).len() == 1);
    raise(&[Signal::SIGUSR1]);
    drive(&mut first, |reactor| reported(reactor).len() == 3);
    #[cfg(target_os = "linux")]
    {
        raise(&[Signal::from_raw(40)]);
        drive(&mut second, |reactor| reported(reactor).len() == 3);
        assert_eq!(reported(&second)[2].as_raw(), 40);
    }
    assert!(!first.is_shut_down());
    assert_eq!(first.next_turn_in(), None);
}

#[test]
fn catch_signal_takes_a_signal_from_the_shutdown() {
    if has_run_in_child("catch_signal_takes_a_signal_from_the_shutdown") {
        return;
    }
    let mut reactor = reactor();
    catch(&mut reactor, Signal::SIGINT);
    reactor
        .shutdown_on_signals(DEADLINE)
        .expect("the signals can be caught");
    catch(&mut reactor, Signal::SIGHUP);
    raise(&[Signal::SIGHUP, Signal::SIGINT]);
    drive(&mut reactor, |reactor| reported(reactor).len() == 2);
    assert!(!reactor.is_shut_down());
    raise(&[Signal::SIGTERM]);
    drive(&mut reactor, Reactor::is_shut_down);
    assert_eq!(reported(&reactor), [Signal::SIGHUP, Signal::SIGINT]);
}

/// Two signals arrive before a turn, so one turn handles both.
#[test]
fn second_signal_of_the_same_turn_aborts() {
    if has_run_in_child("second_signal_of_the_same_turn_aborts") {
        return;
    }
    for signals in [
        [Signal::SIGTERM, Signal::SIGTERM],
        [Signal::SIGTERM, Signal::SIGINT],
    ] {
        let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
        reactor
            .shutdown_on_signals(10 * DEADLINE)
            .expect("the signals can be caught");
        let (_client, _) = common::open(&mut reactor, addr);
        raise(&signals);
        drive(&mut reactor, Reactor::is_shut_down);
        let reason = &reactor.handler().only_close().reason;
        assert!(matches!(reason, CloseReason::Shutdown), "{reason}");
    }
}

#[test]
fn signals_that_cannot_be_caught_are_errors() {
    for number in [9, 19, 4, 8, 11, 0, -1, i32::MIN, 10_000, i32::MAX] {
        let caught = reactor().with(|_, cx| cx.catch_signal(Signal::from_raw(number)));
        let error = caught.expect_err("the crate cannot catch this signal");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{number}");
    }
    assert_eq!(Signal::from_raw(9).to_string(), "SIGKILL");
    assert_eq!(Signal::from_raw(-1).to_string(), "signal -1");
}

#[test]
fn panic_in_on_signal_loses_no_other_signal() {
    if has_run_in_child("panic_in_on_signal_loses_no_other_signal") {
        return;
    }
    let mut count = 0;
    let probe = Probe::new(move |_, event| {
        count += u32::from(matches!(event, Event::Signal(_)));
        assert!(count != 1, "panic raised by the handler");
    });
    let mut reactor = Reactor::new(probe).expect("the reactor is created");
    catch(&mut reactor, Signal::SIGUSR1);
    catch(&mut reactor, Signal::SIGUSR2);
    raise(&[Signal::SIGUSR1, Signal::SIGUSR2]);
    let turn = std::panic::AssertUnwindSafe(|| reactor.turn(None));
    std::panic::catch_unwind(turn).expect_err("the callback panics");
    assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO));
    reactor.turn(None).expect("polling succeeds");
    assert_eq!(reported(&reactor).len(), 1);
}

/// The descriptors of each signal are closed with the reactor, also after a failed `catch_signal`.
#[test]
#[cfg(target_os = "linux")]
fn signals_leak_no_descriptor() {
    if has_run_in_child("signals_leak_no_descriptor") {
        return;
    }
    let descriptors = || {
        let open = std::fs::read_dir("/proc/self/fd").expect("proc is mounted");
        open.count()
    };
    let before = descriptors();
    for _ in 0..3 {
        let mut reactor = reactor();
        let _ = reactor.with(|_, cx| cx.catch_signal(Signal::from_raw(10_000)));
        let own = descriptors();
        reactor
            .shutdown_on_signals(DEADLINE)
            .expect("the signals can be caught");
        assert_eq!(descriptors(), own + 6, "each signal has two descriptors");
        drop(reactor);
        assert_eq!(descriptors(), before);
    }
    raise(&[Signal::SIGTERM]);
}
