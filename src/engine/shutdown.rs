//! The shutdown of a reactor: its phases, their ends, and the last turn.
//!
//! ```text
//!   shutdown() -> Unready -> Drain -> Close -> abort the rest -> at most 100 turns
//!                              |  ^ |  ^ close the listeners; `on_shutdown`; close all
//!                              |  | ends early if no connection and no listener is left
//!                              accept the backlogs, then close the listeners
//! ```
//!
//! `on_shutdown` reports the phase `Close` before the connections are closed, so that the handler
//! can send a last message to each of them.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use super::{Engine, Entry, Task};
use crate::event::CloseReason;
use crate::id::{ListenerId, UdpId};
use crate::log_target::LOG_TARGET;
use crate::shutdown::{ShutdownPhase, ShutdownPlan};

/// Maximum number of turns after the deadline of a shutdown. The deadline ends all sockets, but
/// `on_close` may begin further connects. Each of them fails, and the next turn calls `on_close`
/// for it. Without a maximum, a handler that always connects again would prevent the end of the
/// shutdown.
const TURNS_AFTER_DEADLINE_MAX: u64 = 100;

/// The state of the loop: running, stopped by the handler, or shutting down.
#[derive(Debug)]
pub(crate) struct Shutdown {
    /// The current phase; `None` if no shutdown has begun.
    phase: Option<ShutdownPhase>,
    /// Ends of the three phases, as time since the epoch of the timers.
    ends: [Duration; 3],
    /// Phases that have begun and are not reported yet.
    unreported: VecDeque<ShutdownPhase>,
    /// Number of the last turn of a shutdown whose deadline has passed. Turns are counted from the
    /// start of the reactor.
    turn_max: Option<u64>,
    /// True if the handler called `stop`.
    pub(crate) is_stopped: bool,
    /// The caught signals, which may start a shutdown.
    #[cfg(feature = "signals")]
    pub(super) signals: super::signals::Signals,
}

impl Shutdown {
    pub(super) fn none() -> Self {
        Self {
            phase: None,
            ends: [Duration::MAX; 3],
            unreported: VecDeque::new(),
            turn_max: None,
            is_stopped: false,
            #[cfg(feature = "signals")]
            signals: super::signals::Signals::default(),
        }
    }

    /// Returns the current phase; `None` if no shutdown has begun.
    pub(crate) fn phase(&self) -> Option<ShutdownPhase> {
        self.phase
    }

    /// Returns true if listeners are closed once their backlogs are empty.
    fn closes_listeners(&self) -> bool {
        self.phase >= Some(ShutdownPhase::Drain)
    }

    /// Takes the next phase to report with `on_shutdown`. While a phase must still be reported, a
    /// timer is set. After the report, call [`Engine::phase_reported`].
    pub(crate) fn next_unreported(&mut self) -> Option<ShutdownPhase> {
        self.unreported.pop_front()
    }

    /// Returns true if no connection or socket can be opened.
    fn closes_all(&self) -> bool {
        self.phase >= Some(ShutdownPhase::Close)
    }
}

impl Engine {
    /// Starts a shutdown, or makes the phases of a running shutdown end earlier.
    pub(crate) fn shutdown(&mut self, plan: ShutdownPlan) {
        let now = self.timers.since_epoch();
        for (end, after) in self.shutdown.ends.iter_mut().zip(plan.ends()) {
            *end = (*end).min(now.saturating_add(after));
        }
        self.continue_shutdown();
    }

    /// Begins the phase that is due, if it has not begun, and sets the timer for the end of the
    /// current phase. Skips phases that are over.
    pub(crate) fn continue_shutdown(&mut self) {
        let now = self.timers.since_epoch();
        let [unready, drain, close] = self.shutdown.ends;
        let due = if now < unready {
            ShutdownPhase::Unready
        } else if now < drain {
            ShutdownPhase::Drain
        } else {
            ShutdownPhase::Close
        };
        if self.shutdown.phase < Some(due) {
            self.begin_phase(due);
        }
        let end = match self.shutdown.phase {
            Some(ShutdownPhase::Unready) => unready,
            Some(ShutdownPhase::Drain) => drain,
            _ => close,
        };
        self.timers
            .set_task(end.saturating_sub(now), Task::Shutdown);
    }

    /// Handles the end of a phase.
    pub(crate) fn shutdown_timer_fired(&mut self) {
        if self.shutdown.closes_all() && self.timers.since_epoch() >= self.shutdown.ends[2] {
            self.shutdown_deadline_passed();
        } else if !self.shutdown.closes_all() {
            self.continue_shutdown();
        }
    }

    fn begin_phase(&mut self, phase: ShutdownPhase) {
        log::debug!(target: LOG_TARGET, "the reactor shuts down: {phase:?}");
        self.shutdown.phase = Some(phase);
        // Phase 5 of this turn or of the next turn calls `on_shutdown`. The timer ends the wait of
        // the next turn.
        self.shutdown.unreported.push_back(phase);
        self.timers.set_task(Duration::ZERO, Task::PhaseReport);
        match phase {
            ShutdownPhase::Unready => {}
            ShutdownPhase::Drain => self.drain(),
            ShutdownPhase::Close => self.end_listeners(),
        }
    }

    /// Ends all listeners. The other entries end after the report of the phase.
    fn end_listeners(&mut self) {
        for token in self.entries.tokens() {
            if let Ok(Entry::Listener(_)) = self.entries.get(token) {
                self.end_socket(token);
            }
        }
    }

    /// Closes everything if the phase that `on_shutdown` has reported is the last one.
    pub(crate) fn phase_reported(&mut self, phase: ShutdownPhase) {
        if phase == ShutdownPhase::Close {
            self.close_all();
        }
    }

    /// Queues all listeners, so that they accept their backlogs and are closed.
    fn drain(&mut self) {
        for token in self.entries.tokens() {
            if let Ok(Entry::Listener(_)) = self.entries.get(token) {
                self.queue(token);
            }
        }
        self.end_drain_if_idle();
    }

    /// Closes a listener whose backlog is empty, if the reactor drains.
    pub(crate) fn close_if_draining(&mut self, listener: ListenerId) {
        if self.shutdown.closes_listeners() {
            self.end_socket(listener.0);
        }
    }

    /// Ends the phase `Drain` if no connection and no listener is left.
    pub(super) fn end_drain_if_idle(&mut self) {
        let is_idle =
            |entry: Result<&Entry, _>| !matches!(entry, Ok(Entry::Conn(_) | Entry::Listener(_)));
        if self.shutdown.phase == Some(ShutdownPhase::Drain)
            && self.admission.connections == 0
            && self
                .entries
                .tokens()
                .into_iter()
                .all(|token| is_idle(self.entries.get(token)))
        {
            self.shutdown.ends[1] = self.timers.since_epoch();
            self.continue_shutdown();
        }
    }

    /// Closes all connections and UDP sockets, and ends all other sockets.
    fn close_all(&mut self) {
        for token in self.entries.tokens() {
            match self.entries.get(token) {
                Ok(Entry::Conn(_)) => {
                    let reason = self.local_reason(token);
                    self.close(token, reason);
                }
                Ok(Entry::Udp(_)) => self.close_udp(UdpId(token)),
                _ => self.end_socket(token),
            }
        }
    }

    /// Handles the deadline of a shutdown: resets all connections and ends all other sockets.
    pub(crate) fn shutdown_deadline_passed(&mut self) {
        let turn_max = self.telemetry.stats.turns + TURNS_AFTER_DEADLINE_MAX;
        self.shutdown.turn_max.get_or_insert(turn_max);
        for token in self.entries.tokens() {
            match self.entries.get(token) {
                Ok(Entry::Conn(_)) => self.abort(token, CloseReason::Shutdown),
                _ => self.end_socket(token),
            }
        }
    }

    /// Returns true if a shutdown is complete.
    pub(crate) fn is_shut_down(&self) -> bool {
        let is_over = |max: u64| self.telemetry.stats.turns >= max;
        let is_closed = self.entries.is_empty() && self.shutdown.unreported.is_empty();
        self.shutdown.closes_all() && (is_closed || self.shutdown.turn_max.is_some_and(is_over))
    }

    /// Returns an error if the shutdown is in its last phase.
    pub(super) fn check_not_shutting_down(&self) -> io::Result<()> {
        check(!self.shutdown.closes_all())
    }

    /// Returns an error if the shutdown closes listeners.
    pub(super) fn check_may_listen(&self) -> io::Result<()> {
        check(!self.shutdown.closes_listeners())
    }
}

fn check(may_open: bool) -> io::Result<()> {
    match may_open {
        true => Ok(()),
        false => Err(io::Error::other("the reactor is shutting down")),
    }
}
