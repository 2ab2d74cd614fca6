//! Datagrams that the kernel carries as one: to the handler and to its peers they are what was
//! sent, one by one. Whatever is told here holds with batches and without.

#![cfg(target_os = "linux")]

mod common;

use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use common::{DEADLINE, Event, Probe, Random, drive, frame};
use nix::sched::{CloneFlags, unshare};
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
    let mut reactor = Reactor::with_config(probe, config).expect("a reactor");
    let socket = reactor.bind_udp(addr).expect("a free port");
    let addr = reactor.local_inet_addr(socket).expect("it is bound");
    (reactor, socket, addr)
}

/// A blocking socket whose receives fail rather than hang.
fn peer() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket
        .set_read_timeout(Some(DEADLINE))
        .expect("a timeout can be set");
    socket
}

fn addr_of(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("it is bound")
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buf = vec![0; 65_536];
    let (len, _) = socket.recv_from(&mut buf).expect("a datagram comes");
    buf.truncate(len);
    buf
}

/// Sends `data` as datagrams of `segment_len` bytes, which the kernel takes as one.
fn send_as_one(socket: &UdpSocket, to: SocketAddr, data: &[u8], segment_len: usize) {
    let segment_len = i32::try_from(segment_len).expect("it is short");
    setsockopt(socket, sockopt::UdpGsoSegment, &segment_len).expect("Linux can since 4.18");
    socket.send_to(data, to).expect("the kernel takes it");
    setsockopt(socket, sockopt::UdpGsoSegment, &0).expect("and turn it off");
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

/// Peers send runs of several datagrams as one and single ones between, of any length, and none;
/// the handler sees what each sent, and each gets it back, in its order.
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
                peers[index].send_to(&data, to).expect("it is local");
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
                assert!(receive(&peers[index]) == *expected, "echo {at} of {index}");
            }
        }
    }
    let mut seen: HashMap<u16, Vec<&[u8]>> = HashMap::new();
    for (from, data, truncated) in datagrams(reactor.handler()) {
        assert!(!truncated);
        seen.entry(from.port()).or_default().push(data);
    }
    for (index, peer) in peers.iter().enumerate() {
        assert!(seen[&addr_of(peer).port()] == sent[index], "peer {index}");
    }
    assert_eq!(reactor.stats().datagrams_in, total);
    assert_eq!(errors(reactor.handler()), 0);
}

#[test]
fn boundaries_are_those_of_the_senders_whatever_the_kernel_made_one_of() {
    for in_batches in [true, false] {
        let peers = [peer(), peer(), peer(), peer()];
        assert_boundaries_are_the_senders("127.0.0.1:0", &peers, in_batches);
    }
}

#[test]
fn boundaries_hold_where_one_socket_hears_ipv4_and_ipv6() {
    let six = || {
        let socket = UdpSocket::bind("[::1]:0")?;
        socket.set_read_timeout(Some(DEADLINE))?;
        Ok::<_, std::io::Error>(socket)
    };
    for in_batches in [true, false] {
        let (Ok(third), Ok(fourth)) = (six(), six()) else {
            return println!("skipped: no IPv6 loopback here");
        };
        let peers = [peer(), peer(), third, fourth];
        assert_boundaries_are_the_senders("[::]:0", &peers, in_batches);
    }
}

#[test]
fn truncation_is_told_of_each_datagram_that_came_in_one_message() {
    const LIMIT: usize = 100;
    for in_batches in [true, false] {
        let mut config = config(in_batches);
        config.datagram_len_max = LIMIT;
        let (mut reactor, _, addr) = bound(Probe::silent(), config);
        let client = peer();
        let data = Random(5).bytes(3 * 150 + 40);
        send_as_one(&client, addr, &data, 150);
        client.send_to(&data[..LIMIT], addr).expect("it is local");
        send_as_one(&client, addr, &data[..3 * LIMIT], LIMIT);
        drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 8);
        let seen: Vec<_> = datagrams(reactor.handler()).collect();
        for (index, (_, seen, truncated)) in seen.iter().enumerate() {
            let whole = match index {
                0..4 => data.chunks(150).nth(index),
                4 => data.chunks(LIMIT).next(),
                _ => data.chunks(LIMIT).nth(index - 5),
            };
            let whole = whole.expect("so many were sent");
            assert_eq!(*seen, &whole[..whole.len().min(LIMIT)], "datagram {index}");
            assert_eq!(*truncated, whole.len() > LIMIT, "datagram {index}");
        }
        assert_eq!(reactor.stats().datagrams_truncated, 3);
    }
}

/// What is queued at once: runs that the kernel is given as one, more than it takes at once, and
/// between them what belongs to no run.
#[test]
fn what_is_sent_at_once_arrives_one_by_one_and_in_order() {
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
                    // Mostly runs; with every third round all to one, else to anybody.
                    if at == 0 || random.below(8) == 0 {
                        len = random.below(200) * random.below(6);
                    }
                    let index = if round % 3 == 0 { 0 } else { random.below(3) };
                    let data = random.bytes(len);
                    cx.send_to(socket, addr_of(&peers[index]), &data)
                        .expect("there is room");
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

/// Seen from a peer that takes as one what was sent as one.
#[test]
fn the_answers_to_what_came_as_one_go_as_one() {
    let data = Random(2).bytes(32 * 64);
    for (in_batches, first_len) in [(true, data.len()), (false, 64)] {
        let (mut reactor, _, addr) = bound(Probe::echo(), config(in_batches));
        let client = peer();
        setsockopt(&client, sockopt::UdpGroSegment, &true).expect("Linux can since 5.0");
        send_as_one(&client, addr, &data, 64);
        drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 32);
        assert_eq!(receive(&client), data[..first_len]);
    }
}

#[test]
fn what_is_sent_at_once_to_the_connected_peer_goes_as_one() {
    let data = Random(2).bytes(32 * 64);
    for (in_batches, first_len) in [(true, data.len()), (false, 64)] {
        let (mut reactor, socket, _) = bound(Probe::silent(), config(in_batches));
        let client = peer();
        setsockopt(&client, sockopt::UdpGroSegment, &true).expect("Linux can since 5.0");
        reactor
            .with(|_, cx| cx.connect_udp(socket, addr_of(&client)))
            .expect("connecting UDP is local");
        reactor.with(|_, cx| {
            for data in data.chunks(64) {
                cx.send_datagram(socket, data).expect("there is room");
            }
        });
        drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 32);
        assert_eq!(receive(&client), data[..first_len]);
    }
}

/// A call of several messages would hide a refusal behind what it had sent (sendmmsg(2)).
#[test]
fn each_refusal_of_a_burst_is_told_and_costs_nothing() {
    const BURST: usize = 10;
    for in_batches in [true, false] {
        let (mut reactor, socket, _) = bound(Probe::silent(), config(in_batches));
        let peer_addr = addr_of(&peer());
        reactor
            .with(|_, cx| cx.connect_udp(socket, peer_addr))
            .expect("connecting UDP is local");
        reactor.with(|_, cx| {
            for len in 0..BURST {
                cx.send_datagram(socket, &vec![7; len])
                    .expect("there is room");
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
fn a_run_that_the_kernel_refuses_costs_each_of_its_datagrams_an_error_and_no_other() {
    const RUN: usize = 10;
    for in_batches in [true, false] {
        let (mut reactor, socket, _) = bound(Probe::silent(), config(in_batches));
        let client = peer();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        for round in 1..=3 {
            reactor.with(|_, cx| {
                for to in [addr_of(&client), nowhere, addr_of(&client)] {
                    for index in 0..RUN {
                        cx.send_to(socket, to, &[index.to_le_bytes()[0]; 50])
                            .expect("there is room");
                    }
                }
            });
            drive(&mut reactor, |reactor| {
                reactor.stats().datagrams_out == 2 * round * RUN as u64
            });
            for index in (0..RUN).chain(0..RUN) {
                assert_eq!(receive(&client), [index.to_le_bytes()[0]; 50]);
            }
            let stats = reactor.stats();
            assert_eq!(stats.datagram_errors, round * RUN as u64);
            assert_eq!(stats.datagrams_dropped, round * RUN as u64);
        }
        // It was about where they went, not about their being one.
        setsockopt(&client, sockopt::UdpGroSegment, &true).expect("Linux can since 5.0");
        reactor.with(|_, cx| {
            for _ in 0..2 {
                cx.send_to(socket, addr_of(&client), &[3; 50])
                    .expect("there is room");
            }
        });
        reactor.turn(Some(Duration::ZERO)).expect("the poll works");
        assert_eq!(receive(&client).len(), if in_batches { 100 } else { 50 });
    }
}

/// Gives this thread a network of its own, prepared by these commands; false where that cannot be.
fn has_network_of_its_own(commands: &[&[&str]]) -> bool {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("skipped: no network of its own here ({error})");
        return false;
    }
    commands.iter().all(|command| {
        let status = Command::new(command[0]).args(&command[1..]).status();
        let is_done = status.is_ok_and(|status| status.success());
        if !is_done {
            println!("skipped: {command:?} does not work here");
        }
        is_done
    })
}

/// A way whose packets are shorter than the datagrams: they go in fragments, which the kernel does
/// not do to parts of one. In a network of this thread's own, whose loopback is made so.
#[test]
fn datagrams_longer_than_a_packet_go_out_whole() {
    if !has_network_of_its_own(&[&["ip", "link", "set", "lo", "mtu", "1500", "up"]]) {
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
                            .expect("there is room");
                    }
                });
                reactor.turn(Some(Duration::ZERO)).expect("the poll works");
                for index in 0..5 {
                    assert!(receive(&client) == vec![index; len], "{len} bytes");
                }
            }
            assert_eq!(reactor.stats().datagrams_out, round * 20);
            assert_eq!(errors(reactor.handler()), 0);
        }
        // What fits still goes as one.
        setsockopt(&client, sockopt::UdpGroSegment, &true).expect("Linux can since 5.0");
        reactor.with(|_, cx| {
            for _ in 0..2 {
                cx.send_to(socket, addr_of(&client), &[3; 1400])
                    .expect("there is room");
            }
        });
        reactor.turn(Some(Duration::ZERO)).expect("the poll works");
        assert_eq!(receive(&client).len(), if in_batches { 2800 } else { 1400 });
    }
}

/// A message counts as what it is: a budget of a few datagrams does not become one of thousands.
#[test]
fn a_flood_that_comes_as_one_does_not_keep_a_frame_waiting() {
    const MESSAGES: usize = 40;
    const PARTS: usize = 64;
    let mut config = config(true);
    config.datagram_budget = 8;
    let (mut reactor, _, udp_addr) = bound(Probe::silent(), config);
    let listener = reactor
        .listen("127.0.0.1:0", Framing::length_u32())
        .expect("a free port");
    let tcp_addr = reactor.local_inet_addr(listener).expect("it is bound");
    let mut client = common::client(tcp_addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);

    let flooder = peer();
    for _ in 0..MESSAGES {
        send_as_one(&flooder, udp_addr, &[7; 16 * PARTS], 16);
    }
    client
        .write_all(&frame("u32", b"me too"))
        .expect("the kernel takes it");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
    let before = datagrams(reactor.handler()).count();
    assert!(before <= 3 * PARTS, "{before} datagrams before the frame");
    // A budget that was overdrawn once is kept from then on: a message a turn.
    let turns = reactor.stats().turns;
    drive(&mut reactor, |reactor| {
        reactor.stats().datagrams_in == (MESSAGES * PARTS) as u64
    });
    let left = MESSAGES - before / PARTS;
    assert!(reactor.stats().turns - turns >= left as u64);
}

#[test]
fn an_echo_of_a_whole_batch_does_not_fill_the_queue() {
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

/// A call that brings fewer than it could has drained the socket, and the next datagram makes an
/// edge.
#[test]
fn a_socket_that_was_drained_by_a_batch_hears_the_next_datagram() {
    let (mut reactor, _, addr) = bound(Probe::silent(), config(true));
    let client = peer();
    let mut total = 0;
    for count in [1, 1, 2, 3, 1, 40, 5, 33, 32, 31, 1, 64, 1] {
        for _ in 0..count {
            client.send_to(b"one of many", addr).expect("it is local");
        }
        total += count;
        drive(&mut reactor, |reactor| {
            reactor.stats().datagrams_in == total
        });
    }
}

/// A way that is slower than the sender: what the kernel has no room for waits for word of room.
#[test]
fn datagrams_that_find_no_room_go_out_when_there_is_and_in_order() {
    const COUNT: usize = 600;
    let slow = "tc qdisc add dev lo root tbf rate 80mbit burst 64kb limit 10mb";
    let slow: Vec<_> = slow.split(' ').collect();
    if !has_network_of_its_own(&[&["ip", "link", "set", "lo", "up"], &slow]) {
        return;
    }
    for in_batches in [true, false] {
        let (mut reactor, socket, _) = bound(Probe::silent(), config(in_batches));
        let client = peer();
        client.set_nonblocking(true).expect("the mode can be set");
        // Whatever else the machine does, nothing is lost for want of room there.
        setsockopt(&client, sockopt::RcvBufForce, &(8 << 20)).expect("this network is its own");
        let mut received = Vec::new();
        for round in 0..2 {
            let data = |index: usize| vec![index.to_le_bytes()[0]; 1000 - index % 3];
            reactor.with(|_, cx| {
                for index in 0..COUNT {
                    cx.send_to(socket, addr_of(&client), &data(index))
                        .expect("there is room");
                }
            });
            reactor.turn(Some(Duration::ZERO)).expect("the poll works");
            let sent = reactor.stats().datagrams_out - (round * COUNT) as u64;
            assert!(sent < COUNT as u64, "the kernel had room for all");
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

/// Each datagram that went makes room, of which nobody wants to know as long as there was some.
#[test]
fn a_datagram_that_went_makes_no_event() {
    for in_batches in [true, false] {
        let (mut reactor, socket, _) = bound(Probe::silent(), config(in_batches));
        let client = peer();
        for count in [1, 5] {
            reactor.with(|_, cx| {
                for _ in 0..count {
                    cx.send_to(socket, addr_of(&client), b"gone")
                        .expect("there is room");
                }
            });
            for _ in 0..3 {
                reactor.turn(Some(Duration::ZERO)).expect("the poll works");
            }
        }
        assert_eq!(reactor.stats().datagrams_out, 6);
        assert_eq!(reactor.stats().events, 0);
    }
}
