//! Who goes on when there is memory again, and who is told of it.

use super::*;

/// Has output refused for want of memory.
fn refuse(reactor: &mut Reactor<Recorder>, conn: ConnId) {
    reactor.with(|_, cx| {
        let refused = cx.send(conn, b"more");
        assert!(matches!(refused, Err(SendError::Full)), "{refused:?}");
    });
}

/// Its event has come already, and none has for the one that was refused output.
#[test]
fn who_was_not_read_for_want_of_memory_is_read_when_there_is_some() {
    let (mut reactor, slow) = with_full_memory();
    let [read, refused] = [Script::new(), Script::new()];
    let conn = open(&mut reactor, read, Framing::raw());
    let other = open(&mut reactor, refused, Framing::raw());
    read.then_read([bytes(b"question")]);
    event(&mut reactor, conn, Ready::READABLE);
    refuse(&mut reactor, other);
    assert_eq!(read.seen().reads, 0);
    reactor.with(|_, cx| cx.abort(slow));
    for _ in 0..2 {
        turn(&mut reactor);
    }
    assert_eq!(reactor.handler.frames, [b"question"]);
    assert_eq!((reactor.handler.drains, refused.seen().reads), (1, 0));
}

#[test]
fn who_uses_up_the_room_that_it_is_told_of_leaves_the_next_one_waiting() {
    let (mut reactor, slow) = with_full_memory();
    let script = Script::new();
    script.then_write([Writing::Fails(ErrorKind::WouldBlock)]);
    let first = open(&mut reactor, script, Framing::raw());
    let next = open(&mut reactor, Script::new(), Framing::raw());
    refuse(&mut reactor, first);
    refuse(&mut reactor, next);
    reactor.handler.at_drained = Some(Box::new(move |cx| {
        let sent = cx.send(first, &[0; 4000]);
        assert!(matches!(sent, Ok(Sent::Queued)), "{sent:?}");
    }));
    reactor.with(|_, cx| cx.abort(slow));
    for _ in 0..3 {
        turn(&mut reactor);
        assert_eq!(reactor.handler.drains, 1, "the first one");
    }
    event(&mut reactor, first, Ready::WRITABLE);
    assert_eq!(reactor.handler.drains, 2);
}

#[test]
fn who_is_above_its_high_mark_too_is_told_when_it_has_drained_and_only_then() {
    let config = Config {
        write_low_bytes: 0,
        write_high_bytes: 1000,
        memory_bytes_max: 8192,
        ..Config::default()
    };
    let mut reactor = reactor_with(config);
    let [gone, above] = [(); 2].map(|()| {
        let script = Script::new();
        script.then_write([Writing::Fails(ErrorKind::WouldBlock)]);
        let conn = open(&mut reactor, script, Framing::raw());
        let sent = reactor.with(|_, cx| cx.send(conn, &[0; 4000]).map(drop));
        sent.expect("there is room");
        turn(&mut reactor);
        conn
    });
    refuse(&mut reactor, above);
    reactor.with(|_, cx| cx.abort(gone));
    turn(&mut reactor);
    assert_eq!(reactor.stats().held_bytes, 4096, "there is room");
    assert_eq!(reactor.handler.drains, 0);
    event(&mut reactor, above, Ready::WRITABLE);
    turn(&mut reactor);
    assert_eq!(reactor.handler.drains, 1);
}

#[test]
fn who_ends_its_side_while_it_waits_for_room_is_told_of_none() {
    for closes in [false, true] {
        let (mut reactor, slow) = with_full_memory();
        let conn = open(&mut reactor, Script::new(), Framing::raw());
        refuse(&mut reactor, conn);
        reactor.with(|_, cx| {
            match closes {
                true => cx.close(conn),
                false => cx.half_close(conn).expect("it is open"),
            }
            cx.abort(slow);
        });
        for _ in 0..3 {
            turn(&mut reactor);
        }
        assert_eq!(reactor.handler.drains, 0);
    }
}

/// Unless it has ended its side before.
#[test]
fn who_is_refused_before_it_is_open_is_told_of_room_when_it_is() {
    for (ends, drains) in [(false, 1), (true, 0)] {
        let (mut reactor, slow) = with_full_memory();
        let addr = World::current().listen(any()).local_addr();
        let conn = reactor.connect(addr, Framing::raw(), ());
        refuse(&mut reactor, conn);
        if ends {
            let ended = reactor.with(|_, cx| cx.half_close(conn));
            ended.expect("it is not closed");
        }
        reactor.with(|_, cx| cx.abort(slow));
        // As at the end of a turn in which the connect has not come to its end.
        reactor.reap_next();
        reactor.resume_paused_for_memory();
        assert_eq!(reactor.handler.drains, 0);
        while reactor.stats().connected == 0 {
            reactor
                .turn(Some(Duration::from_secs(60)))
                .expect("the poll works");
        }
        turn(&mut reactor);
        assert_eq!(reactor.handler.drains, drains);
    }
}

#[test]
fn a_datagram_takes_memory_until_it_is_sent_and_is_refused_where_there_is_none() {
    let (mut reactor, slow) = with_full_memory();
    let to = SocketAddr::from(([127, 0, 0, 1], 9));
    let udp = reactor.bind_udp("127.0.0.1:0").expect("a free port");
    let send = |reactor: &mut Reactor<Recorder>| reactor.with(|_, cx| cx.send_to(udp, to, b"word"));
    assert!(matches!(send(&mut reactor), Err(SendError::Full)));
    assert_eq!(reactor.stats().datagrams_dropped, 1);
    reactor.with(|_, cx| cx.abort(slow));
    turn(&mut reactor);
    assert_eq!(reactor.stats().held_bytes, 0);
    send(&mut reactor).expect("there is room");
    assert!(reactor.stats().held_bytes > 0);
    turn(&mut reactor);
    let stats = reactor.stats();
    assert_eq!((stats.datagrams_out, stats.held_bytes), (1, 0));
}
