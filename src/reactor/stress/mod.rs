//! Random lives: whatever callbacks ask for, for whichever connection, and however its socket cuts
//! what it carries, no byte is lost, doubled or out of order, and each connection ends once.
//!
//! A [model] follows what the handler asked for and was answered, and knows from it what may be
//! told next. The sockets are scripted and each run has a seed, so that a failure repeats.

mod model;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::*;
use crate::engine::{Accepted, Task};
use crate::event::Origin;
use crate::os::sim::{Reading, Ready, World, Writing};
use crate::testkit::Random;
use model::{At, Chosen, Life, Model, PAYLOAD_LEN_MAX, encode};

const HOUR: Duration = Duration::from_secs(3600);
/// How many runs there are; more where `UNSTICK_SEEDS` says so.
const SEEDS: u64 = 60;
const STEPS: usize = 500;

/// A run: its reactor, and what happens to it from outside.
struct Run {
    world: World,
    reactor: Reactor<Model>,
}

impl Run {
    fn new(seed: u64) -> Self {
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
            config.memory_bytes_max = random.of(&[300, 3000, 30_000]);
        }
        if random.one_in(4) {
            config.idle_timeout = Some(HOUR);
        }
        if random.one_in(4) {
            config.slow_callback_min = Some(HOUR);
        }
        let has_long = config.read_len_max > 64;
        let model = Model::new(random, has_memory_limit, has_long);
        let reactor = Reactor::with_os(model, config, world.os()).expect("a reactor");
        Self { world, reactor }
    }

    fn random(&mut self) -> &mut Random {
        &mut self.reactor.handler.random
    }

    /// Enters the reactor; what the handler panics with by choice stays here.
    fn enter(&mut self, enter: impl FnOnce(&mut Reactor<Model>)) {
        let reactor = &mut self.reactor;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| enter(reactor)))
            && !panic.is::<Chosen>()
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
            panic!("{admitted:?}");
        };
        let model = &mut self.reactor.handler;
        model.born(conn, Some(script), limited);
        for _ in 0..model.random.below(60) {
            let payload = model.payload();
            let life = model.life(conn);
            encode(&framing, &payload, &mut life.stream);
            let end = life.stream.len();
            life.payloads.push((payload, end));
        }
        self.reactor.sessions.put(conn.0.key(), None);
        self.enter(|reactor| {
            reactor.callbacks().opened(conn.0, Origin::Connected);
        });
    }

    /// More of what its peer sends, in pieces; or a failure.
    fn feed(&mut self, number: usize) {
        let model = &mut self.reactor.handler;
        let (random, life) = (&mut model.random, &mut model.lives[number]);
        let Some(script) = life.script else {
            return;
        };
        for _ in 0..random.below(6) {
            let left = life.stream.len() - life.fed;
            let len = random.of(&[1, 3, 50, 5000, 50_000]).min(left);
            if len > 0 {
                let piece = &life.stream[life.fed..life.fed + len];
                script.then_read([Reading::Bytes(piece.to_vec())]);
                life.fed += len;
            }
            match random.below(8) {
                0 => script.then_read([Reading::Fails(ErrorKind::Interrupted)]),
                1 => script.then_read([Reading::Fails(ErrorKind::WouldBlock)]),
                2 => script.then_write([Writing::Fails(ErrorKind::Interrupted)]),
                3 | 4 => script.then_write([Writing::Fails(ErrorKind::WouldBlock)]),
                5 => script.then_write([Writing::Takes(1 + random.below(300))]),
                6 if random.one_in(20) => {
                    script.then_write([Writing::Fails(ErrorKind::BrokenPipe)]);
                    life.has_failed = true;
                }
                7 if random.one_in(20) => {
                    script.then_read([Reading::Fails(ErrorKind::ConnectionReset)]);
                    life.has_failed = true;
                }
                _ => {}
            }
        }
    }

    /// The rest of what its peer sends, and its end.
    fn feed_to_end(&mut self, number: usize) {
        let life = &mut self.reactor.handler.lives[number];
        if let Some(script) = life.script
            && script.is_played()
            && !std::mem::replace(&mut life.is_fed_to_end, true)
        {
            let rest = life.stream[life.fed..].to_vec();
            life.fed = life.stream.len();
            script.then_read([Reading::Bytes(rest)].into_iter().filter(is_not_empty));
            script.then_read([Reading::End]);
        }
    }

    /// All that an event may report.
    fn whole_event(&self, number: usize) -> Ready {
        let both = Ready::READABLE | Ready::WRITABLE | Ready::ENDED;
        both | Ready::HUNG_UP.given(self.reactor.handler.lives[number].is_fed_to_end)
    }

    fn event(&self, number: usize, ready: Ready) {
        if let Some(script) = self.reactor.handler.lives[number].script {
            script.event(ready);
        }
    }

    /// Injects the events that a kernel would report, and no other: of readiness that it has not
    /// reported since a call found none.
    fn edge(&self, number: usize) {
        let life = &self.reactor.handler.lives[number];
        let Some(script) = life.script else {
            return;
        };
        let told = script.told();
        let can_write = !told.has(Ready::WRITABLE);
        let can_read = !told.has(Ready::READABLE) && !script.is_played();
        let has_ended = can_read && life.is_fed_to_end;
        let ready = Ready::WRITABLE.given(can_write)
            | Ready::READABLE.given(can_read)
            | Ready::ENDED.given(has_ended);
        if can_write || can_read {
            self.event(number, ready);
        }
    }

    /// A turn, and a look at who must have been told that there is room.
    fn turn(&mut self) {
        self.enter(|reactor| reactor.turn(Some(Duration::ZERO)).expect("the poll works"));
        self.reactor.with(|model, cx| {
            let is_limited = model.has_memory_limit;
            for life in model.lives.iter().filter(|life| life.is_above) {
                let is_waiting = life.is_ended || life.is_half_closed || is_limited;
                let queued = cx.queued_bytes(life.conn);
                assert!(is_waiting || queued != Ok(0), "{} has drained", life.conn);
            }
        });
    }

    fn step(&mut self) {
        let count = self.reactor.handler.lives.len();
        let is_alive = |life: &&Life| life.closes == 0;
        let alive = self.reactor.handler.lives.iter().filter(is_alive).count();
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

    /// Lets all end, and looks at what is left.
    fn end(mut self) {
        let model = &mut self.reactor.handler;
        model.acts_left = 0;
        model.is_over = true;
        let count = model.lives.len();
        self.reactor.with(|model, cx| {
            for life in &mut model.lives {
                let _ = cx.resume(life.conn);
                let _ = cx.grant(life.conn, u64::MAX);
                (life.is_paused, life.credit) = (false, None);
                if life.has_half_close {
                    cx.close(life.conn);
                    life.is_ended = true;
                }
            }
        });
        for round in 0..20_000 {
            if self.reactor.engine.entries.is_empty() {
                return self.check();
            }
            for number in 0..count {
                self.feed_to_end(number);
                self.edge(number);
            }
            if round % 50 == 49 {
                self.reactor.engine.memory_deadline_passed();
            }
            self.turn();
        }
        panic!("some never end: {:?}", self.reactor.stats());
    }

    fn check(mut self) {
        let stats = self.reactor.stats();
        let lives = &self.reactor.handler.lives;
        assert!(lives.iter().all(|life| life.closes == 1));
        assert_eq!(stats.closed, lives.len() as u64);
        assert_eq!((stats.connections, stats.held_bytes), (0, 0));
        // No timer is left but the handler's own: nothing is told to whom nobody knows.
        let engine = &mut self.reactor.engine;
        engine.timers.set_now(engine.os.now() + 100 * HOUR);
        engine.timers.snapshot_due();
        while let Some((timer, task)) = engine.timers.next_due() {
            match task {
                Task::User { .. } => drop(engine.cancel_timer(timer)),
                Task::Trim | Task::Memory => {}
                task => panic!("{task:?} is left"),
            }
        }
    }
}

fn is_not_empty(reading: &Reading) -> bool {
    !matches!(reading, Reading::Bytes(bytes) if bytes.is_empty())
}

#[test]
fn whatever_callbacks_do_no_byte_is_lost_and_each_connection_ends_once() {
    let seeds = match std::env::var("UNSTICK_SEEDS") {
        Ok(count) => 0..count.parse().expect("a number"),
        Err(_) => 0..SEEDS,
    };
    for seed in seeds {
        let run = catch_unwind(|| {
            let mut run = Run::new(seed);
            for _ in 0..STEPS {
                run.step();
            }
            run.end();
        });
        assert!(run.is_ok(), "that was seed {seed}");
    }
}
