//! Tests of short, blocked and failed writes.

use super::*;

fn write_of_zero_bytes_is_an_error_and_closes_once(transport: Transport) {
    // The write of zero bytes is the first write, or follows a short write.
    for (write_results, sent) in [(vec![0], 0), (vec![3, 0], 3)] {
        let mut reactor = transport.reactor();
        let script = transport.script();
        script.then_read([bytes(b"question")]);
        script.then_write(write_results.iter().map(|len| WriteResult::Takes(*len)));
        let conn = open(&mut reactor, script, Framing::raw());
        event(&mut reactor, conn, Ready::READABLE);
        for _ in 0..3 {
            turn(&mut reactor);
        }
        let closed = only_close(&reactor);
        assert_io(closed, ErrorKind::WriteZero);
        // A filter accepts only whole records.
        let sent = if transport.is_plain() { sent } else { 0 };
        assert_eq!(
            (closed.stats.written_bytes, closed.unsent_bytes),
            (sent, 8 - sent)
        );
        assert_eq!(
            script.calls().writes,
            write_results.len(),
            "the write is not repeated"
        );
        assert!(reactor.engine.entries.is_empty());
    }
}

/// Runs only over the plain transport, because the test counts the events and writes.
#[test]
fn short_writes_neither_lose_nor_repeat_bytes() {
    let expected: Vec<u8> = (0..100_u8).collect();
    for taken in [1, 2, 3, 7, 64, 99, 100] {
        let mut reactor = reactor();
        let script = Script::new();
        script.then_read([bytes(&expected)]);
        let conn = open(&mut reactor, script, Framing::raw());
        for _ in 0..100_usize.div_ceil(taken) {
            script.then_write([
                WriteResult::Fails(ErrorKind::Interrupted),
                WriteResult::Takes(taken),
                WriteResult::Fails(ErrorKind::Interrupted),
                WriteResult::Fails(ErrorKind::Interrupted),
                WriteResult::Fails(ErrorKind::WouldBlock),
            ]);
        }
        event(&mut reactor, conn, Ready::READABLE);
        let mut events = 1;
        while script.calls().written.len() < 100 {
            let written = script.calls().written.len();
            assert!(!state(&reactor, conn).is_writable());
            turn(&mut reactor);
            let calls = script.calls();
            assert_eq!(calls.written.len(), written, "no write without an event");
            event(&mut reactor, conn, Ready::WRITABLE);
            events += 1;
            assert!(
                script.calls().written.len() > written,
                "each event continues the output"
            );
        }
        assert_eq!(script.calls().written, expected);
        assert_eq!(events, 100_usize.div_ceil(taken));
        assert_eq!(reactor.stats().written_bytes, 100);
    }
}

/// A short write alone causes no event, so writing continues until `WouldBlock`.
///
/// Runs only over the plain transport, because the test counts the writes.
#[test]
fn short_write_is_continued_at_once() {
    let mut reactor = reactor();
    let script = Script::new();
    script.then_read([bytes(&[7; 100])]);
    script.then_write([10, 20, 30].map(WriteResult::Takes));
    let conn = open(&mut reactor, script, Framing::raw());
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!(
        (script.calls().writes, script.calls().written.len()),
        (4, 100)
    );
    assert!(state(&reactor, conn).is_writable());
}

/// No bytes are left to decode after the frame. The dispatch must still write the output before it
/// sends the FIN.
fn half_close_in_the_last_frame_sends_fin_at_once(transport: Transport) {
    let mut reactor = transport.reactor();
    let script = transport.script();
    script.then_read([bytes(b"question")]);
    let conn = open(&mut reactor, script, Framing::raw());
    reactor.handler.at_frame = Some(Box::new(move |cx| {
        let _ = cx
            .send(conn, b"answer")
            .expect("the write queue is not full");
        cx.half_close(conn).expect("the connection is open");
    }));
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!(script.calls().written, b"answer");
    assert!(script.calls().is_shut_down);
}

/// After `set_limits`, output is queued instead of batched. The batch must be written first.
fn set_limits_between_two_sends_keeps_their_order(transport: Transport) {
    for taken in [1, 6, 12] {
        let mut reactor = transport.reactor();
        let script = transport.script();
        script.then_read([bytes(b"question")]);
        script.then_write([
            WriteResult::Takes(taken),
            WriteResult::Fails(ErrorKind::WouldBlock),
        ]);
        let conn = open(&mut reactor, script, Framing::raw());
        reactor.handler.at_frame = Some(Box::new(move |cx| {
            let _ = cx
                .send(conn, b"first ")
                .expect("the write queue is not full");
            let limits = cx.limits(conn).expect("the connection is open");
            cx.set_limits(conn, limits).expect("the limits are valid");
            let _ = cx
                .send(conn, b"second")
                .expect("the write queue is not full");
            assert_eq!(cx.queued_bytes(conn), Ok(12));
        }));
        event(&mut reactor, conn, Ready::READABLE);
        event(&mut reactor, conn, Ready::WRITABLE);
        let written = script.calls().written;
        assert_eq!(
            written, b"first second",
            "the first write takes {taken} bytes"
        );
    }
}

/// The earlier output is in the batch, and the later output is in the queue. The limits count both.
fn own_limits_count_earlier_output_of_the_same_frame(transport: Transport) {
    let mut reactor = transport.reactor();
    let script = transport.script();
    script.then_read([bytes(b"question")]);
    let conn = open(&mut reactor, script, Framing::raw());
    reactor.handler.at_frame = Some(Box::new(move |cx| {
        let _ = cx
            .send(conn, &[1; 60])
            .expect("the write queue is not full");
        let mut limits = cx.limits(conn).expect("the connection is open");
        (limits.write_low_bytes, limits.write_high_bytes) = (10, 50);
        limits.write_queue_bytes_max = 100;
        cx.set_limits(conn, limits).expect("the limits are valid");
        assert!(matches!(cx.send(conn, &[2; 50]), Err(SendError::Full)));
        assert!(matches!(cx.send(conn, &[3; 40]), Ok(Sent::AboveHigh)));
    }));
    event(&mut reactor, conn, Ready::READABLE);
    let expected = [[1; 60].as_slice(), &[3; 40]].concat();
    assert_eq!(script.calls().written, expected);
}

fn failed_write_still_delivers_input_up_to_its_end(transport: Transport) {
    let mut reactor = transport.reactor();
    let script = transport.script();
    script.then_read([bytes(b"\x01a")]);
    script.then_write([WriteResult::Fails(ErrorKind::BrokenPipe)]);
    let conn = open(&mut reactor, script, Framing::length_u8());
    // The first read is short, so the socket counts as empty. The write of the reply fails.
    event(&mut reactor, conn, Ready::READABLE);
    script.then_read([bytes(b"\x01b\x01"), bytes(b"c"), ReadResult::End]);
    for _ in 0..3 {
        turn(&mut reactor);
    }
    assert_eq!(reactor.handler.frames, [b"a", b"b", b"c"]);
    assert_eq!(
        reactor.handler.half_closes, 0,
        "on_half_close is skipped: no reply could be sent"
    );
    let closed = only_close(&reactor);
    assert_io(closed, ErrorKind::BrokenPipe);
    assert_eq!(
        (closed.unsent_bytes, script.calls().writes),
        (2, 1),
        "the later replies are refused"
    );
}

fn failed_write_to_a_silent_peer_closes_after_its_input(transport: Transport) {
    let mut reactor = transport.reactor();
    let script = transport.script();
    script.then_read([bytes(b"\x01a")]);
    script.then_write([WriteResult::Fails(ErrorKind::BrokenPipe)]);
    let conn = open(&mut reactor, script, Framing::length_u8());
    event(&mut reactor, conn, Ready::READABLE);
    script.then_read([bytes(b"\x01b\x01")]);
    for _ in 0..3 {
        turn(&mut reactor);
    }
    assert_eq!(reactor.handler.frames, [b"a", b"b"]);
    let closed = only_close(&reactor);
    assert_io(closed, ErrorKind::BrokenPipe);
    assert_eq!((closed.unsent_bytes, closed.undecoded_bytes), (2, 1));
}

on_all_transports! {
    write_of_zero_bytes_is_an_error_and_closes_once,
    half_close_in_the_last_frame_sends_fin_at_once,
    set_limits_between_two_sends_keeps_their_order,
    own_limits_count_earlier_output_of_the_same_frame,
    failed_write_still_delivers_input_up_to_its_end,
    failed_write_to_a_silent_peer_closes_after_its_input,
}
