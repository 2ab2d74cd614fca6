//! Lives of connections: random scripts of operations and faults, checked by a shadow model.
//!
//! Each run has three reactors that connect to each other, and raw peers that send any bytes. The
//! model checks each callback, and the run checks the invariants after each step. In a run for
//! *safety*, faults happen until the end. In a run for *liveness*, the faults end, and everything
//! that was accepted must arrive within a bound of virtual time.

mod model;
mod node;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use unstick::testkit::Random;
use unstick::testkit::sim::{Faults, Link, Node as Handle, Peer, Scripts, Simulation};
use unstick::{Config, ListenOptions, UdpId};

use model::{Coverage, Model, Rules};
use node::{Cx, Node, framing};

const MS: Duration = Duration::from_millis(1);
const NODES: usize = 3;
const PORT: u16 = 7000;
/// Number of seeds of each test, unless the environment variable `UNSTICK_SEEDS` sets another
/// number.
const SEEDS: u64 = 400;
/// Number of operations of a script.
const OPS: usize = 40;
/// Virtual time after the end of the faults, within which everything arrives. It is longer than the
/// sum of all retransmission delays, and longer than the default deadlines.
const ARRIVAL_TIME_MAX: Duration = Duration::from_secs(300);
/// Maximum number of turns without any progress, in a row.
const IDLE_TURNS_MAX: u32 = 20;

/// Number of lines of the event log to print after a failure.
const LOG_LINES: usize = 60;

/// Kinds of events that the runs of each test must contain.
const EVENTS: [&str; 17] = [
    "adopted with unsent bytes",
    "aborted",
    "close timeout",
    "closed by the peer",
    "closed locally",
    "connect failed",
    "datagram",
    "detached",
    "detached with undelivered bytes",
    "drained",
    "frame",
    "frame error",
    "half-close",
    "hangup",
    "io error",
    "send queue full",
    "timer",
];

/// One step of a script. The index of an end is used modulo the number of ends in the run. A step
/// for an end does nothing if the run has no end yet.
#[derive(Debug, Clone)]
enum Op {
    Connect {
        from: usize,
        to: usize,
    },
    Send {
        end: usize,
        len: usize,
    },
    Close(usize),
    Abort(usize),
    HalfClose(usize),
    Detach(usize),
    /// A reactor adopts the connection that was detached first.
    Adopt(usize),
    DropDetached,
    Pause(usize),
    Resume(usize),
    Grant(usize, u64),
    SendDatagram {
        from: usize,
        to: usize,
        len: usize,
    },
    SetTimer(usize, Duration),
    CancelTimer(usize),
    /// A raw peer connects and sends bytes.
    PeerConnect {
        to: usize,
        bytes: Vec<u8>,
    },
    PeerSend(usize, Vec<u8>),
    PeerEnd(usize, PeerEnd),
    Cut(usize, usize),
    Heal(usize, usize),
    /// A reactor hangs, or continues.
    Hang(usize, bool),
    /// A process ends, and starts again.
    Restart(usize),
    RunSteps(usize),
    RunFor(Duration),
}

#[derive(Debug, Clone)]
enum PeerEnd {
    HalfClose,
    Close,
    Reset,
}

fn op(random: &mut Random) -> Op {
    let node = |random: &mut Random| random.below(NODES);
    let end = |random: &mut Random| random.below(16);
    let bytes = |random: &mut Random| {
        let len = random.of(&[1, 2, 3, 40, 700]);
        (0..len).map(|_| random.of(&[0, 0, 0, 1, 2, 200])).collect()
    };
    match random.below(70) {
        0..8 => Op::Connect {
            from: node(random),
            to: node(random),
        },
        8..30 => Op::Send {
            end: end(random),
            len: random.of(&[0, 1, 2, 20, 200, 2000, 5000]),
        },
        30 => Op::Close(end(random)),
        31 => Op::Abort(end(random)),
        32 => Op::HalfClose(end(random)),
        33 => match random.below(5) {
            0 => Op::Detach(end(random)),
            1 | 2 => Op::Adopt(node(random)),
            3 if random.one_in(3) => Op::DropDetached,
            _ => Op::Pause(end(random)),
        },
        34 | 35 => Op::Resume(end(random)),
        36 => Op::Grant(end(random), random.of(&[0, 1, 3, u64::MAX])),
        37..40 => Op::SendDatagram {
            from: node(random),
            to: node(random),
            len: random.of(&[4, 5, 100, 1500, 3000]),
        },
        40 => Op::SetTimer(node(random), random.of(&[Duration::ZERO, MS, 70 * MS])),
        41 => Op::CancelTimer(node(random)),
        42 | 43 => Op::PeerConnect {
            to: node(random),
            bytes: bytes(random),
        },
        44 => Op::PeerSend(random.below(4), bytes(random)),
        45 => Op::PeerEnd(random.below(4), PeerEnd::HalfClose),
        46 => Op::PeerEnd(random.below(4), PeerEnd::Close),
        47 => Op::PeerEnd(random.below(4), PeerEnd::Reset),
        48 => Op::Cut(node(random), node(random)),
        49 | 50 => Op::Heal(node(random), node(random)),
        51 => Op::Hang(node(random), true),
        52 | 53 => Op::Hang(node(random), false),
        54 if random.one_in(3) => Op::Restart(node(random)),
        54..64 => Op::RunSteps(random.below(20)),
        _ => Op::RunFor(random.of(&[MS / 10, MS, 5 * MS, 300 * MS])),
    }
}

fn scripts() -> Scripts<Op> {
    let connect = |random: &mut Random| Op::Connect {
        from: random.below(NODES),
        to: random.below(NODES),
    };
    let generate = move |random: &mut Random| {
        let first = [connect(random), connect(random), Op::RunFor(5 * MS)];
        first
            .into_iter()
            .chain((0..OPS).map(|_| op(random)))
            .collect()
    };
    Scripts::new(generate).seeds(0..SEEDS)
}

/// A run: the simulation with its reactors, and the model.
struct Run {
    sim: Simulation,
    model: Rc<RefCell<Model>>,
    nodes: Vec<Handle<Node>>,
    udp: Vec<UdpId>,
    peers: Vec<Peer>,
    config: Config,
    random: Random,
    lives: usize,
    /// Length of the send and receive buffers of all connections, in bytes.
    buffer_len: usize,
    /// Sum of all counters of progress after the last step.
    progress: u64,
    turns: u64,
    idle_turns: u32,
}

/// Returns a random configuration with small limits.
fn config(random: &mut Random) -> Config {
    let mut config = Config::default();
    config.read_len_max = random.of(&[1, 7, 64, 4096, 65_536]);
    config.read_budget_bytes = random.of(&[50, 1000, 65_536]);
    config.frame_budget = random.of(&[1, 2, 1024]);
    config.accept_budget = random.of(&[1, 64]);
    config.datagram_budget = random.of(&[1, 64]);
    config.timer_budget = random.of(&[1, 1024]);
    config.write_high_bytes = random.of(&[50, 500, 20_000]);
    config.write_low_bytes = config.write_high_bytes / 3;
    config.write_queue_bytes_max = 2 * config.write_high_bytes;
    config.read_above_high = random.one_in(4);
    if random.one_in(4) {
        config.memory_bytes_max = random.of(&[20_000, 100_000]);
    }
    config
}

fn link(random: &mut Random) -> Link {
    let link = Link::new().latency(random.of(&[MS / 10, MS, 30 * MS]));
    match random.below(5) {
        0 => link
            .jitter(5 * MS)
            .segment_len_max(random.of(&[1, 10, 500])),
        1 => link.loss_percent(10).duplicate_percent(10),
        2 => link.bandwidth_bytes(random.of(&[2000, 50_000])),
        3 => link.segment_len_max(random.of(&[1, 3, 50])),
        _ => link,
    }
}

impl Run {
    fn new(seed: u64, coverage: &Rc<RefCell<Coverage>>) -> Self {
        let mut random = Random::new(seed ^ 0x5EED);
        let config = config(&mut random);
        let errors = random.of(&[0, 0, 1]);
        let buffer_len = random.of(&[10, 300, 5000, 65_536]);
        let mut sim = Simulation::new(seed);
        if std::env::var_os("UNSTICK_LOG").is_some() {
            sim.keep_log();
        }
        sim.set_links(link(&mut random));
        let rules = Rules {
            has_memory_limit: config.memory_bytes_max < usize::MAX,
            reads_above_high: config.read_above_high,
            has_errors: errors > 0,
            duplicates: true,
            write_low_bytes: config.write_low_bytes,
            frame_len_max: 4000,
        };
        let model = Model::new(rules, Rc::clone(coverage));
        let mut run = Self {
            sim,
            model: Rc::new(RefCell::new(model)),
            nodes: Vec::new(),
            udp: Vec::new(),
            peers: Vec::new(),
            config,
            random,
            lives: 0,
            buffer_len,
            progress: 0,
            turns: 0,
            idle_turns: 0,
        };
        let faults = Faults::frequent().error_percent(errors);
        for _ in 0..NODES {
            let node = run.handler();
            let node = run.sim.reactor_with(node, run.config.clone());
            let node = node.expect("the configuration is valid");
            run.nodes.push(node);
            let udp = run.open_sockets(node);
            run.udp.push(udp);
            if run.random.one_in(2) {
                run.sim.set_faults(node, faults.clone());
            }
        }
        run
    }

    /// Returns the handler of a new process.
    fn handler(&mut self) -> Node {
        self.lives += 1;
        Node {
            model: Rc::clone(&self.model),
            life: self.lives - 1,
            buffer_len: self.buffer_len,
            random: Random::new(self.random.below(1 << 30) as u64),
            calls_left: 100,
            timers: Vec::new(),
            may_be_late: self.config.timer_budget == 1,
        }
    }

    fn open_sockets(&mut self, node: Handle<Node>) -> UdpId {
        let framing = framing(self.model.borrow().rules.frame_len_max);
        let options = ListenOptions::new()
            .send_buffer_len(self.buffer_len)
            .recv_buffer_len(self.buffer_len);
        self.sim[node]
            .with(|_, cx| cx.listen_with(node.addr(PORT), framing, &options))
            .expect("the address is free");
        self.sim[node]
            .bind_udp(node.addr(PORT))
            .expect("the address is free")
    }

    /// Calls a method of a handler outside of callbacks.
    fn enter(&mut self, node: usize, call: impl FnOnce(&mut Node, &mut Cx<'_>)) {
        self.sim[self.nodes[node]].with(call);
    }

    /// Calls a method of the handler of an end. Does nothing if the process of this end has ended.
    fn enter_end(&mut self, end: usize, call: impl FnOnce(&mut Node, &mut Cx<'_>, usize)) {
        let count = self.model.borrow().ends.len();
        let Some(index) = end.checked_rem(count) else {
            return;
        };
        let life = self.model.borrow().ends[index].life;
        let node = (0..NODES).find(|node| self.sim[self.nodes[*node]].handler().life == life);
        if let Some(node) = node {
            self.enter(node, |handler, cx| call(handler, cx, index));
        }
    }

    fn perform(&mut self, op: &Op) {
        match op {
            Op::Connect { from, to } => {
                let to = self.nodes[*to].addr(PORT);
                self.enter(*from, |node, cx| node.connect(cx, to));
            }
            Op::Send { end, len } => {
                self.enter_end(*end, |node, cx, index| node.send(cx, index, *len));
            }
            Op::Close(end) => self.enter_end(*end, |node, cx, index| node.close(cx, index, false)),
            Op::Abort(end) => self.enter_end(*end, |node, cx, index| node.close(cx, index, true)),
            Op::HalfClose(end) => {
                self.enter_end(*end, |node, cx, index| node.half_close(cx, index))
            }
            Op::Detach(end) => self.enter_end(*end, |node, cx, index| node.detach(cx, index)),
            Op::Adopt(node) => self.enter(*node, |node, cx| node.adopt(cx)),
            Op::DropDetached => self.model.borrow_mut().drop_parked(),
            Op::Pause(end) => {
                self.enter_end(*end, |node, cx, index| node.set_paused(cx, index, true));
            }
            Op::Resume(end) => {
                self.enter_end(*end, |node, cx, index| node.set_paused(cx, index, false));
            }
            Op::Grant(end, frames) => {
                self.enter_end(*end, |node, cx, index| {
                    node.grant(cx, index, *frames, false)
                });
            }
            Op::SetTimer(node, after) => self.enter(*node, |node, cx| node.set_timer(cx, *after)),
            Op::CancelTimer(node) => self.enter(*node, Node::cancel_timer),
            Op::SendDatagram { from, to, len } => self.send_datagram(*from, *to, *len),
            Op::PeerConnect { .. } | Op::PeerSend(..) | Op::PeerEnd(..) => self.perform_peer(op),
            Op::Cut(from, to) => self.sim.cut(self.nodes[*from], self.nodes[*to]),
            Op::Heal(one, other) => self.sim.heal(self.nodes[*one], self.nodes[*other]),
            Op::Hang(node, true) => {
                self.sim.pause(self.nodes[*node]);
                self.sim[self.nodes[*node]].handler_mut().may_be_late = true;
            }
            Op::Hang(node, false) => self.sim.resume(self.nodes[*node]),
            Op::Restart(node) => self.restart(*node),
            Op::RunSteps(count) => (0..*count).for_each(|_| {
                self.step(None);
            }),
            Op::RunFor(time) => self.run_for(*time),
        }
        self.check();
    }

    /// Performs an operation of a raw peer.
    fn perform_peer(&mut self, op: &Op) {
        match op {
            Op::PeerConnect { to, bytes } => {
                let peer = self.sim.connect(self.nodes[*to].addr(PORT));
                peer.send(bytes);
                self.peers.push(peer);
            }
            Op::PeerSend(index, bytes) => {
                if let Some(peer) = self.peers.get(*index) {
                    peer.send(bytes);
                    let _ = peer.recv_up_to(300);
                }
            }
            Op::PeerEnd(index, end) => {
                if let Some(peer) = self.peers.get(*index) {
                    match end {
                        PeerEnd::HalfClose => peer.half_close(),
                        PeerEnd::Close => peer.close(),
                        PeerEnd::Reset => peer.reset(),
                    }
                }
            }
            _ => unreachable!("the operation is not one of a raw peer"),
        }
    }

    fn send_datagram(&mut self, from: usize, to: usize, len: usize) {
        let (udp, to) = (self.udp[from], self.nodes[to].addr(PORT));
        let data = self.model.borrow_mut().next_datagram(len);
        self.enter(from, |_, cx| {
            // A full queue refuses the datagram, which then never arrives.
            let _ = cx.send_to(udp, to, &data);
        });
    }

    fn restart(&mut self, node: usize) {
        let handle = self.nodes[node];
        let life = self.sim[handle].handler().life;
        self.model.borrow_mut().process_ended(life);
        let mut handler = self.handler();
        handler.may_be_late |= !self.sim.is_running(handle);
        self.sim.restart(handle, handler);
        self.udp[node] = self.open_sockets(handle);
        self.turns = self.sum(|stats| stats.turns);
    }

    /// Runs one step, and checks the invariants after it. Returns false if nothing is left to do.
    fn step(&mut self, time_max: Option<Duration>) -> bool {
        let is_left = match time_max {
            Some(time) => {
                let mut steps = 0;
                // The condition is checked before the first step and after it.
                self.sim.run_until(time, |_| {
                    steps += 1;
                    steps > 1
                })
            }
            None => self.sim.step(),
        };
        self.check();
        is_left
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.sim.now() + time;
        while self.step(Some(end - self.sim.now())) {}
    }

    fn sum(&self, count: impl Fn(&unstick::Stats) -> u64) -> u64 {
        let stats = self.nodes.iter().map(|node| self.sim[*node].stats());
        stats.map(|stats| count(&stats)).sum()
    }

    /// Checks the invariants that hold between any two steps.
    fn check(&mut self) {
        for node in &self.nodes {
            let reactor = &self.sim[*node];
            let expected = self.model.borrow().connections(reactor.handler().life);
            assert_eq!(reactor.stats().connections, expected, "{node:?}");
        }
        // A turn without progress is allowed now and then, but not many in a row.
        let progress = self.sum(|stats| {
            let io = stats.events + stats.reads + stats.writes + stats.datagrams_out;
            io + stats.frames_in + stats.closed + stats.connected + stats.datagrams_in
        });
        let turns = self.sum(|stats| stats.turns);
        if progress != self.progress {
            self.idle_turns = 0;
        } else if turns > self.turns {
            self.idle_turns += 1;
        }
        (self.progress, self.turns) = (progress, turns);
        assert!(self.idle_turns <= IDLE_TURNS_MAX, "a reactor spins");
    }

    /// Checks the write queue of each open connection, with the limits of the configuration.
    fn check_queues(&mut self) {
        let limit = self.config.write_queue_bytes_max;
        let count = self.model.borrow().ends.len();
        for end in 0..count {
            self.enter_end(end, |node, cx, index| {
                let model = node.model.borrow();
                let conn = model.ends[index].conn;
                let is_alive = model.ends[index].closes == 0;
                assert_eq!(cx.conn_stats(conn).is_ok(), is_alive);
                if let (Ok(queued), Ok(stats)) = (cx.queued_bytes(conn), cx.conn_stats(conn)) {
                    assert!(queued <= limit, "{queued} bytes are queued");
                    model.check_queued(index, queued, stats.written_bytes);
                }
            });
        }
    }

    /// Ends all faults and random calls, adopts the detached connections, and lets every connection
    /// read.
    fn end_faults(&mut self) {
        self.sim.end_faults();
        while !self.model.borrow().parked.is_empty() {
            let node = self.random.below(NODES);
            self.enter(node, |node, cx| node.adopt(cx));
        }
        let count = self.model.borrow().ends.len();
        for end in 0..count {
            self.enter_end(end, |node, cx, index| {
                node.set_paused(cx, index, false);
                node.grant(cx, index, u64::MAX, false);
            });
        }
        for node in 0..NODES {
            self.enter(node, |node, _| node.calls_left = 0);
        }
    }

    /// Closes all connections, and checks that nothing is left of them.
    fn close_all(&mut self) {
        for peer in &self.peers {
            peer.close();
        }
        let count = self.model.borrow().ends.len();
        for end in 0..count {
            self.enter_end(end, |node, cx, index| node.close(cx, index, false));
        }
        self.run_for(ARRIVAL_TIME_MAX);
        self.model.borrow().check_all_closed();
        for node in &self.nodes {
            let stats = self.sim[*node].stats();
            assert_eq!((stats.connections, stats.held_bytes), (0, 0), "{node:?}");
            assert_eq!((stats.timers, stats.ready), (0, 0), "{node:?}");
        }
        assert!(
            !self.sim.step(),
            "something happens although nothing is left"
        );
    }
}

/// Prints the end of the event log of a run that fails, if the environment variable `UNSTICK_LOG`
/// is set.
impl Drop for Run {
    fn drop(&mut self) {
        let log = self.sim.log();
        if std::thread::panicking() && !log.is_empty() {
            let lines: Vec<_> = log.lines().collect();
            let last = lines.len().saturating_sub(LOG_LINES);
            eprintln!("{}", lines[last..].join("\n"));
        }
    }
}

/// Runs a script. Faults happen until its last step.
fn stays_safe(seed: u64, script: &[Op], coverage: &Rc<RefCell<Coverage>>) {
    let mut run = Run::new(seed, coverage);
    for op in script {
        run.perform(op);
    }
    run.check_queues();
}

/// Runs a script, and then ends all faults. Checks that everything arrives and that all connections
/// close.
fn comes_to_an_end(seed: u64, script: &[Op], coverage: &Rc<RefCell<Coverage>>) {
    let mut run = Run::new(seed, coverage);
    for op in script {
        run.perform(op);
    }
    // During the first iteration, `on_close` may still report detached connections. The second
    // iteration adopts them.
    for _ in 0..2 {
        run.end_faults();
        run.run_for(ARRIVAL_TIME_MAX);
    }
    run.check_queues();
    run.model.borrow().check_all_arrived();
    run.close_all();
}

/// Runs the scripts. Checks that each kind of event in [`EVENTS`] has happened. If `UNSTICK_SEED`
/// chooses one script, this check is left out. Prints the number of lives of connections per
/// minute.
fn run_all(run: fn(u64, &[Op], &Rc<RefCell<Coverage>>)) {
    let (coverage, began) = (Rc::default(), Instant::now());
    scripts().check(|seed, script| run(seed, script, &coverage));
    let coverage = coverage.borrow();
    let lives = coverage.number("life");
    let per_minute = u128::from(lives) * 60_000 / began.elapsed().as_millis().max(1);
    println!("{lives} lives of connections, {per_minute} per minute: {coverage:?}");
    if std::env::var_os("UNSTICK_SEED").is_none() {
        for event in EVENTS {
            assert!(
                coverage.number(event) > 0,
                "no run had the event \"{event}\""
            );
        }
    }
}

#[test]
fn lives_with_faults_keep_the_invariants() {
    run_all(stays_safe);
}

#[test]
fn lives_whose_faults_end_lose_nothing() {
    run_all(comes_to_an_end);
}
