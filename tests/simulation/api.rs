//! Tests of the simulation's own methods: reactors, raw peers and virtual time.

use std::time::Duration;

use unstick::testkit::sim::{Node, PeerState, Simulation};
use unstick::{Closed, ConnId, Context, Framing, Handler, ListenerId, Origin, TimerId};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

/// A server that echoes and records.
#[derive(Default)]
struct Echo {
    closes: Vec<String>,
    timers: Vec<u64>,
}

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        let _ = cx.send(conn, frame);
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        self.closes.push(closed.reason.to_string());
    }

    fn on_timer(&mut self, _: &mut Context<'_, Self>, _: TimerId, key: u64) {
        self.timers.push(key);
    }
}

/// A client that sends a number of lines, and counts the replies.
struct Client {
    lines: u32,
    replies: u32,
    end: Option<String>,
}

impl Handler for Client {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
        let _ = cx.send(conn, b"hello");
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: &[u8]) {
        self.replies += 1;
        if self.replies < self.lines {
            let _ = cx.send(conn, b"hello");
        } else {
            cx.close(conn);
        }
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        self.end = Some(closed.reason.to_string());
    }
}

fn echo(sim: &mut Simulation) -> (Node<Echo>, ListenerId) {
    let server = sim.reactor(Echo::default());
    let listener = sim[server].listen(server.addr(7000), Framing::line());
    (server, listener.expect("the address is free"))
}

#[test]
fn reactors_with_different_handlers_share_a_world() {
    let mut sim = Simulation::new(1);
    let (server, _) = echo(&mut sim);
    let client = sim.reactor(Client {
        lines: 3,
        replies: 0,
        end: None,
    });
    sim[client].connect(server.addr(7000), Framing::line(), ());
    sim.run_for(SEC);
    assert_eq!(sim[client].handler().replies, 3);
    assert_eq!(
        sim[client].handler().end.as_deref(),
        Some("closed by this side")
    );
    assert_eq!(sim[server].handler().closes, ["closed by the peer"]);
    assert_eq!(sim.now(), SEC);
}

#[test]
fn raw_peer_sends_and_receives_bytes() {
    let mut sim = Simulation::new(1);
    let (server, _) = echo(&mut sim);
    let peer = sim.connect(server.addr(7000));
    assert_eq!(peer.state(), PeerState::Connecting);
    peer.send(b"hel");
    peer.send(b"lo\nwor");
    sim.expect(peer, b"hello\n");
    assert_eq!(peer.state(), PeerState::Open);
    peer.send(b"ld\n");
    peer.half_close();
    sim.run_for(SEC);
    assert_eq!(peer.recv(), b"world\n");
    assert_eq!(peer.state(), PeerState::Ended);
    peer.close();
    assert_eq!(peer.state(), PeerState::Closed);
}

#[test]
fn bytes_of_a_peer_that_closes_early_arrive() {
    let mut sim = Simulation::new(1);
    let (server, _) = echo(&mut sim);
    let peer = sim.connect(server.addr(7000));
    peer.send(b"last words\n");
    peer.close();
    sim.run_for(SEC);
    assert_eq!(sim[server].stats().frames_in, 1);
    assert_eq!(sim[server].handler().closes.len(), 1);
}

#[test]
fn refused_and_reset_peers_are_reported() {
    let mut sim = Simulation::new(1);
    let (server, listener) = echo(&mut sim);
    let peer = sim.connect(server.addr(7000));
    let refused = sim.connect(server.addr(1));
    sim.run_for(SEC);
    let kind = std::io::ErrorKind::ConnectionRefused;
    assert_eq!(refused.state(), PeerState::Failed(kind));
    peer.reset();
    sim.run_for(SEC);
    assert_eq!(sim[server].handler().closes.len(), 1);
    let peer = sim.connect(server.addr(7000));
    sim.run_for(SEC);
    sim[server].with(|_, cx| cx.close_listener(listener));
    sim.restart(server, Echo::default());
    sim.run_for(SEC);
    assert_eq!(peer.state(), PeerState::Ended, "the process has ended");
    assert_eq!(sim[server].stats().accepted, 0);
}

#[test]
fn raw_listener_accepts_a_reactor() {
    let mut sim = Simulation::new(1);
    let listener = sim.listen("10.1.0.1:80");
    let client = sim.reactor(Client {
        lines: 1,
        replies: 0,
        end: None,
    });
    sim[client].connect("10.1.0.1:80", Framing::line(), ());
    assert!(sim.run_until(SEC, |sim| sim[client].stats().connected == 1));
    let peer = listener.accept().expect("the reactor has connected");
    sim.expect(peer, b"hello\n");
    peer.send(b"hello\n");
    sim.run_for(SEC);
    assert_eq!(peer.state(), PeerState::Ended);
    peer.close();
    sim.run_for(SEC);
    assert_eq!(
        sim[client].handler().end.as_deref(),
        Some("closed by this side")
    );
}

#[test]
fn accepted_peer_buffers_any_number_of_bytes() {
    let mut sim = Simulation::new(4);
    let listener = sim.listen("10.1.0.1:80");
    let client = sim.connect("10.1.0.1:80");
    sim.run_for(MS);
    let server = listener.accept().expect("the connect has arrived");
    let sent: Vec<u8> = (0..1_000_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    server.send(&sent);
    server.half_close();
    sim.expect(client, &sent);
    assert_eq!(server.unsent_len(), 0);
}

#[test]
fn hosts_have_ports_and_loopback_of_their_own() {
    let mut sim = Simulation::new(1);
    let (first, _) = echo(&mut sim);
    let (second, _) = echo(&mut sim);
    assert_ne!(first.ip(), second.ip());
    let foreign = sim[first].listen(second.addr(7001), Framing::line());
    assert!(foreign.is_err(), "the address belongs to another host");
    for node in [first, second] {
        sim[node]
            .listen("127.0.0.1:80", Framing::line())
            .expect("each host has its own loopback address");
        sim[node].connect("127.0.0.1:80", Framing::line(), ());
    }
    sim.run_for(SEC);
    for node in [first, second] {
        assert_eq!(sim[node].stats().accepted, 1);
        assert_eq!(sim[node].stats().connected, 1);
    }
}

#[test]
fn connect_to_an_address_without_a_host_times_out() {
    let mut sim = Simulation::new(1);
    let (node, _) = echo(&mut sim);
    sim[node].connect("10.9.9.9:80", Framing::line(), ());
    sim.run_for(3600 * SEC);
    let closes = &sim[node].handler().closes;
    assert_eq!(closes.len(), 1);
    assert!(closes[0].contains("timed out"), "{closes:?}");
}

#[test]
fn timers_fire_at_their_virtual_time() {
    let mut sim = Simulation::new(1);
    let (node, _) = echo(&mut sim);
    sim[node].with(|_, cx| {
        cx.set_timer(3600 * SEC, 1);
        cx.set_timer(10 * MS, 2);
    });
    sim.run_for(9 * MS);
    assert_eq!(sim[node].handler().timers, []);
    sim.run_for(2 * MS);
    assert_eq!(sim[node].handler().timers, [2]);
    while sim.step() {}
    assert_eq!(sim[node].handler().timers, [2, 1]);
    assert_eq!(sim.now(), 3600 * SEC);
}

#[test]
#[should_panic(expected = "received \"hello\\n\" instead of")]
fn expect_fails_if_other_bytes_arrive() {
    let mut sim = Simulation::new(1);
    let (server, _) = echo(&mut sim);
    let peer = sim.connect(server.addr(7000));
    peer.send(b"hello\n");
    sim.expect(peer, b"world\n");
}
