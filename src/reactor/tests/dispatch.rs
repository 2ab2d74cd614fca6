//! The shortest way of a dispatch: one read, its frames, one write. What is counted on it, and what
//! leads off it.

use super::*;
use crate::codec::{Codec, Out, Step};
use crate::cutmap::EventKind;
use crate::engine::EncodePayload;
use crate::error::FrameError;
use crate::memory::Buf;

/// Reads short frames, and skips what has more than three bytes.
fn skipping() -> Framing {
    Framing::length_u8().frame_len_max(3).skip_too_long()
}

/// A read that ends in a frame that is skipped, four bytes before its end. Nothing is left to be
/// decoded, whatever is done about it.
const SKIPPED: &[u8] = b"\x01a\x05x";

/// Has `act` done where a frame is skipped, and nothing read behind it.
fn at_skip(
    reactor: &mut Reactor<Recorder>,
    act: impl FnOnce(&mut Context<'_, Recorder>, ConnId) + 'static,
) -> (Script, ConnId) {
    let script = Script::new();
    script.then_read([bytes(SKIPPED)]);
    let conn = open(reactor, script, skipping());
    reactor.handler.at_skip = Some(Box::new(move |cx| act(cx, conn)));
    event(reactor, conn, Ready::READABLE);
    assert_eq!(reactor.handler.frames, [b"a"]);
    assert!(reactor.handler.at_skip.is_none(), "it was done");
    (script, conn)
}

/// The first ones make the room for those behind them; from then on each is put there without a
/// look at anything.
#[test]
fn every_frame_that_is_echoed_is_counted_once() {
    let mut reactor = reactor();
    let script = Script::new();
    let conn = open(&mut reactor, script, Framing::length_u32());
    for round in 1..=4 {
        script.then_read([bytes(b"\0\0\0\x01a\0\0\0\x01b\0\0\0\x01c")]);
        event(&mut reactor, conn, Ready::READABLE);
        let counted = 3 * round;
        let of_conn = reactor.engine.conn_stats(conn.0).expect("it is open");
        let of_conn = (of_conn.frames_in, of_conn.frames_out);
        assert_eq!(of_conn, (counted, counted), "of the connection");
        let of_all = reactor.stats();
        let of_all = (of_all.frames_in, of_all.frames_out);
        assert_eq!(of_all, (counted, counted), "of the reactor");
    }
    assert_eq!(script.seen().writes, 4, "one a read");
}

#[cfg(not(unstick_general_path))]
#[test]
fn what_is_sent_where_there_is_room_is_put_there_without_asking_the_framing() {
    /// May be copied, and not encoded.
    struct Copied<'a>(&'a [u8]);

    impl EncodePayload for Copied<'_> {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn encode(self, _: &Framing, _: &mut Buf) -> Result<(), FrameError> {
            panic!("the long way");
        }

        fn bytes(&self) -> Option<&[u8]> {
            Some(self.0)
        }
    }

    let mut reactor = reactor();
    let script = Script::new();
    let conn = open(&mut reactor, script, Framing::length_u32());
    script.then_read([bytes(b"\0\0\0\x10make room for it"), bytes(b"\0\0\0\x01a")]);
    event(&mut reactor, conn, Ready::READABLE);
    reactor.handler.at_frame = Some(Box::new(move |cx| {
        for _ in 0..2 {
            let sent = cx.engine.send(conn.0, Copied(b"me"));
            assert_eq!(sent.expect("there is room"), Sent::Queued);
        }
    }));
    event(&mut reactor, conn, Ready::READABLE);
    let written = script.seen().written;
    assert!(written.ends_with(b"it\0\0\0\x02me\0\0\0\x02me"));
}

#[test]
fn a_close_where_a_frame_is_skipped_has_its_fin_sent_by_that_dispatch() {
    let (script, _) = at_skip(&mut reactor(), |cx, conn| cx.close(conn));
    assert_eq!(script.seen().written, b"\x01a", "what was sent before it");
    assert!(script.seen().is_shut_down);
}

#[test]
fn an_abort_where_a_frame_is_skipped_has_nothing_written_and_counts_what_was_sent() {
    let mut reactor = reactor();
    let (script, _) = at_skip(&mut reactor, |cx, conn| cx.abort(conn));
    assert_eq!(script.seen().writes, 0);
    assert_eq!(only_close(&reactor).unsent_bytes, 2);
}

/// Until the new framing is taken over, nobody would hold the peer to its deadlines.
#[test]
fn a_framing_exchanged_where_a_frame_is_skipped_is_taken_over_by_that_dispatch() {
    let mut reactor = reactor();
    let (script, conn) = at_skip(&mut reactor, |cx, conn| {
        cx.reframe(conn, Framing::raw()).expect("it is open");
    });
    assert!(state(&reactor, conn).may_read());
    script.then_read([bytes(b"xxxxas it is")]);
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!(reactor.handler.frames, [&b"a"[..], b"as it is"]);
}

#[test]
fn a_queue_filled_anew_by_on_drained_where_a_frame_is_skipped_drains_again() {
    let config = Config {
        write_high_bytes: 4,
        write_low_bytes: 0,
        ..Config::default()
    };
    let mut reactor = reactor_with(config);
    let script = Script::new();
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
    assert_eq!(script.seen().written, expected);
    assert_eq!(reactor.handler.drains, 2);
    assert!(state(&reactor, conn).may_read());
}

#[test]
fn what_is_observed_from_the_last_frame_of_a_read_on_has_its_write_recorded() {
    for observes_all in [false, true] {
        let mut reactor = reactor();
        let script = Script::new();
        script.then_read([bytes(b"question")]);
        let conn = open(&mut reactor, script, Framing::raw());
        reactor.handler.at_frame = Some(Box::new(move |cx| {
            match observes_all {
                true => cx.record_all(),
                false => cx.record(conn).expect("it is open"),
            }
            let _ = cx.send(conn, b"answer").expect("there is room");
        }));
        event(&mut reactor, conn, Ready::READABLE);
        let recording = reactor.with(|_, cx| cx.take_recording());
        let kinds: Vec<_> = recording.events().iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::Send, EventKind::Write]);
    }
}

#[test]
fn what_a_dispatch_has_counted_so_far_is_seen_by_its_callbacks() {
    let mut reactor = reactor();
    let script = Script::new();
    script.then_read([bytes(b"\x01b"), bytes(SKIPPED)]);
    let conn = open(&mut reactor, script, skipping());
    event(&mut reactor, conn, Ready::READABLE);
    reactor.handler.at_skip = Some(Box::new(move |cx| {
        let of_conn = cx.conn_stats(conn).expect("it is open");
        let of_all = cx.stats();
        assert_eq!((of_conn.frames_in, of_conn.frames_out), (2, 2));
        assert_eq!((of_all.frames_in, of_all.frames_out), (2, 2));
        assert_eq!(of_all.frames_skipped, 1);
    }));
    event(&mut reactor, conn, Ready::READABLE);
    assert!(reactor.handler.at_skip.is_none(), "it was done");
}

/// As they cost a callback each, and no more than a few bytes.
#[test]
fn frames_that_are_skipped_use_up_the_budget_of_a_turn_and_count_as_none() {
    let config = Config {
        frame_budget: 2,
        ..Config::default()
    };
    let mut reactor = reactor_with(config);
    let script = Script::new();
    script.then_read([bytes(&[b"\x04long".repeat(5), b"\x01a".to_vec()].concat())]);
    let conn = open(&mut reactor, script, skipping());
    note(&mut reactor, conn, Ready::READABLE);
    for skipped in [2, 4, 5] {
        turn(&mut reactor);
        assert_eq!(reactor.stats().frames_skipped, skipped);
    }
    let of_conn = reactor.engine.conn_stats(conn.0).expect("it is open");
    assert_eq!((of_conn.frames_in, reactor.stats().frames_in), (1, 1));
}

/// The last byte of the limit is of use, and what is refused is not sent.
#[test]
fn what_is_gathered_is_held_to_the_limit_of_the_queue() {
    let config = Config {
        write_low_bytes: 0,
        write_high_bytes: 2,
        write_queue_bytes_max: 8,
        ..Config::default()
    };
    let mut reactor = reactor_with(config);
    let script = Script::new();
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
    assert_eq!(script.seen().written, b"abcdefgh");
}

/// A long output is refused where memory ran short in the same frame; and whoever was refused is
/// told when there is room again.
#[test]
fn what_is_gathered_above_the_high_mark_is_held_to_the_memory() {
    let config = Config {
        write_low_bytes: 0,
        write_high_bytes: 4,
        memory_bytes_max: 4096,
        ..Config::default()
    };
    let mut reactor = reactor_with(config);
    let slow = Script::new();
    slow.then_write([Writing::Fails(ErrorKind::WouldBlock)]);
    let slow_conn = open(&mut reactor, slow, Framing::raw());
    let script = Script::new();
    script.then_read([bytes(b"question")]);
    let conn = open(&mut reactor, script, Framing::raw());
    reactor.handler.at_frame = Some(Box::new(move |cx| {
        assert!(matches!(cx.send(conn, b"be"), Ok(Sent::Queued)));
        assert!(matches!(
            cx.send(slow_conn, &[0; 4000]),
            Ok(Sent::AboveHigh)
        ));
        assert!(matches!(cx.send(conn, b"tween"), Err(SendError::Full)));
        assert!(matches!(cx.send(conn, b"!"), Ok(Sent::Queued)));
    }));
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!(script.seen().written, b"be!");
    assert_eq!(reactor.handler.drains, 0);
    event(&mut reactor, slow_conn, Ready::WRITABLE);
    turn(&mut reactor);
    assert_eq!(
        reactor.handler.drains, 2,
        "the slow one, and the refused one"
    );
}

/// Its dispatch is over, and nothing about it has changed since.
#[test]
fn what_is_sent_to_the_connection_that_was_served_last_is_queued_and_flushed() {
    for (framing, frame) in [
        (Framing::length_u32(), &b"\0\0\0\x05later"[..]),
        (Framing::line(), b"later\n"),
    ] {
        let mut reactor = reactor();
        let script = Script::new();
        let conn = open(&mut reactor, script, framing);
        for _ in 0..3 {
            script.then_read([bytes(frame)]);
            event(&mut reactor, conn, Ready::READABLE);
        }
        let sent = reactor.with(|_, cx| cx.send(conn, b"later").map(drop));
        sent.expect("there is room");
        assert_eq!(reactor.engine.queued_bytes(conn.0), Ok(frame.len()));
        turn(&mut reactor);
        assert_eq!(script.seen().written, frame.repeat(4));
    }
}

#[test]
fn a_frame_that_is_not_answered_costs_no_write() {
    let mut reactor = reactor();
    let script = Script::new();
    script.then_read([bytes(b"\0\0\0\x01a")]);
    let conn = open(&mut reactor, script, Framing::length_u32());
    reactor.handler.at_frame = Some(Box::new(|_| {}));
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!((script.seen().reads, script.seen().writes), (1, 0));
}

/// Events may tell of it again and again.
#[test]
fn a_peer_that_has_ended_while_nobody_reads_it_is_told_of_once() {
    let mut reactor = reactor();
    let conn = open(&mut reactor, Script::new(), Framing::raw());
    let paused = reactor.with(|_, cx| cx.pause(conn));
    paused.expect("it is open");
    for _ in 0..3 {
        let end = Ready::READABLE | Ready::WRITABLE | Ready::ENDED | Ready::HUNG_UP;
        event(&mut reactor, conn, end);
    }
    assert_eq!(reactor.handler.hangups, [Hangup::Ended]);
}

/// It takes a system call, and the error from the read that would tell of it.
#[test]
fn the_error_of_a_socket_is_asked_for_only_while_nobody_reads_it() {
    let config = Config {
        frame_budget: 1,
        ..Config::default()
    };
    let mut reactor = reactor_with(config);
    let script = Script::new();
    script.then_read([bytes(b"\x01a\x01b\x01c")]);
    let conn = open(&mut reactor, script, Framing::length_u8());
    let end = Ready::READABLE | Ready::WRITABLE | Ready::ENDED | Ready::HUNG_UP;
    event(&mut reactor, conn, end);
    assert_eq!(script.seen().error_asks, 0, "the budget has stopped it");
    let paused = reactor.with(|_, cx| cx.pause(conn));
    paused.expect("it is open");
    turn(&mut reactor);
    assert_eq!(script.seen().error_asks, 1);
    assert_eq!(reactor.handler.hangups, [Hangup::Ended]);
    reactor.with(|_, cx| cx.close(conn));
    event(&mut reactor, conn, end);
    assert_eq!(script.seen().error_asks, 1, "it is read to its end");

    // A write has told of it before.
    let script = Script::new();
    script.then_read([bytes(b"\x01a")]);
    script.then_write([Writing::Fails(ErrorKind::BrokenPipe)]);
    let conn = open(&mut reactor, script, Framing::length_u8());
    reactor.with(|_, cx| {
        cx.pause(conn).expect("it is open");
        let _ = cx.send(conn, b"answer").expect("there is room");
    });
    for _ in 0..2 {
        turn(&mut reactor);
    }
    assert_eq!(script.seen().error_asks, 0);
    assert_eq!(reactor.handler.hangups[1..], [Hangup::Reset]);
}

/// The kernel takes them as fast as they are sent.
#[test]
fn answers_above_the_high_mark_do_not_stop_a_read_whose_output_is_written() {
    let config = Config {
        write_high_bytes: 4,
        write_low_bytes: 0,
        ..Config::default()
    };
    let mut reactor = reactor_with(config);
    let script = Script::new();
    let input = b"\x05first\x06second\x05third";
    script.then_read([bytes(input)]);
    let conn = open(&mut reactor, script, Framing::length_u8());
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!(reactor.handler.frames.len(), 3, "in one turn");
    assert_eq!((reactor.handler.drains, script.seen().writes), (3, 3));
    assert_eq!(script.seen().written, input);
}

/// Each is followed by a look at the connection, and by nothing else.
#[test]
fn frames_granted_by_number_are_not_moved_and_are_answered_by_one_write() {
    let mut reactor = reactor();
    let script = Script::new();
    script.then_read([bytes(b"\x01a\x01b\x01c")]);
    let conn = open(&mut reactor, script, Framing::length_u8());
    let granted = reactor.with(|_, cx| cx.grant(conn, 10));
    granted.expect("it is open");
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!(reactor.handler.frames, [b"a", b"b", b"c"]);
    assert_eq!(reactor.engine.memory.pool.moved_bytes, 0);
    assert_eq!(script.seen().writes, 1);
}

/// Within a read, and behind the last of its frames.
#[test]
fn a_codec_given_in_a_callback_begins_with_a_state_of_its_own() {
    /// Each frame is one byte longer than the one before it.
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
        let mut reactor = reactor();
        let script = Script::new();
        let conn = open(&mut reactor, script, Framing::custom(Growing));
        reactor.handler.at_frame = Some(Box::new(move |cx| {
            let given = cx.reframe(conn, Framing::custom(Growing));
            given.expect("it is open");
        }));
        for read in reads {
            script.then_read([read]);
            event(&mut reactor, conn, Ready::READABLE);
        }
        assert_eq!(reactor.handler.frames, [&b"a"[..], b"b", b"cc"]);
    }
}

/// The stream's end gives the header its end, and the body that is skipped never comes.
#[test]
fn a_peers_end_is_told_of_once_it_is_wanted_where_its_last_frame_is_skipped() {
    let mut reactor = reactor();
    let script = Script::new();
    script.then_read([bytes(b"9;"), Reading::End]);
    let header = Framing::delimiters(&[b";", b";;"]);
    let framing = Framing::header_body(header, |_| Ok(9));
    let framing = framing.frame_len_max(5).skip_too_long();
    let conn = open(&mut reactor, script, framing);
    reactor.handler.at_skip = Some(Box::new(move |cx| {
        cx.pause(conn).expect("it is open");
    }));
    event(&mut reactor, conn, Ready::READABLE | Ready::ENDED);
    assert!(reactor.handler.at_skip.is_none(), "it is paused");
    assert_eq!(reactor.handler.half_closes, 0);
    let resumed = reactor.with(|_, cx| cx.resume(conn));
    resumed.expect("it is open");
    turn(&mut reactor);
    assert_eq!(reactor.handler.half_closes, 1);
    assert!(matches!(only_close(&reactor).reason, CloseReason::Peer));
}
