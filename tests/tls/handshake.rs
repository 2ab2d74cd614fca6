//! Handshakes: success, failures with their reasons, limits and the deadline.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::common::tls::{
    Authority, client_config, client_config_mutual, client_config_with, server_config,
    server_config_mutual, server_config_with, server_name, tls_client,
};
use super::common::{self, Event, Probe, client, drive, listening, settle};
use super::{opened, tls_connect, tls_listening};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use unstick::{
    CloseReason, Config, ConnectOptions, Framing, ListenOptions, Reactor, Refusal, TlsVersion,
};

/// Runs a client against a server in one reactor until both connections are closed. Returns the
/// reactor, and the reasons of the server and of the client.
fn reasons(
    server: ServerConfig,
    client: ClientConfig,
    name: &'static str,
) -> (Reactor<Probe>, String, String) {
    let (mut reactor, addr, _) = tls_listening(
        Probe::silent(),
        Config::default(),
        Framing::line(),
        server.into(),
    );
    let name = ServerName::try_from(name).expect("the name is valid");
    let options = ConnectOptions::new().tls(client.into(), name);
    let client = reactor.with(|_, cx| cx.connect_with(addr, Framing::line(), (), &options));
    drive(&mut reactor, |reactor| {
        reactor.handler().closes().len() == 2
    });
    let reason = |is_client| {
        let closes = reactor.handler().closes();
        let mut of_side = closes
            .iter()
            .filter(|(conn, _)| (*conn == client) == is_client);
        of_side
            .next()
            .expect("both sides closed")
            .1
            .reason
            .to_string()
    };
    let (server, client) = (reason(false), reason(true));
    (reactor, server, client)
}

#[test]
fn session_reports_version_suite_alpn_name_and_certificates() {
    let mut server = server_config_mutual();
    server.alpn_protocols = vec![b"h2".to_vec(), b"echo".to_vec()];
    let mut tls = client_config_mutual(Authority::trusted());
    tls.alpn_protocols = vec![b"echo".to_vec()];
    let framing = Framing::line();
    let (mut reactor, addr, _) = tls_listening(
        Probe::silent(),
        Config::default(),
        framing.clone(),
        server.into(),
    );
    let client = tls_connect(&mut reactor, addr, framing, tls.into());
    drive(&mut reactor, |reactor| opened(reactor).len() == 2);
    for conn in opened(&reactor) {
        reactor.with(|_, cx| {
            let tls = cx.tls(conn).expect("the handshake is done");
            assert_eq!(tls.version(), TlsVersion::Tls13);
            assert!(tls.cipher_suite().starts_with("TLS13_"), "{tls:?}");
            assert_eq!(tls.alpn(), Some(&b"echo"[..]));
            let name = (conn != client).then_some("localhost");
            assert_eq!(tls.server_name(), name);
            assert_eq!(tls.peer_certificates().count(), 1);
            assert!(!tls.is_resumed());
        });
    }
    let stats = reactor.stats();
    assert_eq!((stats.tls_handshakes, stats.tls_established), (2, 2));
}

#[test]
fn second_session_of_a_client_is_resumed() {
    let (mut reactor, addr, _) = tls_listening(
        Probe::silent(),
        Config::default(),
        Framing::line(),
        server_config(),
    );
    let tls = Arc::new(client_config_with(&common::tls::VERSIONS));
    for count in [2, 4] {
        let client = tls_connect(&mut reactor, addr, Framing::line(), tls.clone());
        drive(&mut reactor, |reactor| opened(reactor).len() == count);
        // The server sends its tickets after the handshake, without output of the program.
        settle(&mut reactor);
        let resumed = reactor.with(|_, cx| cx.tls(client).expect("it is open").is_resumed());
        assert_eq!(resumed, count == 4);
    }
    assert_eq!(reactor.stats().tls_resumed, 2);
}

#[test]
fn rejected_certificates_close_both_sides_with_the_reason() {
    let expired = || {
        let (chain, key) = Authority::trusted().issue_expired("localhost");
        let builder = ServerConfig::builder().with_no_client_auth();
        builder.with_single_cert(chain, key).expect("the key fits")
    };
    let unknown = || {
        let (chain, key) = Authority::unknown().issue("localhost");
        let builder = ServerConfig::builder().with_no_client_auth();
        builder.with_single_cert(chain, key).expect("the key fits")
    };
    let cases = [
        (expired(), "localhost", "expired", "CertificateExpired"),
        (unknown(), "localhost", "UnknownIssuer", "UnknownCA"),
        (
            server_config_with("other", &common::tls::VERSIONS),
            "localhost",
            "not valid for name",
            "BadCertificate",
        ),
    ];
    for (server, name, of_client, of_server) in cases {
        let (reactor, server, client) =
            reasons(server, client_config_with(&common::tls::VERSIONS), name);
        assert!(
            client.starts_with("TLS: ") && client.contains(of_client),
            "{client}"
        );
        assert!(
            server.starts_with("TLS: ") && server.contains(of_server),
            "{server}"
        );
        assert!(opened(&reactor).is_empty(), "on_open was called");
        assert_eq!(reactor.stats().tls_failed, 2);
    }
}

#[test]
fn client_without_an_accepted_certificate_is_refused() {
    for authority in [None, Some(Authority::unknown())] {
        let client = match authority {
            None => client_config_with(&common::tls::VERSIONS),
            Some(authority) => client_config_mutual(authority),
        };
        let (_, server, client) = reasons(server_config_mutual(), client, "localhost");
        assert!(server.starts_with("TLS: "), "{server}");
        assert!(client.starts_with("TLS: received fatal alert"), "{client}");
    }
}

#[test]
fn versions_without_overlap_fail_on_both_sides() {
    let server = server_config_with("localhost", &[&rustls::version::TLS12]);
    let client = client_config_with(&[&rustls::version::TLS13]);
    let (_, server, client) = reasons(server, client, "localhost");
    assert!(
        server.contains("version") || server.contains("Tls12"),
        "{server}"
    );
    assert!(client.starts_with("TLS: received fatal alert"), "{client}");
}

/// Sends bytes to a TLS listener, and returns the reason of the close. If `end` is true, the client
/// then sends a FIN. Otherwise the client must receive an alert.
fn reason_of(bytes: &[u8], end: bool) -> String {
    let (mut reactor, addr, _) = tls_listening(
        Probe::silent(),
        Config::default(),
        Framing::line(),
        server_config(),
    );
    let mut client = client(addr);
    client.write_all(bytes).expect("the server reads");
    if end {
        client
            .shutdown(std::net::Shutdown::Write)
            .expect("the connection is open");
        drive(&mut reactor, |reactor| {
            !reactor.handler().closes().is_empty()
        });
    } else {
        // The server sends its alert, ends its side and waits for the client.
        drive(&mut reactor, |reactor| {
            reactor.stats().preparations_failed == 1
        });
        let before = reactor.stats().turns;
        settle(&mut reactor);
        assert!(reactor.stats().turns - before < 10, "the reactor is busy");
        let mut alert = Vec::new();
        client.read_to_end(&mut alert).expect("no reset");
        assert_eq!(alert.first(), Some(&21), "an alert is expected: {alert:?}");
        drop(client);
        drive(&mut reactor, |reactor| {
            !reactor.handler().closes().is_empty()
        });
    }
    assert!(opened(&reactor).is_empty());
    assert_eq!(reactor.stats().held_bytes, 0);
    reactor.handler().only_close().reason.to_string()
}

#[test]
fn plain_text_on_a_tls_port_gets_an_alert_and_a_typed_close() {
    let reason = reason_of(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", false);
    assert!(
        reason.starts_with("TLS: received corrupt message"),
        "{reason}"
    );
    for seed in 0..20 {
        let mut random = common::Random(seed);
        let mut bytes = random.bytes(200);
        // A record type that does not exist.
        bytes[0] = 99;
        let reason = reason_of(&bytes, false);
        assert!(reason.starts_with("TLS: "), "{reason}");
    }
}

/// Returns the bytes of a client's first flight.
fn client_hello() -> Vec<u8> {
    let mut session = rustls::ClientConnection::new(client_config(), server_name())
        .expect("the configuration is valid");
    let mut hello = Vec::new();
    session
        .write_tls(&mut hello)
        .expect("memory can be written");
    hello
}

#[test]
fn stream_that_ends_within_the_handshake_is_truncated() {
    let hello = client_hello();
    for len in [0, 1, 5, hello.len() / 2, hello.len()] {
        let reason = reason_of(&hello[..len], true);
        assert_eq!(reason, CloseReason::TlsTruncated.to_string(), "{len} bytes");
    }
}

#[test]
fn half_a_client_hello_is_closed_at_the_deadline() {
    let mut config = Config::default();
    config.tls_handshake_timeout = Duration::from_millis(200);
    let hello = client_hello();
    for sent in [0, 1, hello.len() / 2] {
        let (mut reactor, addr, _) = tls_listening(
            Probe::silent(),
            config.clone(),
            Framing::line(),
            server_config(),
        );
        let mut client = client(addr);
        client.write_all(&hello[..sent]).expect("the server reads");
        drive(&mut reactor, |reactor| {
            !reactor.handler().closes().is_empty()
        });
        let reason = &reactor.handler().only_close().reason;
        assert!(
            matches!(reason, CloseReason::TlsHandshakeTimeout),
            "{reason:?}"
        );
        let stats = reactor.stats();
        assert_eq!(
            (stats.preparations_failed, stats.preparations_timed_out),
            (1, 1)
        );
        assert_eq!((stats.preparing, stats.connections), (0, 0));
        assert!(
            stats.turns < 100,
            "the reactor is busy: {} turns",
            stats.turns
        );
    }
}

/// The server never replies.
#[test]
fn client_handshake_has_a_deadline_too() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("the listener is bound");
    let mut config = Config::default();
    config.tls_handshake_timeout = Duration::from_millis(100);
    let mut reactor = Reactor::with_config(Probe::silent(), config).expect("valid");
    let conn = tls_connect(&mut reactor, addr, Framing::line(), client_config());
    reactor.with(|_, cx| {
        let _ = cx.send(conn, b"early").expect("the queue has space");
    });
    drive(&mut reactor, |reactor| {
        !reactor.handler().closes().is_empty()
    });
    let closed = reactor.handler().only_close();
    assert!(matches!(closed.reason, CloseReason::TlsHandshakeTimeout));
    assert_eq!(closed.unsent_bytes, 6, "the payload and its delimiter");
    let mut stream = listener.accept().expect("the client has connected").0;
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received);
    assert!(
        !received.windows(5).any(|it| it == b"early"),
        "plaintext leaked"
    );
}

#[test]
fn connections_in_the_handshake_are_limited() {
    let mut config = Config::default();
    config.preparing_max = 2;
    let (mut reactor, addr, _) =
        tls_listening(Probe::silent(), config, Framing::line(), server_config());
    let silent: Vec<TcpStream> = (0..3).map(|_| client(addr)).collect();
    drive(&mut reactor, |reactor| reactor.stats().refused == 1);
    let refused = |event: &Event| matches!(event, Event::Refused(_, _, Refusal::Preparing));
    assert_eq!(reactor.handler().count(refused), 1);
    assert_eq!(reactor.stats().preparing, 2);
    drop(silent);
    drive(&mut reactor, |reactor| reactor.stats().preparing == 0);
    tls_connect(&mut reactor, addr, Framing::line(), client_config());
    drive(&mut reactor, |reactor| opened(reactor).len() == 2);
}

/// All clients send their first flight before the next turn of the server.
#[test]
fn handshake_budget_bounds_the_handshakes_of_a_turn() {
    let mut config = Config::default();
    config.tls_handshake_budget = 2;
    let (mut reactor, addr, _) =
        tls_listening(Probe::silent(), config, Framing::line(), server_config());
    let mut clients: Vec<TcpStream> = (0..9).map(|_| client(addr)).collect();
    drive(&mut reactor, |reactor| reactor.stats().accepted == 9);
    for client in &mut clients {
        client.write_all(&client_hello()).expect("the server reads");
    }
    drive(&mut reactor, |reactor| reactor.stats().tls_handshakes > 0);
    let mut before = reactor.stats().tls_handshakes;
    assert!(before <= 2, "{before} handshakes in the first turn");
    while before < 9 {
        let timeout = reactor.next_turn_in();
        assert_eq!(
            timeout,
            Some(Duration::ZERO),
            "handshakes wait, but no turn is due"
        );
        reactor.turn(None).expect("polling succeeds");
        let begun = reactor.stats().tls_handshakes;
        assert!(
            begun - before <= 2,
            "{} handshakes in one turn",
            begun - before
        );
        before = begun;
    }
}

#[test]
fn early_data_is_refused_in_both_configurations() {
    let mut tls = server_config_with("localhost", &common::tls::VERSIONS);
    tls.max_early_data_size = 1000;
    let tls = Arc::new(tls);
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::line());
    let options = ListenOptions::new().tls(tls.clone());
    let listened = reactor.with(|_, cx| cx.listen_with("127.0.0.1:0", Framing::line(), &options));
    let error = listened.expect_err("early data is refused");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    let mut tls = client_config_with(&common::tls::VERSIONS);
    tls.enable_early_data = true;
    tls_connect(&mut reactor, addr, Framing::line(), tls.into());
    drive(&mut reactor, |reactor| {
        !reactor.handler().closes().is_empty()
    });
    let reason = reactor.handler().only_close().reason.to_string();
    assert!(reason.contains("enable_early_data"), "{reason}");
}

/// Returns the certificate that a new client gets.
fn certificate(reactor: &mut Reactor<Probe>, addr: SocketAddr) -> Vec<u8> {
    let client = std::thread::spawn(move || {
        let config = Arc::new(client_config_with(&common::tls::VERSIONS));
        let mut client = tls_client(addr, config);
        common::tls::complete_handshake(&mut client);
        let certificates = client
            .conn
            .peer_certificates()
            .expect("it has a certificate");
        certificates[0].to_vec()
    });
    drive(reactor, |_| client.is_finished());
    client.join().expect("the client does not panic")
}

#[test]
fn new_certificates_apply_to_later_connections_only() {
    let (mut reactor, addr, listener) = tls_listening(
        Probe::echo(),
        Config::default(),
        Framing::line(),
        server_config(),
    );
    let first = certificate(&mut reactor, addr);
    let open = tls_connect(&mut reactor, addr, Framing::line(), client_config());
    drive(&mut reactor, |reactor| {
        opened(reactor).contains(&open) && reactor.stats().preparing == 0
    });
    let tls = server_config_with("localhost", &common::tls::VERSIONS).into();
    reactor.with(|_, cx| {
        cx.set_listener_tls(listener, tls)
            .expect("the listener is open")
    });
    let second = certificate(&mut reactor, addr);
    assert_ne!(first, second);
    let before = reactor.handler().frames().len();
    reactor.with(|_, cx| {
        let _ = cx.send(open, b"still open").expect("the queue has space");
    });
    drive(&mut reactor, |reactor| {
        reactor.handler().frames().len() >= before + 2
    });
}

#[test]
fn one_listener_accepts_tls_and_plain_connections() {
    let mut reactor = Reactor::new(Probe::echo()).expect("the reactor is created");
    let options = ListenOptions::new().tls_or_plain(server_config());
    let listener = reactor
        .with(|_, cx| cx.listen_with("127.0.0.1:0", Framing::line(), &options))
        .expect("a free port is available");
    let addr = reactor.local_inet_addr(listener).expect("it is bound");
    let clients = std::thread::spawn(move || {
        let mut plain = client(addr);
        let mut echo = [0; 6];
        plain.write_all(b"plain\n").expect("the server reads");
        plain.read_exact(&mut echo).expect("the server replies");
        assert_eq!(&echo, b"plain\n");
        let mut tls = tls_client(addr, client_config());
        tls.write_all(b"crypt\n").expect("the server reads");
        tls.read_exact(&mut echo).expect("the server replies");
        assert_eq!(&echo, b"crypt\n");
    });
    let mut has_tls = Vec::new();
    while has_tls.len() < 2 {
        drive(&mut reactor, |reactor| {
            reactor.handler().frames().len() > has_tls.len()
        });
        let conn = opened(&reactor)[has_tls.len()];
        has_tls.push(reactor.with(|_, cx| cx.tls(conn).is_some()));
    }
    assert_eq!(has_tls, [false, true]);
    drive(&mut reactor, |_| clients.is_finished());
    clients.join().expect("the clients do not panic");
}

#[cfg(unix)]
#[test]
fn tls_works_over_unix_sockets() {
    let mut reactor = Reactor::new(Probe::echo()).expect("the reactor is created");
    let path = std::env::temp_dir().join(format!("unstick-tls-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let addr = unstick::UnixAddr::from_pathname(&path).expect("the path is short");
    let options = ListenOptions::new().tls(server_config());
    reactor
        .with(|_, cx| cx.listen_with(&addr, Framing::line(), &options))
        .expect("the path is free");
    let options = ConnectOptions::new().tls(client_config(), server_name());
    let client = reactor.with(|_, cx| cx.connect_with(&addr, Framing::line(), (), &options));
    reactor.with(|_, cx| {
        let _ = cx.send(client, b"hello").expect("the queue has space");
    });
    drive(&mut reactor, |reactor| {
        reactor.handler().frames().len() >= 2
    });
    assert!(reactor.with(|_, cx| cx.tls(client).is_some()));
    let _ = std::fs::remove_file(&path);
}
