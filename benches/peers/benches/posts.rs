//! Posts from other threads: completed posts per second, from one thread and from four.
//!
//! ```text
//! cargo bench --manifest-path benches/peers/Cargo.toml --bench posts
//! ```
//!
//! Each post adds its number to a sum on the loop's thread. `Remote::post` is compared with two
//! channels. One is tokio's bounded channel into a task, whose current-thread runtime also drives
//! sockets. The other one is calloop's channel. If a queue is full, the posting thread tries again.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use unstick::{ConnId, Context, Handler, PostError, Reactor, Remote};

/// Number of posts by all threads together.
const POSTS: u64 = 400_000;
/// Capacity of the queue; equals the default of `Config::posts_max`.
const QUEUE_LEN: usize = 65_536;

#[derive(Default)]
struct Sum {
    sum: u64,
    count: u64,
}

impl Sum {
    fn add(&mut self, number: u64) -> bool {
        self.sum += number;
        self.count += 1;
        self.count == POSTS
    }

    fn check(&self) {
        assert_eq!(
            self.sum,
            POSTS * (POSTS - 1) / 2,
            "a post was lost or ran twice"
        );
    }
}

impl Handler for Sum {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}
}

/// Starts `threads` threads that share the posts. Returns the time until `run` has handled all
/// posts.
fn measured<P>(threads: u64, post: P, run: impl FnOnce()) -> Duration
where
    P: FnMut(u64) + Clone + Send + 'static,
{
    let started = Instant::now();
    let producers: Vec<_> = (0..threads)
        .map(|thread| {
            let mut post = post.clone();
            thread::spawn(move || {
                (thread..POSTS)
                    .step_by(threads as usize)
                    .for_each(&mut post)
            })
        })
        .collect();
    run();
    let elapsed = started.elapsed();
    for producer in producers {
        producer.join().expect("the thread does not panic");
    }
    elapsed
}

fn post(remote: &Remote<Sum>, number: u64) {
    let mut task = move |sum: &mut Sum, cx: &mut Context<'_, Sum>| {
        if sum.add(number) {
            cx.stop();
        }
    };
    loop {
        match remote.post(task) {
            Ok(()) => return,
            Err(PostError::Full(returned)) => task = returned,
            Err(error) => panic!("cannot post: {error}"),
        }
        thread::yield_now();
    }
}

fn unstick(threads: u64) -> Duration {
    let mut reactor = Reactor::new(Sum::default()).expect("the reactor is created");
    let remote = reactor.remote();
    let post = move |number| post(&remote, number);
    let time = measured(threads, post, || reactor.run().expect("polling succeeds"));
    reactor.handler().check();
    time
}

fn tokio(threads: u64) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the runtime is created");
    let (sender, mut receiver) = tokio::sync::mpsc::channel(QUEUE_LEN);
    let mut sum = Sum::default();
    let post = move |number| {
        let mut number = number;
        while let Err(tokio::sync::mpsc::error::TrySendError::Full(returned)) =
            sender.try_send(number)
        {
            number = returned;
            thread::yield_now();
        }
    };
    let time = measured(threads, post, || {
        runtime.block_on(async {
            while let Some(number) = receiver.recv().await {
                if sum.add(number) {
                    break;
                }
            }
        });
    });
    sum.check();
    time
}

fn calloop(threads: u64) -> Duration {
    let mut event_loop = calloop::EventLoop::<Sum>::try_new().expect("the event loop is created");
    let (sender, channel) = calloop::channel::channel();
    let signal = event_loop.get_signal();
    event_loop
        .handle()
        .insert_source(channel, move |event, _, sum: &mut Sum| {
            if let calloop::channel::Event::Msg(number) = event
                && sum.add(number)
            {
                signal.stop();
            }
        })
        .expect("the channel is registered");
    let mut sum = Sum::default();
    // The channel is unbounded, so it is never full.
    let post = move |number| sender.send(number).expect("the event loop is running");
    let time = measured(threads, post, || {
        let run = event_loop.run(None, &mut sum, |_| {});
        run.expect("polling succeeds");
    });
    sum.check();
    time
}

/// Measures the cost of a wake-up: one post to a sleeping loop, and the message that confirms it.
fn round_trip(criterion: &mut Criterion) {
    let mut reactor = Reactor::new(Sum::default()).expect("the reactor is created");
    let remote = reactor.remote();
    let runner = thread::spawn(move || reactor.run());
    let (done_tx, done_rx) = mpsc::channel();
    criterion.bench_function("post to a sleeping loop and back", |bencher| {
        bencher.iter(|| {
            let done_tx = done_tx.clone();
            let posted = remote
                .post(move |_, _| done_tx.send(()).expect("the benchmark waits for the post"));
            assert!(posted.is_ok());
            done_rx.recv().expect("the post runs");
        });
    });
    remote
        .shutdown(Duration::ZERO)
        .expect("the loop can be woken");
    let _ = runner.join().expect("the thread does not panic");
}

fn posts(criterion: &mut Criterion) {
    for threads in [1, 4] {
        let mut group = criterion.benchmark_group(format!("posts of {threads}"));
        group.throughput(Throughput::Elements(POSTS));
        group.sample_size(10);
        for (name, run) in [
            ("unstick", unstick as fn(u64) -> Duration),
            ("tokio", tokio),
            ("calloop", calloop),
        ] {
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|rounds| (0..rounds).map(|_| run(threads)).sum());
            });
        }
        group.finish();
    }
}

criterion_group!(benches, posts, round_trip);
criterion_main!(benches);
