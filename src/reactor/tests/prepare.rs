//! Tests of the preparation of connections, with a stage that expects fixed bytes.

use super::*;
use crate::event::Origin;

const PREFIX: &[u8] = b"hello!";
const FRAMES: &[u8] = b"\x01a\x02bc";
const SEC: Duration = Duration::from_secs(1);

/// A handler that records its callbacks.
#[derive(Default)]
struct Log(Vec<String>);

impl Handler for Log {
    type Session = ();

    fn on_open(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), origin: Origin) {
        let origin = match origin {
            Origin::Accepted { .. } => "accepted",
            _ => "connected",
        };
        self.0.push(format!("open {origin}"));
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        self.0.push(format!("frame {}", frame.escape_ascii()));
        let _ = cx.send(conn, frame);
    }

    fn on_half_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut ()) {
        self.0.push("half_close".to_owned());
        cx.close(conn);
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        let Closed {
            reason,
            unsent_bytes,
            ..
        } = closed;
        self.0
            .push(format!("close {reason:?}, {unsent_bytes} unsent"));
    }
}

/// Returns a reactor whose new connections expect [`PREFIX`].
fn preparing(world: World) -> Reactor<Log> {
    let mut reactor = Reactor::with_os(Log::default(), Config::default(), world.os())
        .expect("the simulated poll opens");
    reactor.engine.admission.prefix = Some(PREFIX);
    reactor
}

/// Runs 50 turns, which are enough for the work of each test here.
fn settle(reactor: &mut Reactor<Log>) {
    for _ in 0..50 {
        reactor
            .turn(Some(Duration::ZERO))
            .expect("the poll succeeds");
    }
}

/// Returns a reactor with a listener, its world, and the peer of a new connection.
fn server() -> (Reactor<Log>, World, crate::os::sim::SimPeer) {
    let world = World::new(0);
    let mut reactor = preparing(world);
    let listener = reactor.listen(any(), Framing::length_u8());
    let listener = listener.expect("a port is free");
    let addr = reactor.local_addr(listener).expect("the listener is bound");
    let peer = world.connect(addr);
    settle(&mut reactor);
    (reactor, world, peer)
}

fn log(reactor: &mut Reactor<Log>) -> Vec<String> {
    std::mem::take(&mut reactor.handler.0)
}

#[test]
fn connection_opens_after_its_preparation_for_every_cut() {
    let stream = [PREFIX, FRAMES].concat();
    for first in 0..=stream.len() {
        for second in first..=stream.len() {
            let (mut reactor, _, peer) = server();
            for part in [&stream[..first], &stream[first..second], &stream[second..]] {
                peer.send(part);
                settle(&mut reactor);
            }
            assert_eq!(log(&mut reactor), ["open accepted", "frame a", "frame bc"]);
            assert_eq!(peer.recv_up_to(100), FRAMES);
        }
    }
}

#[test]
fn preparation_that_takes_too_long_closes_without_on_open() {
    let (mut reactor, world, peer) = server();
    peer.send(&PREFIX[..5]);
    settle(&mut reactor);
    world.advance(9 * SEC);
    settle(&mut reactor);
    assert!(log(&mut reactor).is_empty());
    assert_eq!(reactor.stats().preparing, 1);
    world.advance(2 * SEC);
    settle(&mut reactor);
    assert_eq!(log(&mut reactor), ["close Io(Kind(TimedOut)), 0 unsent"]);
    let stats = reactor.stats();
    assert_eq!((stats.preparations, stats.preparations_failed), (1, 1));
    assert_eq!((stats.preparing, stats.connections), (0, 0));
}

#[test]
fn preparation_ends_with_the_stream_of_the_peer() {
    let (mut reactor, _, peer) = server();
    peer.send(&PREFIX[..5]);
    peer.shutdown();
    settle(&mut reactor);
    let close = "close Io(Kind(UnexpectedEof)), 0 unsent";
    assert_eq!(log(&mut reactor), [close]);
}

#[test]
fn wrong_bytes_in_a_preparation_close_with_the_reason() {
    let (mut reactor, _, peer) = server();
    peer.send(b"GET / HTTP/1.1");
    settle(&mut reactor);
    assert_eq!(peer.read_end().expect("the server has sent a FIN"), 0);
    peer.close();
    settle(&mut reactor);
    assert_eq!(log(&mut reactor), ["close Io(Kind(InvalidData)), 0 unsent"]);
    assert_eq!(reactor.stats().preparations_failed, 1);
}

/// Returns a client, its connection, which is being prepared, and the server.
fn client() -> (Reactor<Log>, ConnId, Reactor<Log>) {
    let world = World::new(0);
    let mut server = Reactor::with_os(Log::default(), Config::default(), world.os())
        .expect("the simulated poll opens");
    let listener = server.listen(any(), Framing::raw());
    let listener = listener.expect("a port is free");
    let addr = server.local_addr(listener).expect("the listener is bound");
    let mut reactor = preparing(world);
    let conn = reactor.connect(addr, Framing::length_u8(), ());
    for _ in 0..3 {
        settle(&mut reactor);
        settle(&mut server);
    }
    (reactor, conn, server)
}

#[test]
fn output_waits_until_the_connection_is_prepared() {
    let (mut client, conn, mut server) = client();
    let stats = client.stats();
    assert_eq!((stats.connected, stats.preparing), (0, 1));
    client.with(|_, cx| {
        let sent = cx.send(conn, b"early");
        assert_eq!(sent.expect("the queue has space"), Sent::Queued);
        cx.half_close(conn).expect("the connection is open");
    });
    settle(&mut client);
    settle(&mut server);
    assert_eq!(log(&mut server), ["open accepted"]);
    let accepted = server.engine.entries.tokens()[1];
    server.with(|_, cx| {
        let _ = cx.send(ConnId(accepted), PREFIX).expect("it is open");
    });
    settle(&mut server);
    settle(&mut client);
    settle(&mut server);
    assert_eq!(log(&mut client)[0], "open connected");
    let frames = ["frame \\x05early", "half_close"];
    assert_eq!(log(&mut server)[..2], frames);
    assert_eq!(client.stats().connected, 1);
}

#[test]
fn close_during_a_preparation_sends_nothing() {
    type Act = fn(&mut Context<'_, Log>, ConnId);
    let acts: [(Act, &str); 3] = [
        (|cx, conn| cx.close(conn), "Local"),
        (|cx, conn| cx.abort(conn), "Aborted"),
        (|cx, _| cx.shutdown(SEC), "Local"),
    ];
    for (act, reason) in acts {
        let (mut client, conn, mut server) = client();
        client.with(|_, cx| {
            let _ = cx.send(conn, b"lost").expect("the queue has space");
            act(cx, conn);
        });
        settle(&mut client);
        assert_eq!(log(&mut client), [format!("close {reason}, 5 unsent")]);
        settle(&mut server);
        let received = log(&mut server);
        assert!(!received.iter().any(|it| it.starts_with("frame")));
        assert_eq!(client.stats().preparing, 0);
    }
}

#[test]
fn output_queued_before_a_failed_preparation_is_lost() {
    let (mut client, conn, mut server) = client();
    let accepted = server.engine.entries.tokens()[1];
    client.with(|_, cx| {
        let _ = cx.send(conn, b"lost").expect("the queue has space");
    });
    server.with(|_, cx| {
        let _ = cx.send(ConnId(accepted), b"wrong").expect("it is open");
    });
    for _ in 0..3 {
        settle(&mut server);
        settle(&mut client);
    }
    let close = "close Io(Kind(InvalidData)), 5 unsent";
    assert_eq!(log(&mut client), [close]);
    let received = log(&mut server);
    assert!(!received.iter().any(|it| it.starts_with("frame")));
}
