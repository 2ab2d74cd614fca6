//! Random operations in random callbacks, on sockets that split their bytes at random. No byte may
//! be lost, repeated or out of order, and each connection must close once.
//!
//! The handler is a [model] of all connections: it runs random [actions], and checks their results
//! and each callback. The sockets are scripted and each run has a seed, so a failure repeats.

mod actions;
mod model;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::*;
use crate::engine::{Accepted, Task};
use crate::event::Origin;
use crate::os::sim::{ReadResult, Ready, World, WriteResult};
use crate::reactor::tests::transport::{AckOrder, Transport};
use crate::testkit::Random;
use model::{At, DeliberatePanic, Expected, Model, PAYLOAD_LEN_MAX, encode};

const HOUR: Duration = Duration::from_secs(3600);
/// Number of runs, unless the environment variable `UNSTICK_SEEDS` sets another number.
const SEEDS: u64 = 60;
/// Number of steps of one run.
const STEPS: usize = 500;

/// One run: a world and its reactor. Each step adds random input, events or operations.
struct Run {
    world: World,
    reactor: Reactor<Model>,
}

impl Run {
    fn new(seed: u64, transport: Transport) -> Self {
        let world = World::new(seed);
        let mut random = Random(seed);
        let mut config = Config {
            read_len_max: random.of(&[1, 7, 64, 4096, 256 * 1024]),
            read_budget_bytes: random.of(&[50, 1000, 256 * 1024]),
            frame_budget: random.of(&[1, 2, 1024]),
            write_high_bytes: random.of(&[50, 500, PAYLOAD_LEN_MAX]),
            close_deadline: HOUR,
            memory_deadline: HOUR,
            connect_deadline: HOUR,
            ..Config::default()
        };
        config.write_low_bytes = config.write_high_bytes / 3;
        config.write_queue_bytes_max = 2 * config.write_high_bytes;
        let has_memory_limit = random.one_in(4);
        if has_memory_limit {
            let least = config.write_low_bytes;
            config.memory_bytes_max = random.of(&[300, 3000, 30_000]).max(least);
        }
        if random.one_in(4) {
            config.idle_timeout = Some(HOUR);
        }
        if random.one_in(4) {
            config.slow_callback_min = Some(HOUR);
        }
        let has_long = config.read_len_max > 64;
        let order = random.of(&[AckOrder::First, AckOrder::Queued]);
        let mut model = Model::new(random, has_memory_limit, has_long, transport);
        model.write_low_bytes = config.write_low_bytes;
        let mut reactor = Reactor::with_os(model, config, world.os()).expect("the reactor opens");
        transport.install(&mut reactor, order);
        Self { world, reactor }
    }

    fn random(&mut self) -> &mut Random {
        &mut self.reactor.handler.random
    }

    /// Calls the reactor, and catches the deliberate panics of the handler.
    fn enter(&mut self, enter: impl FnOnce(&mut Reactor<Model>)) {
        let reactor = &mut self.reactor;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| enter(reactor)))
            && !panic.is::<DeliberatePanic>()
        {
            resume_unwind(panic);
        }
    }

    fn open(&mut self) {
        let framings: [fn() -> Framing; 4] = [
            Framing::length_u16,
            Framing::varint,
            Framing::netstring,
            Framing::line,
        ];
        let framing = self.random().of(&framings)();
        let script = self.world.script();
        let limited = framing
            .clone()
            .frame_len_max(PAYLOAD_LEN_MAX)
            .skip_too_long();
        let peer = SocketAddr::from(([127, 0, 0, 1], 1)).into();
        let admitted = self
            .reactor
            .engine
            .admit(script.stream(), peer, limited.clone());
        let Accepted::Conn(conn) = admitted else {
            panic!("the connection was not admitted: {admitted:?}");
        };
        let model = &mut self.reactor.handler;
        model.add(conn, Some(script), limited);
        for _ in 0..model.random.below(60) {
            let payload = model.payload();
            let expected = model.expected(conn);
            encode(&framing, &payload, &mut expected.stream);
            let end = expected.stream.len();
            expected.payloads.push((payload, end));
        }
        self.reactor.sessions.put(conn.0.key(), None);
        self.enter(|reactor| {
            reactor.callbacks().opened(conn.0, Origin::Connected);
        });
    }

    /// Adds random input, short writes and failures to the script of a connection.
    fn feed(&mut self, number: usize) {
        let model = &mut self.reactor.handler;
        let (random, expected) = (&mut model.random, &mut model.conns[number]);
        let Some(script) = expected.script else {
            return;
        };
        for _ in 0..random.below(6) {
            let left = expected.stream.len() - expected.fed;
            let len = random.of(&[1, 3, 50, 5000, 50_000]).min(left);
            if len > 0 {
                let piece = &expected.stream[expected.fed..expected.fed + len];
                expected.wire.extend(model.transport.encrypt(script, piece));
                expected.fed += len;
                // A cut may be anywhere in a record, so some bytes of a filtered stream are kept
                // for a later read.
                let kept = match model.transport {
                    Transport::Plain => 0,
                    _ => random.of(&[0, 0, 1, 2, 40]).min(expected.wire.len()),
                };
                let kept = expected.wire.split_off(expected.wire.len() - kept);
                let ready = std::mem::replace(&mut expected.wire, kept);
                script.then_read([ReadResult::Bytes(ready)].into_iter().filter(is_not_empty));
            }
            match random.below(8) {
                0 => script.then_read([ReadResult::Fails(ErrorKind::Interrupted)]),
                1 => script.then_read([ReadResult::Fails(ErrorKind::WouldBlock)]),
                2 => script.then_write([WriteResult::Fails(ErrorKind::Interrupted)]),
                3 | 4 => script.then_write([WriteResult::Fails(ErrorKind::WouldBlock)]),
                5 => script.then_write([WriteResult::Takes(1 + random.below(300))]),
                6 if random.one_in(20) => {
                    script.then_write([WriteResult::Fails(ErrorKind::BrokenPipe)]);
                    expected.has_failed = true;
                }
                7 if random.one_in(20) => {
                    script.then_read([ReadResult::Fails(ErrorKind::ConnectionReset)]);
                    expected.has_failed = true;
                }
                _ => {}
            }
        }
    }

    /// Adds the rest of the input and the end of the stream to the script of a connection. Does
    /// nothing while the script still has unused reads, or if the end was already added.
    fn feed_to_end(&mut self, number: usize) {
        let model = &mut self.reactor.handler;
        let expected = &mut model.conns[number];
        if let Some(script) = expected.script
            && script.is_used_up()
            && !std::mem::replace(&mut expected.is_fed_to_end, true)
        {
            let mut rest = std::mem::take(&mut expected.wire);
            let plaintext = &expected.stream[expected.fed..];
            rest.extend(model.transport.encrypt(script, plaintext));
            rest.extend(model.transport.end(script));
            expected.fed = expected.stream.len();
            script.then_read([ReadResult::Bytes(rest)].into_iter().filter(is_not_empty));
            script.then_read([ReadResult::End]);
        }
    }

    /// Returns the readiness of an event that reports more than is true: both directions and an
    /// end. `HUNG_UP` is included only if the end of the stream was added to the script.
    fn whole_event(&self, number: usize) -> Ready {
        let both = Ready::READABLE | Ready::WRITABLE | Ready::ENDED;
        both | Ready::HUNG_UP.only_if(self.reactor.handler.conns[number].is_fed_to_end)
    }

    fn event(&self, number: usize, ready: Ready) {
        if let Some(script) = self.reactor.handler.conns[number].script {
            script.event(ready);
        }
    }

    /// Injects only the events that a kernel would report. An edge-triggered kernel reports
    /// readiness once, and again only after a call returned `WouldBlock`.
    fn edge(&self, number: usize) {
        let expected = &self.reactor.handler.conns[number];
        let Some(script) = expected.script else {
            return;
        };
        let reported = script.reported();
        let can_write = !reported.has(Ready::WRITABLE);
        let can_read = !reported.has(Ready::READABLE) && !script.is_used_up();
        let has_ended = can_read && expected.is_fed_to_end;
        let ready = Ready::WRITABLE.only_if(can_write)
            | Ready::READABLE.only_if(can_read)
            | Ready::ENDED.only_if(has_ended);
        if can_write || can_read {
            self.event(number, ready);
        }
    }

    /// Runs a turn. Then checks each connection that is above its high watermark: if its queue is
    /// empty now, a call of `on_drained` is missing.
    fn turn(&mut self) {
        self.enter(|reactor| reactor.turn(Some(Duration::ZERO)).expect("the poll works"));
        self.reactor.with(|model, cx| {
            let is_limited = model.has_memory_limit;
            for expected in model.conns.iter().filter(|expected| expected.is_above) {
                let is_waiting = expected.is_ended || expected.is_half_closed || is_limited;
                let queued = cx.queued_bytes(expected.conn);
                assert!(
                    is_waiting || queued != Ok(0),
                    "the queue of {} is empty, but on_drained was not called",
                    expected.conn
                );
            }
        });
    }

    fn step(&mut self) {
        let count = self.reactor.handler.conns.len();
        let is_alive = |expected: &&Expected| expected.closes == 0;
        let alive = self.reactor.handler.conns.iter().filter(is_alive).count();
        if alive < 3 || (alive < 8 && self.random().one_in(20)) {
            return self.open();
        }
        let number = self.random().below(count);
        match self.random().below(12) {
            0..4 => self.feed(number),
            4 if self.random().one_in(4) => self.feed_to_end(number),
            5 => self.enter(|reactor| {
                reactor.with(|model, cx| model.act(cx, None, At::Other));
            }),
            6 => self.turn(),
            _ => {
                for number in 0..count {
                    let mark = match self.random().below(6) {
                        0 => Ready::READABLE,
                        1 => Ready::WRITABLE,
                        2 => Ready::READABLE | Ready::WRITABLE,
                        3 => self.whole_event(number),
                        _ => continue,
                    };
                    self.event(number, mark);
                }
                self.turn();
            }
        }
    }

    /// Ends all connections, and checks the final state. Returns the number of adoptions of
    /// detached connections.
    fn end(mut self) -> u64 {
        let model = &mut self.reactor.handler;
        model.acts_left = 0;
        model.is_over = true;
        let count = model.conns.len();
        self.reactor.with(|model, cx| {
            for expected in &mut model.conns {
                let _ = cx.resume(expected.conn);
                let _ = cx.grant(expected.conn, u64::MAX);
                (expected.is_paused, expected.credit) = (false, None);
                if expected.has_half_close {
                    cx.close(expected.conn);
                    expected.is_ended = true;
                }
            }
        });
        for turn in 0..20_000 {
            if self.reactor.engine.entries.is_empty() {
                return self.check();
            }
            for number in 0..count {
                self.feed_to_end(number);
                self.edge(number);
            }
            if turn % 50 == 49 {
                self.reactor.engine.memory_deadline_passed();
            }
            self.turn();
        }
        panic!("some connections did not end: {:?}", self.reactor.stats());
    }

    fn check(mut self) -> u64 {
        let stats = self.reactor.stats();
        let conns = &self.reactor.handler.conns;
        assert!(conns.iter().all(|expected| expected.closes == 1));
        let adoptions = self.reactor.handler.adoptions;
        assert_eq!(stats.closed, conns.len() as u64 + adoptions);
        assert_eq!((stats.connections, stats.held_bytes), (0, 0));
        // Only timers of the handler, and the timers for trims and for memory, may be left.
        let engine = &mut self.reactor.engine;
        engine.timers.set_now(engine.os.now() + 100 * HOUR);
        engine.timers.snapshot_due();
        while let Some((timer, task, _)) = engine.timers.next_due() {
            match task {
                Task::User | Task::Interval => drop(engine.timers.cancel_timer(timer)),
                Task::Trim | Task::Memory => {}
                task => panic!("a timer of the engine is left: {task:?}"),
            }
        }
        adoptions
    }
}

fn is_not_empty(reading: &ReadResult) -> bool {
    !matches!(reading, ReadResult::Bytes(bytes) if bytes.is_empty())
}

fn run_all_seeds(transport: Transport) {
    let seeds = match std::env::var("UNSTICK_SEEDS") {
        Ok(count) => 0..count.parse().expect("UNSTICK_SEEDS is a number"),
        Err(_) => 0..SEEDS,
    };
    let mut adoptions = 0;
    for seed in seeds {
        let run = catch_unwind(|| {
            let mut run = Run::new(seed, transport);
            for _ in 0..STEPS {
                run.step();
            }
            run.end()
        });
        adoptions += run.unwrap_or_else(|_| panic!("seed {seed} failed"));
    }
    assert_eq!(adoptions > 0, transport.is_plain(), "{adoptions} adoptions");
}

#[test]
fn random_operations_lose_no_byte_and_close_each_conn_once() {
    run_all_seeds(Transport::Plain);
}

#[test]
fn random_operations_with_a_filter_lose_no_byte() {
    run_all_seeds(Transport::Filtered);
}

#[cfg(feature = "tls")]
#[test]
fn random_operations_with_tls_lose_no_byte() {
    run_all_seeds(Transport::Tls);
}
