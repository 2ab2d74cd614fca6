//! Tests of the whole reactor over simulated sockets. This file tests the results of reads, stale
//! events and the reuse of ids.

mod connects;
mod dispatch;
mod filter;
mod memory;
mod prepare;
mod reads;
mod shutdown;
mod sim_datagrams;
mod sim_world;
#[cfg(feature = "tls")]
mod tls_cuts;
#[cfg(feature = "tls")]
mod tls_peer;
#[cfg(feature = "tls")]
mod tls_writes;
pub(super) mod transport;
mod writes;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::codec::Skipped;
use crate::conn::State;
use crate::engine::Accepted;
use crate::error::{SendError, Sent};
use crate::event::Hangup;
use crate::event::{CloseReason, Closed};
use crate::os::sim::{ReadResult, Ready, Script, World, WriteResult};
use crate::os::{ListenOptions, Stream};
use transport::{Peer, Transport, Wire, on_all_transports};

type Act = Box<dyn FnOnce(&mut Context<'_, Recorder>)>;

/// A handler that echoes frames and records its callbacks.
#[derive(Default)]
struct Recorder {
    frames: Vec<Vec<u8>>,
    half_closes: usize,
    closes: Vec<(ConnId, Closed)>,
    /// Function to call at the next frame instead of the echo.
    at_frame: Option<Act>,
    /// Function to call at the next skipped frame.
    at_skip: Option<Act>,
    /// Function to call at the next `on_drained`.
    at_drained: Option<Act>,
    drains: usize,
    hangups: Vec<Hangup>,
    /// True if frames are not echoed.
    is_silent: bool,
}

impl Handler for Recorder {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        self.frames.push(frame.to_vec());
        match self.at_frame.take() {
            Some(act) => act(cx),
            None if self.is_silent => {}
            None => {
                let _ = cx.send(conn, frame);
            }
        }
    }

    fn on_skipped(&mut self, cx: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: Skipped) {
        self.at_skip.take().into_iter().for_each(|act| act(cx));
    }

    fn on_drained(&mut self, cx: &mut Context<'_, Self>, _: ConnId, _: &mut ()) {
        self.drains += 1;
        self.at_drained.take().into_iter().for_each(|act| act(cx));
    }

    fn on_hangup(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), hangup: Hangup) {
        self.hangups.push(hangup);
    }

    fn on_half_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut ()) {
        self.half_closes += 1;
        cx.close(conn);
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: (), closed: Closed) {
        self.closes.push((conn, closed));
    }
}

fn reactor() -> Reactor<Recorder> {
    reactor_with(Config::default())
}

/// Returns a reactor on the current simulated world.
fn reactor_with(config: Config) -> Reactor<Recorder> {
    let os = World::current().os();
    Reactor::with_os(Recorder::default(), config, os).expect("the reactor opens")
}

/// Opens a connection whose reads and writes have the results of `script`.
fn open(reactor: &mut Reactor<Recorder>, script: impl Into<Script>, framing: Framing) -> ConnId {
    let script = script.into();
    let peer = SocketAddr::from(([127, 0, 0, 1], 1)).into();
    match reactor.engine.admit(script.stream(), peer, framing) {
        Accepted::Conn(conn) => {
            reactor.sessions.put(conn.0.key(), ());
            conn
        }
        refused => panic!("the connection was not admitted: {refused:?}"),
    }
}

/// Returns an address with port 0.
fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn state(reactor: &Reactor<Recorder>, conn: ConnId) -> State {
    reactor
        .engine
        .conn(conn.0)
        .expect("the connection is open")
        .state
}

/// Injects an event of a connection, and runs the turn that handles it.
fn event(reactor: &mut Reactor<Recorder>, conn: ConnId, ready: Ready) {
    inject_event(reactor, conn, ready);
    turn(reactor);
}

/// Injects an event of a connection, which the next turn handles.
fn inject_event(reactor: &Reactor<Recorder>, conn: ConnId, ready: Ready) {
    let entry = reactor.engine.conn(conn.0).expect("the connection is open");
    let Stream::Sim(socket) = &entry.socket else {
        panic!("the socket is not simulated: {:?}", entry.socket);
    };
    assert!(socket.inject(ready), "the socket is registered");
}

fn turn<H: Handler>(reactor: &mut Reactor<H>) {
    reactor
        .turn(Some(Duration::ZERO))
        .expect("the poll succeeds");
}

fn only_close(reactor: &Reactor<Recorder>) -> &Closed {
    let closes = &reactor.handler.closes;
    assert_eq!(
        closes.len(),
        1,
        "the number of closed connections is not 1: {closes:?}"
    );
    &closes[0].1
}

fn assert_io(closed: &Closed, kind: ErrorKind) {
    assert!(
        matches!(&closed.reason, CloseReason::Io(error) if error.kind() == kind),
        "the connection was not closed with {kind}: {closed:?}"
    );
}

fn bytes(bytes: &[u8]) -> ReadResult {
    ReadResult::Bytes(bytes.to_vec())
}

// Reading.

fn interrupted_and_blocked_reads_give_the_same_frames(transport: Transport) {
    let stream = b"\x00\x01a\x02bc\x05defgh";
    for piece in 1..=stream.len() {
        let mut reactor = transport.reactor();
        let script = transport.script();
        let conn = open(&mut reactor, script, Framing::length_u8());
        for piece in stream.chunks(piece) {
            script.then_read([
                ReadResult::Fails(ErrorKind::Interrupted),
                bytes(piece),
                ReadResult::Fails(ErrorKind::Interrupted),
                ReadResult::Fails(ErrorKind::WouldBlock),
            ]);
            // The second event is spurious and finds no byte.
            event(&mut reactor, conn, Ready::READABLE);
            event(&mut reactor, conn, Ready::READABLE);
        }
        let frames = &reactor.handler.frames;
        assert_eq!(frames, &[&b""[..], b"a", b"bc", b"defgh"]);
        assert_eq!(script.calls().written, stream, "each frame is echoed");
    }
}

fn read_that_would_block_clears_readiness(transport: Transport) {
    let mut reactor = transport.reactor();
    let script = transport.script();
    let conn = open(&mut reactor, script, Framing::raw());
    event(&mut reactor, conn, Ready::READABLE | Ready::ENDED);
    assert!(!state(&reactor, conn).is_readable());
    for _ in 0..3 {
        turn(&mut reactor);
    }
    assert_eq!(script.calls().reads, 1, "no read without an event");
}

/// Runs only over the plain transport, because a filter reads until `WouldBlock`.
#[test]
fn short_read_after_an_end_event_is_followed_by_a_read() {
    let mut reactor = reactor();
    let script = Script::new();
    let conn = open(&mut reactor, script, Framing::raw());
    script.then_read([bytes(b"data")]);
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!(script.calls().reads, 1);
    assert!(!state(&reactor, conn).is_readable());

    script.then_read([bytes(b"last"), ReadResult::End]);
    event(&mut reactor, conn, Ready::READABLE | Ready::ENDED);
    assert_eq!(
        script.calls().reads,
        3,
        "no separate event reports the end of the stream"
    );
    assert_eq!(reactor.handler.frames, [b"data", b"last"]);
    assert_eq!(reactor.handler.half_closes, 1);
    assert!(matches!(only_close(&reactor).reason, CloseReason::Peer));
    assert!(script.calls().is_shut_down, "the FIN was sent");
}

/// The socket may have more bytes after a read that filled the buffer.
#[test]
fn full_read_is_followed_by_another() {
    let config = Config {
        read_len_max: 4,
        ..Config::default()
    };
    let mut reactor = reactor_with(config);
    let script = Script::new();
    let conn = open(&mut reactor, script, Framing::raw());
    script.then_read([bytes(b"data")]);
    event(&mut reactor, conn, Ready::READABLE);
    assert_eq!(script.calls().reads, 2);
}

fn failed_read_delivers_earlier_frames_and_closes_once(transport: Transport) {
    let mut reactor = transport.reactor();
    let script = transport.script();
    script.then_read([
        bytes(b"\x01a\x02b"),
        ReadResult::Fails(ErrorKind::ConnectionReset),
    ]);
    let conn = open(&mut reactor, script, Framing::length_u8());
    event(&mut reactor, conn, Ready::READABLE | Ready::ENDED);
    turn(&mut reactor);
    assert_eq!(reactor.handler.frames, [b"a"]);
    let closed = only_close(&reactor);
    assert_io(closed, ErrorKind::ConnectionReset);
    assert_eq!((closed.undecoded_bytes, closed.unsent_bytes), (2, 2));
}

/// The first read of a dispatch counts in the budget too. No read is longer than the remaining
/// budget.
fn reads_of_a_turn_stay_within_read_budget_bytes(transport: Transport) {
    for read_len_max in [4, 16] {
        let config = Config {
            read_len_max,
            read_budget_bytes: 8,
            ..Config::default()
        };
        let mut reactor = transport.reactor_with(config);
        let script = transport.script();
        script.then_read([bytes(&[7; 3]), bytes(&[7; 17])]);
        let conn = open(&mut reactor, script, Framing::fixed(1));
        // The event reports an end, so another read follows a short read.
        event(&mut reactor, conn, Ready::READABLE | Ready::ENDED);
        for frames in [8, 16, 20] {
            assert_eq!(reactor.handler.frames.len(), frames);
            turn(&mut reactor);
        }
    }
}

/// The second read must not go through the shared read buffer, so `moved_bytes` does not change.
#[test]
fn rest_of_a_long_frame_is_read_into_its_own_buffer() {
    let mut reactor = reactor();
    let script = Script::new();
    let stream = [&60_000_u32.to_be_bytes()[..], &[7; 60_000]].concat();
    let (head, rest) = stream.split_at(40_000);
    let conn = open(&mut reactor, script, Framing::length_u32());
    for piece in [head, rest] {
        script.then_read([bytes(piece)]);
        event(&mut reactor, conn, Ready::READABLE);
        assert_eq!(reactor.engine.memory.pool.moved_bytes, 40_000);
    }
    assert_eq!(reactor.handler.frames, [[7; 60_000]]);
}

/// The kernel reports an error once, so a second read would only report the end of the stream.
fn failed_first_read_closes_with_its_error(transport: Transport) {
    let mut reactor = transport.reactor();
    let script = transport.script();
    script.then_read([
        ReadResult::Fails(ErrorKind::ConnectionReset),
        ReadResult::End,
    ]);
    let conn = open(&mut reactor, script, Framing::raw());
    event(&mut reactor, conn, Ready::READABLE | Ready::ENDED);
    assert_io(only_close(&reactor), ErrorKind::ConnectionReset);
    assert_eq!(script.calls().reads, 1);
    assert_eq!(reactor.handler.half_closes, 0);
}

// Stale events and ids.

/// A stray socket is registered with the poll token of a connection. The connection closes, and its
/// key is reused. The next event of the stray socket then has the old generation.
#[cfg(target_pointer_width = "64")]
fn stale_event_does_not_reach_a_reused_key(transport: Transport) {
    use crate::os::ConnectOptions;

    let mut reactor = transport.reactor();
    let first = open(&mut reactor, transport.script(), Framing::raw());
    let listener = World::current().listen(any());
    let os = &reactor.engine.os;
    let stray = os.connect(&listener.local_addr(), &ConnectOptions::new());
    let mut stray = stray.expect("the connect begins");
    stray
        .register(os, first.0.to_poll())
        .expect("the connection is open");
    reactor.with(|_, cx| cx.abort(first));
    turn(&mut reactor);
    only_close(&reactor);

    let script = transport.script();
    let second = open(&mut reactor, script, Framing::raw());
    assert_eq!(
        first.0.key(),
        second.0.key(),
        "a slab uses the last freed key first"
    );
    let before = reactor.stats().events;
    listener.close();
    reactor
        .turn(Some(Duration::from_secs(60)))
        .expect("the poll succeeds");
    assert!(reactor.stats().events > before, "the stray socket is reset");
    assert_eq!(script.calls().reads, 0);
    assert!(!state(&reactor, second).is_readable());
    stray.close(&reactor.engine.os);
}

/// One key is reused while the generation counter wraps. No old id may reach a later connection.
fn ids_stay_distinct_when_generations_wrap(transport: Transport) {
    use std::num::NonZeroU32;

    let mut reactor = transport.reactor();
    let nearly_all = NonZeroU32::new(u32::MAX - 1).expect("the number is not zero");
    reactor.engine.entries.set_next_generation(nearly_all);
    let mut earlier: Vec<ConnId> = Vec::new();
    for number in 0..6_u8 {
        let script = transport.script();
        let conn = open(&mut reactor, script, Framing::raw());
        assert_eq!(conn.0.key(), 0, "a slab uses the last freed key first");
        for earlier in &earlier {
            assert_ne!(conn, *earlier);
            // On 32-bit systems the poll gets only the key.
            #[cfg(target_pointer_width = "64")]
            assert_ne!(conn.0.to_poll(), earlier.0.to_poll());
            reactor.engine.queue(earlier.0);
            assert!(reactor.engine.entries.get(earlier.0).is_err());
            reactor.with(|_, cx| {
                assert!(matches!(cx.send(*earlier, b"stale"), Err(SendError::Gone)));
                cx.abort(*earlier);
                assert!(cx.pause(*earlier).is_err());
            });
        }
        turn(&mut reactor);
        assert_eq!(script.calls().reads, 0, "a stale id causes no read");
        script.then_read([bytes(&[number])]);
        event(&mut reactor, conn, Ready::READABLE);
        assert_eq!(script.calls().written, [number]);
        reactor.with(|_, cx| cx.abort(conn));
        turn(&mut reactor);
        assert_eq!(reactor.handler.closes.len(), usize::from(number) + 1);
        earlier.push(conn);
    }
    let frames = reactor.handler.frames.concat();
    assert_eq!(frames, [0, 1, 2, 3, 4, 5]);
    let wrapped = NonZeroU32::new(4).expect("the number is not zero");
    assert!(earlier[5].0.is_of(wrapped), "{:?}", earlier[5]);
}

/// Two connections are ready in one turn. The first connection aborts the second one, and opens a
/// third one.
fn slab_key_is_not_reused_within_a_turn(transport: Transport) {
    let mut reactor = transport.reactor();
    let script = transport.script();
    script.then_read([bytes(b"first")]);
    let first = open(&mut reactor, script, Framing::raw());
    let second_script = transport.script();
    second_script.then_read([bytes(b"second")]);
    let second = open(&mut reactor, second_script, Framing::raw());
    assert_eq!((first.0.key(), second.0.key()), (0, 1));
    reactor.handler.at_frame = Some(Box::new(move |cx| {
        cx.abort(second);
        let nowhere: &[SocketAddr] = &[];
        let third = cx.connect(nowhere, Framing::raw(), ());
        assert_eq!(
            third.0.key(),
            2,
            "the key of the second connection is not free yet"
        );
    }));
    inject_event(&reactor, first, Ready::READABLE);
    inject_event(&reactor, second, Ready::READABLE);
    turn(&mut reactor);
    assert_eq!(second_script.calls().reads, 0);
    assert_eq!(reactor.handler.frames, [b"first"]);
    let closed: Vec<_> = reactor
        .handler
        .closes
        .iter()
        .map(|(conn, _)| conn.0.key())
        .collect();
    assert_eq!(closed, [1, 2]);
}

fn stale_token_enters_no_queue(transport: Transport) {
    let mut reactor = transport.reactor();
    let earlier = open(&mut reactor, transport.script(), Framing::raw());
    reactor.with(|_, cx| cx.abort(earlier));
    turn(&mut reactor);
    let later = open(&mut reactor, transport.script(), Framing::raw());
    assert_eq!(earlier.0.key(), later.0.key());
    reactor.engine.queue(earlier.0);
    reactor.engine.flush_later(earlier.0);
    assert!(!reactor.engine.queues.have_work());
    assert!(!state(&reactor, later).is_in_a_queue());
}

/// The listener accepts no connection and its backlog is full, so the connect stays in progress.
fn connecting_connection_is_not_read(transport: Transport) {
    let world = World::current();
    let one = ListenOptions::new().backlog(0);
    let addr = world.listen_with(any(), &one).local_addr();
    assert!(world.connect(addr.clone()).is_connected());
    let mut reactor = transport.reactor();
    let conn = reactor.connect(addr, Framing::raw(), ());
    inject_event(&reactor, conn, Ready::READABLE);
    turn(&mut reactor);
    assert!(state(&reactor, conn).is_connecting());
    assert_eq!(reactor.stats().reads, 0);
}

/// Runs only over the plain transport, because the filter of a connection is kept after the
/// connect.
#[test]
fn open_connection_keeps_no_connect_state() {
    let addr = World::current().listen(any()).local_addr();
    let mut reactor = reactor();
    let conn = reactor.connect(addr, Framing::raw(), ());
    assert!(
        reactor.next_turn_in().is_some(),
        "the connect deadline is set"
    );
    while reactor.stats().connected == 0 {
        reactor
            .turn(Some(Duration::from_secs(60)))
            .expect("the poll succeeds");
    }
    let open = reactor.engine.conn(conn.0).expect("the connection is open");
    assert!(
        open.extras_ref().is_none(),
        "the open connection keeps extra state: {open:?}"
    );
    assert_eq!(
        reactor.next_turn_in(),
        None,
        "no deadline is set after the connect"
    );
}

/// A closed datagram socket stays until the kernel takes its queue, but only until the shutdown
/// deadline.
#[test]
fn shutdown_deadline_drops_and_counts_queued_datagrams() {
    let mut reactor = reactor();
    let udp = reactor.bind_udp("127.0.0.1:0").expect("port 0 is free");
    let to = reactor.local_inet_addr(udp).expect("the socket is bound");
    turn(&mut reactor);
    // The state after a send that would block.
    let entry = reactor
        .engine
        .entries
        .udp_mut(udp)
        .expect("the socket is open");
    entry.state.write_would_block();
    reactor.with(|_, cx| {
        for data in [b"one", b"two"] {
            cx.send_to(udp, to, data).expect("the queue has space");
        }
        cx.close_udp(udp);
    });
    turn(&mut reactor);
    assert!(reactor.stats().held_bytes > 0 && !reactor.engine.entries.is_empty());
    reactor.engine.shutdown_deadline_passed();
    turn(&mut reactor);
    let stats = reactor.stats();
    assert_eq!((stats.datagrams_dropped, stats.held_bytes), (2, 0));
    assert!(reactor.engine.entries.is_empty());
}

// Panics.

/// Covers two cases: a read completes a partial frame, or a later turn continues with undelivered
/// bytes.
fn panic_in_on_frame_returns_buffers_to_the_pool(transport: Transport) {
    let cut = (&b"\x02o"[..], Some(bytes(b"n\x02tw\x02th")));
    let stopped = (&b"\x02on\x02tw\x02th"[..], None);
    for ((first, second), delivered) in [(cut, 0), (stopped, 1)] {
        let config = Config {
            frame_budget: 1,
            ..Config::default()
        };
        let mut reactor = transport.reactor_with(config);
        let script = transport.script();
        script.then_read([bytes(first)]);
        let conn = open(&mut reactor, script, Framing::length_u8());
        event(&mut reactor, conn, Ready::READABLE);
        assert_eq!(reactor.handler.frames.len(), delivered);
        assert_eq!(
            reactor.stats().held_bytes,
            64,
            "the undelivered bytes use a buffer"
        );
        script.then_read(second);
        inject_event(&reactor, conn, Ready::READABLE);
        assert_eq!(reactor.engine.memory.pool.free_bytes(), 0);
        reactor.handler.at_frame = Some(Box::new(|_| panic!("panic of the handler")));
        let panic = catch_unwind(AssertUnwindSafe(|| turn(&mut reactor)));
        panic.expect_err("on_frame panics");

        assert_eq!(reactor.stats().held_bytes, 0);
        assert_eq!(
            reactor.engine.memory.pool.free_bytes(),
            64,
            "the buffer is in the pool again"
        );
        turn(&mut reactor);
        let closed = only_close(&reactor);
        assert!(matches!(closed.reason, CloseReason::HandlerPanicked));
        assert_eq!(closed.stats.frames_in, delivered as u64);
        assert_eq!(reactor.stats().connections, 0);
    }
}

on_all_transports! {
    #[cfg(target_pointer_width = "64")] stale_event_does_not_reach_a_reused_key,
    stale_token_enters_no_queue,
    interrupted_and_blocked_reads_give_the_same_frames,
    read_that_would_block_clears_readiness,
    failed_read_delivers_earlier_frames_and_closes_once,
    failed_first_read_closes_with_its_error,
    ids_stay_distinct_when_generations_wrap,
    slab_key_is_not_reused_within_a_turn,
    connecting_connection_is_not_read;
    not over TLS:
    panic_in_on_frame_returns_buffers_to_the_pool,
    reads_of_a_turn_stay_within_read_budget_bytes,
}
