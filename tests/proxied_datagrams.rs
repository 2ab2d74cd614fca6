//! Headers of the PROXY protocol in UDP datagrams.

mod common;

use std::net::{SocketAddr, UdpSocket};

use common::drive;
use common::udp::{peer, receive};
use unstick::{
    Addr, Config, ConnId, Context, Datagram, Handler, IpNetwork, ProxyHeader, ProxyProtocol,
    Reactor, UdpId, UdpOptions,
};

/// A handler that records each datagram with the client of its header, and echoes the payload.
#[derive(Debug, Default)]
struct Recorder {
    seen: Vec<(Option<Addr>, Vec<u8>)>,
}

impl Handler for Recorder {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}

    fn on_datagram(&mut self, cx: &mut Context<'_, Self>, socket: UdpId, datagram: Datagram<'_>) {
        let client = datagram.proxied().and_then(ProxyHeader::source);
        self.seen.push((client.cloned(), datagram.data.to_vec()));
        let _ = cx.send_to(socket, datagram.from, datagram.data);
    }
}

fn network(text: &str) -> IpNetwork {
    text.parse().expect("the text is a network")
}

fn client() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 4000))
}

fn header() -> ProxyHeader {
    let to = SocketAddr::from(([198, 51, 100, 1], 53));
    ProxyHeader::new(client(), to)
        .expect("both are IP addresses")
        .datagram()
}

fn with_header(payload: &[u8]) -> Vec<u8> {
    [&header().encode(), payload].concat()
}

/// A server whose UDP socket has a policy for headers of the PROXY protocol, and a peer that is
/// connected to this socket.
struct Rig {
    reactor: Reactor<Recorder>,
    peer: UdpSocket,
}

impl Rig {
    fn new(policy: ProxyProtocol, config: Config) -> Self {
        let mut reactor =
            Reactor::with_config(Recorder::default(), config).expect("the reactor is created");
        let options = UdpOptions::new().proxy_protocol(policy);
        let socket = reactor.with(|_, cx| cx.bind_udp_with("127.0.0.1:0", &options));
        let socket = socket.expect("port 0 is free");
        let peer = peer();
        let server = reactor.local_inet_addr(socket).expect("the socket is open");
        peer.connect(server).expect("loopback is reachable");
        Self { reactor, peer }
    }

    fn send(&self, datagram: &[u8]) {
        self.peer
            .send(datagram)
            .expect("loopback accepts datagrams");
    }

    /// Runs until the server has handled `count` datagrams since its start.
    fn drive(&mut self, count: u64) {
        drive(&mut self.reactor, |reactor| {
            let stats = reactor.stats();
            stats.datagrams_in + stats.datagrams_refused >= count
        });
    }

    fn seen(&mut self) -> Vec<(Option<Addr>, Vec<u8>)> {
        std::mem::take(&mut self.reactor.handler_mut().seen)
    }
}

#[test]
fn datagram_payload_follows_its_proxy_header() {
    for batches in [true, false] {
        let mut config = Config::default();
        config.datagram_batches = batches;
        let mut rig = Rig::new(
            ProxyProtocol::required().trust(network("127.0.0.1")),
            config,
        );
        let with_tlv = header()
            .tlv(ProxyHeader::UNIQUE_ID, b"id")
            .expect("the TLV is short");
        rig.send(&with_header(b"one"));
        rig.send(&with_header(b""));
        rig.send(&[&with_tlv.encode()[..], b"three"].concat());
        rig.send(&[&ProxyHeader::local().encode()[..], b"check"].concat());
        rig.drive(4);
        let from = Some(Addr::from(client()));
        let expected = [
            (from.clone(), &b"one"[..]),
            (from.clone(), b""),
            (from, b"three"),
            (None, b"check"),
        ];
        let seen = rig.seen();
        assert!(
            seen.iter()
                .map(|(from, data)| (from.clone(), &data[..]))
                .eq(expected),
            "{seen:?}"
        );
        let replies = [(); 4].map(|()| receive(&rig.peer));
        assert_eq!(
            replies,
            [&b"one"[..], b"", b"three", b"check"],
            "replies go to the balancer"
        );
    }
}

#[test]
fn datagrams_without_a_valid_proxy_header_are_dropped() {
    let mut rig = Rig::new(
        ProxyProtocol::required().trust(network("127.0.0.0/8")),
        Config::default(),
    );
    let whole = header().encode();
    let mut refused: Vec<&[u8]> = (0..whole.len()).map(|cut| &whole[..cut]).collect();
    let line = header().version_1().encode();
    refused.extend([&b"direct"[..], &line]);
    let count = refused.len() as u64;
    for datagram in &refused {
        rig.send(datagram);
        // Wait for each datagram, because all datagrams together could overflow the receive buffer.
        let before = rig.reactor.stats();
        rig.drive(before.datagrams_in + before.datagrams_refused + 1);
    }
    rig.send(&with_header(b"valid"));
    rig.drive(count + 1);
    assert_eq!(rig.reactor.stats().datagrams_refused, count);
    assert_eq!(rig.seen().len(), 1, "the socket still delivers");
}

#[test]
fn untrusted_sender_cannot_set_the_client_of_a_datagram() {
    let untrusted = || network("127.0.0.9");
    let mut required = Rig::new(
        ProxyProtocol::required().trust(untrusted()),
        Config::default(),
    );
    required.send(&with_header(b"forged"));
    required.drive(1);
    assert_eq!(
        (required.seen(), required.reactor.stats().datagrams_refused),
        (vec![], 1)
    );

    let mut optional = Rig::new(
        ProxyProtocol::optional().trust(untrusted()),
        Config::default(),
    );
    optional.send(&with_header(b"forged"));
    optional.drive(1);
    assert_eq!(optional.seen(), [(None, with_header(b"forged"))]);
}

#[test]
fn optional_proxy_header_lets_direct_datagrams_through() {
    let policy = ProxyProtocol::optional().trust(network("127.0.0.1"));
    let mut rig = Rig::new(policy, Config::default());
    for datagram in [&b""[..], b"\r", b"PROXY TCP4", b"\r\n\r\n\0\r\nQUIT"] {
        rig.send(datagram);
    }
    rig.send(&with_header(b"proxied"));
    rig.send(&header().encode()[..20]);
    rig.drive(6);
    let seen = rig.seen();
    let clients = seen.iter().filter(|(client, _)| client.is_some()).count();
    assert_eq!((seen.len(), clients), (5, 1), "{seen:?}");
    assert_eq!(rig.reactor.stats().datagrams_refused, 1);
}

#[test]
fn datagram_limit_applies_after_the_proxy_header() {
    let mut config = Config::default();
    config.datagram_len_max = 4;
    let policy = ProxyProtocol::required()
        .trust(network("127.0.0.1"))
        .header_len_max(28);
    let mut rig = Rig::new(policy, config);
    rig.send(&with_header(b"1234"));
    rig.send(&with_header(b"12345"));
    let with_tlv = header().tlv(0xE0, b"").expect("the TLV is short");
    rig.send(&with_tlv.encode());
    rig.drive(3);
    let data: Vec<_> = rig.seen().into_iter().map(|(_, data)| data).collect();
    assert_eq!(data, [b"1234", b"1234"]);
    let stats = rig.reactor.stats();
    assert_eq!((stats.datagrams_truncated, stats.datagrams_refused), (1, 1));
}

/// Several datagrams of one sender may arrive as one message (`UDP_GRO`). Each has a header.
#[test]
#[cfg(all(target_os = "linux", feature = "udp-batch"))]
fn each_datagram_of_a_gro_message_has_a_proxy_header() {
    use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

    let policy = ProxyProtocol::required().trust(network("127.0.0.1"));
    let mut rig = Rig::new(policy, Config::default());
    let len = i32::try_from(with_header(b"00").len()).expect("the header is short");
    setsockopt(&rig.peer, UdpGsoSegment, &len).expect("the kernel supports segments");
    let datagrams: Vec<_> = (10..20)
        .map(|n| with_header(n.to_string().as_bytes()))
        .collect();
    rig.send(&datagrams.concat());
    rig.drive(10);
    let payloads: Vec<_> = rig.seen().into_iter().map(|(_, data)| data).collect();
    let expected: Vec<_> = (10..20).map(|n| n.to_string().into_bytes()).collect();
    assert_eq!(payloads, expected);
}

#[test]
fn adopted_udp_socket_expects_proxy_headers() {
    let options =
        UdpOptions::new().proxy_protocol(ProxyProtocol::required().trust(network("127.0.0.1")));
    let mut rig = Rig::new(ProxyProtocol::optional(), Config::default());
    let near = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
    let server = near.local_addr().expect("the socket is bound");
    rig.peer.connect(server).expect("loopback is reachable");
    rig.send(&with_header(b"before the adoption"));
    rig.reactor
        .with(|_, cx| cx.adopt_udp_with(near, &options))
        .expect("the socket is a UDP socket");
    rig.send(b"no header");
    rig.send(&with_header(b"after"));
    rig.drive(3);
    let from = Some(Addr::from(client()));
    let expected = [
        (from.clone(), b"before the adoption".to_vec()),
        (from, b"after".to_vec()),
    ];
    assert_eq!(rig.seen(), expected);
    assert_eq!(rig.reactor.stats().datagrams_refused, 1);
}
