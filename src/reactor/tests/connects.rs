//! Tests in virtual time: a connect to several addresses, and failing accept calls.

use super::sim_world::{MS, Node, SEC, node, run_for, settle, take_events};
use super::*;
use crate::os::ConnectOptions;

/// Returns the nth address, of either family.
fn addr(nth: u8, is_v4: bool) -> SocketAddr {
    match is_v4 {
        true => SocketAddr::from(([192, 0, 2, nth], 80)),
        false => SocketAddr::from(([0x2001, 0xDB8, 0, 0, 0, 0, 0, u16::from(nth)], 80)),
    }
}

/// Returns a new world, addresses in it that do not reply, and a reactor.
fn silent(families: &[bool]) -> (World, Vec<SocketAddr>, Reactor<Node>) {
    let world = World::new(0);
    let addrs: Vec<_> = (1..)
        .zip(families)
        .map(|(nth, is_v4)| addr(nth, *is_v4))
        .collect();
    addrs.iter().for_each(|addr| world.silence(*addr));
    (world, addrs, node(world, Config::default()))
}

fn dial(reactor: &mut Reactor<Node>, addrs: &[SocketAddr], timeout: Duration) -> ConnId {
    let options = ConnectOptions::new().timeout(timeout);
    reactor.with(|_, cx| cx.connect_with(addrs, Framing::line(), (), &options))
}

#[test]
fn dead_first_address_delays_a_connect_by_250_ms() {
    let (world, mut addrs, mut reactor) = silent(&[false]);
    let live = world.listen(addr(9, true));
    addrs.push(addr(9, true));
    let conn = dial(&mut reactor, &addrs, 15 * SEC);
    run_for(world, &mut [&mut reactor], 60 * SEC);
    assert_eq!(take_events(&mut reactor), ["250 open"]);
    let server = live.accept().expect("the client has connected");
    assert_eq!(world.open_streams(), 2, "the first attempt is closed");
    let peer = reactor.with(|_, cx| cx.peer_inet_addr(conn));
    assert_eq!(peer.expect("the connection is open"), addr(9, true));
    // Events of the attempt that connected are not lost.
    server.send(b"one\n");
    run_for(world, &mut [&mut reactor], SEC);
    assert_eq!(server.recv(), b"one\n");
    server.close();
    run_for(world, &mut [&mut reactor], SEC);
    let expected = [
        "60000 frame one",
        "61000 half-close",
        "61000 close Peer, 0 unsent, 0 undecoded",
    ];
    assert_eq!(take_events(&mut reactor), expected);
    assert_eq!(world.open_streams(), 0);
}

#[test]
fn dead_addresses_of_one_family_do_not_delay_the_other_family() {
    let (world, mut addrs, mut reactor) = silent(&[false; 4]);
    world.listen(addr(9, true));
    addrs.push(addr(9, true));
    dial(&mut reactor, &addrs, 15 * SEC);
    run_for(world, &mut [&mut reactor], 60 * SEC);
    assert_eq!(take_events(&mut reactor), ["250 open"]);
}

/// The first address replies after a second, when more attempts are pending.
#[test]
fn slow_first_address_can_still_win() {
    let (world, mut addrs, mut reactor) = silent(&[true; 4]);
    let options = ListenOptions::new().backlog(0);
    let slow = world.listen_with(addr(9, true), &options);
    world.connect(addr(9, true));
    addrs.insert(0, addr(9, true));
    let conn = dial(&mut reactor, &addrs, 15 * SEC);
    // After 600 ms, `slow` accepts the connection that filled its backlog. The first repeated SYN,
    // after a second, then finds space in the backlog.
    world.after(600 * MS, move || _ = slow.accept());
    run_for(world, &mut [&mut reactor], 599 * MS);
    assert_eq!(
        (take_events(&mut reactor), world.open_streams()),
        (vec![], 5)
    );
    run_for(world, &mut [&mut reactor], 60 * SEC);
    assert_eq!(take_events(&mut reactor), ["1000 open"]);
    let peer = reactor.with(|_, cx| cx.peer_inet_addr(conn));
    assert_eq!(peer.expect("the connection is open"), addr(9, true));
    assert_eq!(world.open_streams(), 4, "both ends of two connections");
}

#[test]
fn failed_attempt_is_followed_by_the_next_address_at_once() {
    let (world, _, mut reactor) = silent(&[]);
    world.listen(addr(9, true));
    let addrs = [addr(1, true), addr(2, false), addr(3, true), addr(9, true)];
    dial(&mut reactor, &addrs, 15 * SEC);
    run_for(world, &mut [&mut reactor], 60 * SEC);
    assert_eq!(take_events(&mut reactor), ["0 open"]);
    assert_eq!(world.open_streams(), 2);
}

#[test]
fn connect_fails_once_at_the_deadline_of_all_addresses() {
    let (world, addrs, mut reactor) = silent(&[true, false, true]);
    dial(&mut reactor, &addrs, 3 * SEC);
    run_for(world, &mut [&mut reactor], SEC);
    assert_eq!(
        (take_events(&mut reactor), world.open_streams()),
        (vec![], 3)
    );
    run_for(world, &mut [&mut reactor], 60 * SEC);
    let close = "3000 close ConnectFailed TimedOut, 0 unsent, 0 undecoded";
    assert_eq!(take_events(&mut reactor), [close]);
    assert_eq!(world.open_streams(), 0);
    // A deadline also ends the connect if it is shorter than the 250 ms between two attempts.
    dial(&mut reactor, &addrs, 100 * MS);
    run_for(world, &mut [&mut reactor], 60 * SEC);
    let close = "61100 close ConnectFailed TimedOut, 0 unsent, 0 undecoded";
    assert_eq!(take_events(&mut reactor), [close]);
}

#[test]
fn attempts_of_one_connect_are_bounded() {
    let (world, addrs, mut reactor) = silent(&[true; 100]);
    dial(&mut reactor, &addrs, 15 * SEC);
    let mut most = 0;
    for _ in 0..150 {
        run_for(world, &mut [&mut reactor], 100 * MS - MS / 10);
        most = most.max(world.open_streams());
    }
    assert_eq!(most, 8);
    run_for(world, &mut [&mut reactor], SEC);
    assert_eq!(take_events(&mut reactor).len(), 1);
    assert_eq!(world.open_streams(), 0);
}

#[test]
fn close_while_connecting_closes_all_attempts() {
    let (world, addrs, mut reactor) = silent(&[true, true, true]);
    let conn = dial(&mut reactor, &addrs, 3 * SEC);
    run_for(world, &mut [&mut reactor], 600 * MS);
    reactor.with(|_, cx| cx.close(conn));
    run_for(world, &mut [&mut reactor], 60 * SEC);
    let close = "600 close Local, 0 unsent, 0 undecoded";
    assert_eq!(take_events(&mut reactor), [close]);
    assert_eq!(world.open_streams(), 0);
}

/// Two sockets cannot be bound to one port, so a second attempt would fail at once.
#[test]
fn attempts_from_a_fixed_local_port_do_not_overlap() {
    let world = World::new(0);
    world.set_latency(300 * MS);
    let mut reactor = node(world, Config::default());
    world.listen(addr(9, true));
    let options = ConnectOptions::new().local_addr(SocketAddr::from(([192, 0, 2, 200], 7)));
    let addrs = [addr(1, true), addr(2, true), addr(9, true)];
    reactor.with(|_, cx| cx.connect_with(&addrs[..], Framing::line(), (), &options));
    run_for(world, &mut [&mut reactor], 60 * SEC);
    assert_eq!(take_events(&mut reactor), ["900 open"]);
}

/// The address is tried again when the pending attempt fails, or when the timer fires.
#[test]
fn lack_of_descriptors_skips_no_address() {
    let emfile = if cfg!(windows) { 10_024 } else { 24 };
    for (refused_after, expected) in [(300 * MS, "600 open"), (60 * SEC, "800 open")] {
        let world = World::new(0);
        world.set_latency(refused_after);
        let mut reactor = node(world, Config::default());
        world.listen(addr(9, true));
        dial(&mut reactor, &[addr(1, true), addr(9, true)], 90 * SEC);
        run_for(world, &mut [&mut reactor], 200 * MS);
        world.fail_connects(Some(emfile));
        run_for(world, &mut [&mut reactor], 80 * MS);
        world.fail_connects(None);
        world.set_latency(300 * MS);
        run_for(world, &mut [&mut reactor], 70 * SEC);
        assert_eq!(take_events(&mut reactor), [expected]);
    }
}

/// One turn handles the reply to the first attempt and the refusal of the second attempt.
#[test]
fn reply_and_refusal_in_one_turn_open_one_connection() {
    let world = World::new(0);
    world.set_latency(300 * MS);
    let mut reactor = node(world, Config::default());
    let addrs = [addr(1, true), addr(2, true), addr(3, true)];
    let listeners = [1, 3].map(|nth| world.listen(addr(nth, true)));
    dial(&mut reactor, &addrs, 15 * SEC);
    reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    world.advance(250 * MS);
    settle(&mut [&mut reactor]);
    // No turn in between: all replies are in one batch of events.
    world.advance(10 * SEC);
    settle(&mut [&mut reactor]);
    run_for(world, &mut [&mut reactor], 10 * SEC);
    assert_eq!(take_events(&mut reactor), ["10250 open"]);
    assert_eq!(world.open_streams(), 2);
    let server = listeners[0].accept().expect("the client has connected");
    server.send(b"hello\n");
    run_for(world, &mut [&mut reactor], SEC);
    assert_eq!(take_events(&mut reactor), ["20550 frame hello"]);
}

/// One turn handles the replies to both attempts. The first address is used, and the other
/// connection is closed.
#[test]
fn two_attempts_that_succeed_in_one_turn_open_one_connection() {
    let world = World::new(0);
    world.set_latency(300 * MS);
    let mut reactor = node(world, Config::default());
    let addrs = [addr(1, true), addr(2, true)];
    let listeners = addrs.map(|addr| world.listen(addr));
    let conn = dial(&mut reactor, &addrs, 15 * SEC);
    reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    world.advance(250 * MS);
    settle(&mut [&mut reactor]);
    // No turn in between: both replies are in one batch of events.
    world.advance(10 * SEC);
    settle(&mut [&mut reactor]);
    run_for(world, &mut [&mut reactor], 10 * SEC);
    assert_eq!(take_events(&mut reactor), ["10250 open"]);
    assert_eq!(reactor.stats().connected, 1);
    let peer = reactor.with(|_, cx| cx.peer_inet_addr(conn));
    assert_eq!(peer.expect("the connection is open"), addrs[0]);
    let servers = listeners.map(|it| it.accept().expect("both attempts reached their server"));
    servers[0].send(b"one\n");
    servers[1].send(b"two\n");
    run_for(world, &mut [&mut reactor], SEC);
    assert_eq!(take_events(&mut reactor), ["20550 frame one"]);
    servers.iter().for_each(|it| it.close());
    run_for(world, &mut [&mut reactor], SEC);
    assert_eq!(reactor.stats().closed, 1);
    assert_eq!(world.open_streams(), 0);
}

/// The refusal of one attempt arrives together with the reply to the other attempt. The refusal
/// must not count as a hang-up of the connection.
#[test]
fn refusal_of_a_losing_attempt_is_no_hangup() {
    let world = World::new(0);
    world.set_latency(300 * MS);
    let mut reactor = Reactor::with_os(Recorder::default(), Config::default(), world.os());
    let reactor = reactor.as_mut().expect("the simulated poll opens");
    world.listen(addr(1, true));
    let addrs = [addr(1, true), addr(2, true)];
    let conn = reactor.connect(&addrs[..], Framing::line(), ());
    reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    world.advance(260 * MS);
    reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    reactor
        .with(|_, cx| cx.pause(conn))
        .expect("the connection exists");
    world.advance(10 * SEC);
    for _ in 0..10 {
        reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    }
    assert_eq!(reactor.stats().connected, 1);
    assert_eq!(reactor.handler.hangups, []);
}

#[test]
fn accept_that_always_fails_is_tried_at_most_twice_a_second() {
    // EPERM, EACCES and EPROTO. After ECONNABORTED, the next accept normally succeeds, so the first
    // wait comes later.
    for (errno, before_wait) in [(1, 0), (13, 0), (71, 0), (103, 1024)] {
        let world = World::new(0);
        let mut reactor = node(world, Config::default());
        let listener = reactor.listen(addr(1, true), Framing::line());
        let listener = listener.expect("the address is free");
        world.fail_accepts(addr(1, true), Some(errno));
        world.connect(addr(1, true));
        run_for(world, &mut [&mut reactor], 60 * SEC);
        let errors = reactor.stats().accept_errors;
        let waited = errors - before_wait;
        assert!((60..=120).contains(&waited), "errno {errno}: {errors}");
        world.fail_accepts(addr(1, true), None);
        run_for(world, &mut [&mut reactor], SEC);
        assert_eq!(reactor.stats().accepted, 1, "errno {errno}");
        // A closed listener is not retried for ever.
        world.fail_accepts(addr(1, true), Some(errno));
        world.connect(addr(1, true));
        run_for(world, &mut [&mut reactor], SEC);
        reactor.with(|_, cx| cx.close_listener(listener));
        run_for(world, &mut [&mut reactor], 60 * SEC);
        let errors = reactor.stats().accept_errors - errors - before_wait;
        assert!(errors < 40, "errno {errno}: {errors}");
    }
}

#[test]
fn accept_error_of_one_connection_does_not_delay_the_others() {
    for (errno, count) in [(1, 10), (13, 10), (103, 100)] {
        let world = World::new(0);
        let mut reactor = node(world, Config::default());
        reactor
            .listen(addr(1, true), Framing::line())
            .expect("the address is free");
        for _ in 0..count {
            world.fail_next_accept(addr(1, true), errno);
            world.connect(addr(1, true));
        }
        world.connect(addr(1, true));
        settle(&mut [&mut reactor]);
        let opens = vec!["0 open"; count + 1];
        assert_eq!(take_events(&mut reactor), opens, "errno {errno}");
    }
}

#[test]
fn listen_all_opens_each_distinct_address_at_one_port_or_none() {
    let world = World::new(0);
    let mut reactor = node(world, Config::default());
    let at = |addr: SocketAddr, port| SocketAddr::new(addr.ip(), port);
    let (one, other) = (addr(1, true), addr(2, false));
    let addrs = [at(one, 0), at(other, 0), at(one, 0)];
    let options = ListenOptions::new();
    // The first port that the system chooses is in use at the second address.
    world.listen(at(other, 49_152));
    let ids = reactor.with(|_, cx| cx.listen_all(&addrs[..], Framing::line(), &options));
    let ids = ids.expect("another port is free");
    let locals = ids
        .iter()
        .map(|id| reactor.local_inet_addr(*id).expect("the listener is open"));
    let locals: Vec<_> = locals.collect();
    assert_eq!(locals, [at(one, 49_153), at(other, 49_153)]);

    let addrs = [at(one, 7), at(other, 49_153)];
    let ids = reactor.with(|_, cx| cx.listen_all(&addrs[..], Framing::line(), &options));
    let error = ids.expect_err("the second address is in use");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let nothing: &[SocketAddr] = &[];
    let ids = reactor.with(|_, cx| cx.listen_all(nothing, Framing::line(), &options));
    assert_eq!(
        ids.expect_err("the list has no address").kind(),
        ErrorKind::InvalidInput
    );
}

/// A name file may list `::1` for a host on which IPv6 is turned off.
#[test]
fn listen_all_skips_ipv6_loopback_that_the_host_lacks() {
    let world = World::new(0);
    let mut reactor = node(world, Config::default());
    let options = ListenOptions::new();
    let v4: SocketAddr = ([127, 0, 0, 1], 7).into();
    let v6: SocketAddr = ([0, 0, 0, 0, 0, 0, 0, 1], 7).into();
    let lost = addr(1, false);
    world.remove_ip(v6.ip());
    world.remove_ip(lost.ip());
    let mut listen_all = |addrs: &[SocketAddr]| {
        let ids = reactor.with(|_, cx| cx.listen_all(addrs, Framing::line(), &options));
        ids.map(|ids| ids.len()).map_err(|error| error.kind())
    };
    assert_eq!(listen_all(&[v6]), Err(ErrorKind::AddrNotAvailable));
    assert_eq!(listen_all(&[lost, v4]), Err(ErrorKind::AddrNotAvailable));
    assert_eq!(listen_all(&[v6, v4]), Ok(1));
}

#[test]
fn shutdown_ends_a_pending_connect_at_once() {
    let (world, addrs, mut reactor) = silent(&[true]);
    dial(&mut reactor, &addrs, 15 * SEC);
    run_for(world, &mut [&mut reactor], 100 * MS);
    reactor.with(|_, cx| cx.shutdown(SEC));
    run_for(world, &mut [&mut reactor], 100 * MS);
    assert!(reactor.is_shut_down(), "the connect is still pending");
    let expected = ["100 close Local, 0 unsent, 0 undecoded"];
    assert_eq!(take_events(&mut reactor), expected);
}
