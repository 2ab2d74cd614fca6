//! Lifecycle of connections and reactors: open, close, shutdown, stop, drop, and reuse of slots.

mod common;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{
    DEADLINE, Event, Probe, Random, Server, client, drive, frame, listening, read_u32_frame, reset,
    round_trip, settle,
};
use unstick::{
    CloseReason, Closed, Config, ConnId, Context, Framing, Gone, Handler, Origin, PostError,
    Reactor, SendError,
};

const MIB: usize = 1 << 20;

fn text_frame(text: &str) -> Vec<u8> {
    frame("u32", text.as_bytes())
}

/// Returns the number of clients to use: `wanted`, or fewer if the descriptor limit is too low.
/// Each client needs two descriptors, because both ends of its connection are in this process.
fn clients_max(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<usize>().ok());
    let count = wanted.min(
        soft.map_or(100, |soft| soft.saturating_sub(1000) / 2)
            .max(10),
    );
    if count < wanted {
        eprintln!("the descriptor limit allows only {count} of {wanted} clients");
    }
    count
}

/// There are two bursts. In each, all clients send one frame before the reactor runs a turn. The
/// event list of the reactor grows during the first burst, so the second burst needs few turns (at
/// most 10).
#[test]
fn five_thousand_active_connections_are_all_echoed() {
    let count = clients_max(5000);
    let (mut reactor, first) = listening(Probe::echo(), Config::default(), Framing::length_u32());
    let second = reactor
        .listen("127.0.0.1:0", Framing::length_u32())
        .expect("a free port is available");
    let second = reactor
        .local_inet_addr(second)
        .expect("the socket is bound");
    let mut clients: Vec<_> = (0..count)
        .map(|index| client(if index % 2 == 0 { first } else { second }))
        .collect();
    for round in 1..=2 {
        let turns_before = reactor.stats().turns;
        for (index, client) in clients.iter_mut().enumerate() {
            client
                .write_all(&text_frame(&format!("{round}: {index}")))
                .expect("the kernel accepts the bytes");
        }
        let frames = round * count as u64;
        drive(&mut reactor, |reactor| reactor.stats().frames_in == frames);
        let turns = reactor.stats().turns - turns_before;
        assert!(
            round == 1 || turns <= 10,
            "the second burst of frames took {turns} turns"
        );
        for (index, client) in clients.iter_mut().enumerate() {
            let echo = read_u32_frame(client);
            assert_eq!(echo, format!("{round}: {index}").as_bytes());
        }
    }
}

/// A handler that echoes frames, and stores the first frame in the session. In `on_open`, it uses
/// the ids of closed connections, and checks that each call reports a closed connection.
#[derive(Default)]
struct StaleIdChecker {
    closed: Vec<ConnId>,
    checks: u64,
}

impl Handler for StaleIdChecker {
    type Session = Vec<u8>;

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        first: &mut Vec<u8>,
        frame: &[u8],
    ) {
        if first.is_empty() {
            first.extend_from_slice(frame);
        }
        assert_eq!(first, frame, "the frame belongs to this connection");
        let _ = cx.send(conn, first);
    }

    fn on_open(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        first: &mut Vec<u8>,
        _: Origin,
    ) {
        assert!(first.is_empty(), "a new connection has a new session");
        for closed in self.closed.drain(..) {
            assert_ne!(closed, conn);
            assert!(matches!(cx.send(closed, b"stale"), Err(SendError::Gone)));
            assert_eq!(cx.pause(closed), Err(Gone));
            assert_eq!(cx.resume(closed), Err(Gone));
            assert_eq!(cx.reframe(closed, Framing::raw()), Err(Gone));
            let error = cx.peer_addr(closed).expect_err("the connection is closed");
            assert_eq!(error.kind(), ErrorKind::NotConnected);
            cx.peer_inet_addr(closed)
                .expect_err("the connection is closed");
            assert_eq!(cx.queued_bytes(closed), Err(Gone));
            assert_eq!(cx.conn_stats(closed), Err(Gone));
            assert!(cx.session(closed).is_none());
            assert!(cx.with_session(closed, |_, _| ()).is_none());
            let error = cx
                .socket_options(closed)
                .map(|_| ())
                .expect_err("the connection is closed");
            assert_eq!(error.kind(), ErrorKind::NotConnected);
            let error = cx
                .local_inet_addr(closed)
                .expect_err("the connection is closed");
            assert_eq!(error.kind(), ErrorKind::NotConnected);
            cx.close(closed);
            cx.abort(closed);
            self.checks += 1;
        }
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: Vec<u8>, _: Closed) {
        self.closed.push(conn);
    }
}

/// Slab keys are reused, but ids are not.
#[test]
fn ids_of_closed_connections_never_reach_a_reused_slot() {
    const CONNECTIONS: usize = 100_000;
    let seed = 8;
    println!("seed {seed}");
    let mut random = Random(seed);
    let server = Server::start(
        StaleIdChecker::default(),
        Config::default(),
        Framing::length_u32(),
    );
    let mut open: Vec<(String, TcpStream)> = Vec::new();
    for number in 0..CONNECTIONS {
        let mut client = server.connect();
        client
            .write_all(&text_frame(&number.to_string()))
            .expect("the server reads");
        open.push((number.to_string(), client));
        if open.len() == 8 {
            let index = random.below(open.len());
            let (number, mut client) = open.swap_remove(index);
            assert_eq!(read_u32_frame(&mut client), number.as_bytes());
            assert_eq!(
                round_trip(&mut client, number.as_bytes()),
                number.as_bytes()
            );
            // A reset leaves no port in TIME-WAIT, so the test does not run out of ports.
            reset(client);
        }
    }
    open.into_iter().for_each(|(_, client)| reset(client));
    let (handler, stats) = server.stop();
    assert_eq!(
        (stats.accepted, stats.closed),
        (CONNECTIONS as u64, CONNECTIONS as u64)
    );
    assert!(
        handler.checks > CONNECTIONS as u64 / 2,
        "only {} ids of closed connections were used",
        handler.checks
    );
}

#[test]
fn connections_max_refuses_and_counts_the_next_connection() {
    let mut config = Config::default();
    config.connections_max = 3;
    let server = Server::start(Probe::echo(), config, Framing::length_u32());
    let mut accepted: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for client in &mut accepted {
        assert_eq!(round_trip(client, b"one of three"), b"one of three");
    }
    let mut refused = server.connect();
    assert_eq!(
        refused
            .read(&mut [0])
            .expect("the server sends a FIN, not a reset"),
        0,
        "the refused connection is closed at once"
    );
    for client in &mut accepted {
        assert_eq!(round_trip(client, b"unaffected"), b"unaffected");
    }

    let leaving = accepted.pop().expect("three clients are connected");
    common::send_fin(&leaving);
    let mut leaving = leaving;
    assert_eq!(leaving.read(&mut [0]).expect("the server sends its FIN"), 0);
    // The connection counts until the end of the turn, after `on_close`.
    let mut next = server.connect();
    assert_eq!(round_trip(&mut next, b"in its place"), b"in its place");
    drop((accepted, next, refused));
    let (_, stats) = server.stop();
    assert_eq!((stats.accepted, stats.refused), (4, 1));
}

/// A duplicate descriptor keeps a socket open after the reactor has closed its own descriptor. The
/// reactor must not get events of this socket.
#[test]
fn duplicate_descriptors_of_closed_sockets_give_no_event() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    let mut client = client(addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    let Some(&Event::Open(conn, Origin::Accepted { listener, .. })) =
        reactor.handler().events.first()
    else {
        panic!("the first event is not on_open");
    };
    let udp = reactor
        .bind_udp("127.0.0.1:0")
        .expect("a free port is available");
    let udp_addr = reactor.local_inet_addr(udp).expect("the socket is bound");
    let duplicates = reactor.with(|_, cx| {
        let duplicates = [
            cx.socket_options(conn)
                .expect("the connection is open")
                .try_clone(),
            cx.socket_options(listener)
                .expect("the listener is open")
                .try_clone(),
            cx.socket_options(udp)
                .expect("the socket is open")
                .try_clone(),
        ];
        cx.abort(conn);
        cx.close_listener(listener);
        cx.close_udp(udp);
        duplicates.map(|duplicate| duplicate.expect("a descriptor is free"))
    });
    drive_to_closed(&mut reactor, 1);
    settle(&mut reactor);

    let before = reactor.stats();
    client
        .write_all(b"no event")
        .expect("the duplicate keeps the socket open");
    let second = common::client(addr);
    UdpSocket::bind("127.0.0.1:0")
        .and_then(|udp| udp.send_to(b"no event", udp_addr))
        .expect("the kernel accepts the bytes");
    reactor
        .turn(Some(Duration::from_millis(100)))
        .expect("polling succeeds");
    assert_eq!(reactor.stats().events, before.events);
    drop((duplicates, second));
}

fn drive_to_closed<H: Handler>(reactor: &mut Reactor<H>, count: u64) {
    drive(reactor, |reactor| reactor.stats().closed == count);
}

#[test]
#[cfg(target_os = "linux")]
fn child_process_inherits_no_descriptor() {
    use std::process::{Command, Stdio};
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    reactor
        .bind_udp("127.0.0.1:0")
        .expect("a free port is available");
    reactor.connect(addr, Framing::raw(), ());
    drive(&mut reactor, |reactor| {
        reactor.stats().accepted + reactor.stats().connected == 2
    });
    let output = Command::new("ls")
        .args(["-l", "/proc/self/fd"])
        .stdin(Stdio::null())
        .output()
        .expect("ls can be started");
    let list = String::from_utf8_lossy(&output.stdout);
    assert!(
        list.contains("/proc/"),
        "ls did not list its own descriptors: {list}"
    );
    assert!(
        !list.contains("socket:") && !list.contains("anon_inode"),
        "ls inherited a descriptor: {list}"
    );
}

/// Connections end in several ways: FIN or reset of the peer, failed connect, graceful shutdown,
/// and shutdown deadline. At the shutdown, some connections are open and some are still connecting.
#[test]
fn on_close_comes_once_and_last_for_every_connection() {
    const EACH: usize = 10;
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let (_refusing_socket, refusing) = common::refusing();
    let (_silent_sockets, silent) = common::silent();
    let mut ends: Vec<_> = (0..EACH).map(|_| client(addr)).collect();
    let resets: Vec<_> = (0..EACH).map(|_| client(addr)).collect();
    let mut ends_at_shutdown: Vec<_> = (0..EACH).map(|_| client(addr)).collect();
    let stays: Vec<_> = (0..EACH).map(|_| client(addr)).collect();
    let no_addrs: &[SocketAddr] = &[];
    let mut started = Vec::new();
    for _ in 0..EACH {
        started.push(reactor.connect(refusing, Framing::raw(), ()));
        started.push(reactor.connect(silent, Framing::raw(), ()));
        started.push(reactor.connect(no_addrs, Framing::raw(), ()));
    }
    drive(&mut reactor, |reactor| {
        reactor.stats().accepted == 4 * EACH as u64
    });
    ends.clear();
    resets.into_iter().for_each(reset);
    drive_to_closed(&mut reactor, 4 * EACH as u64);
    reactor.with(|_, cx| cx.shutdown(Duration::from_millis(100)));
    // The next turn reports the phase `Close`, and then closes all connections.
    reactor
        .turn(Some(Duration::ZERO))
        .expect("polling succeeds");
    ends_at_shutdown.clear();
    drive(&mut reactor, Reactor::is_shut_down);
    drop(stays);

    assert_eq!(reactor.stats().closed, 7 * EACH as u64);
    let probe = reactor.into_handler();
    let mut reasons: HashMap<ConnId, &CloseReason> = HashMap::new();
    for event in &probe.events {
        let conn = match event {
            Event::Open(conn, _) | Event::HalfClose(conn) | Event::Close(conn, _) => conn,
            event => panic!("unexpected callback {event:?}"),
        };
        assert!(!reasons.contains_key(conn), "{event:?} came after on_close");
        if let Event::Close(conn, closed) = event {
            reasons.insert(*conn, &closed.reason);
        }
    }
    assert_eq!(reasons.len(), 7 * EACH);
    assert!(started.iter().all(|conn| reasons.contains_key(conn)));
    let count = |wanted: fn(&CloseReason) -> bool| {
        let all = reasons.values();
        all.filter(|reason| wanted(reason)).count()
    };
    assert_eq!(count(|reason| matches!(reason, CloseReason::Peer)), EACH);
    assert_eq!(count(|reason| matches!(reason, CloseReason::Io(_))), EACH);
    let failed = count(|reason| matches!(reason, CloseReason::ConnectFailed(_)));
    assert_eq!(failed, 2 * EACH);
    // Two groups end with `CloseReason::Local`: connections whose peers closed during the shutdown,
    // and connections that were still connecting.
    assert_eq!(
        count(|reason| matches!(reason, CloseReason::Local)),
        2 * EACH
    );
    assert_eq!(
        count(|reason| matches!(reason, CloseReason::Shutdown)),
        EACH
    );
}

/// Returns a handler that replies to each frame with 1 MiB, and sets a much smaller send buffer.
fn megabyte_per_frame() -> Probe {
    Probe::new(|cx, event| match event {
        Event::Open(conn, _) => cx
            .socket_options(*conn)
            .and_then(|options| options.set_send_buffer_size(4096))
            .expect("the option can be set"),
        Event::Frame(conn, _) => {
            let _ = cx.send(*conn, &[5; MIB]).expect("the queue has space");
        }
        _ => {}
    })
}

/// Returns a reactor and 100 clients that have not read anything. The handler has sent 1 MiB to
/// each client, and the kernel has accepted less than half of all output.
fn with_megabytes_pending() -> (Reactor<Probe>, Vec<TcpStream>) {
    let framing = Framing::length_u32();
    let (mut reactor, addr) = listening(megabyte_per_frame(), Config::default(), framing);
    let mut clients: Vec<_> = (0..100).map(|_| client(addr)).collect();
    for client in &mut clients {
        client
            .write_all(&text_frame("go"))
            .expect("the kernel accepts the bytes");
    }
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 100);
    settle(&mut reactor);
    let written = reactor.stats().written_bytes;
    assert!(
        written < 50 * MIB as u64,
        "only a small part of the output stays queued: the kernel accepted {written} bytes"
    );
    (reactor, clients)
}

#[test]
fn shutdown_delivers_queued_output_to_reading_peers() {
    let (mut reactor, clients) = with_megabytes_pending();
    let addr = clients[0].peer_addr().expect("the client is connected");
    let reader = std::thread::spawn(move || {
        for mut client in clients {
            let mut got = Vec::new();
            client
                .read_to_end(&mut got)
                .expect("the server sends a FIN, not a reset");
            assert_eq!(got.len(), MIB + 4);
        }
    });
    reactor.with(|_, cx| cx.shutdown(DEADLINE));
    // `run` returns when all connections are closed.
    reactor.run().expect("polling succeeds");
    assert!(reactor.is_shut_down());
    reader.join().expect("every client got all its bytes");
    assert_eq!(reactor.stats().unsent_bytes, 0);
    for (conn, closed) in reactor.handler().closes() {
        assert!(
            matches!(closed.reason, CloseReason::Local),
            "{conn}: {closed:?}"
        );
    }
    assert_eq!(reactor.handler().closes().len(), 100);
    let error = TcpStream::connect(addr).expect_err("the listener is closed");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn shutdown_deadline_aborts_and_counts_unsent_bytes() {
    let (mut reactor, mut clients) = with_megabytes_pending();
    let started = Instant::now();
    reactor.with(|_, cx| cx.shutdown(Duration::from_millis(100)));
    reactor.run().expect("polling succeeds");
    assert!(started.elapsed() >= Duration::from_millis(100));
    let probe = reactor.handler();
    assert_eq!(probe.closes().len(), 100);
    for (conn, closed) in probe.closes() {
        assert!(
            matches!(closed.reason, CloseReason::Shutdown),
            "{conn}: {closed:?}"
        );
        assert!(closed.unsent_bytes > 0, "{conn}: {closed:?}");
        let total = closed.unsent_bytes + closed.stats.written_bytes;
        assert_eq!(total, MIB as u64 + 4, "{conn}");
    }
    for client in &mut clients {
        let error = client
            .read_to_end(&mut Vec::new())
            .expect_err("the server resets the connection");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

/// The earliest deadline applies, in whichever order the calls come.
#[test]
fn second_shutdown_can_only_bring_its_deadline_forward() {
    let hour = Duration::from_secs(3600);
    for deadlines in [
        [Duration::from_millis(50), hour],
        [hour, Duration::from_millis(50)],
    ] {
        let (mut reactor, mut clients) = with_megabytes_pending();
        let started = Instant::now();
        for deadline in deadlines {
            reactor.with(|_, cx| cx.shutdown(deadline));
        }
        reactor.run().expect("polling succeeds");
        assert!(started.elapsed() >= Duration::from_millis(50));
        let closes = reactor.handler().closes();
        let is_cut = |closed: &Closed| matches!(closed.reason, CloseReason::Shutdown);
        assert!(
            closes.iter().all(|(_, closed)| is_cut(closed)),
            "{deadlines:?}"
        );
        clients.clear();
    }
}

/// A handler that connects again in every `on_close`, without a limit.
struct Reconnecting {
    addr: SocketAddr,
    failures: u64,
}

impl Handler for Reconnecting {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}

    fn on_close(&mut self, cx: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        // Either the connect failed, or the shutdown ended the connection.
        let is_expected = matches!(
            closed.reason,
            CloseReason::ConnectFailed(_) | CloseReason::Local
        );
        assert!(is_expected, "{closed:?}");
        self.failures += 1;
        cx.connect(self.addr, Framing::raw(), ());
    }
}

#[test]
fn shutdown_ends_if_on_close_always_reconnects() {
    let (_held, addr) = common::refusing();
    let mut reactor =
        Reactor::new(Reconnecting { addr, failures: 0 }).expect("the reactor is created");
    reactor.connect(addr, Framing::raw(), ());
    drive(&mut reactor, |reactor| reactor.handler().failures >= 3);
    reactor.with(|_, cx| cx.shutdown(Duration::from_millis(20)));
    drive(&mut reactor, Reactor::is_shut_down);
    reactor.run().expect("run returns at once after a shutdown");
}

#[test]
fn opening_a_socket_fails_after_shutdown() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    let (_held, _) = common::open(&mut reactor, addr);
    reactor.with(|_, cx| {
        cx.shutdown(DEADLINE);
        let assert_refused =
            |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::Other, "{error}");
        assert_refused(
            cx.listen("127.0.0.1:0", Framing::raw())
                .expect_err("a shutdown has begun"),
        );
        assert_refused(
            cx.bind_udp("127.0.0.1:0")
                .expect_err("a shutdown has begun"),
        );
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
        assert_refused(cx.adopt_udp(udp).expect_err("a shutdown has begun"));
        let listener =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a free port is available");
        assert_refused(
            cx.adopt_listener(listener, Framing::raw())
                .expect_err("a shutdown has begun"),
        );
        #[cfg(unix)]
        {
            assert_refused(
                cx.bind_unix_datagram(None)
                    .expect_err("a shutdown has begun"),
            );
            let (one, _other) =
                std::os::unix::net::UnixDatagram::pair().expect("the socket pair is created");
            assert_refused(
                cx.adopt_unix_datagram(one)
                    .expect_err("a shutdown has begun"),
            );
        }
    });
}

#[test]
fn run_after_stop_keeps_all_connections() {
    let probe = Probe::new(|cx, event| {
        if let Event::Frame(conn, frame) = event {
            let _ = cx.send(*conn, frame);
            cx.stop();
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::length_u32());
    let mut client = client(addr);
    for round in 1..=3 {
        client
            .write_all(&text_frame("ping"))
            .expect("the kernel accepts the bytes");
        reactor.run().expect("polling succeeds");
        assert_eq!(reactor.stats().frames_in, round);
        // The echo was written before `run` returned.
        assert_eq!(read_u32_frame(&mut client), b"ping");
    }
    assert!(!reactor.is_shut_down());
    assert_eq!(reactor.stats().closed, 0);
}

#[test]
fn post_to_a_dropped_reactor_returns_the_closure() {
    let reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let remote = reactor.remote();
    let (queued, receiver) = mpsc::channel::<u8>();
    remote
        .post(move |_, _| queued.send(1).expect("the receiver is open"))
        .expect("the reactor is open");
    drop(reactor);
    let error = receiver
        .recv_timeout(DEADLINE)
        .expect_err("the closure and its sender were dropped");
    assert_eq!(error, mpsc::RecvTimeoutError::Disconnected);

    let (sender, receiver) = mpsc::channel();
    let post = remote.post(move |_, _| sender.send("back").expect("the receiver is open"));
    let Err(PostError::Closed(task)) = post else {
        panic!("not PostError::Closed: {post:?}");
    };
    remote
        .shutdown(Duration::ZERO)
        .expect("shutting down a dropped reactor is not an error");

    // The returned closure still works: another reactor runs it.
    let mut another = Reactor::new(Probe::silent()).expect("the reactor is created");
    another.remote().post(task).expect("the queue has space");
    another.turn(Some(DEADLINE)).expect("polling succeeds");
    assert_eq!(receiver.recv_timeout(DEADLINE), Ok("back"));
}
