//! The cut map of TLS connections. Its lists, from the sender to the receiver: sends, TLS records
//! sent, writes, reads, TLS records received, frames.

use std::sync::Arc;

use super::common::tls::{VERSIONS, client_config, client_config_with, server_config_with};
use super::common::{Event, Probe, Random, drive};
use super::{opened, pair, tls_connect, tls_listening};
use rustls::{ClientConfig, ServerConfig};
use unstick::cutmap::{CutMap, Recording, Span, TlsRecordSpan};
use unstick::{Config, ConnId, Framing, Origin, Reactor};

/// Returns a reactor that records all connections from the start, and both ends of a TLS
/// connection in it: the client and the server.
fn recorded(
    config: Config,
    framing: &Framing,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> (Reactor<Probe>, ConnId, ConnId) {
    let (mut reactor, addr, _) = tls_listening(Probe::silent(), config, framing.clone(), server);
    reactor.with(|_, cx| cx.record_all());
    let client = tls_connect(&mut reactor, addr, framing.clone(), client);
    drive(&mut reactor, |reactor| opened(reactor).len() == 2);
    let server = opened(&reactor).into_iter().find(|conn| *conn != client);
    (reactor, client, server.expect("the server has opened"))
}

fn take(reactor: &mut Reactor<Probe>) -> Recording {
    reactor.with(|_, cx| cx.take_recording())
}

fn send(reactor: &mut Reactor<Probe>, conn: ConnId, payload: &[u8]) {
    let sent = reactor.with(|_, cx| cx.send(conn, payload));
    assert!(sent.is_ok(), "{sent:?}");
}

fn await_frames(reactor: &mut Reactor<Probe>, count: usize) {
    drive(reactor, |reactor| reactor.handler().frames().len() == count);
}

/// Returns the start offset of the first span and the end offset of the last span. Checks that the
/// spans have no gap.
fn extent(name: &str, spans: impl IntoIterator<Item = Span>) -> (u64, u64) {
    let mut spans = spans.into_iter().peekable();
    let begin = spans.peek().map_or(0, |span| span.offset);
    let end = spans.fold(begin, |end, span| {
        assert_eq!(span.offset, end, "{name}: a gap or overlap at {span:?}");
        end + span.len
    });
    (begin, end)
}

/// Extents of the lists of a map whose bytes are all delivered.
#[derive(Debug)]
struct Extents {
    plaintext: (u64, u64),
    wire: (u64, u64),
}

/// Checks that all lists cover the same plaintext, or the same bytes on the wire.
fn check(map: &CutMap) -> Extents {
    let plaintext = extent("sends", map.sends().iter().copied());
    let wire = extent("writes", map.writes().iter().copied());
    let frames = map.frames().iter().map(|frame| frame.span);
    assert_eq!(extent("frames", frames), plaintext);
    assert_eq!(extent("reads", map.reads().iter().copied()), wire);
    let lists = [
        ("records sent", map.tls_records_sent()),
        ("records received", map.tls_records_received()),
    ];
    for (name, records) in lists {
        let spans = |of: fn(&TlsRecordSpan) -> Span| records.iter().map(of);
        assert_eq!(extent(name, spans(|record| record.wire)), wire);
        assert_eq!(extent(name, spans(|record| record.span)), plaintext);
        assert!(
            records
                .iter()
                .all(|record| record.wire.len > record.span.len)
        );
    }
    let bounds = |records: &[TlsRecordSpan]| {
        let bounds = records.iter();
        let bounds = bounds.map(|record| (record.span.range(), record.wire.range()));
        bounds.collect::<Vec<_>>()
    };
    assert_eq!(
        bounds(map.tls_records_sent()),
        bounds(map.tls_records_received()),
        "both ends have the same records"
    );
    assert_eq!(map.first_unsent(), None);
    assert_eq!(map.first_unread(), None);
    assert_eq!(map.first_undecrypted(), None);
    assert_eq!(map.first_undelivered(), None);
    Extents { plaintext, wire }
}

/// The payloads, the reads and the socket buffers are random. The recording includes the handshake,
/// the tickets and the `close_notify`.
#[test]
fn all_lists_of_a_tls_connection_cover_the_same_bytes() {
    for (seed, version) in (1..=6).zip(VERSIONS.into_iter().cycle()) {
        let mut random = Random(seed);
        let mut config = Config::default();
        config.read_len_max = [20, 300, 5000, 40_000, 256 * 1024][random.below(5)];
        config.read_budget_bytes = config.read_len_max;
        config.frame_budget = [1, 7, 1024][random.below(3)];
        let server = server_config_with("localhost", &[version]).into();
        let client = client_config_with(&[version]).into();
        let framing = Framing::length_u32();
        let (mut reactor, client, server) = recorded(config, &framing, server, client);
        let mut count = 0;
        for _ in 0..20 {
            for conn in [client, server] {
                for _ in 0..random.below(5) {
                    let len = [0, 1, 100, 3000, 17_000, 100_000][random.below(6)];
                    send(&mut reactor, conn, &random.bytes(len));
                    count += 1;
                }
            }
            await_frames(&mut reactor, count);
        }
        reactor.with(|_, cx| cx.close(client));
        drive(&mut reactor, |reactor| {
            reactor.handler().closes().len() == 2
        });
        let recording = take(&mut reactor);
        for (from, to) in [(client, server), (server, client)] {
            let map = CutMap::join((&recording, from), (&recording, to));
            let extents = check(&map);
            assert_eq!((extents.plaintext.0, extents.wire.0), (0, 0));
            let sum = map.summary();
            assert!(sum.sends_cut_by_records > 0, "{sum:?}");
            assert!(sum.tls_records_sent < map.tls_records_sent().len());
            let of_sends = map.sends().iter().enumerate();
            for (index, _) in of_sends {
                assert!(!map.reads_of_send(index).is_empty());
                assert!(!map.tls_records_of_send(index).is_empty());
                assert!(!map.writes_of_send(index).is_empty());
            }
        }
    }
}

/// The sends of one turn share one record. A send that is longer than a record is split into
/// several records. The frames equal the sends.
#[test]
fn records_glue_short_sends_and_cut_long_ones() {
    let (mut reactor, client, server) =
        pair(Probe::silent(), Config::default(), Framing::length_u32());
    reactor.with(|_, cx| cx.record_all());
    reactor.with(|_, cx| {
        for _ in 0..10 {
            let _ = cx.send(client, b"hello").expect("the queue has space");
        }
    });
    await_frames(&mut reactor, 10);
    send(&mut reactor, client, &[7; 40_000]);
    await_frames(&mut reactor, 11);
    let recording = take(&mut reactor);
    let map = CutMap::join((&recording, client), (&recording, server));
    let extents = check(&map);
    assert_eq!(extents.plaintext, (0, 10 * 9 + 40_004));
    let lens = map.tls_records_sent().iter().map(|record| record.span.len);
    let lens: Vec<_> = lens.collect();
    assert_eq!(lens, [90, 16_384, 16_384, 40_004 - 2 * 16_384]);
    assert_eq!(map.sends_of_tls_record(0), 0..10);
    assert_eq!(map.tls_records_of_send(10), 1..4);
    assert_eq!(map.frames_of_tls_record(0), 0..10);
    assert_eq!(map.tls_records_of_frame(10), 1..4);
    let sum = map.summary();
    assert_eq!(
        (sum.sends_glued_in_records, sum.sends_cut_by_records),
        (10, 1)
    );
    assert_eq!((sum.tls_records_sent, sum.tls_records_received), (4, 4));
    let text = map.to_string();
    assert!(text.starts_with("11 sends, 4 TLS records, "), "{text}");
    let line = "10 of the sends were glued in a TLS record, 1 cut into several";
    assert!(text.contains(line), "{text}");
    assert!(
        text.contains("\n  record 0: bytes 0..90, frame 0, frame 1, "),
        "{text}"
    );
    let lines = recording.to_json_lines();
    let wire = r#""event":"tls-record-sent","offset":0,"len":90,"wire_offset":"#;
    assert!(lines.contains(wire), "{lines}");
}

/// A read of 20 bytes cuts every record. No frame is delivered before its whole record has arrived.
#[test]
fn reads_cut_records_and_records_keep_headers_whole() {
    let mut config = Config::default();
    config.read_len_max = 20;
    let framing = Framing::length_u32();
    let server = super::common::tls::server_config();
    let (mut reactor, client, server) = recorded(config, &framing, server, client_config());
    take(&mut reactor);
    for count in 1..=10 {
        send(&mut reactor, client, &[7; 64]);
        await_frames(&mut reactor, count);
    }
    let recording = take(&mut reactor);
    let map = CutMap::join((&recording, client), (&recording, server));
    check(&map);
    let sum = map.summary();
    assert_eq!(sum.tls_records_received, 10);
    assert!(sum.reads >= 10, "{sum:?}");
    assert_eq!((sum.sends_glued_in_records, sum.split_headers), (0, 0));
}

/// A connection has exchanged bytes before the recording starts, and one end starts to record
/// earlier than the other end. In the map, both ends still have the same offsets. After a pause of
/// the recording, the offsets count the unrecorded bytes, too.
#[test]
fn recording_of_an_open_session_has_equal_offsets_at_both_ends() {
    for is_sender_first in [true, false] {
        let (mut reactor, client, server) =
            pair(Probe::silent(), Config::default(), Framing::length_u32());
        let mut frames = 0;
        let mut pass = |reactor: &mut Reactor<Probe>| {
            send(reactor, client, b"0123456789");
            frames += 1;
            await_frames(reactor, frames);
        };
        let record = |reactor: &mut Reactor<Probe>, conn, on| {
            let done = reactor.with(|_, cx| match on {
                true => cx.record(conn),
                false => cx.stop_recording(conn),
            });
            done.expect("the connection is open");
        };
        pass(&mut reactor);
        let (first, second) = match is_sender_first {
            true => (client, server),
            false => (server, client),
        };
        record(&mut reactor, first, true);
        pass(&mut reactor);
        record(&mut reactor, second, true);
        pass(&mut reactor);
        let [all, of_both] = [0, 1].map(|_| take(&mut reactor));
        assert!(of_both.events().is_empty());
        let map = CutMap::join((&all, client), (&all, server));
        // Each frame has 14 bytes. The first end recorded two frames, and the second end one frame.
        let (sent, received) = (map.tls_records_sent(), map.tls_records_received());
        let last = (sent.last(), received.last());
        let (Some(sent), Some(received)) = last else {
            panic!("a list is empty: {map}");
        };
        assert_eq!(sent.span.range(), 28..42);
        assert_eq!(received.span.range(), 28..42);
        assert_eq!(sent.wire.range(), received.wire.range());
        let last = map.sends().len() - 1;
        assert_eq!(map.reads_of_send(last).len(), 1, "{map}");
        assert_eq!(map.writes_of_send(last).len(), 1, "{map}");

        for conn in [client, server] {
            record(&mut reactor, conn, false);
        }
        pass(&mut reactor);
        assert!(take(&mut reactor).events().is_empty());
        for conn in [client, server] {
            record(&mut reactor, conn, true);
        }
        pass(&mut reactor);
        let again = take(&mut reactor);
        let map = CutMap::join((&again, client), (&again, server));
        let extents = check(&map);
        assert_eq!(extents.plaintext, (56, 70));
        let wire_len = sent.wire.len;
        assert_eq!(extents.wire.0, sent.wire.range().end + wire_len);
    }
}

/// A recording starts while the filter holds plaintext that is decrypted and not delivered.
#[test]
fn recording_counts_plaintext_that_is_not_delivered_yet() {
    let mut config = Config::default();
    config.frame_budget = 1;
    config.read_len_max = 100;
    config.read_budget_bytes = 100;
    let probe = Probe::new(|cx, event| {
        if let Event::Frame(conn, _) = event {
            cx.record(*conn).expect("the connection is open");
        }
    });
    let (mut reactor, client, server) = pair(probe, config, Framing::length_u32());
    reactor.with(|_, cx| {
        for _ in 0..20 {
            let _ = cx.send(client, &[7; 96]).expect("the queue has space");
        }
    });
    await_frames(&mut reactor, 20);
    send(&mut reactor, client, b"later");
    await_frames(&mut reactor, 21);
    let map = CutMap::incoming(&take(&mut reactor), server);
    let records = map.tls_records_received();
    let last = records.last().expect("a record was received");
    assert_eq!((last.span.offset, last.span.len), (2000, 9));
    assert_eq!(map.tls_records_of_frame(map.frames().len() - 1).len(), 1);
}

/// The bytes before the start of TLS have the same offsets in the plaintext and on the wire.
#[test]
fn plain_bytes_before_start_tls_are_in_the_map() {
    let server_tls = super::common::tls::server_config();
    let probe = Probe::new(move |cx, event| match event {
        Event::Frame(conn, line) if line == b"STARTTLS" => {
            let _ = cx.send(*conn, b"go ahead").expect("the queue has space");
            cx.start_tls_server(*conn, server_tls.clone())
                .expect("the connection is plain");
        }
        Event::Frame(conn, line) if line == b"go ahead" => {
            let name = super::common::tls::server_name();
            cx.start_tls_client(*conn, client_config(), name)
                .expect("the connection is plain");
        }
        Event::Open(conn, Origin::Connected) => {
            let _ = cx.send(*conn, b"STARTTLS").expect("the queue has space");
        }
        _ => {}
    });
    let mut reactor = Reactor::new(probe).expect("the reactor is created");
    let listener = reactor.listen("127.0.0.1:0", Framing::line());
    let listener = listener.expect("a free port is available");
    let addr = reactor.local_inet_addr(listener);
    reactor.with(|_, cx| cx.record_all());
    let addr = addr.expect("the listener is bound");
    let client = reactor.connect(addr, Framing::line(), ());
    drive(&mut reactor, |reactor| reactor.stats().tls_established == 2);
    let server = opened(&reactor).into_iter().find(|conn| *conn != client);
    let server = server.expect("the server has opened");
    send(&mut reactor, client, b"request");
    send(&mut reactor, server, b"reply");
    await_frames(&mut reactor, 4);
    let recording = take(&mut reactor);
    for (from, to) in [(client, server), (server, client)] {
        let map = CutMap::join((&recording, from), (&recording, to));
        let first = map.tls_records_sent()[0];
        assert_eq!((first.span.offset, first.span.len), (9, 0), "{map}");
        assert_eq!(first.wire.offset, 9);
        assert_eq!((map.reads()[0].offset, map.reads()[0].len), (0, 9));
        assert_eq!((map.writes()[0].offset, map.writes()[0].len), (0, 9));
        assert_eq!(map.reads_of_send(0), 0..1);
        assert_eq!(map.reads_of_frame(1).len(), 1, "{map}");
        let sum = map.summary();
        assert_eq!((sum.sends, sum.frames, sum.tls_records_received), (2, 2, 1));
    }
}

/// The client's configuration limits a fragment to 100 bytes on the wire.
#[test]
fn fragments_of_limited_size_are_records_of_their_own() {
    for version in VERSIONS {
        let mut client = client_config_with(&[version]);
        client.max_fragment_size = Some(100);
        let server = server_config_with("localhost", &[version]).into();
        let framing = Framing::length_u32();
        let config = Config::default();
        let (mut reactor, client, server) = recorded(config, &framing, server, client.into());
        send(&mut reactor, client, &[7; 1000]);
        await_frames(&mut reactor, 1);
        let recording = take(&mut reactor);
        let map = CutMap::join((&recording, client), (&recording, server));
        check(&map);
        let lens = map
            .tls_records_received()
            .iter()
            .map(|record| record.span.len);
        let lens: Vec<_> = lens.filter(|len| *len > 0).collect();
        let mut expected = [95; 11];
        expected[10] = 1004 - 10 * 95;
        assert_eq!(lens, expected);
    }
}
