//! A handler that panics: the panic leaves the turn, the reactor stays whole.

mod common;

use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::{Event, Probe, drive, frame, listening};
use unstick::{CloseReason, Config, Framing, Reactor};

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

    // A fresh connection is served, in the same slots and buffers.
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
    reactor.with(|_, cx| cx.shutdown(Duration::from_secs(5)));
    drive(&mut reactor, Reactor::is_shut_down);
    drop(client);
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
    a_panic_closes_its_connection_and_no_other(|event| matches!(event, Event::Close(..)));
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
        let addr = reactor.local_addr(socket).expect("it is bound");
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
