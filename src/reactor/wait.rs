//! Phases 1 and 2 of a turn: the time to wait, the wait, and busy polling.

use std::io;
use std::time::Duration;

use super::Reactor;
use crate::handler::Handler;

/// Number of polls between two readings of the clock during busy polling. One reading costs a tenth
/// of a poll.
const POLLS_PER_CLOCK_READING: u32 = 8;
/// The timeout of a poll that returns at once.
const NO_WAIT: Option<Duration> = Some(Duration::ZERO);

impl<H: Handler> Reactor<H> {
    /// Waits for events, at most for `timeout`. Sets the time of the turn at the end of the wait.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let engine = &mut self.engine;
        let has_work = engine.queues.have_work() || !self.posted.is_empty();
        let mut left = if has_work { NO_WAIT } else { timeout };
        if left != NO_WAIT && (left.is_some() || !engine.timers.is_empty()) {
            // The wait has a limit. It counts from now, because the last turn may be long ago.
            engine.timers.set_now(engine.os.now());
        }
        if let Some(busy) = engine.config.busy_poll
            && left != NO_WAIT
        {
            let before = engine.timers.now;
            let is_turn_due = self.poll_busily(busy, left)?;
            if is_turn_due {
                return Ok(());
            }
            let spent = self.engine.timers.now.saturating_duration_since(before);
            left = left.map(|left| left.saturating_sub(spent));
        }
        loop {
            let result = self.poll_once(left);
            let before = self.engine.timers.now;
            self.engine.timers.set_now(self.engine.os.now());
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    let waited = self.engine.timers.now.saturating_duration_since(before);
                    left = left.map(|left| left.saturating_sub(waited));
                }
                result => return result,
            }
        }
    }

    /// Polls once. Waits at most for `left`, and at most until the next timer. Returns an
    /// `Interrupted` error to the caller, which computes the remaining time.
    fn poll_once(&mut self, left: Option<Duration>) -> io::Result<()> {
        let engine = &mut self.engine;
        let wait = shorter(left, engine.timers.time_to_next());
        let sleeps = wait != NO_WAIT && self.inlet.fall_asleep();
        let wait = if sleeps { wait } else { NO_WAIT };
        let result = engine.os.wait(wait);
        if sleeps {
            self.inlet.awake();
        }
        result
    }

    /// Polls repeatedly without waiting, for at most `busy`, `left` and the time to the next timer.
    /// Returns true if the turn can start: it has work, or its wait is over. Returns false if the
    /// wait must continue in the kernel.
    fn poll_busily(&mut self, busy: Duration, left: Option<Duration>) -> io::Result<bool> {
        let Self { engine, inlet, .. } = self;
        // Busy polling checks for posts itself, so posts need not wake the loop.
        inlet.awake();
        let wait = shorter(left, engine.timers.time_to_next());
        let busy = wait.map_or(busy, |wait| wait.min(busy));
        // If the wait has no limit, the time of the turn may be old. The busy polling then begins
        // at the first reading of the clock.
        let mut began = wait.map(|_| engine.timers.now);
        loop {
            for _ in 0..POLLS_PER_CLOCK_READING {
                match engine.os.wait(NO_WAIT) {
                    Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                    _ if engine.os.has_events() || inlet.is_pending() => {
                        engine.timers.set_now(engine.os.now());
                        return Ok(true);
                    }
                    _ => {}
                }
            }
            engine.timers.set_now(engine.os.now());
            let began = *began.get_or_insert(engine.timers.now);
            let spent = engine.timers.now.saturating_duration_since(began);
            if spent >= busy {
                return Ok(wait.is_some_and(|wait| spent >= wait));
            }
        }
    }
}

/// Returns the shorter of two waits; `None` means no limit.
fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
