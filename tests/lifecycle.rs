//! Lives of connections and reactors: each begins once, ends once, and is told of in order.

mod common;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
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

fn short(framed: &str) -> Vec<u8> {
    frame("u32", framed.as_bytes())
}

/// So many clients that the limit on descriptors allows, both ends being in this process.
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
        eprintln!("the limit on descriptors allows only {count} of {wanted} clients");
    }
    count
}

/// All of them have a frame pending before the first turn. When all are active at once, the list
/// of events has grown with them, and a few turns serve them all.
#[test]
fn five_thousand_active_connections_are_all_served() {
    let count = clients_max(5000);
    let (mut reactor, first) = listening(Probe::echo(), Config::default(), Framing::length_u32());
    let second = reactor
        .listen("127.0.0.1:0", Framing::length_u32())
        .expect("a free port");
    let second = reactor.local_inet_addr(second).expect("it is bound");
    let mut clients: Vec<_> = (0..count)
        .map(|index| client(if index % 2 == 0 { first } else { second }))
        .collect();
    for round in 1..=2 {
        let turns_before = reactor.stats().turns;
        for (index, client) in clients.iter_mut().enumerate() {
            client
                .write_all(&short(&format!("{round}: {index}")))
                .expect("the kernel takes it");
        }
        let frames = round * count as u64;
        drive(&mut reactor, |reactor| reactor.stats().frames_in == frames);
        let turns = reactor.stats().turns - turns_before;
        assert!(round == 1 || turns <= 10, "{turns} turns for one burst");
        for (index, client) in clients.iter_mut().enumerate() {
            let echo = read_u32_frame(client);
            assert_eq!(echo, format!("{round}: {index}").as_bytes());
        }
    }
}

/// Answers with the session's first frame, and pesters those that are gone.
#[derive(Default)]
struct Keyed {
    gone: Vec<ConnId>,
    pestered: u64,
}

impl Handler for Keyed {
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
        assert_eq!(first, frame, "bytes of another connection");
        let _ = cx.send(conn, first);
    }

    fn on_open(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        first: &mut Vec<u8>,
        _: Origin,
    ) {
        assert!(first.is_empty(), "the session of another connection");
        for gone in self.gone.drain(..) {
            assert_ne!(gone, conn);
            assert!(matches!(cx.send(gone, b"stale"), Err(SendError::Gone)));
            assert_eq!(cx.pause(gone), Err(Gone));
            assert_eq!(cx.resume(gone), Err(Gone));
            assert_eq!(cx.reframe(gone, Framing::raw()), Err(Gone));
            assert_eq!(cx.peer_addr(gone), Err(Gone));
            cx.peer_inet_addr(gone).expect_err("gone");
            assert_eq!(cx.queued_bytes(gone), Err(Gone));
            assert_eq!(cx.conn_stats(gone), Err(Gone));
            assert!(cx.session(gone).is_none());
            assert!(cx.with_session(gone, |_, _| ()).is_none());
            let error = cx.socket_options(gone).map(|_| ()).expect_err("gone");
            assert_eq!(error.kind(), ErrorKind::NotConnected);
            let error = cx.local_inet_addr(gone).expect_err("gone");
            assert_eq!(error.kind(), ErrorKind::NotConnected);
            cx.close(gone);
            cx.abort(gone);
            self.pestered += 1;
        }
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: Vec<u8>, _: Closed) {
        self.gone.push(conn);
    }
}

/// Keys are used again and again; ids are not.
#[test]
fn a_hundred_thousand_lives_never_meet() {
    const LIVES: usize = 100_000;
    let seed = 8;
    println!("seed {seed}");
    let mut random = Random(seed);
    let server = Server::start(Keyed::default(), Config::default(), Framing::length_u32());
    let mut open: Vec<(String, TcpStream)> = Vec::new();
    for life in 0..LIVES {
        let mut client = server.connect();
        client
            .write_all(&short(&life.to_string()))
            .expect("the server reads");
        open.push((life.to_string(), client));
        if open.len() == 8 {
            let index = random.below(open.len());
            let (life, mut client) = open.swap_remove(index);
            assert_eq!(read_u32_frame(&mut client), life.as_bytes());
            assert_eq!(round_trip(&mut client, life.as_bytes()), life.as_bytes());
            // By a reset: no port is left in TIME-WAIT.
            reset(client);
        }
    }
    open.into_iter().for_each(|(_, client)| reset(client));
    let (keyed, stats) = server.stop();
    assert_eq!((stats.accepted, stats.closed), (LIVES as u64, LIVES as u64));
    assert!(keyed.pestered > LIVES as u64 / 2, "{}", keyed.pestered);
}

#[test]
fn one_connection_too_many_is_refused_and_counted() {
    let mut config = Config::default();
    config.connections_max = 3;
    let server = Server::start(Probe::echo(), config, Framing::length_u32());
    let mut served: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for client in &mut served {
        assert_eq!(round_trip(client, b"one of three"), b"one of three");
    }
    let mut refused = server.connect();
    assert_eq!(
        refused.read(&mut [0]).expect("an end, not a reset"),
        0,
        "it is closed at once"
    );
    for client in &mut served {
        assert_eq!(round_trip(client, b"unaffected"), b"unaffected");
    }

    let leaving = served.pop().expect("there are three");
    leaving.shutdown(Shutdown::Write).expect("it is connected");
    let mut leaving = leaving;
    assert_eq!(leaving.read(&mut [0]).expect("its answer to the end"), 0);
    // The slot is free when its end is told, at the end of that turn.
    let mut next = server.connect();
    assert_eq!(round_trip(&mut next, b"in its place"), b"in its place");
    drop((served, next, refused));
    let (_, stats) = server.stop();
    assert_eq!((stats.accepted, stats.refused), (4, 1));
}

/// A duplicate keeps a socket open after the reactor has closed its own descriptor. No event of it
/// comes all the same.
#[test]
fn a_closed_socket_brings_no_event_although_a_duplicate_lives() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    let mut client = client(addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    let Some(&Event::Open(conn, Origin::Accepted(listener))) = reactor.handler().events.first()
    else {
        panic!("it was accepted");
    };
    let udp = reactor.bind_udp("127.0.0.1:0").expect("a free port");
    let udp_addr = reactor.local_inet_addr(udp).expect("it is bound");
    let duplicates = reactor.with(|_, cx| {
        let duplicates = [
            cx.socket_options(conn).expect("open").try_clone(),
            cx.socket_options(listener).expect("open").try_clone(),
            cx.socket_options(udp).expect("open").try_clone(),
        ];
        cx.abort(conn);
        cx.close_listener(listener);
        cx.close_udp(udp);
        duplicates.map(|duplicate| duplicate.expect("descriptors are left"))
    });
    drive_to_closed(&mut reactor, 1);
    settle(&mut reactor);

    let before = reactor.stats();
    client.write_all(b"anybody?").expect("the duplicate lives");
    let second = common::client(addr);
    UdpSocket::bind("127.0.0.1:0")
        .and_then(|udp| udp.send_to(b"anybody?", udp_addr))
        .expect("the kernel takes it");
    reactor
        .turn(Some(Duration::from_millis(100)))
        .expect("the poll works");
    assert_eq!(reactor.stats().events, before.events);
    drop((duplicates, second));
}

fn drive_to_closed<H: Handler>(reactor: &mut Reactor<H>, count: u64) {
    drive(reactor, |reactor| reactor.stats().closed == count);
}

#[test]
#[cfg(target_os = "linux")]
fn no_descriptor_is_inherited_by_a_child_process() {
    use std::process::{Command, Stdio};
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    reactor.bind_udp("127.0.0.1:0").expect("a free port");
    reactor.connect(addr, Framing::raw(), ());
    drive(&mut reactor, |reactor| {
        reactor.stats().accepted + reactor.stats().connected == 2
    });
    let output = Command::new("ls")
        .args(["-l", "/proc/self/fd"])
        .stdin(Stdio::null())
        .output()
        .expect("ls runs");
    let list = String::from_utf8_lossy(&output.stdout);
    assert!(list.contains("/proc/"), "it lists its own: {list}");
    assert!(
        !list.contains("socket:") && !list.contains("anon_inode"),
        "{list}"
    );
}

/// All the ways to end at once: by the peer's end, by its reset, by a failed connect, by a gentle
/// shutdown, and by its deadline, open or still connecting.
#[test]
fn every_connection_is_told_of_its_end_once_and_last() {
    const EACH: usize = 10;
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let (_refusing_socket, refusing) = common::refusing();
    let (_silent_sockets, silent) = common::silent();
    let mut ends: Vec<_> = (0..EACH).map(|_| client(addr)).collect();
    let resets: Vec<_> = (0..EACH).map(|_| client(addr)).collect();
    let mut ends_at_shutdown: Vec<_> = (0..EACH).map(|_| client(addr)).collect();
    let stays: Vec<_> = (0..EACH).map(|_| client(addr)).collect();
    let nowhere: &[SocketAddr] = &[];
    let mut started = Vec::new();
    for _ in 0..EACH {
        started.push(reactor.connect(refusing, Framing::raw(), ()));
        started.push(reactor.connect(silent, Framing::raw(), ()));
        started.push(reactor.connect(nowhere, Framing::raw(), ()));
    }
    drive(&mut reactor, |reactor| {
        reactor.stats().accepted == 4 * EACH as u64
    });
    ends.clear();
    resets.into_iter().for_each(reset);
    drive_to_closed(&mut reactor, 4 * EACH as u64);
    reactor.with(|_, cx| cx.shutdown(Duration::from_millis(100)));
    ends_at_shutdown.clear();
    drive(&mut reactor, Reactor::is_shut_down);
    drop(stays);

    assert_eq!(reactor.stats().closed, 7 * EACH as u64);
    let probe = reactor.into_handler();
    let mut reasons: HashMap<ConnId, &CloseReason> = HashMap::new();
    for event in &probe.events {
        let conn = match event {
            Event::Open(conn, _) | Event::HalfClose(conn) | Event::Close(conn, _) => conn,
            event => panic!("{event:?}"),
        };
        assert!(!reasons.contains_key(conn), "{event:?} after the end");
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
    // Those that ended at the shutdown, and those that were still connecting then.
    assert_eq!(
        count(|reason| matches!(reason, CloseReason::Local)),
        2 * EACH
    );
    assert_eq!(
        count(|reason| matches!(reason, CloseReason::Shutdown)),
        EACH
    );
}

/// Answers each frame with a megabyte, behind a send buffer that is much smaller.
fn megabyte_for_each() -> Probe {
    Probe::new(|cx, event| match event {
        Event::Open(conn, _) => cx
            .socket_options(*conn)
            .and_then(|options| options.set_send_buffer_size(4096))
            .expect("the option can be set"),
        Event::Frame(conn, _) => {
            let _ = cx.send(*conn, &[5; MIB]).expect("16 MiB may be queued");
        }
        _ => {}
    })
}

/// A reactor that has a megabyte pending for each of a hundred clients, which read nothing yet.
fn with_megabytes_pending() -> (Reactor<Probe>, Vec<TcpStream>) {
    let framing = Framing::length_u32();
    let (mut reactor, addr) = listening(megabyte_for_each(), Config::default(), framing);
    let mut clients: Vec<_> = (0..100).map(|_| client(addr)).collect();
    for client in &mut clients {
        client.write_all(&short("go")).expect("the kernel takes it");
    }
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 100);
    settle(&mut reactor);
    let written = reactor.stats().written_bytes;
    assert!(written < 50 * MIB as u64, "{written} bytes are not pending");
    (reactor, clients)
}

#[test]
fn a_shutdown_delivers_what_is_pending_to_those_that_read() {
    let (mut reactor, clients) = with_megabytes_pending();
    let addr = clients[0].peer_addr().expect("it is connected");
    let reader = std::thread::spawn(move || {
        for mut client in clients {
            let mut got = Vec::new();
            client.read_to_end(&mut got).expect("no reset");
            assert_eq!(got.len(), MIB + 4);
        }
    });
    reactor.with(|_, cx| cx.shutdown(DEADLINE));
    // It returns by itself, when all of them are gone.
    reactor.run().expect("the poll works");
    assert!(reactor.is_shut_down());
    reader.join().expect("all of it arrives");
    assert_eq!(reactor.stats().unsent_bytes, 0);
    for (conn, closed) in reactor.handler().closes() {
        assert!(
            matches!(closed.reason, CloseReason::Local),
            "{conn}: {closed:?}"
        );
    }
    assert_eq!(reactor.handler().closes().len(), 100);
    let error = TcpStream::connect(addr).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_shutdown_aborts_those_that_do_not_read_at_its_deadline_and_counts_the_loss() {
    let (mut reactor, mut clients) = with_megabytes_pending();
    let started = Instant::now();
    reactor.with(|_, cx| cx.shutdown(Duration::from_millis(100)));
    reactor.run().expect("the poll works");
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
        let error = client.read_to_end(&mut Vec::new()).expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

/// Connects anew whenever a connection ends, at once and for ever.
struct Stubborn {
    addr: SocketAddr,
    failures: u64,
}

impl Handler for Stubborn {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}

    fn on_close(&mut self, cx: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        // Failed, or ended by the shutdown while it was connecting.
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
fn a_shutdown_ends_also_where_the_handler_connects_for_ever() {
    let (_held, addr) = common::refusing();
    let mut reactor = Reactor::new(Stubborn { addr, failures: 0 }).expect("a reactor");
    reactor.connect(addr, Framing::raw(), ());
    drive(&mut reactor, |reactor| reactor.handler().failures >= 3);
    reactor.with(|_, cx| cx.shutdown(Duration::from_millis(20)));
    drive(&mut reactor, Reactor::is_shut_down);
    reactor.run().expect("it returns at once");
}

#[test]
fn nothing_is_opened_any_more_once_a_shutdown_has_begun() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    let (_held, _) = common::open(&mut reactor, addr);
    reactor.with(|_, cx| {
        cx.shutdown(DEADLINE);
        let refused = |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::Other, "{error}");
        refused(
            cx.listen("127.0.0.1:0", Framing::raw())
                .expect_err("too late"),
        );
        refused(cx.bind_udp("127.0.0.1:0").expect_err("too late"));
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        refused(cx.adopt_udp(udp).expect_err("too late"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        refused(
            cx.adopt_listener(listener, Framing::raw())
                .expect_err("too late"),
        );
        #[cfg(unix)]
        {
            refused(cx.bind_unix_datagram(None).expect_err("too late"));
            let (one, _other) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
            refused(cx.adopt_unix_datagram(one).expect_err("too late"));
        }
    });
}

#[test]
fn a_stopped_reactor_runs_again_with_all_it_had() {
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
            .write_all(&short("ping"))
            .expect("the kernel takes it");
        reactor.run().expect("the poll works");
        assert_eq!(reactor.stats().frames_in, round);
        // It was written before the run returned.
        assert_eq!(read_u32_frame(&mut client), b"ping");
    }
    assert!(!reactor.is_shut_down());
    assert_eq!(reactor.stats().closed, 0);
}

#[test]
fn a_dropped_reactor_refuses_posts_and_gives_them_back() {
    let reactor = Reactor::new(Probe::silent()).expect("a reactor");
    let remote = reactor.remote();
    let (queued, told) = mpsc::channel::<u8>();
    remote
        .post(move |_, _| queued.send(1).expect("it is not run"))
        .expect("the reactor is there");
    drop(reactor);
    let error = told.recv_timeout(DEADLINE).expect_err("it was dropped");
    assert_eq!(error, mpsc::RecvTimeoutError::Disconnected);

    let (tell, told) = mpsc::channel();
    let post = remote.post(move |_, _| tell.send("back").expect("the test listens"));
    let Err(PostError::Closed(task)) = post else {
        panic!("not {post:?}");
    };
    remote.shutdown(Duration::ZERO).expect("it is no error");

    // The closure is whole: another reactor runs it.
    let mut another = Reactor::new(Probe::silent()).expect("a reactor");
    another.remote().post(task).expect("it is there");
    another.turn(Some(DEADLINE)).expect("the poll works");
    assert_eq!(told.recv_timeout(DEADLINE), Ok("back"));
}
