//! Tests of filtered connections: writes that a read needs, buffered plaintext, output that the
//! filter holds.

use super::sim_world::{MS, Node, SEC, node, run_for, settle, take_events};
use super::transport::AckOrder;
use super::*;
use crate::engine::xor_filter::XorFilter;
use crate::engine::{Connection, xor_filter_of};
use crate::error::Gone;
use crate::testkit::Random;

/// Returns a reactor that does not echo, and its filtered connection with `length_u8` framing.
fn silent(config: Config, order: AckOrder) -> (Reactor<Recorder>, Wire, ConnId) {
    let mut reactor = reactor_with(config);
    Transport::Filtered.install(&mut reactor, order);
    reactor.handler.is_silent = true;
    let script = Transport::Filtered.script();
    let conn = open(&mut reactor, script, Framing::length_u8());
    (reactor, script, conn)
}

/// Returns true if a read of the connection waits until its filter has written.
fn awaits_write(conn: Result<&Connection, Gone>) -> bool {
    let filter = conn.ok().and_then(xor_filter_of);
    filter.is_some_and(XorFilter::awaits_write)
}

/// Runs turns without new events until no work is left, but at most 100 turns.
fn turns(reactor: &mut Reactor<Recorder>) {
    for _ in 0..100 {
        if reactor.next_turn_in() != Some(Duration::ZERO) {
            return;
        }
        turn(reactor);
    }
    panic!("the reactor has work after 100 turns");
}

/// Returns one read result for each frame. The transport makes each of them one record.
fn records(frames: &[&[u8]]) -> Vec<ReadResult> {
    frames.iter().map(|frame| bytes(frame)).collect()
}

const THREE: [&[u8]; 3] = [b"\x01a", b"\x01b", b"\x01c"];
const WOULD_BLOCK: WriteResult = WriteResult::Fails(ErrorKind::WouldBlock);

/// Returns the readiness that an event reports at the end of the stream.
fn end() -> Ready {
    Ready::READABLE | Ready::WRITABLE | Ready::ENDED | Ready::HUNG_UP
}

#[test]
fn frame_is_delivered_once_its_record_is_acknowledged() {
    let (mut reactor, script, conn) = silent(Config::default(), AckOrder::First);
    script.then_read(records(&THREE));
    script.then_write([WOULD_BLOCK]);
    event(&mut reactor, conn, Ready::READABLE);
    turns(&mut reactor);
    assert_eq!(reactor.handler.frames, [b"a", b"b"]);
    assert!(awaits_write(reactor.engine.conn(conn.0)));
    assert_eq!(
        script.calls().writes,
        1,
        "the write is not repeated before an event"
    );
    event(&mut reactor, conn, Ready::WRITABLE);
    assert_eq!(reactor.handler.frames, [b"a", b"b", b"c"]);
    assert_eq!(script.acknowledgements(), 1);
}

/// Only the write would block, so no further event reports that the connection is readable.
#[test]
fn read_waiting_for_a_write_continues_after_a_flush() {
    // The filter accepts at most 400 bytes of a batch at once.
    for sends in [1, 20] {
        let (mut reactor, script, conn) = silent(Config::default(), AckOrder::First);
        script.then_read(records(&THREE));
        script.then_write([WOULD_BLOCK]);
        reactor.handler.at_frame = Some(Box::new(move |cx| {
            for _ in 0..sends {
                let _ = cx
                    .send(conn, &[b'x'; 50])
                    .expect("the write queue is not full");
            }
        }));
        event(&mut reactor, conn, Ready::READABLE);
        turns(&mut reactor);
        assert_eq!(reactor.handler.frames, [b"a", b"b", b"c"]);
        event(&mut reactor, conn, Ready::WRITABLE);
        assert_eq!(script.calls().written.len(), 51 * sends);
    }
}

#[test]
fn queued_filter_output_is_flushed_at_the_next_writable_event() {
    let (mut reactor, script, conn) = silent(Config::default(), AckOrder::Queued);
    script.then_read(records(&THREE));
    script.then_write([WriteResult::Takes(1), WOULD_BLOCK]);
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!(reactor.handler.frames, [b"a", b"b", b"c"]);
    turns(&mut reactor);
    assert_eq!(script.acknowledgements(), 0);
    event(&mut reactor, conn, Ready::WRITABLE);
    assert_eq!(script.acknowledgements(), 1);
}

#[test]
fn fin_waits_for_the_output_of_the_filter() {
    type Act = fn(&mut Context<'_, Recorder>, ConnId);
    let acts: [Act; 2] = [
        |cx, conn| cx.half_close(conn).expect("the connection is open"),
        |cx, conn| cx.close(conn),
    ];
    for act in acts {
        let (mut reactor, script, conn) = silent(Config::default(), AckOrder::First);
        script.then_read(records(&THREE[..1]));
        script.then_write([WriteResult::Takes(3), WOULD_BLOCK]);
        reactor.handler.at_frame = Some(Box::new(move |cx| {
            let _ = cx
                .send(conn, b"answer")
                .expect("the write queue is not full");
            act(cx, conn);
        }));
        event(&mut reactor, conn, Ready::READABLE);
        turns(&mut reactor);
        assert!(!script.calls().is_shut_down);
        event(&mut reactor, conn, Ready::WRITABLE);
        assert_eq!(script.calls().written, b"\x06answer");
        assert!(script.calls().is_shut_down);
    }
}

#[test]
fn half_closed_connection_is_read_without_acknowledgements() {
    let (mut reactor, script, conn) = silent(Config::default(), AckOrder::First);
    reactor.with(|_, cx| cx.half_close(conn).expect("the connection is open"));
    turns(&mut reactor);
    assert!(script.calls().is_shut_down);
    script.then_read(records(&THREE));
    script.then_read([ReadResult::End]);
    event(&mut reactor, conn, Ready::READABLE | Ready::ENDED);
    assert_eq!(reactor.handler.frames, [b"a", b"b", b"c"]);
    assert_eq!(script.calls().writes, 0);
    assert!(matches!(only_close(&reactor).reason, CloseReason::Local));
}

/// One read of the socket returns all records. The budget stops the dispatch after each frame.
#[test]
fn frames_in_buffered_plaintext_need_no_further_event() {
    for read_len_max in [1, 2, 3, 1000] {
        let config = Config {
            read_len_max,
            frame_budget: 1,
            ..Config::default()
        };
        let (mut reactor, script, conn) = silent(config, AckOrder::First);
        let frames = [b"\x01a\x01b\x02cc\x01d".as_slice(), b"\x01e", b"\x01f"];
        script.then_read(records(&[&frames.concat()]));
        event(&mut reactor, conn, Ready::READABLE);
        assert_eq!(script.calls().reads, 1);
        turns(&mut reactor);
        assert_eq!(reactor.handler.frames.concat(), b"abccdef");
        assert!(!state(&reactor, conn).is_readable());
    }
}

#[test]
fn buffered_plaintext_is_delivered_after_resume() {
    let config = Config {
        read_len_max: 2,
        ..Config::default()
    };
    let (mut reactor, script, conn) = silent(config, AckOrder::First);
    script.then_read(records(&[&THREE.concat()]));
    reactor.handler.at_frame = Some(Box::new(move |cx| {
        cx.pause(conn).expect("the connection is open")
    }));
    event(&mut reactor, conn, Ready::READABLE);
    turns(&mut reactor);
    assert_eq!(reactor.handler.frames, [b"a"]);
    reactor.with(|_, cx| cx.resume(conn).expect("the connection is open"));
    turns(&mut reactor);
    assert_eq!(reactor.handler.frames, [b"a", b"b", b"c"]);
}

/// The socket is empty and the output is closed: only the filter holds undelivered input.
#[test]
fn hangup_while_paused_loses_no_buffered_plaintext() {
    let config = Config {
        read_len_max: 2,
        ..Config::default()
    };
    let (mut reactor, script, conn) = silent(config, AckOrder::First);
    script.then_read(records(&[&THREE.concat()]));
    script.then_read([ReadResult::End]);
    reactor.handler.at_frame = Some(Box::new(move |cx| {
        cx.pause(conn).expect("the connection is open");
        cx.half_close(conn).expect("the connection is open");
    }));
    event(&mut reactor, conn, end());
    turns(&mut reactor);
    assert!(reactor.handler.closes.is_empty());
    reactor.with(|_, cx| cx.resume(conn).expect("the connection is open"));
    turns(&mut reactor);
    assert_eq!(reactor.handler.frames, [b"a", b"b", b"c"]);
    only_close(&reactor);
}

#[test]
fn failed_acknowledgement_still_delivers_all_input() {
    for order in [AckOrder::First, AckOrder::Queued] {
        let (mut reactor, script, conn) = silent(Config::default(), order);
        script.then_read(records(&THREE));
        script.then_read(records(&[b"\x01d"]));
        script.then_write([WriteResult::Fails(ErrorKind::BrokenPipe)]);
        event(&mut reactor, conn, Ready::READABLE);
        turns(&mut reactor);
        assert_eq!(reactor.handler.frames, [b"a", b"b", b"c", b"d"]);
        assert_io(only_close(&reactor), ErrorKind::BrokenPipe);
        assert_eq!(script.calls().writes, 1);
    }
}

/// Output that cannot be written must not keep the connection in the ready queue.
#[test]
fn failed_filter_write_while_paused_leaves_the_reactor_idle() {
    let (mut reactor, script, conn) = silent(Config::default(), AckOrder::First);
    script.then_read(records(&THREE[..1]));
    script.then_write([WOULD_BLOCK, WriteResult::Fails(ErrorKind::BrokenPipe)]);
    reactor.with(|_, cx| {
        cx.pause(conn).expect("the connection is open");
        let _ = cx
            .send(conn, b"answer")
            .expect("the write queue is not full");
    });
    turns(&mut reactor);
    event(&mut reactor, conn, Ready::WRITABLE);
    turns(&mut reactor);
    script.then_write([WriteResult::Fails(ErrorKind::BrokenPipe); 9]);
    event(&mut reactor, conn, Ready::WRITABLE);
    turns(&mut reactor);
    assert_eq!(reactor.handler.hangups, [Hangup::Reset]);
    assert_eq!(script.calls().writes, 2, "the output was discarded");
}

#[test]
fn end_of_stream_within_a_record_closes_with_an_error() {
    let (mut reactor, script, conn) = silent(Config::default(), AckOrder::First);
    let mut wire = Transport::Filtered.encrypt(script.into(), b"\x01a\x02bc");
    wire.pop();
    Script::from(script).then_read([ReadResult::Bytes(wire), ReadResult::End]);
    event(&mut reactor, conn, end());
    turns(&mut reactor);
    assert_io(only_close(&reactor), ErrorKind::UnexpectedEof);
    assert_eq!(reactor.handler.half_closes, 0);
}

#[test]
fn plain_text_to_a_filter_closes_with_an_error() {
    let (mut reactor, script, conn) = silent(Config::default(), AckOrder::First);
    let request = b"GET / HTTP/1.1\r\nhost: example.com\r\nuser-agent: a browser\r\n";
    Script::from(script).then_read([ReadResult::Bytes(request.repeat(3))]);
    event(&mut reactor, conn, Ready::READABLE);
    turns(&mut reactor);
    assert_io(only_close(&reactor), ErrorKind::InvalidData);
}

/// The write queue is empty: the filter holds all pending output.
#[test]
fn output_held_by_the_filter_counts_as_write_stall() {
    let world = World::new(0);
    world.set_buffer_lens(100, 100);
    let config = Config {
        write_stall_timeout: Some(SEC),
        ..Config::default()
    };
    let mut reactor = Transport::Filtered.node(world, config);
    reactor.handler.greeting = vec![b'x'; 390];
    let listener = reactor
        .listen(any(), Framing::raw())
        .expect("a port is free");
    let addr = reactor.local_addr(listener).expect("the listener is bound");
    let peer = Peer::new(Transport::Filtered, world.connect(addr));
    settle(&mut [&mut reactor]);
    assert_eq!(
        reactor.stats().written_bytes,
        390,
        "the filter has accepted all output"
    );
    // Progress of the output restarts the write stall timeout.
    for _ in 0..3 {
        run_for(world, &mut [&mut reactor], 900 * MS);
        assert!(!peer.recv_up_to(50).is_empty());
    }
    // New limits of the connection restart the timeout too. The short frame deadline only makes the
    // checks more frequent.
    run_for(world, &mut [&mut reactor], 900 * MS);
    let conn = ConnId(only_conn(&reactor).expect("the connection is open"));
    reactor.with(|_, cx| {
        let mut limits = cx.limits(conn).expect("the connection is open");
        limits.frame_deadline = Some(100 * MS);
        cx.set_limits(conn, limits).expect("the limits are valid");
    });
    run_for(world, &mut [&mut reactor], 900 * MS);
    assert_eq!(take_events(&mut reactor), ["0 open"]);
    run_for(world, &mut [&mut reactor], SEC);
    let events = take_events(&mut reactor);
    assert!(events[0].contains("close WriteStalled"), "{events:?}");
}

/// The payload lengths are no multiples of the record length, so each payload ends with a short
/// record.
#[test]
fn vectored_write_through_a_filter_keeps_every_byte() {
    let (mut reactor, script, conn) = silent(Config::default(), AckOrder::First);
    let mut expected = Vec::new();
    reactor.with(|_, cx| {
        cx.reframe(conn, Framing::length_u32())
            .expect("the connection is open");
        for (len, byte) in [(20_010, 1), (7, 2), (16_385, 3), (399, 4)] {
            let payload = vec![byte; len];
            let header = u32::try_from(len)
                .expect("the length fits into 32 bits")
                .to_be_bytes();
            expected.extend([&header[..], &payload].concat());
            let _ = cx
                .send_owned(conn, payload)
                .expect("the write queue is not full");
        }
    });
    turns(&mut reactor);
    assert!(script.calls().written == expected);
}

/// Returns the bytes of all frames that a node has received.
fn received(reactor: &Reactor<Node>) -> String {
    let frame = |event: &String| Some(event.split_once(" frame ")?.1.to_owned());
    reactor.handler.events.iter().filter_map(frame).collect()
}

/// Returns the connection of a node, if it has one.
fn only_conn(reactor: &Reactor<Node>) -> Option<Token> {
    let mut tokens = reactor.engine.entries.tokens().into_iter();
    tokens.find(|token| reactor.engine.conn(*token).is_ok())
}

fn state_of_only(reactor: &Reactor<Node>) -> Option<State> {
    let conn = reactor.engine.conn(only_conn(reactor)?).ok()?;
    Some(conn.state)
}

/// Both reactors send more bytes than all buffers hold, and acknowledge records at the same time.
#[test]
fn two_filtered_reactors_with_full_buffers_do_not_deadlock() {
    let (mut both_blocked, mut read_waited) = (0, 0);
    for seed in 0..30 {
        let mut random = Random(seed);
        let world = World::new(seed);
        world.set_latency(MS);
        world.set_buffer_lens(60 + random.below(300), 60 + random.below(300));
        world.set_segment_len_max(20 + random.below(200));
        let mut nodes = [AckOrder::First, AckOrder::Queued].map(|order| {
            let mut reactor = node(world, Config::default());
            Transport::Filtered.install(&mut reactor, order);
            reactor.handler.echoes = false;
            let letters = (0..5000).map(|_| b"abcdefghij"[random.below(10)]);
            reactor.handler.greeting = letters.collect();
            reactor
        });
        let [server, client] = &mut nodes;
        let listener = server
            .listen(any(), Framing::raw())
            .expect("a port is free");
        let addr = server.local_addr(listener).expect("the listener is bound");
        let conn = client.connect(addr, Framing::raw(), ());
        for _ in 0..5000 {
            run_for(world, &mut [server, client], MS / 2);
            let states = [&*server, &*client].map(state_of_only);
            let is_blocked = |state: &Option<State>| state.is_some_and(|one| !one.is_writable());
            both_blocked += u32::from(states.iter().all(is_blocked));
            let conn = only_conn(server).map(|token| server.engine.conn(token));
            read_waited += u32::from(conn.is_some_and(awaits_write));
        }
        for (to, from) in [(&*server, &*client), (&*client, &*server)] {
            assert!(
                received(to).as_bytes() == from.handler.greeting,
                "seed {seed}"
            );
        }
        client.with(|_, cx| cx.close(conn));
        run_for(world, &mut [server, client], SEC);
        for (reactor, reason) in [(server, "Peer"), (client, "Local")] {
            let last = reactor
                .handler
                .events
                .pop()
                .expect("the connection has closed");
            let close = format!("close {reason}, 0 unsent, 0 undecoded");
            assert!(last.ends_with(&close), "seed {seed}: {last}");
        }
    }
    assert!(
        both_blocked > 100,
        "both sides were blocked only {both_blocked} times"
    );
    assert!(read_waited > 100, "a read waited only {read_waited} times");
}
