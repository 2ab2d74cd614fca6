//! UDP sockets that leave their reactor, and continue in another one.

mod common;

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::udp::{addr_of, peer, receive};
use common::{Event, Probe, drive, settle};
use unstick::{
    Config, ConnId, Context, Datagram, Handler, Reactor, Remote, SendError, UdpId, UdpOptions,
};

fn bound(probe: Probe) -> (Reactor<Probe>, UdpId, SocketAddr) {
    let mut reactor = Reactor::new(probe).expect("the reactor is created");
    let socket = reactor
        .bind_udp("127.0.0.1:0")
        .expect("a free port is available");
    let addr = reactor
        .local_inet_addr(socket)
        .expect("the socket is bound");
    (reactor, socket, addr)
}

fn datagrams(probe: &Probe) -> Vec<&[u8]> {
    let data = probe.events.iter().filter_map(|event| match event {
        Event::Datagram(_, _, data, _) => Some(&data[..]),
        _ => None,
    });
    data.collect()
}

/// Sends one datagram for each number. The payload is the number.
fn send_numbers(from: &UdpSocket, to: SocketAddr, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let sent = from.send_to(&number.to_be_bytes(), to);
        sent.expect("the kernel accepts the datagram");
    }
}

#[test]
fn detached_udp_socket_keeps_its_receive_buffer() {
    let (mut former, socket, addr) = bound(Probe::silent());
    let peer = peer();
    peer.send_to(b"first", addr)
        .expect("the datagram is accepted");
    drive(&mut former, |former| former.stats().datagrams_in == 1);
    let detached = former
        .with(|_, cx| cx.detach_udp(socket))
        .expect("the socket is open");
    peer.send_to(b"second", addr)
        .expect("the datagram is accepted");
    settle(&mut former);
    assert_eq!(datagrams(former.handler()), [b"first"]);
    former
        .local_inet_addr(socket)
        .expect_err("the id is closed at the end of the turn");
    peer.send_to(b"third", addr)
        .expect("the datagram is accepted");

    let mut next = Reactor::new(Probe::echo()).expect("the reactor is created");
    let adopted = next.with(|_, cx| cx.adopt_udp(detached));
    let adopted = adopted.expect("the socket is a UDP socket");
    assert_eq!(next.local_inet_addr(adopted).ok(), Some(addr));
    drive(&mut next, |next| next.stats().datagrams_out == 2);
    assert_eq!(datagrams(next.handler()), [&b"second"[..], b"third"]);
    assert_eq!(receive(&peer), b"second");
    assert_eq!(receive(&peer), b"third");
}

#[test]
fn udp_batch_received_before_its_detach_is_answered() {
    const COUNT: u32 = 100;
    let (given, taken) = std::sync::mpsc::channel();
    let (mut former, _, addr) = bound(Probe::new(move |cx, event| {
        if let Event::Datagram(socket, from, data, _) = event {
            let queued = cx.send_to(*socket, *from, data);
            queued.expect("the id is valid for the rest of the batch");
            if data[..] == 0u32.to_be_bytes() {
                let detached = cx.detach_udp(*socket).expect("the socket is open");
                given.send(detached).expect("the test waits");
            }
        }
    }));
    let peer = peer();
    send_numbers(&peer, addr, 0..COUNT);
    let detached = loop {
        former.turn(None).expect("polling succeeds");
        if let Ok(detached) = taken.try_recv() {
            break detached;
        }
    };
    settle(&mut former);
    let before = former.stats().datagrams_in;
    assert!(before < u64::from(COUNT), "all datagrams are in one batch");
    assert_eq!(former.stats().datagrams_out, before);
    let mut next = Reactor::new(Probe::echo()).expect("the reactor is created");
    let adopted = next.with(|_, cx| cx.adopt_udp(detached));
    adopted.expect("the socket is a UDP socket");
    drive(&mut next, |next| {
        before + next.stats().datagrams_out == COUNT.into()
    });
    for number in 0..COUNT {
        assert_eq!(receive(&peer), number.to_be_bytes());
    }
    settle(&mut next);
    assert_eq!(before + next.stats().datagrams_in, COUNT.into());
}

/// On Linux, the first receive of a quiet socket takes few datagrams. The second one takes a batch.
#[test]
fn udp_detach_in_the_middle_of_a_long_batch_loses_nothing() {
    const COUNT: u32 = 90;
    let mut seen = 0;
    let (given, taken) = std::sync::mpsc::channel();
    let (mut former, _, addr) = bound(Probe::new(move |cx, event| {
        if let Event::Datagram(socket, ..) = event {
            seen += 1;
            if seen == 5 {
                let detached = cx.detach_udp(*socket).expect("the socket is open");
                given.send(detached).expect("the test waits");
            }
        }
    }));
    send_numbers(&peer(), addr, 0..COUNT);
    drive(&mut former, |former| former.stats().datagrams_in >= 5);
    settle(&mut former);
    let mut next = Reactor::new(Probe::silent()).expect("the reactor is created");
    let detached = taken.try_recv().expect("the handler has detached");
    let adopted = next.with(|_, cx| cx.adopt_udp(detached));
    adopted.expect("the socket is a UDP socket");
    let before = former.stats().datagrams_in;
    if cfg!(all(target_os = "linux", feature = "udp-batch")) {
        assert!(before > 5, "the batch ends with the datagram of the detach");
    }
    drive(&mut next, |next| {
        before + next.stats().datagrams_in == COUNT.into()
    });
    let numbers = datagrams(former.handler())
        .into_iter()
        .chain(datagrams(next.handler()));
    let sent: Vec<_> = (0..COUNT).map(u32::to_be_bytes).collect();
    assert!(numbers.eq(sent.iter().map(|number| &number[..])));
}

#[test]
fn queued_datagrams_are_sent_after_a_udp_detach() {
    let (mut reactor, socket, _) = bound(Probe::silent());
    let peer = peer();
    reactor.with(|_, cx| {
        for number in 0..10u32 {
            let queued = cx.send_to(socket, addr_of(&peer), &number.to_be_bytes());
            queued.expect("the queue has space");
        }
        let detached = cx.detach_udp(socket).expect("the socket is open");
        // The detached socket sends at once, and the reactor sends the queued datagrams later.
        UdpSocket::from(detached)
            .send_to(&99u32.to_be_bytes(), addr_of(&peer))
            .expect("the datagram is accepted");
    });
    settle(&mut reactor);
    assert_eq!(receive(&peer), 99u32.to_be_bytes());
    for number in 0..10u32 {
        assert_eq!(receive(&peer), number.to_be_bytes());
    }
    reactor
        .local_inet_addr(socket)
        .expect_err("the socket is closed");
}

#[test]
fn second_udp_detach_and_detach_of_a_closed_socket_fail() {
    let (mut reactor, socket, _) = bound(Probe::silent());
    fn kind(result: std::io::Result<impl std::fmt::Debug>) -> ErrorKind {
        result.expect_err("the socket is not open").kind()
    }
    reactor.with(|_, cx| {
        let detached = cx.detach_udp(socket).expect("the socket is open");
        assert_eq!(kind(cx.detach_udp(socket)), ErrorKind::NotConnected);
        drop(detached);
        let other = cx.bind_udp("127.0.0.1:0").expect("a port is free");
        cx.close_udp(other);
        assert_eq!(kind(cx.detach_udp(other)), ErrorKind::NotConnected);
    });
    settle(&mut reactor);
    reactor.with(|_, cx| {
        assert_eq!(kind(cx.detach_udp(socket)), ErrorKind::NotConnected);
        let sent = cx.send_to(socket, SocketAddr::from(([127, 0, 0, 1], 9)), b"late");
        assert!(matches!(sent, Err(SendError::Gone)), "{sent:?}");
    });
}

#[test]
fn detached_udp_socket_keeps_its_connected_peer() {
    let (mut former, socket, addr) = bound(Probe::silent());
    let (friend, stranger) = (peer(), peer());
    let detached = former.with(|_, cx| {
        cx.connect_udp(socket, addr_of(&friend))
            .expect("the address is valid");
        cx.detach_udp(socket).expect("the socket is open")
    });
    settle(&mut former);
    let mut next = Reactor::new(Probe::silent()).expect("the reactor is created");
    let adopted = next.with(|_, cx| cx.adopt_udp(detached));
    let adopted = adopted.expect("the socket is a UDP socket");
    next.with(|_, cx| cx.send_datagram(adopted, b"to the peer"))
        .expect("the socket has a peer");
    settle(&mut next);
    assert_eq!(receive(&friend), b"to the peer");
    // The kernel drops this datagram, and may report the refusal to its sender.
    let _ = stranger.send_to(b"filtered", addr);
    friend
        .send_to(b"from the peer", addr)
        .expect("the datagram is accepted");
    drive(&mut next, |next| next.stats().datagrams_in == 1);
    assert_eq!(datagrams(next.handler()), [b"from the peer"]);
}

/// The kernel joins datagrams (`UDP_GRO`) while the socket waits for its next reactor. The next
/// reactor may receive without batches, or may count overflows. Each of these settings uses another
/// way to receive.
#[test]
#[cfg(target_os = "linux")]
fn joined_datagrams_of_an_adopted_socket_are_split() {
    let counting = UdpOptions::new();
    #[cfg(feature = "udp-batch")]
    let counting = counting.count_overflows(true);
    for in_batches in [false, true] {
        for options in [&UdpOptions::new(), &counting] {
            adopt_with_joined_datagrams(in_batches, options);
        }
    }
}

#[cfg(target_os = "linux")]
fn adopt_with_joined_datagrams(in_batches: bool, options: &UdpOptions) {
    use nix::sys::socket::{setsockopt, sockopt};
    let (mut former, socket, addr) = bound(Probe::silent());
    let peer = peer();
    let detached = former
        .with(|_, cx| cx.detach_udp(socket))
        .expect("the socket is open");
    settle(&mut former);
    setsockopt(&peer, sockopt::UdpGsoSegment, &100).expect("UDP_SEGMENT exists since Linux 4.18");
    let data: Vec<u8> = (0..=249).collect();
    peer.send_to(&data, addr).expect("the datagrams are sent");
    let config = Config::new().datagram_batches(in_batches);
    let mut next = Reactor::with_config(Probe::silent(), config).expect("the reactor is created");
    let adopted = next.with(|_, cx| cx.adopt_udp_with(detached, options));
    adopted.expect("the socket is a UDP socket");
    drive(&mut next, |next| next.stats().datagram_bytes_in == 250);
    let chunks: Vec<_> = data.chunks(100).collect();
    assert_eq!(
        datagrams(next.handler()),
        chunks,
        "{in_batches} {options:?}"
    );
}

const MOVES: u64 = if cfg!(debug_assertions) { 500 } else { 10_000 };
/// Number of peers. Each peer has one datagram in transit, so all datagrams fit the receive buffer.
const PEERS: u64 = 8;

/// An echo server that moves its socket to the other reactor after each third datagram.
struct Hop {
    other: Option<Remote<Self>>,
    moves: Arc<AtomicU64>,
    received: u64,
}

impl Handler for Hop {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}

    fn on_datagram(&mut self, cx: &mut Context<'_, Self>, socket: UdpId, datagram: Datagram<'_>) {
        let queued = cx.send_to(socket, datagram.from, datagram.data);
        queued.expect("the queue has space");
        self.received += 1;
        // Fails if an earlier datagram of this batch has moved the socket.
        if self.received.is_multiple_of(3)
            && let Ok(detached) = cx.detach_udp(socket)
        {
            self.moves.fetch_add(1, Ordering::Relaxed);
            let other = self.other.as_ref().expect("both reactors know each other");
            let posted = other.post(move |_, cx| {
                // The adopt fails if the test has ended and the reactors shut down.
                let _adopted = cx.adopt_udp(detached);
            });
            posted.expect("the other reactor exists");
        }
    }
}

#[test]
fn udp_socket_that_moves_answers_each_datagram_once() {
    let moves = Arc::new(AtomicU64::new(0));
    let reactor = || {
        let hop = Hop {
            other: None,
            moves: moves.clone(),
            received: 0,
        };
        Reactor::new(hop).expect("the reactor is created")
    };
    let (mut one, mut other) = (reactor(), reactor());
    one.handler_mut().other = Some(other.remote());
    other.handler_mut().other = Some(one.remote());
    let socket = one.bind_udp("127.0.0.1:0").expect("a port is free");
    let addr = one.local_inet_addr(socket).expect("the socket is bound");
    let remotes = [one.remote(), other.remote()];
    let reactors = [one, other].map(|mut reactor| {
        thread::spawn(move || {
            reactor.run().expect("polling succeeds");
            reactor.stats()
        })
    });
    let peers: Vec<_> = (0..PEERS)
        .map(|number| {
            let moves = moves.clone();
            thread::spawn(move || {
                let peer = peer();
                let mut sent = 0u64;
                while moves.load(Ordering::Relaxed) < MOVES {
                    let data = [number.to_be_bytes(), sent.to_be_bytes()].concat();
                    peer.send_to(&data, addr).expect("the datagram is accepted");
                    assert_eq!(receive(&peer), data, "datagram {sent} of peer {number}");
                    sent += 1;
                }
                peer.set_nonblocking(true).expect("the mode can be set");
                let doubled = peer.recv(&mut [0; 16]);
                doubled.expect_err("each datagram was answered once");
                sent
            })
        })
        .collect();
    let sent: u64 = peers
        .into_iter()
        .map(|peer| peer.join().expect("the peer got all replies"))
        .sum();
    for remote in remotes {
        let posted = remote.shutdown(Duration::from_secs(1));
        posted.expect("the reactor runs");
    }
    let stats = reactors.map(|it| it.join().expect("the reactor does not panic"));
    assert_eq!(stats.iter().map(|it| it.datagrams_in).sum::<u64>(), sent);
    assert_eq!(stats.iter().map(|it| it.datagrams_out).sum::<u64>(), sent);
    assert_eq!(stats.iter().map(|it| it.datagrams_dropped).sum::<u64>(), 0);
}
