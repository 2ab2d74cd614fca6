//! Hangups of connections that are not read (paused or without credit). A FIN or reset is reported
//! at once, and the frames before the FIN or reset are not lost.

#![cfg(any(target_os = "linux", target_os = "android"))]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};

use common::{Event, Probe, deposit, drive, idle, is_io, listening, open, reset, send_fin};
use unstick::{CloseReason, Config, ConnId, Framing, Hangup, Reactor, SendError};

/// Reason why a connection is not read.
#[derive(Clone, Copy)]
enum Stop {
    Pause,
    Credit,
}

const STOPS: [Stop; 2] = [Stop::Pause, Stop::Credit];

impl Stop {
    fn probe(self) -> Probe {
        Probe::new(move |cx, event| {
            if let Event::Open(conn, _) = event {
                match self {
                    Self::Pause => cx.pause(*conn).expect("the connection is open"),
                    Self::Credit => cx.grant(*conn, 0).expect("the connection is open"),
                }
            }
        })
    }

    fn listening(self) -> (Reactor<Probe>, SocketAddr) {
        listening(self.probe(), Config::default(), Framing::line())
    }

    /// Lets the reactor read the connection again: resumes the connection or grants credit.
    fn resume_reading(self, reactor: &mut Reactor<Probe>, conn: ConnId) {
        let resumed = reactor.with(|_, cx| match self {
            Self::Pause => cx.resume(conn),
            Self::Credit => cx.grant(conn, 100),
        });
        resumed.expect("the connection is open");
    }
}

fn hangups(reactor: &Reactor<Probe>) -> Vec<Hangup> {
    let events = reactor.handler().events.iter();
    events
        .filter_map(|event| match event {
            Event::Hangup(_, hangup) => Some(*hangup),
            _ => None,
        })
        .collect()
}

fn drive_to_hangups(reactor: &mut Reactor<Probe>, count: usize) {
    drive(reactor, |reactor| hangups(reactor).len() == count);
}

fn drive_to_close(reactor: &mut Reactor<Probe>) {
    drive(reactor, |reactor| reactor.stats().closed == 1);
}

#[test]
fn reset_closes_an_unread_connection_without_pending_bytes() {
    for stop in STOPS {
        let (mut reactor, addr) = stop.listening();
        let (client, _) = open(&mut reactor, addr);
        reset(client);
        drive_to_close(&mut reactor);
        let closed = reactor.handler().only_close();
        assert!(
            is_io(&closed.reason, ErrorKind::ConnectionReset),
            "{closed:?}"
        );
        assert_eq!(
            hangups(&reactor),
            [],
            "on_hangup is not called, because on_close reports the reset"
        );
    }
}

#[test]
fn on_hangup_reports_reset_at_once_and_frames_before_it_wait() {
    for stop in STOPS {
        let (mut reactor, addr) = stop.listening();
        let (mut client, conn) = open(&mut reactor, addr);
        deposit(&mut reactor, &mut client, conn, b"1\n2\n");
        reset(client);
        drive_to_hangups(&mut reactor, 1);
        assert_eq!(hangups(&reactor), [Hangup::Reset]);
        let refused = reactor.with(|_, cx| cx.send(conn, b"answer"));
        assert!(matches!(refused, Err(SendError::Closing)), "{refused:?}");
        idle(&mut reactor);
        assert_eq!(
            reactor.stats().closed,
            0,
            "the connection stays open while frames are pending"
        );
        assert_eq!(reactor.stats().reads, 0);

        stop.resume_reading(&mut reactor, conn);
        drive_to_close(&mut reactor);
        assert_eq!(reactor.handler().frames(), [b"1", b"2"]);
        let closed = reactor.handler().only_close();
        assert!(
            is_io(&closed.reason, ErrorKind::ConnectionReset),
            "{closed:?}"
        );
        assert_eq!(hangups(&reactor).len(), 1, "on_hangup runs once");
    }
}

#[test]
fn abort_in_on_hangup_discards_the_pending_frames() {
    let probe = Probe::new(|cx, event| match event {
        Event::Open(conn, _) => cx.pause(*conn).expect("the connection is open"),
        Event::Hangup(conn, _) => cx.abort(*conn),
        _ => {}
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, b"1\n2\n");
    reset(client);
    drive_to_close(&mut reactor);
    assert!(reactor.handler().frames().is_empty());
}

/// A peer that has ended its side may still wait for an answer, so the connection stays open.
#[test]
fn on_hangup_reports_fin_without_a_read() {
    for stop in STOPS {
        for sent in [&b""[..], b"1\n2\n"] {
            let (mut reactor, addr) = stop.listening();
            let (mut client, conn) = open(&mut reactor, addr);
            deposit(&mut reactor, &mut client, conn, sent);
            send_fin(&client);
            drive_to_hangups(&mut reactor, 1);
            assert_eq!(hangups(&reactor), [Hangup::Ended]);
            assert_eq!(reactor.stats().reads, 0);
            let _ = reactor
                .with(|_, cx| cx.send(conn, b"answer"))
                .expect("the connection is open");
            idle(&mut reactor);
            assert_eq!(hangups(&reactor).len(), 1, "on_hangup runs once");
            assert_eq!(reactor.stats().closed, 0);

            stop.resume_reading(&mut reactor, conn);
            drive_to_close(&mut reactor);
            let mut answer = Vec::new();
            client
                .read_to_end(&mut answer)
                .expect("the reactor sends a FIN, not a reset");
            assert_eq!(answer, b"answer\n");
            let frames = sent.split_inclusive(|byte| *byte == b'\n').count();
            assert_eq!(reactor.handler().frames().len(), frames);
            let closed = reactor.handler().only_close();
            assert!(matches!(closed.reason, CloseReason::Peer), "{closed:?}");
        }
    }
}

/// The FIN arrives before the handler pauses, so the poll reports no further event for the FIN.
#[test]
fn on_hangup_reports_fin_received_before_the_pause() {
    let probe = Probe::new(|cx, event| match event {
        Event::Frame(conn, frame) if frame == b"1" => {
            cx.pause(*conn).expect("the connection is open")
        }
        _ => {}
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, b"1\n2\n");
    send_fin(&client);
    drop(client);
    drive_to_hangups(&mut reactor, 1);
    assert_eq!(reactor.handler().frames(), [b"1"]);
    reactor
        .with(|_, cx| cx.resume(conn))
        .expect("the connection is open");
    drive_to_close(&mut reactor);
    assert_eq!(reactor.handler().frames(), [b"1", b"2"]);
}

#[test]
fn both_sides_half_closed_closes_without_a_resume() {
    for stop in STOPS {
        let (mut reactor, addr) = stop.listening();
        let (client, conn) = open(&mut reactor, addr);
        reactor
            .with(|_, cx| cx.half_close(conn))
            .expect("the connection is open");
        idle(&mut reactor);
        assert_eq!(reactor.stats().closed, 0);
        send_fin(&client);
        drive_to_close(&mut reactor);
        let closed = reactor.handler().only_close();
        assert!(matches!(closed.reason, CloseReason::Local), "{closed:?}");
    }
}

#[test]
fn both_sides_half_closed_keeps_pending_frames_for_resume() {
    for stop in STOPS {
        let (mut reactor, addr) = stop.listening();
        let (mut client, conn) = open(&mut reactor, addr);
        reactor
            .with(|_, cx| cx.half_close(conn))
            .expect("the connection is open");
        deposit(&mut reactor, &mut client, conn, b"1\n2\n");
        send_fin(&client);
        drive_to_hangups(&mut reactor, 1);
        idle(&mut reactor);
        assert_eq!(reactor.stats().closed, 0);
        stop.resume_reading(&mut reactor, conn);
        drive_to_close(&mut reactor);
        assert_eq!(reactor.handler().frames(), [b"1", b"2"]);
    }
}

#[test]
fn fin_then_reset_are_two_hangups() {
    let (mut reactor, addr) = Stop::Pause.listening();
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, b"1\n");
    send_fin(&client);
    drive_to_hangups(&mut reactor, 1);
    reset(client);
    drive_to_hangups(&mut reactor, 2);
    assert_eq!(hangups(&reactor), [Hangup::Ended, Hangup::Reset]);
    reactor
        .with(|_, cx| cx.resume(conn))
        .expect("the connection is open");
    drive_to_close(&mut reactor);
    assert_eq!(reactor.handler().frames(), [b"1"]);
}

#[test]
fn urgent_data_is_no_hangup() {
    let (mut reactor, addr) = Stop::Pause.listening();
    let (client, _) = open(&mut reactor, addr);
    let events = reactor.stats().events;
    let options = socket2::SockRef::from(&client);
    options
        .send_out_of_band(b"!")
        .expect("the connection is open");
    drive(&mut reactor, |reactor| reactor.stats().events > events);
    idle(&mut reactor);
    assert_eq!(hangups(&reactor), []);
    assert_eq!(reactor.stats().closed, 0);
}

/// `on_half_close` and `on_close` report the end of a connection that is read.
#[test]
fn connection_that_is_read_gets_no_on_hangup() {
    for is_reset in [true, false] {
        let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::line());
        let (mut client, conn) = open(&mut reactor, addr);
        deposit(&mut reactor, &mut client, conn, b"1\n");
        if is_reset {
            reset(client);
        } else {
            send_fin(&client);
            drop(client);
        }
        drive_to_close(&mut reactor);
        assert_eq!(hangups(&reactor), []);
        assert_eq!(reactor.handler().frames(), [b"1"]);
    }
}

/// A refused connect raises the same poll event as a hangup, but must not cause `on_hangup`.
#[test]
fn refused_first_address_is_no_hangup() {
    for stop in STOPS {
        let (_socket, refusing) = common::refusing();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
        let addr = listener.local_addr().expect("the listener is bound");
        let mut reactor = Reactor::new(stop.probe()).expect("the reactor is created");
        let conn = reactor.connect(&[refusing, addr][..], Framing::line(), ());
        drive(&mut reactor, |reactor| reactor.stats().connected == 1);
        let (mut peer, _) = listener.accept().expect("the client has connected");
        peer.write_all(b"hello\n")
            .expect("the kernel accepts the bytes");
        let events = reactor.stats().events;
        drive(&mut reactor, |reactor| reactor.stats().events > events);
        assert_eq!(hangups(&reactor), []);
        stop.resume_reading(&mut reactor, conn);
        drive(&mut reactor, |reactor| {
            reactor.handler().frames() == [b"hello"]
        });
        assert_eq!(hangups(&reactor), []);
    }
}
