//! Signals of the process that this reactor catches.
//!
//! An event queues a signal. The task phase of the turn handles the signal: either the engine shuts
//! down, or the reactor calls `on_signal`.

use std::io;
use std::time::Duration;

use super::Engine;
use crate::id::PollToken;
use crate::log_target::LOG_TARGET;
use crate::os::{CaughtSignal, ENDING};
use crate::shutdown::ShutdownPlan;
use crate::signal::Signal;

/// The caught signals of a reactor.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    caught: Vec<Caught>,
    /// Plan of the shutdown that the next signal starts; `None` if signals do not shut the reactor
    /// down. After the first signal that shuts the reactor down, all phases of the plan have length
    /// zero.
    plan: Option<ShutdownPlan>,
}

/// A caught signal.
#[derive(Debug)]
struct Caught {
    source: CaughtSignal,
    /// True if `on_signal` reports the signal; false if the signal shuts the reactor down.
    is_reported: bool,
}

impl Signals {
    /// Queues the signal that an event reports, if the event belongs to a signal.
    // Not inlined: inlining would cost each event of a socket five more instructions.
    #[cold]
    pub(super) fn record_event(&self, token: PollToken, ready: &mut Vec<Signal>) {
        let mut sources = self.caught.iter().map(|caught| &caught.source);
        if let Some(source) = sources.find(|source| source.is_of(token)) {
            ready.push(source.signal());
        }
    }
}

impl Engine {
    /// Catches a signal that `on_signal` reports from now on, even if the signal shut the reactor
    /// down before.
    pub(crate) fn catch_signal(&mut self, signal: Signal) -> io::Result<()> {
        self.caught(signal)?.is_reported = true;
        Ok(())
    }

    /// Catches the signals that end a program. They shut the reactor down, unless `on_signal`
    /// reports them.
    pub(crate) fn shutdown_on_signals(&mut self, plan: ShutdownPlan) -> io::Result<()> {
        if self.shutdown.signals.plan.is_some() {
            let error = "shutdown_on_signals was called before for this reactor";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, error));
        }
        self.shutdown.signals.plan = Some(plan);
        for &signal in ENDING {
            self.caught(signal)?;
        }
        Ok(())
    }

    /// Returns the entry of a signal. Catches the signal first if it is not caught yet.
    fn caught(&mut self, signal: Signal) -> io::Result<&mut Caught> {
        let caught = &mut self.shutdown.signals.caught;
        let index = caught.iter().position(|it| it.source.signal() == signal);
        let index = match index {
            Some(index) => index,
            None => {
                caught.push(Caught {
                    source: CaughtSignal::new(&self.os, signal)?,
                    is_reported: false,
                });
                caught.len() - 1
            }
        };
        Ok(&mut caught[index])
    }

    /// Returns the next signal to report with `on_signal`. Before that, handles queued signals that
    /// shut the reactor down.
    pub(crate) fn next_signal(&mut self) -> Option<Signal> {
        while let Some(signal) = self.queues.signals.pop() {
            let caught = self.caught(signal).ok()?;
            let count = caught.source.take_count();
            match (count, caught.is_reported) {
                (0, _) => {}
                (_, true) => return Some(signal),
                (_, false) => self.signal_shuts_down(signal, count),
            }
        }
        None
    }

    /// Shuts down because of a signal. If a signal has already started a shutdown, or `count` is
    /// more than one, all phases have length zero.
    fn signal_shuts_down(&mut self, signal: Signal, count: usize) {
        let now = ShutdownPlan::new(Duration::ZERO);
        let first = self.shutdown.signals.plan.replace(now);
        let plan = first.filter(|_| count == 1).unwrap_or(now);
        log::debug!(target: LOG_TARGET, "{signal}: the reactor shuts down: {plan:?}");
        self.shutdown(plan);
    }
}
