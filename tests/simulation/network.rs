//! Tests of links, cuts and faults of the simulation.

use std::io;
use std::time::Duration;

use unstick::testkit::sim::{Call, Faults, Link, Node, PeerState, Simulation};
use unstick::{
    Addr, Closed, Config, ConnId, ConnectOptions, Context, Datagram, Framing, Handler, UdpId,
};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

/// A server that echoes frames and datagrams, and records.
#[derive(Default)]
struct Echo {
    opens: u32,
    closes: Vec<String>,
    datagrams: Vec<Vec<u8>>,
    errors: Vec<io::ErrorKind>,
}

impl Handler for Echo {
    type Session = ();

    fn on_open(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: unstick::Origin) {
        self.opens += 1;
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        let _ = cx.send(conn, frame);
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        self.closes.push(closed.reason.to_string());
    }

    fn on_datagram(&mut self, cx: &mut Context<'_, Self>, udp: UdpId, datagram: Datagram<'_>) {
        self.datagrams.push(datagram.data.to_vec());
        let _ = cx.send_to(udp, datagram.from, datagram.data);
    }

    fn on_datagram_error(&mut self, _: &mut Context<'_, Self>, _: UdpId, error: io::Error) {
        self.errors.push(error.kind());
    }
}

fn echo(sim: &mut Simulation) -> Node<Echo> {
    let server = sim.reactor(Echo::default());
    sim[server]
        .listen(server.addr(7000), Framing::line())
        .expect("the address is free");
    sim[server]
        .bind_udp(server.addr(7000))
        .expect("the address is free");
    server
}

/// Returns lines with different lengths.
fn lines(count: usize) -> Vec<u8> {
    let line = |index| format!("{index} {}\n", "x".repeat(index % 40)).into_bytes();
    (0..count).flat_map(line).collect()
}

#[test]
fn bytes_survive_five_links_with_frequent_faults() {
    let links = [
        Link::new().segment_len_max(3),
        Link::new().jitter(50 * MS),
        Link::new()
            .loss_percent(30)
            .jitter(5 * MS)
            .segment_len_max(100),
        Link::new().bandwidth_bytes(10_000),
        Link::new().latency(Duration::ZERO),
    ];
    let stream = lines(300);
    for (seed, link) in (1..).zip(links) {
        let mut sim = Simulation::new(seed);
        let server = echo(&mut sim);
        sim.set_links(link);
        sim.set_faults(server, Faults::frequent().error_percent(0));
        let peer = sim.connect(server.addr(7000));
        peer.send(&stream);
        sim.run_for(300 * SEC);
        assert_eq!(peer.recv(), stream, "seed {seed}");
    }
}

#[test]
fn bandwidth_bounds_the_bytes_of_a_second() {
    let mut sim = Simulation::new(1);
    let server = echo(&mut sim);
    sim.set_link(
        Simulation::PEER_IP,
        server,
        Link::new().bandwidth_bytes(1000),
    );
    let peer = sim.connect(server.addr(7000));
    peer.send(&b"123456789\n".repeat(1000));
    sim.run_for(SEC);
    let received = sim[server].stats().read_bytes;
    assert!(received <= 1000, "{received} bytes arrived in a second");
    sim.run_for(10 * SEC);
    assert_eq!(peer.recv().len(), 10_000);
}

#[test]
fn partition_holds_bytes_until_it_heals() {
    let mut sim = Simulation::new(1);
    let server = echo(&mut sim);
    let peer = sim.connect(server.addr(7000));
    sim.run_for(SEC);
    sim.partition(Simulation::PEER_IP, server);
    peer.send(b"hello\n");
    let late = sim.connect(server.addr(7000));
    sim.run_for(60 * SEC);
    assert_eq!(sim[server].stats().frames_in, 0);
    assert_eq!(late.state(), PeerState::Connecting);
    sim.heal(Simulation::PEER_IP, server);
    sim.expect(peer, b"hello\n");
    sim.run_for(SEC);
    assert_eq!(late.state(), PeerState::Open);
}

#[test]
fn one_way_cut_stops_only_one_direction() {
    let mut sim = Simulation::new(1);
    let server = echo(&mut sim);
    let peer = sim.connect(server.addr(7000));
    sim.run_for(SEC);
    sim.cut(server, Simulation::PEER_IP);
    peer.send(b"hello\n");
    sim.run_for(SEC);
    assert_eq!(sim[server].stats().frames_in, 1);
    assert_eq!(peer.recv(), b"");
    sim.end_faults();
    sim.expect(peer, b"hello\n");
}

#[test]
fn reset_is_lost_while_a_link_is_cut() {
    let mut sim = Simulation::new(1);
    let server = echo(&mut sim);
    let peer = sim.connect(server.addr(7000));
    sim.run_for(SEC);
    sim.partition(Simulation::PEER_IP, server);
    peer.reset();
    sim.run_for(SEC);
    sim.heal(Simulation::PEER_IP, server);
    sim.run_for(SEC);
    assert_eq!(
        sim[server].handler().closes.len(),
        0,
        "the server knows nothing"
    );
}

#[test]
fn udp_datagrams_are_lost_doubled_and_reordered() {
    let mut sim = Simulation::new(1);
    let server = echo(&mut sim);
    let client = sim.bind_datagrams("10.1.0.1:0");
    let link = Link::new()
        .loss_percent(20)
        .duplicate_percent(20)
        .jitter(20 * MS);
    sim.set_link(Simulation::PEER_IP, server, link);
    for number in 0..=255_u8 {
        let sent = client.send_to(server.addr(7000), &[number]);
        sent.expect("the datagram is sent");
    }
    sim.run_for(SEC);
    let received: Vec<u8> = sim[server].handler().datagrams.concat();
    let count = |number| received.iter().filter(|it| **it == number).count();
    let counts: Vec<usize> = (0..=255).map(count).collect();
    for times in 0..3 {
        assert!(counts.contains(&times), "no datagram arrived {times} times");
    }
    assert!(counts.iter().all(|count| *count < 3));
    assert!(!received.is_sorted());
    let mut replies = 0;
    while let Some((from, _)) = client.recv() {
        assert_eq!(from, Addr::from(server.addr(7000)));
        replies += 1;
    }
    assert_eq!(replies, received.len());
}

#[test]
fn datagram_to_a_closed_port_is_refused() {
    let mut sim = Simulation::new(1);
    let server = echo(&mut sim);
    let client = sim.reactor(Echo::default());
    let udp = sim[client]
        .bind_udp(client.addr(0))
        .expect("a port is free");
    sim[client].with(|_, cx| {
        cx.connect_udp(udp, server.addr(9))
            .expect("the socket is open");
        cx.send_to(udp, server.addr(9), b"lost")
            .expect("the queue has space");
    });
    sim.run_for(SEC);
    assert_eq!(
        sim[client].handler().errors,
        [io::ErrorKind::ConnectionRefused]
    );
}

/// A signal interrupts every second call. A connect does not wait, so no signal interrupts it.
#[test]
fn interrupted_calls_are_repeated() {
    let mut sim = Simulation::new(1);
    let (server, client) = (echo(&mut sim), sim.reactor(Echo::default()));
    for node in [server, client] {
        sim.set_faults(node, Faults::new().interrupted_percent(50));
    }
    for _ in 0..50 {
        sim[client].connect(server.addr(7000), Framing::line(), ());
    }
    sim.run_for(SEC);
    assert_eq!(sim[client].handler().opens, 50);
    assert_eq!(sim[server].handler().opens, 50);
}

#[test]
fn planned_errors_hit_the_next_calls_only() {
    let mut sim = Simulation::new(1);
    let server = echo(&mut sim);
    let no_descriptor = || io::Error::from_raw_os_error(24);
    sim.fail_next(server, Call::Accept, no_descriptor(), 2);
    let peer = sim.connect(server.addr(7000));
    peer.send(b"hello\n");
    sim.expect(peer, b"hello\n");
    assert_eq!(sim[server].stats().accept_errors, 2);
    sim.fail_next(server, Call::Read, io::ErrorKind::TimedOut, 1);
    peer.send(b"hello\n");
    sim.run_for(SEC);
    assert_eq!(sim[server].handler().closes, ["timed out"]);
    assert_eq!(peer.state(), PeerState::Reset);
    sim.fail_next(
        server,
        Call::Connect,
        io::ErrorKind::NetworkUnreachable,
        usize::MAX,
    );
    sim[server].connect(server.addr(7000), Framing::line(), ());
    sim.run_for(SEC);
    assert!(sim[server].handler().closes[1].starts_with("connect failed"));
    sim.fail_next(server, Call::Connect, io::ErrorKind::Other, 0);
    sim[server].connect(server.addr(7000), Framing::line(), ());
    sim.run_for(SEC);
    assert_eq!(sim[server].stats().connected, 1);
}

#[test]
fn paused_reactor_gets_no_turn() {
    let mut sim = Simulation::new(1);
    let server = echo(&mut sim);
    let peer = sim.connect(server.addr(7000));
    sim.run_for(SEC);
    sim.pause(server);
    assert!(!sim.is_running(server));
    let stream = lines(10_000);
    peer.send(&stream);
    let turns = sim[server].stats().turns;
    sim.run_for(3600 * SEC);
    assert_eq!(sim[server].stats().turns, turns);
    assert!(peer.unsent_len() > 0, "the receive buffer is full");
    sim.resume(server);
    let mut received = 0;
    let all = sim.run_until(60 * SEC, |_| {
        received += peer.recv().len();
        received == stream.len()
    });
    assert!(all, "only {received} bytes came back");
}

#[test]
fn stopped_and_shut_down_reactors_get_no_turn() {
    let mut sim = Simulation::new(1);
    let (stopped, ended) = (echo(&mut sim), echo(&mut sim));
    sim[stopped].with(|_, cx| cx.stop());
    sim[ended].with(|_, cx| cx.shutdown(SEC));
    sim.run_for(2 * SEC);
    assert!(!sim.is_running(stopped) && !sim.is_running(ended));
    assert!(sim[ended].is_shut_down());
    let peer = sim.connect(ended.addr(7000));
    sim.run_for(SEC);
    assert_eq!(
        peer.state(),
        PeerState::Failed(io::ErrorKind::ConnectionRefused)
    );
}

#[test]
fn buffer_options_bound_the_bytes_in_flight() {
    let mut sim = Simulation::new(1);
    let server = echo(&mut sim);
    let client = sim
        .reactor_with(Echo::default(), Config::default())
        .expect("the configuration is valid");
    let options = ConnectOptions::new().send_buffer_len(2000);
    let conn =
        sim[client].with(|_, cx| cx.connect_with(server.addr(7000), Framing::raw(), (), &options));
    sim.run_for(SEC);
    sim.cut(client, server);
    sim[client].with(|_, cx| {
        let _ = cx.send(conn, &[b'x'; 10_000]).expect("the queue has space");
    });
    sim.run_for(SEC);
    let queued = sim[client].with(|_, cx| cx.queued_bytes(conn));
    assert_eq!(queued, Ok(8000));
}

#[test]
fn same_seed_gives_the_same_log() {
    let run = |seed| {
        let mut sim = Simulation::new(seed);
        sim.keep_log();
        sim.set_links(Link::new().jitter(5 * MS).segment_len_max(7));
        let server = echo(&mut sim);
        sim.set_faults(server, Faults::frequent());
        for _ in 0..5 {
            let peer = sim.connect(server.addr(7000));
            peer.send(&lines(50));
        }
        sim.run_for(10 * SEC);
        sim.log()
    };
    assert!(run(1).lines().count() > 100);
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
#[should_panic(expected = "without any virtual time")]
fn endless_replies_without_latency_are_reported() {
    let mut sim = Simulation::new(1);
    sim.set_links(Link::new().latency(Duration::ZERO));
    let (one, other) = (echo(&mut sim), echo(&mut sim));
    let conn = sim[one].connect(other.addr(7000), Framing::line(), ());
    sim[one].with(|_, cx| {
        let _ = cx.send(conn, b"ping");
    });
    sim.run_for(SEC);
}
