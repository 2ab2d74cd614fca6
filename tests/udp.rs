//! UDP: datagrams that are sent, dropped, received and truncated. No error closes a socket.
//!
//! `tests/udp_one_by_one.rs` runs all of these tests again without batches.

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

use common::udp::{addr_of, peer, peer_at, receive};
use common::{DEADLINE, Event, Probe, Random, drive, frame};
use unstick::{Config, Framing, Reactor, SendError, UdpId};

/// Returns a configuration with datagram batches, or without them in `udp_one_by_one`, which
/// includes this file as a module.
fn config() -> Config {
    let mut config = Config::default();
    config.datagram_batches = env!("CARGO_CRATE_NAME") == "udp";
    config
}

/// Maximum payload of a datagram over IPv4: 65,535 bytes minus the IP and UDP headers.
const PAYLOAD_LEN_MAX: usize = 65_507;

fn bound(probe: Probe, config: Config) -> (Reactor<Probe>, UdpId, SocketAddr) {
    let mut reactor = Reactor::with_config(probe, config).expect("the reactor is created");
    let socket = reactor
        .bind_udp("127.0.0.1:0")
        .expect("a free port is available");
    let addr = reactor
        .local_inet_addr(socket)
        .expect("the socket is bound");
    (reactor, socket, addr)
}

/// Returns a peer at an address that no other test uses. So its port stays free after the peer is
/// dropped.
fn temporary_peer(last: u8) -> UdpSocket {
    // Other systems assign only one address to the loopback interface.
    let host = if cfg!(target_os = "linux") { last } else { 1 };
    peer_at(SocketAddr::from(([127, 0, 0, host], 0)))
}

fn nothing_to_receive(socket: &UdpSocket) -> bool {
    socket
        .set_nonblocking(true)
        .expect("the blocking mode can be set");
    let result = socket.recv_from(&mut [0; 16]);
    socket
        .set_nonblocking(false)
        .expect("the blocking mode can be set");
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
            cx.send_datagram(socket, payload)
                .expect("the datagram queue has space");
        }
    });
}

#[test]
fn refused_datagram_keeps_the_udp_socket_usable() {
    let (mut reactor, socket, addr) = bound(Probe::silent(), config());
    let first = temporary_peer(2);
    let peer_addr = addr_of(&first);
    reactor
        .with(|_, cx| cx.connect_udp(socket, peer_addr))
        .expect("the UDP socket connects");

    let burst: [&[u8]; 4] = [b"one", b"two", b"three", b"four"];
    send_all(&mut reactor, socket, &burst);
    drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 4);
    assert_eq!(burst.map(<[u8]>::to_vec), burst.map(|_| receive(&first)));
    drop(first);

    for count in 1..=2 {
        send_all(&mut reactor, socket, &[b"anybody there?"]);
        drive(&mut reactor, |reactor| {
            reactor.stats().datagram_errors == count
        });
    }
    // See recvfrom on Windows, WSAECONNRESET.
    let refusal = if cfg!(windows) {
        ErrorKind::ConnectionReset
    } else {
        ErrorKind::ConnectionRefused
    };
    let refused = errors(reactor.handler());
    assert_eq!(refused.len(), 2);
    assert!(refused.iter().all(|error| error.0 == refusal));
    assert_eq!(
        reactor.stats().datagrams_dropped,
        0,
        "the kernel accepted all datagrams"
    );

    let second = peer_at(peer_addr);
    send_all(&mut reactor, socket, &burst);
    drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 10);
    assert_eq!(burst.map(<[u8]>::to_vec), burst.map(|_| receive(&second)));
    second.send_to(b"back", addr).expect("the datagram is sent");
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 1);
    assert_eq!(datagrams(reactor.handler()), [(&b"back"[..], false)]);
}

/// After a refused datagram, the next call on the socket fails, whether it sends or receives
/// (udp(7): "an error for an earlier packet"). If this call is a send, its datagram is not sent.
#[test]
fn send_that_reports_an_earlier_error_is_repeated() {
    let (mut reactor, socket, _) = bound(Probe::silent(), config());
    let peer_addr = addr_of(&temporary_peer(3));
    reactor
        .with(|_, cx| cx.connect_udp(socket, peer_addr))
        .expect("the UDP socket connects");
    send_all(&mut reactor, socket, &[b"into the void"]);
    reactor
        .turn(Some(Duration::ZERO))
        .expect("polling succeeds");

    let revived = peer_at(peer_addr);
    send_all(&mut reactor, socket, &[b"to the living"]);
    drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 2);
    assert_eq!(receive(&revived), b"to the living");
    drive(&mut reactor, |reactor| !reactor.handler().events.is_empty());
    assert_eq!(reactor.stats().datagrams_dropped, 0);
}

/// Leaves a "connection refused" error pending on a socket, through a duplicate of its descriptor.
#[cfg(target_os = "linux")]
struct Refused {
    duplicate: mio::net::UdpSocket,
    poll: mio::Poll,
}

#[cfg(target_os = "linux")]
impl Refused {
    fn new(duplicate: UdpSocket) -> Self {
        let mut duplicate = mio::net::UdpSocket::from_std(duplicate);
        let poll = mio::Poll::new().expect("the poll can be created");
        poll.registry()
            .register(&mut duplicate, mio::Token(0), mio::Interest::READABLE)
            .expect("the poll can watch the socket");
        Self { duplicate, poll }
    }

    fn cause_error(&mut self) {
        self.duplicate
            .send(b"into the void")
            .expect("the datagram is sent");
        let mut events = mio::Events::with_capacity(1);
        while !events.iter().any(mio::event::Event::is_error) {
            let polled = self.poll.poll(&mut events, Some(DEADLINE));
            polled.expect("polling succeeds");
            assert!(!events.is_empty(), "no error arrived before the deadline");
        }
    }
}

/// A send that fails with the error of an earlier datagram is tried again. If it fails twice in a
/// row, its datagram is dropped; other datagrams are not affected.
#[test]
#[cfg(target_os = "linux")]
fn datagram_refused_twice_in_a_row_is_dropped() {
    let near = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
    let dead = temporary_peer(4);
    near.connect(addr_of(&dead))
        .expect("the UDP socket connects");
    drop(dead);
    let duplicate = near.try_clone().expect("a descriptor is available");
    duplicate
        .set_nonblocking(true)
        .expect("non-blocking mode can be set");
    let refused = Arc::new(std::sync::Mutex::new(Refused::new(duplicate)));
    let again = Arc::new(AtomicUsize::new(0));
    let (seen, left) = (Arc::clone(&refused), Arc::clone(&again));
    let probe = Probe::new(move |_, event| {
        if matches!(event, Event::DatagramError(..)) && left.swap(0, Ordering::Relaxed) == 1 {
            let mut refused = seen.lock().expect("the mutex is not poisoned");
            refused.cause_error();
        }
    });
    let mut reactor = Reactor::with_config(probe, config()).expect("the reactor is created");
    let socket = reactor
        .with(|_, cx| cx.adopt_udp(near))
        .expect("the descriptor is a UDP socket");
    let living = peer();
    let to = addr_of(&living);
    let mut out = 0;
    for (is_again, lost) in [(0, 0), (0, 0), (1, 1), (0, 1), (1, 2)] {
        again.store(is_again, Ordering::Relaxed);
        refused
            .lock()
            .expect("the mutex is not poisoned")
            .cause_error();
        reactor.with(|_, cx| {
            cx.send_to(socket, to, b"one")
                .expect("the datagram queue has space");
            cx.send_to(socket, to, b"two")
                .expect("the datagram queue has space");
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
    let reported = errors(reactor.handler());
    assert_eq!(reported.len(), 7);
    let is_refusal = |error: &(ErrorKind, _)| error.0 == ErrorKind::ConnectionRefused;
    assert!(reported.iter().all(is_refusal), "{reported:?}");
}

/// Sends three datagrams, and checks that only the second one, which the kernel rejects, is
/// dropped.
fn assert_only_second_is_dropped(to: Option<SocketAddr>, len: usize, errno: i32) {
    let (mut reactor, socket, _) = bound(Probe::silent(), config());
    let peer = peer();
    let peer_addr = addr_of(&peer);
    reactor.with(|_, cx| {
        cx.send_to(socket, peer_addr, b"before")
            .expect("the datagram queue has space");
        cx.send_to(socket, to.unwrap_or(peer_addr), &vec![7; len])
            .expect("the queue accepts a datagram that the kernel will reject");
        cx.send_to(socket, peer_addr, b"after")
            .expect("the datagram queue has space");
    });
    drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 2);
    assert_eq!(receive(&peer), b"before");
    assert_eq!(receive(&peer), b"after");
    reactor
        .turn(Some(Duration::ZERO))
        .expect("polling succeeds");

    let reported = errors(reactor.handler());
    assert_eq!(reported.len(), 1, "one error is expected: {reported:?}");
    if cfg!(target_os = "linux") {
        assert_eq!(reported[0].1, Some(errno));
    }
    let stats = reactor.stats();
    assert_eq!((stats.datagram_errors, stats.datagrams_dropped), (1, 1));
}

#[test]
fn datagram_over_the_udp_maximum_is_dropped() {
    const EMSGSIZE: i32 = 90;
    assert_only_second_is_dropped(None, PAYLOAD_LEN_MAX + 1, EMSGSIZE);
}

#[test]
fn udp_broadcast_without_permission_is_dropped() {
    const EACCES: i32 = 13;
    assert_only_second_is_dropped("255.255.255.255:9".parse().ok(), 1, EACCES);
}

#[test]
fn datagram_to_port_zero_is_dropped() {
    const EINVAL: i32 = 22;
    assert_only_second_is_dropped("127.0.0.1:0".parse().ok(), 1, EINVAL);
}

#[test]
fn send_datagram_without_a_peer_is_dropped() {
    let (mut reactor, socket, _) = bound(Probe::silent(), config());
    send_all(&mut reactor, socket, &[b"to whom?"]);
    drive(&mut reactor, |reactor| reactor.stats().datagram_errors == 1);
    let reported = errors(reactor.handler());
    assert_eq!(reported.len(), 1);
    if cfg!(target_os = "linux") {
        const EDESTADDRREQ: i32 = 89;
        assert_eq!(reported[0].1, Some(EDESTADDRREQ));
    }
    assert_eq!(reactor.stats().datagrams_dropped, 1);
}

/// A handler that sends again after each send error must not cause an endless turn.
#[test]
fn resend_in_on_datagram_error_does_not_loop() {
    const FAR_TOO_MANY: usize = 100_000;
    let errors = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&errors);
    let nowhere: SocketAddr = "127.0.0.1:0".parse().expect("the address is valid");
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
        .expect("the datagram queue has space");
    for _ in 0..10 {
        reactor
            .turn(Some(Duration::ZERO))
            .expect("polling succeeds");
    }
    let errors = errors.load(Ordering::Relaxed);
    assert!(errors >= 10, "the socket stays usable: {errors} errors");
    assert!(errors < FAR_TOO_MANY, "ten turns reported {errors} errors");
}

/// More failing datagrams than the budget of a turn must not block the queue.
#[test]
fn failing_datagrams_do_not_block_the_next_one() {
    const FAILING: usize = 200;
    let mut config = config();
    config.datagram_budget = 8;
    let (mut reactor, socket, _) = bound(Probe::silent(), config);
    let peer = peer();
    let nowhere: SocketAddr = "127.0.0.1:0".parse().expect("the address is valid");
    reactor.with(|_, cx| {
        for _ in 0..FAILING {
            cx.send_to(socket, nowhere, b"lost")
                .expect("the datagram queue has space");
        }
        cx.send_to(socket, addr_of(&peer), b"found")
            .expect("the datagram queue has space");
    });
    drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 1);
    assert_eq!(receive(&peer), b"found");
    assert_eq!(errors(reactor.handler()).len(), FAILING);
    assert_eq!(reactor.stats().datagrams_dropped, FAILING as u64);
}

#[test]
fn full_datagram_queue_refuses_only_new_datagrams() {
    let mut config = config();
    config.datagram_queue_bytes_max = 10 * (100 + 64);
    let (mut reactor, socket, _) = bound(Probe::silent(), config);
    let peer = peer();
    let to = addr_of(&peer);
    for round in 1..=3 {
        reactor.with(|_, cx| {
            for index in 0..10 {
                cx.send_to(socket, to, &[index; 100])
                    .expect("the queue holds ten datagrams of 100 bytes");
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
fn longest_datagram_is_received_and_sent_whole() {
    let seed = 3;
    println!("seed {seed}");
    let payload = Random(seed).bytes(PAYLOAD_LEN_MAX);
    for read_len_max in [1, config().read_len_max] {
        let mut config = config();
        config.read_len_max = read_len_max;
        let (mut reactor, _, addr) = bound(Probe::echo(), config);
        let client = peer();
        client
            .send_to(&payload, addr)
            .expect("the datagram is sent");
        drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 1);
        assert!(receive(&client) == payload);
        assert_eq!(datagrams(reactor.handler()), [(&payload[..], false)]);
        assert_eq!(reactor.stats().datagrams_truncated, 0);
    }
}

#[test]
fn datagram_over_datagram_len_max_is_truncated() {
    for limit in [0, 1, 2, 100, 9000] {
        let mut config = config();
        config.datagram_len_max = limit;
        let (mut reactor, _, addr) = bound(Probe::silent(), config);
        let client = peer();
        let lens = [limit, limit + 1, limit + 1000, limit.saturating_sub(1)];
        for len in lens {
            let payload: Vec<u8> = (0..len).map(|at| at.to_le_bytes()[0]).collect();
            client
                .send_to(&payload, addr)
                .expect("the datagram is sent");
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
fn empty_datagrams_are_delivered_one_by_one() {
    const COUNT: usize = 100;
    let (mut reactor, _, addr) = bound(Probe::echo(), config());
    let client = peer();
    for _ in 0..COUNT {
        client.send_to(b"", addr).expect("the datagram is sent");
    }
    client.send_to(b"last", addr).expect("the datagram is sent");
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
fn flood_of_datagrams_does_not_starve_a_frame() {
    const FLOOD: usize = 150;
    const BUDGET: usize = 8;
    let mut config = config();
    config.datagram_budget = BUDGET;
    let (mut reactor, _, udp_addr) = bound(Probe::silent(), config);
    let listener = reactor
        .listen("127.0.0.1:0", Framing::length_u32())
        .expect("a free port is available");
    let tcp_addr = reactor
        .local_inet_addr(listener)
        .expect("the socket is bound");
    let mut client = common::client(tcp_addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    let Event::Open(conn, _) = reactor.handler().events[0] else {
        panic!("the first event is not on_open");
    };

    // The flood is sent first, so that it is queued first. Then a frame is sent, and its arrival is
    // confirmed.
    let flooder = peer();
    for _ in 0..FLOOD {
        flooder
            .send_to(b"flood", udp_addr)
            .expect("the datagram is sent");
    }
    let message = frame("u32", b"me too");
    client.write_all(&message).expect("the write succeeds");
    wait_for(|| {
        reactor.with(|_, cx| {
            let options = cx.socket_options(conn).expect("the connection is open");
            let mut buf = [MaybeUninit::uninit(); 64];
            options.peek(&mut buf).is_ok_and(|len| len == message.len())
        })
    });

    drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
    let before = datagrams(reactor.handler()).len();
    assert!(
        before <= 2 * BUDGET,
        "{before} datagrams were delivered before the frame"
    );
    // The remaining datagrams are delivered without further traffic.
    drive(&mut reactor, |reactor| {
        reactor.stats().datagrams_in == FLOOD as u64
    });
}

/// Waits for a condition outside the reactor.
fn wait_for(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "the condition was not met before the deadline"
        );
        std::thread::yield_now();
    }
}

#[test]
fn connected_udp_socket_receives_only_from_its_peer() {
    let (mut reactor, socket, addr) = bound(Probe::silent(), config());
    let (friend, stranger) = (peer(), peer());
    let friend_addr = addr_of(&friend);
    reactor
        .with(|_, cx| cx.connect_udp(socket, friend_addr))
        .expect("the UDP socket connects");
    stranger
        .send_to(b"psst", addr)
        .expect("the datagram is sent");
    friend
        .send_to(b"hello", addr)
        .expect("the datagram is sent");
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 1);
    assert_eq!(datagrams(reactor.handler()), [(&b"hello"[..], false)]);
}

#[test]
fn datagrams_are_echoed_over_ipv6() {
    let mut reactor =
        Reactor::with_config(Probe::echo(), config()).expect("the reactor is created");
    let socket = match reactor.bind_udp("[::1]:0") {
        Ok(socket) => socket,
        Err(error) => {
            return println!("skipped: the IPv6 loopback address is not available ({error})");
        }
    };
    let addr = reactor
        .local_inet_addr(socket)
        .expect("the socket is bound");
    assert!(addr.is_ipv6());
    let client = peer_at("[::1]:0");
    client
        .send_to(b"over six", addr)
        .expect("the datagram is sent");
    drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 1);
    assert_eq!(receive(&client), b"over six");
}

#[test]
fn local_addr_of_a_closed_udp_socket_is_an_error() {
    let (mut reactor, socket, addr) = bound(Probe::silent(), config());
    assert_eq!(addr.ip().to_string(), "127.0.0.1");
    assert_ne!(addr.port(), 0);
    assert_eq!(
        reactor
            .with(|_, cx| cx.local_inet_addr(socket))
            .expect("the socket is bound"),
        addr
    );
    reactor.with(|_, cx| cx.close_udp(socket));
    reactor
        .turn(Some(Duration::ZERO))
        .expect("polling succeeds");
    let error = reactor
        .local_inet_addr(socket)
        .expect_err("the socket is closed");
    assert_eq!(error.kind(), ErrorKind::NotConnected);
}

#[test]
fn port_of_a_closed_udp_socket_is_free() {
    // Another process may take one of the ten ports in the meantime, but probably not all of them.
    let is_free = (0..10).any(|_| {
        let (mut reactor, socket, addr) = bound(Probe::silent(), config());
        reactor.with(|_, cx| cx.close_udp(socket));
        reactor
            .turn(Some(Duration::ZERO))
            .expect("polling succeeds");
        match reactor.bind_udp(addr) {
            Ok(rebound) => {
                assert_ne!(rebound, socket, "an id is never reused");
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
fn close_udp_sends_the_queue_first() {
    let (mut reactor, socket, addr) = bound(Probe::silent(), config());
    let peer = peer();
    let to = addr_of(&peer);
    peer.send_to(b"too late", addr)
        .expect("the datagram is sent");
    reactor.with(|_, cx| {
        for index in 0..20 {
            cx.send_to(socket, to, &[index])
                .expect("the datagram queue has space");
        }
        cx.close_udp(socket);
        cx.close_udp(socket);
        let refused = cx.send_to(socket, to, b"more");
        assert!(matches!(refused, Err(SendError::Closing)), "{refused:?}");
    });
    reactor
        .turn(Some(Duration::ZERO))
        .expect("polling succeeds");
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

/// A socket closed in `on_datagram` delivers no further datagram.
#[test]
fn close_udp_in_a_callback_stops_delivery() {
    let probe = Probe::new(|cx, event| {
        if let Event::Datagram(socket, from, _, _) = event {
            cx.send_to(*socket, *from, b"bye")
                .expect("the datagram queue has space");
            cx.close_udp(*socket);
        }
    });
    let (mut reactor, socket, addr) = bound(probe, config());
    let client = peer();
    for _ in 0..10 {
        client
            .send_to(b"hello", addr)
            .expect("the datagram is sent");
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

    /// Builds an IPv4 packet with a UDP datagram whose sender address is forged.
    fn forge(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
            panic!("both addresses must be IPv4");
        };
        let udp_len = u16::try_from(8 + payload.len()).expect("the payload is short");
        let total_len = 20 + udp_len;
        let mut packet = vec![0x45, 0];
        packet.extend(total_len.to_be_bytes());
        // No identification, no fragments, TTL 64, UDP. The kernel fills in the IP checksum; zero
        // means no UDP checksum.
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

    /// Starts two echo servers on one port number at two addresses.
    fn start_two() -> [(Echo, SocketAddr); 2] {
        for _ in 0..10 {
            let first = start("127.0.0.1:0").expect("a free port is available");
            if let Ok(second) = start(&format!("127.0.0.2:{}", first.1.port())) {
                return [first, second];
            }
        }
        panic!("no port is free at both addresses");
    }

    /// Ends the server and returns the number of datagrams that it received.
    fn received(echo: Echo) -> usize {
        let totals = echo.end();
        let (before, _) = totals
            .split_once(" datagrams (")
            .expect("the server prints its totals");
        let count = before.rsplit(' ').next().expect("the text has a last word");
        count.parse().expect("the text is a number")
    }

    /// If the forged sender of a datagram were another echo server, both servers would echo the
    /// datagram for ever. If the forged sender were the server's own address, this server would
    /// loop alone.
    #[test]
    fn echo_example_does_not_loop_on_forged_datagrams() {
        const ROUNDS: usize = 100;
        let raw = match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))) {
            Ok(raw) => raw,
            Err(error) => return println!("skipped: a raw socket cannot be opened ({error})"),
        };
        let [(first, first_addr), (second, second_addr)] = start_two();
        for from in [first_addr, second_addr] {
            let packet = forge(from, first_addr, b"for ever?");
            raw.send_to(&packet, &first_addr.into())
                .expect("the datagram is sent");
        }
        // A server handles its datagrams in order. So if a forged datagram loops, it is echoed
        // again between any two of these pings, and the counts below are too high.
        let client = peer();
        for _ in 0..ROUNDS {
            for addr in [first_addr, second_addr] {
                client.send_to(b"ping", addr).expect("the datagram is sent");
                assert_eq!(receive(&client), b"ping");
            }
        }
        let (by_first, by_second) = (received(first), received(second));
        assert!(
            by_first >= ROUNDS + 2,
            "a forged datagram did not arrive: the server received {by_first} datagrams"
        );
        assert!(
            by_first <= ROUNDS + 4 && by_second <= ROUNDS + 1,
            "a forged datagram loops: {by_first} and {by_second} datagrams"
        );
    }

    /// Ports below 1024 belong to services, such as the echo service.
    #[test]
    fn datagram_from_a_service_port_is_not_echoed() {
        let service = match UdpSocket::bind("127.0.0.3:7") {
            Ok(service) => service,
            Err(error) => return println!("skipped: port 7 cannot be bound ({error})"),
        };
        let (echo, addr) = start("127.0.0.1:0").expect("a free port is available");
        let client = peer();
        for _ in 0..3 {
            service
                .send_to(b"echo", addr)
                .expect("the datagram is sent");
            client.send_to(b"ping", addr).expect("the datagram is sent");
            assert_eq!(receive(&client), b"ping");
        }
        assert!(nothing_to_receive(&service));
        assert_eq!(received(echo), 6);
    }
}
