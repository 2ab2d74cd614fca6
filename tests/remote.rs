//! Closures and payloads from other threads (`Remote`): each closure runs and each payload is sent
//! exactly once, in the order of its producer. No wake-up is lost.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use common::{DEADLINE, Event, Probe, Server, drive, listening, round_trip};
use unstick::{Config, ConnId, Context, Framing, Handler, PostError, Reactor, Remote, SendError};

/// Number of runs after which a closure stops posting itself, so that an endless turn fails the
/// test.
const FAR_TOO_MANY: u64 = 10_000_000;

/// Counts the closures that ran.
#[derive(Default)]
struct Tally {
    /// Index of the next closure of each producer.
    next: Vec<u64>,
    total: u64,
}

impl Handler for Tally {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}
}

/// Posts a closure; waits and tries again while the queue is full.
fn post<H: Handler, F>(remote: &Remote<H>, mut task: F)
where
    F: FnOnce(&mut H, &mut Context<'_, H>) + Send + 'static,
{
    loop {
        match remote.post(task) {
            Ok(()) => return,
            Err(PostError::Full(returned)) => task = returned,
            Err(error) => panic!("cannot post: {error}"),
        }
        thread::yield_now();
    }
}

/// Runs the reactor in another thread. The returned channel receives the handler when the loop
/// ends.
fn run<H: Handler + Send + 'static>(mut reactor: Reactor<H>) -> Receiver<H>
where
    H::Session: Send,
{
    let (done, result) = mpsc::channel();
    thread::spawn(move || {
        reactor.run().expect("the loop runs without an error");
        done.send(reactor.into_handler())
            .expect("the test waits for the result");
    });
    result
}

fn tally(producers: usize, config: Config) -> (Reactor<Tally>, Remote<Tally>) {
    let tally = Tally {
        next: vec![0; producers],
        total: 0,
    };
    let reactor = Reactor::with_config(tally, config).expect("the reactor is created");
    let remote = reactor.remote();
    (reactor, remote)
}

/// Ten million posts: through short queues, which are full most of the time, and through a long
/// queue, which is rarely full.
#[test]
fn every_post_runs_once_and_in_order() {
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
                            assert_eq!(
                                tally.next[producer], index,
                                "posts of one producer run in order"
                            );
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
            .expect("every post runs, and in order");
        assert_eq!(tally.next, [posts; PRODUCERS]);
        producers
            .into_iter()
            .for_each(|producer| producer.join().expect("the thread does not panic"));
    }
}

/// Each producer waits for its last post to run, so posts often arrive just as the loop starts to
/// poll. Only the post itself can wake the loop.
#[test]
fn post_wakes_a_loop_that_is_about_to_poll() {
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
                        // The acknowledgement arrives during a turn. So the next post can arrive at
                        // any moment before or during the poll.
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
        result.recv_timeout(DEADLINE).expect("the loop stops");
    }
}

#[test]
fn full_post_queue_returns_the_closure() {
    let mut config = Config::default();
    config.posts_max = 3;
    let (mut reactor, remote) = tally(1, config);
    for _ in 0..3 {
        remote
            .post(|tally, _| tally.total += 1)
            .expect("the post queue has space");
    }
    let ten_more = |tally: &mut Tally, _: &mut Context<'_, Tally>| tally.total += 10;
    let Err(PostError::Full(ten_more)) = remote.post(ten_more) else {
        panic!("the full queue did not return the closure");
    };
    reactor
        .turn(Some(Duration::ZERO))
        .expect("polling succeeds");
    assert_eq!(reactor.handler().total, 3);
    remote
        .post(ten_more)
        .expect("the post queue has space again");
    reactor.turn(None).expect("polling succeeds");
    assert_eq!(reactor.handler().total, 13);
}

#[test]
fn post_to_a_dropped_reactor_returns_the_closure() {
    let (reactor, remote) = tally(1, Config::default());
    let held = Arc::new(());
    let task = |held: Arc<()>| {
        move |tally: &mut Tally, _: &mut Context<'_, Tally>| {
            tally.total += Arc::strong_count(&held) as u64;
        }
    };
    remote
        .post(task(Arc::clone(&held)))
        .expect("the post queue has space");
    assert_eq!(Arc::strong_count(&held), 2);
    drop(reactor);
    assert_eq!(
        Arc::strong_count(&held),
        1,
        "the closure is dropped without running"
    );

    let refused = remote.post(task(Arc::clone(&held)));
    let Err(PostError::Closed(task)) = refused else {
        panic!("the post did not fail with Closed");
    };
    assert_eq!(Arc::strong_count(&held), 2, "the closure was returned");
    drop(task);
    remote
        .shutdown(Duration::ZERO)
        .expect("shutdown of a dropped reactor is not an error");
}

/// A queued post is a closure that owns a value, and the drop of this value posts again. When the
/// reactor is dropped, it drops the closure. This must not cause a deadlock.
#[test]
fn drop_of_a_post_may_post_without_deadlock() {
    struct PostsOnDrop(Remote<Tally>, mpsc::Sender<bool>);
    impl Drop for PostsOnDrop {
        fn drop(&mut self) {
            let posted = self.0.post(|_, _| {});
            let closed = matches!(posted, Err(PostError::Closed(_)));
            self.1.send(closed).expect("the test waits for the result");
        }
    }
    let (reactor, remote) = tally(1, Config::default());
    let (dropped, result) = mpsc::channel();
    let captured = PostsOnDrop(remote.clone(), dropped);
    remote
        .post(move |_, _| drop(captured))
        .expect("the post queue has space");
    let ender = thread::spawn(move || drop(reactor));
    assert!(
        result
            .recv_timeout(DEADLINE)
            .expect("the drop does not deadlock")
    );
    ender.join().expect("the thread does not panic");
}

#[test]
fn shutdown_at_a_full_post_queue_runs_the_posts() {
    let mut config = Config::default();
    config.posts_max = 5;
    let (reactor, remote) = tally(1, config);
    for _ in 0..5 {
        remote
            .post(|tally, _| tally.total += 1)
            .expect("the post queue has space");
    }
    remote.post(|_, _| {}).expect_err("the queue is full");
    remote.shutdown(Duration::ZERO).expect("the reactor exists");
    let tally = run(reactor).recv_timeout(DEADLINE).expect("the loop stops");
    assert_eq!(tally.total, 5);
}

#[test]
fn shutdown_wakes_a_loop_that_polls() {
    for _ in 0..200 {
        let (reactor, remote) = tally(1, Config::default());
        let result = run(reactor);
        remote.shutdown(Duration::ZERO).expect("the reactor exists");
        result.recv_timeout(DEADLINE).expect("the loop stops");
    }
}

/// A closure that posts itself runs exactly once in each turn.
#[test]
fn post_made_by_a_post_runs_in_a_later_turn() {
    fn again(remote: Remote<Tally>) -> impl FnOnce(&mut Tally, &mut Context<'_, Tally>) + Send {
        move |tally, _| {
            tally.total += 1;
            if tally.total < FAR_TOO_MANY {
                let next = remote.clone();
                remote
                    .post(move |tally, cx| again(next)(tally, cx))
                    .expect("the post queue has space");
            }
        }
    }
    let (mut reactor, remote) = tally(1, Config::default());
    remote
        .post(again(remote.clone()))
        .expect("the post queue has space");
    for turn in 1..=100 {
        reactor.turn(None).expect("polling succeeds");
        assert_eq!(reactor.handler().total, turn);
    }
}

#[test]
fn posts_that_repost_do_not_starve_frames() {
    fn again(
        remote: Remote<Probe>,
        ran: Arc<AtomicU64>,
    ) -> impl FnOnce(&mut Probe, &mut Context<'_, Probe>) + Send {
        move |_, _| {
            if ran.fetch_add(1, Ordering::Relaxed) < FAR_TOO_MANY {
                let next = remote.clone();
                remote
                    .post(move |probe, cx| again(next, ran)(probe, cx))
                    .expect("the post queue has space");
            }
        }
    }
    let (mut reactor, addr) = listening(Probe::echo(), Config::default(), Framing::length_u32());
    let remote = reactor.remote();
    let ran = Arc::new(AtomicU64::new(0));
    for _ in 0..100 {
        remote
            .post(again(remote.clone(), Arc::clone(&ran)))
            .expect("the post queue has space");
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
    client.join().expect("the client receives every echo");
    let (ran, turns) = (ran.load(Ordering::Relaxed), reactor.stats().turns);
    assert!(ran <= 100 * turns, "{ran} closures ran in {turns} turns");
}

/// A posted closure gets a `Context`, so it can send.
#[test]
fn posted_closure_sends_to_a_connection() {
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
        if was_sent.recv_timeout(DEADLINE).expect("the post runs") {
            break;
        }
    }
    assert_eq!(common::read_u32_frame(&mut client), b"from afar");
    drop(client);
    server.stop();
}

/// Returns the connection of the last `on_open` that a probe recorded.
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
fn remote_sends_of_one_thread_keep_their_order() {
    const SENDERS: u32 = 3;
    const PAYLOADS: u32 = 2000;
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let mut client = common::client(addr);
    drive(&mut reactor, |reactor| last_conn(reactor).is_some());
    let conn = last_conn(&reactor).expect("the connection is open");
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let remote = reactor.remote();
            thread::spawn(move || {
                for index in 0..PAYLOADS {
                    let payload = [sender, index].map(u32::to_be_bytes).concat();
                    // A thread may mix payloads and closures; all of them keep their order.
                    if index % 2 == 0 {
                        remote
                            .send(conn, payload)
                            .expect("the remote queue has space");
                    } else {
                        let send = move |_: &mut Probe, cx: &mut Context<'_, Probe>| {
                            assert!(cx.send(conn, &payload).is_ok());
                        };
                        remote.post(send).expect("the post queue has space");
                    }
                }
            })
        })
        .collect();
    let reader = thread::spawn(move || {
        let mut next = [0_u32; SENDERS as usize];
        for _ in 0..SENDERS * PAYLOADS {
            let payload = common::read_u32_frame(&mut client);
            let [sender, index] = [&payload[..4], &payload[4..]].map(|bytes| {
                u32::from_be_bytes(bytes.try_into().expect("each number has four bytes"))
            });
            assert_eq!(next[sender as usize], index);
            next[sender as usize] += 1;
        }
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    reader.join().expect("every payload arrives in order");
    senders
        .into_iter()
        .for_each(|sender| sender.join().expect("the thread does not panic"));
}

#[test]
fn remote_send_does_not_copy_a_long_payload() {
    const LEN: usize = 1 << 20;
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let (_sockets, addr) = common::silent();
    let conn = reactor.connect(addr, Framing::length_u32(), ());
    let remote = reactor.remote();
    remote
        .send(conn, vec![7; LEN])
        .expect("the remote queue has space");
    drive(&mut reactor, |reactor| reactor.stats().frames_out == 1);
    let held = reactor.stats().held_bytes;
    assert!(
        (LEN..LEN + LEN / 8).contains(&held),
        "the queue holds {held} bytes; a copied payload would have a larger buffer"
    );

    reactor.with(|_, cx| cx.abort(conn));
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let payload = vec![7; LEN];
    let place = payload.as_ptr() as usize;
    remote
        .send(conn, payload)
        .expect("the remote queue has space");
    let is_refused = |event: &Event| match event {
        Event::SendRefused(_, payload) => payload.as_ptr() as usize == place,
        _ => false,
    };
    drive(&mut reactor, |reactor| {
        reactor.handler().count(is_refused) == 1
    });
}

#[test]
fn remote_send_that_fails_returns_the_payload() {
    /// Records the payloads that `on_send_refused` returns.
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
    let mut reactor =
        Reactor::with_config(Refusals::default(), config).expect("the reactor is created");
    let remote = reactor.remote();
    let (_sockets, addr) = common::silent();
    let conn = reactor.connect(addr, Framing::length_u8(), ());
    remote
        .send(conn, vec![7; 300])
        .expect("the remote queue has space");
    remote
        .send(conn, *b"fits")
        .expect("the remote queue has space");
    match remote.send(conn, "third") {
        Err(PostError::Full(payload)) => assert_eq!(payload, b"third"),
        other => panic!("a send to a full queue returned {other:?}"),
    }
    reactor.turn(None).expect("polling succeeds");
    reactor.with(|_, cx| cx.abort(conn));
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    remote
        .send(conn, "too late")
        .expect("the remote queue has space");
    drive(&mut reactor, |reactor| reactor.handler().0.len() >= 2);
    let refusals = &reactor.handler().0;
    assert_eq!(refusals.len(), 2, "the payload that fits was accepted");
    assert_eq!((refusals[0].0, &refusals[0].1[..]), (conn, &[7; 300][..]));
    assert!(matches!(refusals[0].2, SendError::Frame(_)));
    assert_eq!(
        (refusals[1].0, &refusals[1].1[..]),
        (conn, &b"too late"[..])
    );
    assert!(matches!(refusals[1].2, SendError::Gone));
    drop(reactor);
    match remote.send(conn, "dropped") {
        Err(PostError::Closed(payload)) => assert_eq!(payload, b"dropped"),
        other => panic!("a send to a dropped reactor returned {other:?}"),
    }
}

#[test]
fn turn_runs_at_most_post_budget_posts() {
    let mut config = Config::default();
    config.post_budget = 7;
    let (mut reactor, remote) = tally(1, config);
    for index in 0..35 {
        // Consecutive closures of one type form a batch. The closures of two types form batches of
        // one and of four closures. So each turn runs several batches. The third turn ends between
        // two batches, and the turns before it end within a batch.
        let posted = if index % 5 == 0 {
            let one = 1;
            remote.post(move |tally, _| tally.total += one).is_ok()
        } else {
            remote.post(|tally, _| tally.total += 1).is_ok()
        };
        assert!(posted, "the post queue has space");
    }
    for expected in [7, 14, 21, 28, 35] {
        reactor.turn(None).expect("polling succeeds");
        assert_eq!(reactor.handler().total, expected);
    }
}

/// Posts that did not run because of a panic run in the next turn. No post runs twice.
#[test]
fn panic_in_a_posted_closure_loses_no_other_post() {
    let (mut reactor, remote) = tally(1, Config::default());
    for index in 0..5 {
        let task = move |tally: &mut Tally, _: &mut Context<'_, Tally>| {
            assert_ne!(index, 2, "panic raised by the closure");
            tally.total += 1;
        };
        remote.post(task).expect("the post queue has space");
    }
    let turn = std::panic::AssertUnwindSafe(|| reactor.turn(None));
    assert!(std::panic::catch_unwind(turn).is_err());
    assert_eq!(reactor.handler().total, 2);
    reactor.turn(None).expect("polling succeeds");
    assert_eq!(reactor.handler().total, 4);
}

/// Another loop can wait for the poll's descriptor. The descriptor becomes readable after a post
/// between two turns, and after a post during a turn.
#[test]
#[cfg(unix)]
fn post_makes_the_poll_descriptor_readable() {
    let (mut reactor, remote) = tally(1, Config::default());
    for _ in 0..3 {
        let from_within = remote.clone();
        remote
            .post(move |tally, _| {
                tally.total += 1;
                let again = |tally: &mut Tally, _: &mut Context<'_, Tally>| tally.total += 10;
                from_within.post(again).expect("the post queue has space");
            })
            .expect("the post queue has space");
        for more in [1, 10] {
            assert!(is_readable(&reactor), "a post is waiting");
            let before = reactor.handler().total;
            reactor
                .turn(Some(Duration::ZERO))
                .expect("polling succeeds");
            assert_eq!(reactor.handler().total, before + more);
        }
        assert!(!is_readable(&reactor), "no post is waiting");
    }
}

/// The loop checks the post queue before it polls, so a post during a turn need not wake the loop.
/// Waking it would cost a system call and an event for every reply of a fast worker thread.
#[test]
#[cfg(unix)]
fn post_during_a_turn_does_not_wake_the_poll() {
    let (remote_tx, remote_rx) = mpsc::channel::<Remote<Probe>>();
    let probe = Probe::new(move |_, event| {
        if let Event::Frame(..) = event {
            let remote = remote_rx.recv().expect("the test sent the remote");
            remote
                .post(|_, cx| cx.stop())
                .expect("the post queue has space");
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
    let (mut client, conn) = common::open(&mut reactor, addr);
    for _ in 0..3 {
        remote_tx
            .send(reactor.remote())
            .expect("the handler waits for the remote");
        common::deposit(&mut reactor, &mut client, conn, b"work\n");
        reactor.run().expect("the loop runs without an error");
        assert!(!is_readable(&reactor), "the post has run already");
    }
}

/// Returns true if another poll reports the reactor's poll descriptor as readable.
#[cfg(unix)]
fn is_readable<H: Handler>(reactor: &Reactor<H>) -> bool {
    use mio::{Events, Interest, Poll, Token, unix::SourceFd};
    use std::os::fd::AsRawFd;

    let mut poll = Poll::new().expect("the poll can be created");
    let mut events = Events::with_capacity(1);
    let fd = reactor.as_raw_fd();
    poll.registry()
        .register(&mut SourceFd(&fd), Token(0), Interest::READABLE)
        .expect("the poll can watch the descriptor");
    poll.poll(&mut events, Some(Duration::ZERO))
        .expect("polling succeeds");
    !events.is_empty()
}
