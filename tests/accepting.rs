//! Who is let in, who is refused, and who waits.

mod common;

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use common::{Event, Probe, client, deposit, drive, idle, listening, open};
use unstick::{Config, Framing, ListenerId, Reactor, Refusal};

fn refusals(reactor: &Reactor<Probe>) -> Vec<(ListenerId, SocketAddr, Refusal)> {
    let events = reactor.handler().events.iter();
    events
        .filter_map(|event| match event {
            Event::Refused(listener, peer, refusal) => Some((*listener, peer.inet()?, *refusal)),
            _ => None,
        })
        .collect()
}

/// A client that comes from an address of its own; all of 127.0.0.0/8 is this host.
#[cfg(target_os = "linux")]
fn client_from(addr: [u8; 4], server: SocketAddr) -> TcpStream {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let local = SocketAddr::from((addr, 0));
    socket.bind(&local.into()).expect("it is an own address");
    socket.connect(&server.into()).expect("the server accepts");
    let stream = TcpStream::from(socket);
    stream
        .set_read_timeout(Some(common::DEADLINE))
        .expect("a timeout can be set");
    stream
}

fn addr_of(client: &TcpStream) -> SocketAddr {
    client.local_addr().expect("it is connected")
}

#[test]
fn one_connection_too_many_is_told_with_its_address_and_its_listener() {
    let mut config = Config::default();
    config.connections_max = 2;
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::line());
    let second = reactor.listen("127.0.0.1:0", Framing::line());
    let second = second.expect("a free port");
    let second_addr = reactor.local_inet_addr(second).expect("it is bound");
    let _served = [open(&mut reactor, addr), open(&mut reactor, addr)];
    let mut refused = client(second_addr);
    drive(&mut reactor, |reactor| reactor.stats().refused == 1);
    let expected = (second, addr_of(&refused), Refusal::Connections);
    assert_eq!(refusals(&reactor), [expected]);
    assert_eq!(refused.read(&mut [0]).expect("an end, no reset"), 0);
    assert_eq!((reactor.stats().accepted, reactor.stats().closed), (2, 0));
}

#[test]
#[cfg(target_os = "linux")]
fn one_address_has_no_more_than_its_connections_and_the_others_have_theirs() {
    let mut config = Config::default();
    config.connections_per_addr_max = 2;
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::line());
    let served = [client(addr), client(addr)];
    drive(&mut reactor, |reactor| reactor.stats().accepted == 2);
    let mut refused = client(addr);
    drive(&mut reactor, |reactor| reactor.stats().refused == 1);
    let (_, peer, refusal) = refusals(&reactor)[0];
    assert_eq!(peer, addr_of(&refused));
    assert_eq!(refusal, Refusal::ConnectionsPerAddr);
    assert_eq!(refused.read(&mut [0]).expect("an end, no reset"), 0);

    let _other = client_from([127, 0, 0, 2], addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 3);

    // A place is free when a connection of that address has ended.
    let [leaving, _staying] = served;
    common::reset(leaving);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let _next = client(addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 4);
    assert_eq!(reactor.stats().refused, 1);
}

/// Connections that this side made are its own business.
#[test]
fn a_connection_to_an_address_does_not_count_among_those_from_it() {
    let mut config = Config::default();
    config.connections_per_addr_max = 1;
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::line());
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let to = elsewhere.local_addr().expect("it is bound");
    let made = reactor.connect(to, Framing::line(), ());
    drive(&mut reactor, |reactor| reactor.stats().connected == 1);
    let (_client, _) = open(&mut reactor, addr);
    reactor.with(|_, cx| cx.abort(made));
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let _refused = client(addr);
    drive(&mut reactor, |reactor| reactor.stats().refused == 1);
    assert_eq!(reactor.stats().accepted, 1);
}

/// A crowd costs the others no more than the budget of a turn, and nobody of it waits for
/// somebody else to come.
#[test]
fn a_crowd_is_let_in_by_the_budget_of_each_turn_and_a_frame_is_served_beside_it() {
    const CROWD: u64 = 100;
    const BUDGET: u64 = 8;
    let mut config = Config::default();
    config.accept_budget = usize::try_from(BUDGET).expect("it is small");
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::line());
    let (mut pinger, conn) = open(&mut reactor, addr);
    idle(&mut reactor);
    let _crowd: Vec<_> = (0..CROWD).map(|_| client(addr)).collect();
    deposit(&mut reactor, &mut pinger, conn, b"ping\n");
    let mut accepted = 1;
    for turn in 0..CROWD.div_ceil(BUDGET) {
        reactor
            .turn(Some(common::DEADLINE))
            .expect("the poll works");
        accepted += BUDGET.min(CROWD - turn * BUDGET);
        let stats = reactor.stats();
        assert_eq!((stats.accepted, stats.frames_in), (accepted, 1));
    }
}

#[test]
#[cfg(unix)]
fn a_paused_unix_datagram_socket_receives_on_its_resume_and_sends_meanwhile() {
    let mut reactor = Reactor::new(Probe::silent()).expect("a reactor");
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
    let unix = reactor.with(|_, cx| cx.adopt_unix_datagram(ours));
    let unix = unix.expect("it is a socket");
    reactor.with(|_, cx| cx.pause(unix)).expect("it is open");
    for payload in [&b"one"[..], b"two"] {
        theirs.send(payload).expect("there is room");
    }
    let sent = reactor.with(|_, cx| cx.send_unix_datagram(unix, None, b"out"));
    sent.expect("there is room");
    idle(&mut reactor);
    assert_eq!(reactor.stats().datagrams_in, 0);
    assert_eq!(theirs.recv(&mut [0; 8]).expect("it is there"), 3);
    reactor.with(|_, cx| cx.resume(unix)).expect("it is open");
    idle(&mut reactor);
    assert_eq!(reactor.stats().datagrams_in, 2);
}

#[test]
fn a_paused_listener_accepts_nobody_and_a_resume_all_who_wait() {
    let mut reactor = Reactor::new(Probe::silent()).expect("a reactor");
    let listener = reactor.listen("127.0.0.1:0", Framing::line());
    let listener = listener.expect("a free port");
    let addr = reactor.local_inet_addr(listener).expect("it is bound");
    let paused = reactor.with(|_, cx| cx.pause(listener));
    paused.expect("it is open");
    let waiting: Vec<_> = (0..5).map(|_| client(addr)).collect();
    idle(&mut reactor);
    assert_eq!(reactor.stats().accepted, 0);
    let resumed = reactor.with(|_, cx| cx.resume(listener));
    resumed.expect("it is open");
    idle(&mut reactor);
    assert_eq!(reactor.stats().accepted, 5, "no further client is needed");
    reactor.with(|_, cx| cx.close_listener(listener));
    idle(&mut reactor);
    assert!(reactor.with(|_, cx| cx.pause(listener)).is_err());
    assert!(TcpStream::connect(addr).is_err());
    assert_eq!(reactor.stats().closed, 0, "who was accepted lives on");
    drop(waiting);
}

/// One that has enough pauses from within.
#[test]
fn a_listener_that_is_paused_in_on_open_accepts_no_further_one() {
    let probe = Probe::new(|cx, event| {
        if let Event::Open(_, unstick::Origin::Accepted(listener)) = event {
            cx.pause(*listener).expect("it is open");
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
    let _clients: Vec<_> = (0..5).map(|_| client(addr)).collect();
    idle(&mut reactor);
    assert_eq!(reactor.stats().accepted, 1);
}

#[test]
fn a_paused_udp_socket_receives_on_its_resume_and_sends_meanwhile() {
    let mut reactor = Reactor::new(Probe::silent()).expect("a reactor");
    let udp = reactor.bind_udp("127.0.0.1:0").expect("a free port");
    let addr = reactor.local_inet_addr(udp).expect("it is bound");
    reactor.with(|_, cx| cx.pause(udp)).expect("it is open");
    let peer = UdpSocket::bind((IpAddr::from([127, 0, 0, 1]), 0)).expect("a free port");
    for payload in [&b"one"[..], b"two"] {
        peer.send_to(payload, addr).expect("it is taken");
    }
    let to = peer.local_addr().expect("it is bound");
    reactor
        .with(|_, cx| cx.send_to(udp, to, b"out"))
        .expect("there is room");
    idle(&mut reactor);
    assert_eq!(reactor.stats().datagrams_in, 0);
    assert_eq!(reactor.stats().datagrams_out, 1);
    reactor.with(|_, cx| cx.resume(udp)).expect("it is open");
    idle(&mut reactor);
    assert_eq!(reactor.stats().datagrams_in, 2);
}
