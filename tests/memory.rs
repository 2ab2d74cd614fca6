//! One budget for the memory of all connections: nobody takes it from the others for good.

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

/// Sends all but the last byte of a long frame.
fn send_most(reactor: &mut Reactor<Probe>, client: &mut TcpStream) -> u8 {
    let mut bytes = frame("u32", &vec![7; FRAME_LEN]);
    let last = bytes.pop().expect("it is not empty");
    client.set_nonblocking(true).expect("it can be set");
    let mut rest = &bytes[..];
    while !rest.is_empty() && held(reactor) < MEMORY_MAX {
        if let Ok(len) = client.write(rest) {
            rest = &rest[len..];
        }
        reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    }
    idle(reactor);
    client.set_nonblocking(false).expect("it can be set");
    last
}

/// Queues output for a peer that does not read it, until memory is used up.
fn fill_with_output(reactor: &mut Reactor<Probe>, conn: ConnId) -> usize {
    let mut sent = 0;
    while held(reactor) < MEMORY_MAX {
        let queued = reactor.with(|_, cx| cx.send(conn, &[7; 9996]));
        let _ = queued.expect("there is room");
        sent += 10_000;
        reactor.turn(Some(Duration::ZERO)).expect("the poll works");
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

/// Two frames that need all of it and more, each waiting for its rest: nobody could go on.
#[test]
fn halves_of_frames_that_use_up_memory_stop_the_others_for_a_time_only() {
    let (mut reactor, addr) = u32_listening(Probe::silent(), Duration::from_millis(300));
    let (mut first, first_conn) = open(&mut reactor, addr);
    let (mut second, second_conn) = open(&mut reactor, addr);
    let (mut third, third_conn) = open(&mut reactor, addr);
    send_most(&mut reactor, &mut first);
    send_most(&mut reactor, &mut second);
    assert!(held(&reactor) >= MEMORY_MAX);
    deposit(
        &mut reactor,
        &mut third,
        third_conn,
        &frame("u32", b"short"),
    );
    for _ in 0..5 {
        reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    }
    assert_eq!(frame_lens(&reactor), [0; 0], "nobody is read");

    drive(&mut reactor, |reactor| frame_lens(reactor) == [5]);
    let shed = closed_for_memory(&reactor);
    assert!(shed == [first_conn] || shed == [second_conn], "{shed:?}");
    assert!(held(&reactor) < MEMORY_MAX);
}

#[test]
fn whoever_holds_the_most_is_aborted_and_nobody_else() {
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
fn when_memory_is_free_again_they_are_read_in_the_order_in_which_they_were_stopped() {
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

/// Nothing is read between seven eighths and the whole on the way down.
#[test]
fn reading_begins_again_below_seven_eighths_only() {
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
        "it was seen on its way: {lowest}"
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
fn a_send_is_refused_at_the_budget_and_on_drained_tells_when_there_is_room() {
    let (mut reactor, addr) = u32_listening(Probe::silent(), DEADLINE);
    let (mut slow, slow_conn) = open_narrow(&mut reactor, addr);
    let (mut other, other_conn) = open(&mut reactor, addr);
    let sent = fill_with_output(&mut reactor, slow_conn);
    let (_giving, giving_conn) = open(&mut reactor, addr);
    for _ in 0..3 {
        let refused = reactor.with(|_, cx| cx.send(other_conn, b"refused"));
        assert!(matches!(refused, Err(SendError::Full)), "{refused:?}");
        let refused = reactor.with(|_, cx| cx.send_owned(giving_conn, vec![7; 100_000]));
        let refused = refused.map_err(|refused| refused.error);
        assert!(matches!(refused, Err(SendError::Full)), "{refused:?}");
        idle(&mut reactor);
    }
    assert_eq!(drained(&reactor), []);
    read_slowly(&mut reactor, &mut slow, sent);
    idle(&mut reactor);
    for refused in [other_conn, giving_conn] {
        let told = drained(&reactor).into_iter();
        assert_eq!(told.filter(|conn| *conn == refused).count(), 1);
    }
    let _ = reactor
        .with(|_, cx| cx.send(other_conn, b"taken"))
        .expect("there is room");
    idle(&mut reactor);
    assert_eq!(common::read_u32_frame(&mut other), b"taken");
}

/// What it was refused while it was connecting is no reason to call it before it is open.
#[test]
fn a_connection_that_is_not_open_yet_is_told_of_room_when_it_is() {
    let (mut reactor, addr) = u32_listening(Probe::silent(), DEADLINE);
    let (_slow, slow_conn) = open_narrow(&mut reactor, addr);
    fill_with_output(&mut reactor, slow_conn);
    let (_held, nowhere) = common::silent();
    let conns = [nowhere, addr].map(|to| reactor.connect(to, Framing::length_u32(), ()));
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
fn queued_datagrams_count_and_are_refused_too() {
    let (mut reactor, addr) = u32_listening(Probe::silent(), DEADLINE);
    let (_slow, conn) = open_narrow(&mut reactor, addr);
    let udp: UdpId = reactor.bind_udp("127.0.0.1:0").expect("a free port");
    let to = reactor.local_inet_addr(udp).expect("it is bound");
    reactor.with(|_, cx| {
        cx.send_to(udp, to, &[1; 1000]).expect("there is room");
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

/// What would free memory is not stopped for the lack of it.
#[test]
fn at_the_budget_a_connection_is_closed_as_well_as_ever() {
    let (mut reactor, addr) = u32_listening(Probe::silent(), DEADLINE);
    let (mut slow, conn) = open_narrow(&mut reactor, addr);
    let sent = fill_with_output(&mut reactor, conn);
    reactor.with(|_, cx| cx.close(conn));
    slow.write_all(&[0; 100_000]).expect("it is taken");
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
fn a_peer_that_resets_is_noticed_also_while_memory_is_short() {
    use common::reset;
    use unstick::Hangup;
    for sent in [&b""[..], &frame("u32", b"short")] {
        let (mut reactor, addr) = u32_listening(Probe::silent(), DEADLINE);
        let (_slow, slow_conn) = open_narrow(&mut reactor, addr);
        let (mut other, other_conn) = open(&mut reactor, addr);
        fill_with_output(&mut reactor, slow_conn);
        deposit(&mut reactor, &mut other, other_conn, sent);
        reset(other);
        let is_told = |event: &Event| matches!(event, Event::Hangup(_, Hangup::Reset));
        if sent.is_empty() {
            drive(&mut reactor, |reactor| reactor.stats().closed == 1);
        } else {
            drive(&mut reactor, |reactor| {
                reactor.handler().count(is_told) == 1
            });
            assert_eq!(reactor.stats().closed, 0, "its frame waits");
        }
    }
}

#[test]
fn the_deadline_of_a_frame_stands_still_while_memory_is_short() {
    // A machine that is too slow for one deadline is given a longer one.
    let timeouts = [200, 2_000, 20_000].map(Duration::from_millis);
    assert!(timeouts.into_iter().any(outlives_its_deadline));
}

/// Whether memory became short before the deadline of a frame, and the frame outlived it.
fn outlives_its_deadline(timeout: Duration) -> bool {
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

/// A panic drops what the connection held; the count must not keep it.
#[test]
fn memory_that_a_panic_dropped_is_not_counted_on() {
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
    // The frame is in a buffer of the connection's own when it is delivered.
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

/// Many that ask for echoes and read nothing, each below its own high mark: what they hold together
/// stays near the budget, and one that does read is served all the time.
#[test]
fn non_readers_that_are_each_within_their_marks_do_not_exceed_the_budget() {
    let mut config = config(Duration::from_millis(50));
    config.read_len_max = 16 * 1024;
    let (mut reactor, addr) = listening(Probe::echo(), config, Framing::length_u32());
    let mut clients: Vec<_> = (0..40)
        .map(|_| {
            let (client, _) = open_narrow(&mut reactor, addr);
            client.set_nonblocking(true).expect("it can be set");
            client
        })
        .collect();
    let question = frame("u32", &[7; 8000]);
    let mut highest = 0;
    for _ in 0..200 {
        for client in &mut clients {
            // What does not fit is cut: these peers care for nothing.
            let _ = client.write(&question);
        }
        reactor.turn(Some(Duration::ZERO)).expect("the poll works");
        highest = highest.max(held(&reactor));
    }
    assert!(highest >= MEMORY_MAX, "{highest} is no test");
    assert!(highest < 2 * MEMORY_MAX, "{highest}");
    let (mut honest, _) = open(&mut reactor, addr);
    honest
        .write_all(&frame("u32", b"hello"))
        .expect("it is taken");
    honest.set_nonblocking(true).expect("it can be set");
    let mut answer = [0; 9];
    drive(&mut reactor, |_| honest.read(&mut answer).is_ok());
    assert_eq!(answer[4..], *b"hello");
}
