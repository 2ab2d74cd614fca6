//! Tests of connections that wait for memory: the order in which they resume, and `on_drained`.

use super::*;

/// Returns a reactor whose memory budget is used up by a connection whose peer reads nothing.
fn with_full_memory(transport: Transport) -> (Reactor<Recorder>, ConnId) {
    let config = Config {
        write_low_bytes: 4096,
        memory_bytes_max: 4096,
        ..Config::default()
    };
    let mut reactor = transport.reactor_with(config);
    let script = transport.script();
    script.then_write([WriteResult::Fails(ErrorKind::WouldBlock)]);
    let slow = open(&mut reactor, script, Framing::raw());
    reactor
        .with(|_, cx| cx.send(slow, &[0; 4000]).map(drop))
        .expect("the queue has space");
    turn(&mut reactor);
    assert_eq!(reactor.stats().held_bytes, 4096);
    (reactor, slow)
}

/// Sends a payload, and checks that it is refused because the memory budget is used up.
fn refuse(reactor: &mut Reactor<Recorder>, conn: ConnId) {
    reactor.with(|_, cx| {
        let refused = cx.send(conn, b"more");
        assert!(matches!(refused, Err(SendError::Full)), "{refused:?}");
    });
}

/// An event has reported the input of the first connection, so this connection is read once memory
/// is free. No event came for the second connection, so the second connection is not read.
fn connection_paused_for_memory_is_read_once_memory_is_free(transport: Transport) {
    let (mut reactor, slow) = with_full_memory(transport);
    let [read, refused] = [transport.script(), transport.script()];
    let conn = open(&mut reactor, read, Framing::raw());
    let other = open(&mut reactor, refused, Framing::raw());
    read.then_read([bytes(b"question")]);
    event(&mut reactor, conn, Ready::READABLE);
    refuse(&mut reactor, other);
    assert_eq!(read.calls().reads, 0);
    reactor.with(|_, cx| cx.abort(slow));
    for _ in 0..2 {
        turn(&mut reactor);
    }
    assert_eq!(reactor.handler.frames, [b"question"]);
    assert_eq!((reactor.handler.drains, refused.calls().reads), (1, 0));
}

fn waiter_that_uses_up_the_memory_keeps_the_next_waiting(transport: Transport) {
    let (mut reactor, slow) = with_full_memory(transport);
    let script = transport.script();
    script.then_write([WriteResult::Fails(ErrorKind::WouldBlock)]);
    let first = open(&mut reactor, script, Framing::raw());
    let next = open(&mut reactor, transport.script(), Framing::raw());
    refuse(&mut reactor, first);
    refuse(&mut reactor, next);
    reactor.handler.at_drained = Some(Box::new(move |cx| {
        let sent = cx.send(first, &[0; 4000]);
        assert!(matches!(sent, Ok(Sent::Queued)), "{sent:?}");
    }));
    reactor.with(|_, cx| cx.abort(slow));
    for _ in 0..3 {
        turn(&mut reactor);
        assert_eq!(
            reactor.handler.drains, 1,
            "only the first connection is notified"
        );
    }
    event(&mut reactor, first, Ready::WRITABLE);
    assert_eq!(reactor.handler.drains, 2);
}

fn memory_waiter_above_high_watermark_is_notified_at_low(transport: Transport) {
    let config = Config {
        write_low_bytes: 0,
        write_high_bytes: 1000,
        memory_bytes_max: 8192,
        ..Config::default()
    };
    let mut reactor = transport.reactor_with(config);
    let [aborted, above] = [(); 2].map(|()| {
        let script = transport.script();
        script.then_write([WriteResult::Fails(ErrorKind::WouldBlock)]);
        let conn = open(&mut reactor, script, Framing::raw());
        let sent = reactor.with(|_, cx| cx.send(conn, &[0; 4000]).map(drop));
        sent.expect("the queue has space");
        turn(&mut reactor);
        conn
    });
    refuse(&mut reactor, above);
    reactor.with(|_, cx| cx.abort(aborted));
    turn(&mut reactor);
    assert_eq!(
        reactor.stats().held_bytes,
        4096,
        "the memory of the aborted connection is free"
    );
    assert_eq!(reactor.handler.drains, 0);
    event(&mut reactor, above, Ready::WRITABLE);
    turn(&mut reactor);
    assert_eq!(reactor.handler.drains, 1);
}

fn memory_waiter_that_ends_its_output_is_not_notified(transport: Transport) {
    for closes in [false, true] {
        let (mut reactor, slow) = with_full_memory(transport);
        let conn = open(&mut reactor, transport.script(), Framing::raw());
        refuse(&mut reactor, conn);
        reactor.with(|_, cx| {
            match closes {
                true => cx.close(conn),
                false => cx.half_close(conn).expect("the connection is open"),
            }
            cx.abort(slow);
        });
        for _ in 0..3 {
            turn(&mut reactor);
        }
        assert_eq!(reactor.handler.drains, 0);
    }
}

/// The handler is not notified if it half-closed the connection before the open.
fn send_refused_while_connecting_is_notified_after_open(transport: Transport) {
    for (ends, drains) in [(false, 1), (true, 0)] {
        let (mut reactor, slow) = with_full_memory(transport);
        let addr = World::current().listen(any()).local_addr();
        let conn = reactor.connect(addr, Framing::raw(), ());
        refuse(&mut reactor, conn);
        if ends {
            let ended = reactor.with(|_, cx| cx.half_close(conn));
            ended.expect("the connection is not closed");
        }
        reactor.with(|_, cx| cx.abort(slow));
        // Only phases 7 and 8 of a turn run here, so the connect does not complete.
        reactor.reap_next();
        reactor.resume_paused_for_memory();
        assert_eq!(reactor.handler.drains, 0);
        while reactor.stats().connected == 0 {
            reactor
                .turn(Some(Duration::from_secs(60)))
                .expect("the poll succeeds");
        }
        turn(&mut reactor);
        assert_eq!(reactor.handler.drains, drains);
    }
}

/// The frames arrived while memory was available, so they are delivered. Each dispatch delivers two
/// frames. Only the replies of the first dispatch are accepted.
fn send_fails_in_the_dispatch_while_memory_is_used_up(transport: Transport) {
    let config = Config {
        frame_budget: 2,
        write_low_bytes: 4096,
        memory_bytes_max: 64 * 1024,
        ..Config::default()
    };
    let mut reactor = transport.reactor_with(config);
    let [slow, quick] = [(); 2].map(|()| transport.script());
    slow.then_write([WriteResult::Fails(ErrorKind::WouldBlock)]);
    let slow = open(&mut reactor, slow, Framing::raw());
    let conn = open(&mut reactor, quick, Framing::length_u32());
    let frames = [b'a', b'b', b'c', b'd', b'e', b'f'].map(|byte| [0, 0, 0, 1, byte]);
    quick.then_read([bytes(&frames.concat())]);
    event(&mut reactor, conn, Ready::READABLE);
    let sent = reactor.with(|_, cx| cx.send(slow, &[0; 64 * 1024]).map(drop));
    sent.expect("the queue has space");
    for _ in 0..3 {
        turn(&mut reactor);
    }
    assert_eq!(reactor.handler.frames.concat(), b"abcdef");
    assert_eq!(quick.calls().written, frames[..2].concat());
    assert_eq!(reactor.handler.drains, 0);
    reactor.with(|_, cx| cx.abort(slow));
    turn(&mut reactor);
    assert_eq!(reactor.handler.drains, 1, "sending may continue");
}

/// Runs only over the plain transport, because datagram sockets have no filter.
#[test]
fn queued_datagrams_count_in_the_memory_budget() {
    let (mut reactor, slow) = with_full_memory(Transport::Plain);
    let to = SocketAddr::from(([127, 0, 0, 1], 9));
    let udp = reactor.bind_udp("127.0.0.1:0").expect("port 0 is free");
    let send = |reactor: &mut Reactor<Recorder>| reactor.with(|_, cx| cx.send_to(udp, to, b"word"));
    assert!(matches!(send(&mut reactor), Err(SendError::Full)));
    assert_eq!(reactor.stats().datagrams_dropped, 1);
    reactor.with(|_, cx| cx.abort(slow));
    turn(&mut reactor);
    assert_eq!(reactor.stats().held_bytes, 0);
    send(&mut reactor).expect("the queue has space");
    assert!(reactor.stats().held_bytes > 0);
    turn(&mut reactor);
    let stats = reactor.stats();
    assert_eq!((stats.datagrams_out, stats.held_bytes), (1, 0));
}

/// A closed connection discards its input, which needs no memory. The event that reports the input
/// was handled before the close, so no further event comes.
fn closed_connection_waiting_for_memory_is_read_to_its_end(transport: Transport) {
    let (mut reactor, _) = with_full_memory(transport);
    let script = transport.script();
    script.then_read([bytes(b"unread"), ReadResult::End]);
    let conn = open(&mut reactor, script, Framing::raw());
    event(&mut reactor, conn, Ready::READABLE | Ready::ENDED);
    assert_eq!(script.calls().reads, 0);
    reactor.with(|_, cx| cx.close(conn));
    for _ in 0..3 {
        turn(&mut reactor);
    }
    assert!(matches!(only_close(&reactor).reason, CloseReason::Local));
    assert!(reactor.handler.frames.is_empty());
}

/// The only connection that waits for memory is aborted before the deadline passes.
fn memory_deadline_without_waiters_aborts_no_connection(transport: Transport) {
    let (mut reactor, slow) = with_full_memory(transport);
    let script = transport.script();
    script.then_read([bytes(b"unread")]);
    let conn = open(&mut reactor, script, Framing::raw());
    event(&mut reactor, conn, Ready::READABLE);
    reactor.with(|_, cx| cx.abort(conn));
    turn(&mut reactor);
    only_close(&reactor);
    reactor.engine.memory_deadline_passed();
    turn(&mut reactor);
    only_close(&reactor);
    assert!(!state(&reactor, slow).is_dead());
}

on_all_transports! {
    closed_connection_waiting_for_memory_is_read_to_its_end,
    memory_deadline_without_waiters_aborts_no_connection,
    send_fails_in_the_dispatch_while_memory_is_used_up,
    connection_paused_for_memory_is_read_once_memory_is_free,
    waiter_that_uses_up_the_memory_keeps_the_next_waiting,
    memory_waiter_that_ends_its_output_is_not_notified,
    send_refused_while_connecting_is_notified_after_open;
    not over TLS:
    memory_waiter_above_high_watermark_is_notified_at_low,
}
