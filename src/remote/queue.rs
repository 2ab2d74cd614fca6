//! The queue between other threads and the loop, and the one wake-up that many posts share.
//!
//! It knows nothing of handlers, and the same code is run under loom (see the end of the file),
//! which tries every order in which the threads may come.
//!
//! ```text
//!            loop falls asleep                     first post: wakes
//!   AWAKE  --------------------->  ASLEEP  --------------------------->  PENDING
//!     ^                                                                    |
//!     |   loop takes all                       first post: no call         |
//!     +<-------------------------------------------------------------------+
//!     +------------------------------------------------------------------->+
//! ```

use std::collections::VecDeque;
use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::Duration;

#[cfg(all(test, loom))]
use loom::sync::{Mutex, MutexGuard, atomic::AtomicU8};
#[cfg(not(all(test, loom)))]
use std::sync::{Mutex, MutexGuard, atomic::AtomicU8};

use crate::error::PostError;

/// The loop is in a turn, and looks at the queue before it waits. Nothing is queued.
const AWAKE: u8 = 0;
/// The loop waits for events, or may begin to at any time. Nothing is queued.
const ASLEEP: u8 = 1;
/// Something is queued. The loop is in a turn, or is being woken.
const PENDING: u8 = 2;
/// Something is queued, and the system refused the wake-up: the next post tries it again.
const UNWOKEN: u8 = 3;

/// Ends a wait of the loop, also one that begins later.
pub(crate) trait Wake {
    fn wake(&self) -> io::Result<()>;
}

impl Wake for crate::os::Waker {
    fn wake(&self) -> io::Result<()> {
        self.wake()
    }
}

/// A bounded queue of many producers and one consumer: the loop.
///
/// A wake-up cannot be lost. `state` leaves `ASLEEP` by a read-modify-write only, so either the
/// post sees that the loop sleeps and wakes it, or the loop, about to sleep, sees the post and does
/// not. A loop that is awake costs no wake-up at all; one that sleeps, one for any number of posts.
pub(super) struct Queue<T, W> {
    recv_batch: Mutex<RecvBatch<T>>,
    /// Whether anything is queued, and who has to be told: read without the lock by the loop,
    /// written to `AWAKE` and `PENDING` under it.
    state: AtomicU8,
    waker: W,
    len_max: usize,
}

struct RecvBatch<T> {
    items: VecDeque<T>,
    /// Posts in `items`, each of which may hold several: at most `len_max`.
    len: usize,
    shutdown: Option<Duration>,
    closed: bool,
}

impl<T, W: Wake> Queue<T, W> {
    pub(super) fn new(waker: W, len_max: usize) -> Self {
        Self {
            recv_batch: Mutex::new(RecvBatch {
                items: VecDeque::new(),
                len: 0,
                shutdown: None,
                closed: false,
            }),
            state: AtomicU8::new(ASLEEP),
            waker,
            len_max,
        }
    }

    /// Puts one more thing in by `put`, which runs under the lock: it calls nothing of the user's.
    #[inline]
    pub(super) fn post<P>(
        &self,
        post: P,
        put: impl FnOnce(&mut VecDeque<T>, P),
    ) -> Result<(), PostError<P>> {
        let mut recv_batch = self.lock();
        if recv_batch.closed {
            return Err(PostError::Closed(post));
        }
        if recv_batch.len >= self.len_max {
            return Err(PostError::Full(post));
        }
        recv_batch.len += 1;
        put(&mut recv_batch.items, post);
        self.tell(recv_batch).map_err(PostError::Wake)
    }

    /// Asks for a shutdown, for which there is always room.
    pub(super) fn shut_down(&self, deadline: Duration) -> io::Result<()> {
        let mut recv_batch = self.lock();
        if recv_batch.closed {
            return Ok(());
        }
        recv_batch.shutdown = Some(deadline);
        self.tell(recv_batch)
    }

    /// Takes all that is queued, in exchange for an empty queue, and a shutdown asked for.
    pub(super) fn take(&self, items: &mut VecDeque<T>) -> Option<Duration> {
        debug_assert!(items.is_empty(), "what is given in exchange holds nothing");
        let mut recv_batch = self.lock();
        self.state.store(AWAKE, Relaxed);
        recv_batch.len = 0;
        std::mem::swap(&mut recv_batch.items, items);
        recv_batch.shutdown.take()
    }

    /// Whether there is anything to take.
    #[inline]
    pub(super) fn is_pending(&self) -> bool {
        self.state.load(Acquire) >= PENDING
    }

    /// The loop is about to wait. Answers whether it may: not if something is queued.
    #[inline]
    pub(super) fn fall_asleep(&self) -> bool {
        match self.state.compare_exchange(AWAKE, ASLEEP, AcqRel, Acquire) {
            Ok(_) | Err(ASLEEP) => true,
            Err(_) => false,
        }
    }

    /// The loop has waited. Until it falls asleep again, posts need not wake it.
    #[inline]
    pub(super) fn awake(&self) {
        if self.state.load(Relaxed) == ASLEEP {
            // Whatever was posted in between stays pending.
            let _ = self.state.compare_exchange(ASLEEP, AWAKE, AcqRel, Acquire);
        }
    }

    /// The loop leaves the thread to its caller, who may wait for the poll's descriptor: a post has
    /// to be seen there, also one that came while the loop was awake.
    pub(super) fn park(&self) {
        if !self.fall_asleep() {
            // Where the system refuses it, the next post tries again.
            let _ = self.wake();
        }
    }

    /// Refuses all posts from now on, and drops what is queued.
    pub(super) fn close(&self) {
        let mut recv_batch = self.lock();
        recv_batch.closed = true;
        let items = std::mem::take(&mut recv_batch.items);
        drop(recv_batch);
        // Dropped outside of the lock: a closure may hold a `Remote` of its own.
        drop(items);
    }

    /// Something was put in: wakes the loop where it sleeps and nobody else has, after the lock
    /// has been given back.
    #[inline]
    fn tell(&self, recv_batch: MutexGuard<'_, RecvBatch<T>>) -> io::Result<()> {
        let must_wake = self.state.load(Relaxed) != PENDING
            && matches!(self.state.swap(PENDING, AcqRel), ASLEEP | UNWOKEN);
        drop(recv_batch);
        if must_wake { self.wake() } else { Ok(()) }
    }

    #[cold]
    fn wake(&self) -> io::Result<()> {
        self.waker.wake().inspect_err(|_| {
            let _ = self
                .state
                .compare_exchange(PENDING, UNWOKEN, AcqRel, Acquire);
        })
    }

    /// The queue stays whole if a thread panics: nothing of the user's runs under the lock.
    fn lock(&self) -> MutexGuard<'_, RecvBatch<T>> {
        self.recv_batch
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Counts wake-ups, and refuses so many of them first.
    #[derive(Default)]
    struct Counter {
        woken: Cell<u32>,
        refusals: Cell<u32>,
    }

    impl Wake for Counter {
        fn wake(&self) -> io::Result<()> {
            if self.refusals.get() > 0 {
                self.refusals.set(self.refusals.get() - 1);
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
    fn a_thousand_posts_to_a_loop_that_sleeps_are_one_wake_up() {
        let queue = Numbers::new(Counter::default(), 2000);
        for round in 1..5 {
            assert!(queue.fall_asleep());
            for number in 0..1000 {
                post(&queue, number).expect("there is room");
            }
            queue.shut_down(Duration::ZERO).expect("it is heard");
            queue.awake();
            assert!(queue.is_pending());
            assert!(taken(&queue).into_iter().eq(0..1000));
            assert_eq!(queue.waker.woken.get(), round);
        }
    }

    #[test]
    fn posts_to_a_loop_that_is_awake_are_no_wake_up_and_keep_it_awake() {
        let queue = Numbers::new(Counter::default(), 2000);
        queue.awake();
        for number in 0..1000 {
            post(&queue, number).expect("there is room");
        }
        assert_eq!(queue.waker.woken.get(), 0);
        assert!(!queue.fall_asleep(), "there is something to do");
        assert_eq!(taken(&queue).len(), 1000);
        assert!(queue.fall_asleep());
        assert_eq!(queue.waker.woken.get(), 0);
    }

    #[test]
    fn a_loop_that_leaves_posts_behind_wakes_whoever_watches_its_poll() {
        let queue = Numbers::new(Counter::default(), 10);
        queue.awake();
        queue.park();
        assert_eq!(queue.waker.woken.get(), 0, "there is nothing to tell");
        queue.awake();
        post(&queue, 1).expect("there is room");
        queue.park();
        assert_eq!(queue.waker.woken.get(), 1);
    }

    #[test]
    fn a_wake_up_that_was_refused_is_tried_again_by_the_next_post() {
        let queue = Numbers::new(Counter::default(), 10);
        queue.waker.refusals.set(2);
        for number in 0..2 {
            let refused = post(&queue, number);
            assert!(matches!(refused, Err(PostError::Wake(_))), "{refused:?}");
            assert!(queue.is_pending() && !queue.fall_asleep());
        }
        post(&queue, 2).expect("it is woken at last");
        post(&queue, 3).expect("and needs no other");
        assert_eq!(queue.waker.woken.get(), 1);
        assert_eq!(taken(&queue), [0, 1, 2, 3], "nothing was lost");
    }

    #[test]
    fn a_full_queue_and_a_closed_one_give_back_what_they_refuse() {
        let queue = Numbers::new(Counter::default(), 2);
        for number in 0..2 {
            post(&queue, number).expect("there is room");
        }
        assert!(matches!(post(&queue, 7), Err(PostError::Full(7))));
        assert_eq!(taken(&queue), [0, 1]);
        post(&queue, 2).expect("there is room again");
        queue.close();
        assert!(matches!(post(&queue, 7), Err(PostError::Closed(7))));
        queue.shut_down(Duration::ZERO).expect("nobody is there");
        assert!(taken(&queue).is_empty());
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test --release --lib loom_` runs these in the orders of their
/// threads' steps that the C11 memory model allows. A wake-up that is lost is a deadlock there.
#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    use super::*;

    /// An eventfd and the wait for it.
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
                posted.expect("there is room");
            }
        })
    }

    /// Turns of a loop, as the reactor takes them, until so many posts have come.
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

    /// Every order in which threads are interrupted at most so often: loom's documentation names
    /// two to three as what finds most faults, and without a bound two producers take hours.
    fn model(interruptions: usize, model: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(interruptions);
        builder.check(model);
    }

    #[test]
    fn loom_no_wake_up_of_two_producers_is_lost() {
        model(3, || {
            let (queue, bell) = queue();
            let producers = [producer(&queue, 0..1), producer(&queue, 1..2)];
            let mut seen = turns(&queue, &bell, 2);
            seen.sort_unstable();
            assert_eq!(seen, [0, 1]);
            for producer in producers {
                producer.join().expect("it does not panic");
            }
        });
    }

    #[test]
    fn loom_posts_of_one_producer_come_in_order() {
        model(3, || {
            let (queue, bell) = queue();
            let producer = producer(&queue, 0..3);
            assert_eq!(turns(&queue, &bell, 3), [0, 1, 2]);
            producer.join().expect("it does not panic");
        });
    }

    /// Another loop watches the poll: it takes a turn only when the bell has rung.
    #[test]
    fn loom_a_loop_that_is_parked_is_woken_by_what_it_left_behind() {
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
            producer.join().expect("it does not panic");
        });
    }

    #[test]
    fn loom_a_post_is_taken_or_given_back_where_the_loop_ends() {
        model(3, || {
            let (queue, _) = queue();
            let other = Arc::clone(&queue);
            let producer = thread::spawn(move || other.post(7, VecDeque::push_back).is_ok());
            let mut items = VecDeque::new();
            queue.awake();
            queue.take(&mut items);
            queue.close();
            let was_accepted = producer.join().expect("it does not panic");
            assert!(was_accepted || items.is_empty());
            assert!(queue.post(8, VecDeque::push_back).is_err());
        });
    }
}
