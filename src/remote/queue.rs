//! The queue between other threads and the loop. Many posts share one wake-up.
//!
//! The queue is independent of handlers, so that the tests at the end of the file can run it with
//! loom. Loom tries every order in which the threads may run.
//!
//! ```text
//!   AWAKE  --- the loop falls asleep -->  ASLEEP  --- first post: wakes the loop -->  PENDING
//!   AWAKE  <-- a wait without a post ---  ASLEEP
//!   AWAKE  --- first post: no wake-up ---------------------------------------------->  PENDING
//!   AWAKE  <-- the loop takes all posts ---------------------------------------------  PENDING
//! ```

use std::collections::VecDeque;
use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::Duration;

#[cfg(all(test, loom))]
use loom::sync::{Condvar, Mutex, MutexGuard, atomic::AtomicU8};
#[cfg(not(all(test, loom)))]
use std::sync::{Condvar, Mutex, MutexGuard, atomic::AtomicU8};

use crate::error::PostError;
use crate::shutdown::ShutdownPlan;

/// The loop is in a turn and checks the queue before it waits. No post is queued.
const AWAKE: u8 = 0;
/// The loop is waiting for events or may start to wait at any time. No post is queued.
const ASLEEP: u8 = 1;
/// A post or a shutdown is queued. The loop is in a turn or is being woken.
const PENDING: u8 = 2;
/// A post or a shutdown is queued, but the wake-up failed. The next post tries to wake the loop
/// again.
const UNWOKEN: u8 = 3;

/// Wakes the loop: ends the current wait of the loop, or its next wait if the loop is not waiting
/// yet.
pub(crate) trait Wake {
    fn wake(&self) -> io::Result<()>;
}

impl Wake for crate::os::Waker {
    fn wake(&self) -> io::Result<()> {
        self.wake()
    }
}

/// A bounded queue with many producers and one consumer, the loop.
///
/// No wake-up is lost, because `state` leaves `ASLEEP` only by a read-modify-write operation.
/// Either the post finds the loop asleep and wakes it, or the loop finds the post before it sleeps.
/// Posts to an awake loop cause no wake-up. Posts to a sleeping loop cause one wake-up in total.
pub(super) struct Queue<T, W> {
    posts: Mutex<Posts<T>>,
    /// `AWAKE`, `ASLEEP`, or one of the two states in which posts are queued. `publish` and `take`
    /// change the state under the lock. All other functions change it by compare-and-exchange.
    state: AtomicU8,
    /// Notified when the loop has taken the posts while a thread waits for a place in the queue,
    /// and when the queue is closed.
    taken: Condvar,
    waker: W,
    len_max: usize,
}

/// Content of the queue, protected by its lock.
struct Posts<T> {
    items: VecDeque<T>,
    /// Number of posts in `items`, at most `len_max`. One item may hold several posts.
    len: usize,
    /// Number of threads that wait for a place in the queue.
    waiting: usize,
    /// Plan of a requested shutdown.
    shutdown: Option<ShutdownPlan>,
    closed: bool,
}

impl<T, W: Wake> Queue<T, W> {
    pub(super) fn new(waker: W, len_max: usize) -> Self {
        Self {
            posts: Mutex::new(Posts {
                items: VecDeque::new(),
                len: 0,
                waiting: 0,
                shutdown: None,
                closed: false,
            }),
            state: AtomicU8::new(ASLEEP),
            taken: Condvar::new(),
            waker,
            len_max,
        }
    }

    /// Adds one post with `put`, which runs under the lock and must not call user code.
    pub(super) fn post<P>(
        &self,
        post: P,
        put: impl FnOnce(&mut VecDeque<T>, P),
    ) -> Result<(), PostError<P>> {
        self.post_into(self.lock(), post, put)
    }

    /// Adds one post like [`post`](Self::post). If the queue is full, waits at most `timeout` until
    /// the loop takes the queued posts.
    pub(super) fn post_timeout<P>(
        &self,
        timeout: Duration,
        post: P,
        put: impl FnOnce(&mut VecDeque<T>, P),
    ) -> Result<(), PostError<P>> {
        let mut posts = self.lock();
        if self.is_full(&posts) {
            // If the wake-up of an earlier post failed, the loop still sleeps. This thread wakes
            // the loop; otherwise the queue would stay full.
            let unwoken = self
                .state
                .compare_exchange(UNWOKEN, PENDING, AcqRel, Acquire);
            if unwoken.is_ok() {
                let _ = self.wake();
            }
            posts.waiting += 1;
            posts = self.wait_while_full(posts, timeout);
            posts.waiting -= 1;
        }
        self.post_into(posts, post, put)
    }

    fn is_full(&self, posts: &Posts<T>) -> bool {
        posts.len >= self.len_max && !posts.closed
    }

    #[cfg(not(all(test, loom)))]
    fn wait_while_full<'a>(
        &'a self,
        posts: MutexGuard<'a, Posts<T>>,
        timeout: Duration,
    ) -> MutexGuard<'a, Posts<T>> {
        let waited = self
            .taken
            .wait_timeout_while(posts, timeout, |posts| self.is_full(posts));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits without a timeout, because loom has no clock.
    #[cfg(all(test, loom))]
    fn wait_while_full<'a>(
        &'a self,
        mut posts: MutexGuard<'a, Posts<T>>,
        _: Duration,
    ) -> MutexGuard<'a, Posts<T>> {
        while self.is_full(&posts) {
            let waited = self.taken.wait(posts);
            posts = waited.unwrap_or_else(PoisonError::into_inner);
        }
        posts
    }

    fn post_into<P>(
        &self,
        mut posts: MutexGuard<'_, Posts<T>>,
        post: P,
        put: impl FnOnce(&mut VecDeque<T>, P),
    ) -> Result<(), PostError<P>> {
        if posts.closed {
            return Err(PostError::Closed(post));
        }
        if posts.len >= self.len_max {
            return Err(PostError::Full(post));
        }
        posts.len += 1;
        put(&mut posts.items, post);
        self.publish(posts).map_err(PostError::Wake)
    }

    /// Requests a shutdown. It is accepted even if the queue is full.
    pub(super) fn shut_down(&self, plan: ShutdownPlan) -> io::Result<()> {
        let mut posts = self.lock();
        if posts.closed {
            return Ok(());
        }
        let former = posts.shutdown;
        posts.shutdown = Some(former.map_or(plan, |former| former.or_earlier(plan)));
        self.publish(posts)
    }

    /// Moves all posts into the empty queue `items`, and returns the plan of a requested
    /// shutdown.
    pub(super) fn take(&self, items: &mut VecDeque<T>) -> Option<ShutdownPlan> {
        debug_assert!(items.is_empty(), "the queue passed to take() must be empty");
        let mut posts = self.lock();
        self.state.store(AWAKE, Relaxed);
        posts.len = 0;
        if posts.waiting > 0 {
            self.taken.notify_all();
        }
        std::mem::swap(&mut posts.items, items);
        posts.shutdown.take()
    }

    /// Returns the plan of a requested shutdown, and leaves the posts in the queue. The queue stays
    /// pending, even if it has no post, until the next [`take`](Self::take).
    pub(super) fn take_shutdown(&self) -> Option<ShutdownPlan> {
        self.lock().shutdown.take()
    }

    /// Returns true if posts or a shutdown are pending.
    pub(super) fn is_pending(&self) -> bool {
        self.state.load(Acquire) >= PENDING
    }

    /// Marks the loop as asleep before it waits. Returns false if the loop must not wait, because a
    /// post or a shutdown is queued.
    pub(super) fn fall_asleep(&self) -> bool {
        let result = self.state.compare_exchange(AWAKE, ASLEEP, AcqRel, Acquire);
        matches!(result, Ok(_) | Err(ASLEEP))
    }

    /// Marks the loop as awake after a wait. Until it falls asleep again, posts need not wake it.
    pub(super) fn awake(&self) {
        if self.state.load(Relaxed) == ASLEEP {
            // The exchange fails if a post arrived after the load. The post then stays pending.
            let _ = self.state.compare_exchange(ASLEEP, AWAKE, AcqRel, Acquire);
        }
    }

    /// Marks the loop as asleep before its caller waits for the poll's descriptor. A pending post
    /// makes the descriptor readable, even if it arrived while the loop was awake.
    pub(super) fn park(&self) {
        if !self.fall_asleep() {
            // If the wake-up fails, the next post tries to wake the loop again.
            let _ = self.wake();
        }
    }

    /// Rejects all later posts and drops the queued posts.
    pub(super) fn close(&self) {
        let mut posts = self.lock();
        posts.closed = true;
        self.taken.notify_all();
        let items = std::mem::take(&mut posts.items);
        drop(posts);
        // The posts are dropped without the lock, because a closure may contain a `Remote`.
        drop(items);
    }

    /// Marks the queue as pending and releases the lock. Then wakes the loop if it is asleep and no
    /// other post has woken it, or if an earlier wake-up failed.
    fn publish(&self, posts: MutexGuard<'_, Posts<T>>) -> io::Result<()> {
        let must_wake = self.state.load(Relaxed) != PENDING
            && matches!(self.state.swap(PENDING, AcqRel), ASLEEP | UNWOKEN);
        drop(posts);
        if must_wake { self.wake() } else { Ok(()) }
    }

    fn wake(&self) -> io::Result<()> {
        self.waker.wake().inspect_err(|_| {
            let _ = self
                .state
                .compare_exchange(PENDING, UNWOKEN, AcqRel, Acquire);
        })
    }

    /// Locks the queue. The content is consistent even if the lock is poisoned, because no user
    /// code runs under the lock.
    fn lock(&self) -> MutexGuard<'_, Posts<T>> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A waker that fails `failures` times, and then counts the wake-ups.
    #[derive(Default)]
    struct Counter {
        woken: Cell<u32>,
        failures: Cell<u32>,
    }

    impl Wake for Counter {
        fn wake(&self) -> io::Result<()> {
            if self.failures.get() > 0 {
                self.failures.set(self.failures.get() - 1);
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            self.woken.set(self.woken.get() + 1);
            Ok(())
        }
    }

    type Numbers = Queue<u32, Counter>;

    fn post(queue: &Numbers, number: u32) -> Result<(), PostError<u32>> {
        queue.post(number, VecDeque::push_back)
    }

    fn taken(queue: &Numbers) -> VecDeque<u32> {
        let mut items = VecDeque::new();
        queue.take(&mut items);
        items
    }

    #[test]
    fn many_posts_to_a_sleeping_loop_cause_one_wake_up() {
        let queue = Numbers::new(Counter::default(), 2000);
        for round in 1..5 {
            assert!(queue.fall_asleep());
            for number in 0..1000 {
                post(&queue, number).expect("the queue is not full");
            }
            queue
                .shut_down(Duration::ZERO.into())
                .expect("a shutdown is always accepted");
            queue.awake();
            assert!(queue.is_pending());
            assert!(taken(&queue).into_iter().eq(0..1000));
            assert_eq!(queue.waker.woken.get(), round);
        }
    }

    #[test]
    fn posts_to_an_awake_loop_cause_no_wake_up() {
        let queue = Numbers::new(Counter::default(), 2000);
        queue.awake();
        for number in 0..1000 {
            post(&queue, number).expect("the queue is not full");
        }
        assert_eq!(queue.waker.woken.get(), 0);
        assert!(!queue.fall_asleep(), "a post is pending");
        assert_eq!(taken(&queue).len(), 1000);
        assert!(queue.fall_asleep());
        assert_eq!(queue.waker.woken.get(), 0);
    }

    #[test]
    fn park_wakes_the_poll_if_a_post_is_pending() {
        let queue = Numbers::new(Counter::default(), 10);
        queue.awake();
        queue.park();
        assert_eq!(queue.waker.woken.get(), 0, "no post is pending");
        queue.awake();
        post(&queue, 1).expect("the queue is not full");
        queue.park();
        assert_eq!(queue.waker.woken.get(), 1);
    }

    #[test]
    fn failed_wake_up_is_retried_by_the_next_post() {
        let queue = Numbers::new(Counter::default(), 10);
        queue.waker.failures.set(2);
        for number in 0..2 {
            let failed = post(&queue, number);
            assert!(matches!(failed, Err(PostError::Wake(_))), "{failed:?}");
            assert!(queue.is_pending() && !queue.fall_asleep());
        }
        post(&queue, 2).expect("the third wake-up succeeds");
        post(&queue, 3).expect("no wake-up is needed");
        assert_eq!(queue.waker.woken.get(), 1);
        assert_eq!(taken(&queue), [0, 1, 2, 3], "no post was lost");
    }

    #[test]
    fn full_or_closed_queue_returns_the_post() {
        let queue = Numbers::new(Counter::default(), 2);
        for number in 0..2 {
            post(&queue, number).expect("the queue is not full");
        }
        assert!(matches!(post(&queue, 7), Err(PostError::Full(7))));
        assert_eq!(taken(&queue), [0, 1]);
        post(&queue, 2).expect("the queue is empty again");
        queue.close();
        assert!(matches!(post(&queue, 7), Err(PostError::Closed(7))));
        queue
            .shut_down(Duration::ZERO.into())
            .expect("a closed queue ignores a shutdown");
        assert!(taken(&queue).is_empty());
    }
}

/// Tests for loom, run by `RUSTFLAGS="--cfg loom" cargo test --release --lib loom_`. Loom runs the
/// threads in every order that the C11 memory model allows. A lost wake-up shows as a deadlock.
#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    use super::*;

    /// Model of an eventfd that a thread waits for.
    #[derive(Default)]
    struct Bell {
        rung: Mutex<bool>,
        changed: Condvar,
    }

    impl Bell {
        fn wait(&self) {
            let mut rung = self.rung.lock().expect("no thread panics");
            while !*rung {
                rung = self.changed.wait(rung).expect("no thread panics");
            }
            *rung = false;
        }
    }

    impl Wake for Arc<Bell> {
        fn wake(&self) -> io::Result<()> {
            *self.rung.lock().expect("no thread panics") = true;
            self.changed.notify_one();
            Ok(())
        }
    }

    type Shared = Arc<Queue<u32, Arc<Bell>>>;

    fn queue() -> (Shared, Arc<Bell>) {
        let bell = Arc::new(Bell::default());
        (Arc::new(Queue::new(Arc::clone(&bell), 10)), bell)
    }

    fn producer(queue: &Shared, posts: std::ops::Range<u32>) -> thread::JoinHandle<()> {
        let queue = Arc::clone(queue);
        thread::spawn(move || {
            for post in posts {
                let posted = queue.post(post, VecDeque::push_back);
                posted.expect("the queue is not full");
            }
        })
    }

    /// Takes posts in the same steps as the reactor, until `posts` posts have arrived. Returns the
    /// posts.
    fn turns(queue: &Shared, bell: &Bell, posts: usize) -> Vec<u32> {
        let mut seen = Vec::new();
        let mut items = VecDeque::new();
        while seen.len() < posts {
            if queue.fall_asleep() {
                bell.wait();
            }
            queue.awake();
            if queue.is_pending() {
                queue.take(&mut items);
                seen.extend(items.drain(..));
            }
        }
        seen
    }

    /// Runs `model` in every order of its threads with at most `preemptions_max` preemptions.
    /// According to the documentation of loom, two to three preemptions find most faults. Without a
    /// bound, two producers take hours.
    fn model(preemptions_max: usize, model: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions_max);
        builder.check(model);
    }

    #[test]
    fn loom_two_producers_lose_no_wake_up() {
        model(3, || {
            let (queue, bell) = queue();
            let producers = [producer(&queue, 0..1), producer(&queue, 1..2)];
            let mut seen = turns(&queue, &bell, 2);
            seen.sort_unstable();
            assert_eq!(seen, [0, 1]);
            for producer in producers {
                producer.join().expect("the thread does not panic");
            }
        });
    }

    #[test]
    fn loom_posts_of_one_producer_keep_their_order() {
        model(3, || {
            let (queue, bell) = queue();
            let producer = producer(&queue, 0..3);
            assert_eq!(turns(&queue, &bell, 3), [0, 1, 2]);
            producer.join().expect("the thread does not panic");
        });
    }

    /// Models a reactor that another loop drives. The reactor runs a turn only after a wake-up.
    #[test]
    fn loom_parked_loop_is_woken_by_pending_posts() {
        model(3, || {
            let (queue, bell) = queue();
            let producer = producer(&queue, 0..2);
            let (mut seen, mut items) = (0, VecDeque::new());
            while seen < 2 {
                bell.wait();
                queue.awake();
                if queue.is_pending() {
                    queue.take(&mut items);
                    seen += items.drain(..).count();
                }
                queue.park();
            }
            producer.join().expect("the thread does not panic");
        });
    }

    /// Models a thread that waits for a place in a queue with space for one post.
    #[test]
    fn loom_post_that_waits_for_a_place_is_taken() {
        model(3, || {
            let bell = Arc::new(Bell::default());
            let queue = Arc::new(Queue::new(Arc::clone(&bell), 1));
            let other = Arc::clone(&queue);
            let producer = thread::spawn(move || {
                for post in 0..2 {
                    let posted = other.post_timeout(Duration::MAX, post, VecDeque::push_back);
                    posted.expect("the queue is open");
                }
            });
            assert_eq!(turns(&queue, &bell, 2), [0, 1]);
            producer.join().expect("the thread does not panic");
        });
    }

    /// A post that is accepted between the last `take` and `close` is dropped.
    #[test]
    fn loom_rejected_post_is_never_taken() {
        model(3, || {
            let (queue, _) = queue();
            let other = Arc::clone(&queue);
            let producer = thread::spawn(move || other.post(7, VecDeque::push_back).is_ok());
            let mut items = VecDeque::new();
            queue.awake();
            queue.take(&mut items);
            queue.close();
            let was_accepted = producer.join().expect("the thread does not panic");
            assert!(was_accepted || items.is_empty());
            assert!(queue.post(8, VecDeque::push_back).is_err());
        });
    }
}
