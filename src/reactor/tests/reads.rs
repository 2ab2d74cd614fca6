//! Tests of the length of reads, and of the memory of partial frames.

use super::*;

const LEN_BASE: usize = 68 * 1024;

/// Returns the lengths of the reads. With the raw framing, each read is one frame.
fn reads(reactor: &mut Reactor<Recorder>) -> Vec<usize> {
    let frames = std::mem::take(&mut reactor.handler.frames);
    frames.iter().map(Vec::len).collect()
}

/// Runs only over the plain transport, because a filter changes the lengths of reads.
#[test]
fn read_length_grows_with_input_and_shrinks_after_trims() {
    let config = Config {
        read_len_max: 200_000,
        read_budget_bytes: 500_000,
        ..Config::default()
    };
    let mut reactor = reactor_with(config);
    let script = Script::new();
    let conn = open(&mut reactor, script, Framing::raw());
    let flood = |reactor: &mut Reactor<Recorder>, len| {
        script.then_read([bytes(&vec![7; len])]);
        event(reactor, conn, Ready::READABLE);
        reads(reactor)
    };
    let grown = [LEN_BASE, 2 * LEN_BASE, 200_000, 91_104];
    assert_eq!(flood(&mut reactor, 500_000), grown);
    assert_eq!(flood(&mut reactor, 210_000), [200_000, 10_000]);
    reactor.trim();
    assert_eq!(
        flood(&mut reactor, 100_000),
        [100_000],
        "the buffer of 200,000 bytes was used since the last trim"
    );
    reactor.trim();
    assert_eq!(
        flood(&mut reactor, 100_000),
        [100_000],
        "the buffer is not longer than twice the longest read"
    );
    reactor.trim();
    reactor.trim();
    assert_eq!(flood(&mut reactor, 100_000), [LEN_BASE, 100_000 - LEN_BASE]);
}

fn input_after_close_is_discarded_within_the_read_budget(transport: Transport) {
    let config = Config {
        read_budget_bytes: 100_000,
        ..Config::default()
    };
    let mut reactor = transport.reactor_with(config);
    let script = transport.script();
    script.then_read([bytes(&vec![7; 300_000])]);
    let conn = open(&mut reactor, script, Framing::raw());
    reactor.handler.at_frame = Some(Box::new(move |cx| cx.close(conn)));
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!(reads(&mut reactor).len(), 1);
    let read = reactor.stats().read_bytes;
    assert_eq!(read, 100_000);
    turn(&mut reactor);
    assert_eq!(reactor.stats().read_bytes, 200_000);
}

/// The buffer of a long frame is kept for the next frame of the same read. If the next frame
/// stalls, the trim frees the buffer.
fn oversized_buffer_of_a_stalled_frame_is_trimmed(transport: Transport) {
    let mut reactor = transport.reactor();
    let script = transport.script();
    let conn = open(&mut reactor, script, Framing::length_u32());
    let frame = [&60_000_u32.to_be_bytes()[..], &[7; 60_000]].concat();
    let (head, rest) = frame.split_at(1000);
    let held = |reactor: &Reactor<Recorder>| reactor.stats().held_bytes;
    script.then_read([bytes(head)]);
    event(&mut reactor, conn, Ready::READABLE);
    for _ in 0..3 {
        for piece in rest.chunks(1000) {
            script.then_read([bytes(piece)]);
            event(&mut reactor, conn, Ready::READABLE);
        }
        assert_eq!(held(&reactor), 0, "no buffer is held between two frames");
        script.then_read([bytes(head)]);
        event(&mut reactor, conn, Ready::READABLE);
        assert!(held(&reactor) < 8 * 1024 + 1000);
    }
    assert_eq!(reactor.next_turn_in(), None, "no trim is pending");

    for round in 0..3 {
        script.then_read([bytes(&[rest, &head[..10]].concat())]);
        event(&mut reactor, conn, Ready::READABLE);
        assert!(held(&reactor) > 60_000, "round {round}: the buffer is kept");
        assert!(reactor.next_turn_in().is_some(), "the trim timer is set");
        reactor.trim();
        assert!(
            held(&reactor) < 8 * 256,
            "round {round}: the buffer is freed"
        );
        reactor.trim();
        script.then_read([bytes(&head[10..])]);
        event(&mut reactor, conn, Ready::READABLE);
    }
    assert_eq!(reactor.handler.frames.len(), 6);
    assert!(
        reactor
            .handler
            .frames
            .iter()
            .all(|frame| frame[..] == [7; 60_000])
    );
}

/// Covers two cases: the connection is recorded, or it is paused.
fn oversized_buffer_is_trimmed_while_recorded_or_paused(transport: Transport) {
    type Act = fn(&mut Context<'_, Recorder>, ConnId);
    let acts: [Act; 2] = [
        |cx, conn| cx.record(conn).expect("the connection is open"),
        |cx, conn| cx.pause(conn).expect("the connection is open"),
    ];
    for act in acts {
        let mut reactor = transport.reactor();
        let script = transport.script();
        let conn = open(&mut reactor, script, Framing::length_u32());
        let frame = [&60_000_u32.to_be_bytes()[..], &[7; 60_000]].concat();
        let (head, rest) = frame.split_at(50_000);
        script.then_read([bytes(head)]);
        event(&mut reactor, conn, Ready::READABLE);
        reactor.handler.at_frame = Some(Box::new(move |cx| act(cx, conn)));
        for _ in 0..2 {
            script.then_read([bytes(&[rest, &head[..10]].concat())]);
            event(&mut reactor, conn, Ready::READABLE);
            reactor.trim();
            let held = reactor.stats().held_bytes;
            assert!((10..=8 * 256).contains(&held), "{held} bytes are held");
            reactor.with(|_, cx| cx.resume(conn).expect("the connection is open"));
            script.then_read([bytes(&head[10..])]);
            event(&mut reactor, conn, Ready::READABLE);
        }
        assert_eq!(reactor.handler.frames.len(), 2);
    }
}

/// The input is freed at the close, because the peer may end its side much later.
fn input_left_at_a_close_is_counted_and_freed(transport: Transport) {
    let mut reactor = transport.reactor();
    let script = transport.script();
    script.then_read([bytes(b"\x01a\x01b\x01")]);
    let conn = open(&mut reactor, script, Framing::length_u8());
    reactor.handler.at_frame = Some(Box::new(move |cx| cx.close(conn)));
    event(&mut reactor, conn, Ready::READABLE);
    assert!(script.calls().is_shut_down && reactor.handler.closes.is_empty());
    assert_eq!(reactor.stats().held_bytes, 0);
    script.then_read([bytes(b"\x01c"), ReadResult::End]);
    event(&mut reactor, conn, Ready::READABLE | Ready::ENDED);
    assert_eq!(only_close(&reactor).undecoded_bytes, 3);
}

/// A failed read does not clear the readiness, so only the error prevents another read.
fn failed_read_after_close_is_not_repeated(transport: Transport) {
    let mut reactor = transport.reactor();
    let script = transport.script();
    let reset = ReadResult::Fails(ErrorKind::ConnectionReset);
    script.then_read([bytes(b"question"), reset]);
    let conn = open(&mut reactor, script, Framing::raw());
    reactor.handler.at_frame = Some(Box::new(move |cx| cx.close(conn)));
    event(&mut reactor, conn, Ready::READABLE | Ready::ENDED);
    assert_io(only_close(&reactor), ErrorKind::ConnectionReset);
    assert_eq!(script.calls().reads, 2);
}

on_all_transports! {
    oversized_buffer_of_a_stalled_frame_is_trimmed,
    oversized_buffer_is_trimmed_while_recorded_or_paused,
    input_left_at_a_close_is_counted_and_freed,
    failed_read_after_close_is_not_repeated;
    not over TLS:
    input_after_close_is_discarded_within_the_read_budget,
}
