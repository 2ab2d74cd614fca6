//! Key updates after the handshake.

use std::io::{Read, Write};

use super::common::tls::{client_config, complete_handshake, server_config, tls_client};
use super::common::{Probe, drive, settle};
use super::tls_listening;
use unstick::{Config, Framing};

#[test]
fn key_updates_of_the_peer_are_followed_and_answered() {
    let (mut reactor, addr, _) = tls_listening(
        Probe::echo(),
        Config::default(),
        Framing::line(),
        server_config(),
    );
    let client = std::thread::spawn(move || {
        let mut client = tls_client(addr, client_config());
        complete_handshake(&mut client);
        for round in 0..20 {
            client
                .conn
                .refresh_traffic_keys()
                .expect("the session uses TLS 1.3");
            let line = format!("line {round}\n");
            client.write_all(line.as_bytes()).expect("the server reads");
            let mut echo = vec![0; line.len()];
            client.read_exact(&mut echo).expect("the server replies");
            assert_eq!(echo, line.as_bytes());
        }
    });
    drive(&mut reactor, |_| client.is_finished());
    client.join().expect("the client does not panic");
    assert_eq!(reactor.handler().frames().len(), 20);
}

/// rustls stores an incomplete message as offsets into the received bytes. So a send must pass the
/// received bytes to rustls, too.
#[test]
fn send_between_the_halves_of_a_key_update_is_sound() {
    let (mut reactor, addr, _) = tls_listening(
        Probe::echo(),
        Config::default(),
        Framing::line(),
        server_config(),
    );
    let client = std::thread::spawn(move || {
        let mut client = tls_client(addr, client_config());
        complete_handshake(&mut client);
        client
    });
    drive(&mut reactor, |reactor| {
        client.is_finished() && super::opened(reactor).len() == 1
    });
    let mut client = client.join().expect("the client does not panic");
    let conn = super::opened(&reactor)[0];
    client
        .conn
        .refresh_traffic_keys()
        .expect("the session uses TLS 1.3");
    let mut record = Vec::new();
    client
        .conn
        .write_tls(&mut record)
        .expect("memory can be written");
    for byte in &record {
        client.sock.write_all(&[*byte]).expect("the server reads");
        let reads = reactor.stats().reads;
        drive(&mut reactor, |reactor| reactor.stats().reads > reads);
        reactor.with(|_, cx| {
            let _ = cx.send(conn, b"tick").expect("there is space");
        });
        settle(&mut reactor);
    }
    client.write_all(b"done\n").expect("the server reads");
    drive(&mut reactor, |reactor| {
        reactor.handler().frames() == [b"done"]
    });
    settle(&mut reactor);
    let expected = [b"tick\n".repeat(record.len()), b"done\n".to_vec()].concat();
    let mut received = vec![0; expected.len()];
    client
        .read_exact(&mut received)
        .expect("the lines are sent");
    assert_eq!(received, expected);
}
