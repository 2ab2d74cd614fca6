//! The memory budget: one limit for the buffers of all connections and sockets together.
//!
//! The budget counts the buffers that the pool has lent and the queues of datagram sockets. The
//! buffers hold partial frames, undelivered input and queued output, which includes owned payloads.
//! While the budget is used up, no connection is read and `send` fails. There are two exceptions.
//! The input of a closing connection is read and discarded. The fast path checks the budget before
//! a read, but not before each reply to the frames of this read; these replies stay below the high
//! watermark. When less than seven eighths of the budget are in use, paused connections resume in
//! the order in which they were paused.
//!
//! Frames that are never completed, and peers that do not read, may use up the budget, so that no
//! connection can make progress. A deadline resolves this: when it passes, the engine aborts the
//! connections that hold the most memory, until enough is free.

use super::log_limit::warn_limited;
use super::write::SpareQueues;
use super::{Engine, Task};
use crate::conn::{MemoryResume, Pool, State, Watermark};
use crate::event::CloseReason;
use crate::id::{ConnId, Token};
use crate::timer::TimerId;

/// The pools of buffers that all connections share, the memory budget, and the timers that free
/// memory.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    /// The memory budget, in bytes.
    bytes_max: usize,
    pub(crate) pool: Pool,
    pub(super) spare_queues: SpareQueues,
    /// True while the trim timer is set.
    pub(super) trim_armed: bool,
    /// Timer of the memory deadline; set while connections wait for memory.
    deadline: Option<TimerId>,
}

impl MemoryBudget {
    pub(super) fn new(bytes_max: usize, pool_bytes_max: usize) -> Self {
        Self {
            bytes_max,
            pool: Pool::new(pool_bytes_max),
            spare_queues: SpareQueues::default(),
            trim_armed: false,
            deadline: None,
        }
    }

    /// Returns true if no input may be read and no output accepted.
    ///
    /// The last accepted output may exceed the budget. Otherwise a long payload could be rejected
    /// although memory is available, and its sender could not know when to send it again.
    pub(crate) fn is_used_up(&self) -> bool {
        self.pool.lent_bytes() >= self.bytes_max
    }

    /// Returns true if paused connections may resume.
    fn has_available(&self) -> bool {
        self.pool.lent_bytes() < self.resume_mark()
    }

    /// Returns the mark below which paused connections resume: seven eighths of the budget.
    fn resume_mark(&self) -> usize {
        self.bytes_max - self.bytes_max / 8
    }
}

impl Engine {
    /// Stops reading a connection until memory is available.
    pub(crate) fn pause_for_memory(&mut self, token: Token) {
        self.wait_for_memory(token, State::pause_for_memory);
    }

    /// Queues a connection on which a send failed. Its handler is notified once memory is
    /// available.
    pub(super) fn await_memory(&mut self, token: Token) {
        self.wait_for_memory(token, State::await_memory);
    }

    /// Queues a connection until memory is available. `mark` sets the bit for this kind of wait,
    /// and returns false if the connection is queued already.
    fn wait_for_memory(&mut self, token: Token, mark: fn(&mut State) -> bool) {
        let Ok(conn) = self.entries.conn_mut(token) else {
            return;
        };
        if mark(&mut conn.state) {
            self.queues.paused_for_memory.push_back(token);
        }
        if self.memory.deadline.is_none() {
            self.arm_memory_deadline();
            let max = self.memory.bytes_max;
            warn_limited!(self, Memory => "memory_bytes_max ({max}) is used up: reads are paused");
        }
    }

    /// Returns the number of connections that can resume now.
    pub(crate) fn paused_for_memory_count(&self) -> usize {
        let paused = &self.queues.paused_for_memory;
        if paused.is_empty() || !self.memory.has_available() {
            return 0;
        }
        paused.len()
    }

    /// Restarts the deadline if connections wait for memory; otherwise cancels it.
    pub(crate) fn arm_memory_deadline(&mut self) {
        self.timers.cancel(self.memory.deadline.take());
        if !self.queues.paused_for_memory.is_empty() {
            let after = self.config.memory_deadline;
            self.memory.deadline = Some(self.timers.set_task(after, Task::Memory));
        }
    }

    /// Resumes the connection that waited longest for memory, if it still exists and enough memory
    /// is still available.
    pub(crate) fn resume_next_for_memory(&mut self) -> Option<(Token, Watermark)> {
        if !self.memory.has_available() {
            return None;
        }
        let token = self.queues.paused_for_memory.pop_front()?;
        let conn = self.conn_mut(token).ok()?;
        let MemoryResume { read, watermark } = conn.state.resume_from_memory();
        if read {
            self.resume_reading(token);
        }
        Some((token, watermark))
    }

    /// Handles the memory deadline: aborts the connections that hold the most memory, until enough
    /// is free.
    pub(crate) fn memory_deadline_passed(&mut self) {
        self.memory.deadline = None;
        self.drop_ended_from_paused();
        if self.queues.paused_for_memory.is_empty() {
            return;
        }
        self.arm_memory_deadline();
        let mut holders = self.memory_holders();
        holders.sort_unstable_by_key(|(is_dead, held, _)| std::cmp::Reverse((*is_dead, *held)));
        let mut left = self.memory.pool.lent_bytes();
        for (is_dead, held, token) in holders {
            if left < self.memory.resume_mark() {
                return;
            }
            left = left.saturating_sub(held);
            if is_dead {
                // The end of this turn frees the memory of an ended connection.
                continue;
            }
            let conn = ConnId(token);
            warn_limited!(self, Shed => "aborting {conn} to free the {held} bytes that it holds");
            self.abort(token, CloseReason::MemoryFull);
        }
    }

    /// Adds a connection to the list of connections whose partial frame is in an oversized buffer.
    /// The next trim empties the list.
    pub(crate) fn mark_oversized(&mut self, token: Token) {
        if let Ok(conn) = self.entries.watched_conn_mut(token)
            && conn.state.mark_oversized()
        {
            self.queues.oversized.push(token);
        }
    }

    /// Moves partial frames from oversized buffers to buffers that fit their size. Until this trim,
    /// an oversized buffer is kept, because the next frame may need it.
    pub(super) fn trim_oversized(&mut self) {
        for token in self.queues.oversized.drain(..) {
            if let Ok(conn) = self.entries.conn_mut(token) {
                conn.state.unmark_oversized();
                conn.assembler.trim(&mut self.memory.pool);
            }
        }
    }

    /// Removes closing and ended connections from the queue of connections that wait for memory.
    fn drop_ended_from_paused(&mut self) {
        let (entries, paused) = (&self.entries, &mut self.queues.paused_for_memory);
        paused.retain(|token| {
            let conn = entries.conn(*token);
            conn.is_ok_and(|conn| !conn.state.is_closing() && !conn.state.is_dead())
        });
    }

    /// Returns the connections that hold memory. The three values are: true if the connection has
    /// ended, number of bytes held, and token.
    fn memory_holders(&self) -> Vec<(bool, usize, Token)> {
        let holder = |token| {
            let conn = self.conn(token).ok()?;
            let held = conn.held_bytes();
            (held > 0).then_some((conn.state.is_dead(), held, token))
        };
        let tokens = self.entries.tokens().into_iter();
        tokens.filter_map(holder).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::codec::Framing;
    use crate::config::Config;
    use crate::conn::Readiness;
    use crate::engine::Accepted;
    use crate::error::SendError;
    use crate::os::sim::{Script, World, WriteResult};

    const DEADLINE: Duration = Duration::from_secs(30);

    /// Returns an engine with a memory budget of 16 KiB, and one connection for each length. Each
    /// connection has queued that number of bytes, and its peer reads nothing.
    fn holding<const N: usize>(lens: [usize; N]) -> (Engine, [Token; N]) {
        let config = Config {
            write_low_bytes: 16 * 1024,
            memory_bytes_max: 16 * 1024,
            memory_deadline: DEADLINE,
            ..Config::default()
        };
        let mut engine =
            Engine::new(config, World::current().os()).expect("the simulated poll opens");
        let conns = lens.map(|len| {
            let script = Script::new();
            script.then_write([WriteResult::Fails(ErrorKind::WouldBlock)]);
            let peer = SocketAddr::from(([127, 0, 0, 1], 1)).into();
            let stream = script.stream();
            let Accepted::Conn(conn) = engine.admit(stream, peer, Framing::raw()) else {
                panic!("the connection was not admitted");
            };
            let sent = engine.send(conn.0, &vec![0; len][..]);
            let _ = sent.expect("the memory budget is not used up");
            let _ = engine.flush(conn.0);
            conn.0
        });
        (engine, conns)
    }

    /// Sends a payload, and checks that it is refused because the memory budget is used up.
    fn refuse(engine: &mut Engine, conn: Token) {
        let refused = engine.send(conn, &b"more"[..]);
        assert!(matches!(refused, Err(SendError::Full)), "{refused:?}");
    }

    /// Advances the clock until a timer is due. Returns the time that passed, and the task and
    /// value of the timer.
    fn fire_next_timer(engine: &mut Engine) -> (Duration, Task, u64) {
        let began = engine.timers.now;
        loop {
            let wait = engine.timers.time_to_next().expect("a timer is set");
            engine.timers.set_now(engine.timers.now + wait);
            engine.timers.snapshot_due();
            if let Some((_, task, value)) = engine.timers.next_due() {
                return (engine.timers.now - began, task, value);
            }
        }
    }

    fn is_dead(engine: &Engine, conn: Token) -> bool {
        let conn = engine.conn(conn).expect("the connection is not reaped yet");
        conn.state.is_dead()
    }

    #[test]
    fn repeated_refusals_wait_once_and_keep_the_deadline() {
        let (mut engine, [slow, _]) = holding([8000, 8000]);
        for _ in 0..3 {
            refuse(&mut engine, slow);
            engine.timers.set_now(engine.timers.now + DEADLINE / 4);
        }
        assert_eq!(engine.queues.paused_for_memory.len(), 1);
        let (waited, task, _) = fire_next_timer(&mut engine);
        assert_eq!(task, Task::Memory);
        assert!(
            waited <= DEADLINE / 4 + Duration::from_millis(2),
            "the deadline passed after {waited:?}"
        );
    }

    /// The engine sets the deadline again when another waiting connection has resumed. The deadline
    /// must then run its full time.
    #[test]
    fn rearmed_memory_deadline_runs_its_full_time() {
        let (mut engine, [slow, _]) = holding([8000, 8000]);
        engine.arm_memory_deadline();
        assert!(engine.memory.deadline.is_none(), "no connection waits");
        refuse(&mut engine, slow);
        engine.timers.set_now(engine.timers.now + DEADLINE / 2);
        engine.arm_memory_deadline();
        let (waited, task, _) = fire_next_timer(&mut engine);
        assert_eq!(task, Task::Memory);
        assert!(waited >= DEADLINE, "the deadline passed after {waited:?}");
    }

    #[test]
    fn memory_deadline_aborts_only_the_largest_holder() {
        let (mut engine, [first, largest, last]) = holding([4000, 8000, 4000]);
        engine.memory_deadline_passed();
        assert!(!is_dead(&engine, largest), "no connection waits");
        refuse(&mut engine, first);
        let (waited, task, _) = fire_next_timer(&mut engine);
        assert_eq!(task, Task::Memory);
        assert!(waited >= DEADLINE);
        engine.memory_deadline_passed();
        let dead = [first, largest, last].map(|conn| is_dead(&engine, conn));
        assert_eq!(dead, [false, true, false]);
        assert!(engine.memory.deadline.is_some(), "connections still wait");
    }

    /// The memory of an ended connection is freed only at the end of the turn. When the deadline
    /// passes before that, this memory must already count as free.
    #[test]
    fn memory_deadline_counts_connections_that_just_ended() {
        for ended in [1, 2] {
            let (mut engine, conns) = holding([4000, 8000, 4000]);
            refuse(&mut engine, conns[0]);
            engine.abort(conns[ended], CloseReason::Local);
            engine.memory_deadline_passed();
            let dead = [0, 1, 2].map(|index| is_dead(&engine, conns[index]));
            assert_eq!(dead, [false, ended == 1, ended == 2]);
        }
    }

    /// After one abort the memory in use is exactly at the resume mark. Connections resume only
    /// below the mark, so a second connection is aborted.
    #[test]
    fn memory_deadline_aborts_until_waiters_can_resume() {
        let (mut engine, conns) = holding([2000; 8]);
        refuse(&mut engine, conns[0]);
        engine.memory_deadline_passed();
        let dead = conns.iter().filter(|conn| is_dead(&engine, **conn));
        assert_eq!(dead.count(), 2);
        while engine.next_to_reap().is_some() {}
        assert_eq!(engine.paused_for_memory_count(), 1);
    }

    /// Datagram queues may use up the memory budget. Aborting a connection without memory would
    /// then free nothing.
    #[test]
    fn memory_deadline_spares_connections_without_memory() {
        let (mut engine, [idle]) = holding([1000]);
        engine.memory.pool.count(0, 16 * 1024);
        refuse(&mut engine, idle);
        let conn = engine.conn_mut(idle).expect("the connection is open");
        conn.state.add_readiness(Readiness::WRITABLE);
        let _ = engine.flush(idle);
        engine.memory_deadline_passed();
        assert!(!is_dead(&engine, idle));
    }

    /// If no connection waits when the deadline passes, no new deadline is set. The next connection
    /// that waits sets one.
    #[test]
    fn memory_deadline_is_set_again_for_a_later_waiter() {
        let (mut engine, [closing, slow]) = holding([8000, 8000]);
        refuse(&mut engine, closing);
        engine.close(closing, CloseReason::Local);
        let (_, task, value) = fire_next_timer(&mut engine);
        assert_eq!(
            (task, value),
            (Task::Deadline, closing.to_bits()),
            "the deadline of the close comes first"
        );
        let (_, task, _) = fire_next_timer(&mut engine);
        assert_eq!(task, Task::Memory);
        engine.memory_deadline_passed();
        assert!(!is_dead(&engine, slow), "no connection waits any more");
        refuse(&mut engine, slow);
        let (waited, task, _) = fire_next_timer(&mut engine);
        assert_eq!(task, Task::Memory);
        assert!(waited >= DEADLINE, "the deadline passed after {waited:?}");
    }
}
