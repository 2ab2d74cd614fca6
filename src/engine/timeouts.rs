//! Timeouts: idle connections, silent peers, frames that are not completed, and peers that do not
//! read.
//!
//! A connection has one timer for all of its timeouts. A read, a frame or a write only stores a
//! stamp, and sets no timer. When the timer fires, the engine checks the stamps. It then sets the
//! timer again for the earliest time at which a timeout can expire.

use std::io;
use std::time::Duration;

use super::{Connection, Engine, Task};
use crate::config::Limits;
use crate::event::CloseReason;
use crate::id::Token;
use crate::timer::Stamp;

/// The timeouts in milliseconds. A timeout that is longer than a stamp can measure is `None`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    idle: Option<u32>,
    read_idle: Option<u32>,
    frame: Option<u32>,
    write_stall: Option<u32>,
    /// The shortest timeout, which is the longest time between two checks.
    shortest: Option<u32>,
}

impl Timeouts {
    pub(super) fn new(limits: &Limits) -> Self {
        let idle = limits.idle_timeout.and_then(Stamp::span);
        let read_idle = limits.read_idle_timeout.and_then(Stamp::span);
        let frame = limits.frame_deadline.and_then(Stamp::span);
        let write_stall = limits.write_stall_timeout.and_then(Stamp::span);
        let shortest = [idle, read_idle, frame, write_stall]
            .into_iter()
            .flatten()
            .min();
        Self {
            idle,
            read_idle,
            frame,
            write_stall,
            shortest,
        }
    }

    /// Returns true if any timeout is set.
    pub(super) fn are_set(&self) -> bool {
        self.shortest.is_some()
    }

    /// Returns the number of milliseconds until the next check, or the reason of the close if a
    /// timeout expired.
    fn check(&self, conn: &Connection, now: Stamp) -> Result<u32, CloseReason> {
        let mut next = self.shortest.unwrap_or(u32::MAX);
        // While the reactor does not read the connection, the frame deadline does not apply: the
        // peer cannot complete the frame.
        let is_read = conn.state.may_read();
        let since = match conn.state.is_peeking() {
            true => conn.assembler.held_since(),
            false => conn.assembler.unfinished_since(),
        };
        let partial = since.filter(|_| is_read);
        let silent = conn.state.awaits_input().then_some(conn.last_activity);
        let blocked = super::transport::blocked_since(conn);
        for (timeout, since, reason) in [
            (self.frame, partial, CloseReason::FrameDeadline),
            (self.write_stall, blocked, CloseReason::WriteStalled),
            (self.read_idle, silent, CloseReason::ReadIdleTimeout),
            (
                self.idle,
                Some(conn.idle_since(now)),
                CloseReason::IdleTimeout,
            ),
        ] {
            if let Some((timeout, since)) = timeout.zip(since) {
                match timeout.saturating_sub(now.since(since)) {
                    0 => return Err(reason),
                    left => next = next.min(left),
                }
            }
        }
        Ok(next)
    }
}

impl Connection {
    /// Returns the time of the last read or write.
    fn idle_since(&self, now: Stamp) -> Stamp {
        let last_write = self.extras_ref().and_then(|extras| extras.last_write);
        let is_later = |write: &Stamp| now.since(*write) < now.since(self.last_activity);
        last_write.filter(is_later).unwrap_or(self.last_activity)
    }

    /// Returns the own timeouts of the connection if it has any, else `general`.
    fn timeouts<'a>(&'a self, general: &'a Timeouts) -> &'a Timeouts {
        self.own_limits().map_or(general, |(_, timeouts)| timeouts)
    }
}

impl Engine {
    /// Starts the timeouts of a connection that has opened.
    pub(super) fn start_timeouts(&mut self, token: Token) {
        if let Ok(conn) = self.entries.conn_mut(token)
            && let timeouts = *conn.timeouts(&self.timers.timeouts)
            && let Some(shortest) = timeouts.shortest
        {
            let now = self.timers.stamp;
            conn.last_activity = now;
            if timeouts.read_idle.is_some() {
                conn.extras().last_write = Some(now);
            }
            self.check_timeouts_after(token, shortest);
        }
    }

    /// Sets own limits for a connection, and restarts its timeouts.
    pub(crate) fn set_limits(&mut self, token: Token, limits: Limits) -> io::Result<()> {
        limits.check(self.config.memory_bytes_max)?;
        let timeouts = Timeouts::new(&limits);
        if timeouts.are_set() {
            self.timers.keep_stamp();
        }
        let now = self.timers.stamp;
        self.queue_batch(token);
        let conn = self.entries.conn_mut(token)?;
        conn.state.set_own_limits();
        conn.extras().limits = Some(Box::new((limits, timeouts)));
        conn.assembler.restart_frame(now);
        super::transport::restart_blocked(conn, now);
        self.timers.cancel(conn.timeout_check.take());
        // Before the connection has opened, no timeout runs: `opened` starts the timeouts. After
        // the end of the connection, no timeout runs either.
        if conn.has_opened() && !conn.state.is_dead() {
            self.start_timeouts(token);
        }
        Ok(())
    }

    /// Handles the timer of a connection: closes the connection if a timeout expired, otherwise
    /// sets the timer again.
    pub(crate) fn check_timeouts(&mut self, token: Token) {
        let Ok(conn) = self.entries.conn_mut(token) else {
            return;
        };
        let timeouts = *conn.timeouts(&self.timers.timeouts);
        conn.timeout_check = None;
        if conn.state.is_closing() || conn.state.is_dead() {
            return;
        }
        match timeouts.check(conn, self.timers.stamp) {
            Ok(millis) => self.check_timeouts_after(token, millis),
            // The peer does not read, so a flush before the close would not end.
            Err(reason @ CloseReason::WriteStalled) => self.abort(token, reason),
            Err(reason) => self.close(token, reason),
        }
    }

    /// Restarts the deadline of a partial frame, because the time during which the connection was
    /// not read does not count.
    pub(crate) fn restart_frame_deadline(&mut self, token: Token) {
        if let Ok(conn) = self.entries.conn_mut(token) {
            conn.assembler.restart_frame(self.timers.stamp);
        }
    }

    fn check_timeouts_after(&mut self, token: Token, millis: u32) {
        let after = Duration::from_millis(u64::from(millis));
        if let Ok(conn) = self.entries.conn_mut(token) {
            conn.timeout_check = Some(self.timers.set_conn_task(after, Task::Check, token));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Instant;

    use super::*;
    use crate::codec::{Framing, Kind, Skipped};
    use crate::config::Config;
    use crate::conn::{Flow, FrameSink, Pool};
    use crate::conn::{Readiness, State};
    use crate::engine::Accepted;
    use crate::engine::prepare::{Preparation, Stage};
    use crate::event::Origin;
    use crate::id::ConnId;
    use crate::os::sim::{Script, World, WriteResult};

    const MS: Duration = Duration::from_millis(1);

    /// An engine whose clock is set by the test.
    struct Clocked {
        engine: Engine,
        epoch: Instant,
    }

    impl Clocked {
        fn new(config: Config) -> Self {
            let engine =
                Engine::new(config, World::current().os()).expect("the simulated poll opens");
            let epoch = engine.timers.now;
            Self { engine, epoch }
        }

        /// Opens a connection whose peer reads nothing.
        fn open(&mut self) -> Token {
            let script = Script::new();
            script.then_write([WriteResult::Fails(io::ErrorKind::WouldBlock)]);
            self.open_with(script)
        }

        fn open_with(&mut self, script: Script) -> Token {
            let peer = SocketAddr::from(([127, 0, 0, 1], 1)).into();
            let stream = script.stream();
            match self.engine.admit(stream, peer, Framing::raw()) {
                Accepted::Conn(conn) => conn.0,
                refused => panic!("the connection was not admitted: {refused:?}"),
            }
        }

        /// Fires the timers that are due `at` milliseconds after the epoch. Returns true if the
        /// connection is still open then.
        fn is_open_at(&mut self, at: u32, token: Token) -> bool {
            self.engine.timers.set_now(self.epoch + at * MS);
            self.engine.timers.snapshot_due();
            while let Some((_, task, value)) = self.engine.timers.next_due() {
                assert_eq!((task, value), (Task::Check, token.to_bits()));
                self.engine.check_timeouts(token);
            }
            let state = self
                .engine
                .conn(token)
                .expect("the connection is not reaped yet")
                .state;
            !state.is_closing() && !state.is_dead()
        }
    }

    /// A sink for a partial frame that never becomes complete.
    struct PartialSink {
        framing: Framing,
        pool: Pool,
        now: Stamp,
    }

    impl FrameSink for PartialSink {
        fn kind(&self) -> &Kind {
            self.framing.kind()
        }

        fn frame(&mut self, _: &[u8]) -> Flow {
            Flow::Continue(())
        }

        fn skipped(&mut self, _: Skipped) -> Flow {
            Flow::Continue(())
        }

        fn buffer_is_oversized(&mut self) {}

        fn now(&self) -> Stamp {
            self.now
        }

        fn pool(&mut self) -> &mut Pool {
            &mut self.pool
        }
    }

    /// A preparation in mid-stream must not stop the timeouts, because the end of the preparation
    /// does not start them again. Before the connection opens, no timeout runs.
    #[test]
    fn set_limits_during_a_preparation_keeps_the_timeouts() {
        for is_open in [false, true] {
            let mut clocked = Clocked::new(Config::default());
            let conn = clocked.open_with(Script::new());
            let origin = (!is_open).then_some(Origin::Connected);
            let preparation = Preparation::new(origin, [Stage::Prefix(b"hello")]);
            let entry = clocked.engine.conn_mut(conn);
            entry.expect("the connection is open").extras().preparation = preparation;
            clocked.engine.begin_preparation(conn);
            let entry = clocked.engine.conn(conn).expect("the connection is open");
            let limits = entry
                .limits(&clocked.engine.config)
                .idle_timeout(100 * MS)
                .write_stall_timeout(30 * MS);
            let set = clocked.engine.set_limits(conn, limits);
            set.expect("the limits are valid");
            for at in [35, 99] {
                assert!(clocked.is_open_at(at, conn), "closed at {at} ms");
            }
            assert_eq!(clocked.is_open_at(102, conn), !is_open);
        }
    }

    /// The write stall timeout never expires in this test. It only makes the checks more frequent.
    #[test]
    fn resume_restarts_the_frame_deadline() {
        let config = Config {
            frame_deadline: Some(100 * MS),
            write_stall_timeout: Some(30 * MS),
            ..Config::default()
        };
        let resumes: [fn(&mut Engine, Token); 3] = [
            |engine, conn| engine.resume(ConnId(conn).into()).expect("the id is valid"),
            |engine, conn| engine.grant(conn, 1).expect("the connection is open"),
            |engine, conn| {
                let open = engine.conn(conn).expect("the connection is open");
                let limits = open.limits(&engine.config);
                engine
                    .set_limits(conn, limits)
                    .expect("the limits are valid");
            },
        ];
        for resume in resumes {
            let mut clocked = Clocked::new(config.clone());
            let conn = clocked.open();
            let mut sink = PartialSink {
                framing: Framing::line(),
                pool: Pool::new(0),
                now: clocked.engine.timers.stamp,
            };
            let entry = clocked
                .engine
                .conn_mut(conn)
                .expect("the connection is open");
            let _ = entry.assembler.ingest(b"half a li", &mut sink);
            let paused = clocked.engine.pause(ConnId(conn).into());
            paused.expect("the connection is open");
            clocked
                .engine
                .grant(conn, 0)
                .expect("the connection is open");
            assert!(clocked.is_open_at(90, conn));
            resume(&mut clocked.engine, conn);
            let entry = clocked
                .engine
                .conn_mut(conn)
                .expect("the connection is open");
            {
                entry.state.resume();
                entry.state.credit_granted(true, true);
            };
            for at in [101, 150, 189] {
                assert!(
                    clocked.is_open_at(at, conn),
                    "the connection is closed at {at} ms"
                );
            }
            assert!(!clocked.is_open_at(192, conn));
        }
    }

    /// The frame deadline never expires in this test. It only makes the checks more frequent.
    /// Stamps and ticks are rounded up, each by at most a millisecond.
    #[test]
    fn idle_timeout_counts_from_the_open() {
        let config = Config {
            idle_timeout: Some(100 * MS),
            frame_deadline: Some(30 * MS),
            ..Config::default()
        };
        let mut clocked = Clocked::new(config);
        clocked.engine.timers.set_now(clocked.epoch + 1000 * MS);
        let conn = clocked.open();
        for at in [1030, 1060, 1099] {
            assert!(
                clocked.is_open_at(at, conn),
                "the connection is closed at {at} ms"
            );
        }
        assert!(!clocked.is_open_at(1102, conn));
    }

    impl Clocked {
        /// Sends one byte `at` milliseconds after the epoch; the kernel takes it.
        fn write_at(&mut self, at: u32, token: Token) {
            self.engine.timers.set_now(self.epoch + at * MS);
            let sent = self.engine.send(token, &b"."[..]);
            let _ = sent.expect("the queue has space");
            let _ = self.engine.flush(token);
        }
    }

    #[test]
    fn read_idle_timeout_ignores_writes() {
        let config = Config {
            idle_timeout: Some(40 * MS),
            read_idle_timeout: Some(100 * MS),
            ..Config::default()
        };
        let mut clocked = Clocked::new(config);
        let conn = clocked.open_with(Script::new());
        for at in (0..100).step_by(20) {
            clocked.write_at(at, conn);
            assert!(clocked.is_open_at(at + 19, conn), "at {at} ms");
        }
        assert!(!clocked.is_open_at(102, conn));

        let quiet = clocked.open_with(Script::new());
        clocked.write_at(122, quiet);
        assert!(
            clocked.is_open_at(161, quiet),
            "a write delays idle_timeout"
        );
        assert!(!clocked.is_open_at(164, quiet));
    }

    /// A peer is not silent if its input waits to be read: in the kernel, or because the connection
    /// waits for memory. A peer that has ended its side is not silent either.
    #[test]
    fn read_idle_timeout_spares_peers_that_are_not_silent() {
        let config = Config {
            read_idle_timeout: Some(100 * MS),
            ..Config::default()
        };
        let ready: fn(&mut State) = |state| {
            state.add_readiness(Readiness::READABLE);
        };
        let paused_for_memory: fn(&mut State) = |state| {
            state.add_readiness(Readiness::READABLE);
            state.pause_for_memory();
        };
        let ended: fn(&mut State) = |state| state.read_ended();
        let end_delivered: fn(&mut State) = |state| state.end_delivered();
        for change in [ready, paused_for_memory, ended, end_delivered] {
            let mut clocked = Clocked::new(config.clone());
            let conn = clocked.open_with(Script::new());
            let entry = clocked.engine.conn_mut(conn);
            change(&mut entry.expect("the connection is open").state);
            assert!(clocked.is_open_at(1000, conn));
        }
        let mut clocked = Clocked::new(config);
        let conn = clocked.open_with(Script::new());
        let paused = clocked.engine.pause(ConnId(conn).into());
        paused.expect("the connection is open");
        assert!(
            !clocked.is_open_at(102, conn),
            "the timeout applies to a paused connection without unread input"
        );
    }

    #[test]
    fn write_stall_counts_from_the_last_write() {
        let config = Config {
            write_stall_timeout: Some(100 * MS),
            frame_deadline: Some(30 * MS),
            ..Config::default()
        };
        let mut clocked = Clocked::new(config);
        let script = Script::new();
        let conn = clocked.open_with(script);
        // The second queue reuses the memory of the first queue, but it must have a new stamp.
        for begun in [1000, 3000] {
            clocked.engine.timers.set_now(clocked.epoch + begun * MS);
            script.then_write([WriteResult::Fails(io::ErrorKind::WouldBlock)]);
            let sent = clocked.engine.send(conn, &b"waits"[..]);
            let _ = sent.expect("the queue has space");
            let _ = clocked.engine.flush(conn);
            assert!(
                clocked.is_open_at(begun + 99, conn),
                "the output queued at {begun} ms stalled too early"
            );
            script.then_write([
                WriteResult::Takes(1),
                WriteResult::Fails(io::ErrorKind::WouldBlock),
            ]);
            let entry = clocked
                .engine
                .conn_mut(conn)
                .expect("the connection is open");
            entry.state.add_readiness(Readiness::WRITABLE);
            let _ = clocked.engine.flush(conn);
            assert!(
                clocked.is_open_at(begun + 198, conn),
                "the output queued at {begun} ms stalled too early"
            );
            if begun == 1000 {
                let entry = clocked
                    .engine
                    .conn_mut(conn)
                    .expect("the connection is open");
                entry.state.add_readiness(Readiness::WRITABLE);
                let _ = clocked.engine.flush(conn);
            }
        }
        assert!(!clocked.is_open_at(3202, conn));
    }

    #[test]
    fn set_limits_restarts_the_write_stall_timeout() {
        let mut clocked = Clocked::new(Config::default());
        let conn = clocked.open();
        let sent = clocked.engine.send(conn, &b"waits"[..]);
        let _ = sent.expect("the queue has space");
        let _ = clocked.engine.flush(conn);
        clocked.engine.timers.set_now(clocked.epoch + 100 * MS);
        let open = clocked.engine.conn(conn);
        let open = open.expect("the connection is open");
        let mut limits = open.limits(&clocked.engine.config);
        limits.write_stall_timeout = Some(50 * MS);
        limits.frame_deadline = Some(20 * MS);
        let set = clocked.engine.set_limits(conn, limits);
        set.expect("the limits are valid");
        for at in [120, 149] {
            assert!(
                clocked.is_open_at(at, conn),
                "the connection is closed at {at} ms"
            );
        }
        assert!(!clocked.is_open_at(152, conn));
    }
}
