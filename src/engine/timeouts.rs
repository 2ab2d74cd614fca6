//! Timeouts: idle connections, frames that are not completed, and peers that do not read.
//!
//! A connection has one timer for all three. A read, a frame or a write only stores a stamp; no
//! timer is set or cancelled for it. When the timer fires it checks the stamps, and is set again for
//! the earliest time at which one of them can expire.

use std::io;
use std::time::Duration;

use super::{Connection, Engine, Task};
use crate::config::Limits;
use crate::error::Gone;
use crate::event::CloseReason;
use crate::id::Token;
use crate::timer::Stamp;

/// Timeouts in milliseconds, each at most the longest time that a stamp can measure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    idle: Option<u32>,
    frame: Option<u32>,
    write_stall: Option<u32>,
    /// The shortest of them, which is the interval between two checks.
    shortest: Option<u32>,
}

impl Timeouts {
    pub(super) fn new(limits: &Limits) -> Self {
        let idle = limits.idle_timeout.and_then(Stamp::span);
        let frame = limits.frame_deadline.and_then(Stamp::span);
        let write_stall = limits.write_stall_timeout.and_then(Stamp::span);
        let shortest = [idle, frame, write_stall].into_iter().flatten().min();
        Self {
            idle,
            frame,
            write_stall,
            shortest,
        }
    }

    pub(super) fn are_set(&self) -> bool {
        self.shortest.is_some()
    }

    /// Returns the number of milliseconds until the next check, or the timeout that expired.
    fn check(&self, conn: &Connection, now: Stamp) -> Result<u32, CloseReason> {
        let mut next = self.shortest.unwrap_or(u32::MAX);
        let mut has_expired = |timeout: Option<u32>, since: Option<Stamp>| {
            let (Some(timeout), Some(since)) = (timeout, since) else {
                return false;
            };
            let left = timeout.saturating_sub(now.since(since));
            next = next.min(left.max(1));
            left == 0
        };
        // The peer is not responsible for a frame that the reactor does not read.
        let is_read = conn.state.may_read();
        let partial = conn.assembler.unfinished_since().filter(|_| is_read);
        if has_expired(self.frame, partial) {
            return Err(CloseReason::FrameDeadline);
        }
        let blocked = conn.write_queue.as_ref().map(|queue| queue.progress);
        if has_expired(self.write_stall, blocked) {
            return Err(CloseReason::WriteStalled);
        }
        if has_expired(self.idle, Some(conn.last_activity)) {
            return Err(CloseReason::IdleTimeout);
        }
        Ok(next)
    }
}

impl Connection {
    /// Its timeouts: its own, or the general ones.
    fn timeouts<'a>(&'a self, general: &'a Timeouts) -> &'a Timeouts {
        let own = self
            .extras
            .as_ref()
            .and_then(|extras| extras.limits.as_ref());
        own.map_or(general, |(_, timeouts)| timeouts)
    }
}

impl Engine {
    /// Starts the timeouts of a connection that has opened.
    pub(super) fn start_timeouts(&mut self, token: Token) {
        let now = self.timers.stamp;
        let Ok(conn) = self.entries.conn_mut(token) else {
            return;
        };
        if let Some(shortest) = conn.timeouts(&self.timers.timeouts).shortest {
            conn.last_activity = now;
            self.check_timeouts_after(token, shortest);
        }
    }

    /// Gives a connection its own limits. Its timeouts count from now on.
    pub(crate) fn set_limits(&mut self, token: Token, limits: Limits) -> io::Result<()> {
        limits.check()?;
        let timeouts = Timeouts::new(&limits);
        if timeouts.are_set() {
            self.timers.keep_stamp();
        }
        let now = self.timers.stamp;
        self.queue_batch(token);
        let conn = self.conn_mut(token)?;
        conn.state.set_own_limits();
        conn.extras().limits = Some((limits, timeouts));
        conn.assembler.restart_frame(now);
        if let Some(queue) = &mut conn.write_queue {
            queue.progress = now;
        }
        let check = conn.timeout_check.take();
        // A connecting connection starts its timeouts when it opens; an ended one has none.
        let is_open = !conn.state.is_connecting() && !conn.state.is_dead();
        self.timers.cancel(check);
        if is_open {
            self.start_timeouts(token);
        }
        Ok(())
    }

    pub(crate) fn limits(&self, token: Token) -> Result<Limits, Gone> {
        Ok(self.conn(token)?.limits(&self.config))
    }

    /// Checks the stamps of a connection: closes it, or checks again later.
    pub(crate) fn check_timeouts(&mut self, token: Token) {
        let now = self.timers.stamp;
        let Ok(conn) = self.entries.conn_mut(token) else {
            return;
        };
        let timeouts = *conn.timeouts(&self.timers.timeouts);
        conn.timeout_check = None;
        if conn.state.is_closing() || conn.state.is_dead() {
            return;
        }
        match timeouts.check(conn, now) {
            Ok(millis) => self.check_timeouts_after(token, millis),
            // The peer does not take the output, so a flush before the close would not end.
            Err(reason @ CloseReason::WriteStalled) => self.abort(token, reason),
            Err(reason) => self.close(token, reason),
        }
    }

    /// Restarts the deadline of a partial frame: the time during which the connection was not read
    /// does not count.
    pub(crate) fn restart_frame_deadline(&mut self, token: Token) {
        let now = self.timers.stamp;
        if let Ok(conn) = self.entries.conn_mut(token) {
            conn.assembler.restart_frame(now);
        }
    }

    fn check_timeouts_after(&mut self, token: Token, millis: u32) {
        let after = Duration::from_millis(u64::from(millis));
        let check = self.timers.set_task(after, Task::Check(token));
        if let Ok(conn) = self.conn_mut(token) {
            conn.timeout_check = Some(check);
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
    use crate::conn::Readiness;
    use crate::conn::{Flow, Sink};
    use crate::engine::Accepted;
    use crate::id::ConnId;
    use crate::memory::Pool;
    use crate::os::sim::{Script, World, Writing};

    const MS: Duration = Duration::from_millis(1);

    /// An engine whose clock is the test's.
    struct Clocked {
        engine: Engine,
        epoch: Instant,
    }

    impl Clocked {
        fn new(config: Config) -> Self {
            let engine = Engine::new(config, World::current().os()).expect("an engine");
            let epoch = engine.now();
            Self { engine, epoch }
        }

        /// Opens a connection whose peer takes nothing.
        fn open(&mut self) -> Token {
            let script = Script::new();
            script.then_write([Writing::Fails(io::ErrorKind::WouldBlock)]);
            self.open_with(script)
        }

        fn open_with(&mut self, script: Script) -> Token {
            let peer = SocketAddr::from(([127, 0, 0, 1], 1)).into();
            let stream = script.stream();
            match self.engine.admit(stream, peer, Framing::raw()) {
                Accepted::Conn(conn) => conn.0,
                refused => panic!("{refused:?}"),
            }
        }

        /// The timers that are due so many milliseconds after the epoch. Answers whether the
        /// connection is still as it was.
        fn is_left_alone(&mut self, at: u32, token: Token) -> bool {
            self.engine.timers.set_now(self.epoch + at * MS);
            self.engine.timers.snapshot_due();
            while let Some((_, task)) = self.engine.timers.next_due() {
                assert_eq!(task, Task::Check(token));
                self.engine.check_timeouts(token);
            }
            let state = self.engine.conn(token).expect("it is there").state;
            !state.is_closing() && !state.is_dead()
        }
    }

    /// Takes frames of which none comes whole.
    struct Half {
        framing: Framing,
        pool: Pool,
        now: Stamp,
    }

    impl Sink for Half {
        fn kind(&self) -> &Kind {
            self.framing.kind()
        }

        fn frame(&mut self, _: &[u8]) -> Flow {
            Flow::Continue
        }

        fn skipped(&mut self, _: Skipped) -> Flow {
            Flow::Continue
        }

        fn buffer_is_oversized(&mut self) {}

        fn now(&self) -> Stamp {
            self.now
        }

        fn pool(&mut self) -> &mut Pool {
            &mut self.pool
        }
    }

    /// The timeout that does not matter here has it looked at more often.
    #[test]
    fn a_frame_that_nobody_read_on_has_its_whole_time_from_the_resume_on() {
        let config = Config {
            frame_deadline: Some(100 * MS),
            write_stall_timeout: Some(30 * MS),
            ..Config::default()
        };
        let resumes: [fn(&mut Engine, Token); 3] = [
            |engine, conn| engine.resume(ConnId(conn).into()).expect("it is open"),
            |engine, conn| engine.grant(conn, 1).expect("it is open"),
            |engine, conn| {
                let limits = engine.limits(conn).expect("it is open");
                engine.set_limits(conn, limits).expect("they are sound");
            },
        ];
        for resume in resumes {
            let mut clocked = Clocked::new(config.clone());
            let conn = clocked.open();
            let mut half = Half {
                framing: Framing::line(),
                pool: Pool::new(0),
                now: clocked.engine.timers.stamp,
            };
            let entry = clocked.engine.conn_mut(conn).expect("it is open");
            let _ = entry.assembler.ingest(b"half a li", &mut half);
            let paused = clocked.engine.pause(ConnId(conn).into());
            paused.expect("it is open");
            clocked.engine.grant(conn, 0).expect("it is open");
            assert!(clocked.is_left_alone(90, conn));
            resume(&mut clocked.engine, conn);
            let entry = clocked.engine.conn_mut(conn).expect("it is open");
            {
                entry.state.resume();
                entry.state.credit_granted(true, true);
            };
            for at in [101, 150, 189] {
                assert!(clocked.is_left_alone(at, conn), "at {at}");
            }
            assert!(!clocked.is_left_alone(192, conn));
        }
    }

    /// A shorter timeout that is not over has both looked at before their time. Stamps and ticks
    /// round up, by a millisecond each.
    #[test]
    fn a_connection_that_opens_late_is_idle_from_then_on() {
        let config = Config {
            idle_timeout: Some(100 * MS),
            frame_deadline: Some(30 * MS),
            ..Config::default()
        };
        let mut clocked = Clocked::new(config);
        clocked.engine.timers.set_now(clocked.epoch + 1000 * MS);
        let conn = clocked.open();
        for at in [1030, 1060, 1099] {
            assert!(clocked.is_left_alone(at, conn), "at {at}");
        }
        assert!(!clocked.is_left_alone(1102, conn));
    }

    #[test]
    fn a_queue_has_stalled_when_nothing_was_taken_of_it_for_the_whole_time() {
        let config = Config {
            write_stall_timeout: Some(100 * MS),
            frame_deadline: Some(30 * MS),
            ..Config::default()
        };
        let mut clocked = Clocked::new(config);
        let script = Script::new();
        let conn = clocked.open_with(script);
        // What a queue that is over leaves behind it is taken again for the next one.
        for begun in [1000, 3000] {
            clocked.engine.timers.set_now(clocked.epoch + begun * MS);
            script.then_write([Writing::Fails(io::ErrorKind::WouldBlock)]);
            let sent = clocked.engine.send(conn, &b"waits"[..]);
            let _ = sent.expect("there is room");
            let _ = clocked.engine.flush(conn);
            assert!(clocked.is_left_alone(begun + 99, conn), "from {begun} on");
            script.then_write([Writing::Takes(1), Writing::Fails(io::ErrorKind::WouldBlock)]);
            let entry = clocked.engine.conn_mut(conn).expect("it is open");
            entry.state.add_readiness(Readiness::WRITABLE);
            let _ = clocked.engine.flush(conn);
            assert!(clocked.is_left_alone(begun + 198, conn), "from {begun} on");
            if begun == 1000 {
                let entry = clocked.engine.conn_mut(conn).expect("it is open");
                entry.state.add_readiness(Readiness::WRITABLE);
                let _ = clocked.engine.flush(conn);
            }
        }
        assert!(!clocked.is_left_alone(3202, conn));
    }

    #[test]
    fn limits_of_its_own_count_the_time_in_which_nothing_was_taken_from_then_on() {
        let mut clocked = Clocked::new(Config::default());
        let conn = clocked.open();
        let sent = clocked.engine.send(conn, &b"waits"[..]);
        let _ = sent.expect("there is room");
        let _ = clocked.engine.flush(conn);
        clocked.engine.timers.set_now(clocked.epoch + 100 * MS);
        let mut limits = clocked.engine.limits(conn).expect("it is open");
        limits.write_stall_timeout = Some(50 * MS);
        limits.frame_deadline = Some(20 * MS);
        let set = clocked.engine.set_limits(conn, limits);
        set.expect("they are sound");
        for at in [120, 149] {
            assert!(clocked.is_left_alone(at, conn), "at {at}");
        }
        assert!(!clocked.is_left_alone(152, conn));
    }
}
