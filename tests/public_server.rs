//! Attacks on a server with `Config::for_public_server`: clients that misbehave together use up the
//! memory budget, and a well-behaved client still gets its replies.

mod common;

use std::io::{ErrorKind, Write};
use std::net::TcpStream;

use common::{Probe, Server, frame, round_trip};
use unstick::{CloseReason, Closed, Config, Framing};

/// Memory budget of the server; a few megabytes keep the test short.
const MEMORY_MAX: usize = 4 << 20;
const CLIENTS: usize = 300;

/// Writes until a write would block or fails. A write fails if the server has aborted the client.
fn write_some(client: &mut TcpStream, bytes: &[u8]) {
    client
        .set_nonblocking(true)
        .expect("non-blocking mode can be set");
    let mut rest = bytes;
    while !rest.is_empty() {
        match client.write(rest) {
            Ok(len) => rest = &rest[len..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => return,
        }
    }
}

/// Lets each of many clients send `bytes` twice and keep its connection. Checks that another client
/// gets a reply after each of these sends, and that the server aborted some of the many clients to
/// free memory.
fn attack(bytes: &[u8]) {
    let config = Config::for_public_server(MEMORY_MAX);
    let server = Server::start(Probe::echo(), config, Framing::length_u32());
    let mut honest = server.connect();
    let mut attackers = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = server.connect();
        write_some(&mut client, bytes);
        attackers.push(client);
        assert_eq!(round_trip(&mut honest, b"honest"), b"honest");
    }
    for client in &mut attackers {
        write_some(client, bytes);
        assert_eq!(round_trip(&mut honest, b"honest"), b"honest");
    }
    drop(attackers);
    let (probe, stats) = server.stop();
    let is_aborted = |closed: &Closed| matches!(closed.reason, CloseReason::MemoryFull);
    let closes = probe.closes();
    let aborted = closes
        .iter()
        .filter(|(_, closed)| is_aborted(closed))
        .count();
    assert!(aborted > 0, "no client was aborted: {stats:?}");
}

#[test]
fn half_frames_of_many_clients_do_not_stop_the_others() {
    let mut half = frame("u32", &[7; 128 * 1024]);
    half.truncate(64 * 1024);
    attack(&half);
}

#[test]
fn clients_that_do_not_read_do_not_stop_the_others() {
    let frames = frame("u32", &[7; 60 * 1024]).repeat(100);
    attack(&frames);
}
