//! The memory budget that all connections share (`Config::memory_bytes_max`): pausing at the
//! budget, resuming below it, and, at the deadline, aborting the connection that uses the most
//! memory.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::read_slowly;
use common::{DEADLINE, Event, Probe, deposit, drive, frame, idle, listening, open, open_narrow};
use unstick::{CloseReason, Config, ConnId, Framing, Reactor, SendError, UdpId};

const MEMORY_MAX: usize = 1 << 20;
const FRAME_LEN: usize = 600_000;

fn config(deadline: Duration) -> Config {
    let mut config = Config::default();
    config.read_len_max = 64 * 1024;
    config.memory_bytes_max = MEMORY_MAX;
    config.memory_deadline = deadline;
    config
}

fn u32_listening(probe: Probe, deadline: Duration) -> (Reactor<Probe>, SocketAddr) {
    listening(probe, config(deadline), Framing::length_u32())
}

fn held(reactor: &Reactor<Probe>) -> usize {
    reactor.stats().held_bytes
}

fn frame_lens(reactor: &Reactor<Probe>) -> Vec<usize> {
    let frames = reactor.handler().frames().into_iter();
    frames.map(<[u8]>::len).collect()
}

/// Sends a long frame without its last byte, but stops when the memory budget is used up.
fn send_partial_frame(reactor: &mut Reactor<Probe>, client: &mut TcpStream) {
    let mut bytes = frame("u32", &vec![7; FRAME_LEN]);
    bytes.pop();
    client
        .set_nonblocking(true)
        .expect("non-blocking mode can be set");
    let mut rest = &bytes[..];
    while !rest.is_empty() && held(reactor) < MEMORY_MAX {
        if let Ok(len) = client.write(rest) {
            rest = &rest[len..];
        }
        reactor
            .turn(Some(Duration::ZERO))
            .expect("polling succeeds");
    }
    idle(reactor);
    client
        .set_nonblocking(false)
        .expect("non-blocking mode can be set");
}

/// Sends output to a peer that does not read, until the memory budget is used up. Returns the
/// number of bytes sent, headers included.
fn fill_with_output(reactor: &mut Reactor<Probe>, conn: ConnId) -> usize {
    let mut sent = 0;
    while held(reactor) < MEMORY_MAX {
        let queued = reactor.with(|_, cx| cx.send(conn, &[7; 9996]));
        let _ = queued.expect("the write queue has space");
        sent += 10_000;
        reactor
            .turn(Some(Duration::ZERO))
            .expect("polling succeeds");
    }
    sent
}

fn closed_for_memory(reactor: &Reactor<Probe>) -> Vec<ConnId> {
    let closes = reactor.handler().closes().into_iter();
    closes
        .filter(|(_, closed)| matches!(closed.reason, CloseReason::MemoryFull))
        .map(|(conn, _)| conn)
        .collect()
}

/// Two partial frames use up the budget together. Their connections are then not read, so neither
/// frame can be completed.
#[test]
fn memory_deadline_frees_stuck_partial_frames() {
    let (mut reactor, addr) = u32_listening(Probe::silent(), Duration::from_millis(300));
    let (mut first, first_conn) = open(&mut reactor, addr);
    let (mut second, second_conn) = open(&mut reactor, addr);
    let (mut third, third_conn) = open(&mut reactor, addr);
    send_partial_frame(&mut reactor, &mut first);
    send_partial_frame(&mut reactor, &mut second);
    assert!(held(&reactor) >= MEMORY_MAX);
    deposit(
        &mut reactor,
        &mut third,
        third_conn,
        &frame("u32", b"short"),
    );
    for _ in 0..5 {
        reactor
            .turn(Some(Duration::ZERO))
            .expect("polling succeeds");
    }
    assert_eq!(
        frame_lens(&reactor),
        [0; 0],
        "a connection was read while the memory budget was used up"
    );

    drive(&mut reactor, |reactor| frame_lens(reactor) == [5]);
    let shed = closed_for_memory(&reactor);
    assert!(shed == [first_conn] || shed == [second_conn], "{shed:?}");
    assert!(held(&reactor) < MEMORY_MAX);
}

#[test]
fn memory_deadline_aborts_only_the_largest_holder() {
    let (mut reactor, addr) = u32_listening(Probe::silent(), Duration::from_millis(100));
    let (mut small, small_conn) = open(&mut reactor, addr);
    let (_idle, idle_conn) = open(&mut reactor, addr);
    let (_large, large_conn) = open_narrow(&mut reactor, addr);
    deposit(
        &mut reactor,
        &mut small,
        small_conn,
        &frame("u32", &[1; 1000])[..900],
    );
    idle(&mut reactor);
    let sent = fill_with_output(&mut reactor, large_conn);
    deposit(&mut reactor, &mut small, small_conn, &[1; 104]);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    assert_eq!(closed_for_memory(&reactor), [large_conn]);
    let (_, closed) = reactor.handler().closes()[0];
    assert_eq!(
        closed.unsent_bytes + closed.stats.written_bytes,
        sent as u64
    );
    drive(&mut reactor, |reactor| frame_lens(reactor) == [1000]);
    let sent = reactor.with(|_, cx| cx.send(idle_conn, b"it lives"));
    assert!(sent.is_ok(), "{sent:?}");
    idle(&mut reactor);
    assert_eq!(held(&reactor), 0);
}

#[test]
fn memory_pauses_are_resumed_in_order() {
    let (mut reactor, addr) = u32_listening(Probe::silent(), DEADLINE);
    let (mut slow, slow_conn) = open_narrow(&mut reactor, addr);
    let mut others: Vec<_> = (0..5).map(|_| open(&mut reactor, addr)).collect();
    let sent = fill_with_output(&mut reactor, slow_conn);
    for index in [3, 0, 4, 1, 2] {
        let (client, conn) = &mut others[index];
        deposit(&mut reactor, client, *conn, &frame("u32", &vec![1; index]));
        idle(&mut reactor);
    }
    let reads = reactor.stats().reads;
    idle(&mut reactor);
    assert_eq!(
        (frame_lens(&reactor).len(), reactor.stats().reads),
        (0, reads)
    );
    read_slowly(&mut reactor, &mut slow, sent);
    idle(&mut reactor);
    assert_eq!(frame_lens(&reactor), [3, 0, 4, 1, 2]);
    assert_eq!(closed_for_memory(&reactor), []);
    assert_eq!(held(&reactor), 0);
}

/// Reading resumes only when less than seven eighths of the budget is used.
#[test]
fn memory_pause_ends_below_seven_eighths() {
    let (mut reactor, addr) = u32_listening(Probe::silent(), DEADLINE);
    let (mut slow, slow_conn) = open_narrow(&mut reactor, addr);
    let (mut other, other_conn) = open(&mut reactor, addr);
    fill_with_output(&mut reactor, slow_conn);
    deposit(
        &mut reactor,
        &mut other,
        other_conn,
        &frame("u32", b"short"),
    );
    idle(&mut reactor);
    let mut lowest = MEMORY_MAX;
    while frame_lens(&reactor).is_empty() {
        lowest = lowest.min(held(&reactor));
        read_slowly(&mut reactor, &mut slow, 10_000);
    }
    assert!(
        lowest < MEMORY_MAX - 30_000,
        "no sample of the memory usage is well below the budget; the lowest is {lowest} bytes"
    );
    assert!(held(&reactor) < MEMORY_MAX / 8 * 7);
}

fn drained(reactor: &Reactor<Probe>) -> Vec<ConnId> {
    let events = reactor.handler().events.iter();
    events
        .filter_map(|event| match event {
            Event::Drained(conn) => Some(*conn),
            _ => None,
        })
        .collect()
}

#[test]
fn send_at_the_memory_budget_is_refused() {
    let (mut reactor, addr) = u32_listening(Probe::silent(), DEADLINE);
    let (mut slow, slow_conn) = open_narrow(&mut reactor, addr);
    let (mut other, other_conn) = open(&mut reactor, addr);
    let sent = fill_with_output(&mut reactor, slow_conn);
    let (_owned, owned_conn) = open(&mut reactor, addr);
    for _ in 0..3 {
        let refused = reactor.with(|_, cx| cx.send(other_conn, b"refused"));
        assert!(matches!(refused, Err(SendError::Full)), "{refused:?}");
        let refused = reactor.with(|_, cx| cx.send_owned(owned_conn, vec![7; 100_000]));
        let refused = refused.map_err(|refused| refused.error);
        assert!(matches!(refused, Err(SendError::Full)), "{refused:?}");
        idle(&mut reactor);
    }
    assert_eq!(drained(&reactor), []);
    read_slowly(&mut reactor, &mut slow, sent);
    idle(&mut reactor);
    for refused in [other_conn, owned_conn] {
        let drained = drained(&reactor).into_iter();
        assert_eq!(drained.filter(|conn| *conn == refused).count(), 1);
    }
    let _ = reactor
        .with(|_, cx| cx.send(other_conn, b"taken"))
        .expect("the write queue has space");
    idle(&mut reactor);
    assert_eq!(common::read_u32_frame(&mut other), b"taken");
}

/// After a send failed during the connect, `on_drained` must not be called before `on_open`.
#[test]
fn on_drained_for_memory_waits_for_on_open() {
    let (mut reactor, addr) = u32_listening(Probe::silent(), DEADLINE);
    let (_slow, slow_conn) = open_narrow(&mut reactor, addr);
    fill_with_output(&mut reactor, slow_conn);
    let (_held, silent) = common::silent();
    let conns = [silent, addr].map(|to| reactor.connect(to, Framing::length_u32(), ()));
    reactor.with(|_, cx| {
        for conn in conns {
            let refused = cx.send(conn, b"refused");
            assert!(matches!(refused, Err(SendError::Full)), "{refused:?}");
        }
        cx.abort(slow_conn);
    });
    idle(&mut reactor);
    assert_eq!(drained(&reactor), [conns[1]]);
    let is_its_own = |event: &&Event| match event {
        Event::Open(conn, _) | Event::Drained(conn) => *conn == conns[1],
        _ => false,
    };
    let first = reactor.handler().events.iter().find(is_its_own);
    assert!(matches!(first, Some(Event::Open(..))), "{first:?}");
}

#[test]
fn memory_budget_includes_queued_datagrams() {
    let (mut reactor, addr) = u32_listening(Probe::silent(), DEADLINE);
    let (_slow, conn) = open_narrow(&mut reactor, addr);
    let udp: UdpId = reactor
        .bind_udp("127.0.0.1:0")
        .expect("a free port is available");
    let to = reactor.local_inet_addr(udp).expect("the socket is bound");
    reactor.with(|_, cx| {
        cx.send_to(udp, to, &[1; 1000])
            .expect("the datagram queue has space");
        assert_eq!(cx.stats().held_bytes, 1064);
    });
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 1);
    assert_eq!(held(&reactor), 0);
    fill_with_output(&mut reactor, conn);
    let refused = reactor.with(|_, cx| cx.send_to(udp, to, b"refused"));
    assert!(matches!(refused, Err(SendError::Full)), "{refused:?}");
    let before = held(&reactor);
    reactor.with(|_, cx| cx.close_udp(udp));
    idle(&mut reactor);
    assert_eq!(held(&reactor), before);
}

/// Closing a connection frees memory, so a close must work while the budget is used up.
#[test]
fn close_works_at_the_memory_budget() {
    let (mut reactor, addr) = u32_listening(Probe::silent(), DEADLINE);
    let (mut slow, conn) = open_narrow(&mut reactor, addr);
    let sent = fill_with_output(&mut reactor, conn);
    reactor.with(|_, cx| cx.close(conn));
    slow.write_all(&[0; 100_000]).expect("the write succeeds");
    let bytes = read_slowly(&mut reactor, &mut slow, sent);
    assert_eq!(bytes.len(), sent);
    drop(slow);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let (_, closed) = reactor.handler().closes()[0];
    assert!(matches!(closed.reason, CloseReason::Local), "{closed:?}");
    assert_eq!((closed.unsent_bytes, held(&reactor)), (0, 0));
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn reset_is_reported_at_the_memory_budget() {
    use common::reset;
    use unstick::Hangup;
    for sent in [&b""[..], &frame("u32", b"short")] {
        let (mut reactor, addr) = u32_listening(Probe::silent(), DEADLINE);
        let (_slow, slow_conn) = open_narrow(&mut reactor, addr);
        let (mut other, other_conn) = open(&mut reactor, addr);
        fill_with_output(&mut reactor, slow_conn);
        deposit(&mut reactor, &mut other, other_conn, sent);
        reset(other);
        let is_reset = |event: &Event| matches!(event, Event::Hangup(_, Hangup::Reset));
        if sent.is_empty() {
            drive(&mut reactor, |reactor| reactor.stats().closed == 1);
        } else {
            drive(&mut reactor, |reactor| {
                reactor.handler().count(is_reset) == 1
            });
            assert_eq!(
                reactor.stats().closed,
                0,
                "the connection stays open until its unread frame is delivered"
            );
        }
    }
}

#[test]
fn frame_deadline_stops_while_paused_for_memory() {
    // On a slow machine, the first deadline may pass before the memory is used up. The test then
    // tries a longer deadline.
    let timeouts = [200, 2_000, 20_000].map(Duration::from_millis);
    assert!(timeouts.into_iter().any(frame_outlives_its_deadline));
}

/// Returns false if the frame deadline passed before the memory was used up. Otherwise checks that
/// the connection survives its frame deadline while it is paused for memory, and returns true.
fn frame_outlives_its_deadline(timeout: Duration) -> bool {
    let mut config = config(DEADLINE);
    config.frame_deadline = Some(timeout);
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::length_u32());
    let (mut slow, slow_conn) = open_narrow(&mut reactor, addr);
    let (mut other, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut other, conn, &frame("u32", b"short")[..5]);
    idle(&mut reactor);
    let sent = fill_with_output(&mut reactor, slow_conn);
    if reactor.stats().closed > 0 {
        return false;
    }
    deposit(&mut reactor, &mut other, conn, b"hort");
    let end = std::time::Instant::now() + 3 * timeout;
    drive(&mut reactor, |_| std::time::Instant::now() > end);
    assert_eq!(reactor.stats().closed, 0);
    read_slowly(&mut reactor, &mut slow, sent);
    drive(&mut reactor, |reactor| frame_lens(reactor) == [5]);
    true
}

/// A panic drops the buffers of its connection, so `held_bytes` must no longer count them.
#[test]
fn memory_dropped_by_a_panic_is_not_counted() {
    let probe = Probe::new(|_, event| {
        assert!(!matches!(event, Event::Frame(_, frame) if frame == b"panic"));
    });
    let (mut reactor, addr) = u32_listening(probe, DEADLINE);
    let (mut client, conn) = open(&mut reactor, addr);
    let (mut other, other_conn) = open(&mut reactor, addr);
    deposit(
        &mut reactor,
        &mut other,
        other_conn,
        &frame("u32", &[1; 100])[..50],
    );
    // The frame arrives in two parts, so it is delivered from the connection's own buffer.
    deposit(
        &mut reactor,
        &mut client,
        conn,
        &frame("u32", b"panic")[..6],
    );
    idle(&mut reactor);
    let kept = held(&reactor);
    deposit(&mut reactor, &mut client, conn, b"nic");
    let turn = || reactor.turn(Some(DEADLINE));
    catch_unwind(AssertUnwindSafe(turn)).expect_err("the handler panics");
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    assert!(kept > held(&reactor) && held(&reactor) > 0);
    drop(other);
    drive(&mut reactor, |reactor| reactor.stats().closed == 2);
    assert_eq!(held(&reactor), 0);
}

/// Forty peers request echoes and read nothing. Together their queues stay below twice the memory
/// budget, and a peer that reads still gets its echo.
#[test]
fn slow_readers_together_keep_the_memory_budget() {
    let mut config = config(Duration::from_millis(50));
    config.read_len_max = 16 * 1024;
    let (mut reactor, addr) = listening(Probe::echo(), config, Framing::length_u32());
    let mut clients: Vec<_> = (0..40)
        .map(|_| {
            let (client, _) = open_narrow(&mut reactor, addr);
            client
                .set_nonblocking(true)
                .expect("non-blocking mode can be set");
            client
        })
        .collect();
    let request = frame("u32", &[7; 8000]);
    let mut highest = 0;
    for _ in 0..200 {
        for client in &mut clients {
            // After a short write, the client does not send the other bytes of the frame. Later
            // frames can then be invalid, which does not affect this test.
            let _ = client.write(&request);
        }
        reactor
            .turn(Some(Duration::ZERO))
            .expect("polling succeeds");
        highest = highest.max(held(&reactor));
    }
    assert!(
        highest >= MEMORY_MAX,
        "the budget was never reached: {highest} bytes"
    );
    assert!(
        highest < 2 * MEMORY_MAX,
        "{highest} bytes exceed twice the budget"
    );
    let (mut reader, _) = open(&mut reactor, addr);
    reader
        .write_all(&frame("u32", b"hello"))
        .expect("the write succeeds");
    reader
        .set_nonblocking(true)
        .expect("non-blocking mode can be set");
    let mut answer = [0; 9];
    drive(&mut reactor, |_| reader.read(&mut answer).is_ok());
    assert_eq!(answer[4..], *b"hello");
}
