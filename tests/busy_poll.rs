//! Busy polling: a loop that polls without sleeping handles the same events as a loop that sleeps.

mod common;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::{DEADLINE, Event, Probe, Server, drive, listening, round_trip};
use unstick::{Config, Framing};

/// Returns a config with the given `busy_poll`.
fn busy(time: Duration) -> Config {
    let mut config = Config::default();
    config.busy_poll = Some(time);
    config
}

/// The loop never blocks in the poll, so it must find frames, posts and timers without a wake-up.
#[test]
fn busy_poll_without_end_handles_frames_posts_and_timers() {
    let server = Server::start(Probe::echo(), busy(Duration::MAX), Framing::length_u32());
    let mut client = server.connect();
    for index in 0..1000_u32 {
        let payload = index.to_be_bytes();
        assert_eq!(round_trip(&mut client, &payload), payload);
    }
    let (ran, has_run) = mpsc::channel();
    for index in 0..1000 {
        let ran = ran.clone();
        let post = move |_: &mut Probe, _: &mut unstick::Context<'_, Probe>| {
            let _ = ran.send(index);
        };
        server.remote.post(post).expect("the queue has space");
        assert_eq!(has_run.recv_timeout(DEADLINE), Ok(index));
    }
    drop(client);
    server.stop();

    let (mut reactor, _) = listening(Probe::silent(), busy(Duration::MAX), Framing::line());
    for after in [0, 1, 20].map(Duration::from_millis) {
        let due = reactor.with(|_, cx| {
            cx.set_timer(after, 7);
            cx.now() + after
        });
        let fired = reactor
            .handler()
            .count(|event| matches!(event, Event::Timer(..)));
        while reactor
            .handler()
            .count(|event| matches!(event, Event::Timer(..)))
            == fired
        {
            reactor.turn(None).expect("polling succeeds");
        }
        assert!(Instant::now() >= due);
    }
}

#[test]
fn busy_poll_does_not_shorten_the_timeout_of_a_turn() {
    let timeout = Duration::from_millis(30);
    for time in [Duration::ZERO, timeout / 3, timeout, Duration::MAX] {
        let (mut reactor, _) = listening(Probe::silent(), busy(time), Framing::line());
        let _remote = reactor.remote();
        let started = Instant::now();
        reactor.turn(Some(timeout)).expect("polling succeeds");
        assert!(
            started.elapsed() >= timeout,
            "the turn ended early with busy_poll {time:?}"
        );
    }
}

/// Some pauses are longer than `busy_poll`, so the loop sleeps in the poll and must be woken by an
/// event.
#[test]
fn events_wake_the_loop_after_busy_poll_has_ended() {
    let config = busy(Duration::from_millis(1));
    let (mut reactor, addr) = listening(Probe::echo(), config, Framing::length_u32());
    let remote = reactor.remote();
    let client = thread::spawn(move || {
        let mut client = common::client(addr);
        let (ran, has_run) = mpsc::channel();
        for pause in [0, 3, 5, 0, 2].map(Duration::from_millis) {
            common::let_pass(pause);
            assert_eq!(round_trip(&mut client, b"awake?"), b"awake?");
            common::let_pass(pause);
            let ran = ran.clone();
            let post = move |_: &mut Probe, _: &mut unstick::Context<'_, Probe>| {
                let _ = ran.send(());
            };
            remote.post(post).expect("the queue has space");
            assert_eq!(has_run.recv_timeout(DEADLINE), Ok(()));
        }
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    client.join().expect("the client received every answer");
}
