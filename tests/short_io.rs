//! System calls that fail or transfer few bytes: short reads, short writes, `EINTR`, `EAGAIN`,
//! failing `accept`, and connections whose setup fails.
//!
//! A preloaded library (`short_io/shim.c`) wraps the C library's calls in a child process, the echo
//! example. Its report at exit shows the number of injected faults.

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
use common::udp::peer;
use common::{DEADLINE, Probe, Random, drive, frame, listening, round_trip};
use unstick::{Config, Framing, Reactor, UnixAddr};

const SEED: u64 = 20_260_101;

/// Compiles the shim once and returns its path; `None` if there is no C compiler.
fn shim() -> Option<&'static Path> {
    static SHIM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let compile = || {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/short_io/shim.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libshim.so");
        // The shim is compiled under another name and then renamed, because another test run may be
        // using the old file.
        let fresh = library.with_extension(format!("{}", std::process::id()));
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
            .args([&fresh, Path::new(source)])
            .args(["-ldl"])
            .status();
        match compiled {
            Ok(status) if status.success() => {
                fs::rename(&fresh, &library).expect("the target folder is writable");
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

/// Sends a frame and a datagram over sockets of one address family, and waits for their echoes. The
/// datagram of a Unix socket has no echo.
fn echo_over_one_family(addr: &str) {
    let mut reactor = Reactor::new(Probe::echo()).expect("the reactor is created");
    let [listener, client] = [Framing::length_u32(), Framing::length_u32()];
    if addr == "unix" {
        let name = |name| {
            let name = format!("unstick-family-{name}-{}", std::process::id());
            UnixAddr::from_abstract_name(name).expect("a short name")
        };
        reactor
            .listen(name("stream"), listener)
            .expect("the name is free");
        reactor.with(|_, cx| {
            let conn = cx.connect(name("stream"), client, ());
            let _ = cx.send(conn, b"ping").expect("there is space");
            let server = cx.bind_unix_datagram(Some(&name("server")));
            server.expect("the name is free");
            let socket = cx.bind_unix_datagram(None).expect("a socket opens");
            cx.send_unix_datagram(socket, Some(&name("server")), b"ping")
                .expect("there is space");
        });
        drive(&mut reactor, |it| {
            it.stats().frames_in >= 3 && it.stats().datagrams_in == 1
        });
        return;
    }
    let listener = reactor
        .listen(addr, listener)
        .expect("a free port is available");
    let server = reactor.bind_udp(addr).expect("a free port is available");
    let [tcp, udp] = [listener.into(), server.into()].map(|socket: unstick::SocketId| {
        reactor
            .local_inet_addr(socket)
            .expect("the socket is bound")
    });
    reactor.with(|_, cx| {
        let conn = cx.connect(tcp, client, ());
        let _ = cx.send(conn, b"ping").expect("there is space");
        let socket = cx.bind_udp(addr).expect("a free port is available");
        cx.connect_udp(socket, udp)
            .expect("a connect of UDP is local");
        cx.send_datagram(socket, b"ping").expect("there is space");
    });
    drive(&mut reactor, |it| {
        it.stats().frames_in >= 3 && it.stats().datagrams_in >= 3
    });
    assert_eq!(reactor.stats().datagram_errors, 0);
}

/// A sandbox may allow only one address family (systemd's `RestrictAddressFamilies`).
#[test]
fn one_address_family_is_enough() {
    if let Ok(addr) = std::env::var("UNSTICK_TEST_ADDR") {
        env_logger::init_from_env(env_logger::Env::default().default_filter_or("warn"));
        return echo_over_one_family(&addr);
    }
    let Some(shim) = shim() else { return };
    let has_v6 = UdpSocket::bind("[::1]:0").is_ok();
    for (family, addr) in [("1", "unix"), ("2", "127.0.0.1:0"), ("10", "[::1]:0")] {
        if family == "10" && !has_v6 {
            println!("skipped: the loopback interface has no IPv6 address");
            continue;
        }
        let output = common::rerun("one_address_family_is_enough")
            .env("LD_PRELOAD", shim)
            .envs([("SHIM_FAMILY", family), ("UNSTICK_TEST_ADDR", addr)])
            .output()
            .expect("the test binary starts again");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{addr}: {log}");
        assert!(!log.contains("WARN"), "{addr} works, but in part: {log}");
    }
}

/// The echo example, running with the shim.
struct Shimmed {
    echo: Echo,
    report: PathBuf,
    log: PathBuf,
}

impl Shimmed {
    /// Starts the example; `name` is unique to the test, because tests run in parallel. Returns
    /// `None` if the shim cannot be compiled.
    fn start(name: &str, args: &[&str], env: &[(&str, &str)]) -> Option<Self> {
        let shim = shim()?.to_str().expect("the path is UTF-8");
        let file = |suffix| Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{suffix}"));
        let (report, log) = (file("report"), file("log"));
        let seed = SEED.to_string();
        println!("seed {SEED}, {args:?} {env:?}");
        let mut all = vec![
            ("LD_PRELOAD", shim),
            ("SHIM_SEED", &seed),
            ("SHIM_REPORT", report.to_str().expect("the path is UTF-8")),
        ];
        all.extend(env);
        let echo = Echo::start(args, &all, Some(&log)).expect("the example starts");
        Some(Self { echo, report, log })
    }

    /// Ends the example. Returns its totals, and the number of injected faults by kind.
    fn end(self) -> (String, HashMap<String, u64>) {
        let totals = self.echo.end();
        let report = fs::read_to_string(&self.report).expect("the shim writes its report at exit");
        let counts = report.lines().map(|line| {
            let (kind, count) = line
                .split_once(' ')
                .expect("the line has a name and a number");
            (
                kind.to_owned(),
                count.parse().expect("the text is a number"),
            )
        });
        (totals, counts.collect())
    }

    fn addr(&self) -> SocketAddr {
        self.echo.addrs[0]
    }

    fn log_lines(&self) -> usize {
        fs::read_to_string(&self.log)
            .expect("the log file exists")
            .lines()
            .count()
    }
}

/// Returns the next frame: mostly short, sometimes of the maximum length. With `line`, no payload
/// byte is a line end.
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

/// Sends at least `len` bytes of frames, and compares the echo byte by byte.
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
            .expect("the connection is open");
    });
    let (mut random, mut received) = (Random(seed), 0);
    while received < len {
        let expected = next_frame(&mut random, framing);
        let mut frame = vec![0; expected.len()];
        stream.read_exact(&mut frame).expect("the server echoes");
        assert!(
            frame == expected,
            "the echo differs in the frame at byte {received}, seed {seed}"
        );
        received += frame.len();
    }
    let mut rest = Vec::new();
    stream
        .read_to_end(&mut rest)
        .expect("the stream ends without a reset");
    assert!(
        rest.is_empty(),
        "{} bytes follow the last frame",
        rest.len()
    );
    writer.join().expect("the writer does not panic");
}

#[test]
fn echo_is_exact_with_short_io_eintr_and_would_block() {
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
        let (totals, faults) = server.end();
        println!("{faults:?}\n{totals}");
        assert!(
            totals.contains("lost 0 bytes unsent, 0 undecoded"),
            "{totals}"
        );
        for kind in ["shortened", "interrupted", "blocked"] {
            assert!(faults[kind] > 100, "{kind}: {faults:?}");
        }
    }
}

#[test]
fn datagrams_stay_whole_with_eintr_and_would_block() {
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
    let client = peer();
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
            client
                .send_to(payload, server.addr())
                .expect("the kernel accepts the bytes");
        }
        let mut buf = [0; 4096];
        for payload in &sent {
            let len = client.recv(&mut buf).expect("each datagram is echoed");
            assert!(
                buf[..len] == payload[..],
                "an echo differs from the datagram that was sent"
            );
        }
    }
    let (totals, faults) = server.end();
    assert!(
        totals.contains("0 datagrams\n"),
        "the totals report a lost datagram: {totals}"
    );
    assert!(
        faults["interrupted"] > 100 && faults["blocked"] > 100,
        "{faults:?}"
    );
}

/// The server shuts down while replies are queued. Of 100 sends and receives, about 99 would block.
#[test]
fn closing_udp_socket_sends_datagrams_that_would_block() {
    let env = [("SHIM_BLOCK_PERCENT", "99")];
    let args = ["--udp", "127.0.0.1:0"];
    let Some(server) = Shimmed::start("closing", &args, &env) else {
        return;
    };
    let client = peer();
    for index in 0..100_u32 {
        client
            .send_to(&index.to_be_bytes(), server.addr())
            .expect("the kernel accepts the bytes");
    }
    // When the first reply arrives, further replies are probably queued, because most sends would
    // block.
    let mut buf = [0; 16];
    let mut receive = || {
        let len = client.recv(&mut buf).expect("each datagram is echoed");
        let number = buf[..len].try_into();
        u32::from_be_bytes(number.expect("the datagram has four bytes"))
    };
    assert_eq!(receive(), 0);
    let (totals, faults) = server.end();
    let received = word_before(&totals, " datagrams (");
    assert!(faults["blocked"] > 0, "{faults:?}");
    assert!(
        totals.contains("0 datagrams\n"),
        "the totals report a lost datagram: {totals}"
    );
    for index in 1..received.parse().expect("the text is a number") {
        assert_eq!(receive(), index);
    }
}

fn word_before<'a>(text: &'a str, mark: &str) -> &'a str {
    let (before, _) = text.split_once(mark).expect("the totals contain the mark");
    before.rsplit(' ').next().expect("a word precedes the mark")
}

/// The third `accept` of each connection succeeds. No further client connects meanwhile, so only
/// the reactor itself can retry.
#[test]
fn accept_continues_after_ten_kinds_of_accept_error() {
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
        let (totals, faults) = server.end();
        assert!(totals.contains(&format!("served {CLIENTS} connections")));
        assert!(faults["accept"] >= 2 * CLIENTS as u64, "{name}: {faults:?}");
    }
}

/// Every second registration with epoll fails. The server then drops the connection and must close
/// its descriptor.
#[test]
fn failed_epoll_registration_leaks_no_descriptor() {
    const CLIENTS: usize = 40;
    let env = [("SHIM_EPOLL_EVERY", "2")];
    let args = ["--tcp", "127.0.0.1:0"];
    let Some(server) = Shimmed::start("watch", &args, &env) else {
        return;
    };
    let base = server.echo.descriptors();
    let started = Instant::now();
    let mut accepted = Vec::new();
    for index in 0..CLIENTS {
        let mut client = common::client(server.addr());
        let message = frame("u32", &index.to_be_bytes());
        let mut echoed = vec![0; message.len()];
        // If the server drops the connection, the client gets an end of stream, a reset or a broken
        // pipe.
        let result = client
            .write_all(&message)
            .and_then(|()| client.read_exact(&mut echoed));
        match result {
            Ok(()) => {
                assert_eq!(echoed, message);
                accepted.push(client);
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
    assert_eq!(accepted.len(), CLIENTS / 2);
    wait_for_descriptors(&server, base + CLIENTS / 2);
    let seconds = usize::try_from(started.elapsed().as_secs()).expect("the test is short");
    let lines = server.log_lines();
    assert!(
        (1..=1 + seconds).contains(&lines),
        "{lines} log lines in {seconds} seconds"
    );
    drop(accepted);
    wait_for_descriptors(&server, base);
    let (totals, faults) = server.end();
    assert_eq!(faults["epoll"], CLIENTS as u64 / 2);
    assert!(totals.contains(&format!("served {} connections", CLIENTS / 2)));
}

/// A connection stays open if one of its socket options cannot be set.
#[test]
fn failed_setsockopt_does_not_affect_a_connection() {
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
    let (_, faults) = server.end();
    assert!(faults["setsockopt"] >= CLIENTS as u64, "{faults:?}");
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
            "{open} descriptors are open instead of {wanted}"
        );
        thread::yield_now();
    }
}

/// A read stops at urgent data, even if more bytes follow (tcp(7)). The bytes after the urgent data
/// cause no further edge, so the reactor must read again.
#[test]
fn frames_after_urgent_data_need_no_further_input() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let mut client = common::client(addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    reactor
        .turn(Some(Duration::ZERO))
        .expect("polling succeeds");

    client
        .write_all(&frame("u32", b"before"))
        .expect("the kernel accepts the bytes");
    socket2::SockRef::from(&client)
        .send_out_of_band(b"!")
        .expect("the kernel accepts the bytes");
    client
        .write_all(&frame("u32", b"after"))
        .expect("the kernel accepts the bytes");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 2);
    assert_eq!(reactor.handler().frames(), [&b"before"[..], b"after"]);
}
