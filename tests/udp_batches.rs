//! UDP batches and segmentation offload (GSO, GRO). The handler receives and sends single
//! datagrams, even if the kernel carries several of them as one message. Most tests run with and
//! without batches.

#![cfg(target_os = "linux")]

mod common;
#[path = "common/network.rs"]
mod network;

use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use common::udp::{addr_of, peer, receive};
use common::{DEADLINE, Event, Probe, Random, drive, frame};
use network::enter_new_network;
use nix::sys::socket::{setsockopt, sockopt};
use unstick::{Config, Framing, Reactor, UdpId};

fn config(in_batches: bool) -> Config {
    let mut config = Config::default();
    config.datagram_batches = in_batches;
    config
}

fn bound(probe: Probe, config: Config) -> (Reactor<Probe>, UdpId, SocketAddr) {
    bound_to("127.0.0.1:0", probe, config)
}

fn bound_to(addr: &str, probe: Probe, config: Config) -> (Reactor<Probe>, UdpId, SocketAddr) {
    let mut reactor = Reactor::with_config(probe, config).expect("the reactor is created");
    let socket = reactor.bind_udp(addr).expect("a free port is available");
    let addr = reactor
        .local_inet_addr(socket)
        .expect("the socket is bound");
    (reactor, socket, addr)
}

/// Sends `data` as datagrams of `segment_len` bytes in one message (`UDP_SEGMENT`).
fn send_as_one(socket: &UdpSocket, to: SocketAddr, data: &[u8], segment_len: usize) {
    let segment_len = i32::try_from(segment_len).expect("the segment length fits i32");
    setsockopt(socket, sockopt::UdpGsoSegment, &segment_len)
        .expect("UDP_SEGMENT exists since Linux 4.18");
    socket.send_to(data, to).expect("the datagram is sent");
    setsockopt(socket, sockopt::UdpGsoSegment, &0).expect("UDP_SEGMENT can be turned off");
}

fn datagrams(probe: &Probe) -> impl Iterator<Item = (SocketAddr, &[u8], bool)> {
    probe.events.iter().filter_map(|event| match event {
        Event::Datagram(_, from, data, truncated) => Some((*from, &data[..], *truncated)),
        _ => None,
    })
}

fn errors(probe: &Probe) -> usize {
    probe.count(|event| matches!(event, Event::DatagramError(..)))
}

/// Peers send single datagrams of any length, also empty ones, and several datagrams as one
/// message. The handler receives the datagrams of each peer in order, and each peer gets its
/// datagrams back in order.
fn assert_boundaries_are_the_senders(server: &str, peers: &[UdpSocket], in_batches: bool) {
    let seed = 11;
    println!("seed {seed}, batches: {in_batches}");
    let mut random = Random(seed);
    let (mut reactor, _, addr) = bound_to(server, Probe::echo(), config(in_batches));
    let mut sent: Vec<Vec<Vec<u8>>> = vec![Vec::new(); peers.len()];
    let mut total = 0;
    for _ in 0..60 {
        let mut burst = vec![0; peers.len()];
        for _ in 0..8 {
            let index = random.below(peers.len());
            let to = match addr_of(&peers[index]).ip() {
                IpAddr::V4(_) => SocketAddr::from(([127, 0, 0, 1], addr.port())),
                IpAddr::V6(ip) => SocketAddr::from((ip, addr.port())),
            };
            if random.below(2) == 0 {
                let segment_len = 1 + random.below(1200);
                let len = segment_len * (1 + random.below(6)) + random.below(segment_len + 1);
                let data = random.bytes(len);
                send_as_one(&peers[index], to, &data, segment_len);
                let datagrams = data.chunks(segment_len).map(<[u8]>::to_vec);
                burst[index] += datagrams.len();
                sent[index].extend(datagrams);
            } else {
                let len = [0, 1, 64, 64, 64, 700, 3000][random.below(7)];
                let data = random.bytes(len);
                peers[index]
                    .send_to(&data, to)
                    .expect("the datagram is sent");
                burst[index] += 1;
                sent[index].push(data);
            }
        }
        total += burst.iter().sum::<usize>() as u64;
        drive(&mut reactor, |reactor| {
            reactor.stats().datagrams_out == total
        });
        for (index, count) in burst.into_iter().enumerate() {
            let first = sent[index].len() - count;
            for (at, expected) in sent[index].iter().enumerate().skip(first) {
                assert!(
                    receive(&peers[index]) == *expected,
                    "echo {at} of peer {index}"
                );
            }
        }
    }
    let mut seen: HashMap<u16, Vec<&[u8]>> = HashMap::new();
    for (from, data, truncated) in datagrams(reactor.handler()) {
        assert!(!truncated);
        seen.entry(from.port()).or_default().push(data);
    }
    for (index, peer) in peers.iter().enumerate() {
        assert!(
            seen[&addr_of(peer).port()] == sent[index],
            "datagrams of peer {index}"
        );
    }
    assert_eq!(reactor.stats().datagrams_in, total);
    assert_eq!(errors(reactor.handler()), 0);
}

#[test]
fn gro_keeps_the_boundaries_of_the_senders() {
    for in_batches in [true, false] {
        let peers = [peer(), peer(), peer(), peer()];
        assert_boundaries_are_the_senders("127.0.0.1:0", &peers, in_batches);
    }
}

#[test]
fn gro_keeps_boundaries_on_a_dual_stack_socket() {
    let ipv6_peer = || {
        let socket = UdpSocket::bind("[::1]:0")?;
        socket.set_read_timeout(Some(DEADLINE))?;
        Ok::<_, std::io::Error>(socket)
    };
    for in_batches in [true, false] {
        let (Ok(third), Ok(fourth)) = (ipv6_peer(), ipv6_peer()) else {
            return println!("skipped: the IPv6 loopback address is not available");
        };
        let peers = [peer(), peer(), third, fourth];
        assert_boundaries_are_the_senders("[::]:0", &peers, in_batches);
    }
}

#[test]
fn gro_reports_truncation_for_each_datagram() {
    const LIMIT: usize = 100;
    for in_batches in [true, false] {
        let mut config = config(in_batches);
        config.datagram_len_max = LIMIT;
        let (mut reactor, _, addr) = bound(Probe::silent(), config);
        let client = peer();
        let data = Random(5).bytes(3 * 150 + 40);
        send_as_one(&client, addr, &data, 150);
        client
            .send_to(&data[..LIMIT], addr)
            .expect("the datagram is sent");
        send_as_one(&client, addr, &data[..3 * LIMIT], LIMIT);
        drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 8);
        let seen: Vec<_> = datagrams(reactor.handler()).collect();
        for (index, (_, seen, truncated)) in seen.iter().enumerate() {
            let whole = match index {
                0..4 => data.chunks(150).nth(index),
                4 => data.chunks(LIMIT).next(),
                _ => data.chunks(LIMIT).nth(index - 5),
            };
            let whole = whole.expect("this many datagrams were sent");
            assert_eq!(*seen, &whole[..whole.len().min(LIMIT)], "datagram {index}");
            assert_eq!(*truncated, whole.len() > LIMIT, "datagram {index}");
        }
        assert_eq!(reactor.stats().datagrams_truncated, 3);
    }
}

/// Queues datagrams of equal length, which the kernel accepts as one message, and single datagrams
/// between them. Some rounds have more datagrams than one system call accepts.
#[test]
fn batched_datagrams_arrive_in_order() {
    for in_batches in [true, false] {
        let (mut reactor, socket, _) = bound(Probe::silent(), config(in_batches));
        let peers = [peer(), peer(), peer()];
        let mut random = Random(7);
        let mut total = 0;
        for round in 0..40 {
            let mut sent: [Vec<Vec<u8>>; 3] = Default::default();
            let count: usize = [10, 70, 130][round % 3];
            reactor.with(|_, cx| {
                let mut len = 0;
                for at in 0..count {
                    // Mostly keep the length of the previous datagram. Every third round sends to
                    // one peer, and the other rounds send to random peers.
                    if at == 0 || random.below(8) == 0 {
                        len = random.below(200) * random.below(6);
                    }
                    let index = if round % 3 == 0 { 0 } else { random.below(3) };
                    let data = random.bytes(len);
                    cx.send_to(socket, addr_of(&peers[index]), &data)
                        .expect("the datagram queue has space");
                    sent[index].push(data);
                }
            });
            total += count as u64;
            drive(&mut reactor, |reactor| {
                reactor.stats().datagrams_out == total
            });
            for (index, sent) in sent.iter().enumerate() {
                for expected in sent {
                    assert!(receive(&peers[index]) == *expected, "round {round}");
                }
            }
        }
        assert_eq!(errors(reactor.handler()), 0);
    }
}

/// The client enables `UDP_GRO`, so one read returns all datagrams that were sent as one message.
#[test]
fn echoes_of_a_gro_message_use_gso() {
    let data = Random(2).bytes(32 * 64);
    for (in_batches, first_len) in [(true, data.len()), (false, 64)] {
        let (mut reactor, _, addr) = bound(Probe::echo(), config(in_batches));
        let client = peer();
        setsockopt(&client, sockopt::UdpGroSegment, &true).expect("UDP_GRO exists since Linux 5.0");
        send_as_one(&client, addr, &data, 64);
        drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 32);
        assert_eq!(receive(&client), data[..first_len]);
    }
}

#[test]
fn sends_to_a_connected_peer_use_gso() {
    let data = Random(2).bytes(32 * 64);
    for (in_batches, first_len) in [(true, data.len()), (false, 64)] {
        let (mut reactor, socket, _) = bound(Probe::silent(), config(in_batches));
        let client = peer();
        setsockopt(&client, sockopt::UdpGroSegment, &true).expect("UDP_GRO exists since Linux 5.0");
        reactor
            .with(|_, cx| cx.connect_udp(socket, addr_of(&client)))
            .expect("the UDP socket connects");
        reactor.with(|_, cx| {
            for data in data.chunks(64) {
                cx.send_datagram(socket, data)
                    .expect("the datagram queue has space");
            }
        });
        drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 32);
        assert_eq!(receive(&client), data[..first_len]);
    }
}

/// If one datagram of a `sendmmsg` fails, the call only returns the number of datagrams before it
/// (sendmmsg(2)). The reactor must still report the error.
#[test]
fn each_refused_datagram_of_a_burst_is_reported() {
    const BURST: usize = 10;
    for in_batches in [true, false] {
        let (mut reactor, socket, _) = bound(Probe::silent(), config(in_batches));
        let peer_addr = addr_of(&peer());
        reactor
            .with(|_, cx| cx.connect_udp(socket, peer_addr))
            .expect("the UDP socket connects");
        reactor.with(|_, cx| {
            for len in 0..BURST {
                cx.send_datagram(socket, &vec![7; len])
                    .expect("the datagram queue has space");
            }
        });
        drive(&mut reactor, |reactor| {
            reactor.stats().datagram_errors == BURST as u64
        });
        assert_eq!(reactor.stats().datagrams_out, BURST as u64);
        assert_eq!(reactor.stats().datagrams_dropped, 0);
    }
}

#[test]
fn failed_gso_message_reports_each_datagram() {
    const COUNT: usize = 10;
    for in_batches in [true, false] {
        let (mut reactor, socket, _) = bound(Probe::silent(), config(in_batches));
        let client = peer();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        for round in 1..=3 {
            reactor.with(|_, cx| {
                for to in [addr_of(&client), nowhere, addr_of(&client)] {
                    for index in 0..COUNT {
                        cx.send_to(socket, to, &[index.to_le_bytes()[0]; 50])
                            .expect("the datagram queue has space");
                    }
                }
            });
            drive(&mut reactor, |reactor| {
                reactor.stats().datagrams_out == 2 * round * COUNT as u64
            });
            for index in (0..COUNT).chain(0..COUNT) {
                assert_eq!(receive(&client), [index.to_le_bytes()[0]; 50]);
            }
            let stats = reactor.stats();
            assert_eq!(stats.datagram_errors, round * COUNT as u64);
            assert_eq!(stats.datagrams_dropped, round * COUNT as u64);
        }
        // The destination caused the error, so the reactor still uses segmentation offload.
        setsockopt(&client, sockopt::UdpGroSegment, &true).expect("UDP_GRO exists since Linux 5.0");
        reactor.with(|_, cx| {
            for _ in 0..2 {
                cx.send_to(socket, addr_of(&client), &[3; 50])
                    .expect("the datagram queue has space");
            }
        });
        reactor
            .turn(Some(Duration::ZERO))
            .expect("polling succeeds");
        assert_eq!(receive(&client).len(), if in_batches { 100 } else { 50 });
    }
}

/// Some datagrams are longer than the MTU. The kernel fragments a datagram, but not the segments of
/// a GSO message. The test changes the loopback interface of a new network namespace.
#[test]
fn datagrams_longer_than_the_mtu_are_sent_whole() {
    if !enter_new_network(&[&["ip", "link", "set", "lo", "mtu", "1500", "up"]]) {
        return;
    }
    for in_batches in [true, false] {
        let (mut reactor, socket, _) = bound(Probe::silent(), config(in_batches));
        let client = peer();
        for round in 1..=3 {
            for len in [1400, 2000, 1473, 1472] {
                reactor.with(|_, cx| {
                    for index in 0..5 {
                        cx.send_to(socket, addr_of(&client), &vec![index; len])
                            .expect("the datagram queue has space");
                    }
                });
                reactor
                    .turn(Some(Duration::ZERO))
                    .expect("polling succeeds");
                for index in 0..5 {
                    assert!(receive(&client) == vec![index; len], "{len} bytes");
                }
            }
            assert_eq!(reactor.stats().datagrams_out, round * 20);
            assert_eq!(errors(reactor.handler()), 0);
        }
        // Datagrams that fit the MTU are still sent as one message.
        setsockopt(&client, sockopt::UdpGroSegment, &true).expect("UDP_GRO exists since Linux 5.0");
        reactor.with(|_, cx| {
            for _ in 0..2 {
                cx.send_to(socket, addr_of(&client), &[3; 1400])
                    .expect("the datagram queue has space");
            }
        });
        reactor
            .turn(Some(Duration::ZERO))
            .expect("polling succeeds");
        assert_eq!(receive(&client).len(), if in_batches { 2800 } else { 1400 });
    }
}

/// The budget counts datagrams and not messages, because a few messages can contain thousands of
/// datagrams.
#[test]
fn flood_of_gro_messages_does_not_starve_a_frame() {
    const MESSAGES: usize = 40;
    const PARTS: usize = 64;
    let mut config = config(true);
    config.datagram_budget = 8;
    let (mut reactor, _, udp_addr) = bound(Probe::silent(), config);
    let listener = reactor
        .listen("127.0.0.1:0", Framing::length_u32())
        .expect("a free port is available");
    let tcp_addr = reactor
        .local_inet_addr(listener)
        .expect("the socket is bound");
    let mut client = common::client(tcp_addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);

    let flooder = peer();
    for _ in 0..MESSAGES {
        send_as_one(&flooder, udp_addr, &[7; 16 * PARTS], 16);
    }
    client
        .write_all(&frame("u32", b"me too"))
        .expect("the write succeeds");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
    let before = datagrams(reactor.handler()).count();
    assert!(
        before <= 3 * PARTS,
        "{before} datagrams were delivered before the frame"
    );
    // Each message has more datagrams than the budget, so each turn delivers one message.
    let turns = reactor.stats().turns;
    drive(&mut reactor, |reactor| {
        reactor.stats().datagrams_in == (MESSAGES * PARTS) as u64
    });
    let left = MESSAGES - before / PARTS;
    assert!(reactor.stats().turns - turns >= left as u64);
}

#[test]
fn echo_of_a_whole_batch_fits_the_datagram_queue() {
    for in_batches in [true, false] {
        let mut config = config(in_batches);
        config.datagram_queue_bytes_max = 80_000;
        let (mut reactor, _, addr) = bound(Probe::echo(), config);
        let clients = [peer(), peer()];
        let data = Random(9).bytes(40 * 1200);
        for client in &clients {
            send_as_one(client, addr, &data, 1200);
        }
        drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 80);
        assert_eq!(reactor.stats().datagrams_dropped, 0);
        for client in &clients {
            for expected in data.chunks(1200) {
                assert!(receive(client) == expected);
            }
        }
    }
}

/// After a batch that is not full, the reactor does not receive again, because the socket would
/// block. So the next datagram must cause an edge.
#[test]
fn datagram_after_a_partial_batch_is_received() {
    let (mut reactor, _, addr) = bound(Probe::silent(), config(true));
    let client = peer();
    let mut total = 0;
    for count in [1, 1, 2, 3, 1, 40, 5, 33, 32, 31, 1, 64, 1] {
        for _ in 0..count {
            client
                .send_to(b"one of many", addr)
                .expect("the datagram is sent");
        }
        total += count;
        drive(&mut reactor, |reactor| {
            reactor.stats().datagrams_in == total
        });
    }
}

/// The link is slower than the sender, so some sends would block. The datagrams of these sends wait
/// for writability.
#[test]
fn datagrams_that_would_block_are_sent_later() {
    const COUNT: usize = 600;
    let slow = "tc qdisc add dev lo root tbf rate 80mbit burst 64kb limit 10mb";
    let slow: Vec<_> = slow.split(' ').collect();
    if !enter_new_network(&[&["ip", "link", "set", "lo", "up"], &slow]) {
        return;
    }
    for in_batches in [true, false] {
        let (mut reactor, socket, _) = bound(Probe::silent(), config(in_batches));
        let client = peer();
        client
            .set_nonblocking(true)
            .expect("non-blocking mode can be set");
        // The client's receive buffer is large enough to lose nothing, even on a slow machine.
        setsockopt(&client, sockopt::RcvBufForce, &(8 << 20))
            .expect("the test has CAP_NET_ADMIN in its own namespace");
        let mut received = Vec::new();
        for round in 0..2 {
            let data = |index: usize| vec![index.to_le_bytes()[0]; 1000 - index % 3];
            reactor.with(|_, cx| {
                for index in 0..COUNT {
                    cx.send_to(socket, addr_of(&client), &data(index))
                        .expect("the datagram queue has space");
                }
            });
            reactor
                .turn(Some(Duration::ZERO))
                .expect("polling succeeds");
            let sent = reactor.stats().datagrams_out - (round * COUNT) as u64;
            assert!(
                sent < COUNT as u64,
                "the kernel accepted all datagrams at once"
            );
            received.clear();
            drive(&mut reactor, |_| {
                let mut buf = [0; 2000];
                while let Ok(len) = client.recv(&mut buf) {
                    received.push(buf[..len].to_vec());
                }
                received.len() == COUNT
            });
            for (index, received) in received.iter().enumerate() {
                assert!(*received == data(index), "datagram {index}");
            }
        }
        assert_eq!(errors(reactor.handler()), 0);
    }
}

/// Each datagram that the kernel has sent frees space in the send buffer. The freed space must not
/// cause an event, unless a send would block.
#[test]
fn sent_datagram_causes_no_event() {
    for in_batches in [true, false] {
        let (mut reactor, socket, _) = bound(Probe::silent(), config(in_batches));
        let client = peer();
        for count in [1, 5] {
            reactor.with(|_, cx| {
                for _ in 0..count {
                    cx.send_to(socket, addr_of(&client), b"gone")
                        .expect("the datagram queue has space");
                }
            });
            for _ in 0..3 {
                reactor
                    .turn(Some(Duration::ZERO))
                    .expect("polling succeeds");
            }
        }
        assert_eq!(reactor.stats().datagrams_out, 6);
        assert_eq!(reactor.stats().events, 0);
    }
}
