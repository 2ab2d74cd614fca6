//! Headers of the PROXY protocol on connections.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use common::{DEADLINE, drive, settle};
use unstick::{
    Addr, CloseReason, Closed, Config, ConnId, ConnectOptions, Context, Framing, Handler, Hangup,
    ListenOptions, ListenerId, Origin, ProxyError, ProxyHeader, ProxyProtocol, Reactor, Refusal,
};

/// A handler that records its callbacks as text, and echoes each frame.
#[derive(Debug, Default)]
struct Log {
    events: Vec<String>,
    errors: Vec<ProxyError>,
    detached: Vec<unstick::Detached>,
    /// The connection that opened last.
    last: Option<ConnId>,
}

impl Log {
    fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }
}

impl Handler for Log {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
        let client = match cx.proxied(conn) {
            Some(header) if header.is_local() => "local".to_owned(),
            Some(header) => header
                .source()
                .map_or_else(|| "unknown".to_owned(), Addr::to_string),
            None => "direct".to_owned(),
        };
        self.events.push(format!("open {client}"));
        self.last = Some(conn);
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        self.events.push(format!("frame {}", frame.escape_ascii()));
        let _ = cx.send(conn, frame).expect("the queue has space");
    }

    fn on_refused(
        &mut self,
        _: &mut Context<'_, Self>,
        _: ListenerId,
        peer: &Addr,
        refusal: Refusal,
    ) {
        let ip = peer.inet().map(|peer| peer.ip());
        self.events.push(format!("refused {ip:?} {refusal:?}"));
    }

    fn on_hangup(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: Hangup) {
        self.events.push("hangup".to_owned());
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: (), closed: Closed) {
        match closed.reason {
            CloseReason::ProxyHeader(error) => self.errors.push(error),
            CloseReason::Detached(detached) => self.detached.push(detached),
            reason => {
                let header = cx.proxied(conn).is_some();
                self.events.push(format!("close {reason}, header {header}"));
            }
        }
    }
}

fn required() -> ProxyProtocol {
    ProxyProtocol::required().trust("127.0.0.1".parse().expect("an address"))
}

fn optional() -> ProxyProtocol {
    ProxyProtocol::optional().trust("127.0.0.1".parse().expect("an address"))
}

fn header_of(client: [u8; 4]) -> ProxyHeader {
    let client = SocketAddr::from((client, 4000));
    let server = SocketAddr::from(([198, 51, 100, 1], 443));
    ProxyHeader::new(client, server).expect("both are IP addresses")
}

fn header() -> ProxyHeader {
    header_of([192, 0, 2, 7])
}

/// Checks that the server has closed the connection of a client, with a FIN or a reset.
fn assert_ended(client: &mut TcpStream) {
    match client.read(&mut [0; 1]) {
        Ok(len) => assert_eq!(len, 0),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

const OPEN: &str = "open 192.0.2.7:4000";

/// A server whose listener has a policy for headers of the PROXY protocol.
struct Rig {
    reactor: Reactor<Log>,
    addr: SocketAddr,
}

impl Rig {
    fn new(policy: ProxyProtocol, framing: Framing) -> Self {
        Self::with_config(policy, framing, Config::default())
    }

    fn with_config(policy: ProxyProtocol, framing: Framing, config: Config) -> Self {
        let reactor = Reactor::with_config(Log::default(), config);
        let mut reactor = reactor.expect("the reactor is created");
        let options = ListenOptions::new().proxy_protocol(policy);
        let listener = reactor.with(|_, cx| cx.listen_with("127.0.0.1:0", framing, &options));
        let listener = listener.expect("port 0 is free");
        let addr = reactor.local_inet_addr(listener).expect("it is bound");
        Self { reactor, addr }
    }

    fn client(&mut self) -> TcpStream {
        let client = common::client(self.addr);
        settle(&mut self.reactor);
        client
    }

    /// Sends the first bytes of a new client, and returns the client.
    fn client_with(&mut self, bytes: &[u8]) -> TcpStream {
        let mut client = self.client();
        client.write_all(bytes).expect("the server reads");
        settle(&mut self.reactor);
        client
    }

    fn events(&mut self) -> Vec<String> {
        self.reactor.handler_mut().take()
    }

    /// Runs until the only connection has failed. Returns the error.
    fn error(&mut self) -> ProxyError {
        drive(&mut self.reactor, |it| !it.handler().errors.is_empty());
        assert_eq!(
            self.events(),
            Vec::<String>::new(),
            "the connection never opened"
        );
        assert_eq!(self.reactor.stats().connections, 0);
        self.reactor
            .handler_mut()
            .errors
            .pop()
            .expect("there is an error")
    }
}

#[test]
fn connection_opens_after_its_proxy_header_for_every_cut() {
    let with_tlv = header()
        .tlv(ProxyHeader::UNIQUE_ID, b"7")
        .expect("the TLV is short");
    for header in [with_tlv.encode(), header().version_1().encode()] {
        let stream = [&header[..], b"\x01a\x02bc"].concat();
        let mut rig = Rig::new(required(), Framing::length_u8());
        for cut in 0..=stream.len() {
            let mut client = rig.client_with(&stream[..cut]);
            let is_open = rig
                .reactor
                .handler()
                .events
                .first()
                .is_some_and(|it| it == OPEN);
            assert_eq!(is_open, cut >= header.len(), "cut at {cut}");
            client.write_all(&stream[cut..]).expect("the server reads");
            let mut echo = [0; 5];
            drive(&mut rig.reactor, |it| it.handler().events.len() == 3);
            client.read_exact(&mut echo).expect("the server echoes");
            assert_eq!(&echo, b"\x01a\x02bc");
            assert_eq!(rig.events(), [OPEN, "frame a", "frame bc"], "cut at {cut}");
            drop(client);
            drive(&mut rig.reactor, |it| it.stats().connections == 0);
            assert_eq!(rig.events(), ["close closed by the peer, header true"]);
        }
    }
}

#[test]
fn connection_without_a_valid_proxy_header_is_reset() {
    let ip = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let too_long = format!("PROXY UNKNOWN  {ip} {ip} 65535 65535\r\n");
    let mut lies = header().encode();
    lies[15] = 11;
    let mut long = header().encode();
    long[14..16].copy_from_slice(&u16::to_be_bytes(4096));
    let mut tlv = header().tlv(1, b"h2").expect("the TLV is short").encode();
    tlv[30] = 3;
    for (bytes, expected) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), "Missing"),
        (b"PROXY TCP4 localhost".to_vec(), "TimedOut"),
        (b"PROXY TCP4 localhost ::1 1 1\r\n".to_vec(), "Malformed"),
        (too_long.into_bytes(), "TooLong { len: 108, limit: 107 }"),
        (lies, "Malformed"),
        (tlv, "Malformed"),
        (long, "TooLong { len: 4112, limit: 4096 }"),
    ] {
        let mut rig = Rig::new(
            required().deadline(Duration::from_millis(50)),
            Framing::line(),
        );
        let mut client = rig.client_with(&bytes);
        let error = format!("{:?}", rig.error());
        assert!(
            error.starts_with(expected),
            "{error} for {}",
            bytes.escape_ascii()
        );
        let end = client.read(&mut [0; 1]);
        // At the deadline, the connection is closed with a FIN.
        let is_timeout = expected == "TimedOut";
        assert!(is_timeout || end.is_err_and(|it| it.kind() == ErrorKind::ConnectionReset));
        let stats = rig.reactor.stats();
        assert_eq!((stats.preparations_failed, stats.preparing), (1, 0));
    }
}

#[test]
fn stream_that_ends_inside_of_its_proxy_header_is_reported() {
    let whole = header().encode();
    for len in [0, 1, 12, whole.len() - 1] {
        let mut rig = Rig::new(required(), Framing::line());
        drop(rig.client_with(&whole[..len]));
        assert_eq!(rig.error(), ProxyError::Ended, "{len} bytes");
    }
}

#[test]
fn silent_connection_fails_at_the_proxy_header_deadline() {
    let mut rig = Rig::new(
        required().deadline(Duration::from_millis(20)),
        Framing::line(),
    );
    let _client = rig.client();
    assert_eq!(rig.error(), ProxyError::TimedOut);
}

#[test]
fn untrusted_peer_is_refused_or_direct() {
    let untrusted = "127.0.0.2".parse().expect("an address");
    let line = header().version_1().encode();
    let mut rig = Rig::new(ProxyProtocol::required().trust(untrusted), Framing::line());
    let mut client = rig.client_with(&line);
    assert_eq!(rig.events(), ["refused Some(127.0.0.1) UntrustedProxy"]);
    assert_ended(&mut client);

    let mut rig = Rig::new(ProxyProtocol::optional().trust(untrusted), Framing::line());
    let _client = rig.client_with(&line);
    let frame = "frame PROXY TCP4 192.0.2.7 198.51.100.1 4000 443";
    assert_eq!(rig.events(), ["open direct", frame]);
}

/// The second header comes from the client, so it must not replace the first one.
#[test]
fn second_proxy_header_belongs_to_the_framing() {
    let forged = header_of([203, 0, 113, 9]);
    let lines = [
        header().version_1().encode(),
        forged.clone().version_1().encode(),
    ]
    .concat();
    let mut rig = Rig::new(required(), Framing::line());
    let _client = rig.client_with(&lines);
    let frame = "frame PROXY TCP4 203.0.113.9 198.51.100.1 4000 443";
    assert_eq!(rig.events(), [OPEN, frame]);

    let mut rig = Rig::new(required(), Framing::length_u32());
    let _client = rig.client_with(&[header().encode(), forged.encode()].concat());
    let events = rig.events();
    assert_eq!(events[0], OPEN);
    drop(_client);
    drive(&mut rig.reactor, |it| it.stats().closed == 1);
    let closed = rig.events().pop().expect("the connection has ended");
    assert!(
        closed.starts_with("close frame of 218762506 bytes exceeds"),
        "{closed}"
    );
}

#[test]
fn optional_proxy_header_lets_direct_clients_through() {
    for first in [
        &b"hello\n"[..],
        b"P\n",
        b"PROXX\n",
        b"\r\n",
        b"\r\n\r\n\0\n",
    ] {
        let mut rig = Rig::new(optional(), Framing::line());
        let _client = rig.client_with(&[first, b"end\r\n"].concat());
        let events = rig.events();
        assert_eq!(events[0], "open direct", "{}", first.escape_ascii());
        assert!(
            events.last().is_some_and(|it| it.ends_with("end")),
            "{events:?}"
        );
    }
    let mut rig = Rig::new(optional(), Framing::line());
    let _client = rig.client_with(&[&header().encode()[..], b"one\n"].concat());
    assert_eq!(rig.events(), [OPEN, "frame one"]);
    let mut rig = Rig::new(optional(), Framing::line());
    let _client = rig.client_with(b"PROXY nonsense\r\n");
    assert!(matches!(rig.error(), ProxyError::Malformed(_)));
}

#[test]
fn direct_client_opens_at_the_deadline_or_its_end() {
    let policy = || optional().deadline(Duration::from_millis(20));
    let mut rig = Rig::new(policy(), Framing::raw());
    let _silent = rig.client();
    drive(&mut rig.reactor, |it| !it.handler().events.is_empty());
    assert_eq!(rig.events(), ["open direct"]);
    let _client = rig.client_with(b"PR");
    drive(&mut rig.reactor, |it| it.handler().events.len() == 2);
    assert_eq!(rig.events(), ["open direct", "frame PR"]);

    let mut rig = Rig::new(optional(), Framing::raw());
    drop(rig.client_with(b"PR"));
    drive(&mut rig.reactor, |it| it.stats().closed == 1);
    let events = rig.events();
    assert_eq!(events[..2], ["open direct", "frame PR"]);

    let mut rig = Rig::new(policy(), Framing::raw());
    let _client = rig.client_with(b"PROXY TCP4");
    assert_eq!(rig.error(), ProxyError::TimedOut);
}

#[test]
fn local_and_unknown_proxy_headers_have_no_client() {
    for (bytes, event) in [
        (ProxyHeader::local().encode(), "open local"),
        (ProxyHeader::local().version_1().encode(), "open unknown"),
    ] {
        let mut rig = Rig::new(required(), Framing::line());
        let _client = rig.client_with(&bytes);
        assert_eq!(rig.events(), [event]);
    }
}

#[test]
fn limit_per_address_counts_the_proxied_client() {
    let mut config = Config::default();
    config.connections_per_addr_max = 2;
    let mut rig = Rig::with_config(required(), Framing::line(), config);
    let bytes = header().encode();
    let first = rig.client_with(&bytes);
    let _second = rig.client_with(&bytes);
    let _other = rig.client_with(&header_of([192, 0, 2, 8]).encode());
    assert_eq!(rig.events(), [OPEN, OPEN, "open 192.0.2.8:4000"]);
    for _ in 0..2 {
        let mut third = rig.client_with(&bytes);
        assert_eq!(rig.events(), ["refused Some(192.0.2.7) ConnectionsPerAddr"]);
        assert_ended(&mut third);
    }
    drop(first);
    drive(&mut rig.reactor, |it| it.stats().connections == 2);
    rig.events();
    let _third = rig.client_with(&bytes);
    assert_eq!(rig.events(), [OPEN]);
    let stats = rig.reactor.stats();
    assert_eq!((stats.refused, stats.preparing), (2, 0));

    // If the header is LOCAL, the connection counts for the address of the balancer.
    let local = ProxyHeader::local().encode();
    let _locals = [(); 3].map(|()| rig.client_with(&local));
    let refused = "refused Some(127.0.0.1) ConnectionsPerAddr";
    assert_eq!(rig.events(), ["open local", "open local", refused]);
}

#[test]
fn client_sends_its_proxy_header_before_queued_output() {
    for header in [header(), header().version_1()] {
        let mut rig = Rig::new(required(), Framing::line());
        let addr = rig.addr;
        rig.reactor.with(|_, cx| {
            let options = ConnectOptions::new().proxy_header(&header);
            let conn = cx.connect_with(addr, Framing::raw(), (), &options);
            let _ = cx.send(conn, b"queued\n").expect("the queue has space");
        });
        drive(&mut rig.reactor, |it| {
            it.handler()
                .events
                .iter()
                .any(|event| event == "frame queued")
        });
        let events = rig.events();
        assert!(events.contains(&OPEN.to_owned()), "{events:?}");
        assert!(events.contains(&"open direct".to_owned()), "{events:?}");
        assert_eq!(rig.reactor.stats().connected, 1);
    }
}

#[test]
fn proxy_header_moves_with_a_detached_connection() {
    let mut rig = Rig::new(required(), Framing::line());
    let _client = rig.client_with(&[&header().encode()[..], b"one\nhalf"].concat());
    assert_eq!(rig.events(), [OPEN, "frame one"]);
    let reactor = &mut rig.reactor;
    let conn = reactor.handler().last.expect("a connection has opened");
    let detached = reactor.with(|_, cx| cx.detach(conn));
    detached.expect("the connection is open");
    settle(reactor);
    let detached = reactor
        .handler_mut()
        .detached
        .pop()
        .expect("it is detached");
    let mut other = Reactor::new(Log::default()).expect("the reactor is created");
    other.with(|_, cx| cx.adopt_detached(detached, Framing::line(), ()));
    settle(&mut other);
    assert_eq!(other.handler_mut().take(), [OPEN]);
}

#[test]
#[cfg(unix)]
fn peer_of_a_unix_socket_is_trusted() {
    let dir = std::env::temp_dir().join(format!("unstick-proxied-{}", std::process::id()));
    let _ = std::fs::remove_file(&dir);
    let path = unstick::UnixAddr::from_pathname(&dir).expect("the path is short");
    let mut reactor = Reactor::new(Log::default()).expect("the reactor is created");
    let options = ListenOptions::new().proxy_protocol(ProxyProtocol::required());
    let listener = reactor.with(|_, cx| cx.listen_with(path, Framing::line(), &options));
    listener.expect("the path is free");
    let mut client = std::os::unix::net::UnixStream::connect(&dir).expect("it listens");
    client
        .set_read_timeout(Some(DEADLINE))
        .expect("the option can be set");
    client
        .write_all(&[&header().encode()[..], b"one\n"].concat())
        .expect("the server reads");
    drive(&mut reactor, |it| it.handler().events.len() == 2);
    assert_eq!(reactor.handler_mut().take(), [OPEN, "frame one"]);
    let _ = std::fs::remove_file(&dir);
}
