//! Datagrams: what is sent, what is refused, what comes, and that none of it ends a socket.
//!
//! `tests/udp_one_by_one.rs` runs all of it again without batches.

#[cfg(unix)]
#[path = "common/child.rs"]
mod child;
mod common;

use std::io::ErrorKind;
use std::io::Write;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{DEADLINE, Event, Probe, Random, drive, frame};
use unstick::{Config, Framing, Reactor, SendError, UdpId};

/// Batches are for this crate; `udp_one_by_one` includes it as a module.
fn config() -> Config {
    let mut config = Config::default();
    config.datagram_batches = env!("CARGO_CRATE_NAME") == "udp";
    config
}

/// The most that one datagram carries over IPv4: 65,535 less the headers of IP and UDP.
const PAYLOAD_LEN_MAX: usize = 65_507;

fn bound(probe: Probe, config: Config) -> (Reactor<Probe>, UdpId, SocketAddr) {
    let mut reactor = Reactor::with_config(probe, config).expect("a reactor");
    let socket = reactor.bind_udp("127.0.0.1:0").expect("a free port");
    let addr = reactor.local_inet_addr(socket).expect("it is bound");
    (reactor, socket, addr)
}

/// A blocking socket whose receives fail rather than hang.
fn peer() -> UdpSocket {
    peer_at("127.0.0.1:0".parse().expect("an address"))
}

fn peer_at(addr: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(addr).expect("the port is free");
    socket
        .set_read_timeout(Some(DEADLINE))
        .expect("a timeout can be set");
    socket
}

/// A peer at an address that no other test has, as its port is to be free when it is gone.
fn mortal_peer(last: u8) -> UdpSocket {
    // Elsewhere the loopback interface has one address.
    let host = if cfg!(target_os = "linux") { last } else { 1 };
    peer_at(SocketAddr::from(([127, 0, 0, host], 0)))
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

fn nothing_to_receive(socket: &UdpSocket) -> bool {
    socket.set_nonblocking(true).expect("the mode can be set");
    let result = socket.recv_from(&mut [0; 16]);
    socket.set_nonblocking(false).expect("the mode can be set");
    matches!(result, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

fn errors(probe: &Probe) -> Vec<(ErrorKind, Option<i32>)> {
    probe
        .events
        .iter()
        .filter_map(|event| match event {
            Event::DatagramError(_, error) => Some((error.kind(), error.raw_os_error())),
            _ => None,
        })
        .collect()
}

fn datagrams(probe: &Probe) -> Vec<(&[u8], bool)> {
    probe
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Datagram(_, _, data, truncated) => Some((&data[..], *truncated)),
            _ => None,
        })
        .collect()
}

fn send_all(reactor: &mut Reactor<Probe>, socket: UdpId, payloads: &[&[u8]]) {
    reactor.with(|_, cx| {
        for payload in payloads {
            cx.send_datagram(socket, payload).expect("there is room");
        }
    });
}

#[test]
fn a_peer_that_dies_is_told_of_and_the_burst_to_its_successor_arrives() {
    let (mut reactor, socket, addr) = bound(Probe::silent(), config());
    let first = mortal_peer(2);
    let peer_addr = addr_of(&first);
    reactor
        .with(|_, cx| cx.connect_udp(socket, peer_addr))
        .expect("connecting UDP is local");

    let burst: [&[u8]; 4] = [b"one", b"two", b"three", b"four"];
    send_all(&mut reactor, socket, &burst);
    drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 4);
    assert_eq!(burst.map(<[u8]>::to_vec), burst.map(|_| receive(&first)));
    drop(first);

    for told in 1..=2 {
        send_all(&mut reactor, socket, &[b"anybody there?"]);
        drive(&mut reactor, |reactor| {
            reactor.stats().datagram_errors == told
        });
    }
    // recvfrom of Windows, WSAECONNRESET.
    let refusal = if cfg!(windows) {
        ErrorKind::ConnectionReset
    } else {
        ErrorKind::ConnectionRefused
    };
    let refused = errors(reactor.handler());
    assert_eq!(refused.len(), 2);
    assert!(refused.iter().all(|error| error.0 == refusal));
    assert_eq!(reactor.stats().datagrams_dropped, 0, "the kernel took them");

    let second = peer_at(peer_addr);
    send_all(&mut reactor, socket, &burst);
    drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 10);
    assert_eq!(burst.map(<[u8]>::to_vec), burst.map(|_| receive(&second)));
    second.send_to(b"back", addr).expect("the kernel takes it");
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 1);
    assert_eq!(datagrams(reactor.handler()), [(&b"back"[..], false)]);
}

/// The kernel reports a refusal by failing the next call on the socket, whatever that is about
/// (udp(7): "an error for an earlier packet"). When that call sends, its datagram has not gone.
#[test]
fn the_send_that_learns_of_an_earlier_refusal_loses_nothing() {
    let (mut reactor, socket, _) = bound(Probe::silent(), config());
    let peer_addr = addr_of(&mortal_peer(3));
    reactor
        .with(|_, cx| cx.connect_udp(socket, peer_addr))
        .expect("connecting UDP is local");
    send_all(&mut reactor, socket, &[b"into the void"]);
    reactor.turn(Some(Duration::ZERO)).expect("the poll works");

    let revived = peer_at(peer_addr);
    send_all(&mut reactor, socket, &[b"to the living"]);
    drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 2);
    assert_eq!(receive(&revived), b"to the living");
    drive(&mut reactor, |reactor| !reactor.handler().events.is_empty());
    assert_eq!(reactor.stats().datagrams_dropped, 0);
}

/// Has a refusal wait for the next call on a socket, by a duplicate of it.
#[cfg(target_os = "linux")]
struct Refused {
    duplicate: mio::net::UdpSocket,
    poll: mio::Poll,
}

#[cfg(target_os = "linux")]
impl Refused {
    fn new(duplicate: UdpSocket) -> Self {
        let mut duplicate = mio::net::UdpSocket::from_std(duplicate);
        let poll = mio::Poll::new().expect("a poll");
        poll.registry()
            .register(&mut duplicate, mio::Token(0), mio::Interest::READABLE)
            .expect("it can be watched");
        Self { duplicate, poll }
    }

    fn once_more(&mut self) {
        self.duplicate.send(b"into the void").expect("it is local");
        let mut events = mio::Events::with_capacity(1);
        while !events.iter().any(mio::event::Event::is_error) {
            let polled = self.poll.poll(&mut events, Some(DEADLINE));
            polled.expect("the poll works");
            assert!(!events.is_empty(), "nobody refuses it");
        }
    }
}

/// One that learns of an earlier refusal is tried again, whenever it comes; one that is refused
/// again then is taken to be refused itself, and costs nobody else.
#[test]
#[cfg(target_os = "linux")]
fn a_datagram_that_is_refused_twice_in_a_row_is_dropped_and_told_of_and_the_next_one_goes() {
    let near = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let dead = mortal_peer(4);
    near.connect(addr_of(&dead)).expect("it is local");
    drop(dead);
    let duplicate = near.try_clone().expect("a descriptor");
    duplicate.set_nonblocking(true).expect("it can be set");
    let refused = Arc::new(std::sync::Mutex::new(Refused::new(duplicate)));
    let again = Arc::new(AtomicUsize::new(0));
    let (seen, left) = (Arc::clone(&refused), Arc::clone(&again));
    let probe = Probe::new(move |_, event| {
        if matches!(event, Event::DatagramError(..)) && left.swap(0, Ordering::Relaxed) == 1 {
            seen.lock().expect("no panic").once_more();
        }
    });
    let mut reactor = Reactor::with_config(probe, config()).expect("a reactor");
    let socket = reactor
        .with(|_, cx| cx.adopt_udp(near))
        .expect("it is of UDP");
    let living = peer();
    let to = addr_of(&living);
    let mut out = 0;
    for (is_again, lost) in [(0, 0), (0, 0), (1, 1), (0, 1), (1, 2)] {
        again.store(is_again, Ordering::Relaxed);
        refused.lock().expect("no panic").once_more();
        reactor.with(|_, cx| {
            cx.send_to(socket, to, b"one").expect("there is room");
            cx.send_to(socket, to, b"two").expect("there is room");
        });
        out += 2 - is_again as u64;
        drive(&mut reactor, |reactor| reactor.stats().datagrams_out == out);
        if is_again == 0 {
            assert_eq!(receive(&living), b"one");
        }
        assert_eq!(receive(&living), b"two");
        assert_eq!(reactor.stats().datagrams_dropped, lost);
    }
    assert!(nothing_to_receive(&living));
    let told = errors(reactor.handler());
    assert_eq!(told.len(), 7);
    let is_refusal = |error: &(ErrorKind, _)| error.0 == ErrorKind::ConnectionRefused;
    assert!(told.iter().all(is_refusal), "{told:?}");
}

/// One datagram that the kernel refuses, between two that it takes.
fn assert_only_it_is_dropped(to: Option<SocketAddr>, len: usize, errno: i32) {
    let (mut reactor, socket, _) = bound(Probe::silent(), config());
    let peer = peer();
    let peer_addr = addr_of(&peer);
    reactor.with(|_, cx| {
        cx.send_to(socket, peer_addr, b"before")
            .expect("there is room");
        cx.send_to(socket, to.unwrap_or(peer_addr), &vec![7; len])
            .expect("the kernel refuses it, not the queue");
        cx.send_to(socket, peer_addr, b"after")
            .expect("there is room");
    });
    drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 2);
    assert_eq!(receive(&peer), b"before");
    assert_eq!(receive(&peer), b"after");
    reactor.turn(Some(Duration::ZERO)).expect("the poll works");

    let told = errors(reactor.handler());
    assert_eq!(told.len(), 1, "told once: {told:?}");
    if cfg!(target_os = "linux") {
        assert_eq!(told[0].1, Some(errno));
    }
    let stats = reactor.stats();
    assert_eq!((stats.datagram_errors, stats.datagrams_dropped), (1, 1));
}

#[test]
fn a_datagram_that_is_too_long_is_dropped_and_told_of_and_the_next_one_goes() {
    const EMSGSIZE: i32 = 90;
    assert_only_it_is_dropped(None, PAYLOAD_LEN_MAX + 1, EMSGSIZE);
}

#[test]
fn a_broadcast_without_permission_is_dropped_and_told_of_and_the_next_one_goes() {
    const EACCES: i32 = 13;
    assert_only_it_is_dropped("255.255.255.255:9".parse().ok(), 1, EACCES);
}

#[test]
fn a_datagram_to_port_zero_is_dropped_and_told_of_and_the_next_one_goes() {
    const EINVAL: i32 = 22;
    assert_only_it_is_dropped("127.0.0.1:0".parse().ok(), 1, EINVAL);
}

#[test]
fn a_datagram_to_nobody_is_dropped_and_told_of() {
    let (mut reactor, socket, _) = bound(Probe::silent(), config());
    send_all(&mut reactor, socket, &[b"to whom?"]);
    drive(&mut reactor, |reactor| reactor.stats().datagram_errors == 1);
    let told = errors(reactor.handler());
    assert_eq!(told.len(), 1);
    if cfg!(target_os = "linux") {
        const EDESTADDRREQ: i32 = 89;
        assert_eq!(told[0].1, Some(EDESTADDRREQ));
    }
    assert_eq!(reactor.stats().datagrams_dropped, 1);
}

/// A handler that sends again what failed does not hold the turn: others are still served.
#[test]
fn answering_every_send_error_with_a_send_does_not_hold_the_loop() {
    const FAR_TOO_MANY: usize = 100_000;
    let errors = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&errors);
    let nowhere = "127.0.0.1:0".parse().expect("an address");
    let probe = Probe::new(move |cx, event| {
        if let Event::DatagramError(socket, _) = event
            && seen.fetch_add(1, Ordering::Relaxed) < FAR_TOO_MANY
        {
            let _ = cx.send_to(*socket, nowhere, b"again");
        }
    });
    let (mut reactor, socket, _) = bound(probe, config());
    reactor
        .with(|_, cx| cx.send_to(socket, nowhere, b"once"))
        .expect("there is room");
    for _ in 0..10 {
        reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    }
    let errors = errors.load(Ordering::Relaxed);
    assert!(errors >= 10, "the socket goes on: {errors}");
    assert!(errors < FAR_TOO_MANY, "ten turns saw {errors} errors");
}

/// Also where they are more than one turn tells of.
#[test]
fn a_run_of_failing_datagrams_does_not_hold_back_the_good_one_behind_it() {
    const RUN: usize = 200;
    let mut config = config();
    config.datagram_budget = 8;
    let (mut reactor, socket, _) = bound(Probe::silent(), config);
    let peer = peer();
    let nowhere = "127.0.0.1:0".parse().expect("an address");
    reactor.with(|_, cx| {
        for _ in 0..RUN {
            cx.send_to(socket, nowhere, b"lost").expect("there is room");
        }
        cx.send_to(socket, addr_of(&peer), b"found")
            .expect("there is room");
    });
    drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 1);
    assert_eq!(receive(&peer), b"found");
    assert_eq!(errors(reactor.handler()).len(), RUN);
    assert_eq!(reactor.stats().datagrams_dropped, RUN as u64);
}

#[test]
fn a_full_queue_refuses_a_datagram_and_sends_the_others() {
    let mut config = config();
    config.datagram_queue_bytes_max = 10 * (100 + 64);
    let (mut reactor, socket, _) = bound(Probe::silent(), config);
    let peer = peer();
    let to = addr_of(&peer);
    for round in 1..=3 {
        reactor.with(|_, cx| {
            for index in 0..10 {
                cx.send_to(socket, to, &[index; 100])
                    .expect("ten of a hundred bytes fit");
            }
            for _ in 0..2 {
                let refused = cx.send_to(socket, to, b"");
                assert!(matches!(refused, Err(SendError::Full)), "{refused:?}");
            }
        });
        drive(&mut reactor, |reactor| {
            reactor.stats().datagrams_out == 10 * round
        });
        assert_eq!(reactor.stats().datagrams_dropped, 2 * round);
        for index in 0..10 {
            assert_eq!(receive(&peer), [index; 100]);
        }
    }
    assert!(nothing_to_receive(&peer));
    assert!(errors(reactor.handler()).is_empty());
}

#[test]
fn the_longest_datagram_comes_whole_and_goes_whole() {
    let seed = 3;
    println!("seed {seed}");
    let payload = Random(seed).bytes(PAYLOAD_LEN_MAX);
    for read_len_max in [1, config().read_len_max] {
        let mut config = config();
        config.read_len_max = read_len_max;
        let (mut reactor, _, addr) = bound(Probe::echo(), config);
        let client = peer();
        client.send_to(&payload, addr).expect("the kernel takes it");
        drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 1);
        assert!(receive(&client) == payload);
        assert_eq!(datagrams(reactor.handler()), [(&payload[..], false)]);
        assert_eq!(reactor.stats().datagrams_truncated, 0);
    }
}

#[test]
fn a_datagram_longer_than_the_limit_is_flagged_and_one_of_exactly_the_limit_is_not() {
    for limit in [0, 1, 2, 100, 9000] {
        let mut config = config();
        config.datagram_len_max = limit;
        let (mut reactor, _, addr) = bound(Probe::silent(), config);
        let client = peer();
        let lens = [limit, limit + 1, limit + 1000, limit.saturating_sub(1)];
        for len in lens {
            let payload: Vec<u8> = (0..len).map(|at| at.to_le_bytes()[0]).collect();
            client.send_to(&payload, addr).expect("the kernel takes it");
        }
        drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 4);
        let seen = datagrams(reactor.handler());
        for (len, (data, truncated)) in lens.into_iter().zip(&seen) {
            assert_eq!(data.len(), len.min(limit), "limit {limit}");
            assert!((0..data.len()).all(|at| data[at] == at.to_le_bytes()[0]));
            assert_eq!(*truncated, len > limit, "{len} bytes, limit {limit}");
        }
        assert_eq!(reactor.stats().datagrams_truncated, 2);
    }
}

#[test]
fn a_run_of_empty_datagrams_is_delivered_and_echoed_one_by_one() {
    const COUNT: usize = 100;
    let (mut reactor, _, addr) = bound(Probe::echo(), config());
    let client = peer();
    for _ in 0..COUNT {
        client.send_to(b"", addr).expect("the kernel takes it");
    }
    client.send_to(b"last", addr).expect("the kernel takes it");
    drive(&mut reactor, |reactor| {
        reactor.stats().datagrams_out == COUNT as u64 + 1
    });
    let seen = datagrams(reactor.handler());
    assert_eq!(seen.len(), COUNT + 1);
    assert!(seen[..COUNT].iter().all(|seen| *seen == (&b""[..], false)));
    for _ in 0..COUNT {
        assert_eq!(receive(&client), b"");
    }
    assert_eq!(receive(&client), b"last");
}

#[test]
fn a_pending_flood_of_datagrams_does_not_keep_a_frame_waiting() {
    const FLOOD: usize = 150;
    const BUDGET: usize = 8;
    let mut config = config();
    config.datagram_budget = BUDGET;
    let (mut reactor, _, udp_addr) = bound(Probe::silent(), config);
    let listener = reactor
        .listen("127.0.0.1:0", Framing::length_u32())
        .expect("a free port");
    let tcp_addr = reactor.local_inet_addr(listener).expect("it is bound");
    let mut client = common::client(tcp_addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    let Event::Open(conn, _) = reactor.handler().events[0] else {
        panic!("the connection was opened first");
    };

    // First the flood, so that it stands in front; then a frame, which is seen to have arrived.
    let flooder = peer();
    for _ in 0..FLOOD {
        flooder
            .send_to(b"flood", udp_addr)
            .expect("the kernel takes it");
    }
    let message = frame("u32", b"me too");
    client.write_all(&message).expect("the kernel takes it");
    wait_for(|| {
        reactor.with(|_, cx| {
            let options = cx.socket_options(conn).expect("it is open");
            let mut buf = [MaybeUninit::uninit(); 64];
            options.peek(&mut buf).is_ok_and(|len| len == message.len())
        })
    });

    drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
    let before = datagrams(reactor.handler()).len();
    assert!(
        before <= 2 * BUDGET,
        "{before} datagrams were served before the frame"
    );
    // The rest needs no further traffic to be seen.
    drive(&mut reactor, |reactor| {
        reactor.stats().datagrams_in == FLOOD as u64
    });
}

/// Waits for something outside of the reactor.
fn wait_for(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "what was waited for never came");
        std::thread::yield_now();
    }
}

#[test]
fn a_connected_socket_hears_its_peer_only() {
    let (mut reactor, socket, addr) = bound(Probe::silent(), config());
    let (friend, stranger) = (peer(), peer());
    let friend_addr = addr_of(&friend);
    reactor
        .with(|_, cx| cx.connect_udp(socket, friend_addr))
        .expect("connecting UDP is local");
    stranger.send_to(b"psst", addr).expect("it is local");
    friend.send_to(b"hello", addr).expect("it is local");
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 1);
    assert_eq!(datagrams(reactor.handler()), [(&b"hello"[..], false)]);
}

#[test]
fn datagrams_go_over_ipv6_too() {
    let mut reactor = Reactor::with_config(Probe::echo(), config()).expect("a reactor");
    let socket = match reactor.bind_udp("[::1]:0") {
        Ok(socket) => socket,
        Err(error) => return println!("skipped: no IPv6 loopback here ({error})"),
    };
    let addr = reactor.local_inet_addr(socket).expect("it is bound");
    assert!(addr.is_ipv6());
    let client = peer_at("[::1]:0".parse().expect("an address"));
    client
        .send_to(b"over six", addr)
        .expect("the kernel takes it");
    drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 1);
    assert_eq!(receive(&client), b"over six");
}

#[test]
fn the_local_address_is_the_bound_one_and_that_of_a_closed_socket_is_an_error() {
    let (mut reactor, socket, addr) = bound(Probe::silent(), config());
    assert_eq!(addr.ip().to_string(), "127.0.0.1");
    assert_ne!(addr.port(), 0);
    assert_eq!(
        reactor
            .with(|_, cx| cx.local_inet_addr(socket))
            .expect("bound"),
        addr
    );
    reactor.with(|_, cx| cx.close_udp(socket));
    reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    let error = reactor.local_inet_addr(socket).expect_err("it is closed");
    assert_eq!(error.kind(), ErrorKind::NotConnected);
}

#[test]
fn the_port_of_a_closed_socket_is_free_for_another_with_an_id_of_its_own() {
    // Somebody else may take one port meanwhile, but hardly each of them.
    let is_free = (0..10).any(|_| {
        let (mut reactor, socket, addr) = bound(Probe::silent(), config());
        reactor.with(|_, cx| cx.close_udp(socket));
        reactor.turn(Some(Duration::ZERO)).expect("the poll works");
        match reactor.bind_udp(addr) {
            Ok(rebound) => {
                assert_ne!(rebound, socket, "an id has one life");
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::AddrInUse);
                false
            }
        }
    });
    assert!(is_free);
}

#[test]
fn closing_sends_what_is_queued_and_then_the_socket_is_gone() {
    let (mut reactor, socket, addr) = bound(Probe::silent(), config());
    let peer = peer();
    let to = addr_of(&peer);
    peer.send_to(b"too late", addr)
        .expect("the kernel takes it");
    reactor.with(|_, cx| {
        for index in 0..20 {
            cx.send_to(socket, to, &[index]).expect("there is room");
        }
        cx.close_udp(socket);
        cx.close_udp(socket);
        let refused = cx.send_to(socket, to, b"more");
        assert!(matches!(refused, Err(SendError::Closing)), "{refused:?}");
    });
    reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    for index in 0..20 {
        assert_eq!(receive(&peer), [index]);
    }
    assert!(nothing_to_receive(&peer));
    reactor.with(|_, cx| {
        let refused = cx.send_to(socket, to, b"more");
        assert!(matches!(refused, Err(SendError::Gone)), "{refused:?}");
        let refused = cx.send_datagram(socket, b"more");
        assert!(matches!(refused, Err(SendError::Gone)), "{refused:?}");
        assert!(cx.connect_udp(socket, to).is_err());
        cx.close_udp(socket);
    });
    assert!(reactor.handler().events.is_empty());
    assert_eq!(reactor.stats().datagrams_dropped, 0);
}

/// A socket that is closed in the callback about its datagram gets no further one.
#[test]
fn nothing_is_delivered_after_a_close_in_a_callback() {
    let probe = Probe::new(|cx, event| {
        if let Event::Datagram(socket, from, _, _) = event {
            cx.send_to(*socket, *from, b"bye").expect("there is room");
            cx.close_udp(*socket);
        }
    });
    let (mut reactor, socket, addr) = bound(probe, config());
    let client = peer();
    for _ in 0..10 {
        client.send_to(b"hello", addr).expect("the kernel takes it");
    }
    drive(&mut reactor, |reactor| {
        reactor.local_inet_addr(socket).is_err()
    });
    assert_eq!(datagrams(reactor.handler()).len(), 1);
    assert_eq!(receive(&client), b"bye");
}

#[cfg(unix)]
mod echo_example {
    use socket2::{Domain, Protocol, Socket, Type};

    use super::child::Echo;
    use super::*;

    /// An IPv4 packet with a UDP datagram in it that says what it likes about its sender.
    fn forge(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
            panic!("IPv4 only");
        };
        let udp_len = u16::try_from(8 + payload.len()).expect("a short payload");
        let total_len = 20 + udp_len;
        let mut packet = vec![0x45, 0];
        packet.extend(total_len.to_be_bytes());
        // No identification, no fragments, 64 hops, UDP; the kernel fills the checksum in, and
        // zero stands for none in UDP's own.
        packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
        packet.extend(from.ip().octets());
        packet.extend(to.ip().octets());
        packet.extend(from.port().to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        packet.extend(udp_len.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        packet
    }

    fn start(udp: &str) -> std::io::Result<(Echo, SocketAddr)> {
        let echo = Echo::start(&["--udp", udp], &[], None)?;
        let addr = echo.addrs[0];
        Ok((echo, addr))
    }

    /// Two servers with one port, at two addresses.
    fn start_two() -> [(Echo, SocketAddr); 2] {
        for _ in 0..10 {
            let first = start("127.0.0.1:0").expect("a free port");
            if let Ok(second) = start(&format!("127.0.0.2:{}", first.1.port())) {
                return [first, second];
            }
        }
        panic!("no port is free at both addresses");
    }

    /// How many datagrams a server says that it received.
    fn received(echo: Echo) -> usize {
        let totals = echo.end();
        let (before, _) = totals.split_once(" datagrams (").expect("the totals");
        let count = before.rsplit(' ').next().expect("a number");
        count.parse().expect("a number")
    }

    /// A datagram that claims to come from an echo server would be answered for ever, by two
    /// servers to each other or by one to itself.
    #[test]
    fn a_datagram_forged_from_an_echo_server_is_answered_at_most_once() {
        const ROUNDS: usize = 100;
        let raw = match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))) {
            Ok(raw) => raw,
            Err(error) => return println!("skipped: no raw socket here ({error})"),
        };
        let [(first, first_addr), (second, second_addr)] = start_two();
        for from in [first_addr, second_addr] {
            let packet = forge(from, first_addr, b"for ever?");
            raw.send_to(&packet, &first_addr.into())
                .expect("the kernel takes it");
        }
        // Each round trip would give a loop its turn: a server takes datagrams as they came.
        let client = peer();
        for _ in 0..ROUNDS {
            for addr in [first_addr, second_addr] {
                client.send_to(b"ping", addr).expect("the kernel takes it");
                assert_eq!(receive(&client), b"ping");
            }
        }
        let (by_first, by_second) = (received(first), received(second));
        assert!(
            by_first >= ROUNDS + 2,
            "both forged datagrams came: {by_first}"
        );
        assert!(
            by_first <= ROUNDS + 4 && by_second <= ROUNDS + 1,
            "they went round: {by_first} and {by_second} datagrams"
        );
    }

    /// Below 1024 are services, the echo service among them.
    #[test]
    fn a_datagram_from_the_port_of_a_service_is_not_answered() {
        let service = match UdpSocket::bind("127.0.0.3:7") {
            Ok(service) => service,
            Err(error) => return println!("skipped: port 7 cannot be bound here ({error})"),
        };
        let (echo, addr) = start("127.0.0.1:0").expect("a free port");
        let client = peer();
        for _ in 0..3 {
            service.send_to(b"echo", addr).expect("it is local");
            client.send_to(b"ping", addr).expect("it is local");
            assert_eq!(receive(&client), b"ping");
        }
        assert!(nothing_to_receive(&service));
        assert_eq!(received(echo), 6);
    }
}
