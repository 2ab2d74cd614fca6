//! A reactor inside another loop, which watches its descriptor and waits no longer than it says.
#![cfg(unix)]

mod common;

use std::io::Write;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use common::{DEADLINE, Event, Probe, client, frame, listening, read_u32_frame};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use unstick::{Config, Framing, Reactor};

/// An outer loop, by edges: whatever the reactor forgot to tell would never come.
struct Outer {
    poll: Poll,
    events: Events,
}

impl Outer {
    fn around(reactor: &Reactor<Probe>) -> Self {
        let poll = Poll::new().expect("a poll");
        let inner = reactor.as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&inner), Token(0), Interest::READABLE)
            .expect("an epoll can watch an epoll");
        Self {
            poll,
            events: Events::with_capacity(4),
        }
    }

    /// Takes turns when the descriptor says so, or the time that the reactor named is over.
    fn drive(&mut self, reactor: &mut Reactor<Probe>, done: impl Fn(&Reactor<Probe>) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done(reactor) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nobody woke the outer loop");
            let wait = reactor.next_turn_in().unwrap_or(left).min(left);
            self.poll
                .poll(&mut self.events, Some(wait))
                .expect("the poll works");
            reactor.turn(Some(Duration::ZERO)).expect("the poll works");
        }
    }
}

#[test]
fn an_outer_loop_that_waits_for_the_descriptor_serves_every_frame() {
    const FRAMES: usize = 500;
    let mut config = Config::default();
    // Cut short by every budget there is.
    (
        config.frame_budget,
        config.read_budget_bytes,
        config.accept_budget,
    ) = (1, 512, 1);
    let (mut reactor, addr) = listening(Probe::echo(), config, Framing::length_u32());
    let mut outer = Outer::around(&reactor);
    let talking: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                let mut stream = client(addr);
                let burst = frame("u32", b"hello").repeat(FRAMES);
                stream.write_all(&burst).expect("the server reads");
                for _ in 0..FRAMES {
                    assert_eq!(read_u32_frame(&mut stream), b"hello");
                }
            })
        })
        .collect();
    outer.drive(&mut reactor, |reactor| reactor.stats().closed == 4);
    for client in talking {
        client.join().expect("it was answered");
    }
    assert_eq!(reactor.handler().frames().len(), 4 * FRAMES);
}

/// More sockets are ready than the first list of events has room for.
#[test]
fn a_ready_set_longer_than_the_list_of_events_is_served_whole() {
    const CLIENTS: usize = 300;
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::line());
    let mut outer = Outer::around(&reactor);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| client(addr)).collect();
    outer.drive(&mut reactor, |reactor| {
        reactor.stats().accepted == CLIENTS as u64
    });
    common::settle(&mut reactor);
    for client in &mut clients {
        client.write_all(b"all at once\n").expect("there is room");
    }
    outer.drive(&mut reactor, |reactor| {
        reactor.stats().frames_in == CLIENTS as u64
    });
}

#[test]
fn the_outer_loop_waits_no_longer_than_to_the_next_timer_and_never_turns_early_for_it() {
    let mut reactor = Reactor::new(Probe::silent()).expect("a reactor");
    let mut outer = Outer::around(&reactor);
    assert_eq!(reactor.next_turn_in(), None, "there is nothing to wait for");
    let after = Duration::from_millis(30);
    let begun = Instant::now();
    reactor.with(|_, cx| cx.set_timer(after, 7));
    let wait = reactor.next_turn_in().expect("a timer is set");
    assert!(wait <= after + Duration::from_millis(1), "{wait:?}");
    let is_timer = |event: &Event| matches!(event, Event::Timer(_, 7));
    outer.drive(&mut reactor, |reactor| {
        reactor.handler().count(is_timer) == 1
    });
    assert!(begun.elapsed() >= after);
    // A turn for the timer, and perhaps one that came a tick too soon: no spinning.
    assert!(
        reactor.stats().turns <= 3,
        "{} turns",
        reactor.stats().turns
    );
    assert_eq!(reactor.next_turn_in(), None);
}

#[test]
fn what_is_sent_between_two_turns_asks_for_one_at_once() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let mut outer = Outer::around(&reactor);
    let mut stream = client(addr);
    outer.drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    common::settle(&mut reactor);
    let Event::Open(conn, _) = reactor.handler().events[0] else {
        panic!("it was accepted");
    };
    assert_eq!(reactor.next_turn_in(), None);
    reactor.with(|_, cx| cx.send(conn, b"hello").map(drop).expect("it is open"));
    assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO));
    reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    assert_eq!(read_u32_frame(&mut stream), b"hello");
}

#[test]
fn a_closure_from_another_thread_wakes_the_outer_loop() {
    let mut reactor = Reactor::new(Probe::silent()).expect("a reactor");
    let mut outer = Outer::around(&reactor);
    let remote = reactor.remote();
    let posting = thread::spawn(move || {
        remote
            .post(|probe: &mut Probe, _| probe.keep_half_closed = true)
            .map_err(|error| error.to_string())
            .expect("there is room");
    });
    outer.drive(&mut reactor, |reactor| reactor.handler().keep_half_closed);
    posting.join().expect("it posted");
}
