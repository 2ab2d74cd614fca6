//! Details of UDP datagrams: the destination address, ECN marks, the receive time, and the
//! datagrams that the kernel dropped. Most tests run with and without batches.

#![cfg(all(target_os = "linux", feature = "udp-batch"))]

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime};

use common::drive;
use common::udp::{available, has_ipv6, peer_at};
use nix::sys::socket::{setsockopt, sockopt};
use unstick::{
    Config, ConnId, Context, Datagram, Ecn, Handler, Reactor, Route, TimerId, UdpId, UdpOptions,
};

/// Details of a delivered datagram, without its payload.
#[derive(Debug, Clone, Copy)]
struct Seen {
    to: Option<IpAddr>,
    interface: Option<u32>,
    ecn: Option<Ecn>,
    received_at: Option<Duration>,
    route: Route,
}

/// A handler that records datagrams and echoes them: at once, or from a timer if `is_late` is true.
#[derive(Debug, Default)]
struct Recorder {
    seen: Vec<Seen>,
    is_late: bool,
    pending: Vec<(UdpId, Route, Vec<u8>)>,
    errors: Vec<std::io::Error>,
}

impl Handler for Recorder {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}

    fn on_datagram(&mut self, cx: &mut Context<'_, Self>, socket: UdpId, datagram: Datagram<'_>) {
        let route = datagram.reply_route();
        self.seen.push(Seen {
            to: datagram.to(),
            interface: datagram.interface(),
            ecn: datagram.ecn(),
            received_at: datagram.received_at(),
            route,
        });
        if self.is_late {
            self.pending.push((socket, route, datagram.data.to_vec()));
            cx.set_timer(Duration::from_millis(1), 0);
        } else {
            let _ = cx.send_to(socket, datagram.from, datagram.data);
        }
    }

    fn on_datagram_error(&mut self, _: &mut Context<'_, Self>, _: UdpId, error: std::io::Error) {
        self.errors.push(error);
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, _: TimerId, _: u64) {
        for (socket, route, data) in self.pending.drain(..) {
            let _ = cx.send_to(socket, route, &data);
        }
    }
}

fn bound(
    addr: &str,
    options: &UdpOptions,
    in_batches: bool,
) -> (Reactor<Recorder>, UdpId, SocketAddr) {
    let mut config = Config::default();
    config.datagram_batches = in_batches;
    let mut reactor =
        Reactor::with_config(Recorder::default(), config).expect("the reactor is created");
    let socket = reactor
        .with(|_, cx| cx.bind_udp_with(addr, options))
        .expect("a free port is available");
    let addr = reactor
        .local_inet_addr(socket)
        .expect("the socket is bound");
    (reactor, socket, addr)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("the address is valid")
}

fn with_and_without_batches(test: impl Fn(bool)) {
    for in_batches in [true, false] {
        println!("batches: {in_batches}");
        test(in_batches);
    }
}

/// Sends a datagram, and returns the source address of its echo.
fn ask(reactor: &mut Reactor<Recorder>, peer: &UdpSocket, to: SocketAddr) -> SocketAddr {
    let before = reactor.stats().datagrams_out;
    peer.send_to(b"data", to)
        .expect("the loopback interface accepts the datagram");
    drive(reactor, |it| it.stats().datagrams_out > before);
    let (len, from) = peer.recv_from(&mut [0; 9]).expect("an echo arrives");
    assert_eq!(len, 4);
    from
}

#[test]
fn late_reply_leaves_from_the_address_that_was_asked() {
    with_and_without_batches(|in_batches| {
        for addr in available(&["0.0.0.0:0", "[::]:0"]) {
            let (mut reactor, _, local) = bound(addr, &UdpOptions::new(), in_batches);
            reactor.handler_mut().is_late = true;
            let peer = peer_at("127.0.0.1:0");
            for last in [2, 77, 254] {
                let to = SocketAddr::from(([127, 0, 0, last], local.port()));
                assert_eq!(ask(&mut reactor, &peer, to), to);
                let seen = reactor
                    .handler()
                    .seen
                    .last()
                    .expect("the datagram was delivered");
                assert_eq!((seen.to, seen.interface), (Some(to.ip()), Some(1)));
                assert_eq!(seen.route.source(), Some(to.ip()));
            }
        }
    });
}

#[test]
fn destination_of_an_ipv6_datagram_is_reported() {
    if !has_ipv6() {
        return;
    }
    let peer = peer_at("[::1]:0");
    with_and_without_batches(|in_batches| {
        let (mut reactor, _, local) = bound("[::]:0", &UdpOptions::new(), in_batches);
        let to = SocketAddr::from((ip("::1"), local.port()));
        assert_eq!(ask(&mut reactor, &peer, to), to);
        assert_eq!(reactor.handler().seen[0].to, Some(ip("::1")));
        assert_eq!(reactor.handler().seen[0].route.source(), Some(ip("::1")));
    });
}

#[test]
fn details_are_reported_only_if_asked_for() {
    with_and_without_batches(|in_batches| {
        let peer = peer_at("127.0.0.1:0");
        let all = UdpOptions::new()
            .destination(true)
            .ecn(true)
            .receive_time(true);
        for (addr, options, wanted) in [
            ("127.0.0.1:0", UdpOptions::new(), [false; 3]),
            ("0.0.0.0:0", UdpOptions::new(), [true, false, false]),
            (
                "0.0.0.0:0",
                UdpOptions::new().destination(false),
                [false; 3],
            ),
            (
                "127.0.0.1:0",
                UdpOptions::new().destination(true),
                [true, false, false],
            ),
            (
                "127.0.0.1:0",
                UdpOptions::new().ecn(true),
                [false, true, false],
            ),
            (
                "127.0.0.1:0",
                UdpOptions::new().receive_time(true),
                [false, false, true],
            ),
            ("127.0.0.1:0", all.clone(), [true; 3]),
            ("0.0.0.0:0", all.clone(), [true; 3]),
            ("[::]:0", all, [true; 3]),
        ] {
            if available(&[addr]).is_empty() {
                continue;
            }
            let (mut reactor, _, local) = bound(addr, &options, in_batches);
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, local.port()));
            let second = Duration::from_secs(1);
            let before = SystemTime::now() - second;
            ask(&mut reactor, &peer, to);
            let seen = reactor.handler().seen[0];
            let found = [
                seen.to.is_some(),
                seen.ecn.is_some(),
                seen.received_at.is_some(),
            ];
            assert_eq!(found, wanted, "{addr} {options:?}");
            assert_eq!(seen.interface.is_some(), wanted[0]);
            if let Some(time) = seen.received_at {
                let time = SystemTime::UNIX_EPOCH + time;
                let after = SystemTime::now() + second;
                assert!((before..after).contains(&time), "{time:?}");
            }
        }
    });
}

/// A received datagram reports its ECN mark as it was sent. Both directions are tested.
#[test]
fn ecn_marks_survive_a_round_trip() {
    with_and_without_batches(|in_batches| {
        for addr in available(&["127.0.0.1:0", "0.0.0.0:0", "[::]:0", "[::1]:0"]) {
            let options = UdpOptions::new().ecn(true);
            let (mut reactor, server, local) = bound(addr, &options, in_batches);
            let client = match addr {
                "[::1]:0" => addr,
                _ => "127.0.0.1:0",
            };
            let udp = reactor.with(|_, cx| cx.bind_udp_with(client, &options));
            let udp = udp.expect("a free port is available");
            let client = reactor.local_inet_addr(udp).expect("the socket is bound");
            let to = SocketAddr::from((client.ip(), local.port()));
            // Each step sends marked datagrams to the server, and then marked replies to the
            // client.
            for (index, mark) in [Ecn::Ect0, Ecn::Ect1, Ecn::Ce, Ecn::NotEct]
                .into_iter()
                .enumerate()
            {
                let before = reactor.handler().seen.len();
                reactor.handler_mut().is_late = true;
                reactor.with(|_, cx| {
                    let route = Route::new(to).tos(0x20 | mark as u8);
                    for _ in 0..=index {
                        cx.send_to(udp, route, b"marked")
                            .expect("the queue has space");
                    }
                });
                drive(&mut reactor, |it| it.handler().seen.len() > before + index);
                let seen = &reactor.handler().seen[before..=before + index];
                assert!(
                    seen.iter().all(|seen| seen.ecn == Some(mark)),
                    "{addr} {seen:?}"
                );
                // The replies are sent along the recorded routes, with the mark that was received.
                let pending = std::mem::take(&mut reactor.handler_mut().pending);
                let before = reactor.handler().seen.len();
                reactor.with(|_, cx| {
                    for (_, route, data) in &pending {
                        cx.send_to(server, route.tos(mark as u8), data)
                            .expect("the queue has space");
                    }
                });
                drive(&mut reactor, |it| it.handler().seen.len() > before + index);
                let seen = reactor.handler().seen[before];
                assert_eq!(
                    (seen.ecn, seen.route.to().port()),
                    (Some(mark), local.port()),
                    "{addr}"
                );
                reactor.handler_mut().pending.clear();
            }
            assert!(
                reactor.handler().errors.is_empty(),
                "{:?}",
                reactor.handler().errors
            );
        }
    });
}

/// An IPv6 socket sends to peers of both address families in one callback. The control data of a
/// mark depends on the family, so no system call may contain datagrams of both families.
#[test]
fn marks_to_both_address_families_in_one_callback_are_kept() {
    if !has_ipv6() {
        return;
    }
    let options = UdpOptions::new().ecn(true);
    with_and_without_batches(|in_batches| {
        let (mut reactor, sender, local) = bound("[::]:0", &UdpOptions::new(), in_batches);
        reactor.handler_mut().is_late = true;
        let [v4, v6] = ["127.0.0.1:0", "[::1]:0"].map(|addr| {
            let socket = reactor.with(|_, cx| cx.bind_udp_with(addr, &options));
            let socket = socket.expect("a free port is available");
            reactor
                .local_inet_addr(socket)
                .expect("the socket is bound")
        });
        for order in [[v4, v6], [v6, v4]] {
            reactor.handler_mut().seen.clear();
            reactor.with(|_, cx| {
                for to in order {
                    cx.send_to(sender, Route::new(to).tos(Ecn::Ect0 as u8), b"marked")
                        .expect("the queue has space");
                }
            });
            // A datagram from another port is a late echo of an earlier one.
            let marks = |reactor: &Reactor<Recorder>| -> Vec<_> {
                let seen = reactor.handler().seen.iter();
                seen.filter(|it| it.route.to().port() == local.port())
                    .map(|it| it.ecn)
                    .collect()
            };
            drive(&mut reactor, |it| marks(it).len() >= 2);
            assert_eq!(marks(&reactor), [Some(Ecn::Ect0); 2], "{order:?}");
        }
    });
}

/// The burst exceeds the receive buffer. Each datagram is either delivered or counted.
#[test]
fn datagrams_that_the_kernel_dropped_are_counted() {
    with_and_without_batches(|in_batches| {
        for gso in [false, true] {
            let options = UdpOptions::new()
                .recv_buffer_len(16_384)
                .count_overflows(true);
            let (mut reactor, _, to) = bound("127.0.0.1:0", &options, in_batches);
            let peer = peer_at("127.0.0.1:0");
            let mut sent = 0;
            for _ in 0..3 {
                for _ in 0..50 {
                    if gso {
                        setsockopt(&peer, sockopt::UdpGsoSegment, &500)
                            .expect("the kernel has UDP_SEGMENT (Linux 4.18)");
                    }
                    peer.send_to(&[7; 2000], to)
                        .expect("the loopback interface accepts the datagram");
                    sent += if gso { 4 } else { 1 };
                }
                let _ = setsockopt(&peer, sockopt::UdpGsoSegment, &0);
                common::settle(&mut reactor);
            }
            // The kernel reports a loss with the next datagram that it queues.
            peer.send_to(b"last", to)
                .expect("the loopback interface accepts the datagram");
            common::settle(&mut reactor);
            let stats = reactor.stats();
            assert!(stats.datagrams_overflowed > 0, "{stats:?}");
            assert_eq!(
                stats.datagrams_in + stats.datagrams_overflowed,
                sent + 1,
                "gso: {gso}"
            );
        }
    });
}

/// A socket at a wildcard address receives the datagrams of a group that another socket joined,
/// unless `multicast_all` is off. The destination is the group, and the reply leaves from an
/// address of the host.
#[test]
fn multicast_group_of_another_socket_is_recognised() {
    let groups = [Ipv4Addr::new(239, 255, 7, 1), Ipv4Addr::new(239, 255, 7, 2)];
    let lo = Ipv4Addr::LOCALHOST;
    let sender = peer_at("127.0.0.1:0");
    socket2::SockRef::from(&sender)
        .set_multicast_if_v4(&lo)
        .expect("the loopback interface exists");
    with_and_without_batches(|in_batches| {
        for all in [true, false] {
            let options = UdpOptions::new()
                .reuse_addr(true)
                .multicast_all(all)
                .join_multicast_v4(groups[0], lo);
            let (mut reactor, _, local) = bound("0.0.0.0:0", &options, in_batches);
            let other = UdpOptions::new()
                .reuse_addr(true)
                .join_multicast_v4(groups[1], lo);
            let addr = SocketAddr::from((groups[1], local.port()));
            let (_other, ..) = bound(&addr.to_string(), &other, in_batches);
            for group in [groups[1], groups[0]] {
                let sent = sender.send_to(b"to a group", (group, local.port()));
                sent.expect("the loopback interface accepts the datagram");
            }
            let count = if all { 2 } else { 1 };
            drive(&mut reactor, |it| it.stats().datagrams_out >= count);
            let to: Vec<_> = reactor
                .handler()
                .seen
                .iter()
                .filter_map(|seen| seen.to)
                .collect();
            let [first, second] = groups.map(IpAddr::from);
            let expected = if all {
                vec![second, first]
            } else {
                vec![first]
            };
            assert_eq!(to, expected);
            assert!(
                reactor
                    .handler()
                    .seen
                    .iter()
                    .all(|seen| seen.route.source().is_none())
            );
            for _ in 0..count {
                let (_, from) = sender.recv_from(&mut [0; 16]).expect("a reply arrives");
                assert_eq!(from, SocketAddr::from((lo, local.port())));
            }
            assert!(reactor.handler().errors.is_empty());
        }
    });
}

/// A request to a broadcast address is answered from an address of the host, because no reply can
/// have a broadcast address as its source.
#[test]
fn request_to_a_broadcast_address_is_answered() {
    with_and_without_batches(|in_batches| {
        let (mut reactor, _, local) = bound("0.0.0.0:0", &UdpOptions::new(), in_batches);
        let peer = peer_at("127.0.0.1:0");
        peer.set_broadcast(true).expect("the option can be set");
        let to = SocketAddr::from(([127, 255, 255, 255], local.port()));
        let from = ask(&mut reactor, &peer, to);
        assert_eq!(from, SocketAddr::from(([127, 0, 0, 1], local.port())));
        assert_eq!(reactor.handler().seen[0].to, Some(to.ip()));
        assert!(reactor.handler().errors.is_empty());
    });
}

/// In `on_datagram`, a datagram to a peer other than the sender of the request is not a reply. So
/// the system chooses its source address.
#[test]
fn datagram_to_another_peer_is_no_reply() {
    struct Forward(SocketAddr);
    impl Handler for Forward {
        type Session = ();
        fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}
        fn on_datagram(&mut self, cx: &mut Context<'_, Self>, udp: UdpId, got: Datagram<'_>) {
            cx.send_to(udp, self.0, got.data)
                .expect("the queue has space");
            cx.send_to(udp, got.from, got.data)
                .expect("the queue has space");
            cx.send_to(udp, self.0, got.data)
                .expect("the queue has space");
        }
    }
    let (first, second) = (peer_at("127.0.0.1:0"), peer_at("127.0.0.1:0"));
    let other = second.local_addr().expect("the socket is bound");
    let mut reactor = Reactor::new(Forward(other)).expect("the reactor is created");
    let udp = reactor
        .bind_udp("0.0.0.0:0")
        .expect("a free port is available");
    let port = reactor
        .local_inet_addr(udp)
        .expect("the socket is bound")
        .port();
    let to = SocketAddr::from(([127, 0, 0, 9], port));
    first
        .send_to(b"data", to)
        .expect("the loopback interface accepts the datagram");
    drive(&mut reactor, |it| it.stats().datagrams_out == 3);
    let from = |peer: &UdpSocket| {
        peer.recv_from(&mut [0; 9])
            .expect("the datagram arrives")
            .1
            .ip()
    };
    assert_eq!(from(&first), ip("127.0.0.9"));
    assert_eq!([from(&second), from(&second)], [ip("127.0.0.1"); 2]);
}
