//! Tests of the whole reactor on the simulated system, with virtual time and without system calls.

use std::io;

use super::*;
use crate::datagram::Datagram;
use crate::event::Origin;
use crate::os::ConnectOptions;
use crate::timer::TimerId;
use transport::AckOrder;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SEC: Duration = Duration::from_secs(1);

/// A handler that echoes, and records its callbacks with their virtual times.
pub(super) struct Node {
    world: World,
    pub(super) events: Vec<String>,
    pub(super) echoes: bool,
    /// Payload to send at each open; empty if no payload is sent.
    pub(super) greeting: Vec<u8>,
}

impl Node {
    fn record(&mut self, event: String) {
        let millis = self.world.now().as_micros();
        let (millis, micros) = (millis / 1000, millis % 1000);
        let part = if micros == 0 {
            String::new()
        } else {
            format!(".{micros:03}")
        };
        self.events.push(format!("{millis}{part} {event}"));
    }
}

impl Handler for Node {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
        self.record("open".into());
        if !self.greeting.is_empty() {
            let _ = cx.send(conn, &self.greeting);
        }
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        self.record(format!("frame {}", String::from_utf8_lossy(frame)));
        if self.echoes {
            let _ = cx.send(conn, frame);
        }
    }

    fn on_drained(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut ()) {
        self.record("drained".into());
    }

    fn on_half_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut ()) {
        self.record("half-close".into());
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
        self.record(format!(
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
        self.record(format!("datagram {text}{cut}"));
        if self.echoes {
            let _ = cx.send_to(socket, datagram.from, datagram.data);
        }
    }

    fn on_datagram_error(&mut self, _: &mut Context<'_, Self>, _: UdpId, error: io::Error) {
        self.record(format!("datagram error {:?}", error.kind()));
    }

    fn on_timer(&mut self, _: &mut Context<'_, Self>, _: TimerId, key: u64) {
        self.record(format!("timer {key}"));
    }
}

pub(super) fn node(world: World, config: Config) -> Reactor<Node> {
    let node = Node {
        world,
        events: Vec::new(),
        echoes: true,
        greeting: Vec::new(),
    };
    Reactor::with_os(node, config, world.os()).expect("the reactor opens")
}

impl Transport {
    pub(super) fn node(self, world: World, config: Config) -> Reactor<Node> {
        let mut reactor = node(world, config);
        self.install(&mut reactor, AckOrder::First);
        reactor
    }

    /// Returns a reactor that listens with `length_u8` framing, and a peer that has connected to
    /// it.
    pub(super) fn served(self, config: Config) -> (World, Reactor<Node>, Peer) {
        let world = World::new(0);
        let mut reactor = self.node(world, config);
        let listener = reactor
            .listen(any(), Framing::length_u8())
            .expect("a port is free");
        let addr = reactor.local_addr(listener).expect("the listener is bound");
        let peer = Peer::new(self, world.connect(addr));
        settle(&mut [&mut reactor]);
        assert_eq!(take_events(&mut reactor), ["0 open"]);
        (world, reactor, peer)
    }
}

/// Returns and removes the recorded callbacks of a node, each as its time and a text.
pub(super) fn take_events(reactor: &mut Reactor<Node>) -> Vec<String> {
    std::mem::take(&mut reactor.handler.events)
}

/// Runs turns of all reactors until no reactor has work. The virtual time does not change.
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
    panic!("the reactors still have work after 10,000 turns");
}

/// Advances the virtual time by `time`, and runs turns whenever a timer or an action is due.
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
            take_events(&mut reactor),
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
        // The filter decrypts a record when all of it has arrived.
        Transport::Filtered => ["0.007 frame a", "0.007 frame bc"],
        #[cfg(feature = "tls")]
        Transport::Tls => ["0.027 frame a", "0.027 frame bc"],
    };
    assert_eq!(take_events(&mut reactor), frames);
    assert_eq!(peer.recv(), b"\x01a\x02bc");
}

fn a_refused_connect_is_closed_once(transport: Transport) {
    let world = World::new(0);
    let mut reactor = transport.node(world, Config::default());
    reactor.connect(SocketAddr::from(([127, 0, 0, 1], 9)), Framing::line(), ());
    run_for(world, &mut [&mut reactor], 60 * SEC);
    let close = "0 close ConnectFailed ConnectionRefused, 0 unsent, 0 undecoded";
    assert_eq!(take_events(&mut reactor), [close]);
}

fn connect_without_a_response_times_out_by_virtual_time(transport: Transport) {
    let world = World::new(0);
    let mut reactor = transport.node(world, Config::default());
    let silent = SocketAddr::from(([192, 0, 2, 1], 9));
    world.silence(silent);
    let options = ConnectOptions::new().timeout(3 * SEC);
    reactor.with(|_, cx| cx.connect_with(silent, Framing::line(), (), &options));
    run_for(world, &mut [&mut reactor], 3 * SEC - MS);
    assert_eq!(take_events(&mut reactor), [""; 0]);
    run_for(world, &mut [&mut reactor], 60 * SEC);
    let close = "3000 close ConnectFailed TimedOut, 0 unsent, 0 undecoded";
    assert_eq!(take_events(&mut reactor), [close]);
}

fn connect_tries_the_next_address_after_250_ms(transport: Transport) {
    let world = World::new(0);
    let mut reactor = transport.node(world, Config::default());
    let silent = SocketAddr::from(([192, 0, 2, 1], 9));
    world.silence(silent);
    let listener = world.listen(any());
    let addrs = [
        silent,
        listener
            .local_addr()
            .inet()
            .expect("the listener has an IP address"),
    ];
    let options = ConnectOptions::new().timeout(4 * SEC);
    reactor.with(|_, cx| cx.connect_with(&addrs[..], Framing::line(), (), &options));
    run_for(world, &mut [&mut reactor], 60 * SEC);
    assert_eq!(take_events(&mut reactor), ["250 open"]);
    assert!(listener.accept().is_some());
}

fn half_closed_peer_receives_all_queued_output(transport: Transport) {
    let (world, mut reactor, peer) = transport.served(Config::default());
    peer.send(b"\x01a\x01b");
    peer.shutdown();
    run_for(world, &mut [&mut reactor], 60 * SEC);
    assert_eq!(peer.recv(), b"\x01a\x01b");
    assert_eq!(
        peer.read_end()
            .expect("the connection ends with a FIN and not with a reset"),
        0
    );
    let expected = [
        "0 frame a",
        "0 frame b",
        "0 half-close",
        "0 close Peer, 0 unsent, 0 undecoded",
    ];
    assert_eq!(take_events(&mut reactor), expected);
}

fn rst_after_partial_frame_reports_undecoded_bytes(transport: Transport) {
    let (_, mut reactor, peer) = transport.served(Config::default());
    peer.send(b"\x01a\x05bcd");
    settle(&mut [&mut reactor]);
    peer.reset();
    settle(&mut [&mut reactor]);
    let close = "0 close Io ConnectionReset, 0 unsent, 4 undecoded";
    assert_eq!(take_events(&mut reactor), ["0 frame a", close]);
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
    let listener = reactor
        .listen(any(), Framing::raw())
        .expect("a port is free");
    let peer = Peer::new(
        transport,
        world.connect(reactor.local_addr(listener).expect("the listener is bound")),
    );
    // A filter accepts a few records before it waits for the socket.
    let in_flight_max = if transport.is_plain() { 2000 } else { 2400 };
    let mut received = Vec::new();
    while received.len() < payload.len() {
        settle(&mut [&mut reactor]);
        assert!(reactor.stats().written_bytes <= received.len() as u64 + in_flight_max);
        let piece = peer.recv_up_to(700);
        assert!(
            !piece.is_empty(),
            "no bytes arrived after {} bytes",
            received.len()
        );
        received.extend(piece);
    }
    settle(&mut [&mut reactor]);
    assert!(received == payload, "the bytes arrive in order");
    assert_eq!(take_events(&mut reactor), ["0 open", "0 drained"]);
}

/// Times are stored in whole milliseconds. One millisecond is added, so that the timeout never
/// fires early.
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
    peer.read_end().expect_err("the connection is still open");
    run_for(world, &mut [&mut reactor], MS);
    assert_eq!(peer.read_end().expect("the FIN has arrived"), 0);
    // The peer does not end its side, so the connection ends at the close deadline.
    run_for(world, &mut [&mut reactor], 60 * SEC);
    let close = "27001 close IdleTimeout, 0 unsent, 0 undecoded";
    assert_eq!(take_events(&mut reactor), ["7000 frame a", close]);
}

/// Runs only over the plain transport, because the test has no connection.
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
    // Deadlines are rounded up to whole milliseconds.
    let expected = [
        "1 timer 0",
        "8 timer 7",
        "11 timer 10",
        "15 timer 7",
        "22 timer 7",
    ];
    assert_eq!(take_events(&mut reactor), expected);
    // A late turn fires an interval only once. The later firings keep their original times.
    world.advance(MS * 20);
    run_for(world, &mut [&mut reactor], 11 * MS);
    assert_eq!(take_events(&mut reactor), ["45.500 timer 7", "50 timer 7"]);
}

/// Runs only over the plain transport, because no bytes are sent.
#[test]
fn the_accept_budget_leaves_the_rest_to_the_next_turn() {
    let world = World::new(0);
    let config = Config {
        accept_budget: 2,
        ..Config::default()
    };
    let mut reactor = node(world, config);
    let listener = reactor
        .listen(any(), Framing::raw())
        .expect("a port is free");
    let addr = reactor.local_addr(listener).expect("the listener is bound");
    for _ in 0..5 {
        world.connect(addr.clone());
    }
    for accepted in [2, 4, 5] {
        reactor.turn(Some(Duration::ZERO)).expect("the poll works");
        assert_eq!(reactor.stats().accepted, accepted);
    }
}

/// Runs only over the plain transport, because no bytes are sent.
#[test]
fn emfile_backlog_is_accepted_by_a_timer() {
    const EMFILE: i32 = 24;
    let world = World::new(0);
    let mut reactor = node(world, Config::default());
    let listener = reactor
        .listen(any(), Framing::raw())
        .expect("a port is free");
    let addr = reactor.local_addr(listener).expect("the listener is bound");
    for _ in 0..2 {
        world.fail_next_accept(addr.clone(), EMFILE);
    }
    world.connect(addr);
    run_for(world, &mut [&mut reactor], SEC);
    assert_eq!(
        take_events(&mut reactor),
        ["300 open"],
        "the first retry comes after 100 ms, the second 200 ms later"
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
    // At most one side may use `AckOrder::First`, because both sides could wait for their writes
    // otherwise.
    transport.install(&mut client, AckOrder::Queued);
    client.handler.echoes = false;
    client.handler.greeting = b"hello".to_vec();
    let listener = server
        .listen(any(), Framing::length_u32())
        .expect("a port is free");
    let addr = server.local_addr(listener).expect("the listener is bound");
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
    assert_eq!(take_events(&mut client), of_client);
    assert_eq!(take_events(&mut server), of_server);
}

/// The reactor waits without a timeout, so the virtual time advances to the actions that the test
/// has scheduled.
fn run_handles_scheduled_peers_and_posts_until_it_is_shut_down(transport: Transport) {
    let (world, mut reactor, peer) = transport.served(Config::default());
    let sender = peer.clone();
    world.after(20 * MS, move || sender.send(b"\x01a"));
    let remote = reactor.remote();
    world.after(30 * MS, move || {
        let posted = remote.post(|node: &mut Node, _| node.record("posted".into()));
        posted.expect("the queue has space");
        peer.close();
        remote.shutdown(SEC).expect("the reactor is woken");
    });
    reactor.run().expect("the poll works");
    assert_eq!(world.now(), 30 * MS);
    let events = take_events(&mut reactor);
    assert_eq!(events[0], "20 frame a");
    assert!(events.contains(&"30 posted".to_owned()), "{events:?}");
    assert!(
        events[1..]
            .iter()
            .any(|event| event.starts_with("30 close")),
        "{events:?}"
    );
}

/// Runs only over the plain transport, because the test has no connection.
#[test]
fn interrupted_wait_continues_for_the_remaining_time() {
    let world = World::new(0);
    let mut reactor = node(world, Config::default());
    world.fail_next_wait(ErrorKind::Interrupted);
    reactor
        .turn(Some(5 * MS))
        .expect("a signal does not end the wait");
    assert_eq!(world.now(), 5 * MS);
}

#[cfg(unix)]
fn unix_streams_are_dispatched_like_tcp(transport: Transport) {
    let world = World::new(0);
    let mut reactor = transport.node(world, Config::default());
    let name = crate::UnixAddr::from_pathname("/sim/socket").expect("the path is short");
    reactor
        .listen(name.clone(), Framing::line())
        .expect("the path is free");
    let peer = Peer::new(transport, world.connect(name));
    peer.send(b"ab\nc");
    settle(&mut [&mut reactor]);
    peer.send(b"d\n");
    peer.shutdown();
    settle(&mut [&mut reactor]);
    assert_eq!(peer.recv(), b"ab\ncd\n");
    assert_eq!(
        take_events(&mut reactor)[1..4],
        ["0 frame ab", "0 frame cd", "0 half-close"]
    );
}

/// Injected results of calls take precedence over the actions of the peer.
///
/// Runs only over the plain transport, because the reads and writes are counted.
#[test]
fn injected_faults_precede_the_actions_of_the_peer() {
    let (_, mut reactor, peer) = Transport::Plain.served(Config::default());
    let faults = peer.faults();
    faults.then_read([ReadResult::Fails(ErrorKind::Interrupted)]);
    faults.then_write([
        WriteResult::Takes(1),
        WriteResult::Fails(ErrorKind::WouldBlock),
    ]);
    peer.send(b"\x03abc");
    settle(&mut [&mut reactor]);
    assert_eq!(peer.recv(), b"\x03abc");
    assert_eq!((faults.calls().reads, faults.calls().writes), (2, 3));
    faults.then_read([ReadResult::Fails(ErrorKind::TimedOut)]);
    peer.send(b"\x03abc");
    settle(&mut [&mut reactor]);
    let close = "0 close Io TimedOut, 0 unsent, 0 undecoded";
    assert_eq!(take_events(&mut reactor), ["0 frame abc", close]);
}

/// All random decisions of a world depend only on its seed.
///
/// Runs only over the plain transport, because the test checks the simulation.
#[test]
fn the_same_seed_gives_the_same_event_log() {
    let run = |seed| {
        let world = World::new(seed);
        world.keep_log();
        world.set_latency(MS);
        world.set_segment_len_max(3);
        let mut reactor = node(world, Config::default());
        let listener = reactor
            .listen(any(), Framing::line())
            .expect("a port is free");
        let udp = reactor.bind_udp(any()).expect("a port is free");
        let peer = world.connect(reactor.local_addr(listener).expect("the listener is bound"));
        let client = world.bind_datagram(any().into()).expect("a port is free");
        run_for(world, &mut [&mut reactor], 2 * MS);
        world.set_loss_percent(50);
        for _ in 0..20 {
            peer.send(b"some words\nand others\n");
            let to = reactor.local_addr(udp).expect("the socket is bound");
            client
                .send_datagram(Some(to), b"word")
                .expect("the datagram is sent");
        }
        // Lost bytes are sent again, so the stream takes long.
        run_for(world, &mut [&mut reactor], 3600 * SEC);
        let datagrams_in = reactor.stats().datagrams_in;
        assert!(
            (1..20).contains(&datagrams_in),
            "{datagrams_in} of 20 datagrams arrived"
        );
        assert_eq!(peer.recv(), b"some words\nand others\n".repeat(20));
        world.log()
    };
    assert!(!run(1).is_empty());
    assert!(run(1) == run(1));
    assert!(run(1) != run(2));
}

on_all_transports! {
    frames_cut_at_every_byte_are_echoed,
    a_refused_connect_is_closed_once,
    connect_without_a_response_times_out_by_virtual_time,
    connect_tries_the_next_address_after_250_ms,
    half_closed_peer_receives_all_queued_output,
    rst_after_partial_frame_reports_undecoded_bytes,
    idle_timeout_fires_at_its_virtual_time,
    run_handles_scheduled_peers_and_posts_until_it_is_shut_down,
    frames_in_segments_of_one_byte_are_echoed,
    #[cfg(unix)] unix_streams_are_dispatched_like_tcp;
    not over TLS:
    output_beyond_the_send_buffer_waits_until_the_peer_reads,
    two_reactors_of_one_world_talk_to_each_other,
}
