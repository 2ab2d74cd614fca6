//! Socket options: they are set through the crate and read back from the kernel. The effect of some
//! of them is tested too.

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
    Reactor::new(Probe::silent()).expect("the reactor is created")
}

/// Calls `look` with an open socket and returns the result.
fn look<R>(
    reactor: &mut Reactor<Probe>,
    id: impl Into<SocketId>,
    look: impl FnOnce(&SocketRef<'_>) -> R,
) -> R {
    reactor.with(|_, cx| look(&cx.socket(id).expect("the socket is open")))
}

/// Returns a reactor with both ends of one connection, and the ids of the connected and the
/// accepted end.
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
    let (server, _) = server.expect("one end was accepted");
    (reactor, client, server)
}

/// Returns the error kind with which the only connection failed to connect.
fn only_failure(reactor: &mut Reactor<Probe>) -> ErrorKind {
    drive(reactor, |reactor| !reactor.handler().closes().is_empty());
    assert_eq!(reactor.handler().events.len(), 1, "no other callback ran");
    match &reactor.handler().closes()[0].1.reason {
        CloseReason::ConnectFailed(error) => error.kind(),
        reason => panic!("the reason of the close is not a failed connect: {reason}"),
    }
}

#[test]
fn tcp_socket_options_read_back_as_set() {
    let (mut reactor, conn, _) = connected(&ConnectOptions::new());
    look(&mut reactor, conn, |socket| {
        for on in [false, true] {
            socket.set_nodelay(on).expect("the TCP option can be set");
            assert_eq!(socket.nodelay().expect("the option can be read"), on);
        }
        for hops in [1, 255] {
            socket.set_ttl(hops).expect("the IP option can be set");
            assert_eq!(socket.ttl().expect("the option can be read"), hops);
        }
        // Expedited Forwarding is DSCP 46 (RFC 3246).
        socket.set_tos(46 << 2).expect("the IP option can be set");
        assert_eq!(socket.tos().expect("the option can be read"), 46 << 2);
        let default = socket.recv_buffer_len().expect("the option can be read");
        socket
            .set_recv_buffer_len(16 * 1024)
            .expect("the socket option can be set");
        let len = socket.recv_buffer_len().expect("the option can be read");
        let is_as_set = (16..=32).contains(&(len / 1024));
        assert!(len != default && is_as_set, "a buffer of {len} bytes");
        socket
            .set_send_buffer_len(24 * 1024)
            .expect("the socket option can be set");
        let len = socket.send_buffer_len().expect("the option can be read");
        assert!((24..=48).contains(&(len / 1024)), "a buffer of {len} bytes");
    });
}

#[test]
fn keepalive_is_off_by_default_and_can_be_set() {
    let (mut reactor, conn, _) = connected(&ConnectOptions::new());
    let requested = Keepalive::new()
        .idle(Duration::from_secs(61))
        .interval(Duration::from_secs(7))
        .count(3);
    let expected = if cfg!(target_os = "openbsd") {
        Keepalive::new()
    } else if cfg!(windows) {
        Keepalive::new().count(3)
    } else {
        requested
    };
    look(&mut reactor, conn, |socket| {
        assert_eq!(socket.keepalive().expect("the option can be read"), None);
        socket
            .set_keepalive(Some(requested))
            .expect("the TCP option can be set");
        assert_eq!(
            socket.keepalive().expect("the option can be read"),
            Some(expected)
        );
        socket
            .set_keepalive(None)
            .expect("the TCP option can be set");
        assert_eq!(socket.keepalive().expect("the option can be read"), None);
    });
}

#[test]
#[cfg(target_os = "linux")]
fn linux_socket_options_read_back_as_set() {
    let (mut reactor, conn, _) = connected(&ConnectOptions::new().device("lo"));
    look(&mut reactor, conn, |socket| {
        assert_eq!(socket.user_timeout().expect("the option can be read"), None);
        let timeout = Some(Duration::from_millis(4321));
        socket
            .set_user_timeout(timeout)
            .expect("the TCP option can be set");
        assert_eq!(
            socket.user_timeout().expect("the option can be read"),
            timeout
        );
        socket
            .set_notsent_lowat(16 * 1024)
            .expect("the TCP option can be set");
        assert_eq!(
            socket.notsent_lowat().expect("the option can be read"),
            16 * 1024
        );
        assert_eq!(
            socket.device().expect("the option can be read").as_deref(),
            Some("lo"),
            "the device was bound before the connect"
        );
    });
}

#[test]
fn ttl_tos_and_multicast_options_work_on_ipv6() {
    let mut reactor = reactor();
    let options = UdpOptions::new()
        .only_v6(true)
        .multicast_loop(false)
        .multicast_ttl(9);
    let Ok(udp) = reactor.with(|_, cx| cx.bind_udp_with("[::1]:0", &options)) else {
        eprintln!("skipped: IPv6 is not available");
        return;
    };
    look(&mut reactor, udp, |socket| {
        assert!(socket.only_v6().expect("the option can be read"));
        assert!(!socket.multicast_loop().expect("the option can be read"));
        assert_eq!(socket.multicast_ttl().expect("the option can be read"), 9);
        socket.set_ttl(77).expect("the IP option can be set");
        assert_eq!(socket.ttl().expect("the option can be read"), 77);
        if cfg!(windows) {
            let error = socket
                .set_tos(8 << 2)
                .expect_err("Windows has no such option");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        } else {
            socket.set_tos(8 << 2).expect("the IP option can be set");
            assert_eq!(socket.tos().expect("the option can be read"), 8 << 2);
        }
    });
}

#[test]
#[cfg(target_os = "linux")]
fn ipv6_multicast_group_is_joined_and_left_once() {
    use std::net::Ipv6Addr;

    const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0x77, 3);
    const LOOPBACK_INTERFACE: u32 = 1;
    let mut reactor = reactor();
    let Ok(later) = reactor.bind_udp("[::1]:0") else {
        eprintln!("skipped: IPv6 is not available");
        return;
    };
    look(&mut reactor, later, |socket| {
        let joined = socket.join_multicast_v6(GROUP, LOOPBACK_INTERFACE);
        joined.expect("the loopback interface exists");
        let sends_by = socket.set_multicast_if_v6(LOOPBACK_INTERFACE);
        sends_by.expect("the loopback interface exists");
    });
    let interface = reactor.with(|_, cx| {
        let options = cx.socket_options(later).expect("the socket is open");
        options.multicast_if_v6().expect("the option can be read")
    });
    assert_eq!(interface, LOOPBACK_INTERFACE);
    let options = UdpOptions::new().join_multicast_v6(GROUP, LOOPBACK_INTERFACE);
    let at_once = reactor.with(|_, cx| cx.bind_udp_with("[::1]:0", &options));
    for id in [later, at_once.expect("a free port is available")] {
        look(&mut reactor, id, |socket| {
            let again = socket.join_multicast_v6(GROUP, LOOPBACK_INTERFACE);
            again.expect_err("the group is joined already");
            let left = socket.leave_multicast_v6(GROUP, LOOPBACK_INTERFACE);
            left.expect("the group was joined");
            let again = socket.leave_multicast_v6(GROUP, LOOPBACK_INTERFACE);
            again.expect_err("the group was left already");
        });
    }
}

#[test]
fn option_of_another_socket_kind_is_an_error() {
    let mut reactor = reactor();
    let udp = reactor
        .bind_udp(LOOPBACK)
        .expect("a free port is available");
    look(&mut reactor, udp, |socket| {
        socket
            .set_nodelay(true)
            .expect_err("UDP has no Nagle algorithm");
        socket.only_v6().expect_err("the socket is IPv4");
    });
    reactor.with(|_, cx| cx.close_udp(udp));
    drive(&mut reactor, |reactor| {
        reactor.local_inet_addr(udp).is_err()
    });
    let error = reactor.with(|_, cx| cx.socket(udp).expect_err("the socket is closed").kind());
    assert_eq!(error, ErrorKind::NotConnected);
}

#[test]
fn listener_buffer_sizes_are_inherited() {
    let mut reactor = reactor();
    let options = ListenOptions::new()
        .recv_buffer_len(20 * 1024)
        .send_buffer_len(28 * 1024);
    let listener = reactor
        .with(|_, cx| cx.listen_with(LOOPBACK, Framing::raw(), &options))
        .expect("a free port is available");
    let addr = reactor
        .local_inet_addr(listener)
        .expect("the socket is bound");
    let _client = common::client(addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    let Event::Open(conn, _) = reactor.handler().events[0] else {
        panic!("the first event is not on_open");
    };
    let expected = look(&mut reactor, listener, |socket| {
        (socket.recv_buffer_len(), socket.send_buffer_len())
    });
    let expected = (
        expected.0.expect("the option can be read"),
        expected.1.expect("the option can be read"),
    );
    assert!((20..=40).contains(&(expected.0 / 1024)), "{expected:?}");
    assert!((28..=56).contains(&(expected.1 / 1024)), "{expected:?}");
    look(&mut reactor, conn, |socket| {
        assert_eq!(
            socket.recv_buffer_len().expect("the option can be read"),
            expected.0
        );
        assert_eq!(
            socket.send_buffer_len().expect("the option can be read"),
            expected.1
        );
    });
}

#[test]
#[cfg(target_os = "linux")]
fn listen_backlog_is_the_configured_one() {
    for backlog in [1, 5] {
        let mut reactor = reactor();
        let options = ListenOptions::new().backlog(backlog);
        let listener = reactor
            .with(|_, cx| cx.listen_with(LOOPBACK, Framing::raw(), &options))
            .expect("a free port is available");
        let port = reactor
            .local_inet_addr(listener)
            .expect("the socket is bound")
            .port();
        let listing = std::process::Command::new("ss")
            .args(["-Hltn", &format!("sport = :{port}")])
            .output();
        let Ok(listing) = listing else {
            eprintln!("skipped: ss is not available");
            return;
        };
        let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
        // Columns of ss(8): State, Recv-Q, Send-Q. Send-Q of a listener is its backlog.
        let reported = listing.split_whitespace().nth(2).map(str::to_owned);
        assert_eq!(reported, Some(backlog.to_string()), "{listing}");
    }
}

#[test]
#[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
fn reuse_port_must_be_set_by_every_listener() {
    let shared = ListenOptions::new().reuse_port(true);
    let mut reactors = [reactor(), reactor(), reactor()];
    let [first, second, third] = &mut reactors;
    let listener = first
        .with(|_, cx| cx.listen_with(LOOPBACK, Framing::raw(), &shared))
        .expect("a free port is available");
    let addr = first
        .local_inet_addr(listener)
        .expect("the socket is bound");
    look(first, listener, |socket| {
        assert!(socket.reuse_port().expect("the option can be read"));
        assert!(
            socket.reuse_addr().expect("the option can be read"),
            "SO_REUSEADDR is the default"
        );
    });
    let error = third
        .listen(addr, Framing::raw())
        .expect_err("the port is not shared");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    second
        .with(|_, cx| cx.listen_with(addr, Framing::raw(), &shared))
        .expect("SO_REUSEPORT shares the port");
    let _clients: Vec<_> = (0..64).map(|_| common::client(addr)).collect();
    let deadline = std::time::Instant::now() + common::DEADLINE;
    while reactors.iter().map(|r| r.stats().accepted).sum::<u64>() < 64 {
        assert!(
            std::time::Instant::now() < deadline,
            "some connections were not accepted"
        );
        for reactor in &mut reactors {
            reactor
                .turn(Some(Duration::ZERO))
                .expect("polling succeeds");
        }
    }
    // Linux chooses the listener of a connection by a hash of its addresses and ports. So each of
    // the two listeners gets some of 64 connections. Other systems may deliver all to one listener.
    let [first, second, _] = &reactors;
    let is_shared = first.stats().accepted > 0 && second.stats().accepted > 0;
    assert!(is_shared || !cfg!(target_os = "linux"));
}

#[test]
#[cfg(unix)]
fn reuse_addr_allows_a_port_in_time_wait() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    let client = common::client(addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    // The side that closes first stays in TIME-WAIT (RFC 9293, section 3.6).
    let Event::Open(conn, _) = reactor.handler().events[0] else {
        panic!("the first event is not on_open");
    };
    reactor.with(|_, cx| cx.close(conn));
    reactor
        .turn(Some(Duration::ZERO))
        .expect("polling succeeds");
    drop(client);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    drop(reactor);
    let mut next = self::reactor();
    let strict = ListenOptions::new().reuse_addr(false);
    let error = next
        .with(|_, cx| cx.listen_with(addr, Framing::raw(), &strict))
        .expect_err("a connection is in TIME-WAIT");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    next.listen(addr, Framing::raw())
        .expect("SO_REUSEADDR allows the port");
}

#[test]
fn only_v6_listener_leaves_the_ipv4_port_free() {
    let mut reactor = reactor();
    let alone = ListenOptions::new().only_v6(true);
    let Ok(six) = reactor.with(|_, cx| cx.listen_with("[::]:0", Framing::raw(), &alone)) else {
        eprintln!("skipped: IPv6 is not available");
        return;
    };
    let port = reactor
        .local_inet_addr(six)
        .expect("the socket is bound")
        .port();
    look(&mut reactor, six, |socket| {
        assert!(socket.only_v6().expect("the option can be read"));
    });
    let four = reactor.with(|_, cx| cx.listen_with(LOOPBACK, Framing::raw(), &alone));
    four.expect("only_v6 has no effect on an IPv4 listener");
    // `listen` may fail only if another process has taken the port in the meantime.
    if let Err(error) = reactor.listen((Ipv4Addr::UNSPECIFIED, port), Framing::raw()) {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect_err("another process has the port");
        eprintln!("{error}");
    }
}

#[test]
fn udp_socket_has_the_options_it_was_opened_with() {
    let mut reactor = reactor();
    let options = UdpOptions::new()
        .broadcast(true)
        .reuse_addr(true)
        .multicast_loop(false)
        .multicast_ttl(3)
        .recv_buffer_len(40 * 1024);
    let udp = reactor
        .with(|_, cx| cx.bind_udp_with(LOOPBACK, &options))
        .expect("a free port is available");
    look(&mut reactor, udp, |socket| {
        assert!(socket.broadcast().expect("the option can be read"));
        assert!(socket.reuse_addr().expect("the option can be read"));
        assert!(!socket.multicast_loop().expect("the option can be read"));
        assert_eq!(socket.multicast_ttl().expect("the option can be read"), 3);
        let len = socket.recv_buffer_len().expect("the option can be read");
        assert!((40..=80).contains(&(len / 1024)), "a buffer of {len} bytes");
        socket
            .set_broadcast(false)
            .expect("the socket option can be set");
        assert!(!socket.broadcast().expect("the option can be read"));
        socket
            .set_multicast_loop(true)
            .expect("the IP option can be set");
        assert!(socket.multicast_loop().expect("the option can be read"));
        socket
            .set_multicast_ttl(0)
            .expect("the IP option can be set");
        assert_eq!(socket.multicast_ttl().expect("the option can be read"), 0);
    });
}

/// Two sockets on one port receive the datagrams to a group that both joined. After one socket left
/// the group, only the other one receives them.
#[test]
#[cfg(target_os = "linux")]
fn multicast_reaches_only_joined_sockets() {
    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 77, 3);
    let options = UdpOptions::new()
        .reuse_addr(true)
        .join_multicast_v4(GROUP, Ipv4Addr::LOCALHOST);
    let mut reactor = reactor();
    let first = reactor
        .with(|_, cx| cx.bind_udp_with((GROUP, 0), &options))
        .expect("a free port is available");
    let port = reactor
        .local_inet_addr(first)
        .expect("the socket is bound")
        .port();
    let second = reactor
        .with(|_, cx| cx.bind_udp_with((GROUP, port), &options))
        .expect("SO_REUSEADDR shares the port");
    let sender = reactor
        .bind_udp(LOOPBACK)
        .expect("a free port is available");
    look(&mut reactor, sender, |socket| {
        let lo = Ipv4Addr::LOCALHOST;
        socket
            .set_multicast_if_v4(lo)
            .expect("the address is that of the loopback interface");
    });
    let group = SocketAddr::from((GROUP, port));
    let heard = |reactor: &Reactor<Probe>, by, wanted: &[u8]| {
        reactor.handler().count(
            |event| matches!(event, Event::Datagram(id, _, data, _) if *id == by && data == wanted),
        )
    };
    reactor.with(|_, cx| {
        cx.send_to(sender, group, b"one")
            .expect("the datagram queue has space")
    });
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 2);
    assert_eq!(heard(&reactor, first, b"one"), 1);
    assert_eq!(heard(&reactor, second, b"one"), 1);
    look(&mut reactor, second, |socket| {
        let lo = Ipv4Addr::LOCALHOST;
        socket
            .leave_multicast_v4(GROUP, lo)
            .expect("the group was joined");
        socket
            .leave_multicast_v4(GROUP, lo)
            .expect_err("the group was left already");
    });
    // With `IP_MULTICAST_ALL` on, a socket also receives groups that other sockets joined.
    reactor.with(|_, cx| {
        let options = cx.socket_options(second).expect("the socket is open");
        options
            .set_multicast_all_v4(false)
            .expect("the IP option can be set");
        cx.send_to(sender, group, b"two")
            .expect("the datagram queue has space");
    });
    drive(&mut reactor, |reactor| heard(reactor, first, b"two") == 1);
    common::settle(&mut reactor);
    assert_eq!(heard(&reactor, second, b"two"), 0);
}

#[test]
fn connect_with_local_addr_uses_that_address() {
    let from = IpAddr::from([127, 0, 0, 1]);
    let options = ConnectOptions::new().local_addr(SocketAddr::from((from, 0)));
    let (mut reactor, client, server) = connected(&options.reuse_addr(true));
    let local = reactor
        .local_inet_addr(client)
        .expect("the connection is open");
    assert_eq!(local.ip(), from);
    look(&mut reactor, client, |socket| {
        assert!(socket.reuse_addr().expect("the option can be read"));
    });
    let peer = reactor.with(|_, cx| cx.peer_inet_addr(server).expect("the connection is open"));
    assert_eq!(peer, local);
}

#[test]
fn connect_skips_addresses_of_another_family() {
    let (mut server, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    let other: SocketAddr = ([0, 0, 0, 0, 0, 0, 0, 1], addr.port()).into();
    let mut reactor = reactor();
    let options = ConnectOptions::new().local_addr(SocketAddr::from(([127, 0, 0, 1], 0)));
    reactor.with(|_, cx| cx.connect_with(&[other, addr][..], Framing::raw(), (), &options));
    drive(&mut reactor, |reactor| reactor.stats().connected == 1);
    drive(&mut server, |reactor| reactor.stats().accepted == 1);
}

#[test]
fn connect_from_an_unavailable_address_fails() {
    let held = TcpListener::bind(LOOPBACK).expect("a free port is available");
    let taken = held.local_addr().expect("the socket is bound");
    let (_server, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    // An address of TEST-NET-1 (RFC 5737), which no interface has.
    let nowhere = SocketAddr::from(([192, 0, 2, 1], 0));
    for (local, kind) in [
        (taken, ErrorKind::AddrInUse),
        (nowhere, ErrorKind::AddrNotAvailable),
    ] {
        let mut reactor = reactor();
        let options = ConnectOptions::new().local_addr(local);
        reactor.with(|_, cx| cx.connect_with(addr, Framing::raw(), (), &options));
        assert_eq!(only_failure(&mut reactor), kind, "local address {local}");
    }
}

/// The peer never replies to the connect, and the timeout is far below `Config::connect_deadline`.
/// `connect_fails_once_at_the_deadline_of_all_addresses` checks the exact time, which is virtual.
#[test]
fn connect_options_timeout_fails_the_connect() {
    let (_held, addr) = silent();
    let mut reactor = reactor();
    let timeout = Duration::from_millis(40);
    assert!(Config::default().connect_deadline > 100 * timeout);
    let begun = std::time::Instant::now();
    let options = ConnectOptions::new().timeout(timeout);
    reactor.with(|_, cx| cx.connect_with(addr, Framing::raw(), (), &options));
    assert_eq!(only_failure(&mut reactor), ErrorKind::TimedOut);
    assert!(
        begun.elapsed() >= timeout,
        "the connect failed before its timeout"
    );
}

/// The next address is tried 250 ms after an address without a reply, such as an IPv6 address on a
/// network that drops IPv6.
#[test]
fn connect_leaves_time_for_the_next_address() {
    let (_held, without_reply) = silent();
    let listener = TcpListener::bind(LOOPBACK).expect("a free port is available");
    let addr = listener.local_addr().expect("the listener is bound");
    let mut reactor = reactor();
    // The connect ends with the third address, so the other 97 addresses are not tried.
    let mut addrs = vec![without_reply, without_reply, addr];
    addrs.resize(100, without_reply);
    let conn = reactor.connect(&addrs[..], Framing::raw(), ());
    drive(&mut reactor, |reactor| reactor.stats().connected == 1);
    let peer = reactor.with(|_, cx| cx.peer_inet_addr(conn));
    assert_eq!(peer.expect("the connection is open"), addr);
    assert_eq!(reactor.stats().timers, 0, "the connect deadline is removed");
    assert_eq!(reactor.stats().closed, 0);
}

/// Linux lets a socket connect to its own port, as in a simultaneous open (RFC 9293, section 3.5).
/// No listener has this port, so the connect must fail and the port must be free afterwards.
#[test]
#[cfg(target_os = "linux")]
fn connect_to_its_own_port_is_refused() {
    const ROUNDS: usize = 100;
    let mut free_count = 0;
    for _ in 0..ROUNDS {
        // Use a loopback address that other programs rarely use, so that the port stays free.
        let free = TcpListener::bind("127.0.77.1:0").expect("a free port is available");
        let own = free.local_addr().expect("the socket is bound");
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
    // Another process may take the port in the meantime, but not in half of all rounds.
    assert!(
        free_count > ROUNDS / 2,
        "the port was free in {free_count} of {ROUNDS} rounds"
    );
}

/// Without `reuse_addr`, no second socket can receive datagrams on a port in use.
#[test]
fn udp_port_is_not_shared_without_reuse_addr() {
    let mut reactor = reactor();
    let first = reactor
        .bind_udp(LOOPBACK)
        .expect("a free port is available");
    let addr = reactor.local_inet_addr(first).expect("the socket is bound");
    let options = UdpOptions::new().reuse_addr(true);
    let error = reactor
        .with(|_, cx| cx.bind_udp_with(addr, &options))
        .expect_err("the port is in use");
    // Windows reports `WSAEACCES` if only one of the sockets set the option (see bind in Winsock).
    let taken = if cfg!(windows) {
        ErrorKind::PermissionDenied
    } else {
        ErrorKind::AddrInUse
    };
    assert_eq!(error.kind(), taken);
    UdpSocket::bind(addr).expect_err("the port is in use");
}
