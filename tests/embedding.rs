//! A reactor embedded in an outer event loop, which watches the reactor's descriptor and waits at
//! most `Reactor::next_turn_in`.
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

/// An edge-triggered outer loop. Its poll never repeats a lost wake-up, so a lost wake-up makes a
/// test miss its deadline.
struct Outer {
    poll: Poll,
    events: Events,
}

impl Outer {
    fn around(reactor: &Reactor<Probe>) -> Self {
        let poll = Poll::new().expect("a poll can be created");
        let inner = reactor.as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&inner), Token(0), Interest::READABLE)
            .expect("an epoll can watch an epoll");
        Self {
            poll,
            events: Events::with_capacity(4),
        }
    }

    /// Runs a turn each time the descriptor becomes readable or `next_turn_in` elapses, until
    /// `done` returns true.
    fn drive(&mut self, reactor: &mut Reactor<Probe>, done: impl Fn(&Reactor<Probe>) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done(reactor) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "the outer loop was not woken before the deadline"
            );
            let wait = reactor.next_turn_in().unwrap_or(left).min(left);
            self.poll
                .poll(&mut self.events, Some(wait))
                .expect("polling succeeds");
            reactor
                .turn(Some(Duration::ZERO))
                .expect("polling succeeds");
        }
    }
}

#[test]
fn outer_loop_on_the_descriptor_gets_every_frame() {
    const FRAMES: usize = 500;
    let mut config = Config::default();
    // These budgets are small, so dispatches end with work left for a later turn.
    (
        config.frame_budget,
        config.read_budget_bytes,
        config.accept_budget,
    ) = (1, 512, 1);
    let (mut reactor, addr) = listening(Probe::echo(), config, Framing::length_u32());
    let mut outer = Outer::around(&reactor);
    let clients: Vec<_> = (0..4)
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
    for client in clients {
        client.join().expect("the client received every echo");
    }
    assert_eq!(reactor.handler().frames().len(), 4 * FRAMES);
}

/// More sockets are ready at once than fit the initial event list of the reactor.
#[test]
fn more_ready_sockets_than_event_slots_are_all_handled() {
    const CLIENTS: usize = 300;
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::line());
    let mut outer = Outer::around(&reactor);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| client(addr)).collect();
    outer.drive(&mut reactor, |reactor| {
        reactor.stats().accepted == CLIENTS as u64
    });
    common::settle(&mut reactor);
    for client in &mut clients {
        client
            .write_all(b"all at once\n")
            .expect("the kernel accepts the bytes");
    }
    outer.drive(&mut reactor, |reactor| {
        reactor.stats().frames_in == CLIENTS as u64
    });
}

#[test]
fn next_turn_in_lasts_until_the_next_timer() {
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let mut outer = Outer::around(&reactor);
    assert_eq!(
        reactor.next_turn_in(),
        None,
        "without a timer, no turn is due"
    );
    let after = Duration::from_millis(30);
    let started = Instant::now();
    reactor.with(|_, cx| cx.set_timer(after, 7));
    let wait = reactor.next_turn_in().expect("a timer is set");
    assert!(wait <= after + Duration::from_millis(1), "{wait:?}");
    let is_timer = |event: &Event| matches!(event, Event::Timer(_, 7));
    outer.drive(&mut reactor, |reactor| {
        reactor.handler().count(is_timer) == 1
    });
    assert!(started.elapsed() >= after);
    // The timer needs one turn, or up to three turns if the poll returns before the timer is due.
    // More turns would mean a busy loop.
    assert!(
        reactor.stats().turns <= 3,
        "{} turns for one timer",
        reactor.stats().turns
    );
    assert_eq!(reactor.next_turn_in(), None);
}

#[test]
fn next_turn_in_is_zero_after_a_send_between_turns() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let mut outer = Outer::around(&reactor);
    let mut stream = client(addr);
    outer.drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    common::settle(&mut reactor);
    let Event::Open(conn, _) = reactor.handler().events[0] else {
        panic!("the first event is not on_open");
    };
    assert_eq!(reactor.next_turn_in(), None);
    reactor.with(|_, cx| {
        cx.send(conn, b"hello")
            .map(drop)
            .expect("the connection is open")
    });
    assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO));
    reactor
        .turn(Some(Duration::ZERO))
        .expect("polling succeeds");
    assert_eq!(read_u32_frame(&mut stream), b"hello");
}

#[test]
fn post_from_another_thread_wakes_the_outer_loop() {
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let mut outer = Outer::around(&reactor);
    let remote = reactor.remote();
    let poster = thread::spawn(move || {
        remote
            .post(|probe: &mut Probe, _| probe.keep_half_closed = true)
            .map_err(|error| error.to_string())
            .expect("the queue has space");
    });
    outer.drive(&mut reactor, |reactor| reactor.handler().keep_half_closed);
    poster.join().expect("the thread posted");
}
