//! `send_parts` and `send_with` queue the same bytes as `send`, and queue nothing if they fail.

mod common;

use std::io::{Read, Write};

use common::{Event, Probe, drive, listening};
use unstick::{Config, FrameError, Framing, SendError, Sent};

/// Names of the tested framings.
const NAMES: [&str; 8] = [
    "raw",
    "line",
    "u8",
    "u32",
    "u24-le",
    "varint",
    "netstring",
    "delimiter-;;",
];

/// Returns a handler that sends each frame three times to every open connection: with `send`,
/// `send_parts` and `send_with`. The handler also makes a `send_with` fail, which must queue
/// nothing.
fn echoes_three_times() -> Probe {
    let mut conns = Vec::new();
    Probe::new(move |cx, event| match event {
        Event::Open(conn, _) => conns.push(*conn),
        Event::Frame(_, frame) => {
            let (front, back) = frame.split_at(frame.len() / 2);
            for conn in &conns {
                let sent = cx.send(*conn, frame).expect("the queue has space");
                assert_eq!(
                    cx.send_parts(*conn, &[front, b"", back])
                        .expect("the queue has space"),
                    sent
                );
                let written = cx.send_with(*conn, |out| {
                    out.put(front);
                    Ok(out.write_all(back)?)
                });
                assert_eq!(written.expect("the queue has space"), sent);
                let queued = cx.queued_bytes(*conn).expect("the connection is open");
                let cancelled = cx.send_with(*conn, |out| {
                    out.put(frame);
                    Err(FrameError::other("cancelled"))
                });
                assert!(matches!(cancelled, Err(SendError::Frame(_))));
                assert_eq!(
                    cx.queued_bytes(*conn).expect("the connection is open"),
                    queued
                );
            }
        }
        _ => {}
    })
}

#[test]
fn send_send_parts_and_send_with_write_the_same_bytes() {
    for name in NAMES {
        let framing: Framing = name.parse().expect("the framing's name is valid");
        let (mut reactor, addr) = listening(echoes_three_times(), Config::default(), framing);
        let mut clients = [common::client(addr), common::client(addr)];
        drive(&mut reactor, |reactor| reactor.stats().accepted == 2);
        for len in [1, 100, 200] {
            let payload = vec![b'x'; len];
            let frame = match name {
                "delimiter-;;" => [&payload[..], b";;"].concat(),
                name => common::frame(name, &payload),
            };
            let frames_out = reactor.stats().frames_out + 6;
            clients[0]
                .write_all(&frame)
                .expect("the kernel accepts the bytes");
            drive(&mut reactor, |reactor| {
                reactor.stats().frames_out == frames_out
            });
            for client in &mut clients {
                let mut answer = vec![0; 3 * frame.len()];
                client.read_exact(&mut answer).expect("three frames arrive");
                assert_eq!(answer, frame.repeat(3), "{name}");
            }
        }
    }
}

#[test]
fn send_with_checks_limits_and_queues_nothing_on_error() {
    let mut config = Config::default();
    config.write_high_bytes = 100;
    config.write_low_bytes = 10;
    config.write_queue_bytes_max = 200;
    let probe = Probe::new(|cx, event| {
        let Event::Open(conn, _) = event else { return };
        let mut send = |len| {
            cx.send_with(*conn, |out| {
                out.put_zeros(len).fill(b'x');
                Ok(())
            })
        };
        assert!(matches!(send(50), Ok(Sent::Queued)));
        assert!(matches!(send(150), Err(SendError::Full)));
        let too_long = send(151);
        assert!(matches!(
            too_long,
            Err(SendError::Frame(FrameError::TooLong {
                len: 151,
                limit: 150
            }))
        ));
        assert!(matches!(send(100), Ok(Sent::AboveHigh)));
        cx.close(*conn);
        let closing = cx.send_parts(*conn, &[b"a"]);
        assert!(matches!(closing, Err(SendError::Closing)));
    });
    let framing = Framing::length_u8().frame_len_max(150);
    let (mut reactor, addr) = listening(probe, config, framing);
    let mut client = common::client(addr);
    drive(&mut reactor, |reactor| reactor.stats().frames_out == 2);
    let mut all = vec![0; 152];
    client.read_exact(&mut all).expect("two frames arrive");
    assert_eq!((all[0], all[51]), (50, 100));
}
