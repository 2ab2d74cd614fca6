//! Datagrams of a reactor on a simulated system.

use super::sim_world::*;
use super::*;

#[test]
fn datagrams_keep_their_boundaries_both_ways() {
    let world = World::new(0);
    let config = Config {
        datagram_len_max: 5,
        ..Config::default()
    };
    let mut reactor = node(world, config);
    let udp = reactor.bind_udp(any()).expect("a free port");
    let to = reactor.local_addr(udp).expect("it is bound");
    let client = world.bind_datagram(any().into()).expect("a free port");
    for data in ["one", "", "seven b", "five5"] {
        let sent = client.send_datagram(Some(to.clone()), data.as_bytes());
        sent.expect("it goes");
    }
    settle(&mut [&mut reactor]);
    let expected = [
        "0 datagram one",
        "0 datagram ",
        "0 datagram seven (truncated)",
        "0 datagram five5",
    ];
    assert_eq!(seen(&mut reactor), expected);
    let mut buf = [0; 9];
    for data in ["one", "", "seven", "five5"] {
        let (len, from) = client.recv_datagram(&mut buf).expect("it came");
        assert_eq!((&buf[..len], &from), (data.as_bytes(), &to));
    }
}

#[test]
fn a_refused_datagram_is_reported_and_ends_no_socket() {
    let world = World::new(0);
    let mut reactor = node(world, Config::default());
    let udp = reactor.bind_udp(any()).expect("a free port");
    let port = SocketAddr::from(([127, 0, 0, 1], 9));
    reactor.with(|_, cx| {
        cx.connect_udp(udp, port).expect("it is open");
        cx.send_to(udp, port, b"lost").expect("there is room");
    });
    settle(&mut [&mut reactor]);
    assert_eq!(seen(&mut reactor), ["0 datagram error ConnectionRefused"]);
    let server = world.bind_datagram(port.into()).expect("it is free");
    reactor
        .with(|_, cx| cx.send_to(udp, port, b"again"))
        .expect("there is room");
    settle(&mut [&mut reactor]);
    server.recv_datagram(&mut [0; 9]).expect("it came");
    let stats = reactor.stats();
    assert_eq!((stats.datagrams_out, stats.datagrams_dropped), (2, 0));
}

#[test]
fn blocked_datagrams_are_sent_when_the_socket_is_writable() {
    let world = World::new(0);
    let mut reactor = node(world, Config::default());
    let udp = reactor.bind_udp(any()).expect("a free port");
    let socket = world.datagram_socket(reactor.local_addr(udp).expect("it is bound"));
    let server = world.bind_datagram(any().into()).expect("a free port");
    let to = server.local_addr().inet().expect("an IP address");
    socket.block_sends(true);
    for data in [b"one", b"two"] {
        reactor
            .with(|_, cx| cx.send_to(udp, to, data))
            .expect("there is room");
        run_for(world, &mut [&mut reactor], SEC);
    }
    assert_eq!(reactor.stats().datagrams_out, 0);
    socket.block_sends(false);
    settle(&mut [&mut reactor]);
    for data in [b"one", b"two"] {
        let mut buf = [0; 3];
        server.recv_datagram(&mut buf).expect("it came");
        assert_eq!(&buf, data);
    }
    assert_eq!(reactor.stats().datagram_errors, 0);
}

#[test]
fn a_failed_send_costs_one_datagram_and_no_other() {
    let world = World::new(0);
    let mut reactor = node(world, Config::default());
    let udp = reactor.bind_udp(any()).expect("a free port");
    let socket = world.datagram_socket(reactor.local_addr(udp).expect("it is bound"));
    let server = world.bind_datagram(any().into()).expect("a free port");
    let to = server.local_addr().inet().expect("an IP address");
    socket.fail_sends([ErrorKind::Interrupted, ErrorKind::PermissionDenied]);
    reactor.with(|_, cx| {
        cx.send_to(udp, to, b"one").expect("there is room");
        cx.send_to(udp, to, b"two").expect("there is room");
    });
    settle(&mut [&mut reactor]);
    assert_eq!(seen(&mut reactor), ["0 datagram error PermissionDenied"]);
    let mut buf = [0; 3];
    server.recv_datagram(&mut buf).expect("it came");
    assert_eq!(&buf, b"two");
    server.recv_datagram(&mut buf).expect_err("it was one");
}
