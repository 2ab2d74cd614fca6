//! Peers that are too slow: idle ones, those that begin a frame and do not end it, those that do
//! not read.
//!
//! A connection has one timer for all three, and what it does only leaves a stamp: nothing is set
//! or cancelled for a read, a frame or a write. When the timer fires it looks at the stamps, and is
//! set again for the earliest moment at which one of them could be too old.

use std::io;
use std::time::Duration;

use super::{Connection, Engine, Task};
use crate::config::Limits;
use crate::conn::State;
use crate::error::Gone;
use crate::event::CloseReason;
use crate::id::Token;
use crate::timer::Stamp;

/// Timeouts, each as long as it was asked for, up to the longest that stamps can tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    idle: Option<u32>,
    frame: Option<u32>,
    write_stall: Option<u32>,
    /// The shortest of them: how often a connection is looked at.
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

    /// What is over at `now`, or in how many milliseconds to look again.
    fn look(&self, conn: &Connection, now: Stamp) -> Result<u32, CloseReason> {
        let mut next = self.shortest.unwrap_or(u32::MAX);
        let mut is_over = |timeout: Option<u32>, since: Option<Stamp>| {
            let (Some(timeout), Some(since)) = (timeout, since) else {
                return false;
            };
            let left = timeout.saturating_sub(now.since(since));
            next = next.min(left.max(1));
            left == 0
        };
        // A frame that is not read on is not the peer's fault.
        let is_read = conn.flags.is_read();
        let unfinished = conn.assembler.unfinished_since().filter(|_| is_read);
        if is_over(self.frame, unfinished) {
            return Err(CloseReason::FrameDeadline);
        }
        let blocked = conn
            .write_queue
            .as_ref()
            .map(|write_queue| write_queue.progress);
        if is_over(self.write_stall, blocked) {
            return Err(CloseReason::WriteStalled);
        }
        if is_over(self.idle, Some(conn.active)) {
            return Err(CloseReason::IdleTimeout);
        }
        Ok(next)
    }
}

impl Connection {
    /// The timeouts that hold for it, given those of the reactor.
    fn timeouts<'a>(&'a self, general: &'a Timeouts) -> &'a Timeouts {
        let own = self
            .extras
            .as_ref()
            .and_then(|extras| extras.limits.as_ref());
        own.map_or(general, |(_, timeouts)| timeouts)
    }
}

impl Engine {
    /// Begins to watch a connection that has opened.
    pub(super) fn watch(&mut self, token: Token) {
        let now = self.stamp;
        let Ok(conn) = self.entries.conn_mut(token) else {
            return;
        };
        if let Some(shortest) = conn.timeouts(&self.timeouts).shortest {
            conn.active = now;
            self.look_again(token, shortest);
        }
    }

    /// Gives a connection limits of its own. Its timeouts count from now on.
    pub(crate) fn set_limits(&mut self, token: Token, limits: Limits) -> io::Result<()> {
        limits.check()?;
        let timeouts = Timeouts::new(&limits);
        if timeouts.are_set() && !self.stamps_moments {
            self.stamps_moments = true;
            self.stamp = Stamp::at(self.since_epoch());
        }
        let now = self.stamp;
        self.queue_gathered(token);
        let conn = self.conn_mut(token)?;
        conn.flags.insert(State::OWN_LIMITS);
        conn.extras().limits = Some((limits, timeouts));
        conn.assembler.restart_frame(now);
        if let Some(write_queue) = &mut conn.write_queue {
            write_queue.progress = now;
        }
        let check = conn.check.take();
        // One that is not open yet is watched from then on; one whose `on_close` this is, no more.
        let is_open = !conn.flags.intersects(State::CONNECTING | State::DEAD);
        self.cancel(check);
        if is_open {
            self.watch(token);
        }
        Ok(())
    }

    pub(crate) fn limits(&self, token: Token) -> Result<Limits, Gone> {
        Ok(self.conn(token)?.limits(&self.config))
    }

    /// Looks at a connection's stamps, and closes it or looks again later.
    pub(crate) fn check_timeouts(&mut self, token: Token) {
        let now = self.stamp;
        let Ok(conn) = self.entries.conn_mut(token) else {
            return;
        };
        let timeouts = *conn.timeouts(&self.timeouts);
        conn.check = None;
        if conn.flags.intersects(State::CLOSING | State::DEAD) {
            return;
        }
        match timeouts.look(conn, now) {
            Ok(millis) => self.look_again(token, millis),
            // It does not take what is queued: there is nothing to flush gently.
            Err(reason @ CloseReason::WriteStalled) => self.abort(token, reason),
            Err(reason) => self.close(token, reason),
        }
    }

    /// The handler or a drained queue lets a connection be read again: the time in which nobody
    /// read it is not counted against its frame.
    pub(crate) fn restart_frame_deadline(&mut self, token: Token) {
        let now = self.stamp;
        if let Ok(conn) = self.entries.conn_mut(token) {
            conn.assembler.restart_frame(now);
        }
    }

    fn look_again(&mut self, token: Token, millis: u32) {
        let check = self.set_task(Duration::from_millis(u64::from(millis)), Task::Check(token));
        if let Ok(conn) = self.conn_mut(token) {
            conn.check = Some(check);
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
    use crate::engine::Accepted;
    use crate::id::ConnId;
    use crate::os::{Script, Stream, Writing};

    const MS: Duration = Duration::from_millis(1);

    /// An engine whose clock is the test's.
    struct Clocked {
        engine: Engine,
        epoch: Instant,
    }

    impl Clocked {
        fn new(config: Config) -> Self {
            let engine = Engine::new(config, Instant::now).expect("an engine");
            let epoch = engine.now;
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
            let stream = Stream::Scripted(script);
            match self.engine.admit(stream, peer, Framing::raw()) {
                Accepted::Conn(conn) => conn.0,
                refused => panic!("{refused:?}"),
            }
        }

        /// The timers that are due so many milliseconds after the epoch. Answers whether the
        /// connection is still as it was.
        fn is_left_alone(&mut self, at: u32, token: Token) -> bool {
            self.engine.set_now(self.epoch + at * MS);
            self.engine.note_due_timers();
            while let Some((_, task)) = self.engine.next_due() {
                assert_eq!(task, Task::Check(token));
                self.engine.check_timeouts(token);
            }
            let flags = self.engine.conn(token).expect("it is there").flags;
            !flags.intersects(State::CLOSING | State::DEAD)
        }
    }

    /// Takes frames of which none comes whole.
    struct Half {
        framing: Framing,
        pool: Pool,
        now: Stamp,
    }

    impl FrameSink for Half {
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
                now: clocked.engine.stamp,
            };
            let entry = clocked.engine.conn_mut(conn).expect("it is open");
            let _ = entry.assembler.ingest(b"half a li", &mut half);
            let paused = clocked.engine.pause(ConnId(conn).into());
            paused.expect("it is open");
            clocked.engine.grant(conn, 0).expect("it is open");
            assert!(clocked.is_left_alone(90, conn));
            resume(&mut clocked.engine, conn);
            let entry = clocked.engine.conn_mut(conn).expect("it is open");
            entry.flags.remove(State::PAUSED | State::NO_CREDIT);
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
        clocked.engine.set_now(clocked.epoch + 1000 * MS);
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
            clocked.engine.set_now(clocked.epoch + begun * MS);
            script.then_write([Writing::Fails(io::ErrorKind::WouldBlock)]);
            let sent = clocked.engine.send(conn, &b"waits"[..]);
            let _ = sent.expect("there is room");
            let _ = clocked.engine.flush(conn);
            assert!(clocked.is_left_alone(begun + 99, conn), "from {begun} on");
            script.then_write([Writing::Takes(1), Writing::Fails(io::ErrorKind::WouldBlock)]);
            let entry = clocked.engine.conn_mut(conn).expect("it is open");
            entry.flags.insert(State::WRITABLE);
            let _ = clocked.engine.flush(conn);
            assert!(clocked.is_left_alone(begun + 198, conn), "from {begun} on");
            if begun == 1000 {
                let entry = clocked.engine.conn_mut(conn).expect("it is open");
                entry.flags.insert(State::WRITABLE);
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
        clocked.engine.set_now(clocked.epoch + 100 * MS);
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
