//! Phase 5 of a turn: due timers, phases of a shutdown, and posts of other threads.

use super::{Callbacks, Reactor};
use crate::engine::Task;
use crate::handler::Handler;
use crate::id::Token;
use crate::remote::Posted;

impl<H: Handler> Reactor<H> {
    /// Runs the timers that are due now, and reports the phases of a shutdown that have begun.
    pub(super) fn run_timers(&mut self) {
        if self.engine.timers.is_empty() {
            return;
        }
        self.run_due_timers();
        self.report_phases();
    }

    /// Reports the phases of a shutdown that have begun.
    pub(super) fn report_phases(&mut self) {
        while let Some(phase) = self.engine.shutdown.next_unreported() {
            self.callbacks().shutdown(phase);
        }
    }

    /// Runs the timers that are due now, within the budget. A timer that a callback sets waits for
    /// a later turn, even if its delay is zero.
    fn run_due_timers(&mut self) {
        self.engine.timers.snapshot_due();
        for _ in 0..self.engine.config.timer_budget {
            let Some((id, task, value)) = self.engine.timers.next_due() else {
                return;
            };
            match task {
                Task::User | Task::Interval => self.callbacks().timer(id, value),
                Task::Deadline => self.engine.deadline_passed(Token::from_bits(value)),
                Task::Check => self.engine.check_timeouts(Token::from_bits(value)),
                Task::AcceptRetry => self.engine.accept_retry_due(),
                Task::Trim => self.trim(),
                Task::Memory => self.engine.memory_deadline_passed(),
                Task::Shutdown => {
                    // A phase of length zero is reported before its end.
                    self.report_phases();
                    self.engine.shutdown_timer_fired();
                }
                Task::PhaseReport => {}
                #[cfg(feature = "metrics")]
                Task::Metrics => self.engine.metrics_due(),
            }
        }
    }

    /// Frees memory that was not used since the last trim.
    pub(super) fn trim(&mut self) {
        self.engine.trim();
        self.read_buffer.trim();
    }

    /// Starts a requested shutdown, then runs posts of other threads, within the budget. New posts
    /// are taken from the queue only after all posts that were taken earlier have run.
    pub(super) fn run_posted(&mut self) {
        if self.inlet.is_pending() {
            self.take_posted();
        } else if self.posted.is_empty() {
            return;
        }
        for _ in 0..self.engine.config.post_budget {
            if !self.run_next_post() {
                return;
            }
        }
    }

    /// Takes new posts, if no earlier post waits, and starts a requested shutdown.
    fn take_posted(&mut self) {
        let plan = match self.posted.is_empty() {
            true => self.inlet.take(&mut self.posted),
            false => self.inlet.take_shutdown(),
        };
        if let Some(plan) = plan {
            self.engine.shutdown(plan);
            self.report_phases();
        }
    }

    /// Runs one posted closure or send. Returns false if no post is left.
    fn run_next_post(&mut self) -> bool {
        loop {
            // Not `self.callbacks()`: the closure is borrowed from `self.posted` while it runs.
            let callbacks = Callbacks::new(&mut self.handler, &mut self.engine, &mut self.sessions);
            match self.posted.front_mut() {
                None => return false,
                Some(Posted::Run(closures)) => {
                    if callbacks.posted(&mut **closures) {
                        return true;
                    }
                    self.posted.pop_front();
                }
                Some(Posted::Send { conn, payload }) => {
                    // The payload is removed before the send: if the codec panics, the payload must
                    // not be sent again.
                    let (conn, payload) = (*conn, std::mem::take(payload));
                    self.posted.pop_front();
                    if let Err(refused) = callbacks.cx.engine.send_owned(conn.0, payload.into()) {
                        callbacks.send_refused(conn, refused.payload.into(), refused.error);
                    }
                    return true;
                }
            }
        }
    }
}
