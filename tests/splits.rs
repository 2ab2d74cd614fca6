//! Frames that TCP coalesced or split, with several read sizes and budgets: each frame is delivered
//! without any further traffic.

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use common::{DEADLINE, Event, FRAMINGS, Probe, drive, frame, listening};
use unstick::{Codec, Config, FrameError, Framing, Handler, Out, Reactor, Step};

fn framing(name: &str) -> Framing {
    name.parse().expect("the name is a known framing")
}

/// Writes in a thread, because the kernel may not accept all bytes before the reactor reads.
fn write_in_background(mut client: TcpStream, bytes: Vec<u8>) -> JoinHandle<TcpStream> {
    thread::spawn(move || {
        client.write_all(&bytes).expect("the reactor reads");
        client
    })
}

/// Runs turns with a long timeout, so that only an event or remaining work ends a turn. A short
/// timeout would hide the bug that the reactor forgets remaining work.
fn drive_without_timeout<H: Handler>(
    reactor: &mut Reactor<H>,
    mut done: impl FnMut(&Reactor<H>) -> bool,
) {
    let deadline = Instant::now() + DEADLINE;
    while !done(reactor) {
        reactor.turn(Some(DEADLINE)).expect("polling succeeds");
        assert!(
            Instant::now() < deadline,
            "the reactor stalled: {:?}",
            reactor.stats()
        );
    }
}

#[test]
fn ten_thousand_frames_in_one_write_arrive() {
    for name in FRAMINGS {
        let config = Config::default();
        let (mut reactor, addr) = listening(Probe::silent(), config, framing(name));
        let payloads: Vec<Vec<u8>> = (0..10_000).map(|i| format!("{i}").into_bytes()).collect();
        let frames = payloads.iter().map(|payload| frame(name, payload));
        let bytes = frames.collect::<Vec<_>>().concat();
        let len = bytes.len() as u64;
        let writer = write_in_background(common::client(addr), bytes);
        drive_without_timeout(&mut reactor, |reactor| {
            reactor.stats().read_bytes == len
                && (name == "raw" || reactor.stats().frames_in >= 10_000)
        });
        writer.join().expect("the writer does not panic");
        let frames = reactor.handler().frames();
        if name == "raw" {
            assert!(frames.concat() == payloads.concat());
        } else {
            assert!(frames == payloads, "{name}");
        }
    }
}

#[test]
fn frame_sent_byte_by_byte_arrives_as_one_frame() {
    for name in FRAMINGS {
        let config = Config::default();
        let (mut reactor, addr) = listening(Probe::silent(), config, framing(name));
        let mut client = common::client(addr);
        let payload = [b'x'; 100];
        let bytes = frame(name, &payload);
        for (index, byte) in (1..).zip(&bytes) {
            assert!(name == "raw" || reactor.stats().frames_in == 0, "{name}");
            client.write_all(&[*byte]).expect("the write succeeds");
            drive(&mut reactor, |reactor| reactor.stats().read_bytes == index);
        }
        let frames = reactor.handler().frames();
        assert_eq!(frames.concat(), payload, "{name}");
        assert_eq!(frames.len(), if name == "raw" { 100 } else { 1 }, "{name}");
    }
}

/// Delivers 1,000 frames with 96 bytes of payload each, with no traffic after them.
fn deliver_a_burst(name: &str, config: Config) -> Reactor<Probe> {
    let (mut reactor, addr) = listening(Probe::silent(), config, framing(name));
    let payload = [b'x'; 96];
    let burst = frame(name, &payload).repeat(1000);
    let len = burst.len() as u64;
    let writer = write_in_background(common::client(addr), burst);
    drive_without_timeout(&mut reactor, |reactor| {
        reactor.stats().read_bytes == len && (name == "raw" || reactor.stats().frames_in == 1000)
    });
    let frames = reactor.handler().frames();
    if name == "raw" {
        assert!(frames.concat() == payload.repeat(1000));
    } else {
        assert!(frames.iter().all(|frame| *frame == payload));
    }
    drop(writer.join().expect("the writer does not panic"));
    reactor
}

#[test]
fn burst_arrives_for_many_read_sizes_and_budgets() {
    for read_len_max in [1, 7, 4096, 65_536] {
        for frame_budget in [1, 2, 3, 1024] {
            for read_budget_bytes in [1000, 65_536] {
                let mut config = Config::default();
                config.read_len_max = read_len_max;
                config.frame_budget = frame_budget;
                config.read_budget_bytes = read_budget_bytes;
                let stats = deliver_a_burst("u32", config).stats();
                let turns_min =
                    (1000 / frame_budget as u64).max(100_000 / read_budget_bytes as u64);
                assert!(
                    stats.turns >= turns_min,
                    "the budgets require at least {turns_min} turns: {stats:?}"
                );
            }
        }
    }
}

#[test]
fn read_budget_of_one_read_loses_no_frame() {
    for name in ["u32", "line", "raw"] {
        for read_len_max in [7, 4096, 65_536] {
            let mut config = Config::default();
            config.read_len_max = read_len_max;
            config.read_budget_bytes = read_len_max;
            let stats = deliver_a_burst(name, config).stats();
            assert!(stats.turns >= stats.read_bytes / read_len_max as u64);
        }
    }
}

#[test]
fn frame_budget_of_one_frame_loses_no_frame() {
    for name in ["u32", "line"] {
        for read_len_max in [7, 4096, 65_536] {
            let mut config = Config::default();
            config.read_len_max = read_len_max;
            config.frame_budget = 1;
            assert!(deliver_a_burst(name, config).stats().turns >= 1000);
        }
    }
}

/// A framing in which each frame starts with `<`, and ends before the next `<` or with the stream.
struct Marked;

impl Codec for Marked {
    type State = ();

    fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
        let next = bytes.iter().skip(1).position(|byte| *byte == b'<');
        Ok(next.map_or(Step::Need(bytes.len() + 1), |len| Step::Frame {
            frame: 1..len + 1,
            consumed: len + 1,
        }))
    }

    fn finish(&self, (): &mut (), rest: &[u8]) -> Result<Step, FrameError> {
        Ok(Step::Frame {
            frame: 1..rest.len(),
            consumed: rest.len(),
        })
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(b"<");
        out.put(payload);
        Ok(())
    }
}

#[test]
fn frame_ended_by_fin_precedes_on_half_close() {
    for read_len_max in [1, 2, 5, 4096] {
        let mut config = Config::default();
        config.read_len_max = read_len_max;
        config.frame_budget = 1;
        let (mut reactor, addr) = listening(Probe::silent(), config, Framing::custom(Marked));
        let mut client = common::client(addr);
        client
            .write_all(b"<one<<three")
            .expect("the write succeeds");
        common::send_fin(&client);
        drive_without_timeout(&mut reactor, |reactor| reactor.stats().closed == 1);
        assert_eq!(reactor.handler().frames(), [&b"one"[..], b"", b"three"]);
        let events = &reactor.handler().events;
        assert!(
            matches!(
                events[..],
                [
                    Event::Open(..),
                    ..,
                    Event::Frame(..),
                    Event::HalfClose(_),
                    Event::Close(..)
                ]
            ),
            "{events:?}"
        );
        assert_eq!(reactor.stats().undecoded_bytes, 0);
    }
}
