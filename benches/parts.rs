//! Benchmarks of single parts of the loop. The first three parts make almost no system calls,
//! because the time of system calls would hide the cost of these parts.
//!
//! ```text
//! look_up    id -> slab, generation checked -> session
//! dispatch   grant -> ready queue -> connection -> one of its undelivered frames -> on_frame
//! queue      send -> frame encoded and appended to the write queue
//! drain      send -> write queue -> socket -> peer
//! ```
//!
//! The connections are TCP connections over loopback. `dispatch` delivers frames that the reactor
//! read earlier, and grants one frame to each connection at a time. So its time contains only one
//! system call: a poll without events for all connections together. `queue` sends while the loop
//! does not turn, so nothing is written. `drain` is the complete path: it queues one mebibyte,
//! writes it, and the peer reads it. Timers and posts are measured in `benches/peers`.

use std::hint::black_box;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use unstick::{ConnId, Context, Framing, Handler, Origin, Payload, Reactor};

/// Number of connections. A connection takes two descriptors, and the limit of a process is often
/// 1,024 descriptors.
const CONNECTIONS: usize = 400;
/// Number of frames that each connection receives. The benchmark then delivers these frames one by
/// one.
const UNDELIVERED: usize = 1000;
const FRAME_LEN: u32 = 8;
/// Maximum number of frames queued before the queue is drained.
const QUEUED: usize = 1000;
const DRAINED_LEN: usize = 1 << 20;

#[derive(Default)]
struct Counting {
    opened: usize,
    frames: u64,
}

impl Handler for Counting {
    type Session = u64;

    fn on_open(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut u64, _: Origin) {
        self.opened += 1;
    }

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, session: &mut u64, frame: &[u8]) {
        *session += u64::from(black_box(frame)[0]);
        self.frames += 1;
    }
}

/// A reactor with its connections, and the peers of these connections in the same order.
struct Bench {
    reactor: Reactor<Counting>,
    conns: Vec<ConnId>,
    peers: Vec<TcpStream>,
}

impl Bench {
    fn new(connections: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
        let addr: SocketAddr = listener.local_addr().expect("the socket is bound");
        let mut reactor = Reactor::new(Counting::default()).expect("the reactor is created");
        let (mut conns, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..connections {
            conns.push(reactor.connect(addr, Framing::length_u32(), 0));
            let (peer, _) = listener.accept().expect("the connection is accepted");
            peer.set_nonblocking(true).expect("O_NONBLOCK can be set");
            peers.push(peer);
        }
        while reactor.handler().opened < connections {
            reactor.turn(None).expect("polling succeeds");
        }
        Self {
            reactor,
            conns,
            peers,
        }
    }

    /// Turns the reactor until all write queues are empty and the peers have read all output.
    fn drain(&mut self) {
        let mut read = [0; 65_536];
        for (conn, peer) in self.conns.iter().zip(&mut self.peers) {
            loop {
                let turn = self.reactor.turn(Some(Duration::ZERO));
                turn.expect("polling succeeds");
                let queued = self.reactor.with(|_, cx| cx.queued_bytes(*conn));
                match peer.read(&mut read) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock && queued == Ok(0) => break,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    other => assert_ne!(other.expect("the connection is open"), 0),
                }
            }
        }
    }

    /// Sends `UNDELIVERED` frames to each connection, which delivers only the first of them.
    fn fill(&mut self) {
        let mut frame = [7; 4 + FRAME_LEN as usize];
        frame[..4].copy_from_slice(&FRAME_LEN.to_be_bytes());
        let frames = frame.repeat(UNDELIVERED);
        for peer in &mut self.peers {
            let written = peer.write_all(&frames);
            written.expect("the frames fit into the socket buffers");
        }
        let wanted = self.reactor.handler().frames + self.conns.len() as u64;
        self.grant_one_each();
        while self.reactor.handler().frames < wanted {
            self.reactor.turn(None).expect("polling succeeds");
        }
    }

    fn grant_one_each(&mut self) {
        let Self { reactor, conns, .. } = self;
        reactor.with(|_, cx| {
            for conn in conns.iter() {
                cx.grant(*conn, 1).expect("the connection is open");
            }
        });
    }
}

fn look_up(c: &mut Criterion) {
    let Bench {
        mut reactor,
        mut conns,
        peers: _peers,
    } = Bench::new(CONNECTIONS);
    // The stride 147 has no common factor with the number of connections. So the order is scattered
    // and contains every connection once.
    conns = (0..CONNECTIONS)
        .map(|at| conns[at * 147 % CONNECTIONS])
        .collect();
    let mut group = c.benchmark_group("look_up");
    group.throughput(Throughput::Elements(CONNECTIONS as u64));
    group.bench_function("session", |b| {
        b.iter(|| {
            reactor.with(|_, cx| {
                let mut found = 0;
                for conn in &conns {
                    found += usize::from(cx.session(black_box(*conn)).is_some());
                }
                assert_eq!(found, CONNECTIONS);
            });
        });
    });
    reactor.with(|_, cx| conns.iter().for_each(|conn| cx.abort(*conn)));
    reactor
        .turn(Some(Duration::ZERO))
        .expect("polling succeeds");
    group.bench_function("stale", |b| {
        b.iter(|| {
            reactor.with(|_, cx| {
                for conn in &conns {
                    assert!(cx.session(black_box(*conn)).is_none());
                }
            });
        });
    });
    group.finish();
}

fn dispatch(c: &mut Criterion) {
    let mut group = c.benchmark_group("dispatch");
    for connections in [1, CONNECTIONS] {
        let mut bench = Bench::new(connections);
        for conn in &bench.conns {
            // The first grant, even of zero frames, turns credit on. From then on, each frame is
            // delivered only against credit.
            let granted = bench.reactor.with(|_, cx| cx.grant(*conn, 0));
            granted.expect("the connection is open");
        }
        group.throughput(Throughput::Elements(connections as u64));
        let mut undelivered = 0;
        group.bench_function(BenchmarkId::new("undelivered_frame", connections), |b| {
            b.iter_custom(|iterations| {
                let mut taken = Duration::ZERO;
                for _ in 0..iterations {
                    if undelivered == 0 {
                        bench.fill();
                        undelivered = UNDELIVERED - 1;
                    }
                    undelivered -= 1;
                    let before = bench.reactor.handler().frames;
                    let started = Instant::now();
                    bench.grant_one_each();
                    let turn = bench.reactor.turn(Some(Duration::ZERO));
                    taken += started.elapsed();
                    turn.expect("polling succeeds");
                    assert_eq!(
                        bench.reactor.handler().frames - before,
                        connections as u64,
                        "number of delivered frames, one per connection"
                    );
                }
                taken
            });
        });
    }
    group.finish();
}

fn queue(c: &mut Criterion) {
    type Send = fn(&mut Context<'_, Counting>, ConnId, &Payload) -> bool;
    let ways: [(&str, Send); 4] = [
        ("borrowed", |cx, conn, payload| {
            cx.send(conn, payload).is_ok()
        }),
        ("parts", |cx, conn, payload| {
            let (head, body) = payload.split_at(16);
            cx.send_parts(conn, &[head, body]).is_ok()
        }),
        ("in_place", |cx, conn, payload| {
            cx.send_with(conn, |out| {
                out.put(payload);
                Ok(())
            })
            .is_ok()
        }),
        ("owned", |cx, conn, payload| {
            cx.send_owned(conn, payload.clone()).is_ok()
        }),
    ];
    let mut bench = Bench::new(1);
    let conn = bench.conns[0];
    for len in [64, 1024, 16 * 1024] {
        let payload = Payload::from(vec![7; len]).into_shared();
        // Queue fewer long payloads, because the write queue has a limit.
        let count = QUEUED.min((8 << 20) / len);
        let mut group = c.benchmark_group(format!("queue/{len}_bytes"));
        group.throughput(Throughput::Elements(count as u64));
        for (name, send) in ways {
            group.bench_function(name, |b| {
                b.iter_custom(|iterations| {
                    let mut taken = Duration::ZERO;
                    for _ in 0..iterations {
                        let started = Instant::now();
                        bench.reactor.with(|_, cx| {
                            for _ in 0..count {
                                assert!(send(cx, conn, black_box(&payload)));
                            }
                        });
                        taken += started.elapsed();
                        bench.drain();
                    }
                    taken
                });
            });
        }
        group.finish();
    }
}

fn drain(c: &mut Criterion) {
    let mut bench = Bench::new(1);
    let conn = bench.conns[0];
    let mut group = c.benchmark_group("drain");
    group.throughput(Throughput::Bytes(DRAINED_LEN as u64));
    for len in [64, 1024, 64 * 1024] {
        let payload = Payload::from(vec![7; len]).into_shared();
        for is_owned in [false, true] {
            let name = ["borrowed", "owned"][usize::from(is_owned)];
            group.bench_function(BenchmarkId::new(name, len), |b| {
                b.iter(|| {
                    bench.reactor.with(|_, cx| {
                        for _ in 0..DRAINED_LEN / len {
                            let accepted = match is_owned {
                                true => cx.send_owned(conn, payload.clone()).is_ok(),
                                false => cx.send(conn, &payload).is_ok(),
                            };
                            assert!(accepted);
                        }
                    });
                    bench.drain();
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, look_up, dispatch, queue, drain);
criterion_main!(benches);
