//! One test for each fixed bug of datagram sockets.
//!
//! Each test is named after its bug, and its comment describes the bug.

mod common;

use std::net::{Ipv4Addr, SocketAddr};

use common::udp::{addr_of, peer_at};
use common::{Event, Probe, drive};
use unstick::{Reactor, UdpId};

fn bound(addr: &str) -> (Reactor<Probe>, UdpId, u16) {
    let mut reactor = Reactor::new(Probe::echo()).expect("the reactor is created");
    let socket = reactor.bind_udp(addr).expect("a free port is available");
    let addr = reactor
        .local_inet_addr(socket)
        .expect("the socket is bound");
    (reactor, socket, addr.port())
}

fn senders(reactor: &Reactor<Probe>) -> Vec<SocketAddr> {
    let events = reactor.handler().events.iter();
    let senders = events.filter_map(|event| match event {
        Event::Datagram(_, from, ..) => Some(*from),
        _ => None,
    });
    senders.collect()
}

// A connect of a UDP socket does not remove datagrams that the kernel has queued already. So a
// datagram of another sender was delivered after `connect_udp`, although the documentation excluded
// this.
#[test]
fn datagram_of_a_stranger_came_after_connect_udp() {
    let (mut reactor, socket, port) = bound("127.0.0.1:0");
    let (stranger, friend) = (peer_at("127.0.0.1:0"), peer_at("127.0.0.1:0"));
    let to = (Ipv4Addr::LOCALHOST, port);
    stranger
        .send_to(b"before", to)
        .expect("the loopback interface accepts the datagram");
    friend
        .send_to(b"before", to)
        .expect("the loopback interface accepts the datagram");
    reactor
        .with(|_, cx| cx.connect_udp(socket, addr_of(&friend)))
        .expect("a connect of UDP is local");
    stranger
        .send_to(b"after", to)
        .expect("the loopback interface accepts the datagram");
    friend
        .send_to(b"after", to)
        .expect("the loopback interface accepts the datagram");
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in >= 2);
    assert_eq!(senders(&reactor), [addr_of(&friend); 2]);
    assert_eq!(reactor.stats().datagrams_filtered, 1);
}

// An adopted socket that the program had connected also delivered datagrams that were queued before
// the connect.
#[test]
fn datagram_of_a_stranger_came_to_an_adopted_socket() {
    let mut reactor = Reactor::new(Probe::echo()).expect("the reactor is created");
    let (stranger, friend) = (peer_at("127.0.0.1:0"), peer_at("127.0.0.1:0"));
    let adopted = peer_at("127.0.0.1:0");
    stranger
        .send_to(b"before", addr_of(&adopted))
        .expect("the loopback interface accepts the datagram");
    adopted
        .connect(addr_of(&friend))
        .expect("a connect of UDP is local");
    friend
        .send_to(b"after", addr_of(&adopted))
        .expect("the loopback interface accepts the datagram");
    reactor
        .with(|_, cx| cx.adopt_udp(adopted))
        .expect("the socket is a UDP socket");
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in >= 1);
    assert_eq!(senders(&reactor), [addr_of(&friend)]);
    assert_eq!(reactor.stats().datagrams_filtered, 1);
}

// A connected Unix datagram socket delivered datagrams of other senders that were queued before the
// connect, because a connect does not remove queued datagrams.
#[test]
#[cfg(target_os = "linux")]
fn datagram_of_a_stranger_came_after_a_unix_connect() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr as StdUnixAddr, UnixDatagram};

    let named = |name: &str| {
        let name = format!("unstick-stranger-{}-{name}", std::process::id());
        let std = StdUnixAddr::from_abstract_name(&name).expect("the name is short enough");
        let addr: unstick::UnixAddr =
            unstick::UnixAddr::from_abstract_name(&name).expect("the name is short enough");
        (std, addr)
    };
    let (server, friend, stranger) = (named("server"), named("friend"), named("stranger"));
    let friend_socket = UnixDatagram::bind_addr(&friend.0).expect("the name is free");
    let stranger_socket = UnixDatagram::bind_addr(&stranger.0).expect("the name is free");
    let unnamed = UnixDatagram::unbound().expect("a socket can be created");
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let socket = reactor
        .with(|_, cx| cx.bind_unix_datagram(Some(&server.1)))
        .expect("the name is free");
    for (sender, data) in [
        (&stranger_socket, &b"stranger"[..]),
        (&unnamed, b"unnamed"),
        (&friend_socket, b"friend"),
    ] {
        sender
            .send_to_addr(data, &server.0)
            .expect("the queue has space");
    }
    reactor
        .with(|_, cx| cx.connect_unix_datagram(socket, &friend.1))
        .expect("the friend is bound");
    friend_socket
        .send_to_addr(b"after", &server.0)
        .expect("the queue has space");
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in >= 2);
    let events = reactor.handler().events.iter();
    let data: Vec<_> = events
        .filter_map(|event| match event {
            Event::UnixDatagram(_, data) => Some(&data[..]),
            _ => None,
        })
        .collect();
    assert_eq!(data, [&b"friend"[..], b"after"]);
    assert_eq!(reactor.stats().datagrams_filtered, 2);
}

// A socket bound to 0.0.0.0 or [::] received a request at 127.0.0.2 and replied from 127.0.0.1. A
// client that compares the addresses dropped the reply (RFC 2181, 4.1).
#[test]
#[cfg(all(target_os = "linux", feature = "udp-batch"))]
fn wildcard_socket_replied_from_another_address() {
    use common::udp::available;
    use std::collections::HashSet;
    use std::net::IpAddr;

    for addr in available(&["0.0.0.0:0", "[::]:0"]) {
        let (mut reactor, _, port) = bound(addr);
        let client = peer_at("127.0.0.1:0");
        let asked: HashSet<IpAddr> = (2..=254).map(|last| [127, 0, 0, last].into()).collect();
        for chunk in asked.iter().collect::<Vec<_>>().chunks(50) {
            let before = reactor.stats().datagrams_out;
            for ip in chunk {
                client
                    .send_to(b"request", (**ip, port))
                    .expect("the loopback interface accepts the datagram");
            }
            drive(&mut reactor, |reactor| {
                reactor.stats().datagrams_out - before >= chunk.len() as u64
            });
        }
        let replied = (0..asked.len()).map(|_| {
            let (len, from) = client.recv_from(&mut [0; 16]).expect("a reply arrives");
            assert_eq!((len, from.port()), (7, port));
            from.ip()
        });
        assert_eq!(replied.collect::<HashSet<_>>(), asked, "{addr}");
    }
}

// If `on_datagram` panicked, the route of the reply was kept. A datagram that was later sent to the
// same peer left from the address of the old request.
#[cfg(all(target_os = "linux", feature = "udp-batch"))]
#[test]
fn panic_in_on_datagram_left_the_route_of_its_reply() {
    let probe = Probe::new(|_, event| {
        assert!(!matches!(event, Event::Datagram(..)), "the handler fails");
    });
    let mut reactor = Reactor::new(probe).expect("the reactor is created");
    let socket = reactor
        .bind_udp("0.0.0.0:0")
        .expect("a free port is available");
    let port = reactor
        .local_inet_addr(socket)
        .expect("the socket is bound")
        .port();
    let peer = peer_at("127.0.0.1:0");
    peer.send_to(b"request", (Ipv4Addr::new(127, 0, 0, 7), port))
        .expect("the loopback interface accepts the datagram");
    let turns = std::panic::AssertUnwindSafe(|| drive(&mut reactor, |_| false));
    std::panic::catch_unwind(turns).expect_err("the handler panics");
    reactor
        .with(|_, cx| cx.send_to(socket, addr_of(&peer), b"notice"))
        .expect("the queue has space");
    drive(&mut reactor, |it| it.stats().datagrams_out == 1);
    let (_, from) = peer.recv_from(&mut [0; 9]).expect("the datagram arrives");
    assert_eq!(from, SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
}
