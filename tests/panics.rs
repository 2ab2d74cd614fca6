//! A handler that panics: the panic leaves the turn, the reactor stays whole.

mod common;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::{Event, Probe, deposit, drive, frame, listening, open};
use unstick::{CloseReason, Codec, Config, FrameError, Framing, Origin, Out, Reactor, Step};

/// Echoes, and panics in the first callback that `is_chosen`.
fn fragile(is_chosen: fn(&Event) -> bool) -> Probe {
    let mut fuse = true;
    Probe::new(move |cx, event| {
        if let Event::Frame(conn, frame) = event {
            let _ = cx.send(*conn, frame);
        }
        if fuse && is_chosen(event) {
            fuse = false;
            panic!("the handler's own fault");
        }
    })
}

/// Turns until the panic has come out of one of them.
fn turn_into_panic(reactor: &mut Reactor<Probe>) {
    let turns = AssertUnwindSafe(|| drive(reactor, |_| false));
    let panic = catch_unwind(turns).expect_err("the handler panics");
    assert_eq!(panic.downcast_ref(), Some(&"the handler's own fault"));
}

fn a_panic_closes_its_connection_and_no_other(is_chosen: fn(&Event) -> bool) {
    let (mut reactor, addr, client) = panicked(is_chosen);
    is_told_of(&mut reactor);
    goes_on(reactor, addr);
    drop(client);
}

/// A reactor whose handler has panicked about two frames and their end.
fn panicked(is_chosen: fn(&Event) -> bool) -> (Reactor<Probe>, SocketAddr, TcpStream) {
    let (mut reactor, addr) =
        listening(fragile(is_chosen), Config::default(), Framing::length_u32());
    let mut client = common::client(addr);
    client
        .write_all(&[frame("u32", b"one"), frame("u32", b"two")].concat())
        .expect("it is read");
    client
        .shutdown(std::net::Shutdown::Write)
        .expect("the client ends");
    turn_into_panic(&mut reactor);
    (reactor, addr, client)
}

/// The connection that a callback panicked about ends, for that reason.
fn is_told_of(reactor: &mut Reactor<Probe>) {
    drive(reactor, |reactor| !reactor.handler().closes().is_empty());
    let closes = reactor.handler().closes();
    let reasons: Vec<_> = closes.iter().map(|(_, closed)| &closed.reason).collect();
    assert!(
        matches!(reasons[..], [CloseReason::HandlerPanicked]),
        "{reasons:?}"
    );
}

/// A fresh connection is served, in the same slots and buffers, and everything ends as it does
/// elsewhere: each connection once, and no memory is left.
fn goes_on(mut reactor: Reactor<Probe>, addr: SocketAddr) {
    let server = std::thread::spawn(move || {
        let mut client = common::client(addr);
        let echoed = common::round_trip(&mut client, b"three");
        assert_eq!(echoed, b"three");
        let mut rest = Vec::new();
        client
            .shutdown(std::net::Shutdown::Write)
            .expect("the client ends");
        client.read_to_end(&mut rest).expect("the server ends too");
        assert_eq!(rest, b"");
    });
    drive(&mut reactor, |_| server.is_finished());
    server.join().expect("the fresh connection was served");
    // Its deadline would hide what is never reaped.
    reactor.with(|_, cx| cx.shutdown(2 * common::DEADLINE));
    drive(&mut reactor, Reactor::is_shut_down);
    let stats = reactor.stats();
    assert_eq!((stats.connections, stats.held_bytes), (0, 0));
    let closed: HashSet<_> = reactor
        .handler()
        .closes()
        .iter()
        .map(|close| close.0)
        .collect();
    assert_eq!(closed.len(), reactor.handler().closes().len());
}

#[test]
fn a_panic_in_on_open_leaves_the_reactor_whole() {
    a_panic_closes_its_connection_and_no_other(|event| matches!(event, Event::Open(..)));
}

#[test]
fn a_panic_in_on_frame_leaves_the_reactor_whole() {
    a_panic_closes_its_connection_and_no_other(|event| matches!(event, Event::Frame(..)));
}

#[test]
fn a_panic_in_on_half_close_leaves_the_reactor_whole() {
    a_panic_closes_its_connection_and_no_other(|event| matches!(event, Event::HalfClose(_)));
}

#[test]
fn a_panic_in_on_close_leaves_the_reactor_whole() {
    let (reactor, addr, client) = panicked(|event| matches!(event, Event::Close(..)));
    goes_on(reactor, addr);
    drop(client);
}

#[test]
fn a_panic_in_on_drained_leaves_the_reactor_whole() {
    let mut config = Config::default();
    (config.write_high_bytes, config.write_low_bytes) = (4, 2);
    let chosen = |event: &Event| matches!(event, Event::Drained(_));
    let (mut reactor, addr) = listening(fragile(chosen), config, Framing::length_u32());
    let mut client = common::client(addr);
    client.write_all(&frame("u32", b"one")).expect("it is read");
    turn_into_panic(&mut reactor);
    is_told_of(&mut reactor);
    goes_on(reactor, addr);
}

#[test]
fn a_panic_in_on_skipped_leaves_the_reactor_whole() {
    let framing = Framing::length_u32().frame_len_max(10).skip_too_long();
    let chosen = |event: &Event| matches!(event, Event::Skipped(..));
    let (mut reactor, addr) = listening(fragile(chosen), Config::default(), framing);
    let mut client = common::client(addr);
    client
        .write_all(&frame("u32", &[7; 11]))
        .expect("it is read");
    turn_into_panic(&mut reactor);
    is_told_of(&mut reactor);
    goes_on(reactor, addr);
}

#[test]
fn a_panic_in_on_hangup_leaves_the_reactor_whole() {
    let chosen = |event: &Event| matches!(event, Event::Hangup(..));
    let (mut reactor, addr) = listening(fragile(chosen), Config::default(), Framing::length_u32());
    let (mut client, conn) = open(&mut reactor, addr);
    reactor.with(|_, cx| cx.pause(conn)).expect("it is open");
    deposit(&mut reactor, &mut client, conn, b"unread");
    common::reset(client);
    turn_into_panic(&mut reactor);
    is_told_of(&mut reactor);
    goes_on(reactor, addr);
}

#[test]
fn a_panic_about_a_connection_that_is_connected_or_adopted_leaves_the_reactor_whole() {
    for origin in [Origin::Connected, Origin::Adopted] {
        let chosen: fn(&Event) -> bool = match origin {
            Origin::Connected => |event| matches!(event, Event::Open(_, Origin::Connected)),
            _ => |event| matches!(event, Event::Open(_, Origin::Adopted)),
        };
        let (mut reactor, addr) =
            listening(fragile(chosen), Config::default(), Framing::length_u32());
        let peer = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let peer_addr = peer.local_addr().expect("it is bound");
        if origin == Origin::Connected {
            reactor.connect(peer_addr, Framing::length_u32(), ());
        } else {
            let stream = TcpStream::connect(peer_addr).expect("it listens");
            reactor.with(|_, cx| cx.adopt_stream(stream, Framing::length_u32(), ()));
        }
        turn_into_panic(&mut reactor);
        is_told_of(&mut reactor);
        goes_on(reactor, addr);
    }
}

/// Who waits in the backlog behind the one whose callback panicked gets no event of its own.
#[test]
fn a_panic_in_on_refused_or_on_open_does_not_leave_the_backlog_waiting() {
    for connections_max in [0, 100] {
        let mut config = Config::default();
        config.connections_max = connections_max;
        let chosen = |event: &Event| matches!(event, Event::Refused(..) | Event::Open(..));
        let (mut reactor, addr) = listening(fragile(chosen), config, Framing::length_u32());
        let clients = [0; 5].map(|_| common::client(addr));
        turn_into_panic(&mut reactor);
        drive(&mut reactor, |reactor| {
            let stats = reactor.stats();
            stats.accepted + stats.refused == clients.len() as u64
        });
    }
}

#[test]
fn a_panic_in_a_timer_a_closure_or_a_refused_send_costs_no_other_one() {
    let chosen = |event: &Event| matches!(event, Event::Timer(..));
    let (mut reactor, addr) = listening(fragile(chosen), Config::default(), Framing::length_u32());
    reactor.with(|_, cx| [1, 2].map(|key| cx.set_timer(Duration::ZERO, key)));
    turn_into_panic(&mut reactor);
    drive(&mut reactor, |reactor| {
        reactor
            .handler()
            .count(|event| matches!(event, Event::Timer(_, 2)))
            == 1
    });

    let remote = reactor.remote();
    let posted = remote.post(|_: &mut Probe, _: &mut _| panic!("the handler's own fault"));
    posted.expect("there is room");
    let posted = remote.post(|probe: &mut Probe, _: &mut _| probe.keep_half_closed = true);
    posted.expect("there is room");
    turn_into_panic(&mut reactor);
    drive(&mut reactor, |reactor| reactor.handler().keep_half_closed);
    reactor.handler_mut().keep_half_closed = false;

    let chosen = |event: &Event| matches!(event, Event::SendRefused(_, data) if data == b"one");
    *reactor.handler_mut() = fragile(chosen);
    let (client, conn) = open(&mut reactor, addr);
    drop(client);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    remote.send(conn, *b"one").expect("there is room");
    remote.send(conn, *b"two").expect("there is room");
    turn_into_panic(&mut reactor);
    drive(&mut reactor, |reactor| {
        reactor
            .handler()
            .count(|event| matches!(event, Event::SendRefused(..)))
            == 1
    });
    goes_on(reactor, addr);
}

/// One that is tried again would panic for ever.
#[test]
fn a_panic_in_the_codec_of_a_posted_send_costs_no_other_one() {
    struct Fragile;

    impl Codec for Fragile {
        type State = ();

        fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
            Ok(Step::Frame {
                frame: 0..bytes.len(),
                consumed: bytes.len(),
            })
        }

        fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
            if payload == b"bad" {
                panic!("the handler's own fault");
            }
            out.put(payload);
            Ok(())
        }
    }

    let framing = Framing::custom(Fragile);
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
    let (mut client, conn) = open(&mut reactor, addr);
    let remote = reactor.remote();
    remote.send(conn, *b"bad").expect("there is room");
    remote.send(conn, *b"good").expect("there is room");
    turn_into_panic(&mut reactor);
    drive(&mut reactor, |reactor| reactor.stats().frames_out == 1);
    common::idle(&mut reactor);
    let mut bytes = [0; 4];
    client.read_exact(&mut bytes).expect("it was sent");
    assert_eq!(&bytes, b"good");
}

/// Of a payload that is written in place, nothing is sent where the writing panics.
#[test]
fn a_panic_while_a_payload_is_written_leaves_the_output_of_its_connection_whole() {
    let (mut reactor, addr) = listening(Probe::echo(), Config::default(), Framing::length_u32());
    let (mut client, conn) = open(&mut reactor, addr);
    for is_first in [true, false] {
        if !is_first {
            let sent = reactor.with(|_, cx| cx.send(conn, b"before"));
            let _ = sent.expect("there is room");
        }
        let panic = catch_unwind(AssertUnwindSafe(|| {
            reactor.with(|_, cx| {
                let _ = cx.send_with(conn, |out| {
                    out.put(b"half a fra");
                    panic!("the handler's own fault")
                });
            });
        }));
        panic.expect_err("the writing panics");
        common::idle(&mut reactor);
    }
    assert_eq!(common::read_u32_frame(&mut client), b"before");
    client
        .write_all(&frame("u32", b"after"))
        .expect("it is read");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
    assert_eq!(common::read_u32_frame(&mut client), b"after");
    assert_eq!(reactor.stats().held_bytes, 0);
    drop(client);
    goes_on(reactor, addr);
}

#[test]
fn a_panic_while_a_given_payload_is_framed_holds_no_memory() {
    let framing = Framing::header_body(Framing::line(), |_| panic!("the handler's own fault"));
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
    let (_client, conn) = open(&mut reactor, addr);
    let payload = [b"a header\n", &[b'x'; 20_000][..]].concat();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        reactor.with(|_, cx| cx.send_owned(conn, payload).map(drop))
    }));
    panic.expect_err("the framing panics");
    assert_eq!(reactor.stats().held_bytes, 0);
    assert_eq!(reactor.with(|_, cx| cx.queued_bytes(conn)), Ok(0));
}

#[test]
fn a_panic_in_on_datagram_error_does_not_leave_the_queue_unsent() {
    let chosen = |event: &Event| matches!(event, Event::DatagramError(..));
    let (mut reactor, addr) = listening(fragile(chosen), Config::default(), Framing::length_u32());
    let socket = reactor.bind_udp("127.0.0.1:0").expect("a free port");
    reactor.with(|_, cx| {
        // To nobody: each is an error of its own.
        for _ in 0..3 {
            cx.send_datagram(socket, b"to whom?")
                .expect("there is room");
        }
    });
    turn_into_panic(&mut reactor);
    drive(&mut reactor, |reactor| reactor.stats().datagram_errors == 3);
    goes_on(reactor, addr);
}

#[test]
#[cfg(unix)]
fn a_panic_about_a_unix_datagram_does_not_leave_the_socket_unread() {
    let chosen = |event: &Event| matches!(event, Event::UnixDatagram(..));
    let (mut reactor, addr) = listening(fragile(chosen), Config::default(), Framing::length_u32());
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
    let adopted = reactor.with(|_, cx| cx.adopt_unix_datagram(ours));
    adopted.expect("it is a socket");
    for data in [b"1", b"2", b"3"] {
        theirs.send(data).expect("there is room");
    }
    turn_into_panic(&mut reactor);
    drive(&mut reactor, |reactor| {
        reactor
            .handler()
            .count(|event| matches!(event, Event::UnixDatagram(..)))
            == 2
    });
    goes_on(reactor, addr);
}

/// What was sent before the panic was never written: it is counted, and `on_close` tells why.
#[test]
fn output_of_a_dispatch_that_panicked_is_counted_as_unsent() {
    let (mut reactor, addr) = listening(
        fragile(|event| matches!(event, Event::Frame(_, frame) if frame == b"two")),
        Config::default(),
        Framing::length_u32(),
    );
    let mut client = common::client(addr);
    client
        .write_all(&[frame("u32", b"one"), frame("u32", b"two")].concat())
        .expect("it is read");
    turn_into_panic(&mut reactor);
    drive(&mut reactor, |reactor| {
        !reactor.handler().closes().is_empty()
    });
    let closes = reactor.handler().closes();
    assert!(matches!(closes[0].1.reason, CloseReason::HandlerPanicked));
    assert_eq!(
        closes[0].1.unsent_bytes, 14,
        "both echoes, with their headers"
    );
    assert_eq!(closes.len(), 1);
}

/// It tells that the session is lost, whatever else was wrong with the connection by then.
#[test]
fn a_panic_is_the_reason_that_is_told_also_of_a_connection_that_was_aborted_before_it() {
    let probe = Probe::new(|cx, event| {
        if let Event::Frame(conn, _) = event {
            cx.abort(*conn);
            panic!("the handler's own fault");
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::length_u32());
    let mut client = common::client(addr);
    client.write_all(&frame("u32", b"one")).expect("it is read");
    turn_into_panic(&mut reactor);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let closes = reactor.handler().closes();
    assert!(matches!(closes[0].1.reason, CloseReason::HandlerPanicked));
}

/// What was received with it is gone, as datagrams may be; what the kernel still holds is not.
#[test]
fn a_panic_about_a_datagram_does_not_leave_the_socket_unread() {
    const COUNT: u8 = 20;
    for in_batches in [true, false] {
        let mut config = Config::default();
        config.datagram_batches = in_batches;
        let probe = fragile(|event| matches!(event, Event::Datagram(..)));
        let mut reactor = Reactor::with_config(probe, config).expect("a reactor");
        let socket = reactor.bind_udp("127.0.0.1:0").expect("a free port");
        let addr = reactor.local_inet_addr(socket).expect("it is bound");
        let client = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        for index in 0..COUNT {
            client.send_to(&[index], addr).expect("it is local");
        }
        turn_into_panic(&mut reactor);
        let is_last = |data: &[u8]| *data == [COUNT - 1];
        drive(&mut reactor, |reactor| {
            let events = &reactor.handler().events;
            events
                .iter()
                .any(|event| matches!(event, Event::Datagram(_, _, data, _) if is_last(data)))
        });
    }
}
