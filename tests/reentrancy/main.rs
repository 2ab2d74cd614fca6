//! Tests of operations in callbacks: all combinations of [`Op`] and [`Callback`], and random
//! sequences of operations. The operations are the methods of `Context`. Left out are the variants
//! with options and `publish_metrics`.
//!
//! No callback can run inside another one, because the running callback borrows the handler. These
//! tests check the consequences. Each connection opens and closes once. A closed or paused
//! connection delivers nothing. Each accepted byte is written, counted as unsent, or left in a
//! detached connection. A new client is accepted and gets its echo, unless the reactor is shutting
//! down. At the end no descriptor, memory or timer is left.

#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;
mod matrix;
mod ops;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as StdUnixAddr, UnixDatagram};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::{Random, client, drive, frame, listening, read_u32_frame, send_fin, settle};
use matrix::{Cast, DeliberatePanic, Matrix, Own, Three};
use ops::{CALLBACKS, Callback, Of, Op, all_ops};
use unstick::{
    Config, ConnId, Framing, Reactor, ShutdownPlan, Signal, SocketId, UnixAddr, UnixDatagramId,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Tests count the descriptors of this process, so they run one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A reactor with every socket that the operations need, and their peers.
struct Stage {
    reactor: Reactor<Matrix>,
    cast: Cast,
    /// Number of open descriptors before the sockets of `cast` were created.
    descriptors: usize,
    /// Address for a client that connects after the operations and must get its echo.
    later: SocketAddr,
    listening: SocketAddr,
    refusing: SocketAddr,
    clients: Vec<(ConnId, TcpStream)>,
    udp: UdpSocket,
    /// Socket with an address, to which `Op::ConnectUnix` connects.
    unix: UnixDatagram,
    /// Peers of the open Unix datagram sockets of `cast`.
    unixes: [UnixDatagram; 2],
}

fn descriptor_count() -> usize {
    let open = std::fs::read_dir("/proc/self/fd").expect("Linux has /proc/self/fd");
    open.count()
}

impl Stage {
    fn new(at: Callback, refusing: SocketAddr) -> Self {
        let mut config = Config::default();
        (config.write_high_bytes, config.write_low_bytes) = (200, 100);
        if at == Callback::Refused {
            config.connections_max = 2;
        }
        let framing = Framing::length_u32().frame_len_max(25_000);
        let framing = match at {
            Callback::FrameError => framing,
            _ => framing.skip_too_long(),
        };
        let (mut reactor, later) = listening(Matrix::default(), config, framing.clone());
        let caught = reactor.with(|_, cx| cx.catch_signal(Signal::SIGUSR1));
        caught.expect("the signal can be caught");
        let descriptors = descriptor_count();
        let listeners = [0; 3].map(|_| {
            let listener = reactor.listen("127.0.0.1:0", framing.clone());
            listener.expect("a free port is available")
        });
        let udps = [0; 3].map(|_| {
            reactor
                .bind_udp("127.0.0.1:0")
                .expect("a free port is available")
        });
        let (unixes, unix_peers) = adopt_unixes(&mut reactor);
        let nowhere: &[SocketAddr] = &[];
        let gone = reactor.connect(nowhere, framing, ());
        let timers = reactor.with(|_, cx| {
            let timers = [0; 3].map(|_| cx.set_timer(HOUR, 0));
            cx.close_listener(listeners[2]);
            cx.close_udp(udps[2]);
            cx.close_unix_datagram(unixes[2]);
            cx.cancel_timer(timers[2]);
            timers
        });
        let listening = reactor
            .local_inet_addr(listeners[0])
            .expect("the socket is bound");
        let clients = [0; 2].map(|_| accepted_client(&mut reactor, listening));
        let cast = Cast {
            conns: Three::new([clients[0].0, clients[1].0, gone]),
            listeners: Three::new(listeners),
            udps: Three::new(udps),
            unixes: Three::new(unixes),
            timers: Three::new(timers),
        };
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
        let name = format!("unstick-reentrancy-{}", std::process::id());
        let unix = StdUnixAddr::from_abstract_name(&name).expect("the name is short");
        let unix = UnixDatagram::bind_addr(&unix).expect("the name is free");
        let matrix = reactor.handler_mut();
        matrix.cast = Some(cast);
        matrix.listening = Some(listening);
        matrix.refusing = Some(refusing);
        matrix.udp_to = udp.local_addr().ok();
        matrix.unix_to = UnixAddr::from_abstract_name(&name).ok();
        Self {
            reactor,
            cast,
            descriptors,
            later,
            listening,
            refusing,
            clients: clients.into(),
            udp,
            unix,
            unixes: unix_peers,
        }
    }

    /// Triggers the callback `at`.
    fn call(&mut self, at: Callback) {
        let Self {
            reactor,
            cast,
            clients,
            ..
        } = self;
        let [conn, _] = cast.conns.open;
        match at {
            Callback::OpenAccepted | Callback::Refused => {
                clients.push((conn, client(self.listening)));
            }
            Callback::OpenConnected => {
                reactor.connect(self.listening, Framing::length_u32(), ());
            }
            Callback::OpenAdopted => self.adopt_stream(),
            Callback::Frame => {
                let frames: Vec<_> = (0..3).flat_map(|n| frame("u32", &[b'n', n])).collect();
                write_to_all(clients, &frames);
            }
            Callback::Skipped => {
                let frames = [frame("u32", &[0; 30_000]), frame("u32", b"n\0")];
                write_to_all(clients, &frames.concat());
            }
            Callback::Peek => self.peek(conn),
            Callback::FrameError => self.send_malformed(),
            Callback::DrainedInDispatch => write_to_all(clients, &frame("u32", b"d")),
            Callback::DrainedInFlush => reactor.with(|matrix, cx| {
                matrix.apply(cx, Op::Send(Of::Own), Own::default());
            }),
            Callback::HalfClose => clients.iter().for_each(|(_, client)| send_fin(client)),
            Callback::Hangup => self.hang_up(conn),
            Callback::Close => {
                reactor.with(|_, cx| cx.abort(conn));
                reactor.handler_mut().life(conn).is_ended = true;
            }
            Callback::ConnectFailed => {
                reactor.connect(self.refusing, Framing::length_u32(), ());
            }
            Callback::Datagram => self.send_datagrams(),
            Callback::DatagramError => {
                let port_zero = SocketAddr::from(([127, 0, 0, 1], 0));
                let sent = reactor.with(|_, cx| cx.send_to(cast.udps.open[0], port_zero, b""));
                sent.expect("the datagram queue has space");
            }
            Callback::UnixDatagram => self.send_unix_datagrams(),
            Callback::UnixDatagramError => self.leave_unread_datagram(),
            Callback::UnixWritable => self.fill_and_empty_unix_queue(),
            Callback::Timer => drop(reactor.with(|_, cx| cx.set_timer(Duration::ZERO, 0))),
            Callback::ShutdownUnready => {
                let plan = ShutdownPlan::new(HOUR).unready_time(HOUR);
                reactor.with(|_, cx| cx.shutdown(plan));
            }
            Callback::ShutdownClose => reactor.with(|matrix, cx| matrix.shut_down(cx, HOUR)),
            Callback::Signal => raise_signal(),
            Callback::SendRefused => self.send_to_gone(),
            Callback::Posted => {
                let posted = reactor
                    .remote()
                    .post(move |matrix: &mut Matrix, cx: &mut _| {
                        matrix.entered(cx, at, Own::default());
                    });
                posted.expect("the post queue has space");
            }
            Callback::Outside => {
                reactor.with(|matrix, cx| matrix.entered(cx, at, Own::default()));
            }
        }
    }

    fn peek(&mut self, conn: ConnId) {
        let peeked = self.reactor.with(|_, cx| cx.peek(conn, 1));
        peeked.expect("the connection is open");
        let frames = [frame("u32", b"n\0"), frame("u32", b"n\x01")];
        write_to_all(&self.clients, &frames.concat());
    }

    /// Sends a valid frame and a frame that is too long from the first client. The second client
    /// stays connected, so that `run_to_panic` can check its echo.
    fn send_malformed(&self) {
        let frames = [frame("u32", b"n\0"), frame("u32", &[0; 30_000])];
        write_to_all(&self.clients[..1], &frames.concat());
    }

    fn adopt_stream(&mut self) {
        let stream =
            TcpStream::connect(self.listening).expect("the listener accepts the connection");
        self.reactor
            .with(|_, cx| cx.adopt_stream(stream, Framing::length_u32(), ()));
    }

    /// Pauses `conn`, the connection of the first client. Then every client sends a frame, and the
    /// first client also sends a FIN.
    fn hang_up(&mut self, conn: ConnId) {
        self.reactor
            .with(|_, cx| cx.pause(conn))
            .expect("the connection is open");
        self.reactor.handler_mut().life(conn).is_paused = true;
        write_to_all(&self.clients, &frame("u32", b"n\0"));
        send_fin(&self.clients[0].1);
    }

    /// Sends three datagrams to the first UDP socket of the reactor.
    fn send_datagrams(&self) {
        let to = self
            .reactor
            .local_inet_addr(self.cast.udps.open[0])
            .expect("the socket is bound");
        for payload in [b"1", b"2", b"3"] {
            self.udp.send_to(payload, to).expect("the datagram is sent");
        }
    }

    /// Sends three datagrams to the first Unix socket of the reactor.
    fn send_unix_datagrams(&self) {
        for payload in [b"1", b"2", b"3"] {
            self.unixes[0].send(payload).expect("the datagram is sent");
        }
    }

    /// Sends a payload to a closed connection, from outside of the reactor.
    fn send_to_gone(&self) {
        let sent = self.reactor.remote().send(self.cast.conns.gone, *b"1");
        sent.expect("the remote queue has space");
    }

    /// Makes the peer of the first Unix socket connect to another socket while the peer has an
    /// unread datagram. Linux reports the loss of the datagram to the first socket.
    fn leave_unread_datagram(&mut self) {
        let unix = self.cast.unixes.open[0];
        let sent = self
            .reactor
            .with(|_, cx| cx.send_unix_datagram(unix, None, b"1"));
        sent.expect("the receive queue of the peer has space");
        let name = format!("unstick reentrancy {}", std::process::id());
        let other = StdUnixAddr::from_abstract_name(name).expect("the name is short");
        let _other = UnixDatagram::bind_addr(&other).expect("the name is free");
        let connected = self.unixes[0].connect_addr(&other);
        connected.expect("the other socket is bound");
    }

    /// Sends on the first Unix socket until a send fails. Then its peer receives all datagrams.
    fn fill_and_empty_unix_queue(&mut self) {
        let unix = self.cast.unixes.open[0];
        while self
            .reactor
            .with(|_, cx| cx.send_unix_datagram(unix, None, b"1"))
            .is_ok()
        {}
        settle(&mut self.reactor);
        while self.unixes[0].recv(&mut [0]).is_ok() {}
    }

    /// Runs the operations in the first two calls of the callback `at`, then checks the final
    /// state.
    fn run(mut self, at: Callback, ops: &[Op]) {
        self.begin(at, ops, 2);
        self.call(at);
        drive(&mut self.reactor, |reactor| reactor.handler().hits > 0);
        self.finish();
    }

    /// Runs the operations in the first call of the callback `at`, panics in this call, then checks
    /// the final state.
    fn run_to_panic(mut self, at: Callback, ops: &[Op]) {
        self.begin(at, ops, 1);
        self.reactor.handler_mut().panics = true;
        let panic = catch_unwind(AssertUnwindSafe(|| {
            self.call(at);
            drive(&mut self.reactor, |_| false);
        }));
        let panic = panic.expect_err("the callback panics");
        if !panic.is::<DeliberatePanic>() {
            resume_unwind(panic);
        }
        // Connections without a panic must still get their echoes.
        if ops.is_empty() && !matches!(at, Callback::HalfClose | Callback::ShutdownClose) {
            let lives = &self.reactor.handler().lives;
            let mut both = self.clients[..2].iter_mut();
            let (conn, client) = both
                .find(|(conn, _)| !lives[conn].is_ended)
                .expect("at most one of two connections ended");
            settle(&mut self.reactor);
            self.reactor
                .handler_mut()
                .life(*conn)
                .received(&received(client));
            client
                .set_nonblocking(false)
                .expect("non-blocking mode can be set");
            client
                .write_all(&frame("u32", b"e"))
                .expect("the write succeeds");
            settle(&mut self.reactor);
            assert_eq!(read_u32_frame(client), b"e");
            self.reactor
                .handler_mut()
                .life(*conn)
                .received(&frame("u32", b"e"));
        }
        self.finish();
    }

    fn begin(&mut self, at: Callback, ops: &[Op], rounds: usize) {
        let matrix = self.reactor.handler_mut();
        (matrix.at, matrix.ops, matrix.rounds) = (Some(at), ops.to_vec(), rounds);
    }

    fn finish(mut self) {
        settle(&mut self.reactor);
        // The operations may have closed some clients, so write errors are ignored.
        write_to_all(&self.clients, &frame("u32", b"later"));
        settle(&mut self.reactor);
        self.reactor.handler_mut().at = None;
        for (conn, client) in &self.clients[..2] {
            self.reactor
                .handler_mut()
                .life(*conn)
                .received(&received(client));
        }
        self.end_all();
        if !self.reactor.handler().is_shutting_down {
            self.echo_to_new_client();
            self.end_all();
        }
        if self.reactor.with(|_, cx| cx.is_shutting_down()) {
            // Ends the phase `Unready` of `Callback::ShutdownUnready`.
            self.reactor.with(|matrix, cx| matrix.shut_down(cx, HOUR));
        }
        self.close_all();
    }

    /// Aborts all connections until none is left.
    fn end_all(&mut self) {
        let deadline = Instant::now() + common::DEADLINE;
        loop {
            self.reactor.with(|matrix, cx| {
                for (conn, life) in &mut matrix.lives {
                    cx.abort(*conn);
                    life.is_ended = true;
                }
            });
            settle(&mut self.reactor);
            if self.reactor.stats().connections == 0 {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "a connection did not close before the deadline"
            );
        }
        let lives = &self.reactor.handler().lives;
        assert!(lives.values().all(|life| life.closes == 1));
        assert_eq!(self.reactor.stats().closed, lives.len() as u64);
    }

    /// Checks that a new client is accepted and gets its echo.
    fn echo_to_new_client(&mut self) {
        let mut client = client(self.later);
        let before = self.reactor.stats().frames_out;
        client
            .write_all(&frame("u32", b"e"))
            .expect("the write succeeds");
        drive(&mut self.reactor, |reactor| {
            reactor.stats().frames_out > before
        });
        settle(&mut self.reactor);
        assert_eq!(read_u32_frame(&mut client), b"e");
    }

    fn close_all(self) {
        let Self {
            mut reactor,
            cast,
            descriptors,
            ..
        } = self;
        drop((self.clients, self.udp, self.unix, self.unixes));
        reactor.with(|matrix, cx| {
            let sockets = std::mem::take(&mut matrix.sockets);
            let [udps, listeners] = [
                cast.udps.open.map(SocketId::from),
                cast.listeners.open.map(SocketId::from),
            ];
            let unixes = cast.unixes.open.map(SocketId::from);
            for socket in sockets
                .into_iter()
                .chain(udps)
                .chain(listeners)
                .chain(unixes)
            {
                matrix.close(cx, socket);
            }
            for timer in matrix.timers.iter().chain(&cast.timers.open) {
                cx.cancel_timer(*timer);
            }
        });
        settle(&mut reactor);
        assert_eq!(reactor.stats().held_bytes, 0);
        let descriptors = descriptors + 2 * usize::from(reactor.handler().has_caught_signal);
        if reactor.handler().is_shutting_down {
            assert!(reactor.is_shut_down());
            // The shutdown also closed the listener that was open before the count.
            assert_eq!(descriptor_count(), descriptors - 1);
        } else {
            assert_eq!(descriptor_count(), descriptors);
            // The timer that frees the memory of a burst may be left. This timer ends within
            // seconds.
            drive(&mut reactor, |reactor| reactor.next_turn_in().is_none());
        }
    }
}

/// Adopts one end of each of three Unix socket pairs. Returns the ids, and the peers of the first
/// two; the third peer is closed.
fn adopt_unixes(reactor: &mut Reactor<Matrix>) -> ([UnixDatagramId; 3], [UnixDatagram; 2]) {
    let pairs = [0; 3].map(|_| UnixDatagram::pair().expect("a socket pair can be created"));
    let mut peers = Vec::new();
    let unixes = pairs.map(|(ours, theirs)| {
        theirs
            .set_nonblocking(true)
            .expect("non-blocking mode can be set");
        peers.push(theirs);
        let adopted = reactor.with(|_, cx| cx.adopt_unix_datagram(ours));
        adopted.expect("the descriptor is a socket")
    });
    peers.pop();
    let peers = peers.try_into().expect("two of three peers are left");
    (unixes, peers)
}

/// Connects a client to `addr` and waits until the reactor has accepted it.
fn accepted_client(reactor: &mut Reactor<Matrix>, addr: SocketAddr) -> (ConnId, TcpStream) {
    let client = client(addr);
    let before = reactor.stats().accepted;
    drive(reactor, |reactor| reactor.stats().accepted > before);
    let conn = reactor.handler().newest.expect("on_open was called");
    (conn, client)
}

/// Sends `SIGUSR1` to this process.
fn raise_signal() {
    let pid = std::process::id().to_string();
    let status = Command::new("kill").args(["-USR1", &pid]).status();
    assert!(status.expect("the kill command can be started").success());
}

fn write_to_all(clients: &[(ConnId, TcpStream)], bytes: &[u8]) {
    for (_, client) in clients {
        let mut client: &TcpStream = client;
        let _ = client.write_all(bytes);
    }
}

/// Returns the bytes that have arrived so far. Leaves the client in non-blocking mode.
fn received(mut client: &TcpStream) -> Vec<u8> {
    client
        .set_nonblocking(true)
        .expect("non-blocking mode can be set");
    let mut received = Vec::new();
    // Ignore the result: the stream may end, may be reset, or may have no more bytes.
    let _ = client.read_to_end(&mut received);
    received
}

#[test]
fn every_operation_is_sound_from_every_callback() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (_held, refusing) = common::refusing();
    for at in CALLBACKS {
        for op in all_ops() {
            println!("{op:?} from {at:?}");
            Stage::new(at, refusing).run(at, &[op]);
        }
    }
}

#[test]
fn random_operations_are_sound_from_every_callback() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (_held, refusing) = common::refusing();
    let all = all_ops();
    for seed in 0..50 * CALLBACKS.len() {
        let at = CALLBACKS[seed % CALLBACKS.len()];
        let mut random = Random(seed as u64);
        let ops: Vec<_> = (0..2 + random.below(5))
            .map(|_| all[random.below(all.len())])
            .collect();
        println!("seed {seed}: {ops:?} from {at:?}");
        let stage = Stage::new(at, refusing);
        match random.below(4) {
            0 => stage.run_to_panic(at, &ops),
            _ => stage.run(at, &ops),
        }
    }
}

/// The panic closes the connection of its callback and affects no other entry.
#[test]
fn panic_in_any_callback_closes_its_connection() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (_held, refusing) = common::refusing();
    for at in CALLBACKS {
        println!("from {at:?}");
        Stage::new(at, refusing).run_to_panic(at, &[]);
    }
}
