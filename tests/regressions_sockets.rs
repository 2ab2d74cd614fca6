//! Fixed bugs of accepting, connecting, closing, addresses and debug texts.
//!
//! The test of a bug is named after the bug, and a comment above it describes the bug.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use common::{DEADLINE, Event, Probe, client, drive, listening, settle, silent};
use unstick::{
    Addr, CloseReason, Config, ConnectOptions, Framing, ListenOptions, Reactor, UdpOptions,
};

fn reactor() -> Reactor<Probe> {
    Reactor::new(Probe::silent()).expect("the reactor is created")
}

/// Runs a test of this file again under strace, which makes system calls fail. `inject` is the
/// value of strace's option `inject`. Does nothing if strace is not usable.
#[cfg(target_os = "linux")]
fn rerun_with_errors(test: &str, inject: &str) {
    common::strace::rerun(test, &["-e", &format!("inject={inject}")]);
}

// EPERM and EACCES counted as errors of one connection, so the listener accepted again at once. A
// security module may return them for every accept, so this loop was endless.
#[cfg(target_os = "linux")]
#[test]
fn accept_that_is_never_permitted_used_a_whole_processor() {
    const TIME: Duration = Duration::from_secs(2);
    if !common::is_child() {
        for errno in ["EACCES", "EPERM"] {
            let inject = format!("accept4,accept:error={errno}");
            let name = "accept_that_is_never_permitted_used_a_whole_processor";
            rerun_with_errors(name, &inject);
        }
        return;
    }
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    let _waiting = [client(addr), client(addr)];
    let start = Instant::now();
    while start.elapsed() < TIME {
        let turn = reactor.turn(Some(Duration::from_millis(100)));
        turn.expect("polling succeeds");
    }
    let stats = reactor.stats();
    assert!(stats.accept_errors > 0, "the accept fails");
    assert!(stats.accept_errors <= 40, "{stats:?}");
    assert!(stats.turns <= 60, "{stats:?}");
}

// A socket call that a sandbox always rejects must end with an error and must not cause a busy
// loop.
#[cfg(target_os = "linux")]
#[test]
fn refused_socket_call_ends_with_an_error_and_no_busy_loop() {
    const TIME: Duration = Duration::from_millis(300);
    if !common::is_child() {
        for call in [
            "bind",
            "listen",
            "connect",
            "setsockopt",
            "getsockopt",
            "getsockname",
            "getpeername",
            "shutdown",
            // The first two registrations belong to the reactor and its listener.
            "epoll_ctl:when=3+",
        ] {
            let (call, when) = call.split_once(':').unwrap_or((call, "when=1+"));
            for errno in ["ENOSYS", "EPERM"] {
                let name = "refused_socket_call_ends_with_an_error_and_no_busy_loop";
                rerun_with_errors(name, &format!("{call}:error={errno}:{when}"));
            }
        }
        return;
    }
    let mut reactor = reactor();
    let Ok(listener) = reactor.listen("127.0.0.1:0", Framing::raw()) else {
        return;
    };
    let Ok(addr) = reactor.local_addr(listener) else {
        return;
    };
    let conn = reactor.connect(addr, Framing::raw(), ());
    let run = |reactor: &mut Reactor<Probe>| {
        let start = Instant::now();
        while start.elapsed() < TIME {
            let turn = reactor.turn(Some(Duration::from_millis(20)));
            turn.expect("polling succeeds");
        }
    };
    run(&mut reactor);
    let opened = |event: &Event| matches!(event, Event::Open(id, _) if *id == conn);
    let closed = reactor.handler().closes();
    let failed = closed.iter().any(|(id, _)| *id == conn);
    assert!(
        failed || reactor.handler().count(opened) == 1,
        "neither on_open nor on_close was called"
    );
    // A close that fails must not cause a busy loop.
    reactor.with(|_, cx| cx.close(conn));
    let turns_before = reactor.stats().turns;
    run(&mut reactor);
    let turns = reactor.stats().turns - turns_before;
    assert!(turns <= 40, "the close caused {turns} turns");
}

// If a sandbox forbade `accept4` or did not support it, the listener never accepted a connection.
#[cfg(target_os = "linux")]
#[test]
fn sandbox_without_accept4_accepted_no_connection() {
    if !common::is_child() {
        for inject in [
            "accept4:error=ENOSYS",
            "accept4:error=EPERM",
            // A firewall may forbid a single connection.
            "accept4:error=EPERM:when=1",
            "accept4,accept:error=EPERM:when=1",
        ] {
            let name = "sandbox_without_accept4_accepted_no_connection";
            rerun_with_errors(name, inject);
        }
        return;
    }
    let (mut reactor, addr) = listening(Probe::echo(), Config::default(), Framing::line());
    let mut clients = [client(addr), client(addr)];
    drive(&mut reactor, |reactor| reactor.stats().accepted == 2);
    for client in &mut clients {
        client.write_all(b"hello\n").expect("the server reads");
    }
    // If an accepted socket were in blocking mode, a turn would not return.
    drive(&mut reactor, |reactor| reactor.stats().frames_out == 2);
}

// The addresses of a name were tried one after the other. An address without a server then cost its
// whole share of the timeout.
#[test]
fn dead_first_address_cost_its_whole_timeout() {
    let (_held, dead) = silent();
    let live = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let live_addr = live.local_addr().expect("the listener is bound");
    let mut reactor = reactor();
    let start = Instant::now();
    // With the bug, the first address got half of this timeout, which exceeds the deadline of
    // `drive`.
    let options = ConnectOptions::new().timeout(4 * DEADLINE);
    let conn =
        reactor.with(|_, cx| cx.connect_with(&[dead, live_addr][..], Framing::raw(), (), &options));
    drive(&mut reactor, |it| it.stats().connected == 1);
    let time = start.elapsed();
    assert!(
        time >= Duration::from_millis(250),
        "the connect took only {time:?}"
    );
    let peer = reactor.with(|_, cx| cx.peer_inet_addr(conn));
    assert_eq!(peer.expect("the connection is open"), live_addr);
    settle(&mut reactor);
    let opens = reactor
        .handler()
        .count(|event| matches!(event, Event::Open(..)));
    assert_eq!((opens, reactor.handler().closes().len()), (1, 0));
}

// The last address of a name decided the error. If this address had port 0 or was a multicast
// address, the error was `InvalidInput`, and `Reconnect` made no further attempt.
#[test]
fn address_of_no_server_hid_the_error_of_the_others() {
    let (_held, refusing) = common::refusing();
    let port_0 = SocketAddr::from(([127, 0, 0, 1], 0));
    let multicast = SocketAddr::from(([224, 0, 0, 1], 80));
    let mapped = |ip: [u8; 4]| {
        let ip = std::net::Ipv4Addr::from(ip).to_ipv6_mapped();
        SocketAddr::from((ip, 80))
    };
    for (addrs, expected) in [
        ([refusing, port_0], ErrorKind::ConnectionRefused),
        ([refusing, multicast], ErrorKind::ConnectionRefused),
        (
            [refusing, mapped([224, 0, 0, 1])],
            ErrorKind::ConnectionRefused,
        ),
        ([multicast, port_0], ErrorKind::InvalidInput),
        (
            [mapped([224, 0, 0, 1]), mapped([255; 4])],
            ErrorKind::InvalidInput,
        ),
    ] {
        let mut reactor = reactor();
        reactor.connect(&addrs[..], Framing::raw(), ());
        drive(&mut reactor, |it| !it.handler().closes().is_empty());
        let CloseReason::ConnectFailed(error) = &reactor.handler().only_close().reason else {
            panic!(
                "{addrs:?}: the connect did not fail: {:?}",
                reactor.handler().only_close()
            );
        };
        assert_eq!(error.kind(), expected, "{addrs:?}");
    }
}

// A dual-stack listener reported its IPv4 clients as IPv6, so a check of the IPv4 address did not
// match them.
#[test]
fn ipv4_client_of_a_dual_stack_listener_was_reported_as_ipv6() {
    let mut reactor = reactor();
    let options = ListenOptions::new().only_v6(false);
    let listen = reactor.with(|_, cx| cx.listen_with("[::]:0", Framing::raw(), &options));
    let Ok(listener) = listen else {
        eprintln!("skipped: this machine has no IPv6");
        return;
    };
    let port = reactor
        .local_inet_addr(listener)
        .expect("the socket is bound")
        .port();
    let client = client(SocketAddr::from(([127, 0, 0, 1], port)));
    drive(&mut reactor, |it| it.stats().accepted == 1);
    let Event::Open(conn, _) = reactor.handler().events[0] else {
        panic!("the first event is not on_open");
    };
    let (peer, local) = reactor.with(|_, cx| (cx.peer_inet_addr(conn), cx.local_inet_addr(conn)));
    let ends = [peer, local].map(|addr| addr.expect("the connection is open"));
    let expected = [client.local_addr(), client.peer_addr()];
    assert_eq!(
        ends,
        expected.map(|addr| addr.expect("the client is connected"))
    );

    // A connect to an IPv4-mapped IPv6 address also reports the peer as IPv4.
    let mapped = format!("[::ffff:127.0.0.1]:{port}");
    let conn = reactor.connect(&mapped[..], Framing::raw(), ());
    drive(&mut reactor, |it| it.stats().connected == 1);
    let peer = reactor.with(|_, cx| cx.peer_inet_addr(conn));
    assert_eq!(peer.expect("the connection is open"), ends[1]);
}

// A dual-stack UDP socket reported its IPv4 senders as IPv6.
#[test]
fn ipv4_sender_to_a_dual_stack_socket_was_reported_as_ipv6() {
    for in_batches in [true, false] {
        let mut config = Config::default();
        config.datagram_batches = in_batches;
        let mut reactor =
            Reactor::with_config(Probe::echo(), config).expect("the reactor is created");
        let options = UdpOptions::new().only_v6(false);
        let Ok(socket) = reactor.with(|_, cx| cx.bind_udp_with("[::]:0", &options)) else {
            eprintln!("skipped: this machine has no IPv6");
            return;
        };
        let port = reactor
            .local_inet_addr(socket)
            .expect("the socket is bound")
            .port();
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
        peer.connect(("127.0.0.1", port))
            .expect("the address is valid");
        let deadline = peer.set_read_timeout(Some(DEADLINE));
        deadline.expect("the timeout can be set");
        for nth in 0..3 {
            peer.send(&[nth]).expect("the socket is open");
        }
        drive(&mut reactor, |it| it.stats().datagrams_out == 3);
        for event in &reactor.handler().events {
            let Event::Datagram(_, from, ..) = event else {
                panic!("{event:?}");
            };
            assert_eq!(*from, peer.local_addr().expect("the socket is bound"));
        }
        for nth in 0..3 {
            let mut echo = [9];
            peer.recv(&mut echo).expect("the echo is received");
            assert_eq!(echo, [nth]);
        }
    }
}

// Two different Unix addresses could have the same text, so parsing this text could return the
// wrong address.
#[cfg(unix)]
#[test]
fn text_of_a_unix_addr_named_another_addr() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use unstick::UnixAddr;

    let path = |bytes| {
        UnixAddr::from_pathname(OsStr::from_bytes(bytes)).expect("the path is short enough")
    };
    let mut addrs = vec![
        path(b"@app"),
        path(b"/run/\xff\xfe"),
        path(b"/run/a\\b"),
        path(b"/run/a\nb"),
        path("/run/ä".as_bytes()),
        UnixAddr::default(),
    ];
    #[cfg(any(target_os = "linux", target_os = "android"))]
    for name in [
        &b"a\0b"[..],
        b"a\\b",
        b"\xc3\xa4",
        b"",
        b"\0",
        b"@",
        b"\xff",
    ] {
        addrs.push(UnixAddr::from_abstract_name(name).expect("the name is short enough"));
    }
    for addr in addrs.into_iter().map(Addr::from) {
        let text = addr.to_string();
        let parsed: Addr = text.parse().expect(&text);
        assert_eq!(parsed, addr, "{text}");
    }
}

// A connect to a name without an address reported the peer 0.0.0.0:0.
#[test]
fn peer_of_an_unknown_name_was_reported_as_0_0_0_0() {
    let probe = Probe::new(|cx, event| {
        if let Event::Close(conn, _) = event {
            let error = cx.peer_inet_addr(*conn).expect_err("no address is known");
            assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
            assert!(cx.peer_addr(*conn).is_err(), "no address is known");
        }
    });
    let mut reactor = Reactor::new(probe).expect("the reactor is created");
    let no_addr: &[SocketAddr] = &[];
    reactor.connect(no_addr, Framing::raw(), ());
    drive(&mut reactor, |it| it.stats().closed == 1);
    let closed = reactor.handler().only_close();
    assert!(matches!(closed.reason, CloseReason::ConnectFailed(_)));
}

// The debug text of a reactor contained counters that only the method `stats` computes, so they
// were zero.
#[test]
fn debug_text_of_a_reactor_counted_no_timers() {
    let mut reactor = reactor();
    reactor.with(|_, cx| cx.set_timer(Duration::from_secs(60), 1));
    let text = format!("{reactor:?}");
    assert!(text.contains("timers: 1"), "{text}");
}

// The debug text of a framing with a delimiter contained the tables of its search.
#[test]
fn debug_text_of_a_delimiter_contained_search_tables() {
    let text = format!("{:?}", Framing::delimiter(b"\r\n"));
    assert!(text.len() <= 200, "{} bytes: {text}", text.len());
    assert!(!text.contains("Finder"), "{text}");
}

// An adopted socket opened with its first event. A socket with a full send buffer and no input has
// no event, so this socket never opened.
#[test]
fn adopted_stream_with_a_full_send_buffer_never_opened() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let far = client(listener.local_addr().expect("the listener is bound"));
    let (mut near, _) = listener.accept().expect("the client is connected");
    near.set_nonblocking(true).expect("the mode can be set");
    while near.write(&[0; 65_536]).is_ok() {}
    let mut reactor = reactor();
    reactor.with(|_, cx| cx.adopt_stream(near, Framing::raw(), ()));
    drive(&mut reactor, |it| it.stats().connected == 1);
    drop(far);
}

// `listen` opens only the first address of a name. So clients of the other family were refused.
#[test]
fn listen_on_a_name_left_out_one_address_family() {
    let v6 = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0));
    let v4 = SocketAddr::from(([127, 0, 0, 1], 0));
    if TcpListener::bind(v6).is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let mut reactor = reactor();
    let options = ListenOptions::new();
    let listen_all = |reactor: &mut Reactor<Probe>, addrs: &[SocketAddr]| {
        reactor.with(|_, cx| cx.listen_all(addrs, Framing::raw(), &options))
    };
    for addrs in [
        [v6, v4],
        // Without `only_v6`, the listener at `[::]` would occupy the port for IPv4 too.
        [v6, v4].map(|addr| SocketAddr::new(unspecified(addr), 0)),
    ] {
        let ids = listen_all(&mut reactor, &addrs).expect("a free port is available");
        let port = |id| {
            reactor
                .local_inet_addr(id)
                .expect("the listener is open")
                .port()
        };
        assert_eq!(port(ids[0]), port(ids[1]));
        let _clients = [v6, v4].map(|addr| client(SocketAddr::new(addr.ip(), port(ids[0]))));
        let accepted = reactor.stats().accepted + 2;
        drive(&mut reactor, |it| it.stats().accepted == accepted);
    }

    // If one address fails, no listener stays open.
    let holder = TcpListener::bind(v4).expect("a free port is available");
    let taken = holder.local_addr().expect("the listener is bound");
    let v6 = SocketAddr::new(v6.ip(), taken.port());
    let error = listen_all(&mut reactor, &[v6, taken]).expect_err("the port is in use");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    TcpListener::bind(v6).expect("the first address is free again");
}

fn unspecified(addr: SocketAddr) -> std::net::IpAddr {
    match addr.is_ipv4() {
        true => std::net::Ipv4Addr::UNSPECIFIED.into(),
        false => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

// To move a connection, a program duplicated its socket and aborted the connection. The abort had
// set `SO_LINGER` to zero, so the close of the duplicate destroyed unsent output: of 200,004 bytes,
// 128,004 arrived. `detach` ends the connection without this loss.
#[test]
fn duplicate_of_an_aborted_socket_destroyed_its_output() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::line());
    let (mut far, conn) = common::open(&mut reactor, addr);
    let duplicate = reactor.with(|_, cx| cx.socket_options(conn)?.try_clone());
    let mut duplicate = TcpStream::from(duplicate.expect("a descriptor is available"));
    let result = reactor.with(|_, cx| cx.detach(conn));
    result.expect("the connection is open");
    drive(&mut reactor, |it| it.stats().closed == 1);
    // The detached socket is closed, so the duplicate is the last descriptor.
    reactor.handler_mut().events.clear();
    duplicate
        .set_nonblocking(false)
        .expect("the mode can be set");
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).map(|_| bytes.len())
    });
    duplicate.write_all(b"head").expect("the client reads");
    let body = duplicate.write_all(&[7; 200_000]);
    body.expect("the client reads");
    drop(duplicate);
    let len = reader.join().expect("the reader does not panic");
    assert_eq!(len.expect("the stream ends without a reset"), 200_004);
}
