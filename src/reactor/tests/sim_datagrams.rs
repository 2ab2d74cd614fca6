//! Tests of the datagram sockets of a reactor on the simulated system.

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
    let udp = reactor.bind_udp(any()).expect("a port is free");
    let to = reactor.local_addr(udp).expect("the socket is bound");
    let client = world.bind_datagram(any().into()).expect("a port is free");
    for data in ["one", "", "seven b", "five5"] {
        let sent = client.send_datagram(Some(to.clone()), data.as_bytes());
        sent.expect("the datagram is sent");
    }
    settle(&mut [&mut reactor]);
    let expected = [
        "0 datagram one",
        "0 datagram ",
        "0 datagram seven (truncated)",
        "0 datagram five5",
    ];
    assert_eq!(take_events(&mut reactor), expected);
    let mut buf = [0; 9];
    for data in ["one", "", "seven", "five5"] {
        let (len, from) = client
            .recv_datagram(&mut buf)
            .expect("the datagram has arrived");
        assert_eq!((&buf[..len], &from), (data.as_bytes(), &to));
    }
}

#[test]
fn a_refused_datagram_is_reported_and_ends_no_socket() {
    let world = World::new(0);
    let mut reactor = node(world, Config::default());
    let udp = reactor.bind_udp(any()).expect("a port is free");
    let port = SocketAddr::from(([127, 0, 0, 1], 9));
    reactor.with(|_, cx| {
        cx.connect_udp(udp, port).expect("the socket is open");
        cx.send_to(udp, port, b"lost").expect("the queue has space");
    });
    settle(&mut [&mut reactor]);
    assert_eq!(
        take_events(&mut reactor),
        ["0 datagram error ConnectionRefused"]
    );
    let server = world.bind_datagram(port.into()).expect("the port is free");
    reactor
        .with(|_, cx| cx.send_to(udp, port, b"again"))
        .expect("the queue has space");
    settle(&mut [&mut reactor]);
    server
        .recv_datagram(&mut [0; 9])
        .expect("the datagram has arrived");
    let stats = reactor.stats();
    assert_eq!((stats.datagrams_out, stats.datagrams_dropped), (2, 0));
}

#[test]
fn blocked_datagrams_are_sent_when_the_socket_is_writable() {
    let world = World::new(0);
    let mut reactor = node(world, Config::default());
    let udp = reactor.bind_udp(any()).expect("a port is free");
    let socket = world.datagram_socket(reactor.local_addr(udp).expect("the socket is bound"));
    let server = world.bind_datagram(any().into()).expect("a port is free");
    let to = server
        .local_addr()
        .inet()
        .expect("the socket has an IP address");
    socket.block_sends(true);
    for data in [b"one", b"two"] {
        reactor
            .with(|_, cx| cx.send_to(udp, to, data))
            .expect("the queue has space");
        run_for(world, &mut [&mut reactor], SEC);
    }
    assert_eq!(reactor.stats().datagrams_out, 0);
    socket.block_sends(false);
    settle(&mut [&mut reactor]);
    for data in [b"one", b"two"] {
        let mut buf = [0; 3];
        server
            .recv_datagram(&mut buf)
            .expect("the datagram has arrived");
        assert_eq!(&buf, data);
    }
    assert_eq!(reactor.stats().datagram_errors, 0);
}

#[test]
fn failed_send_drops_only_its_own_datagram() {
    let world = World::new(0);
    let mut reactor = node(world, Config::default());
    let udp = reactor.bind_udp(any()).expect("a port is free");
    let socket = world.datagram_socket(reactor.local_addr(udp).expect("the socket is bound"));
    let server = world.bind_datagram(any().into()).expect("a port is free");
    let to = server
        .local_addr()
        .inet()
        .expect("the socket has an IP address");
    socket.fail_sends([ErrorKind::Interrupted, ErrorKind::PermissionDenied]);
    reactor.with(|_, cx| {
        cx.send_to(udp, to, b"one").expect("the queue has space");
        cx.send_to(udp, to, b"two").expect("the queue has space");
    });
    settle(&mut [&mut reactor]);
    assert_eq!(
        take_events(&mut reactor),
        ["0 datagram error PermissionDenied"]
    );
    let mut buf = [0; 3];
    server
        .recv_datagram(&mut buf)
        .expect("the datagram has arrived");
    assert_eq!(&buf, b"two");
    server
        .recv_datagram(&mut buf)
        .expect_err("the queue has no further datagram");
}
