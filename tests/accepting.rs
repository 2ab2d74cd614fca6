//! Accepting connections: limits, refusals, the accept budget, paused listeners and sockets.
//! `quiet.rs` tests a lack of descriptors.

mod common;
#[cfg(target_os = "linux")]
#[path = "common/network.rs"]
mod network;

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use common::{Event, Probe, client, deposit, drive, idle, listening, open};
use unstick::{Config, Framing, ListenOptions, ListenerId, Reactor, Refusal};

fn refusals(reactor: &Reactor<Probe>) -> Vec<(ListenerId, SocketAddr, Refusal)> {
    let events = reactor.handler().events.iter();
    events
        .filter_map(|event| match event {
            Event::Refused(listener, peer, refusal) => Some((*listener, peer.inet()?, *refusal)),
            _ => None,
        })
        .collect()
}

/// Connects a client from the given local address. On Linux, every address in 127.0.0.0/8 is local.
#[cfg(target_os = "linux")]
fn client_from(addr: [u8; 4], server: SocketAddr) -> TcpStream {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("the socket is created");
    let local = SocketAddr::from((addr, 0));
    socket
        .bind(&local.into())
        .expect("every address in 127.0.0.0/8 is local");
    socket.connect(&server.into()).expect("the server accepts");
    let stream = TcpStream::from(socket);
    stream
        .set_read_timeout(Some(common::DEADLINE))
        .expect("a timeout can be set");
    stream
}

fn addr_of(client: &TcpStream) -> SocketAddr {
    client.local_addr().expect("the client is connected")
}

#[test]
fn listen_error_names_the_address_and_keeps_its_kind() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::line());
    let one = reactor.listen(addr, Framing::line()).map(drop);
    let all = reactor.with(|_, cx| {
        let options = ListenOptions::new();
        cx.listen_all(addr, Framing::line(), &options).map(drop)
    });
    for result in [one, all] {
        let error = result.expect_err("the address is in use");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let text = error.to_string();
        let start = format!("cannot listen on {addr}: ");
        assert!(text.starts_with(&start), "{text}");
        assert_eq!(text.matches("cannot listen").count(), 1, "{text}");
    }
}

#[test]
fn on_refused_names_listener_and_peer_at_connections_max() {
    let mut config = Config::default();
    config.connections_max = 2;
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::line());
    let second = reactor.listen("127.0.0.1:0", Framing::line());
    let second = second.expect("a free port is available");
    let second_addr = reactor
        .local_inet_addr(second)
        .expect("the socket is bound");
    let _accepted = [open(&mut reactor, addr), open(&mut reactor, addr)];
    let mut refused = client(second_addr);
    drive(&mut reactor, |reactor| reactor.stats().refused == 1);
    let expected = (second, addr_of(&refused), Refusal::Connections);
    assert_eq!(refusals(&reactor), [expected]);
    assert_eq!(
        refused
            .read(&mut [0])
            .expect("the server sends a FIN, not a reset"),
        0
    );
    assert_eq!((reactor.stats().accepted, reactor.stats().closed), (2, 0));
}

#[test]
#[cfg(target_os = "linux")]
fn connections_per_addr_max_limits_each_address_alone() {
    let mut config = Config::default();
    config.connections_per_addr_max = 2;
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::line());
    let accepted = [client(addr), client(addr)];
    drive(&mut reactor, |reactor| reactor.stats().accepted == 2);
    let mut refused = client(addr);
    drive(&mut reactor, |reactor| reactor.stats().refused == 1);
    let (_, peer, refusal) = refusals(&reactor)[0];
    assert_eq!(peer, addr_of(&refused));
    assert_eq!(refusal, Refusal::ConnectionsPerAddr);
    assert_eq!(
        refused
            .read(&mut [0])
            .expect("the server sends a FIN, not a reset"),
        0
    );

    let _other = client_from([127, 0, 0, 2], addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 3);

    // After a connection from 127.0.0.1 has closed, the next connection from 127.0.0.1 is accepted.
    let [leaving, _staying] = accepted;
    common::reset(leaving);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let _next = client(addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 4);
    assert_eq!(reactor.stats().refused, 1);
}

/// The limit counts accepted connections, not connections that the reactor opened.
#[test]
fn connections_per_addr_max_ignores_outgoing_connections() {
    let mut config = Config::default();
    config.connections_per_addr_max = 1;
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::line());
    let outside = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let to = outside.local_addr().expect("the socket is bound");
    let outgoing = reactor.connect(to, Framing::line(), ());
    drive(&mut reactor, |reactor| reactor.stats().connected == 1);
    let (_client, _) = open(&mut reactor, addr);
    reactor.with(|_, cx| cx.abort(outgoing));
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let _refused = client(addr);
    drive(&mut reactor, |reactor| reactor.stats().refused == 1);
    assert_eq!(reactor.stats().accepted, 1);
}

/// 100 clients connect, and no turn runs meanwhile. Each later turn accepts up to `accept_budget`
/// clients, without a further connect. The first of these turns also delivers the frame of a
/// connection that was already open.
#[test]
fn accept_budget_bounds_each_turn_and_does_not_delay_frames() {
    const CLIENTS: u64 = 100;
    const BUDGET: u64 = 8;
    let mut config = Config::default();
    config.accept_budget = usize::try_from(BUDGET).expect("the budget is small");
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::line());
    let (mut pinger, conn) = open(&mut reactor, addr);
    idle(&mut reactor);
    let _clients: Vec<_> = (0..CLIENTS).map(|_| client(addr)).collect();
    deposit(&mut reactor, &mut pinger, conn, b"ping\n");
    let mut accepted = 1;
    for turn in 0..CLIENTS.div_ceil(BUDGET) {
        reactor
            .turn(Some(common::DEADLINE))
            .expect("polling succeeds");
        accepted += BUDGET.min(CLIENTS - turn * BUDGET);
        let stats = reactor.stats();
        assert_eq!((stats.accepted, stats.frames_in), (accepted, 1));
    }
}

#[test]
#[cfg(unix)]
fn paused_unix_datagram_socket_sends_but_does_not_receive() {
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let (ours, theirs) =
        std::os::unix::net::UnixDatagram::pair().expect("the socket pair is created");
    let unix = reactor.with(|_, cx| cx.adopt_unix_datagram(ours));
    let unix = unix.expect("the adopted socket is a Unix datagram socket");
    reactor
        .with(|_, cx| cx.pause(unix))
        .expect("the socket is open");
    for payload in [&b"one"[..], b"two"] {
        theirs
            .send(payload)
            .expect("the kernel accepts the datagram");
    }
    let sent = reactor.with(|_, cx| cx.send_unix_datagram(unix, None, b"out"));
    sent.expect("the queue has space");
    idle(&mut reactor);
    assert_eq!(reactor.stats().datagrams_in, 0);
    assert_eq!(theirs.recv(&mut [0; 8]).expect("the datagram was sent"), 3);
    reactor
        .with(|_, cx| cx.resume(unix))
        .expect("the socket is open");
    idle(&mut reactor);
    assert_eq!(reactor.stats().datagrams_in, 2);
}

#[test]
fn resumed_listener_accepts_all_pending_connections() {
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let listener = reactor.listen("127.0.0.1:0", Framing::line());
    let listener = listener.expect("a free port is available");
    let addr = reactor
        .local_inet_addr(listener)
        .expect("the socket is bound");
    let paused = reactor.with(|_, cx| cx.pause(listener));
    paused.expect("the listener is open");
    let waiting: Vec<_> = (0..5).map(|_| client(addr)).collect();
    idle(&mut reactor);
    assert_eq!(reactor.stats().accepted, 0);
    let resumed = reactor.with(|_, cx| cx.resume(listener));
    resumed.expect("the listener is open");
    idle(&mut reactor);
    assert_eq!(
        reactor.stats().accepted,
        5,
        "resume accepts all pending connections without a further connect"
    );
    reactor.with(|_, cx| cx.close_listener(listener));
    idle(&mut reactor);
    assert!(reactor.with(|_, cx| cx.pause(listener)).is_err());
    assert!(TcpStream::connect(addr).is_err());
    assert_eq!(reactor.stats().closed, 0, "accepted connections stay open");
    drop(waiting);
}

/// A pause in `on_open` takes effect before the next accept.
#[test]
fn listener_paused_in_on_open_accepts_no_more() {
    let probe = Probe::new(|cx, event| {
        if let Event::Open(_, unstick::Origin::Accepted { listener, .. }) = event {
            cx.pause(*listener).expect("the listener is open");
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
    let _clients: Vec<_> = (0..5).map(|_| client(addr)).collect();
    idle(&mut reactor);
    assert_eq!(reactor.stats().accepted, 1);
}

#[test]
fn paused_udp_socket_sends_but_does_not_receive() {
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let udp = reactor
        .bind_udp("127.0.0.1:0")
        .expect("a free port is available");
    let addr = reactor.local_inet_addr(udp).expect("the socket is bound");
    reactor
        .with(|_, cx| cx.pause(udp))
        .expect("the socket is open");
    let peer =
        UdpSocket::bind((IpAddr::from([127, 0, 0, 1]), 0)).expect("a free port is available");
    for payload in [&b"one"[..], b"two"] {
        peer.send_to(payload, addr)
            .expect("the kernel accepts the datagram");
    }
    let to = peer.local_addr().expect("the socket is bound");
    reactor
        .with(|_, cx| cx.send_to(udp, to, b"out"))
        .expect("the queue has space");
    idle(&mut reactor);
    assert_eq!(reactor.stats().datagrams_in, 0);
    assert_eq!(reactor.stats().datagrams_out, 1);
    reactor
        .with(|_, cx| cx.resume(udp))
        .expect("the socket is open");
    idle(&mut reactor);
    assert_eq!(reactor.stats().datagrams_in, 2);
}

/// The test reads `ListenOverflows` in `netstat`, the counter that the guide names. Linux keeps one
/// counter for each network namespace, so the test uses a new namespace.
#[cfg(target_os = "linux")]
#[test]
fn full_backlog_drops_connects_and_the_kernel_counts_them() {
    use socket2::{Domain, Socket, Type};

    fn listen_overflows() -> Option<u64> {
        let text = std::fs::read_to_string("/proc/thread-self/net/netstat").ok()?;
        let mut lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("TcpExt: "));
        let (names, counts) = (lines.next()?, lines.next()?);
        let index = names
            .split(' ')
            .position(|name| name == "ListenOverflows")?;
        counts.split(' ').nth(index)?.parse().ok()
    }

    if !network::enter_new_network(&[&["ip", "link", "set", "lo", "up"]]) {
        return;
    }
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let options = ListenOptions::new().backlog(1);
    let listener = reactor.with(|_, cx| cx.listen_with("127.0.0.1:0", Framing::raw(), &options));
    let listener = listener.expect("a free port is available");
    let addr = reactor
        .local_inet_addr(listener)
        .expect("the socket is bound");
    assert_eq!(listen_overflows(), Some(0));
    let _clients: Vec<_> = (0..8)
        .map(|_| {
            let client =
                Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be created");
            client.set_nonblocking(true).expect("the mode can be set");
            let _ = client.connect(&addr.into());
            client
        })
        .collect();
    // No turn runs before this line, so nothing is accepted. The loopback interface delivers each
    // SYN at once. A backlog of 1 holds two connections.
    assert_eq!(listen_overflows(), Some(6));
    drive(&mut reactor, |it| it.stats().accepted >= 2);
}
