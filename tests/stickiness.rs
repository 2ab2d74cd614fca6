//! TCP glues messages together and cuts them; UDP keeps them; framing cures TCP.
//!
//! Nothing here is luck. A receiver that is not turned reads nothing, so what was written meanwhile
//! lies in one queue; and what is larger than a buffer does not fit into it. How many segments the
//! kernel made of it, and exactly where it cut, is its own affair.

mod common;

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use common::{Event, Probe, drive, frame, listening, settle};
use unstick::cutmap::CutMap;
use unstick::{Config, ConnId, Framing, Reactor};

const MESSAGES: usize = 10;

/// A sender and a receiver, each a reactor, and the connection between them.
struct Pair {
    near: Reactor<Probe>,
    tx: ConnId,
    far: Reactor<Probe>,
    rx: ConnId,
}

impl Pair {
    fn new(sender: Config, receiver: Config, framing: &Framing) -> Self {
        let (mut far, addr) = listening(Probe::silent(), receiver, framing.clone());
        far.with(|_, cx| cx.record_all());
        let mut near = Reactor::with_config(Probe::silent(), sender).expect("a reactor");
        near.with(|_, cx| cx.record_all());
        let tx = near.connect(addr, framing.clone(), ());
        drive(&mut near, |near| near.stats().connected == 1);
        drive(&mut far, |far| far.stats().accepted == 1);
        let Some(Event::Open(rx, _)) = far.handler().events.first() else {
            panic!("it was accepted");
        };
        let rx = *rx;
        Self { near, tx, far, rx }
    }

    /// Sends each payload in a turn of its own, so that each is written for itself.
    fn send(&mut self, payloads: &[Vec<u8>]) {
        for payload in payloads {
            let sent = self.near.with(|_, cx| cx.send(self.tx, payload));
            assert!(sent.is_ok(), "{sent:?}");
            self.near
                .turn(Some(Duration::ZERO))
                .expect("the poll works");
        }
    }

    /// Lets the receiver read, until it has so many bytes.
    fn receive(&mut self, bytes: u64) -> CutMap {
        let Self { near, far, .. } = self;
        drive(far, |far| {
            near.turn(Some(Duration::ZERO)).expect("the poll works");
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
        let options = cx.socket_options(conn).expect("it is open");
        options.set_send_buffer_size(len).expect("it can be set");
        options.set_recv_buffer_size(len).expect("it can be set");
    });
}

/// Ten sends, and a receiver that reads late: the bytes of all ten lie in one queue, and nothing
/// in it says where one send ended.
#[test]
fn a_late_reader_gets_ten_tcp_messages_in_one_read() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    let mut client = common::client(addr);
    for _ in 0..10 {
        client.write_all(b"message").expect("the kernel takes it");
    }
    drive(&mut reactor, |reactor| reactor.stats().read_bytes == 70);
    assert!(reactor.stats().frames_in < 10, "fewer reads than sends");
}

/// `TCP_NODELAY`, a write and so a flush for each message, pauses between them, larger buffers:
/// none of it reaches the receiver's queue. Framing does not need it to.
#[test]
fn nothing_that_the_sender_does_keeps_a_late_reader_from_gluing() {
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
            "each was flushed for itself"
        );
        assert!(sum.reads < sum.sends, "{map}");
        assert!(sum.glued_sends >= 2, "{map}");
        assert_eq!(pair.far.handler().frames(), sent);
    }
}

/// What one turn sends is written together: the first buffer that glues is the program's own.
#[test]
fn sends_of_one_turn_are_glued_before_the_kernel_has_them() {
    let mut pair = Pair::new(Config::default(), Config::default(), &Framing::length_u16());
    pair.near.with(|_, cx| {
        for message in messages(100) {
            let _ = cx.send(pair.tx, &message);
        }
    });
    pair.near
        .turn(Some(Duration::ZERO))
        .expect("the poll works");
    let sum = pair.receive(10 * 102).summary();
    assert!(sum.writes < sum.sends, "{sum:?}");
    assert_eq!(pair.far.handler().frames(), messages(100));
}

/// One send that does not fit into what the receiver reads at once arrives as several reads.
#[test]
fn a_message_larger_than_a_read_is_cut() {
    let mut config = Config::default();
    config.read_len_max = 1000;
    let mut pair = Pair::new(Config::default(), config, &Framing::length_u16());
    pair.send(&messages(2500));
    let map = pair.receive(10 * 2502);
    assert_eq!(map.cut_sends().count(), 10, "{map}");
    assert!(map.summary().reads_per_frame() > 2.0, "{map}");
    assert_eq!(pair.far.handler().frames(), messages(2500));
}

/// A message that neither buffer holds is taken in several writes and given in several reads.
#[test]
fn a_message_larger_than_the_buffers_is_cut_at_both_ends() {
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

/// A header is bytes too: read one at a time, every header of several bytes is split.
#[test]
fn a_header_can_be_split_and_is_put_together() {
    let mut config = Config::default();
    config.read_len_max = 1;
    let mut pair = Pair::new(Config::default(), config, &Framing::length_u32());
    pair.send(&messages(5));
    let map = pair.receive(10 * 9);
    assert_eq!(map.split_headers().count(), 10);
    assert_eq!(pair.far.handler().frames(), messages(5));
}

/// Without framing the program gets what the reads gave: neither count nor place tells the
/// messages.
#[test]
fn unframed_the_pieces_are_the_reads() {
    let mut config = Config::default();
    config.read_len_max = 30;
    let mut pair = Pair::new(Config::default(), config, &Framing::raw());
    pair.send(&messages(20));
    let map = pair.receive(200);
    assert_eq!(map.frames().len(), map.reads().len());
    assert_ne!(pair.far.handler().frames(), messages(20));
}

/// The same ten over UDP are ten.
#[test]
fn a_late_reader_gets_ten_udp_messages_as_ten() {
    let (mut reactor, addr, client) = udp(Config::default());
    for _ in 0..10 {
        client
            .send_to(b"message", addr)
            .expect("the kernel takes it");
    }
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 10);
    let whole =
        |event: &Event| matches!(event, Event::Datagram(_, _, data, false) if data == b"message");
    assert_eq!(reactor.handler().count(whole), 10);
}

/// A slot that is too small costs the rest of that datagram, and nothing of the next.
#[test]
fn a_datagram_larger_than_its_slot_is_truncated_and_the_next_is_whole() {
    let mut config = Config::default();
    config.datagram_len_max = 4;
    let (mut reactor, addr, client) = udp(config);
    for message in ["message", "next"] {
        let sent = client.send_to(message.as_bytes(), addr);
        sent.expect("the kernel takes it");
    }
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 2);
    let seen: Vec<_> = reactor
        .handler()
        .events
        .iter()
        .map(|event| match event {
            Event::Datagram(_, _, data, truncated) => (&data[..], *truncated),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seen, [(&b"mess"[..], true), (b"next", false)]);
}

/// A queue that is full drops what comes, and tells nobody: what arrives is whole and in order, and
/// less than was sent.
#[test]
fn datagrams_that_find_no_room_are_lost() {
    let mut reactor = Reactor::new(Probe::silent()).expect("a reactor");
    let socket = reactor.bind_udp("127.0.0.1:0").expect("a free port");
    let addr = reactor.local_inet_addr(socket).expect("it is bound");
    reactor.with(|_, cx| {
        let options = cx.socket_options(socket).expect("it is open");
        options.set_recv_buffer_size(4096).expect("it can be set");
    });
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    for index in 0..100 {
        client
            .send_to(&[index; 1000], addr)
            .expect("the kernel takes it");
    }
    settle(&mut reactor);
    let came = &reactor.handler().events;
    assert!((1..100).contains(&came.len()), "{} came", came.len());
    for (index, event) in came.iter().enumerate() {
        let expected = vec![index.to_le_bytes()[0]; 1000];
        let is_next = matches!(event, Event::Datagram(_, _, data, false) if *data == expected);
        assert!(is_next, "number {index} is not what was sent");
    }
}

/// The cure: whatever the reads were, the frames are the messages.
#[test]
fn framing_recovers_the_messages_from_glued_and_cut_reads() {
    for name in common::FRAMINGS.into_iter().filter(|name| *name != "raw") {
        for read_len_max in [1, 3, 10, 256 * 1024] {
            let mut config = Config::default();
            config.read_len_max = read_len_max;
            let framing: Framing = name.parse().expect("it is the name of a framing");
            let (mut reactor, addr) = listening(Probe::silent(), config, framing);
            let mut client = common::client(addr);
            for index in 0..10 {
                client
                    .write_all(&frame(name, &[b'a' + index; 11]))
                    .expect("the kernel takes it");
            }
            drive(&mut reactor, |reactor| reactor.stats().frames_in == 10);
            let expected: Vec<_> = (0..10).map(|index| vec![b'a' + index; 11]).collect();
            assert_eq!(reactor.handler().frames(), expected);
        }
    }
}

fn udp(config: Config) -> (Reactor<Probe>, SocketAddr, UdpSocket) {
    let mut reactor = Reactor::with_config(Probe::silent(), config).expect("a reactor");
    let socket = reactor.bind_udp("127.0.0.1:0").expect("a free port");
    let addr = reactor.local_inet_addr(socket).expect("it is bound");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    (reactor, addr, client)
}

/// The ordinary statistics tell how a stream was cut, without any observer.
#[test]
fn the_statistics_tell_of_frames_and_headers_that_were_cut() {
    let mut config = Config::default();
    config.read_len_max = 6;
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::length_u32());
    let mut client = common::client(addr);
    // Six bytes a read: the first frame is whole, the second cut in its payload, the third in its
    // header.
    let frames = [
        frame("u32", b"ab"),
        frame("u32", b"0123456"),
        frame("u32", b""),
    ];
    client
        .write_all(&frames.concat())
        .expect("the kernel takes it");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 3);
    let stats = reactor.stats();
    assert_eq!((stats.frames_split, stats.headers_split), (2, 1));
    assert!(stats.reads_per_frame() >= 1.0 && stats.frames_per_read() <= 1.0);
}
