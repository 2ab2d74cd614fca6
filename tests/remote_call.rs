//! Calls and waiting posts of other threads: `Remote::call` and `Remote::post_timeout`.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::{DEADLINE, Probe, drive};
use unstick::{CallError, Config, PostError, Reactor};

fn reactor(config: Config) -> Reactor<Probe> {
    Reactor::with_config(Probe::silent(), config).expect("the poll opens")
}

#[test]
fn call_returns_the_result_of_the_loop() {
    let mut reactor = reactor(Config::new());
    let remote = reactor.remote();
    let caller = thread::spawn(move || {
        let turns = remote.call(DEADLINE, |_, cx| cx.stats().turns);
        let text = remote.call(DEADLINE, |_, _| "text".to_owned());
        remote.shutdown(Duration::ZERO).expect("the loop is woken");
        (turns, text)
    });
    reactor.run().expect("the poll works");
    let (turns, text) = caller.join().expect("the thread does not panic");
    assert!(turns.is_ok(), "{turns:?}");
    assert_eq!(text.as_deref(), Ok("text"));
}

/// No turn runs before the timeout, so the call fails. The next turn must not run the closure of
/// the call.
#[test]
fn call_after_its_timeout_never_runs_the_closure() {
    let mut reactor = reactor(Config::new());
    let remote = reactor.remote();
    let has_run = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&has_run);
    let called = remote.call(Duration::from_millis(1), move |_, _| {
        flag.store(true, SeqCst);
    });
    assert_eq!(called, Err(CallError::Timeout));
    assert_eq!(Arc::strong_count(&has_run), 2, "the closure still waits");
    drive(&mut reactor, |_| Arc::strong_count(&has_run) == 1);
    assert!(!has_run.load(SeqCst));
}

#[test]
fn call_reports_a_dropped_reactor_and_a_panic() {
    let dropped = reactor(Config::new());
    let remote = dropped.remote();
    let posted = Arc::new(AtomicUsize::new(0));
    let token = Arc::clone(&posted);
    let caller = thread::spawn(move || remote.call(DEADLINE, move |_, _| drop(token)));
    while Arc::strong_count(&posted) == 1 {
        thread::yield_now();
    }
    let remote = dropped.remote();
    drop(dropped);
    let called = caller.join().expect("the thread does not panic");
    assert_eq!(called, Err(CallError::Closed));
    let called = remote.call(DEADLINE, |_, _| ());
    assert_eq!(called, Err(CallError::Closed));

    let mut panicking = reactor(Config::new());
    let remote = panicking.remote();
    let caller = thread::spawn(move || remote.call(DEADLINE, |_, _| panic!("on purpose")));
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| panicking.run()));
    assert!(run.is_err(), "the panic unwinds the loop");
    let called = caller.join().expect("the thread does not panic");
    assert_eq!(called, Err::<(), _>(CallError::Panicked));
}

#[test]
fn waiting_posts_pass_a_queue_of_one_in_order() {
    const POSTS: usize = 1000;
    let mut reactor = reactor(Config::new().posts_max(1));
    let remote = reactor.remote();
    let (sender, received) = mpsc::channel();
    let poster = thread::spawn(move || {
        for number in 0..POSTS {
            let sender = sender.clone();
            let posted = remote.post_timeout(DEADLINE, move |_, _| {
                sender.send(number).expect("the test receives");
            });
            posted.expect("the loop takes the posts");
        }
        remote.shutdown(Duration::ZERO).expect("the loop is woken");
    });
    reactor.run().expect("the poll works");
    poster.join().expect("the thread does not panic");
    assert!(received.iter().eq(0..POSTS));
}

#[test]
fn waiting_post_returns_its_closure_at_the_timeout() {
    let mut reactor = reactor(Config::new().posts_max(1));
    let remote = reactor.remote();
    remote.post(|_, _| {}).expect("the queue is empty");
    for timeout in [Duration::ZERO, Duration::from_millis(1)] {
        let posted = remote.post_timeout(timeout, |_, _| {});
        assert!(matches!(posted, Err(PostError::Full(_))), "{posted:?}");
        let called = remote.call(timeout, |_, _| ());
        assert_eq!(called, Err(CallError::Timeout));
    }
    reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    let posted = remote.post_timeout(Duration::ZERO, |_, _| {});
    posted.expect("the turn took the first post");
    let waiting = thread::spawn(move || remote.post_timeout(DEADLINE, |_, _| {}).is_err());
    drop(reactor);
    assert!(waiting.join().expect("the thread does not panic"));
}
