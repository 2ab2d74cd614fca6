//! A million timers: the cost to set, postpone, cancel and fire one of them.
//!
//! ```text
//! cargo bench --manifest-path benches/peers/Cargo.toml --bench timers
//! ```
//!
//! The reactor's timer wheel is compared with three timer queues: a `BinaryHeap` that does not
//! remove cancelled entries, the wheel of tokio-util (`DelayQueue`), and the wheel of the crate
//! `hierarchical_hash_wheel_timer`. The keys of timers have 32 bits in the heap, and 64 bits in all
//! other implementations.
//!
//! The benchmark measures the CPU time of the thread, in rounds. In each round, every
//! implementation sets, postpones, cancels and fires all timers. So a change of the machine's speed
//! affects all implementations alike. A round takes about ten seconds, most of them in
//! `DelayQueue`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::future::poll_fn;
use std::hint::black_box;
use std::sync::LazyLock;
use std::task::Poll;
use std::time::Duration;

use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use hierarchical_hash_wheel_timer::IdOnlyTimerEntry;
use hierarchical_hash_wheel_timer::wheels::cancellable::QuadWheelWithOverflow;
use nix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;
use tokio_util::time::{DelayQueue, delay_queue};
use unstick::{Config, ConnId, Context, Handler, Reactor, TimerId};

/// Number of timers; smaller with `--test`.
static TIMERS: LazyLock<usize> = LazyLock::new(|| {
    let is_test = std::env::args().any(|arg| arg == "--test");
    if is_test { 10_000 } else { 1_000_000 }
});
/// First delays in milliseconds: idle timeouts of one minute, plus or minus half a minute.
const FIRST_MS: std::ops::Range<u64> = 30_000..90_000;
/// Delays in milliseconds after a timer is postponed.
const LATER_MS: std::ops::Range<u64> = 90_000..150_000;
/// Delays in milliseconds of the timers that fire; short, because the reactor uses the real clock.
const SHORT_MS: std::ops::Range<u64> = 1..200;

/// A timer implementation. A timer is identified by its index.
trait Timers {
    fn set(&mut self, delays_ms: &[u64]);
    fn postpone(&mut self, order: &[usize], delays_ms: &[u64]);
    fn cancel(&mut self, order: &[usize]);
    /// Lets time pass on the clock of this implementation, so that timers become due; not measured.
    fn let_time_pass(&mut self, time: Duration);
    /// Fires all due timers, and returns their number.
    fn fire(&mut self) -> usize;
    /// Removes entries of cancelled timers.
    fn clear(&mut self);
}

#[derive(Default)]
struct Count(usize);

impl Handler for Count {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}

    fn on_timer(&mut self, _: &mut Context<'_, Self>, _: TimerId, key: u64) {
        black_box(key);
        self.0 += 1;
    }
}

struct Unstick {
    reactor: Reactor<Count>,
    ids: Vec<TimerId>,
}

impl Unstick {
    fn new() -> Self {
        let mut config = Config::default();
        config.timer_budget = *TIMERS;
        Self {
            reactor: Reactor::with_config(Count(0), config).expect("the reactor is created"),
            ids: Vec::with_capacity(*TIMERS),
        }
    }
}

impl Timers for Unstick {
    fn set(&mut self, delays_ms: &[u64]) {
        self.ids.clear();
        self.reactor.with(|_, cx| {
            for (key, ms) in (0..).zip(delays_ms) {
                self.ids.push(cx.set_timer(Duration::from_millis(*ms), key));
            }
        });
    }

    fn postpone(&mut self, order: &[usize], delays_ms: &[u64]) {
        self.reactor.with(|_, cx| {
            for (index, ms) in order.iter().zip(delays_ms) {
                assert!(cx.reset_timer(self.ids[*index], Duration::from_millis(*ms)));
            }
        });
    }

    fn cancel(&mut self, order: &[usize]) {
        self.reactor.with(|_, cx| {
            for index in order {
                assert!(cx.cancel_timer(self.ids[*index]));
            }
        });
    }

    fn let_time_pass(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn fire(&mut self) -> usize {
        self.reactor
            .turn(Some(Duration::ZERO))
            .expect("polling succeeds");
        std::mem::take(&mut self.reactor.handler_mut().0)
    }

    fn clear(&mut self) {}
}

/// The usual hand-written timer queue. The old entry of a cancelled or postponed timer stays in the
/// heap and is skipped when it is popped.
#[derive(Default)]
struct Heap {
    now: u64,
    entries: BinaryHeap<Reverse<(u64, u32, u32)>>,
    generations: Vec<u32>,
}

impl Timers for Heap {
    fn set(&mut self, delays_ms: &[u64]) {
        self.generations.resize(delays_ms.len(), 0);
        for (key, ms) in (0_u32..).zip(delays_ms) {
            let generation = self.generations[key as usize];
            self.entries.push(Reverse((self.now + ms, key, generation)));
        }
    }

    fn postpone(&mut self, order: &[usize], delays_ms: &[u64]) {
        for (index, ms) in order.iter().zip(delays_ms) {
            self.generations[*index] += 1;
            let generation = self.generations[*index];
            self.entries
                .push(Reverse((self.now + ms, *index as u32, generation)));
        }
    }

    fn cancel(&mut self, order: &[usize]) {
        for index in order {
            self.generations[*index] += 1;
        }
    }

    fn let_time_pass(&mut self, time: Duration) {
        self.now += time.as_millis() as u64;
    }

    fn fire(&mut self) -> usize {
        let mut fired = 0;
        while let Some(Reverse((at, key, generation))) = self.entries.peek().copied() {
            if at > self.now {
                break;
            }
            self.entries.pop();
            if self.generations[key as usize] == generation {
                black_box(key);
                fired += 1;
            }
        }
        fired
    }

    fn clear(&mut self) {
        self.entries.clear();
    }
}

struct Tokio {
    runtime: Runtime,
    queue: DelayQueue<u64>,
    keys: Vec<delay_queue::Key>,
}

impl Tokio {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("the runtime is created");
        let queue = DelayQueue::with_capacity(*TIMERS);
        Self {
            runtime,
            queue,
            keys: Vec::with_capacity(*TIMERS),
        }
    }
}

impl Timers for Tokio {
    fn set(&mut self, delays_ms: &[u64]) {
        let _entered = self.runtime.enter();
        self.keys.clear();
        for (key, ms) in (0..).zip(delays_ms) {
            self.keys
                .push(self.queue.insert(key, Duration::from_millis(*ms)));
        }
    }

    fn postpone(&mut self, order: &[usize], delays_ms: &[u64]) {
        let _entered = self.runtime.enter();
        for (index, ms) in order.iter().zip(delays_ms) {
            self.queue
                .reset(&self.keys[*index], Duration::from_millis(*ms));
        }
    }

    fn cancel(&mut self, order: &[usize]) {
        let _entered = self.runtime.enter();
        for index in order {
            self.queue.remove(&self.keys[*index]);
        }
    }

    fn let_time_pass(&mut self, time: Duration) {
        self.runtime.block_on(tokio::time::advance(time));
    }

    fn fire(&mut self) -> usize {
        let queue = &mut self.queue;
        let mut fired = 0;
        let all = poll_fn(|cx| {
            while let Poll::Ready(Some(expired)) = queue.poll_expired(cx) {
                black_box(expired.into_inner());
                fired += 1;
            }
            Poll::Ready(())
        });
        self.runtime.block_on(tokio::task::unconstrained(all));
        fired
    }

    fn clear(&mut self) {}
}

#[derive(Default)]
struct HashWheel {
    wheel: QuadWheelWithOverflow<IdOnlyTimerEntry<u64>>,
    ticks: u64,
}

impl HashWheel {
    fn insert(&mut self, id: u64, ms: u64) {
        let delay = Duration::from_millis(ms);
        let inserted = self.wheel.insert(IdOnlyTimerEntry { id, delay });
        inserted.expect("the deadline is in the future");
    }
}

impl Timers for HashWheel {
    fn set(&mut self, delays_ms: &[u64]) {
        for (id, ms) in (0..).zip(delays_ms) {
            self.insert(id, *ms);
        }
    }

    fn postpone(&mut self, order: &[usize], delays_ms: &[u64]) {
        for (index, ms) in order.iter().zip(delays_ms) {
            let id = *index as u64;
            self.wheel.cancel(&id).expect("the timer is set");
            self.insert(id, *ms);
        }
    }

    fn cancel(&mut self, order: &[usize]) {
        for index in order {
            self.wheel
                .cancel(&(*index as u64))
                .expect("the timer is set");
        }
    }

    fn let_time_pass(&mut self, time: Duration) {
        self.ticks = time.as_millis() as u64;
    }

    fn fire(&mut self) -> usize {
        let ticks = std::mem::take(&mut self.ticks);
        let fired = (0..ticks).flat_map(|_| self.wheel.tick());
        fired
            .inspect(|entry| {
                black_box(entry.id);
            })
            .count()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Returns the CPU time that this thread spends on `work`.
fn measured(work: impl FnOnce()) -> Duration {
    let now = || {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
        Duration::from(time.expect("every thread has a CPU clock"))
    };
    let before = now();
    work();
    now() - before
}

/// A pseudo-random generator that returns the same numbers in every run of the benchmark.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        (self.0 >> 20) % bound
    }

    fn delays(&mut self, ms: std::ops::Range<u64>) -> Vec<u64> {
        let span = ms.end - ms.start;
        (0..*TIMERS).map(|_| ms.start + self.below(span)).collect()
    }

    fn order(&mut self) -> Vec<usize> {
        let mut order: Vec<_> = (0..*TIMERS).collect();
        for last in (1..*TIMERS).rev() {
            order.swap(last, self.below(last as u64 + 1) as usize);
        }
        order
    }
}

const OPERATIONS: [&str; 4] = ["set", "postpone", "cancel", "fire"];

/// The delays, and the orders in which timers are postponed and cancelled.
struct Work {
    first: Vec<u64>,
    later: Vec<u64>,
    short: Vec<u64>,
    postpone_order: Vec<usize>,
    cancel_order: Vec<usize>,
}

impl Work {
    fn new() -> Self {
        let mut random = Random(7);
        Self {
            first: random.delays(FIRST_MS),
            later: random.delays(LATER_MS),
            short: random.delays(SHORT_MS),
            postpone_order: random.order(),
            cancel_order: random.order(),
        }
    }

    /// Sets, postpones and cancels all timers, then sets them again and fires them.
    fn round(&self, timers: &mut dyn Timers) -> [Duration; OPERATIONS.len()] {
        let set = measured(|| timers.set(&self.first));
        let postpone = measured(|| timers.postpone(&self.postpone_order, &self.later));
        let cancel = measured(|| timers.cancel(&self.cancel_order));
        timers.clear();
        timers.set(&self.short);
        timers.let_time_pass(Duration::from_millis(SHORT_MS.end + 1));
        let mut fired = 0;
        let fire = measured(|| fired = timers.fire());
        assert_eq!(fired, *TIMERS, "number of fired timers");
        timers.clear();
        [set, postpone, cancel, fire]
    }
}

/// The implementations, and the times of their finished rounds that criterion has not read yet.
struct Rounds {
    work: Work,
    implementations: [(&'static str, Box<dyn Timers>); 4],
    times: [[VecDeque<Duration>; OPERATIONS.len()]; 4],
}

impl Rounds {
    fn new() -> Self {
        let mut rounds = Self {
            work: Work::new(),
            implementations: [
                ("unstick", Box::new(Unstick::new())),
                ("BinaryHeap", Box::new(Heap::default())),
                ("DelayQueue", Box::new(Tokio::new())),
                ("hash_wheel", Box::new(HashWheel::default())),
            ],
            times: Default::default(),
        };
        // The first round allocates memory that later rounds use again, so discard its times.
        rounds.take_one();
        rounds.times = Default::default();
        rounds
    }

    fn take_one(&mut self) {
        for ((_, timers), times) in self.implementations.iter_mut().zip(&mut self.times) {
            let round = self.work.round(&mut **timers);
            times
                .iter_mut()
                .zip(round)
                .for_each(|(times, time)| times.push_back(time));
        }
    }

    /// Returns the next unread time of an implementation for an operation. Runs another round if
    /// all times are read.
    fn next(&mut self, implementation: usize, operation: usize) -> Duration {
        loop {
            if let Some(time) = self.times[implementation][operation].pop_front() {
                return time;
            }
            self.take_one();
        }
    }
}

fn timers(c: &mut Criterion) {
    let mut rounds = Rounds::new();
    let names = rounds.implementations.each_ref().map(|(name, _)| *name);
    for (operation, name) in OPERATIONS.into_iter().enumerate() {
        let mut group = c.benchmark_group(format!("{} timers, {name}", *TIMERS));
        group
            .throughput(Throughput::Elements(*TIMERS as u64))
            .sampling_mode(SamplingMode::Flat)
            .sample_size(10)
            .warm_up_time(Duration::from_nanos(1))
            .measurement_time(Duration::from_nanos(1));
        for (implementation, name) in names.into_iter().enumerate() {
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter_custom(|iterations| {
                    (0..iterations)
                        .map(|_| rounds.next(implementation, operation))
                        .sum()
                });
            });
        }
    }
}

criterion_group!(benches, timers);
criterion_main!(benches);
