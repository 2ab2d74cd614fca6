//! The short forms of common calls: keys of listeners, setters, payloads, and optional callbacks.

mod common;

use std::io::{Read, Write};
use std::time::Duration;

use common::{DEADLINE, Event, Probe, client, drive, idle, listening, open};
use unstick::{
    CloseReason, Config, ConnId, Context, Datagram, Framing, Handler, ListenOptions, Origin,
    Reactor, UdpId,
};

#[test]
fn on_open_gets_the_key_of_its_listener() {
    let mut reactor = Reactor::new(Probe::silent()).expect("the poll opens");
    let expected: Vec<_> = reactor.with(|_, cx| {
        let keyed = |key| ListenOptions::new().key(key);
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let all = cx.listen_all("localhost:0", Framing::line(), &keyed(9));
        [
            (cx.listen("127.0.0.1:0", Framing::line()), 0),
            (
                cx.listen_with("127.0.0.1:0", Framing::line(), &keyed(u64::MAX)),
                u64::MAX,
            ),
            (
                cx.adopt_listener_with(socket, Framing::line(), &keyed(7)),
                7,
            ),
            (all.map(|all| all[0]), 9),
        ]
        .map(|(listener, key)| (listener.expect("a port is free"), key))
        .into()
    });
    let mut clients = Vec::new();
    for (listener, _) in &expected {
        let addr = reactor.local_inet_addr(*listener);
        clients.push(client(addr.expect("the listener is open")));
    }
    drive(&mut reactor, |reactor| reactor.stats().accepted == 4);
    let events = &reactor.handler().events;
    for (listener, key) in expected {
        let origin = Origin::Accepted { listener, key };
        let is_it = |event: &Event| matches!(event, Event::Open(_, it) if *it == origin);
        assert!(events.iter().any(is_it), "{origin:?} is not in {events:?}");
    }
}

/// A handler with `on_datagram` and no other callback.
struct DatagramsOnly(Vec<u8>);

impl Handler for DatagramsOnly {
    type Session = ();

    fn on_datagram(&mut self, _: &mut Context<'_, Self>, _: UdpId, datagram: Datagram<'_>) {
        self.0.extend(datagram.data);
    }
}

#[test]
fn handler_of_datagrams_needs_no_on_frame_and_drops_frames() {
    let mut reactor = Reactor::new(DatagramsOnly(Vec::new())).expect("the poll opens");
    let udp = reactor.bind_udp("127.0.0.1:0").expect("a port is free");
    let listener = reactor.listen("127.0.0.1:0", Framing::line());
    let listener = listener.expect("a port is free");
    let addr = reactor.local_inet_addr(listener).expect("it is open");
    let to = reactor.local_inet_addr(udp).expect("it is open");
    let mut client = client(addr);
    client.write_all(b"a frame\n").expect("loopback sends");
    let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    peer.send_to(b"datagram", to).expect("loopback sends");
    drive(&mut reactor, |reactor| {
        reactor.stats().frames_in == 1 && !reactor.handler().0.is_empty()
    });
    assert_eq!(reactor.handler().0, b"datagram");
}

#[test]
fn payloads_are_bytes_or_text_and_broadcast_takes_references() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::new(), Framing::line());
    let mut clients = [client(addr), client(addr)];
    drive(&mut reactor, |reactor| reactor.stats().accepted == 2);
    let open = reactor.handler().events.iter();
    let conns: Vec<ConnId> = open
        .filter_map(|event| match event {
            Event::Open(conn, _) => Some(*conn),
            _ => None,
        })
        .collect();
    reactor.with(|_, cx| {
        assert_eq!(cx.broadcast(&conns, "a"), 2);
        assert_eq!(cx.broadcast(conns.iter().copied(), b"b"), 2);
        assert_eq!(cx.broadcast([conns[0], conns[1]], vec![b'c']), 2);
        for conn in &conns {
            let _ = cx.send(*conn, String::from("d")).expect("it is open");
            let _ = cx.send_unframed(*conn, "e\n").expect("it is open");
        }
    });
    idle(&mut reactor);
    for client in &mut clients {
        let mut received = [0; 10];
        client.read_exact(&mut received).expect("all lines arrive");
        assert_eq!(&received, b"a\nb\nc\nd\ne\n");
    }
}

/// The close deadline is two minutes in the configuration, and 1 ms in the limits of the
/// connection. The peer never closes.
#[test]
fn own_close_deadline_ends_a_close_before_that_of_the_config() {
    let config = Config::new().close_deadline(2 * DEADLINE);
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::line());
    let _client = open(&mut reactor, addr);
    reactor.with(|probe, cx| {
        let Some(Event::Open(conn, _)) = probe.events.first() else {
            panic!("no connection is open: {:?}", probe.events);
        };
        let limits = cx.limits(*conn).expect("it is open");
        assert_eq!(limits.close_deadline, 2 * DEADLINE);
        let limits = limits.close_deadline(Duration::from_millis(1));
        cx.set_limits(*conn, limits).expect("the limits are valid");
        cx.close(*conn);
    });
    drive(&mut reactor, |reactor| {
        !reactor.handler().closes().is_empty()
    });
    let reason = &reactor.handler().only_close().reason;
    assert!(matches!(reason, CloseReason::CloseTimeout), "{reason}");
}

/// Six of the setters are tested together.
#[test]
fn setters_of_config_change_the_field_of_their_name() {
    let second = Duration::from_secs(1);
    let config = Config::new()
        .connections_max(1)
        .backlog(2)
        .read_above_high(true)
        .close_deadline(second)
        .idle_timeout(second)
        .busy_poll(None);
    let mut expected = Config::default();
    expected.connections_max = 1;
    expected.backlog = 2;
    expected.read_above_high = true;
    expected.close_deadline = second;
    expected.idle_timeout = Some(second);
    assert_eq!(format!("{config:?}"), format!("{expected:?}"));
}
