//! The steady state allocates nothing: after its peak load, a reactor handles up to a million
//! frames without an allocation in its thread.
//!
//! The clients run in other threads, whose allocations are not counted. The kernel decides how many
//! connections hold a partial frame, and thus a buffer, at the same time. To cover the worst case,
//! most tests first fill the pool with buffers of all sizes that they need ([`fill_pool`]).
//!
//! Further tests check a deframer, a read side and a framed stream without a reactor.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::{DEADLINE, drive, frame, listening};
use unstick::testkit::ReadSide;
use unstick::{
    Config, ConnId, Context, Datagram, Deframer, FramedStream, Framing, Handler, Origin, Reactor,
    SendError, Sent, Stats, TimerId, UdpId,
};

/// Number of frames per test. A debug build is slow, so it handles only a tenth of them.
const FRAMES: u64 = if cfg!(debug_assertions) {
    100_000
} else {
    1_000_000
};
/// Number of frames that are handled before allocations are counted.
const WARM_UP: u64 = FRAMES / 100;
/// Number of frames or datagrams in slow tests. In these tests, many messages need a switch between
/// threads.
const SINGLE_FRAMES: u64 = FRAMES / 10;
const PAYLOAD_LEN: usize = 64;
const FRAMES_IN_FLIGHT: usize = 32;

#[derive(Default)]
struct Echo {
    /// Connection that was accepted last.
    conn: Option<ConnId>,
    /// True from the time a write queue exceeds its high watermark until the queue is drained.
    is_above: Arc<AtomicBool>,
    /// True if each frame sets a timer and cancels the previous frame's timer.
    with_timers: bool,
    timer: Option<TimerId>,
    fired: u64,
}

impl Handler for Echo {
    type Session = ();

    fn on_open(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: &mut (), origin: Origin) {
        if matches!(origin, Origin::Accepted { .. }) {
            self.conn = Some(conn);
        }
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        match cx.send(conn, frame) {
            Ok(Sent::AboveHigh) => self.is_above.store(true, Ordering::Release),
            // In the test of watermark crossings, the client ends the connection while frames and
            // echoes are in flight. These frames need no echo.
            Ok(_) | Err(SendError::Closing) => {}
            Err(error) => panic!("{error}"),
        }
        if self.with_timers {
            let timer = cx.set_timer(Duration::from_secs(3600), 1);
            if let Some(last) = self.timer.replace(timer) {
                assert!(
                    cx.cancel_timer(last),
                    "the previous timer has not fired yet"
                );
            }
        }
    }

    fn on_drained(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut ()) {
        self.is_above.store(false, Ordering::Release);
    }

    fn on_datagram(&mut self, cx: &mut Context<'_, Self>, socket: UdpId, datagram: Datagram<'_>) {
        cx.send_to(socket, datagram.from, datagram.data)
            .expect("the queue has space");
    }

    fn on_timer(&mut self, _: &mut Context<'_, Self>, _: TimerId, _: u64) {
        self.fired += 1;
    }
}

/// Returns a reactor with `conns` accepted connections, and the clients of these connections.
fn connected(handler: Echo, config: Config, conns: usize) -> (Reactor<Echo>, Vec<TcpStream>) {
    let (mut reactor, addr) = listening(handler, config, Framing::length_u32());
    let clients: Vec<_> = (0..conns).map(|_| common::client(addr)).collect();
    drive(&mut reactor, |reactor| {
        reactor.stats().accepted == conns as u64
    });
    (reactor, clients)
}

/// Makes the pool allocate buffers whose sizes are the powers of two from 64 bytes to `len_max`:
/// `count` buffers of each size exist at once. The pool gets all of them back, because their
/// connections are aborted.
fn fill_pool(reactor: &mut Reactor<Echo>, count: usize, len_max: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let addr = listener.local_addr().expect("the socket is bound");
    let closed = reactor.stats().closed;
    let mut opened = 0;
    for len in (6..).map(|exponent| 1 << exponent) {
        if len > len_max {
            break;
        }
        reactor.with(|_, cx| {
            for _ in 0..count {
                let conn = cx.connect(addr, Framing::length_u32(), ());
                // The payload and the 32 bytes reserved for a header fill a buffer of `len` bytes.
                let _ = cx
                    .send(conn, &vec![0; len - 32])
                    .expect("the queue has space");
                cx.abort(conn);
                opened += 1;
            }
        });
        drive(reactor, |reactor| reactor.stats().closed == closed + opened);
    }
}

/// Starts a thread that sends `message` on each stream, cut at the offsets `cuts`, and then reads
/// the echoes. The thread repeats this `rounds` times.
fn client(
    mut streams: Vec<TcpStream>,
    message: Vec<u8>,
    cuts: Vec<usize>,
    rounds: u64,
) -> JoinHandle<()> {
    let ends = cuts.iter().copied().chain([message.len()]);
    let starts = [0].into_iter().chain(cuts.iter().copied());
    let pieces: Vec<Range<usize>> = starts.zip(ends).map(|(start, end)| start..end).collect();
    thread::spawn(move || {
        let mut echoed = vec![0; message.len()];
        for _ in 0..rounds {
            for piece in &pieces {
                for stream in &mut streams {
                    stream
                        .write_all(&message[piece.clone()])
                        .expect("the server reads");
                }
            }
            for stream in &mut streams {
                stream.read_exact(&mut echoed).expect("the server echoes");
                assert!(echoed == message);
            }
        }
    })
}

/// Runs turns until `progress` reaches `to`, and returns the number of allocations in all turns
/// after `progress` reached `from`.
fn allocations(
    reactor: &mut Reactor<Echo>,
    progress: impl Fn(&Stats) -> u64,
    from: u64,
    to: u64,
) -> u64 {
    drive(reactor, |reactor| progress(&reactor.stats()) >= from);
    assert!(
        progress(&reactor.stats()) < to,
        "the test ended before allocations were counted"
    );
    let counted = allocation_counter::measure(|| {
        let mut last = (Instant::now(), progress(&reactor.stats()));
        while progress(&reactor.stats()) < to {
            reactor
                .turn(Some(Duration::from_secs(1)))
                .expect("polling succeeds");
            let now = (Instant::now(), progress(&reactor.stats()));
            if now.1 > last.1 {
                last = now;
            }
            assert!(
                now.0 - last.0 < DEADLINE,
                "the progress stayed at {} for {DEADLINE:?}",
                now.1
            );
        }
    });
    counted.count_total
}

/// Asserts that echoing `frames` frames allocates nothing, with `depth` frames in flight on each
/// of `conns` connections.
fn assert_no_allocation(config: Config, conns: usize, depth: usize, frames: u64) {
    let (mut reactor, streams) = connected(Echo::default(), config, conns);
    fill_pool(&mut reactor, conns, 4096);
    let message = frame("u32", &[7; PAYLOAD_LEN]).repeat(depth);
    let to = WARM_UP + frames;
    let rounds = to / (conns * depth) as u64 + 1;
    let client = client(streams, message, vec![], rounds);
    let count = allocations(&mut reactor, |stats| stats.frames_in, WARM_UP, to);
    assert_eq!(
        count, 0,
        "allocations with {conns} connections and {depth} frames in flight on each"
    );
    finish(reactor, client);
}

fn finish(mut reactor: Reactor<Echo>, client: JoinHandle<()>) -> Echo {
    while !client.is_finished() {
        reactor
            .turn(Some(Duration::from_millis(1)))
            .expect("polling succeeds");
    }
    client.join().expect("the client received every echo");
    reactor.into_handler()
}

#[test]
fn frames_on_one_connection_allocate_nothing() {
    assert_no_allocation(Config::default(), 1, FRAMES_IN_FLIGHT, FRAMES);
}

#[test]
fn frames_on_64_connections_allocate_nothing() {
    assert_no_allocation(Config::default(), 64, FRAMES_IN_FLIGHT, FRAMES);
}

#[test]
fn single_frames_on_one_connection_allocate_nothing() {
    assert_no_allocation(Config::default(), 1, 1, SINGLE_FRAMES);
}

#[test]
fn single_frames_on_64_connections_allocate_nothing() {
    assert_no_allocation(Config::default(), 64, 1, SINGLE_FRAMES);
}

/// Three timeouts are set, so each read, frame and write records a time.
#[test]
fn timeouts_on_every_frame_allocate_nothing() {
    let mut config = Config::default();
    config.idle_timeout = Some(Duration::from_secs(60));
    config.frame_deadline = Some(Duration::from_secs(60));
    config.write_stall_timeout = Some(Duration::from_secs(60));
    assert_no_allocation(config, 64, FRAMES_IN_FLIGHT, FRAMES);
}

/// An interval timer also fires every millisecond during the test.
#[test]
fn setting_and_cancelling_a_timer_per_frame_allocates_nothing() {
    let echo = Echo {
        with_timers: true,
        ..Echo::default()
    };
    let (mut reactor, streams) = connected(echo, Config::default(), 1);
    reactor.with(|_, cx| cx.set_interval(Duration::from_millis(1), 0));
    let message = frame("u32", &[7; PAYLOAD_LEN]).repeat(FRAMES_IN_FLIGHT);
    let to = WARM_UP + FRAMES;
    let client = client(streams, message, vec![], to / FRAMES_IN_FLIGHT as u64 + 1);
    let count = allocations(&mut reactor, |stats| stats.frames_in, WARM_UP, to);
    assert_eq!(count, 0);
    assert!(
        finish(reactor, client).fired > 0,
        "the interval timer did not fire"
    );
}

/// Every frame is sent in four pieces: it is cut once in the header and twice in the payload.
#[test]
fn partial_frames_allocate_nothing() {
    const CONNS: usize = 64;
    let (mut reactor, streams) = connected(Echo::default(), Config::default(), CONNS);
    fill_pool(&mut reactor, CONNS, 4096);
    let message = frame("u32", &[7; 301]);
    let to = WARM_UP + SINGLE_FRAMES / 2;
    let rounds = to / CONNS as u64 + 2;
    let client = client(streams, message, vec![1, 7, 150], rounds);
    let count = allocations(&mut reactor, |stats| stats.frames_in, WARM_UP, to);
    assert_eq!(count, 0);
    let stats = reactor.stats();
    assert!(
        stats.reads > stats.frames_in,
        "no frame took more than one read: {stats:?}"
    );
    finish(reactor, client);
}

/// The client does not read until the write queue exceeds its high watermark. It then reads until
/// the write queue is drained. The client repeats both steps.
#[test]
fn repeated_watermark_crossings_allocate_nothing() {
    const READ_LEN: usize = 32 * 1024;
    /// Frame length, in bytes. A frame is longer than a read, so a dispatch echoes at most one
    /// frame. Therefore every dispatch needs the same memory for its output.
    const FRAME_LEN: usize = READ_LEN + 1024;
    const STALLS: u64 = FRAMES / 1000;
    let echo = Echo::default();
    let is_above = Arc::clone(&echo.is_above);
    let mut config = Config::default();
    // The pool keeps all buffers of the warm-up, because this test does not cover freeing memory.
    config.pool_bytes_max = 64 << 20;
    (config.read_len_max, config.read_budget_bytes) = (READ_LEN, READ_LEN);
    let (mut reactor, mut streams) = connected(echo, config, 1);
    fill_pool(&mut reactor, 16, 512 * 1024);

    /// Length of the kernel's buffers, in bytes. They are small, so that output stays in the write
    /// queue.
    const KERNEL_LEN: usize = 64 * 1024;
    let conn = reactor.handler().conn.expect("the connection is open");
    reactor
        .with(|_, cx| cx.socket_options(conn)?.set_send_buffer_size(KERNEL_LEN))
        .expect("the option can be set");
    let mut reader = streams.pop().expect("there is one client");
    socket2::SockRef::from(&reader)
        .set_recv_buffer_size(KERNEL_LEN)
        .expect("the option can be set");
    let mut writer = reader.try_clone().expect("a descriptor is free");
    let message = frame("u32", &[7; FRAME_LEN]);
    let sender = thread::spawn({
        let message = message.clone();
        // The writes fail after the receiving thread has shut down the connection.
        move || while writer.write_all(&message).is_ok() {}
    });
    let stalls = Arc::new(AtomicU64::new(0));
    let receiver = thread::spawn({
        let stalls = Arc::clone(&stalls);
        let rounds = STALLS + STALLS / 10 + 1;
        move || {
            let mut echoed = vec![0; message.len()];
            for _ in 0..rounds {
                let deadline = Instant::now() + DEADLINE;
                while !is_above.load(Ordering::Acquire) {
                    assert!(
                        Instant::now() < deadline,
                        "the queue never exceeded its high watermark"
                    );
                    thread::yield_now();
                }
                while is_above.load(Ordering::Acquire) {
                    reader.read_exact(&mut echoed).expect("the server echoes");
                    assert!(echoed == message);
                }
                stalls.fetch_add(1, Ordering::Release);
            }
            reader
                .shutdown(std::net::Shutdown::Both)
                .expect("the connection is open");
        }
    });
    let progress = |_: &Stats| stalls.load(Ordering::Acquire);
    let count = allocations(&mut reactor, progress, STALLS / 10, STALLS / 10 + STALLS);
    assert_eq!(count, 0);
    finish(reactor, receiver);
    sender.join().expect("the sender ends with its connection");
}

#[test]
fn batched_datagrams_allocate_nothing() {
    assert_datagrams_allocate_nothing("127.0.0.1:0", true);
}

#[test]
fn unbatched_datagrams_allocate_nothing() {
    assert_datagrams_allocate_nothing("127.0.0.1:0", false);
}

/// Replies of a socket at a wildcard address carry their source address.
#[test]
fn datagrams_of_a_wildcard_socket_allocate_nothing() {
    assert_datagrams_allocate_nothing("0.0.0.0:0", true);
    assert_datagrams_allocate_nothing("0.0.0.0:0", false);
}

fn assert_datagrams_allocate_nothing(addr: &str, in_batches: bool) {
    const WINDOW: usize = 32;
    let mut config = Config::default();
    config.datagram_batches = in_batches;
    let mut reactor =
        Reactor::with_config(Echo::default(), config).expect("the reactor is created");
    let socket = reactor.bind_udp(addr).expect("a free port is available");
    let addr = reactor
        .local_inet_addr(socket)
        .expect("the socket is bound");
    let addr = SocketAddr::from(([127, 0, 0, 1], addr.port()));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
    // A single reply and several replies in one message use message headers of different layouts.
    // This single reply makes the reactor allocate its headers before the count.
    socket
        .send_to(&[7; PAYLOAD_LEN], addr)
        .expect("the kernel accepts the datagram");
    while reactor.stats().datagrams_out == 0 {
        reactor.turn(None).expect("polling succeeds");
    }
    socket
        .recv(&mut [0; PAYLOAD_LEN])
        .expect("the kernel delivers the reply");
    // The client first sends two windows of datagrams. They make the reactor's send queue grow to
    // the largest number of replies in a turn.
    let window = |socket: &UdpSocket, addr: SocketAddr| {
        for _ in 0..WINDOW {
            socket
                .send_to(&[7; PAYLOAD_LEN], addr)
                .expect("the kernel accepts the datagram");
        }
    };
    window(&socket, addr);
    window(&socket, addr);
    let windows = SINGLE_FRAMES / WINDOW as u64 + 4;
    let client = thread::spawn(move || {
        socket
            .set_read_timeout(Some(DEADLINE))
            .expect("a timeout can be set");
        let mut echoed = [0; 2 * PAYLOAD_LEN];
        for index in 0..windows {
            if index >= 2 {
                window(&socket, addr);
            }
            for _ in 0..WINDOW {
                let len = socket.recv(&mut echoed).expect("every datagram is echoed");
                assert!(echoed[..len] == [7; PAYLOAD_LEN]);
            }
        }
    });
    let from = 3 * WINDOW as u64;
    let count = allocations(
        &mut reactor,
        |stats| stats.datagrams_out,
        from,
        from + SINGLE_FRAMES,
    );
    assert_eq!(count, 0);
    finish(reactor, client);
}

/// A deframer shrinks its buffer slowly, so the buffer of one burst still exists in the next burst.
#[test]
fn repeated_bursts_in_a_deframer_allocate_nothing() {
    const SHORT: usize = 200;
    let long = frame("u32", &[7; 1 << 20]);
    let short = frame("u32", &[7; PAYLOAD_LEN]);
    let mut deframer = Deframer::new(Framing::length_u32());
    let mut burst = || {
        let shorts = std::iter::repeat_n(&short[..], SHORT);
        let mut frames = 0;
        for piece in long.chunks(1460).chain(shorts) {
            deframer.extend(piece);
            while deframer
                .next_frame()
                .expect("every frame is valid")
                .is_some()
            {
                frames += 1;
            }
        }
        assert_eq!(frames, 1 + SHORT);
    };
    burst();
    let counted = allocation_counter::measure(|| (0..100).for_each(|_| burst()));
    assert_eq!(counted.count_total, 0);
}

/// Before the count, frames of 32 bytes to 256 KiB arrive in two pieces each, so the buffer of a
/// partial frame is allocated but never grows. The counted frame arrives in five pieces, so its
/// buffer grows.
#[test]
fn first_growth_of_a_partial_frame_allocates_nothing() {
    const LEN_MAX: usize = 256 * 1024;
    let mut side = ReadSide::new(Framing::length_u32());
    let mut deliver = |message: &[u8], cuts: &[usize]| {
        let mut frames = 0;
        let mut from = 0;
        for to in cuts.iter().copied().chain([message.len()]) {
            while from < to {
                let read = side.read(&message[from..to], |_| {
                    frames += 1;
                    ControlFlow::Continue(())
                });
                from += read.expect("the frame is valid");
            }
        }
        assert_eq!(frames, 1);
    };
    let lens = (5..=LEN_MAX.ilog2()).map(|bits| 1 << bits);
    for message in lens.map(|len| frame("u32", &vec![7; len])) {
        deliver(&message, &[message.len() / 4 * 3]);
    }
    let message = frame("u32", &[7; LEN_MAX]);
    let counted = allocation_counter::measure(|| deliver(&message, &[10, 300, 3000, 30_000]));
    assert_eq!(counted.count_total, 0);
}

/// A stream whose reads return one line each, and whose writes accept all bytes.
struct Steady;

impl Read for Steady {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        buf[..6].copy_from_slice(b"hello\n");
        Ok(6)
    }
}

impl Write for Steady {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn framed_stream_allocates_only_at_first_and_after_shrink() {
    let mut stream = FramedStream::new(Steady, Framing::line());
    for _ in 0..3 {
        for is_first in [true, false] {
            let receive = allocation_counter::measure(|| {
                let frame = stream.receive().expect("the frame is valid");
                assert_eq!(frame, Some(&b"hello"[..]));
            });
            let send = allocation_counter::measure(|| {
                stream
                    .send(b"hello")
                    .expect("the stream accepts every write")
            });
            assert_eq!(receive.count_total > 0, is_first);
            assert_eq!(send.count_total > 0, is_first);
        }
        stream.shrink_to_fit();
    }
}
