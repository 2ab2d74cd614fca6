//! Tests of the fast path of a dispatch: one read, its frames and one write. They check its counts,
//! and the cases in which the general path continues.

use super::*;
use crate::codec::{Codec, Out, Step};
use crate::cutmap::EventKind;
use crate::engine::EncodePayload;
use crate::error::FrameError;
use crate::memory::Buf;

/// Returns a framing that skips frames of more than three bytes.
fn skipping() -> Framing {
    Framing::length_u8().frame_len_max(3).skip_too_long()
}

/// Input of one read: a frame, and a skipped frame without its last four bytes. After `on_skipped`,
/// no bytes of the read are left to decode.
const SKIPPED: &[u8] = b"\x01a\x05x";

/// Opens a connection that reads [`SKIPPED`], and calls `act` in `on_skipped`.
fn at_skip(
    transport: Transport,
    reactor: &mut Reactor<Recorder>,
    act: impl FnOnce(&mut Context<'_, Recorder>, ConnId) + 'static,
) -> (Wire, ConnId) {
    let script = transport.script();
    script.then_read([bytes(SKIPPED)]);
    let conn = open(reactor, script, skipping());
    reactor.handler.at_skip = Some(Box::new(move |cx| act(cx, conn)));
    event(reactor, conn, Ready::READABLE);
    assert_eq!(reactor.handler.frames, [b"a"]);
    assert!(reactor.handler.at_skip.is_none(), "on_skipped was called");
    (script, conn)
}

/// The first reply allocates the batch. The fast path copies later replies into the batch.
fn each_echoed_frame_is_counted_once(transport: Transport) {
    let mut reactor = transport.reactor();
    let script = transport.script();
    let conn = open(&mut reactor, script, Framing::length_u32());
    for round in 1..=4 {
        script.then_read([bytes(b"\0\0\0\x01a\0\0\0\x01b\0\0\0\x01c")]);
        event(&mut reactor, conn, Ready::READABLE);
        let counted = 3 * round;
        let of_conn = reactor
            .engine
            .conn_stats(conn.0)
            .expect("the connection is open");
        let of_conn = (of_conn.frames_in, of_conn.frames_out);
        assert_eq!(of_conn, (counted, counted), "counts of the connection");
        let of_all = reactor.stats();
        let of_all = (of_all.frames_in, of_all.frames_out);
        assert_eq!(of_all, (counted, counted), "counts of the reactor");
    }
    if transport.is_plain() {
        assert_eq!(script.calls().writes, 4, "one write for each read");
    }
}

/// Runs only over the plain transport, because the shortcut does not depend on the transport.
#[cfg(not(unstick_general_path))]
#[test]
fn short_send_is_copied_without_calling_the_framing() {
    /// A payload that can only be copied: `encode` panics.
    struct Copied<'a>(&'a [u8]);

    impl EncodePayload for Copied<'_> {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn encode(self, _: &Framing, _: &mut Buf) -> Result<(), FrameError> {
            panic!("the payload was encoded on the general path");
        }

        fn bytes(&self) -> Option<&[u8]> {
            Some(self.0)
        }
    }

    let mut reactor = reactor();
    let script = Script::new();
    let conn = open(&mut reactor, script, Framing::length_u32());
    script.then_read([bytes(b"\0\0\0\x10make space of it"), bytes(b"\0\0\0\x01a")]);
    event(&mut reactor, conn, Ready::READABLE);
    reactor.handler.at_frame = Some(Box::new(move |cx| {
        for _ in 0..2 {
            let sent = cx.engine.send(conn.0, Copied(b"me"));
            assert_eq!(sent.expect("the queue has space"), Sent::Queued);
        }
    }));
    event(&mut reactor, conn, Ready::READABLE);
    let written = script.calls().written;
    assert!(written.ends_with(b"it\0\0\0\x02me\0\0\0\x02me"));
}

fn close_in_on_skipped_sends_fin_in_the_same_dispatch(transport: Transport) {
    let (script, _) = at_skip(transport, &mut transport.reactor(), |cx, conn| {
        cx.close(conn)
    });
    assert_eq!(
        script.calls().written,
        b"\x01a",
        "the output before the close is written"
    );
    assert!(script.calls().is_shut_down);
}

fn abort_in_on_skipped_discards_and_counts_output(transport: Transport) {
    let mut reactor = transport.reactor();
    let (script, _) = at_skip(transport, &mut reactor, |cx, conn| cx.abort(conn));
    assert_eq!(script.calls().writes, 0);
    assert_eq!(only_close(&reactor).unsent_bytes, 2);
}

/// Until a dispatch applies the new framing, the connection is not read and its frame deadline does
/// not run. So the dispatch of the skipped frame must apply the new framing.
fn reframe_in_on_skipped_applies_in_the_same_dispatch(transport: Transport) {
    let mut reactor = transport.reactor();
    let (script, conn) = at_skip(transport, &mut reactor, |cx, conn| {
        cx.reframe(conn, Framing::raw())
            .expect("the connection is open");
    });
    assert!(state(&reactor, conn).may_read());
    script.then_read([bytes(b"xxxxas it is")]);
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!(reactor.handler.frames, [&b"a"[..], b"as it is"]);
}

fn queue_refilled_by_on_drained_after_a_skip_drains_again(transport: Transport) {
    let config = Config {
        write_high_bytes: 4,
        write_low_bytes: 0,
        ..Config::default()
    };
    let mut reactor = transport.reactor_with(config);
    let script = transport.script();
    script.then_read([bytes(SKIPPED)]);
    let conn = open(&mut reactor, script, skipping());
    let fill = move |cx: &mut Context<'_, Recorder>| {
        assert!(matches!(
            cx.send(conn, b"abc"),
            Ok(Sent::Queued | Sent::AboveHigh)
        ));
        assert!(matches!(cx.send(conn, b"abc"), Ok(Sent::AboveHigh)));
    };
    reactor.handler.at_skip = Some(Box::new(fill));
    reactor.handler.at_drained = Some(Box::new(fill));
    event(&mut reactor, conn, Ready::READABLE);
    let expected = b"\x01a\x03abc\x03abc\x03abc\x03abc";
    assert_eq!(script.calls().written, expected);
    assert_eq!(reactor.handler.drains, 2);
    assert!(state(&reactor, conn).may_read());
}

fn recording_started_in_the_last_frame_includes_its_write(transport: Transport) {
    for records_all in [false, true] {
        let mut reactor = transport.reactor();
        let script = transport.script();
        script.then_read([bytes(b"question")]);
        let conn = open(&mut reactor, script, Framing::raw());
        reactor.handler.at_frame = Some(Box::new(move |cx| {
            match records_all {
                true => cx.record_all(),
                false => cx.record(conn).expect("the connection is open"),
            }
            let _ = cx.send(conn, b"answer").expect("the queue has space");
        }));
        event(&mut reactor, conn, Ready::READABLE);
        let recording = reactor.with(|_, cx| cx.take_recording());
        let kinds = recording.events().iter().map(|event| event.kind);
        let is_record = |kind: &EventKind| matches!(kind, EventKind::TlsRecordSent { .. });
        let (records, kinds): (Vec<_>, Vec<_>) = kinds.partition(is_record);
        assert_eq!(kinds, [EventKind::Send, EventKind::Write]);
        assert_eq!(records.len(), usize::from(transport.is_tls()));
    }
}

fn stats_in_callbacks_include_the_current_dispatch(transport: Transport) {
    let mut reactor = transport.reactor();
    let script = transport.script();
    script.then_read([bytes(b"\x01b")]);
    let conn = open(&mut reactor, script, skipping());
    event(&mut reactor, conn, Ready::READABLE);
    script.then_read([bytes(SKIPPED)]);
    reactor.handler.at_skip = Some(Box::new(move |cx| {
        let of_conn = cx.conn_stats(conn).expect("the connection is open");
        let of_all = cx.stats();
        assert_eq!((of_conn.frames_in, of_conn.frames_out), (2, 2));
        assert_eq!((of_all.frames_in, of_all.frames_out), (2, 2));
        assert_eq!(of_all.frames_skipped, 1);
    }));
    event(&mut reactor, conn, Ready::READABLE);
    assert!(reactor.handler.at_skip.is_none(), "on_skipped was called");
}

/// Each skipped frame causes a callback, and may have only a few bytes. A skipped frame therefore
/// counts in the frame budget.
fn skipped_frames_use_the_budget_and_are_not_counted(transport: Transport) {
    let config = Config {
        frame_budget: 2,
        ..Config::default()
    };
    let mut reactor = transport.reactor_with(config);
    let script = transport.script();
    script.then_read([bytes(&[b"\x04long".repeat(5), b"\x01a".to_vec()].concat())]);
    let conn = open(&mut reactor, script, skipping());
    inject_event(&reactor, conn, Ready::READABLE);
    for skipped in [2, 4, 5] {
        turn(&mut reactor);
        assert_eq!(reactor.stats().frames_skipped, skipped);
    }
    let of_conn = reactor
        .engine
        .conn_stats(conn.0)
        .expect("the connection is open");
    assert_eq!((of_conn.frames_in, reactor.stats().frames_in), (1, 1));
}

/// The queue can be filled to the last byte. A payload that does not fit is not sent.
fn batch_respects_write_queue_bytes_max(transport: Transport) {
    let config = Config {
        write_low_bytes: 0,
        write_high_bytes: 2,
        write_queue_bytes_max: 8,
        ..Config::default()
    };
    let mut reactor = transport.reactor_with(config);
    let script = transport.script();
    script.then_read([bytes(b"question")]);
    let conn = open(&mut reactor, script, Framing::raw());
    reactor.handler.at_frame = Some(Box::new(move |cx| {
        assert!(matches!(cx.send(conn, b"ab"), Ok(Sent::Queued)));
        assert!(matches!(cx.send(conn, b"cdefghi"), Err(SendError::Full)));
        assert!(matches!(cx.send(conn, b"cdefgh"), Ok(Sent::AboveHigh)));
        assert!(matches!(cx.send(conn, b"i"), Err(SendError::Full)));
        assert_eq!(cx.queued_bytes(conn), Ok(8));
    }));
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!(script.calls().written, b"abcdefgh");
}

/// A send to another connection uses up the memory budget. From then on, output of the active
/// connection is refused. The handler is notified when memory is available again.
fn batch_is_refused_once_the_memory_budget_is_used_up(transport: Transport) {
    let config = Config {
        write_low_bytes: 0,
        write_high_bytes: 4,
        memory_bytes_max: 4096,
        ..Config::default()
    };
    let mut reactor = transport.reactor_with(config);
    let slow = transport.script();
    slow.then_write([WriteResult::Fails(ErrorKind::WouldBlock)]);
    let slow_conn = open(&mut reactor, slow, Framing::raw());
    let script = transport.script();
    script.then_read([bytes(b"question")]);
    let conn = open(&mut reactor, script, Framing::raw());
    reactor.handler.at_frame = Some(Box::new(move |cx| {
        assert!(matches!(cx.send(conn, b"be"), Ok(Sent::Queued)));
        assert!(matches!(
            cx.send(slow_conn, &[0; 4000]),
            Ok(Sent::AboveHigh)
        ));
        assert!(matches!(cx.send(conn, b"tween"), Err(SendError::Full)));
        assert!(matches!(cx.send(conn, b"!"), Err(SendError::Full)));
    }));
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!(script.calls().written, b"be");
    assert_eq!(reactor.handler.drains, 0);
    event(&mut reactor, slow_conn, Ready::WRITABLE);
    turn(&mut reactor);
    assert_eq!(reactor.handler.drains, 2, "both connections are notified");
}

/// The send comes after the dispatch of the connection has ended.
fn send_to_the_last_active_connection_is_flushed(transport: Transport) {
    for (framing, frame) in [
        (Framing::length_u32(), &b"\0\0\0\x05later"[..]),
        (Framing::line(), b"later\n"),
    ] {
        let mut reactor = transport.reactor();
        let script = transport.script();
        let conn = open(&mut reactor, script, framing);
        for _ in 0..3 {
            script.then_read([bytes(frame)]);
            event(&mut reactor, conn, Ready::READABLE);
        }
        let sent = reactor.with(|_, cx| cx.send(conn, b"later").map(drop));
        sent.expect("the queue has space");
        assert_eq!(reactor.engine.queued_bytes(conn.0), Ok(frame.len()));
        turn(&mut reactor);
        assert_eq!(script.calls().written, frame.repeat(4));
    }
}

fn frame_without_a_reply_costs_no_write(transport: Transport) {
    let mut reactor = transport.reactor();
    let script = transport.script();
    script.then_read([bytes(b"\0\0\0\x01a")]);
    let conn = open(&mut reactor, script, Framing::length_u32());
    reactor.handler.at_frame = Some(Box::new(|_| {}));
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!(script.calls().writes, 0);
    if transport.is_plain() {
        assert_eq!(script.calls().reads, 1);
    }
}

/// Several events may report the same hang-up.
fn hangup_of_a_paused_connection_is_reported_once(transport: Transport) {
    let mut reactor = transport.reactor();
    let conn = open(&mut reactor, transport.script(), Framing::raw());
    let paused = reactor.with(|_, cx| cx.pause(conn));
    paused.expect("the connection is open");
    for _ in 0..3 {
        let end = Ready::READABLE | Ready::WRITABLE | Ready::ENDED | Ready::HUNG_UP;
        event(&mut reactor, conn, end);
    }
    assert_eq!(reactor.handler.hangups, [Hangup::Ended]);
}

/// Querying the socket error costs a system call and clears the error, so that a later read would
/// not report it.
fn socket_error_is_queried_only_while_not_reading(transport: Transport) {
    let config = Config {
        frame_budget: 1,
        ..Config::default()
    };
    let mut reactor = transport.reactor_with(config);
    let script = transport.script();
    script.then_read([bytes(b"\x01a\x01b\x01c")]);
    let conn = open(&mut reactor, script, Framing::length_u8());
    let end = Ready::READABLE | Ready::WRITABLE | Ready::ENDED | Ready::HUNG_UP;
    event(&mut reactor, conn, end);
    assert_eq!(
        script.calls().take_errors,
        0,
        "the frame budget stopped the dispatch"
    );
    let paused = reactor.with(|_, cx| cx.pause(conn));
    paused.expect("the connection is open");
    turn(&mut reactor);
    assert_eq!(script.calls().take_errors, 1);
    assert_eq!(reactor.handler.hangups, [Hangup::Ended]);
    reactor.with(|_, cx| cx.close(conn));
    event(&mut reactor, conn, end);
    assert_eq!(
        script.calls().take_errors,
        1,
        "a closing connection is read to its end, so no query is needed"
    );

    // A failed write has already reported the error, so the error is not queried.
    let script = transport.script();
    script.then_read([bytes(b"\x01a")]);
    script.then_write([WriteResult::Fails(ErrorKind::BrokenPipe)]);
    let conn = open(&mut reactor, script, Framing::length_u8());
    reactor.with(|_, cx| {
        cx.pause(conn).expect("the connection is open");
        let _ = cx.send(conn, b"answer").expect("the queue has space");
    });
    for _ in 0..2 {
        turn(&mut reactor);
    }
    assert_eq!(script.calls().take_errors, 0);
    assert_eq!(reactor.handler.hangups[1..], [Hangup::Reset]);
}

/// The kernel takes each reply at once, so the queue never stays above the high watermark.
fn replies_above_high_watermark_do_not_stop_the_read(transport: Transport) {
    let config = Config {
        write_high_bytes: 4,
        write_low_bytes: 0,
        ..Config::default()
    };
    let mut reactor = transport.reactor_with(config);
    let script = transport.script();
    let input = b"\x05first\x06second\x05third";
    script.then_read([bytes(input)]);
    let conn = open(&mut reactor, script, Framing::length_u8());
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!(
        reactor.handler.frames.len(),
        3,
        "all frames are delivered in one turn"
    );
    assert_eq!((reactor.handler.drains, script.calls().writes), (3, 3));
    assert_eq!(script.calls().written, input);
}

/// A connection with credit is not plain, because the credit is checked after each frame.
fn frames_with_credit_are_not_moved_and_share_a_write(transport: Transport) {
    let mut reactor = transport.reactor();
    let script = transport.script();
    script.then_read([bytes(b"\x01a\x01b\x01c")]);
    let conn = open(&mut reactor, script, Framing::length_u8());
    let granted = reactor.with(|_, cx| cx.grant(conn, 10));
    granted.expect("the connection is open");
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!(reactor.handler.frames, [b"a", b"b", b"c"]);
    assert_eq!(reactor.engine.memory.pool.moved_bytes, 0);
    assert_eq!(script.calls().writes, 1);
}

/// Covers two cases: the framing is replaced in the last frame of a read, or in an earlier frame.
fn reframe_gives_a_codec_a_new_state(transport: Transport) {
    /// A codec whose frames are each one byte longer than the frame before.
    struct Growing;

    impl Codec for Growing {
        type State = usize;

        fn decode(&self, last: &mut usize, bytes: &[u8]) -> Result<Step, FrameError> {
            let len = *last + 1;
            if bytes.len() < len {
                return Ok(Step::Need(len));
            }
            *last = len;
            Ok(Step::Frame {
                frame: 0..len,
                consumed: len,
            })
        }

        fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
            out.put(payload);
            Ok(())
        }
    }

    for reads in [vec![bytes(b"abcc")], vec![bytes(b"a"), bytes(b"bcc")]] {
        let mut reactor = transport.reactor();
        let script = transport.script();
        let conn = open(&mut reactor, script, Framing::custom(Growing));
        reactor.handler.at_frame = Some(Box::new(move |cx| {
            let reframed = cx.reframe(conn, Framing::custom(Growing));
            reframed.expect("the connection is open");
        }));
        for read in reads {
            script.then_read([read]);
            event(&mut reactor, conn, Ready::READABLE);
        }
        assert_eq!(reactor.handler.frames, [&b"a"[..], b"b", b"cc"]);
    }
}

/// The end of the stream completes the header, and the skipped body never arrives.
fn peer_end_after_a_skip_that_paused_waits_for_resume(transport: Transport) {
    let mut reactor = transport.reactor();
    let script = transport.script();
    script.then_read([bytes(b"9;"), ReadResult::End]);
    let header = Framing::delimiters(&[b";", b";;"]);
    let framing = Framing::header_body(header, |_| Ok(9));
    let framing = framing.frame_len_max(5).skip_too_long();
    let conn = open(&mut reactor, script, framing);
    reactor.handler.at_skip = Some(Box::new(move |cx| {
        cx.pause(conn).expect("the connection is open");
    }));
    event(&mut reactor, conn, Ready::READABLE | Ready::ENDED);
    assert!(
        reactor.handler.at_skip.is_none(),
        "on_skipped paused the connection"
    );
    assert_eq!(reactor.handler.half_closes, 0);
    let resumed = reactor.with(|_, cx| cx.resume(conn));
    resumed.expect("the connection is open");
    turn(&mut reactor);
    assert_eq!(reactor.handler.half_closes, 1);
    assert!(matches!(only_close(&reactor).reason, CloseReason::Peer));
}

on_all_transports! {
    each_echoed_frame_is_counted_once,
    close_in_on_skipped_sends_fin_in_the_same_dispatch,
    abort_in_on_skipped_discards_and_counts_output,
    reframe_in_on_skipped_applies_in_the_same_dispatch,
    queue_refilled_by_on_drained_after_a_skip_drains_again,
    recording_started_in_the_last_frame_includes_its_write,
    stats_in_callbacks_include_the_current_dispatch,
    skipped_frames_use_the_budget_and_are_not_counted,
    batch_respects_write_queue_bytes_max,
    send_to_the_last_active_connection_is_flushed,
    frame_without_a_reply_costs_no_write,
    hangup_of_a_paused_connection_is_reported_once,
    socket_error_is_queried_only_while_not_reading,
    replies_above_high_watermark_do_not_stop_the_read,
    frames_with_credit_are_not_moved_and_share_a_write,
    reframe_gives_a_codec_a_new_state,
    peer_end_after_a_skip_that_paused_waits_for_resume;
    not over TLS:
    batch_is_refused_once_the_memory_budget_is_used_up,
}
