//! Output of TLS connections: it is written at once, and not only after an event.

use std::io::Write;

use rustls::Connection;
use rustls::client::Resumption;
use rustls::version::TLS13;

use super::tls_cuts::TlsPeer;
use super::tls_peer::{VERSIONS, client_config};
use super::*;

/// The poll reports a change to writable, and a new socket is writable from the start. So after the
/// event of the connect no event reports that the socket is writable.
#[test]
fn tls_output_is_written_without_a_writable_event() {
    for version in VERSIONS {
        let (mut peer, conn) = TlsPeer::server(version);
        assert_eq!(peer.reactor.stats().events, 1, "only the connect");
        peer.receive();
        assert!(peer.session.wants_write(), "the ClientHello has arrived");
        peer.shake(&[]);
        peer.send(&[]);

        let events = peer.reactor.stats().events;
        for payload in [&b""[..], b"a", &[7; 255]] {
            let sent = peer.reactor.with(|_, cx| cx.send(conn, payload));
            assert!(sent.is_ok(), "{sent:?}");
            turn(&mut peer.reactor);
            let len = u8::try_from(payload.len()).expect("the payload is short");
            assert_eq!(peer.receive(), [&[len][..], payload].concat());
        }
        let ended = peer.reactor.with(|_, cx| cx.half_close(conn));
        ended.expect("the connection is open");
        turn(&mut peer.reactor);
        peer.receive();
        assert!(has_ended(&mut peer), "the close_notify has arrived");
        assert_eq!(peer.reactor.stats().events, events);
    }
}

fn has_ended(peer: &mut TlsPeer) -> bool {
    let state = peer.session.process_new_packets();
    state.expect("valid records").peer_has_closed()
}

/// Returns the number of session tickets that a client has received.
fn tickets(client: &TlsPeer) -> u32 {
    match &client.session {
        Connection::Client(session) => session.tls13_tickets_received(),
        Connection::Server(_) => 0,
    }
}

/// Completes the handshake of a client, apart from the last flight of the client.
fn client() -> TlsPeer {
    let config = client_config(&TLS13, Resumption::in_memory_sessions(8));
    let mut client = TlsPeer::client(&TLS13, config);
    client.shake(&[]);
    client
}

/// The client's last flight and its first request arrive together, so the server's tickets and its
/// reply leave together.
#[test]
fn tickets_and_the_first_reply_share_a_write() {
    let mut client = client();
    let mut writer = client.session.writer();
    writer.write_all(b"\x01a").expect("memory can be written");
    let before = client.peer.faults().calls().writes;
    client.send(&[]);
    assert_eq!(client.peer.faults().calls().writes - before, 1);
    assert_eq!(client.receive(), b"\x01a");
    assert_eq!(tickets(&client), 2);
}

/// The server has nothing to send, so its tickets leave at the end of the turn.
#[test]
fn tickets_leave_without_a_reply() {
    let mut client = client();
    let before = client.peer.faults().calls().writes;
    client.send(&[]);
    assert_eq!(client.peer.faults().calls().writes - before, 1);
    client.receive();
    assert_eq!(tickets(&client), 2);
}

/// The socket takes a part of the first records. The records that wait count as queued.
#[test]
fn records_that_wait_for_the_socket_are_not_drained() {
    let mut config = Config::default();
    (config.write_high_bytes, config.write_low_bytes) = (20_000, 10_000);
    let mut reactor = Transport::Tls.reactor_with(config);
    let script = Script::new();
    let conn = open(&mut reactor, script, Framing::raw());
    script.then_write([
        WriteResult::Takes(100),
        WriteResult::Fails(ErrorKind::WouldBlock),
    ]);
    // The filter accepts three full records, so fewer bytes than the low watermark are left.
    let payload = [7; 55_000];
    let sent = reactor.with(|_, cx| cx.send(conn, payload));
    assert!(matches!(sent, Ok(Sent::AboveHigh)), "{sent:?}");
    turn(&mut reactor);
    assert_eq!(reactor.handler.drains, 0);
    let queued = reactor.with(|_, cx| cx.queued_bytes(conn));
    assert_eq!(queued, Ok(payload.len()));
    event(&mut reactor, conn, Ready::WRITABLE);
    assert_eq!(reactor.handler.drains, 1);
    assert_eq!(reactor.with(|_, cx| cx.queued_bytes(conn)), Ok(0));
}
