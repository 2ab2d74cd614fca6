//! The cut map of real connections. Its lists of sends, writes, reads and frames cover the same
//! bytes, and it contains only recorded sockets.

mod common;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use common::{Event, Probe, Random, drive, listening, settle};
use unstick::cutmap::{self, CutMap, EventKind, FrameSpan, Recording, Span};
use unstick::{CloseReason, Config, ConnId, Context, Framing, Origin, Reactor, SocketId};

/// Returns the ids of both ends of a connection within one reactor: first the connecting end, then
/// the accepted end. Returns `None` until both ends are open.
fn pair(reactor: &Reactor<Probe>) -> Option<(ConnId, ConnId)> {
    let find = |wanted: fn(&Origin) -> bool| {
        let mut events = reactor.handler().events.iter();
        events.find_map(|event| match event {
            Event::Open(conn, origin) if wanted(origin) => Some(*conn),
            _ => None,
        })
    };
    let connected = find(|origin| matches!(origin, Origin::Connected))?;
    let accepted = find(|origin| matches!(origin, Origin::Accepted { .. }))?;
    Some((connected, accepted))
}

/// Returns a reactor that records all connections and has a connection to itself. Also returns the
/// ids of both ends: sender and receiver.
fn connected(config: Config, framing: &Framing) -> (Reactor<Probe>, ConnId, ConnId) {
    let (mut reactor, addr) = listening(Probe::silent(), config, framing.clone());
    reactor.with(|_, cx| cx.record_all());
    reactor.connect(addr, framing.clone(), ());
    drive(&mut reactor, |reactor| pair(reactor).is_some());
    let (tx, rx) = pair(&reactor).expect("both ends are open");
    (reactor, tx, rx)
}

fn take(reactor: &mut Reactor<Probe>) -> Recording {
    reactor.with(|_, cx| cx.take_recording())
}

/// Returns the end of the last span, or zero if there is none. Checks that the spans begin at zero,
/// are contiguous, and are not empty.
fn end_of<'a>(spans: impl IntoIterator<Item = &'a Span>, name: &str) -> u64 {
    spans.into_iter().fold(0, |end, span| {
        assert!(span.len > 0, "{name}: empty span at offset {end}");
        assert_eq!(
            span.offset, end,
            "{name}: spans have a gap or overlap at {span:?}"
        );
        end + span.len
    })
}

/// Checks the invariants of a map, and returns the end offset of each of its four lists.
fn check(map: &CutMap) -> [u64; 4] {
    let frames: Vec<Span> = map.frames().iter().map(|frame| frame.span).collect();
    let sent = end_of(map.sends(), "sends");
    let written = end_of(map.writes(), "writes");
    let read = end_of(map.reads(), "reads");
    let delivered = end_of(&frames, "frames");
    assert!(sent >= written && written >= read && read >= delivered);
    assert_eq!(map.first_unsent(), (sent > written).then_some(written));
    assert_eq!(map.first_unread(), (written > read).then_some(read));
    assert_eq!(
        map.first_undelivered(),
        (read > delivered).then_some(delivered)
    );
    for spans in [map.sends(), map.writes(), map.reads(), &frames] {
        assert!(
            spans.is_sorted_by_key(|span| span.at),
            "the times of each list are in order"
        );
    }
    [sent, written, read, delivered]
}

fn set_buffer_sizes(cx: &Context<'_, Probe>, conns: [ConnId; 2], len: usize) {
    for conn in conns {
        let options = cx.socket_options(conn).expect("the connection is open");
        options
            .set_send_buffer_size(len)
            .expect("the option can be set");
        options
            .set_recv_buffer_size(len)
            .expect("the option can be set");
    }
}

/// An owned payload is queued without a copy, between its header and trailer. Header, payload and
/// trailer together are recorded as one send.
#[test]
fn owned_payload_is_recorded_as_one_send() {
    let (mut reactor, tx, rx) = connected(Config::default(), &Framing::netstring());
    reactor.with(|_, cx| {
        for len in [20_000, 3, 50_000] {
            let _ = cx
                .send_owned(tx, vec![b'x'; len])
                .expect("the queue has space");
        }
    });
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 3);
    let recording = take(&mut reactor);
    let map = CutMap::join((&recording, tx), (&recording, rx));
    let sends: Vec<u64> = map.sends().iter().map(|send| send.len).collect();
    assert_eq!(sends, [20_007, 6, 50_007]);
    assert_eq!(check(&map), [70_020; 4]);
}

/// Once enough of a long frame has arrived, its other bytes are read directly into its own buffer.
/// These reads are recorded too, and the frame is recorded once.
#[test]
fn frame_in_many_reads_is_recorded_as_one_frame() {
    for framing in [Framing::line(), Framing::length_u32()] {
        let mut config = Config::default();
        config.read_len_max = 8192;
        let (mut reactor, tx, rx) = connected(config, &framing);
        reactor.with(|_, cx| {
            for len in [200_000, 3] {
                let _ = cx
                    .send_owned(tx, vec![b'x'; len])
                    .expect("the queue has space");
            }
        });
        drive(&mut reactor, |reactor| reactor.stats().frames_in == 2);
        let recording = take(&mut reactor);
        let map = CutMap::join((&recording, tx), (&recording, rx));
        let [sent, ends @ ..] = check(&map);
        assert_eq!(ends, [sent; 3], "{framing}");
        assert_eq!(map.frames().len(), 2, "{framing}");
        assert!(map.reads().len() > 20, "{framing}");
    }
}

/// The payloads, the pauses of the reader, and the limits of reads and budgets are random. The
/// socket buffers are small. After all frames are delivered, all four lists cover the same bytes.
#[test]
fn sends_writes_reads_and_frames_cover_the_same_bytes() {
    let framings = [
        Framing::length_u16(),
        Framing::line(),
        Framing::varint(),
        Framing::netstring(),
        Framing::delimiter(b"--end--"),
    ];
    for seed in 1..=4 {
        for framing in &framings {
            let mut random = Random(seed);
            let mut config = Config::default();
            config.read_len_max = [1, 3, 100, 4096, 256 * 1024][random.below(5)];
            config.read_budget_bytes = [50, 1000, 256 * 1024][random.below(3)];
            config.frame_budget = [1, 7, 1024][random.below(3)];
            let (mut reactor, tx, rx) = connected(config, framing);
            reactor.with(|_, cx| set_buffer_sizes(cx, [tx, rx], 4096));
            let mut sent = 0;
            for _ in 0..30 {
                let len = [0, 1, 10, 300, 3000][random.below(5)];
                let count = random.below(6);
                let is_paused = random.below(3) == 0;
                reactor.with(|_, cx| {
                    for _ in 0..count {
                        let payload = vec![b'x'; len];
                        let _ = match random.below(3) {
                            0 => cx.send_parts(tx, &[&payload[..len / 2], &payload[len / 2..]]),
                            1 => cx.send_owned(tx, payload).map_err(|refused| refused.error),
                            _ => cx.send(tx, &payload),
                        }
                        .expect("the queue has space");
                    }
                    let _ = if is_paused {
                        cx.pause(rx)
                    } else {
                        cx.resume(rx)
                    };
                });
                sent += count;
                reactor
                    .turn(Some(Duration::ZERO))
                    .expect("polling succeeds");
            }
            reactor
                .with(|_, cx| cx.resume(rx))
                .expect("the connection is open");
            drive(&mut reactor, |reactor| {
                reactor.handler().frames().len() == sent
            });
            let recording = take(&mut reactor);
            let map = CutMap::join((&recording, tx), (&recording, rx));
            let ends = check(&map);
            assert_eq!(ends, [ends[0]; 4], "seed {seed}, {framing}");
            assert_eq!((map.sends().len(), map.frames().len()), (sent, sent));
        }
    }
}

/// The test takes the recording after every turn. Sent bytes are in transit while they are queued,
/// in the kernel, or read and not yet delivered. Each of these three states occurs at least once.
#[test]
fn bytes_in_transit_are_recorded_in_every_turn() {
    let mut config = Config::default();
    config.read_len_max = 1500;
    config.read_budget_bytes = 1500;
    let (mut reactor, tx, rx) = connected(config, &Framing::length_u32());
    reactor.with(|_, cx| {
        set_buffer_sizes(cx, [tx, rx], 4096);
        for _ in 0..20 {
            let _ = cx.send(tx, &[7; 10_000]).expect("the queue has space");
        }
    });
    let (mut in_transit, mut recorded) = ([false; 3], Vec::new());
    while reactor.handler().frames().len() < 20 {
        reactor
            .turn(Some(Duration::from_millis(20)))
            .expect("polling succeeds");
        recorded.extend(take(&mut reactor).events().iter().copied());
        let last = |kind: fn(EventKind) -> bool, conn| {
            let is_match =
                |event: &&cutmap::Event| kind(event.kind) && event.socket == SocketId::Conn(conn);
            let last = recorded.iter().rfind(is_match);
            last.map_or(0, |event| event.offset + event.len)
        };
        let ends = [
            last(|kind| kind == EventKind::Send, tx),
            last(|kind| kind == EventKind::Write, tx),
            last(|kind| kind == EventKind::Read, rx),
            last(|kind| matches!(kind, EventKind::Frame { .. }), rx),
        ];
        for (index, seen) in in_transit.iter_mut().enumerate() {
            assert!(ends[index] >= ends[index + 1], "{ends:?}");
            *seen |= ends[index] > ends[index + 1];
        }
    }
    assert_eq!(
        in_transit, [true; 3],
        "bytes were never recorded in one of the states"
    );
}

/// A connection is aborted while it has unsent bytes. The map and `on_close` report the same number
/// of unsent bytes.
#[test]
fn first_unsent_is_the_offset_of_the_first_unsent_byte() {
    let (mut reactor, tx, rx) = connected(Config::default(), &Framing::length_u16());
    reactor.with(|_, cx| {
        set_buffer_sizes(cx, [tx, rx], 4096);
        cx.pause(rx).expect("the connection is open");
        for _ in 0..200 {
            let _ = cx.send(tx, &[7; 10_000]).expect("the queue has space");
        }
    });
    settle(&mut reactor);
    let recording = take(&mut reactor);
    let map = CutMap::join((&recording, tx), (&recording, rx));
    let [sent, written, read, delivered] = check(&map);
    assert_eq!(sent, 200 * 10_002);
    assert!(
        written < sent,
        "the kernel buffers are smaller than the output"
    );
    assert_eq!(
        (read, delivered),
        (0, 0),
        "the paused receiver reads and delivers nothing"
    );
    assert_eq!(map.first_unsent(), Some(written));

    reactor.with(|_, cx| cx.abort(tx));
    let lost = |event: &Event| {
        matches!(event, Event::Close(conn, closed) if *conn == tx
            && matches!(closed.reason, CloseReason::Aborted)
            && closed.unsent_bytes == sent - written)
    };
    drive(&mut reactor, |reactor| reactor.handler().count(lost) == 1);
}

/// The map reports how many bytes of a frame are its header and how many are its trailer.
#[test]
fn recorded_header_and_trailer_lengths_match_the_framing() {
    for (framing, header_len, trailer_len) in [
        (Framing::raw(), 0, 0),
        (Framing::length_u16(), 2, 0),
        (Framing::length_u32(), 4, 0),
        (Framing::line(), 0, 1),
        (Framing::netstring(), 2, 1),
    ] {
        let (mut reactor, tx, rx) = connected(Config::default(), &framing);
        let sent = reactor.with(|_, cx| cx.send(tx, b"hello"));
        assert!(sent.is_ok(), "{sent:?}");
        drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
        let recording = take(&mut reactor);
        let map = CutMap::incoming(&recording, rx);
        let [FrameSpan { span, .. }] = map.frames() else {
            panic!("the map does not have exactly one frame: {map}");
        };
        assert_eq!(span.range(), 0..u64::from(5 + header_len + trailer_len));
        let frame = map.frames()[0];
        assert_eq!(
            (frame.header_len, frame.trailer_len),
            (header_len, trailer_len)
        );
    }
}

/// Recording starts with `record` or `record_all` and ends with `stop_recording` or
/// `stop_recording_all`.
#[test]
fn only_recorded_connections_appear_in_a_recording() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::line());
    let one = reactor.connect(addr, Framing::line(), ());
    let other = reactor.connect(addr, Framing::line(), ());
    drive(&mut reactor, |reactor| reactor.stats().accepted == 2);
    let say = |reactor: &mut Reactor<Probe>, frames: u64| {
        reactor.with(|_, cx| {
            for conn in [one, other] {
                let _ = cx.send(conn, b"hello").expect("the queue has space");
            }
        });
        drive(reactor, |reactor| reactor.stats().frames_in == frames);
    };
    say(&mut reactor, 2);
    assert!(
        take(&mut reactor).events().is_empty(),
        "no event is recorded before `record` is called"
    );
    reactor
        .with(|_, cx| cx.record(one))
        .expect("the connection is open");
    say(&mut reactor, 4);
    let recording = take(&mut reactor);
    let of_one = |event: &cutmap::Event| event.socket == SocketId::Conn(one);
    assert!(recording.events().iter().all(of_one));
    let map = CutMap::outgoing(&recording, one);
    assert_eq!(
        map.sends()[0].offset,
        6,
        "offsets count from the start of the connection"
    );
    assert_eq!((map.sends().len(), map.writes().len()), (1, 1));
    reactor
        .with(|_, cx| cx.stop_recording(one))
        .expect("the connection is open");
    say(&mut reactor, 6);
    assert!(
        take(&mut reactor).events().is_empty(),
        "no event is recorded after `stop_recording`"
    );
    reactor.with(|_, cx| cx.record_all());
    say(&mut reactor, 8);
    reactor.with(|_, cx| cx.stop_recording_all());
    say(&mut reactor, 10);
    let sends = take(&mut reactor);
    let sends = sends.events().iter();
    assert_eq!(
        sends.filter(|event| event.kind == EventKind::Send).count(),
        2
    );
}

/// A callback of the connection starts the recording between two sends. Only the second send is
/// recorded.
#[test]
fn recording_started_in_a_callback_includes_later_sends() {
    for all in [false, true] {
        let probe = Probe::new(move |cx, event| {
            if let Event::Frame(conn, frame) = event
                && frame == b"hello"
            {
                let _ = cx.send(*conn, b"before").expect("the queue has space");
                match all {
                    true => cx.record_all(),
                    false => cx.record(*conn).expect("the connection is open"),
                }
                let _ = cx.send(*conn, b"afterward").expect("the queue has space");
            }
        });
        let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
        let one = reactor.connect(addr, Framing::line(), ());
        let _ = reactor
            .with(|_, cx| cx.send(one, b"hello"))
            .expect("the queue has space");
        drive(&mut reactor, |reactor| reactor.stats().frames_in == 3);
        let recording = take(&mut reactor);
        let is_send = |event: &&cutmap::Event| event.kind == EventKind::Send;
        let sends: Vec<_> = recording.events().iter().filter(is_send).collect();
        assert_eq!(sends.len(), 1, "{sends:?}");
        assert_eq!((sends[0].offset, sends[0].len), (7, 10));
    }
}

/// The recording keeps the newest `recording_events_max` events and counts the overwritten events.
/// A map of the remaining events is consistent.
#[test]
fn recording_events_max_keeps_the_newest_events() {
    let mut config = Config::default();
    config.recording_events_max = 100;
    let (mut reactor, tx, rx) = connected(config, &Framing::length_u16());
    for round in 1..=100 {
        let sent = reactor.with(|_, cx| cx.send(tx, b"hello"));
        assert!(sent.is_ok(), "{sent:?}");
        drive(&mut reactor, |reactor| reactor.stats().frames_in == round);
    }
    let recording = take(&mut reactor);
    assert_eq!(recording.events().len(), 100);
    assert_eq!(
        recording.overwritten(),
        300,
        "each frame has a send, a write, a read and a frame event"
    );
    let map = CutMap::join((&recording, tx), (&recording, rx));
    assert_eq!(
        map.frames().last().map(|last| last.span.range().end),
        Some(700)
    );
    assert_eq!(map.summary().split_frames, 0);
}

/// A recorded connection has the same frames and bytes as an unrecorded connection.
#[test]
fn recording_does_not_change_frames_or_bytes() {
    for is_recorded in [false, true] {
        let (mut reactor, addr) = listening(Probe::echo(), Config::default(), Framing::line());
        if is_recorded {
            reactor.with(|_, cx| cx.record_all());
        }
        let mut client = common::client(addr);
        std::io::Write::write_all(&mut client, b"one\ntwo\n\nthr")
            .expect("the kernel accepts the bytes");
        drive(&mut reactor, |reactor| reactor.stats().frames_in == 3);
        std::io::Write::write_all(&mut client, b"ee\n").expect("the kernel accepts the bytes");
        drive(&mut reactor, |reactor| reactor.stats().written_bytes == 15);
        assert_eq!(
            reactor.handler().frames(),
            [&b"one"[..], b"two", b"", b"three"]
        );
        let mut echoed = [0; 15];
        std::io::Read::read_exact(&mut client, &mut echoed).expect("the server echoes");
        assert_eq!(&echoed, b"one\ntwo\n\nthree\n");
    }
}

/// The test sends echoes in a callback, frames and owned payloads outside of callbacks, and
/// datagrams.
#[test]
fn unrecorded_connections_and_sockets_leave_no_events() {
    let probe = Probe::new(|cx, event| {
        if let Event::Frame(conn, frame) = event {
            let _ = cx.send(*conn, frame);
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
    let [(mut recorded, conn), (mut unrecorded, other)] =
        [(); 2].map(|()| common::open(&mut reactor, addr));
    let mut sockets = [(); 2].map(|()| {
        reactor
            .bind_udp("127.0.0.1:0")
            .expect("a free port is available")
    });
    let to = reactor
        .local_inet_addr(sockets[1])
        .expect("the socket is bound");
    common::let_pass(Duration::from_millis(20));
    let before = Instant::now();
    reactor.with(|_, cx| {
        cx.record(conn).expect("the connection is open");
        cx.record(sockets[0]).expect("the socket is open");
    });
    for (client, conn) in [(&mut recorded, conn), (&mut unrecorded, other)] {
        common::deposit(&mut reactor, client, conn, b"echoed\n");
        reactor.with(|_, cx| {
            let _ = cx.send(conn, b"from outside").expect("the queue has space");
            let _ = cx
                .send_owned(conn, vec![7; 100_000])
                .expect("the queue has space");
        });
    }
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 2);
    sockets.reverse();
    for socket in sockets {
        reactor.with(|_, cx| {
            cx.send_to(socket, to, b"heard")
                .expect("the queue has space");
            cx.send_to(socket, to, &[0; 65_535])
                .expect("the queue accepts a datagram that the kernel will reject");
        });
    }
    drive(&mut reactor, |reactor| {
        reactor.stats().datagrams_in == 2 && reactor.stats().datagram_errors == 2
    });
    let recording = take(&mut reactor);
    let (of_conn, of_socket): (Vec<&cutmap::Event>, Vec<&cutmap::Event>) = recording
        .events()
        .iter()
        .partition(|event| event.socket == SocketId::Conn(conn));
    assert!(of_conn.len() >= 5, "{of_conn:?}");
    let of_socket: Vec<_> = of_socket
        .iter()
        .map(|event| (event.socket, event.kind))
        .collect();
    let socket = SocketId::Udp(sockets[1]);
    assert_eq!(
        of_socket,
        [
            (socket, EventKind::DatagramSent),
            (socket, EventKind::DatagramDropped)
        ]
    );
    let latest = recording.events().iter().map(|event| event.at).max();
    assert!(
        latest <= Some(before.elapsed()),
        "times count from the start of the recording"
    );
}

/// Each datagram is recorded as one event. Its offset is the number of earlier datagrams in the
/// same direction. Truncated and dropped datagrams have their own event kinds.
#[test]
fn datagrams_sent_received_truncated_dropped_are_recorded() {
    let mut config = Config::default();
    config.datagram_len_max = 100;
    config.datagram_queue_bytes_max = 1000;
    let mut reactor =
        Reactor::with_config(Probe::silent(), config).expect("the reactor is created");
    let socket = reactor
        .bind_udp("127.0.0.1:0")
        .expect("a free port is available");
    let addr = reactor
        .local_inet_addr(socket)
        .expect("the socket is bound");
    reactor
        .with(|_, cx| cx.record(socket))
        .expect("the socket is open");
    let unrecorded = reactor
        .bind_udp("127.0.0.1:0")
        .expect("a free port is available");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
    for len in [5, 0, 200] {
        client
            .send_to(&[7; 200][..len], addr)
            .expect("the kernel accepts the datagram");
    }
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 3);
    let back = client.local_addr().expect("the socket is bound");
    reactor.with(|_, cx| {
        cx.send_to(socket, back, b"hello")
            .expect("the queue has space");
        for socket in [socket, unrecorded] {
            cx.send_to(socket, back, &[7; 1000])
                .expect_err("the queue is full");
        }
    });
    drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 1);
    assert_eq!(reactor.stats().datagrams_dropped, 2);
    let recording = take(&mut reactor);
    let (sent, received) = recording.datagrams(unrecorded);
    assert!(
        sent.is_empty() && received.is_empty(),
        "a socket without `record` has no recorded datagrams"
    );
    let (sent, received) = recording.datagrams(socket);
    let seen = |events: &[cutmap::Event]| {
        let seen = events.iter();
        seen.map(|event| (event.kind, event.offset, event.len))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        seen(&received),
        [
            (EventKind::DatagramReceived, 0, 5),
            (EventKind::DatagramReceived, 1, 0),
            (EventKind::DatagramTruncated, 2, 100),
        ]
    );
    assert_eq!(
        seen(&sent),
        [
            (EventKind::DatagramDropped, 0, 1000),
            (EventKind::DatagramSent, 1, 5),
        ]
    );
}

/// Two reactors record one connection, each in its own recording. In the joined map, times count
/// from the start of the earlier recording.
#[test]
fn recordings_of_two_reactors_can_be_joined() {
    let (mut far, addr) = listening(Probe::silent(), Config::default(), Framing::line());
    far.with(|_, cx| cx.record_all());
    let mut near = Reactor::new(Probe::silent()).expect("the reactor is created");
    near.with(|_, cx| cx.record_all());
    let tx = near.connect(addr, Framing::line(), ());
    let sent = near.with(|_, cx| cx.send(tx, b"hello"));
    assert!(sent.is_ok(), "{sent:?}");
    drive(&mut near, |near| near.stats().written_bytes == 6);
    drive(&mut far, |far| far.stats().frames_in == 1);
    let Some(Event::Open(rx, _)) = far.handler().events.first() else {
        panic!("the first event is not on_open");
    };
    let rx = *rx;
    let (sent, received) = (take(&mut near), take(&mut far));
    let map = CutMap::join((&sent, tx), (&received, rx));
    assert_eq!(check(&map), [6; 4]);
    assert!(
        map.sends()[0].at <= map.reads()[0].at,
        "the send is earlier than the read"
    );
}
