//! TCP coalesces and splits messages, UDP keeps them, and framing restores them over TCP.
//!
//! No test depends on timing. A receiver that takes no turn reads nothing, so everything written in
//! the meantime is in one queue. A message larger than a buffer is always cut. The tests do not
//! depend on the number of TCP segments or on their exact boundaries.

mod common;

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use common::{Event, Probe, drive, frame, listening, settle};
use unstick::cutmap::CutMap;
use unstick::{Config, ConnId, Framing, Reactor};

const MESSAGES: usize = 10;

/// A sending and a receiving reactor, with one connection between them.
struct Pair {
    /// Sending reactor.
    near: Reactor<Probe>,
    /// Connection in the sending reactor.
    tx: ConnId,
    /// Receiving reactor.
    far: Reactor<Probe>,
    /// Connection in the receiving reactor.
    rx: ConnId,
}

impl Pair {
    fn new(sender: Config, receiver: Config, framing: &Framing) -> Self {
        let (mut far, addr) = listening(Probe::silent(), receiver, framing.clone());
        far.with(|_, cx| cx.record_all());
        let mut near =
            Reactor::with_config(Probe::silent(), sender).expect("the reactor is created");
        near.with(|_, cx| cx.record_all());
        let tx = near.connect(addr, framing.clone(), ());
        drive(&mut near, |near| near.stats().connected == 1);
        drive(&mut far, |far| far.stats().accepted == 1);
        let Some(Event::Open(rx, _)) = far.handler().events.first() else {
            panic!("the first event is not on_open");
        };
        let rx = *rx;
        Self { near, tx, far, rx }
    }

    /// Sends each payload in a separate turn, so that the reactor writes each payload alone.
    fn send(&mut self, payloads: &[Vec<u8>]) {
        for payload in payloads {
            let sent = self.near.with(|_, cx| cx.send(self.tx, payload));
            assert!(sent.is_ok(), "{sent:?}");
            self.near
                .turn(Some(Duration::ZERO))
                .expect("polling succeeds");
        }
    }

    /// Turns both reactors until the receiver has read `bytes` bytes, and returns the cut map.
    fn receive(&mut self, bytes: u64) -> CutMap {
        let Self { near, far, .. } = self;
        drive(far, |far| {
            near.turn(Some(Duration::ZERO)).expect("polling succeeds");
            far.stats().read_bytes == bytes
        });
        let sent = self.near.with(|_, cx| cx.take_recording());
        let received = self.far.with(|_, cx| cx.take_recording());
        CutMap::join((&sent, self.tx), (&received, self.rx))
    }
}

fn messages(len: usize) -> Vec<Vec<u8>> {
    let message = |index: usize| vec![b'a' + index.to_le_bytes()[0]; len];
    (0..MESSAGES).map(message).collect()
}

fn set_buffers(reactor: &mut Reactor<Probe>, conn: ConnId, len: usize) {
    reactor.with(|_, cx| {
        let options = cx.socket_options(conn).expect("the connection is open");
        options
            .set_send_buffer_size(len)
            .expect("the buffer size can be set");
        options
            .set_recv_buffer_size(len)
            .expect("the buffer size can be set");
    });
}

/// Ten sends and a late reader: all bytes are in one queue, which does not record the boundaries.
#[test]
fn late_reader_gets_ten_tcp_messages_glued() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    let mut client = common::client(addr);
    for _ in 0..10 {
        client.write_all(b"message").expect("the write succeeds");
    }
    drive(&mut reactor, |reactor| reactor.stats().read_bytes == 70);
    assert!(
        reactor.stats().frames_in < 10,
        "no read returned two messages"
    );
}

/// `TCP_NODELAY`, one write for each message, delays between writes and larger buffers do not
/// prevent coalescing in the receiver's queue. With framing, the messages arrive intact.
#[test]
fn sender_options_do_not_prevent_gluing() {
    for (nodelay, pause, buffer) in [
        (true, 0, 0),
        (false, 0, 0),
        (true, 5, 0),
        (true, 0, 1 << 20),
    ] {
        let mut config = Config::default();
        config.nodelay = nodelay;
        let mut pair = Pair::new(config, Config::default(), &Framing::length_u16());
        if buffer > 0 {
            set_buffers(&mut pair.near, pair.tx, buffer);
            set_buffers(&mut pair.far, pair.rx, buffer);
        }
        let sent = messages(100);
        for message in sent.chunks(1) {
            pair.send(message);
            common::let_pass(Duration::from_millis(pause));
        }
        let map = pair.receive(10 * 102);
        let sum = map.summary();
        assert_eq!(
            (sum.sends, sum.writes),
            (10, 10),
            "number of sends and number of writes"
        );
        assert!(sum.reads < sum.sends, "{map}");
        assert!(sum.glued_sends >= 2, "{map}");
        assert_eq!(pair.far.handler().frames(), sent);
    }
}

/// The reactor batches the output of one turn, so the first coalescing happens in the program.
#[test]
fn sends_of_one_turn_are_glued_by_the_reactor() {
    let mut pair = Pair::new(Config::default(), Config::default(), &Framing::length_u16());
    pair.near.with(|_, cx| {
        for message in messages(100) {
            let _ = cx.send(pair.tx, &message);
        }
    });
    pair.near
        .turn(Some(Duration::ZERO))
        .expect("polling succeeds");
    let sum = pair.receive(10 * 102).summary();
    assert!(sum.writes < sum.sends, "{sum:?}");
    assert_eq!(pair.far.handler().frames(), messages(100));
}

/// A message larger than one read arrives in several reads.
#[test]
fn message_larger_than_a_read_is_cut() {
    let mut config = Config::default();
    config.read_len_max = 1000;
    let mut pair = Pair::new(Config::default(), config, &Framing::length_u16());
    pair.send(&messages(2500));
    let map = pair.receive(10 * 2502);
    assert_eq!(map.cut_sends().count(), 10, "{map}");
    assert!(map.summary().reads_per_frame() > 2.0, "{map}");
    assert_eq!(pair.far.handler().frames(), messages(2500));
}

/// A message larger than both socket buffers needs several writes and several reads.
#[test]
fn message_larger_than_the_buffers_is_cut_at_both_ends() {
    let mut pair = Pair::new(Config::default(), Config::default(), &Framing::length_u32());
    set_buffers(&mut pair.near, pair.tx, 4096);
    set_buffers(&mut pair.far, pair.rx, 4096);
    let message = vec![7; 300_000];
    pair.send(std::slice::from_ref(&message));
    let map = pair.receive(300_004);
    assert!(map.writes_of_send(0).len() > 1, "{map}");
    assert!(map.reads_of_send(0).len() > 1, "{map}");
    assert_eq!(pair.far.handler().frames(), [message]);
}

/// Reads of one byte split every header of several bytes.
#[test]
fn split_header_is_put_together() {
    let mut config = Config::default();
    config.read_len_max = 1;
    let mut pair = Pair::new(Config::default(), config, &Framing::length_u32());
    pair.send(&messages(5));
    let map = pair.receive(10 * 9);
    assert_eq!(map.split_headers().count(), 10);
    assert_eq!(pair.far.handler().frames(), messages(5));
}

/// Without framing, the handler gets exactly the bytes of each read, whose boundaries are unrelated
/// to the messages.
#[test]
fn raw_framing_delivers_reads_instead_of_messages() {
    let mut config = Config::default();
    config.read_len_max = 30;
    let mut pair = Pair::new(Config::default(), config, &Framing::raw());
    pair.send(&messages(20));
    let map = pair.receive(200);
    assert_eq!(map.frames().len(), map.reads().len());
    assert_ne!(pair.far.handler().frames(), messages(20));
}

/// Ten messages over UDP arrive as ten datagrams.
#[test]
fn late_reader_gets_ten_udp_messages_as_ten() {
    let (mut reactor, addr, client) = udp(Config::default());
    for _ in 0..10 {
        client
            .send_to(b"message", addr)
            .expect("the datagram is sent");
    }
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 10);
    let whole =
        |event: &Event| matches!(event, Event::Datagram(_, _, data, false) if data == b"message");
    assert_eq!(reactor.handler().count(whole), 10);
}

/// A datagram that is longer than the receive buffer loses its end. The next datagram is not
/// affected.
#[test]
fn truncated_datagram_does_not_affect_the_next_one() {
    let mut config = Config::default();
    config.datagram_len_max = 4;
    let (mut reactor, addr, client) = udp(config);
    for message in ["message", "next"] {
        let sent = client.send_to(message.as_bytes(), addr);
        sent.expect("the datagram is sent");
    }
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 2);
    let seen: Vec<_> = reactor
        .handler()
        .events
        .iter()
        .map(|event| match event {
            Event::Datagram(_, _, data, truncated) => (&data[..], *truncated),
            other => panic!("not a datagram: {other:?}"),
        })
        .collect();
    assert_eq!(seen, [(&b"mess"[..], true), (b"next", false)]);
}

/// A full receive queue drops datagrams silently. The datagrams that arrive are whole and in order,
/// but fewer than were sent.
#[test]
fn datagrams_beyond_the_receive_buffer_are_lost() {
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let socket = reactor
        .bind_udp("127.0.0.1:0")
        .expect("a free port is available");
    let addr = reactor
        .local_inet_addr(socket)
        .expect("the socket is bound");
    reactor.with(|_, cx| {
        let options = cx.socket_options(socket).expect("the socket is open");
        options
            .set_recv_buffer_size(4096)
            .expect("the buffer size can be set");
    });
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
    for index in 0..100 {
        client
            .send_to(&[index; 1000], addr)
            .expect("the datagram is sent");
    }
    settle(&mut reactor);
    let events = &reactor.handler().events;
    let count = events.len();
    assert!((1..100).contains(&count), "{count} datagrams arrived");
    for (index, event) in events.iter().enumerate() {
        let expected = vec![index.to_le_bytes()[0]; 1000];
        let is_next = matches!(event, Event::Datagram(_, _, data, false) if *data == expected);
        assert!(is_next, "datagram {index} differs from the one sent");
    }
}

/// The frames equal the messages for read sizes from 1 byte to 256 KiB.
#[test]
fn framing_restores_glued_and_cut_messages() {
    for name in common::FRAMINGS.into_iter().filter(|name| *name != "raw") {
        for read_len_max in [1, 3, 10, 256 * 1024] {
            let mut config = Config::default();
            config.read_len_max = read_len_max;
            let framing: Framing = name.parse().expect("the name is a known framing");
            let (mut reactor, addr) = listening(Probe::silent(), config, framing);
            let mut client = common::client(addr);
            for index in 0..10 {
                client
                    .write_all(&frame(name, &[b'a' + index; 11]))
                    .expect("the write succeeds");
            }
            drive(&mut reactor, |reactor| reactor.stats().frames_in == 10);
            let expected: Vec<_> = (0..10).map(|index| vec![b'a' + index; 11]).collect();
            assert_eq!(reactor.handler().frames(), expected);
        }
    }
}

fn udp(config: Config) -> (Reactor<Probe>, SocketAddr, UdpSocket) {
    let mut reactor =
        Reactor::with_config(Probe::silent(), config).expect("the reactor is created");
    let socket = reactor
        .bind_udp("127.0.0.1:0")
        .expect("a free port is available");
    let addr = reactor
        .local_inet_addr(socket)
        .expect("the socket is bound");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
    (reactor, addr, client)
}

/// The statistics count split frames and split headers, also without a recording.
#[test]
fn stats_count_split_frames_and_split_headers() {
    let mut config = Config::default();
    config.read_len_max = 6;
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::length_u32());
    let mut client = common::client(addr);
    // Each read has at most six bytes. So the first frame is whole, the second frame is split in
    // its payload, and the third frame is split in its header.
    let frames = [
        frame("u32", b"ab"),
        frame("u32", b"0123456"),
        frame("u32", b""),
    ];
    client
        .write_all(&frames.concat())
        .expect("the write succeeds");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 3);
    let stats = reactor.stats();
    assert_eq!((stats.frames_split, stats.headers_split), (2, 1));
    assert!(stats.reads_per_frame() >= 1.0 && stats.frames_per_read() <= 1.0);
}
