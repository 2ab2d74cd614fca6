//! Frames over TLS: lengths, back-pressure, and records in every position.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::common::tls::{
    TlsStream, VERSIONS, client_config, client_config_with, complete_handshake, server_config,
    server_config_with, tls_client,
};
use super::common::{DEADLINE, Event, Probe, Random, drive, frame, settle};
use super::{opened, pair, tls_connect, tls_listening};
use socket2::SockRef;
use unstick::{Config, ConnId, Framing, Reactor};

/// Sends a payload from one end, and waits until it has arrived.
fn pass(reactor: &mut Reactor<Probe>, from: ConnId, payload: &[u8]) {
    let before = reactor.handler().frames().len();
    reactor.with(|_, cx| {
        let _ = cx.send(from, payload).expect("the queue has space");
    });
    drive(reactor, |reactor| reactor.handler().frames().len() > before);
    let frames = reactor.handler().frames();
    assert!(frames[before] == payload, "{} bytes", payload.len());
}

#[test]
fn tls_frames_of_many_lengths_pass_in_both_versions() {
    for version in VERSIONS {
        let framing = Framing::length_u32();
        let tls = server_config_with("localhost", &[version]).into();
        let (mut reactor, addr, _) =
            tls_listening(Probe::silent(), Config::default(), framing.clone(), tls);
        let tls = client_config_with(&[version]).into();
        let client = tls_connect(&mut reactor, addr, framing, tls);
        drive(&mut reactor, |reactor| opened(reactor).len() == 2);
        let both = opened(&reactor);
        assert!(both.contains(&client));
        let mut random = Random(7);
        for len in [
            0, 1, 64, 16_379, 16_380, 16_381, 32_768, 100_000, 262_144, 700_000,
        ] {
            let payload = random.bytes(len);
            both.iter()
                .for_each(|conn| pass(&mut reactor, *conn, &payload));
        }
    }
}

/// With most of these limits, the buffer of a read is shorter than a record.
#[test]
fn tls_frames_pass_with_tiny_reads_and_budgets() {
    for (read_len_max, frame_budget) in [(1, 1), (7, 3), (5000, 1), (40_000, 2)] {
        let config = {
            let mut config = Config::default();
            config.read_len_max = read_len_max;
            config.read_budget_bytes = read_len_max;
            config.frame_budget = frame_budget;
            config
        };
        let (mut reactor, client, server) = pair(Probe::silent(), config, Framing::length_u32());
        let mut random = Random(1);
        for len in [0, 1, 300, 40_000] {
            let payload = random.bytes(len);
            pass(&mut reactor, client, &payload);
            pass(&mut reactor, server, &payload);
        }
    }
}

/// All frames are in one record, so no further event reports the frames that the budget postpones.
#[test]
fn frames_of_one_record_need_no_further_event() {
    let mut config = Config::default();
    config.frame_budget = 1;
    let (mut reactor, addr, _) =
        tls_listening(Probe::echo(), config, Framing::length_u8(), server_config());
    let client = std::thread::spawn(move || {
        let mut client = tls_client(addr, client_config());
        let frames: Vec<u8> = (0..100).flat_map(|index| [1, index]).collect();
        client.write_all(&frames).expect("the server reads");
        let mut echo = vec![0; frames.len()];
        client.read_exact(&mut echo).expect("the server replies");
        assert_eq!(echo, frames);
    });
    drive(&mut reactor, |reactor| {
        reactor.handler().frames().len() == 100
    });
    drive(&mut reactor, |_| client.is_finished());
    client.join().expect("the client does not panic");
}

/// The frame is in the read that ends the handshake: the client sends it with its `Finished`.
#[test]
fn frame_in_the_last_read_of_the_handshake_is_delivered() {
    for version in VERSIONS {
        let tls = server_config_with("localhost", &[version]).into();
        let framing = Framing::length_u8();
        let (mut reactor, addr, _) = tls_listening(Probe::echo(), Config::default(), framing, tls);
        let client = std::thread::spawn(move || {
            let mut client = tls_client(addr, client_config());
            // This plaintext is buffered, and leaves in one write with the last flight.
            client
                .conn
                .writer()
                .write_all(b"\x05hello")
                .expect("memory can be written");
            let mut echo = [0; 6];
            client.read_exact(&mut echo).expect("the server replies");
            assert_eq!(&echo, b"\x05hello");
        });
        drive(&mut reactor, |reactor| {
            reactor.handler().frames() == [b"hello"]
        });
        drive(&mut reactor, |_| client.is_finished());
        client.join().expect("the client does not panic");
    }
}

/// Each side sends more than all buffers hold before it reads.
#[test]
fn both_sides_send_many_bytes_without_a_deadlock() {
    let mut config = Config::default();
    config.read_above_high = true;
    let (mut reactor, client, server) = pair(Probe::silent(), config, Framing::length_u32());
    let payload = vec![7; 1 << 20];
    reactor.with(|_, cx| {
        for conn in [client, server].repeat(10) {
            let _ = cx.send(conn, &payload).expect("the queue has space");
        }
    });
    drive(&mut reactor, |reactor| {
        reactor.handler().frames().len() == 20
    });
    assert!(reactor.handler().frames().iter().all(|it| *it == payload));
}

/// The header and the payload of an owned payload are queued separately. The reactor gathers them
/// into full records.
#[test]
fn owned_payloads_keep_their_order_over_tls() {
    let (mut reactor, client, _) = pair(Probe::silent(), Config::default(), Framing::length_u32());
    let mut random = Random(3);
    let lens = [20_010, 7, 16_385, 399, 0, 100_000, 16_380];
    let payloads: Vec<_> = lens.map(|len| random.bytes(len)).into();
    reactor.with(|_, cx| {
        for payload in &payloads {
            let sent = cx.send_owned(client, payload.clone());
            let _ = sent.expect("the queue has space");
        }
    });
    drive(&mut reactor, |reactor| {
        reactor.handler().frames().len() == lens.len()
    });
    assert!(reactor.handler().frames().iter().eq(&payloads));
}

/// Sets the size of both buffers of a socket, so that they do not grow.
fn set_buffers(socket: &SockRef<'_>) {
    for set in [
        socket2::Socket::set_send_buffer_size,
        socket2::Socket::set_recv_buffer_size,
    ] {
        set(socket, 65_536).expect("the size can be set");
    }
}

/// Returns the records of some plaintext, without sending them.
fn encrypt(client: &mut TlsStream, plaintext: &[u8]) -> Vec<u8> {
    client.conn.set_buffer_limit(None);
    let encrypted = client.conn.writer().write_all(plaintext);
    encrypted.expect("memory can be written");
    let mut records = Vec::new();
    while client.conn.wants_write() {
        let written = client.conn.write_tls(&mut records);
        written.expect("memory can be written");
    }
    records
}

/// The client writes all its bytes in a thread, and does not read until the server stops reading.
/// Then the client reads the echo of all bytes.
#[test]
fn slow_tls_reader_gets_every_byte_and_bounds_the_queue() {
    let mut config = Config::default();
    config.write_high_bytes = 100_000;
    config.write_low_bytes = 10_000;
    let (high, low) = (config.write_high_bytes, config.write_low_bytes);
    let read_len = config.read_len_max;
    let (mut reactor, addr, _) = tls_listening(
        Probe::echo(),
        config,
        Framing::length_u32(),
        server_config(),
    );
    let client = std::thread::spawn(move || {
        let mut client = tls_client(addr, client_config());
        complete_handshake(&mut client);
        client
    });
    drive(&mut reactor, |reactor| {
        client.is_finished() && opened(reactor).len() == 1
    });
    let mut client = client.join().expect("the client does not panic");
    let conn = opened(&reactor)[0];

    // The kernel would take all bytes if its buffers could grow.
    reactor.with(|_, cx| set_buffers(&cx.socket_options(conn).expect("the connection is open")));
    set_buffers(&SockRef::from(&client.sock));

    let frames: Vec<u8> = frame("u32", &[9; 10_000]).repeat(2000);
    let records = encrypt(&mut client, &frames);
    let mut socket = client.sock.try_clone().expect("a descriptor is available");
    let sender = std::thread::spawn(move || socket.write_all(&records));
    let queued = |reactor: &mut Reactor<Probe>| {
        let queued = reactor.with(|_, cx| cx.queued_bytes(conn));
        queued.expect("the connection is open")
    };
    let deadline = Instant::now() + DEADLINE;
    let (mut most, mut is_quiet) = (0, false);
    // The server does not read before its queue is down to the low watermark again.
    while !is_quiet || queued(&mut reactor) <= low {
        let stats = reactor.stats();
        assert!(Instant::now() < deadline, "{most} queued: {stats:?}");
        let turned = reactor.turn(Some(Duration::from_millis(100)));
        turned.expect("polling succeeds");
        most = most.max(queued(&mut reactor));
        is_quiet = reactor.stats().events == stats.events;
    }
    assert!(!sender.is_finished(), "the server reads without a limit");
    // The last queued frame crosses the high watermark, and its records are longer than the frame.
    assert!(most <= high + 20_000, "{most} bytes are queued");
    let held = reactor.stats().held_bytes;
    assert!(held <= 2 * (high + read_len), "{held} bytes are held");

    let client = std::thread::spawn(move || {
        let mut echo = vec![0; frames.len()];
        client.read_exact(&mut echo).expect("the server replies");
        assert!(echo == frames, "the echo differs from the frames");
    });
    drive(&mut reactor, |_| client.is_finished());
    client.join().expect("the client gets its echo");
    let sent = sender.join().expect("the sender does not panic");
    sent.expect("the server reads");
    settle(&mut reactor);
    assert_eq!(
        reactor.handler().count(|it| matches!(it, Event::Close(..))),
        1
    );
}

#[test]
fn idle_tls_connection_holds_no_buffer() {
    for version in VERSIONS {
        let framing = Framing::length_u32();
        let tls = server_config_with("localhost", &[version]).into();
        let (mut reactor, addr, _) =
            tls_listening(Probe::silent(), Config::default(), framing.clone(), tls);
        let tls = client_config_with(&[version]).into();
        tls_connect(&mut reactor, addr, framing, tls);
        drive(&mut reactor, |reactor| opened(reactor).len() == 2);
        settle(&mut reactor);
        assert_eq!(reactor.stats().held_bytes, 0, "after the handshake");
        for conn in opened(&reactor) {
            pass(&mut reactor, conn, &[7; 300_000]);
            settle(&mut reactor);
            assert_eq!(reactor.stats().held_bytes, 0, "after a long frame");
        }
        assert_eq!(reactor.stats().connections, 2);
    }
}

/// The buffers of all sessions go back to the pool.
#[test]
fn closed_tls_connections_hold_no_buffer() {
    let (mut reactor, client, server) =
        pair(Probe::echo(), Config::default(), Framing::length_u32());
    for conn in [client, server] {
        reactor.with(|_, cx| cx.pause(conn).expect("the connection is open"));
    }
    reactor.with(|_, cx| {
        let _ = cx.send(client, &[1; 100_000]).expect("the queue has space");
    });
    settle(&mut reactor);
    reactor.with(|_, cx| {
        cx.resume(server).expect("the connection is open");
    });
    drive(&mut reactor, |reactor| {
        !reactor.handler().frames().is_empty()
    });
    settle(&mut reactor);
    reactor.with(|_, cx| cx.abort(client));
    settle(&mut reactor);
    assert_eq!(reactor.stats().held_bytes, 0);
}
