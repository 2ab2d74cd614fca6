//! The memory of all connections and sockets together, held to a budget.
//!
//! What is counted is what the pool lends and what the queues of datagrams hold: unfinished and
//! undelivered input, and queued output. At the budget nothing more is read, and what is sent is
//! refused; below seven eighths of it whoever was stopped goes on, in the order in which they were.
//!
//! Where nobody can go on, as all of it is held by frames whose rest is not read and by peers that
//! do not read, a deadline ends that: the connections that hold the most are aborted until there
//! is room.

use super::log_limit::LogTopic;
use super::{Engine, Task};
use crate::conn::State;
use crate::event::CloseReason;
use crate::id::{ConnId, Token};

impl Engine {
    /// Whether nothing is read at present, and nothing accepted to be sent. What is accepted last
    /// may go beyond the budget: were it refused for its length, nobody could tell its sender when
    /// to try again.
    #[inline]
    pub(crate) fn is_memory_full(&self) -> bool {
        self.pool.lent_bytes() >= self.config.memory_bytes_max
    }

    /// A connection is not read as long as memory is short: its readiness waits, and so does it.
    #[cold]
    pub(crate) fn pause_for_memory(&mut self, token: Token) {
        if let Ok(conn) = self.conn_mut(token) {
            conn.flags.remove(State::READABLE);
            self.stop_for_memory(token, State::PAUSED_FOR_MEMORY);
        }
    }

    /// A connection was refused output as memory is short, and is told when there is room.
    #[cold]
    pub(super) fn refuse_for_memory(&mut self, token: Token) {
        self.stop_for_memory(token, State::AWAITS_ROOM);
    }

    fn stop_for_memory(&mut self, token: Token, how: State) {
        let Ok(conn) = self.conn_mut(token) else {
            return;
        };
        if !conn.flags.intersects(State::STOPPED_FOR_MEMORY) {
            self.paused_for_memory.push_back(token);
        }
        if let Ok(conn) = self.conn_mut(token) {
            conn.flags.insert(how);
        }
        if self.memory_deadline.is_none() {
            self.arm_memory_deadline();
            if let Some(suppressed) = self.log_limit.pass(LogTopic::Memory, self.now) {
                let max = self.config.memory_bytes_max;
                log::warn!(
                    "memory_bytes_max, {max} bytes, is used up: nothing is read{suppressed}"
                );
            }
        }
    }

    /// How many connections wait for memory, where there is some again.
    #[inline]
    pub(crate) fn paused_for_memory_count(&self) -> usize {
        if self.paused_for_memory.is_empty() || !self.has_room() {
            return 0;
        }
        self.paused_for_memory.len()
    }

    fn has_room(&self) -> bool {
        self.pool.lent_bytes() < self.room_mark()
    }

    /// Sets the deadline while somebody waits, for the whole time from now on.
    pub(crate) fn arm_memory_deadline(&mut self) {
        if let Some(deadline) = self.memory_deadline.take() {
            self.wheel.cancel(deadline);
        }
        if !self.paused_for_memory.is_empty() {
            let deadline = self.set_task(self.config.memory_deadline, Task::Memory);
            self.memory_deadline = Some(deadline);
        }
    }

    /// Seven eighths of the budget.
    fn room_mark(&self) -> usize {
        let max = self.config.memory_bytes_max;
        max - max / 8
    }

    /// Lets the one go on that has waited for memory longest, if there still is some; answers
    /// whether it is to be told that there is room for output.
    pub(crate) fn next_paused_for_memory(&mut self) -> Option<(Token, bool)> {
        if !self.has_room() {
            return None;
        }
        let token = self.paused_for_memory.pop_front()?;
        let Ok(conn) = self.conn_mut(token) else {
            return Some((token, false));
        };
        let waited = conn.flags;
        conn.flags.remove(State::STOPPED_FOR_MEMORY);
        // One that is above its high mark is told when it has drained; one that is not open yet is
        // taken for such a one, and told when it is.
        let mut is_told = waited.intersects(State::AWAITS_ROOM)
            && !waited.intersects(State::ABOVE_HIGH | State::STOPS_SENDING);
        if is_told && waited.intersects(State::CONNECTING) {
            conn.flags.insert(State::ABOVE_HIGH);
            is_told = false;
        }
        if waited.intersects(State::PAUSED_FOR_MEMORY) {
            conn.flags.insert(State::READABLE);
            self.read_on(token);
        }
        Some((token, is_told))
    }

    /// Memory was short for too long: those that hold the most are aborted until there is room.
    #[cold]
    pub(crate) fn memory_deadline_passed(&mut self) {
        self.memory_deadline = None;
        self.forget_gone();
        if self.paused_for_memory.is_empty() {
            return;
        }
        self.arm_memory_deadline();
        let mut holders = self.holders();
        holders.sort_unstable_by_key(|(is_dead, held, _)| std::cmp::Reverse((*is_dead, *held)));
        let mut left = self.pool.lent_bytes();
        for (is_dead, held, token) in holders {
            if left < self.room_mark() {
                return;
            }
            left = left.saturating_sub(held);
            if is_dead {
                // The end of this turn gives it back.
                continue;
            }
            if let Some(suppressed) = self.log_limit.pass(LogTopic::Shed, self.now) {
                let conn = ConnId(token);
                log::warn!("{conn} is aborted to free the {held} bytes it holds{suppressed}");
            }
            self.abort(token, CloseReason::MemoryFull);
        }
    }

    /// A connection keeps more room than its bytes need, until the next trim.
    pub(crate) fn mark_oversized(&mut self, token: Token) {
        if let Ok(conn) = self.entries.unwatched_mut(token)
            && conn.flags.set(State::OVERSIZED, true)
        {
            self.oversized.push(token);
        }
    }

    /// Has those that keep room give it back. One that needs it has it again with its next frame.
    pub(super) fn trim_oversized(&mut self) {
        for token in self.oversized.drain(..) {
            if let Ok(conn) = self.entries.conn_mut(token) {
                conn.flags.remove(State::OVERSIZED);
                conn.assembler.trim(&mut self.pool);
            }
        }
    }

    /// Takes those out of the list that have ended, or are closing, since they were stopped.
    fn forget_gone(&mut self) {
        let Self {
            entries,
            paused_for_memory,
            ..
        } = self;
        paused_for_memory.retain(|token| {
            let conn = entries.conn(*token);
            conn.is_ok_and(|conn| !conn.flags.intersects(State::CLOSING | State::DEAD))
        });
    }

    /// The connections that hold memory: whether they have ended, and how much it is.
    fn holders(&self) -> Vec<(bool, usize, Token)> {
        let tokens = self.entries.tokens().into_iter();
        tokens
            .filter_map(|token| {
                let conn = self.conn(token).ok()?;
                let held = conn.held_bytes();
                (held > 0).then_some((conn.flags.intersects(State::DEAD), held, token))
            })
            .collect()
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
    use crate::engine::Accepted;
    use crate::error::SendError;
    use crate::os::sim::{Script, World, Writing};

    const DEADLINE: Duration = Duration::from_secs(30);

    /// An engine with memory for 16 KiB, and connections of which each holds so many bytes that its
    /// peer does not take.
    fn holding<const N: usize>(lens: [usize; N]) -> (Engine, [Token; N]) {
        let config = Config {
            memory_bytes_max: 16 * 1024,
            memory_deadline: DEADLINE,
            ..Config::default()
        };
        let mut engine = Engine::new(config, World::current().os()).expect("an engine");
        let conns = lens.map(|len| {
            let script = Script::new();
            script.then_write([Writing::Fails(ErrorKind::WouldBlock)]);
            let peer = SocketAddr::from(([127, 0, 0, 1], 1)).into();
            let stream = script.stream();
            let Accepted::Conn(conn) = engine.admit(stream, peer, Framing::raw()) else {
                panic!("it is refused");
            };
            let sent = engine.send(conn.0, &vec![0; len][..]);
            let _ = sent.expect("there is room");
            let _ = engine.flush(conn.0);
            conn.0
        });
        (engine, conns)
    }

    fn refuse(engine: &mut Engine, conn: Token) {
        let refused = engine.send(conn, &b"more"[..]);
        assert!(matches!(refused, Err(SendError::Full)), "{refused:?}");
    }

    /// The next timer that is due, with the clock put forward to it.
    fn pass_time(engine: &mut Engine) -> (Duration, Task) {
        let began = engine.now;
        loop {
            let wait = engine.time_to_next_timer().expect("a deadline");
            engine.set_now(engine.now + wait);
            engine.note_due_timers();
            if let Some((_, task)) = engine.next_due() {
                return (engine.now - began, task);
            }
        }
    }

    fn is_dead(engine: &Engine, conn: Token) -> bool {
        let conn = engine.conn(conn).expect("it is there");
        conn.flags.intersects(State::DEAD)
    }

    #[test]
    fn who_is_refused_over_and_over_waits_once_and_does_not_put_the_deadline_off() {
        let (mut engine, [slow, _]) = holding([8000, 8000]);
        for _ in 0..3 {
            refuse(&mut engine, slow);
            engine.set_now(engine.now + DEADLINE / 4);
        }
        assert_eq!(engine.paused_for_memory.len(), 1);
        let (waited, task) = pass_time(&mut engine);
        assert_eq!(task, Task::Memory);
        assert!(
            waited <= DEADLINE / 4 + Duration::from_millis(2),
            "{waited:?}"
        );
    }

    /// As those are who wait behind others that were let on.
    #[test]
    fn who_is_given_a_deadline_anew_has_the_whole_time_from_then_on() {
        let (mut engine, [slow, _]) = holding([8000, 8000]);
        engine.arm_memory_deadline();
        assert!(engine.memory_deadline.is_none(), "nobody waits");
        refuse(&mut engine, slow);
        engine.set_now(engine.now + DEADLINE / 2);
        engine.arm_memory_deadline();
        let (waited, task) = pass_time(&mut engine);
        assert_eq!(task, Task::Memory);
        assert!(waited >= DEADLINE, "{waited:?}");
    }

    #[test]
    fn at_the_deadline_the_one_that_holds_the_most_is_aborted_and_no_more_than_are_needed() {
        let (mut engine, [first, most, last]) = holding([4000, 8000, 4000]);
        engine.memory_deadline_passed();
        assert!(!is_dead(&engine, most), "nobody waits");
        refuse(&mut engine, first);
        let (waited, task) = pass_time(&mut engine);
        assert_eq!(task, Task::Memory);
        assert!(waited >= DEADLINE);
        engine.memory_deadline_passed();
        let dead = [first, most, last].map(|conn| is_dead(&engine, conn));
        assert_eq!(dead, [false, true, false]);
        assert!(engine.memory_deadline.is_some(), "for those that wait on");
    }

    /// Its memory is there at the end of the turn, whether it is much or little.
    #[test]
    fn nobody_is_aborted_at_the_deadline_in_place_of_one_that_has_ended_in_that_turn() {
        for ended in [1, 2] {
            let (mut engine, conns) = holding([4000, 8000, 4000]);
            refuse(&mut engine, conns[0]);
            engine.abort(conns[ended], CloseReason::Local);
            engine.memory_deadline_passed();
            let dead = [0, 1, 2].map(|index| is_dead(&engine, conns[index]));
            assert_eq!(dead, [false, ended == 1, ended == 2]);
        }
    }

    /// At the mark itself nobody goes on yet.
    #[test]
    fn so_many_are_aborted_at_the_deadline_that_those_who_wait_go_on() {
        let (mut engine, conns) = holding([2000; 8]);
        refuse(&mut engine, conns[0]);
        engine.memory_deadline_passed();
        let dead = conns.iter().filter(|conn| is_dead(&engine, **conn));
        assert_eq!(dead.count(), 2);
        while engine.next_dead().is_some() {}
        assert_eq!(engine.paused_for_memory_count(), 1);
    }

    /// As where it is all held by queues of datagrams.
    #[test]
    fn who_holds_no_memory_is_not_aborted_for_it() {
        let (mut engine, [idle]) = holding([1000]);
        engine.pool.count(0, 16 * 1024);
        refuse(&mut engine, idle);
        let conn = engine.conn_mut(idle).expect("it is open");
        conn.flags.insert(State::WRITABLE);
        let _ = engine.flush(idle);
        engine.memory_deadline_passed();
        assert!(!is_dead(&engine, idle));
    }

    /// The deadline that passed is over, also where nobody was left to be helped.
    #[test]
    fn who_waits_after_a_deadline_that_found_nobody_has_one_of_its_own() {
        let (mut engine, [gone, slow]) = holding([8000, 8000]);
        refuse(&mut engine, gone);
        engine.close(gone, CloseReason::Local);
        let (_, task) = pass_time(&mut engine);
        assert_eq!(task, Task::Deadline(gone), "of the close");
        let (_, task) = pass_time(&mut engine);
        assert_eq!(task, Task::Memory);
        engine.memory_deadline_passed();
        assert!(!is_dead(&engine, slow), "nobody waited any more");
        refuse(&mut engine, slow);
        let (waited, task) = pass_time(&mut engine);
        assert_eq!(task, Task::Memory);
        assert!(waited >= DEADLINE, "{waited:?}");
    }
}
