//! A network that disappears under an open connection, which then sends data. Each test takes down
//! the loopback interface of a new network namespace.

#![cfg(target_os = "linux")]

mod common;
#[path = "common/network.rs"]
mod network;

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

use common::{Event, Probe, drive, is_io, listening, round_trip};
use network::{enter_new_network, run};
use unstick::{CloseReason, Closed, Config, ConnId, Framing, Reactor};

const TIMEOUT: Duration = Duration::from_millis(200);

/// Opens a connection, exchanges a frame, and then takes the network down. Returns `None` if the
/// system allows no network namespace, or if the program `ip` fails in it.
fn connected_without_a_network(config: Config) -> Option<(Reactor<Probe>, ConnId, TcpStream)> {
    if !enter_new_network(&[&["ip", "link", "set", "lo", "up"]]) {
        return None;
    }
    let (mut reactor, addr) = listening(Probe::echo(), config, Framing::length_u32());
    let mut client = common::client(addr);
    let exchange = std::thread::spawn(move || {
        assert_eq!(
            round_trip(&mut client, b"the network is up"),
            b"the network is up"
        );
        client
    });
    drive(&mut reactor, |_| exchange.is_finished());
    let client = exchange.join().expect("the client thread does not panic");
    let conn = reactor
        .handler()
        .events
        .iter()
        .find_map(|event| match event {
            Event::Open(conn, _) => Some(*conn),
            _ => None,
        });
    assert!(
        run(&["ip", "link", "set", "lo", "down"]),
        "the interface goes down"
    );
    Some((reactor, conn.expect("the connection was opened"), client))
}

/// Sends `count` frames of `len` bytes and returns the report of the close that follows.
fn close_after_frames(
    reactor: &mut Reactor<Probe>,
    conn: ConnId,
    count: usize,
    len: usize,
) -> &Closed {
    let payload = vec![7; len];
    reactor.with(|_, cx| {
        for _ in 0..count {
            assert!(cx.send(conn, &payload).is_ok());
        }
    });
    drive(reactor, |reactor| reactor.stats().closed == 1);
    reactor.handler().closes()[0].1
}

#[test]
fn lost_network_ends_a_connection_at_write_stall_timeout() {
    let mut config = Config::default();
    config.write_stall_timeout = Some(TIMEOUT);
    let Some((mut reactor, conn, _client)) = connected_without_a_network(config) else {
        return;
    };
    // The frames exceed the kernel's buffers, so a part of them stays in the write queue.
    let closed = close_after_frames(&mut reactor, conn, 15, 1 << 20);
    assert!(
        matches!(closed.reason, CloseReason::WriteStalled),
        "{closed:?}"
    );
    assert!(closed.unsent_bytes > 0, "{closed:?}");
}

#[test]
fn lost_network_ends_a_connection_at_tcp_user_timeout() {
    let Some((mut reactor, conn, _client)) = connected_without_a_network(Config::default()) else {
        return;
    };
    reactor.with(|_, cx| {
        let socket = cx.socket(conn).expect("the connection is open");
        socket
            .set_user_timeout(Some(TIMEOUT))
            .expect("Linux has TCP_USER_TIMEOUT");
    });
    // The kernel accepts the whole frame, so only the kernel can notice that the frame never
    // arrives.
    let closed = close_after_frames(&mut reactor, conn, 1, 1000);
    assert!(is_io(&closed.reason, ErrorKind::TimedOut), "{closed:?}");
    assert_eq!(closed.unsent_bytes, 0);
}
