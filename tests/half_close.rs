//! Half-close: the FIN is sent after the queued output, and input is still received.

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use common::{Event, Probe, drive, frame, listening};
use unstick::{
    CloseReason, Closed, Config, ConnId, Context, Framing, Handler, Reactor, SendError, TimerId,
};

/// Starts a peer in a thread. The peer reads to the end of the stream, then sends three frames of
/// 1 MiB. The thread returns the bytes that it read.
fn spawn_peer_that_replies_after_fin(listener: TcpListener) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the reactor connects");
        stream
            .set_read_timeout(Some(common::DEADLINE))
            .expect("a timeout can be set");
        let mut request = Vec::new();
        stream
            .read_to_end(&mut request)
            .expect("the client ends its side");
        for index in 0..3 {
            stream
                .write_all(&frame("u32", &vec![index; 1 << 20]))
                .expect("the client reads");
        }
        request
    })
}

fn send_request_and_half_close(reactor: &mut Reactor<Probe>, conn: ConnId) {
    reactor.with(|_, cx| {
        assert!(cx.send(conn, &[7; 100_000]).is_ok());
        cx.half_close(conn).expect("the connection is open");
        assert!(matches!(cx.send(conn, b"more"), Err(SendError::Closing)));
    });
}

fn assert_reply_received(reactor: &Reactor<Probe>, request: &[u8]) {
    let probe = reactor.handler();
    assert!(request == frame("u32", &[7; 100_000]));
    let frames = probe.frames();
    assert_eq!(frames.len(), 3);
    assert!(
        frames
            .iter()
            .zip(0..)
            .all(|(frame, index)| *frame == vec![index; 1 << 20])
    );
    assert_eq!(probe.count(|event| matches!(event, Event::HalfClose(_))), 1);
    let closes = probe.closes();
    assert_eq!(closes.len(), 1);
    assert!(
        matches!(closes[0].1.reason, CloseReason::Local),
        "{:?}",
        closes[0].1
    );
    assert_eq!(
        (closes[0].1.unsent_bytes, closes[0].1.undecoded_bytes),
        (0, 0)
    );
}

#[test]
fn half_close_sends_fin_and_still_receives_the_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let addr = listener.local_addr().expect("the listener is bound");
    let peer = spawn_peer_that_replies_after_fin(listener);
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let conn = reactor.connect(addr, Framing::length_u32(), ());
    drive(&mut reactor, |reactor| reactor.stats().connected == 1);
    send_request_and_half_close(&mut reactor, conn);
    drive(&mut reactor, |reactor| {
        !reactor.handler().closes().is_empty()
    });
    assert_reply_received(&reactor, &peer.join().expect("the peer does not panic"));
}

#[test]
fn half_close_while_connecting_takes_effect_once_connected() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let addr = listener.local_addr().expect("the listener is bound");
    let peer = spawn_peer_that_replies_after_fin(listener);
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let conn = reactor.connect(addr, Framing::length_u32(), ());
    send_request_and_half_close(&mut reactor, conn);
    drive(&mut reactor, |reactor| {
        !reactor.handler().closes().is_empty()
    });
    assert_reply_received(&reactor, &peer.join().expect("the peer does not panic"));
}

/// The peer half-closes first. The handler keeps the connection open and sends a reply later.
#[test]
fn half_closed_peer_can_be_answered_later() {
    let mut probe = Probe::silent();
    probe.keep_half_closed = true;
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::length_u32());
    let mut client = common::client(addr);
    common::send_fin(&client);
    let ended = |event: &Event| matches!(event, Event::HalfClose(_));
    drive(&mut reactor, |reactor| reactor.handler().count(ended) == 1);
    let opened = reactor
        .handler()
        .events
        .iter()
        .find_map(|event| match event {
            Event::Open(conn, _) => Some(*conn),
            _ => None,
        });
    let conn = opened.expect("on_open comes before on_half_close");
    for _ in 0..3 {
        reactor
            .turn(Some(Duration::ZERO))
            .expect("polling succeeds");
    }
    reactor.with(|_, cx| {
        assert!(cx.send(conn, b"a late answer").is_ok());
        cx.half_close(conn).expect("the connection is open");
    });
    drive(&mut reactor, |reactor| {
        !reactor.handler().closes().is_empty()
    });
    assert_eq!(common::read_u32_frame(&mut client), b"a late answer");
    assert_eq!(client.read(&mut [0]).expect("the server ends its side"), 0);
    assert!(matches!(
        reactor.handler().closes()[0].1.reason,
        CloseReason::Peer
    ));
}

/// A handler that answers each request after 100 ms. If the peer ends its side, the handler closes
/// the connection only after the last answer.
#[derive(Default)]
struct Slow {
    closed: Vec<CloseReason>,
}

impl Handler for Slow {
    type Session = Pending;

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, it: &mut Pending, _: &[u8]) {
        it.answers += 1;
        cx.set_timer(Duration::from_millis(100), conn.to_bits());
    }

    fn on_half_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, it: &mut Pending) {
        it.has_ended = true;
        if it.answers == 0 {
            cx.close(conn);
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, _: TimerId, key: u64) {
        let conn = ConnId::from_bits(key).expect("the key is an id");
        cx.with_session(conn, |cx, it| {
            let _ = cx.send(conn, b"answer").expect("the connection is kept");
            it.answers -= 1;
            if it.has_ended && it.answers == 0 {
                cx.close(conn);
            }
        });
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: Pending, closed: Closed) {
        assert_eq!(closed.unsent_bytes, 0);
        self.closed.push(closed.reason);
    }
}

#[derive(Default)]
struct Pending {
    answers: usize,
    has_ended: bool,
}

/// The peer sends its FIN before the answers are ready. The default `on_half_close` would close the
/// connection at the FIN, so the answers would be lost.
#[test]
fn answer_computed_after_the_peers_end_is_not_lost() {
    let (mut reactor, addr) = listening(Slow::default(), Config::default(), Framing::length_u32());
    let mut client = common::client(addr);
    client
        .write_all(&[frame("u32", b"one"), frame("u32", b"two")].concat())
        .expect("the server reads");
    common::send_fin(&client);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    for _ in 0..2 {
        assert_eq!(common::read_u32_frame(&mut client), b"answer");
    }
    assert_eq!(client.read(&mut [0]).expect("an end of stream"), 0);
    assert!(matches!(reactor.handler().closed[..], [CloseReason::Peer]));
}

/// A handler that has no `on_half_close` and answers no request. Records the requests and the
/// reasons of the closes.
#[derive(Default)]
struct Unaware {
    requests: Vec<ConnId>,
    closed: Vec<CloseReason>,
}

impl Handler for Unaware {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: &[u8]) {
        self.requests.push(conn);
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        self.closed.push(closed.reason);
    }
}

/// The default `on_half_close` closes the connection at once. Therefore a later `send` returns an
/// error.
#[test]
fn default_on_half_close_refuses_a_later_answer() {
    let (mut reactor, addr) =
        listening(Unaware::default(), Config::default(), Framing::length_u32());
    let mut client = common::client(addr);
    client
        .write_all(&frame("u32", b"request"))
        .expect("the server reads");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
    let conn = reactor.handler().requests[0];
    common::send_fin(&client);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    assert_eq!(client.read(&mut [0]).expect("the server sends a FIN"), 0);
    let sent = reactor.with(|_, cx| cx.send(conn, b"late"));
    let is_refused = matches!(sent, Err(SendError::Closing | SendError::Gone));
    assert!(is_refused, "{sent:?}");
    assert!(matches!(reactor.handler().closed[..], [CloseReason::Peer]));
}
