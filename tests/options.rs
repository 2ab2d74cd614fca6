//! Options of sockets: each is set by the crate and read back from the kernel, and does what it is
//! for.

mod common;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use common::{Event, Probe, drive, listening, silent};
use unstick::{
    CloseReason, Config, ConnId, ConnectOptions, Framing, Keepalive, ListenOptions, Origin,
    Reactor, SocketId, SocketRef, UdpOptions,
};

const LOOPBACK: &str = "127.0.0.1:0";

fn reactor() -> Reactor<Probe> {
    Reactor::new(Probe::silent()).expect("a reactor")
}

/// Looks at a live socket.
fn look<R>(
    reactor: &mut Reactor<Probe>,
    id: impl Into<SocketId>,
    look: impl FnOnce(&SocketRef<'_>) -> R,
) -> R {
    reactor.with(|_, cx| look(&cx.socket(id).expect("it is open")))
}

/// A reactor with both ends of one connection: the one that connected, and the one accepted.
fn connected(options: &ConnectOptions) -> (Reactor<Probe>, ConnId, ConnId) {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    let client = reactor.with(|_, cx| cx.connect_with(addr, Framing::raw(), (), options));
    let opened = |reactor: &Reactor<Probe>| {
        let opened = reactor.handler().events.iter();
        let opened: Vec<_> = opened
            .filter_map(|event| match event {
                Event::Open(conn, origin) => Some((*conn, *origin)),
                _ => None,
            })
            .collect();
        opened
    };
    drive(&mut reactor, |reactor| opened(reactor).len() == 2);
    let server = opened(&reactor)
        .into_iter()
        .find(|(_, origin)| *origin != Origin::Connected);
    let (server, _) = server.expect("one of them was accepted");
    (reactor, client, server)
}

/// Why the only connection ended.
fn only_failure(reactor: &mut Reactor<Probe>) -> ErrorKind {
    drive(reactor, |reactor| !reactor.handler().closes().is_empty());
    assert_eq!(reactor.handler().events.len(), 1, "and nothing else came");
    match &reactor.handler().closes()[0].1.reason {
        CloseReason::ConnectFailed(error) => error.kind(),
        reason => panic!("{reason}"),
    }
}

#[test]
fn what_is_set_on_a_live_connection_is_what_the_kernel_has() {
    let (mut reactor, conn, _) = connected(&ConnectOptions::new());
    look(&mut reactor, conn, |socket| {
        for on in [false, true] {
            socket.set_nodelay(on).expect("a TCP option");
            assert_eq!(socket.nodelay().expect("told"), on);
        }
        for hops in [1, 255] {
            socket.set_ttl(hops).expect("an IP option");
            assert_eq!(socket.ttl().expect("told"), hops);
        }
        // Expedited forwarding: DSCP 46.
        socket.set_tos(46 << 2).expect("an IP option");
        assert_eq!(socket.tos().expect("told"), 46 << 2);
        let default = socket.recv_buffer_len().expect("told");
        socket.set_recv_buffer_len(16 * 1024).expect("any socket's");
        let len = socket.recv_buffer_len().expect("told");
        assert!(len != default && (16..=32).contains(&(len / 1024)), "{len}");
        socket.set_send_buffer_len(24 * 1024).expect("any socket's");
        let len = socket.send_buffer_len().expect("told");
        assert!((24..=48).contains(&(len / 1024)), "{len}");
    });
}

#[test]
fn keepalive_is_off_until_it_is_asked_for_and_has_the_times_it_was_given() {
    let (mut reactor, conn, _) = connected(&ConnectOptions::new());
    let asked = Keepalive::new()
        .idle(Duration::from_secs(61))
        .interval(Duration::from_secs(7))
        .count(3);
    let told = if cfg!(target_os = "openbsd") {
        Keepalive::new()
    } else if cfg!(windows) {
        Keepalive::new().count(3)
    } else {
        asked
    };
    look(&mut reactor, conn, |socket| {
        assert_eq!(socket.keepalive().expect("told"), None);
        socket.set_keepalive(Some(asked)).expect("a TCP option");
        assert_eq!(socket.keepalive().expect("told"), Some(told));
        socket.set_keepalive(None).expect("a TCP option");
        assert_eq!(socket.keepalive().expect("told"), None);
    });
}

#[test]
#[cfg(target_os = "linux")]
fn options_of_linux_are_what_the_kernel_has() {
    let (mut reactor, conn, _) = connected(&ConnectOptions::new().device("lo"));
    look(&mut reactor, conn, |socket| {
        assert_eq!(socket.user_timeout().expect("told"), None);
        let timeout = Some(Duration::from_millis(4321));
        socket.set_user_timeout(timeout).expect("a TCP option");
        assert_eq!(socket.user_timeout().expect("told"), timeout);
        socket.set_notsent_lowat(16 * 1024).expect("a TCP option");
        assert_eq!(socket.notsent_lowat().expect("told"), 16 * 1024);
        assert_eq!(
            socket.device().expect("told").as_deref(),
            Some("lo"),
            "it was bound before it connected"
        );
    });
}

#[test]
fn a_socket_of_ipv6_has_the_options_of_ipv4_under_the_same_names() {
    let mut reactor = reactor();
    let options = UdpOptions::new()
        .only_v6(true)
        .multicast_loop(false)
        .multicast_ttl(9);
    let Ok(udp) = reactor.with(|_, cx| cx.bind_udp_with("[::1]:0", &options)) else {
        eprintln!("no IPv6 here: skipped");
        return;
    };
    look(&mut reactor, udp, |socket| {
        assert!(socket.only_v6().expect("told"));
        assert!(!socket.multicast_loop().expect("told"));
        assert_eq!(socket.multicast_ttl().expect("told"), 9);
        socket.set_ttl(77).expect("an IP option");
        assert_eq!(socket.ttl().expect("told"), 77);
        if cfg!(windows) {
            let error = socket.set_tos(8 << 2).expect_err("no such option");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        } else {
            socket.set_tos(8 << 2).expect("an IP option");
            assert_eq!(socket.tos().expect("told"), 8 << 2);
        }
    });
}

#[test]
#[cfg(target_os = "linux")]
fn a_group_of_ipv6_is_joined_once_and_left_once() {
    use std::net::Ipv6Addr;

    const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0x77, 3);
    const LOOPBACK_INTERFACE: u32 = 1;
    let mut reactor = reactor();
    let Ok(later) = reactor.bind_udp("[::1]:0") else {
        eprintln!("no IPv6 here: skipped");
        return;
    };
    look(&mut reactor, later, |socket| {
        let joined = socket.join_multicast_v6(GROUP, LOOPBACK_INTERFACE);
        joined.expect("it is there");
        let sends_by = socket.set_multicast_if_v6(LOOPBACK_INTERFACE);
        sends_by.expect("it is there");
    });
    let interface = reactor.with(|_, cx| {
        let options = cx.socket_options(later).expect("it is open");
        options.multicast_if_v6().expect("told")
    });
    assert_eq!(interface, LOOPBACK_INTERFACE);
    let options = UdpOptions::new().join_multicast_v6(GROUP, LOOPBACK_INTERFACE);
    let at_once = reactor.with(|_, cx| cx.bind_udp_with("[::1]:0", &options));
    for id in [later, at_once.expect("a free port")] {
        look(&mut reactor, id, |socket| {
            let again = socket.join_multicast_v6(GROUP, LOOPBACK_INTERFACE);
            again.expect_err("it has joined");
            let left = socket.leave_multicast_v6(GROUP, LOOPBACK_INTERFACE);
            left.expect("it had joined");
            let again = socket.leave_multicast_v6(GROUP, LOOPBACK_INTERFACE);
            again.expect_err("it has left");
        });
    }
}

#[test]
fn an_option_of_another_kind_of_socket_is_an_error_and_a_stale_id_is_one_too() {
    let mut reactor = reactor();
    let udp = reactor.bind_udp(LOOPBACK).expect("a free port");
    look(&mut reactor, udp, |socket| {
        socket.set_nodelay(true).expect_err("UDP has no Nagle");
        socket.only_v6().expect_err("it is of IPv4");
    });
    reactor.with(|_, cx| cx.close_udp(udp));
    drive(&mut reactor, |reactor| {
        reactor.local_inet_addr(udp).is_err()
    });
    let error = reactor.with(|_, cx| cx.socket(udp).expect_err("it is gone").kind());
    assert_eq!(error, ErrorKind::NotConnected);
}

#[test]
fn buffers_given_to_a_listener_are_those_of_what_it_accepts() {
    let mut reactor = reactor();
    let options = ListenOptions::new()
        .recv_buffer_len(20 * 1024)
        .send_buffer_len(28 * 1024);
    let listener = reactor
        .with(|_, cx| cx.listen_with(LOOPBACK, Framing::raw(), &options))
        .expect("a free port");
    let addr = reactor.local_inet_addr(listener).expect("it is bound");
    let _client = common::client(addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    let Event::Open(conn, _) = reactor.handler().events[0] else {
        panic!("it was accepted");
    };
    let expected = look(&mut reactor, listener, |socket| {
        (socket.recv_buffer_len(), socket.send_buffer_len())
    });
    let expected = (expected.0.expect("told"), expected.1.expect("told"));
    assert!((20..=40).contains(&(expected.0 / 1024)), "{expected:?}");
    assert!((28..=56).contains(&(expected.1 / 1024)), "{expected:?}");
    look(&mut reactor, conn, |socket| {
        assert_eq!(socket.recv_buffer_len().expect("told"), expected.0);
        assert_eq!(socket.send_buffer_len().expect("told"), expected.1);
    });
}

#[test]
#[cfg(target_os = "linux")]
fn the_backlog_is_the_one_asked_for() {
    for backlog in [1, 5] {
        let mut reactor = reactor();
        let options = ListenOptions::new().backlog(backlog);
        let listener = reactor
            .with(|_, cx| cx.listen_with(LOOPBACK, Framing::raw(), &options))
            .expect("a free port");
        let port = reactor
            .local_inet_addr(listener)
            .expect("it is bound")
            .port();
        let listing = std::process::Command::new("ss")
            .args(["-Hltn", &format!("sport = :{port}")])
            .output();
        let Ok(listing) = listing else {
            eprintln!("no ss here: skipped");
            return;
        };
        let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
        // State, Recv-Q, Send-Q: the last is the backlog of a listener (ss(8)).
        let asked = listing.split_whitespace().nth(2).map(str::to_owned);
        assert_eq!(asked, Some(backlog.to_string()), "{listing}");
    }
}

#[test]
#[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
fn listeners_share_a_port_only_where_each_of_them_asks_for_it() {
    let shared = ListenOptions::new().reuse_port(true);
    let mut reactors = [reactor(), reactor(), reactor()];
    let [first, second, third] = &mut reactors;
    let listener = first
        .with(|_, cx| cx.listen_with(LOOPBACK, Framing::raw(), &shared))
        .expect("a free port");
    let addr = first.local_inet_addr(listener).expect("it is bound");
    look(first, listener, |socket| {
        assert!(socket.reuse_port().expect("told"));
        assert!(socket.reuse_addr().expect("told"), "it is the default");
    });
    let error = third.listen(addr, Framing::raw()).expect_err("not shared");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    second
        .with(|_, cx| cx.listen_with(addr, Framing::raw(), &shared))
        .expect("shared");
    // The kernel spreads them by a hash of their ports: of so many, some come to each.
    let _clients: Vec<_> = (0..64).map(|_| common::client(addr)).collect();
    let deadline = std::time::Instant::now() + common::DEADLINE;
    while reactors.iter().map(|r| r.stats().accepted).sum::<u64>() < 64 {
        assert!(std::time::Instant::now() < deadline, "some were lost");
        for reactor in &mut reactors {
            reactor.turn(Some(Duration::ZERO)).expect("the poll works");
        }
    }
    let [first, second, _] = &reactors;
    assert!(first.stats().accepted > 0 && second.stats().accepted > 0);
}

#[test]
#[cfg(unix)]
fn a_listener_takes_the_address_of_the_last_ones_connections_unless_told_not_to() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    let client = common::client(addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    // The side that ends first stays in TIME-WAIT (RFC 9293, 3.6).
    let Event::Open(conn, _) = reactor.handler().events[0] else {
        panic!("it was accepted");
    };
    reactor.with(|_, cx| cx.close(conn));
    reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    drop(client);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    drop(reactor);
    let mut next = self::reactor();
    let strict = ListenOptions::new().reuse_addr(false);
    let error = next
        .with(|_, cx| cx.listen_with(addr, Framing::raw(), &strict))
        .expect_err("a connection is in TIME-WAIT");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    next.listen(addr, Framing::raw()).expect("it is reused");
}

#[test]
fn an_ipv6_listener_can_leave_ipv4_to_another() {
    let mut reactor = reactor();
    let alone = ListenOptions::new().only_v6(true);
    let Ok(six) = reactor.with(|_, cx| cx.listen_with("[::]:0", Framing::raw(), &alone)) else {
        eprintln!("no IPv6 here: skipped");
        return;
    };
    let port = reactor.local_inet_addr(six).expect("it is bound").port();
    look(&mut reactor, six, |socket| {
        assert!(socket.only_v6().expect("told"));
    });
    let four = reactor.with(|_, cx| cx.listen_with(LOOPBACK, Framing::raw(), &alone));
    four.expect("it means nothing to IPv4");
    // Nobody else may have got the port meanwhile; where somebody has, only that is shown.
    if let Err(error) = reactor.listen((Ipv4Addr::UNSPECIFIED, port), Framing::raw()) {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect_err("somebody else has it");
        eprintln!("{error}");
    }
}

#[test]
fn a_udp_socket_has_the_options_that_it_was_opened_with() {
    let mut reactor = reactor();
    let options = UdpOptions::new()
        .broadcast(true)
        .reuse_addr(true)
        .multicast_loop(false)
        .multicast_ttl(3)
        .recv_buffer_len(40 * 1024);
    let udp = reactor
        .with(|_, cx| cx.bind_udp_with(LOOPBACK, &options))
        .expect("a free port");
    look(&mut reactor, udp, |socket| {
        assert!(socket.broadcast().expect("told"));
        assert!(socket.reuse_addr().expect("told"));
        assert!(!socket.multicast_loop().expect("told"));
        assert_eq!(socket.multicast_ttl().expect("told"), 3);
        let len = socket.recv_buffer_len().expect("told");
        assert!((40..=80).contains(&(len / 1024)), "{len}");
        socket.set_broadcast(false).expect("any socket's");
        assert!(!socket.broadcast().expect("told"));
        socket.set_multicast_loop(true).expect("an IP option");
        assert!(socket.multicast_loop().expect("told"));
        socket.set_multicast_ttl(0).expect("an IP option");
        assert_eq!(socket.multicast_ttl().expect("told"), 0);
    });
}

/// Two sockets on one port hear what is sent to the group that they joined, until one leaves.
#[test]
#[cfg(target_os = "linux")]
fn a_group_is_heard_by_all_who_joined_it_and_by_nobody_who_left() {
    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 77, 3);
    let options = UdpOptions::new()
        .reuse_addr(true)
        .join_multicast_v4(GROUP, Ipv4Addr::LOCALHOST);
    let mut reactor = reactor();
    let first = reactor
        .with(|_, cx| cx.bind_udp_with((GROUP, 0), &options))
        .expect("a free port");
    let port = reactor.local_inet_addr(first).expect("it is bound").port();
    let second = reactor
        .with(|_, cx| cx.bind_udp_with((GROUP, port), &options))
        .expect("it is shared");
    let sender = reactor.bind_udp(LOOPBACK).expect("a free port");
    look(&mut reactor, sender, |socket| {
        let lo = Ipv4Addr::LOCALHOST;
        socket.set_multicast_if_v4(lo).expect("it is the loopback");
    });
    let group = SocketAddr::from((GROUP, port));
    let heard = |reactor: &Reactor<Probe>, by, wanted: &[u8]| {
        reactor.handler().count(
            |event| matches!(event, Event::Datagram(id, _, data, _) if *id == by && data == wanted),
        )
    };
    reactor.with(|_, cx| cx.send_to(sender, group, b"one").expect("there is room"));
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 2);
    assert_eq!(heard(&reactor, first, b"one"), 1);
    assert_eq!(heard(&reactor, second, b"one"), 1);
    look(&mut reactor, second, |socket| {
        let lo = Ipv4Addr::LOCALHOST;
        socket.leave_multicast_v4(GROUP, lo).expect("it had joined");
        socket
            .leave_multicast_v4(GROUP, lo)
            .expect_err("it has left");
    });
    // Without it (`IP_MULTICAST_ALL`) a socket hears the groups that others joined.
    reactor.with(|_, cx| {
        let options = cx.socket_options(second).expect("it is open");
        options.set_multicast_all_v4(false).expect("an IP option");
        cx.send_to(sender, group, b"two").expect("there is room");
    });
    drive(&mut reactor, |reactor| heard(reactor, first, b"two") == 1);
    common::settle(&mut reactor);
    assert_eq!(heard(&reactor, second, b"two"), 0);
}

#[test]
fn a_connection_comes_from_the_address_it_was_told_to_come_from() {
    let from = IpAddr::from([127, 0, 0, 1]);
    let options = ConnectOptions::new().local_addr(SocketAddr::from((from, 0)));
    let (mut reactor, client, server) = connected(&options.reuse_addr(true));
    let local = reactor.local_inet_addr(client).expect("it is open");
    assert_eq!(local.ip(), from);
    look(&mut reactor, client, |socket| {
        assert!(socket.reuse_addr().expect("told"));
    });
    let peer = reactor.with(|_, cx| cx.peer_inet_addr(server).expect("it is open"));
    assert_eq!(peer, local);
}

#[test]
fn an_address_of_the_other_family_than_the_local_one_is_passed_over() {
    let (mut server, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    let other: SocketAddr = ([0, 0, 0, 0, 0, 0, 0, 1], addr.port()).into();
    let mut reactor = reactor();
    let options = ConnectOptions::new().local_addr(SocketAddr::from(([127, 0, 0, 1], 0)));
    reactor.with(|_, cx| cx.connect_with(&[other, addr][..], Framing::raw(), (), &options));
    drive(&mut reactor, |reactor| reactor.stats().connected == 1);
    drive(&mut server, |reactor| reactor.stats().accepted == 1);
}

#[test]
fn a_local_address_that_cannot_be_had_fails_the_connect() {
    let held = TcpListener::bind(LOOPBACK).expect("a free port");
    let taken = held.local_addr().expect("it is bound");
    let (_server, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    // TEST-NET-1 (RFC 5737): an address that no interface has.
    let nowhere = SocketAddr::from(([192, 0, 2, 1], 0));
    for (local, kind) in [
        (taken, ErrorKind::AddrInUse),
        (nowhere, ErrorKind::AddrNotAvailable),
    ] {
        let mut reactor = reactor();
        let options = ConnectOptions::new().local_addr(local);
        reactor.with(|_, cx| cx.connect_with(addr, Framing::raw(), (), &options));
        assert_eq!(only_failure(&mut reactor), kind, "from {local}");
    }
}

/// Nobody answers, and the connect's own timeout ends it long before the reactor's.
#[test]
fn a_connect_that_nobody_answers_ends_at_its_own_timeout() {
    let (_held, addr) = silent();
    let mut reactor = reactor();
    let timeout = Duration::from_millis(40);
    assert!(Config::default().connect_deadline > 100 * timeout);
    let begun = std::time::Instant::now();
    // Two of them: the timeout is for all addresses together.
    let options = ConnectOptions::new().timeout(timeout);
    reactor.with(|_, cx| cx.connect_with(&[addr, addr][..], Framing::raw(), (), &options));
    assert_eq!(only_failure(&mut reactor), ErrorKind::TimedOut);
    assert!(begun.elapsed() >= timeout, "never early");
}

/// As where a name has an address of IPv6, and nothing of that gets through.
#[test]
fn an_address_that_answers_nothing_leaves_time_for_the_next_one() {
    let (_held, nobody) = silent();
    let listener = TcpListener::bind(LOOPBACK).expect("a free port");
    let addr = listener.local_addr().expect("it listens");
    let mut reactor = reactor();
    // Each has its hundredth of `Config::connect_deadline`.
    let mut addrs = vec![nobody, nobody, addr];
    addrs.resize(100, nobody);
    let conn = reactor.connect(&addrs[..], Framing::raw(), ());
    drive(&mut reactor, |reactor| reactor.stats().connected == 1);
    let peer = reactor.with(|_, cx| cx.peer_inet_addr(conn));
    assert_eq!(peer.expect("it is open"), addr);
    assert_eq!(reactor.stats().timers, 0, "no deadline is left behind");
    assert_eq!(reactor.stats().closed, 0);
}

/// The kernel lets a socket connect to its own port, as two that open at the same time
/// (RFC 9293, 3.5). Nobody listens there, and the port is free afterwards for who will.
#[test]
#[cfg(target_os = "linux")]
fn a_connect_to_its_own_port_is_refused_and_leaves_the_port_free() {
    const ROUNDS: usize = 100;
    let mut free_count = 0;
    for _ in 0..ROUNDS {
        // An address that hardly anybody else uses.
        let free = TcpListener::bind("127.0.77.1:0").expect("a free port");
        let own = free.local_addr().expect("it is bound");
        drop(free);
        let mut reactor = reactor();
        let options = ConnectOptions::new().local_addr(own);
        let conn = reactor.with(|_, cx| cx.connect_with(own, Framing::line(), (), &options));
        let sent = reactor.with(|_, cx| cx.send(conn, b"to myself"));
        assert!(sent.is_ok(), "{sent:?}");
        assert_eq!(only_failure(&mut reactor), ErrorKind::ConnectionRefused);
        let strict = ListenOptions::new().reuse_addr(false);
        let listening = reactor.with(|_, cx| cx.listen_with(own, Framing::line(), &strict));
        free_count += usize::from(listening.is_ok());
    }
    // Another process may get a port meanwhile, but not time and again.
    assert!(
        free_count > ROUNDS / 2,
        "{free_count} of {ROUNDS} were free"
    );
}

/// Unless somebody asks for it, nobody else's datagrams are heard on a port that is taken.
#[test]
fn a_udp_port_is_shared_only_where_it_is_asked_for() {
    let mut reactor = reactor();
    let first = reactor.bind_udp(LOOPBACK).expect("a free port");
    let addr = reactor.local_inet_addr(first).expect("it is bound");
    let options = UdpOptions::new().reuse_addr(true);
    let error = reactor
        .with(|_, cx| cx.bind_udp_with(addr, &options))
        .expect_err("taken");
    // Windows tells who asks for it from who does not (bind, WSAEACCES).
    let taken = if cfg!(windows) {
        ErrorKind::PermissionDenied
    } else {
        ErrorKind::AddrInUse
    };
    assert_eq!(error.kind(), taken);
    UdpSocket::bind(addr).expect_err("taken");
}
