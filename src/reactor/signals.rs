//! Signals: the method that catches the signals that end a program, and the handling of caught
//! signals in phase 5 of a turn.

use std::io;

use super::Reactor;
use crate::handler::Handler;
use crate::shutdown::ShutdownPlan;

impl<H: Handler> Reactor<H> {
    /// Shuts the reactor down, like [`Context::shutdown`](crate::Context::shutdown), when the
    /// process receives SIGINT (Ctrl-C), SIGTERM or SIGHUP.
    ///
    /// `plan` is the time for the close, or a [`ShutdownPlan`] with more phases. On Windows,
    /// Ctrl-C, Ctrl-Break and closing the console shut the reactor down. A second signal skips all
    /// phases: the remaining connections are aborted at once. If
    /// [`Context::catch_signal`](crate::Context::catch_signal) catches one of these signals, before
    /// or after this call, that signal is reported and does not shut the reactor down.
    ///
    /// Call this method in programs, not in libraries, because signals belong to the process. The
    /// signals stay caught until the process ends, and have no effect after the reactor is dropped.
    /// Signals that the parent process ignored, such as SIGHUP under `nohup`, are caught too.
    ///
    /// On Unix, no thread is started: the poll reports the signals, and an idle loop makes no
    /// system call for them. Each signal takes two descriptors, which are closed with the reactor.
    /// On Windows, a thread of the crate `ctrlc` wakes the loop. Requires the feature `signals`.
    ///
    /// # Errors
    ///
    /// * `AlreadyExists`: the method was called before. On Windows also if the process has another
    ///   handler of the crate `ctrlc`, for example the handler of another reactor.
    /// * Any other error of the system. The signals that were caught before the error still shut
    ///   the reactor down.
    pub fn shutdown_on_signals(&mut self, plan: impl Into<ShutdownPlan>) -> io::Result<()> {
        self.engine.shutdown_on_signals(plan.into())
    }

    /// Handles the signals that events have reported: calls `on_signal` or shuts down.
    pub(super) fn run_signals(&mut self) {
        while let Some(signal) = self.engine.next_signal() {
            self.callbacks().signal(signal);
        }
        self.report_phases();
    }
}
