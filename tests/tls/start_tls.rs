//! TLS that starts in mid-stream.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use super::common::tls::{client_config, server_config, server_name};
use super::common::{Event, Probe, client, drive, listening};
use super::opened;
use rustls::{ClientConnection, StreamOwned};
use unstick::{CloseReason, Config, Framing, Reactor};

/// Returns a server that replies "go" to the line "STARTTLS", starts TLS, and echoes other lines.
fn server() -> (Reactor<Probe>, SocketAddr) {
    let probe = Probe::new(|cx, event| {
        if let Event::Frame(conn, frame) = event {
            if frame == b"STARTTLS" {
                let _ = cx.send(*conn, b"go").expect("there is space");
                cx.start_tls_server(*conn, server_config())
                    .expect("the connection is open");
                // This line leaves after the handshake.
                let _ = cx.send(*conn, b"secret").expect("there is space");
            } else {
                let _ = cx.send(*conn, frame);
            }
        }
    });
    listening(probe, Config::default(), Framing::line())
}

fn read_line(stream: &mut impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).expect("the server replies") == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).expect("lines are text")
}

fn upgraded(mut stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
    stream
        .write_all(b"hello\nSTARTTLS\n")
        .expect("the server reads");
    assert_eq!(read_line(&mut stream), "hello");
    assert_eq!(read_line(&mut stream), "go");
    let session = ClientConnection::new(client_config(), server_name());
    StreamOwned::new(session.expect("the configuration is valid"), stream)
}

#[test]
fn starttls_sends_the_reply_plain_and_later_lines_encrypted() {
    let (mut reactor, addr) = server();
    let client = std::thread::spawn(move || {
        let mut tls = upgraded(client(addr));
        assert_eq!(read_line(&mut tls), "secret");
        tls.write_all(b"crypt\n").expect("the server reads");
        assert_eq!(read_line(&mut tls), "crypt");
    });
    drive(&mut reactor, |_| client.is_finished());
    client.join().expect("the client does not panic");
    let frames = reactor.handler().frames();
    assert_eq!(frames, [&b"hello"[..], b"STARTTLS", b"crypt"]);
    assert_eq!(opened(&reactor).len(), 1, "on_open is called once");
}

#[test]
fn plaintext_behind_the_request_for_tls_is_refused() {
    let (mut reactor, addr) = server();
    let mut client = client(addr);
    client
        .write_all(b"STARTTLS\nDELETE everything\n")
        .expect("the server reads");
    client
        .shutdown(std::net::Shutdown::Write)
        .expect("the connection is open");
    drive(&mut reactor, |reactor| {
        !reactor.handler().closes().is_empty()
    });
    let probe = reactor.handler();
    assert_eq!(probe.frames(), [b"STARTTLS"]);
    match &probe.only_close().reason {
        CloseReason::Tls(error) => assert!(error.is_plaintext_before_tls(), "{error}"),
        reason => panic!("{reason:?}"),
    }
}

/// The client requests TLS, waits for the reply and then starts TLS, like a PostgreSQL client.
#[test]
fn client_starts_tls_after_the_reply_of_its_server() {
    let (mut reactor, addr) = server();
    let mut connector = Reactor::new(Probe::new(|cx, event| match event {
        Event::Open(conn, _) => {
            let _ = cx.send(*conn, b"STARTTLS").expect("there is space");
        }
        Event::Frame(conn, frame) if frame == b"go" => {
            cx.start_tls_client(*conn, client_config(), server_name())
                .expect("the connection is open");
            let _ = cx.send(*conn, b"query").expect("there is space");
        }
        _ => {}
    }))
    .expect("the reactor is created");
    let conn = connector.connect(addr, Framing::line(), ());
    drive(&mut reactor, |_| {
        connector
            .turn(Some(std::time::Duration::ZERO))
            .expect("polling succeeds");
        connector.handler().frames().len() == 3
    });
    let frames = connector.handler().frames();
    assert_eq!(frames, [&b"go"[..], b"secret", b"query"]);
    assert!(connector.with(|_, cx| cx.tls(conn).is_some()));
}

#[test]
fn start_tls_fails_on_connections_that_cannot_start() {
    let (mut reactor, addr) = server();
    let tls = server_config();
    let kind = |reactor: &mut Reactor<Probe>, conn| {
        let started = reactor.with(|_, cx| cx.start_tls_server(conn, Arc::clone(&tls)));
        started.expect_err("TLS cannot start").kind()
    };
    let connecting = reactor.connect(addr, Framing::line(), ());
    assert_eq!(
        kind(&mut reactor, connecting),
        std::io::ErrorKind::NotConnected
    );
    drive(&mut reactor, |reactor| opened(reactor).len() == 2);
    let conn = opened(&reactor)[0];
    reactor.with(|_, cx| cx.half_close(conn).expect("the connection is open"));
    assert_eq!(kind(&mut reactor, conn), std::io::ErrorKind::BrokenPipe);
    reactor.with(|_, cx| cx.abort(conn));
    drive(&mut reactor, |reactor| {
        reactor.handler().closes().len() == 2
    });
    assert_eq!(kind(&mut reactor, conn), std::io::ErrorKind::NotConnected);
    let client = std::thread::spawn(move || {
        let mut tls = upgraded(client(addr));
        read_line(&mut tls);
        tls
    });
    drive(&mut reactor, |_| client.is_finished());
    let _open = client.join().expect("the client does not panic");
    let conn = opened(&reactor)[2];
    assert_eq!(kind(&mut reactor, conn), std::io::ErrorKind::InvalidInput);
    reactor.with(|_, cx| {
        let detached = cx.detach(conn);
        let error = detached.expect_err("a TLS session cannot be detached");
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
    });
}
