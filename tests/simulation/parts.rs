//! Parts of a program in the simulation: reconnects, other threads, Unix sockets, connections that
//! move, and real sockets.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use unstick::testkit::sim::{Link, Node, PeerState, Simulation};
use unstick::{
    Backoff, CloseReason, Closed, ConnId, Context, Detached, Framing, Handler, Origin, Reconnect,
    TimerId,
};

const SEC: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A handler that echoes, connects again if it has a server, and detaches a connection at the frame
/// `move`.
#[derive(Default)]
struct Program {
    server: Option<Reconnect<SocketAddr>>,
    opens: u32,
    frames: Vec<Vec<u8>>,
    closes: Vec<String>,
    detached: Option<Detached>,
}

impl Handler for Program {
    type Session = ();

    fn on_open(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: Origin) {
        self.opens += 1;
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        self.frames.push(frame.to_vec());
        let _ = cx.send(conn, frame);
        if frame == b"move" {
            cx.detach(conn).expect("the connection is open");
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: (), closed: Closed) {
        self.closes.push(closed.reason.to_string());
        if let Some(server) = &mut self.server {
            server.on_close(cx, conn, &closed);
        }
        if let CloseReason::Detached(detached) = closed.reason {
            self.detached = Some(detached);
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: TimerId, _: u64) {
        if let Some(server) = &mut self.server {
            server.on_timer(cx, timer, ());
        }
    }

    #[cfg(unix)]
    fn on_unix_datagram(
        &mut self,
        cx: &mut Context<'_, Self>,
        socket: unstick::UnixDatagramId,
        datagram: unstick::UnixDatagram<'_>,
    ) {
        self.frames.push(datagram.data.to_vec());
        let from = datagram.from.clone();
        let _ = cx.send_unix_datagram(socket, Some(&from), datagram.data);
    }
}

fn program(sim: &mut Simulation) -> Node<Program> {
    sim.reactor(Program::default())
}

fn listen(sim: &mut Simulation, node: Node<Program>) {
    let listener = sim[node].listen(node.addr(7000), Framing::line());
    listener.expect("the address is free");
}

#[test]
fn reconnect_follows_a_server_that_starts_again() {
    let mut sim = Simulation::new(1);
    let (server, client) = (program(&mut sim), program(&mut sim));
    let backoff = Backoff::new(SEC, 8 * SEC).seed(1);
    let reconnect = Reconnect::new(server.addr(7000), Framing::line(), backoff);
    sim[client].handler_mut().server = Some(reconnect);
    sim[client].with(|client, cx| {
        let server = client.server.as_mut().expect("the server is set");
        server.open(cx, ());
    });
    sim.run_for(60 * SEC);
    let attempts = sim[client].handler().closes.len();
    assert!(
        (8..30).contains(&attempts),
        "{attempts} refused attempts in a minute"
    );
    listen(&mut sim, server);
    sim.run_for(60 * SEC);
    assert_eq!(sim[client].handler().opens, 1);
    sim.restart(server, Program::default());
    listen(&mut sim, server);
    sim.run_for(60 * SEC);
    assert_eq!(sim[client].handler().opens, 2);
    assert_eq!(sim[server].stats().connections, 1);
}

#[test]
fn posts_of_a_remote_wake_a_reactor() {
    let mut sim = Simulation::new(1);
    let node = program(&mut sim);
    sim.run_for(SEC);
    let remote = sim[node].remote();
    let posted = remote.post(|program: &mut Program, _: &mut Context<'_, _>| program.opens = 7);
    posted.expect("the queue has space");
    sim.run_for(Duration::ZERO);
    assert_eq!(sim[node].handler().opens, 7);
    remote.shutdown(SEC).expect("the reactor is woken");
    sim.run_for(Duration::ZERO);
    assert!(sim[node].is_shut_down());
}

#[test]
#[cfg(unix)]
fn unix_addresses_are_shared_by_all_hosts() {
    let mut sim = Simulation::new(1);
    let (server, client) = (program(&mut sim), program(&mut sim));
    let path = |name: &str| unstick::UnixAddr::from_pathname(name).expect("the path is short");
    sim[server]
        .listen(path("/stream"), Framing::line())
        .expect("the path is free");
    let conn = sim[client].connect(path("/stream"), Framing::line(), ());
    let peer = sim.connect(path("/stream"));
    peer.send(b"hello\n");
    sim.expect(peer, b"hello\n");
    sim[client].with(|_, cx| cx.abort(conn));
    let datagrams = path("/datagrams");
    sim[server]
        .with(|_, cx| cx.bind_unix_datagram(Some(&datagrams)))
        .expect("the path is free");
    let raw = sim.bind_datagrams(path("/raw"));
    raw.send_to(datagrams, b"word")
        .expect("the socket is bound");
    sim.run_for(SEC);
    let (_, data) = raw.recv().expect("the reply has arrived");
    assert_eq!(data, b"word");
}

#[test]
#[cfg(unix)]
fn links_do_not_carry_unix_sockets() {
    let mut sim = Simulation::new(1);
    sim.set_links(
        Link::new()
            .latency(SEC)
            .loss_percent(50)
            .duplicate_percent(50),
    );
    let node = program(&mut sim);
    let path = |name: &str| unstick::UnixAddr::from_pathname(name).expect("the path is short");
    sim[node]
        .listen(path("/stream"), Framing::line())
        .expect("the path is free");
    let from = sim.bind_datagrams(path("/from"));
    let to = sim.bind_datagrams(path("/to"));
    let peer = sim.connect(path("/stream"));
    for _ in 0..20 {
        from.send_to(path("/to"), b"word")
            .expect("the queue has space");
        assert_eq!(to.recv().expect("the datagram has arrived").1, b"word");
        assert!(to.recv().is_none(), "the datagram arrived twice");
        peer.send(b"hello\n");
        sim.expect(peer, b"hello\n");
    }
    assert_eq!(sim.now(), Duration::ZERO);
}

#[test]
#[cfg(unix)]
fn detached_connection_moves_to_another_reactor() {
    let mut sim = Simulation::new(1);
    let (first, second) = (program(&mut sim), program(&mut sim));
    listen(&mut sim, first);
    let peer = sim.connect(first.addr(7000));
    peer.send(b"one\nmove\ntwo\nthr");
    sim.run_for(SEC);
    peer.send(b"ee\n");
    sim.run_for(SEC);
    let detached = sim[first].handler_mut().detached.take();
    let detached = detached.expect("the connection was detached");
    assert_eq!(detached.undelivered, b"two\nthr");
    sim[second].with(|_, cx| cx.adopt_detached(detached, Framing::line(), ()));
    sim.expect(peer, b"one\nmove\ntwo\nthree\n");
    assert_eq!(sim[second].handler().frames, [&b"two"[..], b"three"]);
    assert_eq!(sim[first].stats().connections, 0);
}

#[test]
#[cfg(unix)]
fn dropped_detached_connection_is_closed() {
    let mut sim = Simulation::new(1);
    let node = program(&mut sim);
    listen(&mut sim, node);
    let peer = sim.connect(node.addr(7000));
    peer.send(b"move\n");
    sim.run_for(SEC);
    assert_eq!(peer.state(), PeerState::Open);
    drop(sim[node].handler_mut().detached.take());
    sim.run_for(SEC);
    assert_eq!(peer.state(), PeerState::Ended);
}

#[test]
fn real_sockets_and_their_options_are_not_supported() {
    let mut sim = Simulation::new(1);
    let node = program(&mut sim);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("the listener is bound");
    let stream = TcpStream::connect(addr).expect("the listener listens");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    sim[node].with(|_, cx| {
        cx.adopt_stream(stream, Framing::line(), ());
        let adopted = cx.adopt_udp(udp);
        let error = adopted.expect_err("the socket is real");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let adopted = cx.adopt_listener(listener, Framing::line());
        let error = adopted.expect_err("the listener is real");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let simulated = cx.bind_udp("127.0.0.1:0").expect("a port is free");
        let error = cx.socket(simulated).err().map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::Unsupported));
        let error = cx.detach_udp(simulated).err().map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::Unsupported));
    });
    sim.run_for(SEC);
    let closes = &sim[node].handler().closes;
    assert_eq!(closes.len(), 1);
    assert!(closes[0].starts_with("connect failed"), "{closes:?}");
}

#[test]
#[cfg(all(unix, feature = "signals"))]
fn signals_are_not_supported() {
    let mut sim = Simulation::new(1);
    let node = program(&mut sim);
    let caught = sim[node].with(|_, cx| cx.catch_signal(unstick::Signal::SIGUSR1));
    let error = caught.expect_err("a signal is not simulated");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
#[cfg(unix)]
fn simulated_reactor_has_no_descriptor() {
    use std::os::fd::AsFd;

    let mut sim = Simulation::new(1);
    let node = program(&mut sim);
    let descriptor = catch_unwind(AssertUnwindSafe(|| {
        let _ = sim[node].as_fd();
    }));
    assert!(descriptor.is_err());
}

/// One frame arrives every virtual hour.
#[test]
fn a_day_passes_in_virtual_time() {
    let mut sim = Simulation::new(1);
    let node = program(&mut sim);
    listen(&mut sim, node);
    let peer = sim.connect(node.addr(7000));
    for _ in 0..24 {
        peer.send(b"hello\n");
        sim.run_for(HOUR);
        assert_eq!(peer.recv(), b"hello\n");
    }
    assert_eq!(sim.now(), 24 * HOUR);
}
