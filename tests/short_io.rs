//! A kernel at its worst: short reads, short writes, calls that are cut by signals or would block,
//! accepts that fail, and connections that cannot be set up.
//!
//! A library that stands before the C library (`short_io/shim.c`) makes it so for a process of its
//! own, the echo example. Its report at the end shows that it did.

#![cfg(target_os = "linux")]

#[path = "common/child.rs"]
mod child;
mod common;

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use child::Echo;
use common::{DEADLINE, Event, Probe, Random, drive, frame, listening, round_trip};
use unstick::{Config, Framing};

const SEED: u64 = 20_260_101;

/// Where the shim is compiled to, once; `None` where there is no C compiler.
fn shim() -> Option<&'static Path> {
    static SHIM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let compile = || {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/short_io/shim.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libshim.so");
        // Compiled aside and moved: another run may be using the one that is there.
        let fresh = library.with_extension(format!("{}", std::process::id()));
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
            .args([&fresh, Path::new(source)])
            .args(["-ldl"])
            .status();
        match compiled {
            Ok(status) if status.success() => {
                fs::rename(&fresh, &library).expect("the folder is this test's own");
                Some(library)
            }
            failed => {
                println!("skipped: the shim cannot be compiled with cc ({failed:?})");
                None
            }
        }
    };
    SHIM.get_or_init(compile).as_deref()
}

/// The echo example on the shim.
struct Shimmed {
    echo: Echo,
    report: PathBuf,
    log: PathBuf,
}

impl Shimmed {
    /// `name` is that of the test, as tests run side by side.
    fn start(name: &str, args: &[&str], env: &[(&str, &str)]) -> Option<Self> {
        let shim = shim()?.to_str().expect("a path in UTF-8");
        let file = |suffix| Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{suffix}"));
        let (report, log) = (file("report"), file("log"));
        let seed = SEED.to_string();
        println!("seed {SEED}, {args:?} {env:?}");
        let mut all = vec![
            ("LD_PRELOAD", shim),
            ("SHIM_SEED", &seed),
            ("SHIM_REPORT", report.to_str().expect("a path in UTF-8")),
        ];
        all.extend(env);
        let echo = Echo::start(args, &all, Some(&log)).expect("it starts");
        Some(Self { echo, report, log })
    }

    /// What it says of itself, and how often the shim did what.
    fn end(self) -> (String, HashMap<String, u64>) {
        let totals = self.echo.end();
        let report = fs::read_to_string(&self.report).expect("the shim reports at the end");
        let counts = report.lines().map(|line| {
            let (what, count) = line.split_once(' ').expect("a name and a number");
            (what.to_owned(), count.parse().expect("a number"))
        });
        (totals, counts.collect())
    }

    fn addr(&self) -> SocketAddr {
        self.echo.addrs[0]
    }

    fn log_lines(&self) -> usize {
        fs::read_to_string(&self.log)
            .expect("it is there")
            .lines()
            .count()
    }
}

/// The next frame: mostly short, now and then as long as the limit allows; no byte of it ends a
/// line.
fn next_frame(random: &mut Random, framing: &str) -> Vec<u8> {
    let len = match random.below(100) {
        0 => 1 << 20,
        1..10 => random.below(100_000),
        10..50 => random.below(5000),
        _ => random.below(100),
    };
    let mut payload = random.bytes(len);
    if framing == "line" {
        payload.iter_mut().for_each(|byte| *byte |= 0x20);
    }
    frame(framing, &payload)
}

/// Sends at least `len` bytes of frames, and compares what comes back byte by byte.
fn echo_exactly(mut stream: TcpStream, framing: &'static str, seed: u64, len: usize) {
    let mut sender = stream.try_clone().expect("a descriptor is free");
    let writer = thread::spawn(move || {
        let (mut random, mut sent) = (Random(seed), 0);
        while sent < len {
            let frame = next_frame(&mut random, framing);
            sender.write_all(&frame).expect("the server reads");
            sent += frame.len();
        }
        sender
            .shutdown(std::net::Shutdown::Write)
            .expect("it is open");
    });
    let (mut random, mut received) = (Random(seed), 0);
    while received < len {
        let expected = next_frame(&mut random, framing);
        let mut frame = vec![0; expected.len()];
        stream.read_exact(&mut frame).expect("the server echoes");
        assert!(frame == expected, "at byte {received} of seed {seed}");
        received += frame.len();
    }
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("then it ends");
    assert!(rest.is_empty(), "{} bytes too many", rest.len());
    writer.join().expect("it does not panic");
}

#[test]
fn an_echo_is_exact_under_short_reads_short_writes_signals_and_refusals() {
    const CLIENTS: u64 = 4;
    const LEN: usize = 4 << 20;
    for framing in ["u32", "line"] {
        let name = format!("exact-{framing}");
        let args = ["--tcp", "127.0.0.1:0", "--framing", framing];
        let env = [
            ("SHIM_SHORT_PERCENT", "98"),
            ("SHIM_EINTR_PERCENT", "10"),
            ("SHIM_BLOCK_PERCENT", "10"),
        ];
        let Some(server) = Shimmed::start(&name, &args, &env) else {
            return;
        };
        let clients: Vec<_> = (0..CLIENTS)
            .map(|index| {
                let stream = common::client(server.addr());
                thread::spawn(move || echo_exactly(stream, framing, SEED + index, LEN))
            })
            .collect();
        for client in clients {
            client.join().expect("every byte comes back");
        }
        let (totals, did) = server.end();
        println!("{did:?}\n{totals}");
        assert!(
            totals.contains("lost 0 bytes unsent, 0 undecoded"),
            "{totals}"
        );
        for what in ["shortened", "interrupted", "blocked"] {
            assert!(did[what] > 100, "{what}: {did:?}");
        }
    }
}

#[test]
fn datagrams_stay_whole_when_calls_are_cut_by_signals_or_refused() {
    const WINDOW: u32 = 20;
    let env = [
        ("SHIM_EINTR_PERCENT", "30"),
        ("SHIM_BLOCK_PERCENT", "30"),
        ("SHIM_SHORT_PERCENT", "30"),
    ];
    let args = ["--udp", "127.0.0.1:0"];
    let Some(server) = Shimmed::start("datagrams", &args, &env) else {
        return;
    };
    let client = udp_client();
    let mut random = Random(SEED);
    for round in 0..100_u32 {
        let sent: Vec<Vec<u8>> = (0..WINDOW)
            .map(|index| {
                let len = random.below(3000);
                let mut payload = random.bytes(len);
                payload.extend((round * WINDOW + index).to_be_bytes());
                payload
            })
            .collect();
        for payload in &sent {
            client.send_to(payload, server.addr()).expect("it is local");
        }
        let mut buf = [0; 4096];
        for payload in &sent {
            let len = client.recv(&mut buf).expect("each is echoed");
            assert!(buf[..len] == payload[..], "whole and in order");
        }
    }
    let (totals, did) = server.end();
    assert!(totals.contains("0 datagrams\n"), "none was lost: {totals}");
    assert!(did["interrupted"] > 100 && did["blocked"] > 100, "{did:?}");
}

/// A shutdown while answers wait for a kernel that takes one in a hundred.
#[test]
fn a_udp_socket_that_is_closed_sends_what_the_kernel_has_refused_so_far() {
    let env = [("SHIM_BLOCK_PERCENT", "99")];
    let args = ["--udp", "127.0.0.1:0"];
    let Some(server) = Shimmed::start("closing", &args, &env) else {
        return;
    };
    let client = udp_client();
    for index in 0..100_u32 {
        client
            .send_to(&index.to_be_bytes(), server.addr())
            .expect("it is local");
    }
    // By the first answer it has taken all that a turn takes, and has answers queued.
    let mut buf = [0; 16];
    let mut receive = || {
        let len = client.recv(&mut buf).expect("each is echoed");
        u32::from_be_bytes(buf[..len].try_into().expect("four bytes"))
    };
    assert_eq!(receive(), 0);
    let (totals, did) = server.end();
    let answered = word_before(&totals, " datagrams (");
    assert!(did["blocked"] > 0, "{did:?}");
    assert!(totals.contains("0 datagrams\n"), "none was lost: {totals}");
    for index in 1..answered.parse().expect("a number") {
        assert_eq!(receive(), index);
    }
}

fn udp_client() -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    client
        .set_read_timeout(Some(DEADLINE))
        .expect("a timeout can be set");
    client
}

fn word_before<'a>(text: &'a str, mark: &str) -> &'a str {
    let (before, _) = text.split_once(mark).expect("the totals");
    before.rsplit(' ').next().expect("a word")
}

/// Each connection is accepted at the third try. No further client comes while one waits, so
/// nothing but the reactor itself can try again.
#[test]
fn accepting_goes_on_after_every_error_of_accept() {
    const CLIENTS: usize = 5;
    let errnos = [
        ("ECONNABORTED", 103),
        ("EPROTO", 71),
        ("ENETDOWN", 100),
        ("EHOSTUNREACH", 113),
        ("ETIMEDOUT", 110),
        ("EPERM", 1),
        ("EMFILE", 24),
        ("ENFILE", 23),
        ("ENOBUFS", 105),
        ("ENOMEM", 12),
    ];
    for (name, errno) in errnos {
        let schedule = format!("{errno},{errno},0");
        let args = ["--tcp", "127.0.0.1:0"];
        let env = [("SHIM_ACCEPT", &schedule[..])];
        let Some(server) = Shimmed::start(&format!("accept-{name}"), &args, &env) else {
            return;
        };
        for index in 0..CLIENTS {
            let mut client = common::client(server.addr());
            let echoed = round_trip(&mut client, &index.to_be_bytes());
            assert_eq!(echoed, index.to_be_bytes(), "after {name}");
        }
        let (totals, did) = server.end();
        assert!(totals.contains(&format!("served {CLIENTS} connections")));
        assert!(did["accept"] >= 2 * CLIENTS as u64, "{name}: {did:?}");
    }
}

/// Every other connection cannot be watched, and is dropped; what is left of it is nothing.
#[test]
fn a_connection_that_cannot_be_watched_leaves_no_descriptor_behind() {
    const CLIENTS: usize = 40;
    let env = [("SHIM_EPOLL_EVERY", "2")];
    let args = ["--tcp", "127.0.0.1:0"];
    let Some(server) = Shimmed::start("watch", &args, &env) else {
        return;
    };
    let base = server.echo.descriptors();
    let begun = Instant::now();
    let mut served = Vec::new();
    for index in 0..CLIENTS {
        let mut client = common::client(server.addr());
        let message = frame("u32", &index.to_be_bytes());
        let mut echoed = vec![0; message.len()];
        // Whoever is dropped sees its end, or a reset that came before its bytes.
        let result = client
            .write_all(&message)
            .and_then(|()| client.read_exact(&mut echoed));
        match result {
            Ok(()) => {
                assert_eq!(echoed, message);
                served.push(client);
            }
            Err(error) => assert!(
                [
                    ErrorKind::UnexpectedEof,
                    ErrorKind::ConnectionReset,
                    ErrorKind::BrokenPipe
                ]
                .contains(&error.kind()),
                "{error}"
            ),
        }
    }
    assert_eq!(served.len(), CLIENTS / 2);
    wait_for_descriptors(&server, base + CLIENTS / 2);
    let seconds = usize::try_from(begun.elapsed().as_secs()).expect("not long");
    let lines = server.log_lines();
    assert!(
        (1..=1 + seconds).contains(&lines),
        "{lines} lines of log in {seconds} seconds"
    );
    drop(served);
    wait_for_descriptors(&server, base);
    let (totals, did) = server.end();
    assert_eq!(did["epoll"], CLIENTS as u64 / 2);
    assert!(totals.contains(&format!("served {} connections", CLIENTS / 2)));
}

/// An option that cannot be set is no reason to lose a connection.
#[test]
fn a_connection_whose_options_cannot_be_set_is_served_and_closed_like_any_other() {
    const CLIENTS: usize = 20;
    let env = [("SHIM_SETSOCKOPT_EVERY", "1")];
    let args = ["--tcp", "127.0.0.1:0"];
    let Some(server) = Shimmed::start("options", &args, &env) else {
        return;
    };
    let base = server.echo.descriptors();
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| common::client(server.addr()))
        .collect();
    for client in &mut clients {
        assert_eq!(round_trip(client, b"slowly"), b"slowly");
    }
    assert_eq!(server.echo.descriptors(), base + CLIENTS);
    drop(clients);
    wait_for_descriptors(&server, base);
    let (_, did) = server.end();
    assert!(did["setsockopt"] >= CLIENTS as u64, "{did:?}");
}

fn wait_for_descriptors(server: &Shimmed, wanted: usize) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let open = server.echo.descriptors();
        if open == wanted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{open} descriptors are open and not {wanted}"
        );
        thread::yield_now();
    }
}

/// The one short read that every kernel makes though more bytes are there: it stops at a byte of
/// urgent data (tcp(7)). What lies behind it makes no edge of its own.
#[test]
fn frames_behind_urgent_data_need_no_further_traffic() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let mut client = common::client(addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    reactor.turn(Some(Duration::ZERO)).expect("the poll works");

    client
        .write_all(&frame("u32", b"before"))
        .expect("it is local");
    socket2::SockRef::from(&client)
        .send_out_of_band(b"!")
        .expect("it is local");
    client
        .write_all(&frame("u32", b"behind"))
        .expect("it is local");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 2);
    let frames = |event: &Event| matches!(event, Event::Frame(..));
    assert_eq!(reactor.handler().count(frames), 2);
    assert_eq!(reactor.handler().frames(), [b"before", b"behind"]);
}
