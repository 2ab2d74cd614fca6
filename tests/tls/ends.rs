//! The ends of TLS connections: `close_notify`, truncation, half-close and abort.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

use super::common::tls::{
    TlsStream, VERSIONS, client_config, client_config_with, complete_handshake, end, server_config,
    server_config_with, tls_client,
};
use super::common::{Event, Probe, drive};
use super::{opened, pair, tls_connect, tls_listening};
use unstick::{CloseReason, Config, ConnId, Framing, Origin, Reactor};

/// Returns a reactor with a TLS listener, and a client whose handshake is done.
fn served(probe: Probe) -> (Reactor<Probe>, TlsStream) {
    let (mut reactor, addr, _) =
        tls_listening(probe, Config::default(), Framing::line(), server_config());
    let client = std::thread::spawn(move || {
        let mut client = tls_client(addr, client_config());
        complete_handshake(&mut client);
        client
    });
    drive(&mut reactor, |reactor| {
        client.is_finished() && opened(reactor).len() == 1
    });
    (reactor, client.join().expect("the client does not panic"))
}

#[test]
fn close_and_half_close_send_close_notify_after_the_output() {
    for is_half in [false, true] {
        let (mut reactor, mut client) = served(Probe::silent());
        let conn = opened(&reactor)[0];
        reactor.with(|_, cx| {
            let _ = cx.send(conn, &[b'x'; 300_000]).expect("there is space");
            match is_half {
                true => cx.half_close(conn).expect("the connection is open"),
                false => cx.close(conn),
            }
        });
        let client = std::thread::spawn(move || {
            let mut received = Vec::new();
            // rustls reports an end without `close_notify` as an error.
            client.read_to_end(&mut received).expect("a clean end");
            assert_eq!(received.len(), 300_001);
            if is_half {
                client.write_all(b"reply\n").expect("the server reads");
            }
            end(&mut client);
        });
        drive(&mut reactor, |reactor| {
            !reactor.handler().closes().is_empty()
        });
        client.join().expect("the client does not panic");
        let closed = reactor.handler().only_close();
        assert!(matches!(closed.reason, CloseReason::Local), "{closed:?}");
        assert_eq!(closed.unsent_bytes, 0);
        let frames = reactor.handler().frames();
        assert_eq!(
            frames,
            if is_half {
                vec![&b"reply"[..]]
            } else {
                Vec::new()
            }
        );
    }
}

#[test]
fn fin_without_close_notify_is_truncated_and_never_a_clean_end() {
    for version in VERSIONS {
        let tls = server_config_with("localhost", &[version]).into();
        let (mut reactor, addr, _) =
            tls_listening(Probe::echo(), Config::default(), Framing::line(), tls);
        let client = std::thread::spawn(move || {
            let tls = Arc::new(client_config_with(&VERSIONS));
            let mut client = tls_client(addr, tls);
            client.write_all(b"whole\nhalf").expect("the server reads");
            client.flush().expect("the server reads");
            client.sock.shutdown(Shutdown::Write).expect("it is open");
            let mut echo = Vec::new();
            client
                .read_to_end(&mut echo)
                .expect("a clean end of the server");
            assert_eq!(echo, b"whole\n", "output before the cut still arrives");
        });
        drive(&mut reactor, |reactor| {
            !reactor.handler().closes().is_empty()
        });
        client.join().expect("the client does not panic");
        let probe = reactor.handler();
        assert_eq!(probe.frames(), [b"whole"]);
        assert_eq!(probe.count(|event| matches!(event, Event::HalfClose(_))), 0);
        let closed = probe.only_close();
        assert!(
            matches!(closed.reason, CloseReason::TlsTruncated),
            "{closed:?}"
        );
        assert_eq!(closed.undecoded_bytes, 4);
        assert_eq!(reactor.stats().tls_truncated, 1);
    }
}

#[test]
fn clean_end_of_the_peer_is_a_half_close() {
    let mut probe = Probe::echo();
    probe.keep_half_closed = true;
    let (mut reactor, mut client) = served(probe);
    client.write_all(b"last\n").expect("the server reads");
    end(&mut client);
    let ended = |event: &Event| matches!(event, Event::HalfClose(_));
    drive(&mut reactor, |reactor| reactor.handler().count(ended) == 1);
    let conn = opened(&reactor)[0];
    reactor.with(|_, cx| {
        let _ = cx.send(conn, b"later").expect("the write half is open");
        cx.close(conn);
    });
    drive(&mut reactor, |reactor| {
        !reactor.handler().closes().is_empty()
    });
    let mut received = Vec::new();
    client.read_to_end(&mut received).expect("a clean end");
    assert_eq!(received, b"last\nlater\n");
    let closed = reactor.handler().only_close();
    assert!(matches!(closed.reason, CloseReason::Peer), "{closed:?}");
}

/// A `close_notify` without a FIN: many programs keep the socket open until the other side ends.
#[test]
fn close_notify_without_a_fin_ends_the_input() {
    let (mut reactor, mut client) = served(Probe::echo());
    client.write_all(b"last\n").expect("the server reads");
    client.conn.send_close_notify();
    client
        .conn
        .complete_io(&mut client.sock)
        .expect("the server reads");
    drive(&mut reactor, |reactor| {
        !reactor.handler().closes().is_empty()
    });
    let closed = reactor.handler().only_close();
    assert!(matches!(closed.reason, CloseReason::Peer), "{closed:?}");
    assert_eq!(reactor.handler().frames(), [b"last"]);
}

#[test]
fn abort_sends_neither_close_notify_nor_fin() {
    let (mut reactor, mut client) = served(Probe::silent());
    let conn = opened(&reactor)[0];
    reactor.with(|_, cx| cx.abort(conn));
    drive(&mut reactor, |reactor| {
        !reactor.handler().closes().is_empty()
    });
    let mut wire = Vec::new();
    let error = client.sock.read_to_end(&mut wire);
    assert_eq!(
        error.expect_err("a reset").kind(),
        ErrorKind::ConnectionReset
    );
    assert!(wire.len() < 3 || wire[0] != 21, "an alert was sent");
}

#[test]
fn corrupt_record_is_answered_by_an_alert() {
    let (mut reactor, mut client) = served(Probe::echo());
    client.write_all(b"good\n").expect("the server reads");
    let record = [23, 3, 3, 0, 30];
    client.sock.write_all(&record).expect("the server reads");
    client.sock.write_all(&[7; 30]).expect("the server reads");
    drive(&mut reactor, |reactor| {
        reactor.handler().frames() == [b"good"]
    });
    let client = std::thread::spawn(move || {
        let error = client.read(&mut [0]).expect_err("the alert arrives");
        assert!(error.to_string().contains("BadRecordMac"), "{error}");
    });
    drive(&mut reactor, |reactor| {
        !reactor.handler().closes().is_empty()
    });
    client.join().expect("the client does not panic");
    let closed = reactor.handler().only_close();
    assert!(closed.reason.to_string().contains("decrypt"), "{closed:?}");
    assert_eq!(closed.unsent_bytes, 5, "the alert ends the session");
    assert_eq!(reactor.stats().tls_failed, 1);
}

/// The socket's buffers are full, so most of the output is in the queue and in the filter.
#[test]
fn lost_output_is_counted_in_plaintext_bytes() {
    let (mut reactor, client, server) =
        pair(Probe::silent(), Config::default(), Framing::length_u32());
    let payload = vec![1; 1 << 20];
    reactor.with(|_, cx| {
        cx.pause(server).expect("the connection is open");
        for _ in 0..12 {
            let _ = cx.send(client, &payload).expect("there is space");
        }
    });
    for _ in 0..200 {
        reactor
            .turn(Some(std::time::Duration::ZERO))
            .expect("polling succeeds");
    }
    reactor.with(|_, cx| cx.abort(client));
    drive(&mut reactor, |reactor| {
        reactor.handler().closes().len() == 1
    });
    let closes = reactor.handler().closes();
    let (_, closed) = closes
        .iter()
        .find(|(conn, _)| *conn == client)
        .expect("the client has closed");
    let total = closed.unsent_bytes + closed.stats.written_bytes;
    assert_eq!(total, 12 * ((1 << 20) + 4), "{closed:?}");
    assert!(closed.unsent_bytes > 1 << 20, "{closed:?}");
}

/// Returns the number of ends of each kind: 10,000 in an optimised build, 200 otherwise.
fn ends_of_each_kind() -> usize {
    if cfg!(debug_assertions) { 200 } else { 10_000 }
}

/// The clients end their streams at once, alternately with and without a `close_notify`.
#[test]
fn thousands_of_clean_and_truncated_ends_are_told_apart() {
    let mut is_clean = false;
    let probe = Probe::new(move |cx, event| {
        if let Event::Open(conn, Origin::Connected) = *event {
            is_clean = !is_clean;
            let _ = cx.send(conn, b"last").expect("there is space");
            match is_clean {
                true => cx.close(conn),
                false => {
                    // The timer sends the FIN after the last line is written.
                    cx.set_timer(std::time::Duration::ZERO, conn.to_bits());
                }
            }
        }
        if let Event::Timer(_, key) = *event {
            let conn = ConnId::from_bits(key).expect("the key is an id");
            let socket = cx.socket_options(conn).expect("the connection is open");
            socket.shutdown(Shutdown::Write).expect("it is connected");
        }
    });
    let (mut reactor, addr, _) =
        tls_listening(probe, Config::default(), Framing::line(), server_config());
    let count = 2 * ends_of_each_kind();
    for begun in (0..count).step_by(50) {
        for _ in 0..50 {
            tls_connect(&mut reactor, addr, Framing::line(), client_config());
        }
        drive(&mut reactor, |reactor| {
            reactor.stats().closed == 2 * (begun as u64 + 50)
        });
    }
    let probe = reactor.handler();
    let (mut clean, mut truncated, mut clients) = (0, 0, 0);
    let mut is_client = std::collections::HashMap::new();
    for event in &probe.events {
        match event {
            Event::Open(conn, origin) => {
                is_client.insert(*conn, *origin == Origin::Connected);
            }
            Event::Close(conn, _) if is_client[conn] => clients += 1,
            Event::Close(_, closed) => match closed.reason {
                CloseReason::Peer => clean += 1,
                CloseReason::TlsTruncated => truncated += 1,
                _ => panic!("{closed:?}"),
            },
            _ => {}
        }
    }
    assert_eq!((clean, truncated, clients), (count / 2, count / 2, count));
    assert_eq!(probe.frames().len(), count, "no line is lost");
}
