//! Closures posted by other threads: each runs exactly once, in its producer's order, and no
//! wake-up is lost.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use common::{DEADLINE, Event, Probe, Server, drive, listening, round_trip};
use unstick::{Config, ConnId, Context, Framing, Handler, PostError, Reactor, Remote, SendError};

/// Where a closure that posts itself stops, so that a loop that never leaves it fails.
const FAR_TOO_MANY: u64 = 10_000_000;

/// What ran, by producer.
#[derive(Default)]
struct Tally {
    next: Vec<u64>,
    total: u64,
}

impl Handler for Tally {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}
}

/// Posts, waiting for room where there is none.
fn post<H: Handler, F>(remote: &Remote<H>, mut task: F)
where
    F: FnOnce(&mut H, &mut Context<'_, H>) + Send + 'static,
{
    loop {
        match remote.post(task) {
            Ok(()) => return,
            Err(PostError::Full(refused)) => task = refused,
            Err(error) => panic!("{error}"),
        }
        thread::yield_now();
    }
}

/// Runs the reactor in a thread of its own, with nothing but posts to end its waits.
fn run<H: Handler + Send + 'static>(mut reactor: Reactor<H>) -> Receiver<H>
where
    H::Session: Send,
{
    let (done, result) = mpsc::channel();
    thread::spawn(move || {
        reactor.run().expect("the poll works");
        done.send(reactor.into_handler())
            .expect("the test still waits");
    });
    result
}

fn tally(producers: usize, config: Config) -> (Reactor<Tally>, Remote<Tally>) {
    let tally = Tally {
        next: vec![0; producers],
        total: 0,
    };
    let reactor = Reactor::with_config(tally, config).expect("a reactor");
    let remote = reactor.remote();
    (reactor, remote)
}

/// Ten million posts, with queues so short that they are mostly full, and so long that they hardly
/// ever are.
#[test]
fn every_post_of_every_producer_runs_once_and_in_order() {
    const PRODUCERS: usize = 4;
    for (posts_max, posts) in [(1, 5_000), (16, 50_000), (65_536, 2_445_000)] {
        let mut config = Config::default();
        config.posts_max = posts_max;
        let (reactor, remote) = tally(PRODUCERS, config);
        let result = run(reactor);
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let remote = remote.clone();
                thread::spawn(move || {
                    for index in 0..posts {
                        post(&remote, move |tally: &mut Tally, cx| {
                            assert_eq!(tally.next[producer], index, "in order");
                            tally.next[producer] += 1;
                            tally.total += 1;
                            if tally.total == PRODUCERS as u64 * posts {
                                cx.stop();
                            }
                        });
                    }
                })
            })
            .collect();
        let tally = result
            .recv_timeout(DEADLINE)
            .expect("every post is run, and none out of its order");
        assert_eq!(tally.next, [posts; PRODUCERS]);
        producers
            .into_iter()
            .for_each(|producer| producer.join().expect("it does not panic"));
    }
}

/// Each producer posts only when its last post has run, so that the loop falls asleep over and
/// over just as a post comes; and nothing but that post would wake it.
#[test]
fn a_post_to_a_loop_that_falls_asleep_wakes_it() {
    const POSTS: usize = 20_000;
    for producers in [1, 3] {
        let (reactor, remote) = tally(producers, Config::default());
        let result = run(reactor);
        let threads: Vec<_> = (0..producers)
            .map(|_| {
                let remote = remote.clone();
                thread::spawn(move || {
                    let (ack, acked) = mpsc::channel();
                    for index in 0..POSTS {
                        let ack = ack.clone();
                        // The answer comes in the middle of the loop's turn, so that the next
                        // post meets it anywhere on its way to sleep.
                        post(&remote, move |_: &mut Tally, _| {
                            let _ = ack.send(index);
                        });
                        assert_eq!(acked.recv_timeout(DEADLINE), Ok(index));
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no wake-up is lost");
        }
        post(&remote, |_: &mut Tally, cx| cx.stop());
        result.recv_timeout(DEADLINE).expect("it ends");
    }
}

#[test]
fn a_full_queue_gives_the_closure_back_and_takes_it_when_there_is_room() {
    let mut config = Config::default();
    config.posts_max = 3;
    let (mut reactor, remote) = tally(1, config);
    for _ in 0..3 {
        remote.post(|tally, _| tally.total += 1).expect("room");
    }
    let ten_more = |tally: &mut Tally, _: &mut Context<'_, Tally>| tally.total += 10;
    let Err(PostError::Full(ten_more)) = remote.post(ten_more) else {
        panic!("three is all there is room for");
    };
    reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    assert_eq!(reactor.handler().total, 3);
    remote.post(ten_more).expect("there is room again");
    reactor.turn(None).expect("the poll works");
    assert_eq!(reactor.handler().total, 13);
}

#[test]
fn a_reactor_that_is_gone_gives_the_closure_back_and_drops_what_it_had() {
    let (reactor, remote) = tally(1, Config::default());
    let held = Arc::new(());
    let task = |held: Arc<()>| {
        move |tally: &mut Tally, _: &mut Context<'_, Tally>| {
            tally.total += Arc::strong_count(&held) as u64;
        }
    };
    remote.post(task(Arc::clone(&held))).expect("there is room");
    assert_eq!(Arc::strong_count(&held), 2);
    drop(reactor);
    assert_eq!(Arc::strong_count(&held), 1, "it never runs");

    let refused = remote.post(task(Arc::clone(&held)));
    let Err(PostError::Closed(task)) = refused else {
        panic!("nobody is there to run it");
    };
    assert_eq!(Arc::strong_count(&held), 2, "it was given back");
    drop(task);
    remote
        .shutdown(Duration::ZERO)
        .expect("what is gone is shut down");
}

/// A closure whose captures post or ask for a shutdown when they are dropped: with the reactor,
/// and without a deadlock.
#[test]
fn a_closure_may_use_its_remote_while_it_is_dropped_with_the_reactor() {
    struct PostsOnDrop(Remote<Tally>, mpsc::Sender<bool>);
    impl Drop for PostsOnDrop {
        fn drop(&mut self) {
            let refused = self.0.post(|_, _| {});
            let closed = matches!(refused, Err(PostError::Closed(_)));
            self.1.send(closed).expect("the test waits");
        }
    }
    let (reactor, remote) = tally(1, Config::default());
    let (dropped, result) = mpsc::channel();
    let captive = PostsOnDrop(remote.clone(), dropped);
    remote
        .post(move |_, _| drop(captive))
        .expect("there is room");
    let ender = thread::spawn(move || drop(reactor));
    assert!(result.recv_timeout(DEADLINE).expect("no deadlock"));
    ender.join().expect("it does not panic");
}

#[test]
fn a_shutdown_is_heard_when_the_queue_is_full_and_what_was_accepted_runs() {
    let mut config = Config::default();
    config.posts_max = 5;
    let (reactor, remote) = tally(1, config);
    for _ in 0..5 {
        remote.post(|tally, _| tally.total += 1).expect("room");
    }
    remote.post(|_, _| {}).expect_err("it is full");
    remote.shutdown(Duration::ZERO).expect("it is heard");
    let tally = run(reactor).recv_timeout(DEADLINE).expect("it ends");
    assert_eq!(tally.total, 5);
}

#[test]
fn a_shutdown_wakes_a_loop_that_sleeps() {
    for _ in 0..200 {
        let (reactor, remote) = tally(1, Config::default());
        let result = run(reactor);
        remote.shutdown(Duration::ZERO).expect("it is heard");
        result.recv_timeout(DEADLINE).expect("it ends");
    }
}

/// A closure that posts itself again, and another one beside it, runs once a turn: not at once,
/// and not for ever in one turn.
#[test]
fn what_a_posted_closure_posts_runs_in_a_later_turn() {
    fn again(remote: Remote<Tally>) -> impl FnOnce(&mut Tally, &mut Context<'_, Tally>) + Send {
        move |tally, _| {
            tally.total += 1;
            if tally.total < FAR_TOO_MANY {
                let next = remote.clone();
                remote
                    .post(move |tally, cx| again(next)(tally, cx))
                    .expect("there is room");
            }
        }
    }
    let (mut reactor, remote) = tally(1, Config::default());
    remote.post(again(remote.clone())).expect("there is room");
    for turn in 1..=100 {
        reactor.turn(None).expect("the poll works");
        assert_eq!(reactor.handler().total, turn);
    }
}

#[test]
fn closures_that_post_themselves_for_ever_do_not_keep_frames_waiting() {
    fn again(
        remote: Remote<Probe>,
        ran: Arc<AtomicU64>,
    ) -> impl FnOnce(&mut Probe, &mut Context<'_, Probe>) + Send {
        move |_, _| {
            if ran.fetch_add(1, Ordering::Relaxed) < FAR_TOO_MANY {
                let next = remote.clone();
                remote
                    .post(move |probe, cx| again(next, ran)(probe, cx))
                    .expect("there is room");
            }
        }
    }
    let (mut reactor, addr) = listening(Probe::echo(), Config::default(), Framing::length_u32());
    let remote = reactor.remote();
    let ran = Arc::new(AtomicU64::new(0));
    for _ in 0..100 {
        remote
            .post(again(remote.clone(), Arc::clone(&ran)))
            .expect("there is room");
    }
    let client = thread::spawn(move || {
        let mut client = common::client(addr);
        for index in 0..100_u32 {
            assert_eq!(
                round_trip(&mut client, &index.to_be_bytes()),
                index.to_be_bytes()
            );
        }
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    client.join().expect("every frame is echoed");
    let (ran, turns) = (ran.load(Ordering::Relaxed), reactor.stats().turns);
    assert!(ran <= 100 * turns, "{ran} closures in {turns} turns");
}

/// A post may do what a callback may: here to a connection of another thread's client.
#[test]
fn a_posted_closure_sends_to_a_connection() {
    let server = Server::start(Probe::silent(), Config::default(), Framing::length_u32());
    let mut client = server.connect();
    let (sent, was_sent) = mpsc::channel();
    loop {
        let sent = sent.clone();
        post(&server.remote, move |probe: &mut Probe, cx| {
            let conn = probe.events.iter().find_map(|event| match event {
                Event::Open(conn, _) => Some(*conn),
                _ => None,
            });
            let accepted = conn.is_some_and(|conn| cx.send(conn, b"from afar").is_ok());
            let _ = sent.send(accepted);
        });
        if was_sent.recv_timeout(DEADLINE).expect("it runs") {
            break;
        }
    }
    assert_eq!(common::read_u32_frame(&mut client), b"from afar");
    drop(client);
    server.stop();
}

/// The connection of the last client that a silent probe was told of.
fn last_conn(reactor: &Reactor<Probe>) -> Option<ConnId> {
    reactor
        .handler()
        .events
        .iter()
        .rev()
        .find_map(|event| match event {
            Event::Open(conn, _) => Some(*conn),
            _ => None,
        })
}

#[test]
fn another_thread_sends_to_a_connection_in_the_order_of_its_posts() {
    const SENDERS: u32 = 3;
    const PAYLOADS: u32 = 2000;
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let mut client = common::client(addr);
    drive(&mut reactor, |reactor| last_conn(reactor).is_some());
    let conn = last_conn(&reactor).expect("it is open");
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let remote = reactor.remote();
            thread::spawn(move || {
                for index in 0..PAYLOADS {
                    let payload = [sender, index].map(u32::to_be_bytes).concat();
                    // Closures and payloads of one thread keep their order between them too.
                    if index % 2 == 0 {
                        remote.send(conn, payload).expect("there is room");
                    } else {
                        let send = move |_: &mut Probe, cx: &mut Context<'_, Probe>| {
                            assert!(cx.send(conn, &payload).is_ok());
                        };
                        remote.post(send).expect("there is room");
                    }
                }
            })
        })
        .collect();
    let reader = thread::spawn(move || {
        let mut next = [0_u32; SENDERS as usize];
        for _ in 0..SENDERS * PAYLOADS {
            let payload = common::read_u32_frame(&mut client);
            let [sender, index] = [&payload[..4], &payload[4..]]
                .map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes")));
            assert_eq!(next[sender as usize], index);
            next[sender as usize] += 1;
        }
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    reader.join().expect("every payload comes, in order");
    senders
        .into_iter()
        .for_each(|sender| sender.join().expect("it does not panic"));
}

#[test]
fn a_long_payload_of_another_thread_is_queued_as_it_is() {
    const LEN: usize = 1 << 20;
    let mut reactor = Reactor::new(Probe::silent()).expect("a reactor");
    let (_sockets, addr) = common::silent();
    let conn = reactor.connect(addr, Framing::length_u32(), ());
    let remote = reactor.remote();
    remote.send(conn, vec![7; LEN]).expect("there is room");
    drive(&mut reactor, |reactor| reactor.stats().frames_out == 1);
    let held = reactor.stats().held_bytes;
    assert!((LEN..LEN + LEN / 8).contains(&held), "a copy is lent more");

    reactor.with(|_, cx| cx.abort(conn));
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let payload = vec![7; LEN];
    let place = payload.as_ptr() as usize;
    remote.send(conn, payload).expect("there is room");
    let is_refused = |event: &Event| match event {
        Event::SendRefused(_, payload) => payload.as_ptr() as usize == place,
        _ => false,
    };
    drive(&mut reactor, |reactor| {
        reactor.handler().count(is_refused) == 1
    });
}

#[test]
fn a_payload_that_cannot_be_queued_or_sent_is_given_back() {
    /// Keeps what was refused.
    #[derive(Default)]
    struct Refusals(Vec<(ConnId, Vec<u8>, SendError)>);
    impl Handler for Refusals {
        type Session = ();

        fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}

        fn on_send_refused(
            &mut self,
            _: &mut Context<'_, Self>,
            conn: ConnId,
            payload: Vec<u8>,
            error: SendError,
        ) {
            self.0.push((conn, payload, error));
        }
    }
    let mut config = Config::default();
    config.posts_max = 2;
    let mut reactor = Reactor::with_config(Refusals::default(), config).expect("a reactor");
    let remote = reactor.remote();
    let (_sockets, addr) = common::silent();
    let conn = reactor.connect(addr, Framing::length_u8(), ());
    remote.send(conn, vec![7; 300]).expect("there is room");
    remote.send(conn, *b"fits").expect("there is room");
    match remote.send(conn, "third") {
        Err(PostError::Full(payload)) => assert_eq!(payload, b"third"),
        other => panic!("{other:?}"),
    }
    reactor.turn(None).expect("the poll works");
    reactor.with(|_, cx| cx.abort(conn));
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    remote.send(conn, "too late").expect("there is room");
    drive(&mut reactor, |reactor| reactor.handler().0.len() >= 2);
    let refusals = &reactor.handler().0;
    assert_eq!(refusals.len(), 2, "the one that fits was accepted");
    assert_eq!((refusals[0].0, &refusals[0].1[..]), (conn, &[7; 300][..]));
    assert!(matches!(refusals[0].2, SendError::Frame(_)));
    assert_eq!(
        (refusals[1].0, &refusals[1].1[..]),
        (conn, &b"too late"[..])
    );
    assert!(matches!(refusals[1].2, SendError::Gone));
    drop(reactor);
    match remote.send(conn, "nobody") {
        Err(PostError::Closed(payload)) => assert_eq!(payload, b"nobody"),
        other => panic!("{other:?}"),
    }
}

/// What was posted before a turn is run in turns of so many; what comes meanwhile waits behind it.
#[test]
fn a_turn_runs_no_more_posts_than_its_budget_and_goes_on_in_the_next() {
    let mut config = Config::default();
    config.post_budget = 10;
    let (mut reactor, remote) = tally(1, config);
    for index in 0..35 {
        // Of two types, so that several boxes and runs are cut.
        let posted = if index % 7 == 0 {
            let one = index.max(1) / index.max(1);
            remote.post(move |tally, _| tally.total += one).is_ok()
        } else {
            remote.post(|tally, _| tally.total += 1).is_ok()
        };
        assert!(posted, "there is room");
    }
    for expected in [10, 20, 30, 35] {
        reactor.turn(None).expect("the poll works");
        assert_eq!(reactor.handler().total, expected);
    }
}

/// The posts that are left after a panic run in the next turns, and none of them twice.
#[test]
fn a_posted_closure_that_panics_takes_no_other_with_it() {
    let (mut reactor, remote) = tally(1, Config::default());
    for index in 0..5 {
        let task = move |tally: &mut Tally, _: &mut Context<'_, Tally>| {
            assert_ne!(index, 2, "the closure's own fault");
            tally.total += 1;
        };
        remote.post(task).expect("there is room");
    }
    let turn = std::panic::AssertUnwindSafe(|| reactor.turn(None));
    assert!(std::panic::catch_unwind(turn).is_err());
    assert_eq!(reactor.handler().total, 2);
    reactor.turn(None).expect("the poll works");
    assert_eq!(reactor.handler().total, 4);
}

/// A program that waits for the poll's descriptor in a loop of its own sees it readable after a
/// post: one that came between two turns, and one that came while a turn was under way.
#[test]
#[cfg(unix)]
fn a_post_makes_the_polls_descriptor_readable() {
    let (mut reactor, remote) = tally(1, Config::default());
    for _ in 0..3 {
        let from_within = remote.clone();
        remote
            .post(move |tally, _| {
                tally.total += 1;
                let again = |tally: &mut Tally, _: &mut Context<'_, Tally>| tally.total += 10;
                from_within.post(again).expect("there is room");
            })
            .expect("there is room");
        for more in [1, 10] {
            assert!(is_readable(&reactor), "there is a post to run");
            let before = reactor.handler().total;
            reactor.turn(Some(Duration::ZERO)).expect("the poll works");
            assert_eq!(reactor.handler().total, before + more);
        }
        assert!(!is_readable(&reactor), "there is nothing more");
    }
}

/// The loop looks at the queue before it waits again: to wake it would be a call and an event, for
/// every frame that a worker is given and answers at once.
#[test]
#[cfg(unix)]
fn a_post_while_the_loop_is_at_work_wakes_nobody() {
    let (tell_remote, has_remote) = mpsc::channel::<Remote<Probe>>();
    let probe = Probe::new(move |_, event| {
        if let Event::Frame(..) = event {
            let remote = has_remote.recv().expect("it was sent");
            remote.post(|_, cx| cx.stop()).expect("there is room");
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
    let (mut client, conn) = common::open(&mut reactor, addr);
    for _ in 0..3 {
        tell_remote.send(reactor.remote()).expect("it is awaited");
        common::deposit(&mut reactor, &mut client, conn, b"work\n");
        reactor.run().expect("the poll works");
        assert!(!is_readable(&reactor), "the post has run already");
    }
}

/// Whether another poll finds the reactor's own one readable.
#[cfg(unix)]
fn is_readable<H: Handler>(reactor: &Reactor<H>) -> bool {
    use mio::{Events, Interest, Poll, Token, unix::SourceFd};
    use std::os::fd::AsRawFd;

    let mut poll = Poll::new().expect("a poll");
    let mut events = Events::with_capacity(1);
    let fd = reactor.as_raw_fd();
    poll.registry()
        .register(&mut SourceFd(&fd), Token(0), Interest::READABLE)
        .expect("it can be watched");
    poll.poll(&mut events, Some(Duration::ZERO))
        .expect("the poll works");
    !events.is_empty()
}
