//! The whole reactor on a simulated system: no system call, and virtual time.

use std::io;

use super::*;
use crate::datagram::Datagram;
use crate::event::Origin;
use crate::os::ConnectOptions;
use crate::timer::TimerId;
use transport::AckOrder;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SEC: Duration = Duration::from_secs(1);

/// A handler that echoes, and records each callback with its virtual time.
pub(super) struct Node {
    world: World,
    pub(super) seen: Vec<String>,
    pub(super) echoes: bool,
    /// Sends at each open.
    pub(super) greeting: Vec<u8>,
}

impl Node {
    fn note(&mut self, event: String) {
        let millis = self.world.now().as_micros();
        let (millis, micros) = (millis / 1000, millis % 1000);
        let part = if micros == 0 {
            String::new()
        } else {
            format!(".{micros:03}")
        };
        self.seen.push(format!("{millis}{part} {event}"));
    }
}

impl Handler for Node {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
        self.note("open".into());
        if !self.greeting.is_empty() {
            let _ = cx.send(conn, &self.greeting);
        }
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        self.note(format!("frame {}", String::from_utf8_lossy(frame)));
        if self.echoes {
            let _ = cx.send(conn, frame);
        }
    }

    fn on_drained(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut ()) {
        self.note("drained".into());
    }

    fn on_half_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut ()) {
        self.note("half-close".into());
        cx.close(conn);
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        let Closed {
            unsent_bytes: unsent,
            undecoded_bytes: undecoded,
            ..
        } = closed;
        let reason = match closed.reason {
            CloseReason::ConnectFailed(error) => format!("ConnectFailed {:?}", error.kind()),
            CloseReason::Io(error) => format!("Io {:?}", error.kind()),
            reason => format!("{reason:?}"),
        };
        self.note(format!(
            "close {reason}, {unsent} unsent, {undecoded} undecoded"
        ));
    }

    fn on_datagram(&mut self, cx: &mut Context<'_, Self>, socket: UdpId, datagram: Datagram<'_>) {
        let cut = if datagram.truncated {
            " (truncated)"
        } else {
            ""
        };
        let text = String::from_utf8_lossy(datagram.data).into_owned();
        self.note(format!("datagram {text}{cut}"));
        if self.echoes {
            let _ = cx.send_to(socket, datagram.from, datagram.data);
        }
    }

    fn on_datagram_error(&mut self, _: &mut Context<'_, Self>, _: UdpId, error: io::Error) {
        self.note(format!("datagram error {:?}", error.kind()));
    }

    fn on_timer(&mut self, _: &mut Context<'_, Self>, _: TimerId, key: u64) {
        self.note(format!("timer {key}"));
    }
}

pub(super) fn node(world: World, config: Config) -> Reactor<Node> {
    let node = Node {
        world,
        seen: Vec::new(),
        echoes: true,
        greeting: Vec::new(),
    };
    Reactor::with_os(node, config, world.os()).expect("a reactor")
}

impl Transport {
    pub(super) fn node(self, world: World, config: Config) -> Reactor<Node> {
        let mut reactor = node(world, config);
        self.install(&mut reactor, AckOrder::First);
        reactor
    }

    /// A reactor that listens for frames behind a byte of length, and a client that has connected.
    pub(super) fn served(self, config: Config) -> (World, Reactor<Node>, Peer) {
        let world = World::new(0);
        let mut reactor = self.node(world, config);
        let listener = reactor
            .listen(any(), Framing::length_u8())
            .expect("a free port");
        let addr = reactor.local_addr(listener).expect("it is bound");
        let peer = Peer::new(self, world.connect(addr));
        settle(&mut [&mut reactor]);
        assert_eq!(seen(&mut reactor), ["0 open"]);
        (world, reactor, peer)
    }
}

pub(super) fn seen(reactor: &mut Reactor<Node>) -> Vec<String> {
    std::mem::take(&mut reactor.handler.seen)
}

/// Takes turns without waiting until none of the reactors has work.
pub(super) fn settle(reactors: &mut [&mut Reactor<Node>]) {
    let is_busy = |reactor: &&mut Reactor<Node>| reactor.next_turn_in() == Some(Duration::ZERO);
    for _ in 0..10_000 {
        for reactor in &mut *reactors {
            reactor.turn(Some(Duration::ZERO)).expect("the poll works");
        }
        let is_quiet = reactors
            .iter()
            .all(|reactor| reactor.handler.world.is_quiet());
        if is_quiet && !reactors.iter().any(is_busy) {
            return;
        }
    }
    panic!("the reactors never rest");
}

/// Lets virtual time pass, with a turn whenever something is due.
pub(super) fn run_for(world: World, reactors: &mut [&mut Reactor<Node>], time: Duration) {
    let end = world.now() + time;
    loop {
        settle(reactors);
        let left = end - world.now();
        if left.is_zero() {
            return;
        }
        let timers = reactors.iter().filter_map(|reactor| reactor.next_turn_in());
        let next = timers
            .chain(world.next_action_in())
            .fold(left, Duration::min);
        world.advance(next);
    }
}

fn frames_cut_at_every_byte_are_echoed(transport: Transport) {
    let stream = b"\x00\x01a\x02bc\x05defgh";
    let (_, mut reactor, peer) = transport.served(Config::default());
    for cut in 0..=stream.len() {
        for piece in [&stream[..cut], &stream[cut..]] {
            peer.send(piece);
            settle(&mut [&mut reactor]);
        }
        assert_eq!(peer.recv(), stream, "cut at {cut}");
        assert_eq!(
            seen(&mut reactor),
            ["0 frame ", "0 frame a", "0 frame bc", "0 frame defgh"]
        );
    }
}

fn frames_in_segments_of_one_byte_are_echoed(transport: Transport) {
    let (world, mut reactor, peer) = transport.served(Config::default());
    world.set_segment_len_max(1);
    peer.send(b"\x01a\x02bc");
    run_for(world, &mut [&mut reactor], MS);
    let frames = match transport {
        Transport::Plain => ["0.002 frame a", "0.005 frame bc"],
        // All of the record must have come.
        Transport::Filtered => ["0.007 frame a", "0.007 frame bc"],
    };
    assert_eq!(seen(&mut reactor), frames);
    assert_eq!(peer.recv(), b"\x01a\x02bc");
}

fn a_refused_connect_is_closed_once(transport: Transport) {
    let world = World::new(0);
    let mut reactor = transport.node(world, Config::default());
    reactor.connect(SocketAddr::from(([127, 0, 0, 1], 9)), Framing::line(), ());
    run_for(world, &mut [&mut reactor], 60 * SEC);
    let close = "0 close ConnectFailed ConnectionRefused, 0 unsent, 0 undecoded";
    assert_eq!(seen(&mut reactor), [close]);
}

fn a_connect_without_an_answer_times_out_by_virtual_time(transport: Transport) {
    let world = World::new(0);
    let mut reactor = transport.node(world, Config::default());
    let silent = SocketAddr::from(([192, 0, 2, 1], 9));
    world.silence(silent);
    let options = ConnectOptions::new().timeout(3 * SEC);
    reactor.with(|_, cx| cx.connect_with(silent, Framing::line(), (), &options));
    run_for(world, &mut [&mut reactor], 3 * SEC - MS);
    assert_eq!(seen(&mut reactor), [""; 0]);
    run_for(world, &mut [&mut reactor], 60 * SEC);
    let close = "3000 close ConnectFailed TimedOut, 0 unsent, 0 undecoded";
    assert_eq!(seen(&mut reactor), [close]);
}

fn a_connect_tries_the_next_address_in_its_share_of_the_time(transport: Transport) {
    let world = World::new(0);
    let mut reactor = transport.node(world, Config::default());
    let silent = SocketAddr::from(([192, 0, 2, 1], 9));
    world.silence(silent);
    let listener = world.listen(any());
    let addrs = [silent, listener.local_addr().inet().expect("an IP address")];
    let options = ConnectOptions::new().timeout(4 * SEC);
    reactor.with(|_, cx| cx.connect_with(&addrs[..], Framing::line(), (), &options));
    run_for(world, &mut [&mut reactor], 60 * SEC);
    assert_eq!(seen(&mut reactor), ["2000 open"]);
    assert!(listener.accept().is_some());
}

fn a_half_closed_peer_receives_what_is_queued_for_it(transport: Transport) {
    let (world, mut reactor, peer) = transport.served(Config::default());
    peer.send(b"\x01a\x01b");
    peer.shutdown();
    run_for(world, &mut [&mut reactor], 60 * SEC);
    assert_eq!(peer.recv(), b"\x01a\x01b");
    assert_eq!(peer.read_end().expect("a FIN, not a reset"), 0);
    let expected = [
        "0 frame a",
        "0 frame b",
        "0 half-close",
        "0 close Peer, 0 unsent, 0 undecoded",
    ];
    assert_eq!(seen(&mut reactor), expected);
}

fn rst_after_partial_frame_reports_undecoded_bytes(transport: Transport) {
    let (_, mut reactor, peer) = transport.served(Config::default());
    peer.send(b"\x01a\x05bcd");
    settle(&mut [&mut reactor]);
    peer.reset();
    settle(&mut [&mut reactor]);
    let close = "0 close Io ConnectionReset, 0 unsent, 4 undecoded";
    assert_eq!(seen(&mut reactor), ["0 frame a", close]);
}

fn output_beyond_the_send_buffer_waits_until_the_peer_reads(transport: Transport) {
    let world = World::new(0);
    world.set_buffer_lens(1000, 1000);
    let config = Config {
        write_low_bytes: 100,
        write_high_bytes: 2000,
        ..Config::default()
    };
    let mut reactor = transport.node(world, config);
    let payload: Vec<u8> = (0..10_000_u16).map(|at| at.to_le_bytes()[0]).collect();
    reactor.handler.greeting = payload.clone();
    let listener = reactor.listen(any(), Framing::raw()).expect("a free port");
    let peer = Peer::new(
        transport,
        world.connect(reactor.local_addr(listener).expect("it is bound")),
    );
    // A filter accepts a few records before it waits for the socket.
    let in_flight_max = if transport.is_plain() { 2000 } else { 2400 };
    let mut received = Vec::new();
    while received.len() < payload.len() {
        settle(&mut [&mut reactor]);
        assert!(reactor.stats().written_bytes <= received.len() as u64 + in_flight_max);
        let piece = peer.recv_up_to(700);
        assert!(!piece.is_empty(), "after {} bytes", received.len());
        received.extend(piece);
    }
    settle(&mut [&mut reactor]);
    assert!(received == payload, "in order");
    assert_eq!(seen(&mut reactor), ["0 open", "0 drained"]);
}

/// Moments are kept in whole milliseconds, so one is added: it never fires early.
fn idle_timeout_fires_at_its_virtual_time(transport: Transport) {
    let config = Config {
        idle_timeout: Some(10 * SEC),
        ..Config::default()
    };
    let (world, mut reactor, peer) = transport.served(config);
    run_for(world, &mut [&mut reactor], 7 * SEC);
    peer.send(b"\x01a");
    run_for(world, &mut [&mut reactor], 10 * SEC);
    assert_eq!(peer.recv(), b"\x01a");
    peer.read_end().expect_err("it would block");
    run_for(world, &mut [&mut reactor], MS);
    assert_eq!(peer.read_end().expect("a FIN"), 0);
    // The peer does not end its side: it is closed at the close deadline.
    run_for(world, &mut [&mut reactor], 60 * SEC);
    let close = "27001 close IdleTimeout, 0 unsent, 0 undecoded";
    assert_eq!(seen(&mut reactor), ["7000 frame a", close]);
}

/// Plain only: it has no connection.
#[test]
fn timers_are_not_early_and_intervals_do_not_drift() {
    let world = World::new(0);
    let mut reactor = node(world, Config::default());
    world.advance(MS / 2);
    reactor.with(|_, cx| {
        cx.set_timer(Duration::ZERO, 0);
        cx.set_timer(10 * MS, 10);
        cx.set_interval(7 * MS, 7);
    });
    run_for(world, &mut [&mut reactor], 25 * MS);
    // Times are rounded up to a tick of a millisecond.
    let expected = [
        "1 timer 0",
        "8 timer 7",
        "11 timer 10",
        "15 timer 7",
        "22 timer 7",
    ];
    assert_eq!(seen(&mut reactor), expected);
    // A late turn fires an interval once; the next time is where it would have been.
    world.advance(MS * 20);
    run_for(world, &mut [&mut reactor], 11 * MS);
    assert_eq!(seen(&mut reactor), ["45.500 timer 7", "50 timer 7"]);
}

/// Plain only: no bytes are sent.
#[test]
fn the_accept_budget_leaves_the_rest_to_the_next_turn() {
    let world = World::new(0);
    let config = Config {
        accept_budget: 2,
        ..Config::default()
    };
    let mut reactor = node(world, config);
    let listener = reactor.listen(any(), Framing::raw()).expect("a free port");
    let addr = reactor.local_addr(listener).expect("it is bound");
    for _ in 0..5 {
        world.connect(addr.clone());
    }
    for accepted in [2, 4, 5] {
        reactor.turn(Some(Duration::ZERO)).expect("the poll works");
        assert_eq!(reactor.stats().accepted, accepted);
    }
}

/// Plain only: no bytes are sent.
#[test]
fn emfile_backlog_is_accepted_by_a_timer() {
    const EMFILE: i32 = 24;
    let world = World::new(0);
    let mut reactor = node(world, Config::default());
    let listener = reactor.listen(any(), Framing::raw()).expect("a free port");
    let addr = reactor.local_addr(listener).expect("it is bound");
    for _ in 0..2 {
        world.fail_next_accept(addr.clone(), EMFILE);
    }
    world.connect(addr);
    run_for(world, &mut [&mut reactor], SEC);
    assert_eq!(
        seen(&mut reactor),
        ["300 open"],
        "after 100 ms and 200 more"
    );
    assert_eq!(reactor.stats().accept_errors, 2);
}

fn two_reactors_of_one_world_talk_to_each_other(transport: Transport) {
    let world = World::new(0);
    world.set_latency(5 * MS);
    let (mut server, mut client) = (
        transport.node(world, Config::default()),
        transport.node(world, Config::default()),
    );
    // At most one side may wait for its writes.
    transport.install(&mut client, AckOrder::Queued);
    client.handler.echoes = false;
    client.handler.greeting = b"hello".to_vec();
    let listener = server
        .listen(any(), Framing::length_u32())
        .expect("a free port");
    let addr = server.local_addr(listener).expect("it is bound");
    let conn = client.connect(addr, Framing::length_u32(), ());
    run_for(world, &mut [&mut server, &mut client], 50 * MS);
    client.with(|_, cx| cx.close(conn));
    run_for(world, &mut [&mut server, &mut client], SEC);
    let of_server = [
        "5 open",
        "10 frame hello",
        "55 half-close",
        "55 close Peer, 0 unsent, 0 undecoded",
    ];
    let of_client = [
        "5 open",
        "15 frame hello",
        "60 close Local, 0 unsent, 0 undecoded",
    ];
    assert_eq!(seen(&mut client), of_client);
    assert_eq!(seen(&mut server), of_server);
}

/// Waits without an end: time passes up to what the test has scheduled.
fn run_handles_scheduled_peers_and_posts_until_it_is_shut_down(transport: Transport) {
    let (world, mut reactor, peer) = transport.served(Config::default());
    let sender = peer.clone();
    world.after(20 * MS, move || sender.send(b"\x01a"));
    let remote = reactor.remote();
    world.after(30 * MS, move || {
        let posted = remote.post(|node: &mut Node, _| node.note("posted".into()));
        posted.expect("there is room");
        peer.close();
        remote.shutdown(SEC).expect("it is woken");
    });
    reactor.run().expect("the poll works");
    assert_eq!(world.now(), 30 * MS);
    let seen = seen(&mut reactor);
    assert_eq!(seen[..2], ["20 frame a", "30 posted"]);
    assert!(
        seen[2..].iter().any(|event| event.starts_with("30 close")),
        "{seen:?}"
    );
}

/// Plain only: it has no connection.
#[test]
fn an_interrupted_wait_goes_on_for_the_time_that_is_left() {
    let world = World::new(0);
    let mut reactor = node(world, Config::default());
    world.fail_next_wait(ErrorKind::Interrupted);
    reactor
        .turn(Some(5 * MS))
        .expect("a signal does not end it");
    assert_eq!(world.now(), 5 * MS);
}

#[cfg(unix)]
fn unix_streams_are_served_like_tcp(transport: Transport) {
    let world = World::new(0);
    let mut reactor = transport.node(world, Config::default());
    let name = crate::UnixAddr::from_pathname("/sim/socket").expect("a path");
    reactor
        .listen(name.clone(), Framing::line())
        .expect("it is free");
    let peer = Peer::new(transport, world.connect(name));
    peer.send(b"ab\nc");
    settle(&mut [&mut reactor]);
    peer.send(b"d\n");
    peer.shutdown();
    settle(&mut [&mut reactor]);
    assert_eq!(peer.recv(), b"ab\ncd\n");
    assert_eq!(
        seen(&mut reactor)[1..4],
        ["0 frame ab", "0 frame cd", "0 half-close"]
    );
}

/// Injected results of single calls come before what the peer does.
///
/// Plain only: the reads and writes are counted.
#[test]
fn faults_of_a_connection_that_has_a_peer() {
    let (_, mut reactor, peer) = Transport::Plain.served(Config::default());
    let faults = peer.faults();
    faults.then_read([Reading::Fails(ErrorKind::Interrupted)]);
    faults.then_write([Writing::Takes(1), Writing::Fails(ErrorKind::WouldBlock)]);
    peer.send(b"\x03abc");
    settle(&mut [&mut reactor]);
    assert_eq!(peer.recv(), b"\x03abc");
    assert_eq!((faults.seen().reads, faults.seen().writes), (2, 3));
    faults.then_read([Reading::Fails(ErrorKind::TimedOut)]);
    peer.send(b"\x03abc");
    settle(&mut [&mut reactor]);
    let close = "0 close Io TimedOut, 0 unsent, 0 undecoded";
    assert_eq!(seen(&mut reactor), ["0 frame abc", close]);
}

/// All that a world does by chance comes from its seed.
///
/// Plain only: it is about the simulation.
#[test]
fn the_same_seed_gives_the_same_event_log() {
    let run = |seed| {
        let world = World::new(seed);
        world.keep_log();
        world.set_latency(MS);
        world.set_segment_len_max(3);
        world.set_loss_percent(50);
        let mut reactor = node(world, Config::default());
        let listener = reactor.listen(any(), Framing::line()).expect("a free port");
        let udp = reactor.bind_udp(any()).expect("a free port");
        let peer = world.connect(reactor.local_addr(listener).expect("it is bound"));
        let client = world.bind_datagram(any().into()).expect("a free port");
        run_for(world, &mut [&mut reactor], 2 * MS);
        for _ in 0..20 {
            peer.send(b"some words\nand others\n");
            let to = reactor.local_addr(udp).expect("it is bound");
            client.send_datagram(Some(to), b"word").expect("it goes");
        }
        run_for(world, &mut [&mut reactor], SEC);
        let datagrams_in = reactor.stats().datagrams_in;
        assert!((1..20).contains(&datagrams_in), "{datagrams_in} came");
        assert_eq!(peer.recv(), b"some words\nand others\n".repeat(20));
        world.log()
    };
    assert!(!run(1).is_empty());
    assert!(run(1) == run(1));
    assert!(run(1) != run(2));
}

on_both_transports! {
    frames_cut_at_every_byte_are_echoed,
    frames_in_segments_of_one_byte_are_echoed,
    a_refused_connect_is_closed_once,
    a_connect_without_an_answer_times_out_by_virtual_time,
    a_connect_tries_the_next_address_in_its_share_of_the_time,
    a_half_closed_peer_receives_what_is_queued_for_it,
    rst_after_partial_frame_reports_undecoded_bytes,
    output_beyond_the_send_buffer_waits_until_the_peer_reads,
    idle_timeout_fires_at_its_virtual_time,
    two_reactors_of_one_world_talk_to_each_other,
    run_handles_scheduled_peers_and_posts_until_it_is_shut_down,
    #[cfg(unix)] unix_streams_are_served_like_tcp,
}
