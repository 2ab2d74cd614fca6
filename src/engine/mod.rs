//! The engine: everything that a reactor owns and does, except for calls of the handler.
//!
//! [`Engine`] is not generic and never calls the handler. Its methods return the events to report,
//! and the reactor reports them. The [`Context`](crate::Context) of a callback is a view of
//! the engine. Each field, apart from the configuration and the operating system, has a type that
//! is defined in the file of its subject.

mod active;
mod close;
mod detach;
mod dial;
mod entry;
#[cfg(not(unstick_general_path))]
mod fast_path;
mod flow;
mod listener;
mod log_limit;
mod memory_budget;
#[cfg(feature = "metrics")]
mod metrics;
mod open;
mod owned_payload;
mod per_addr;
mod prepare;
mod proxied;
mod queues;
mod read;
mod recording;
mod shutdown;
#[cfg(feature = "signals")]
mod signals;
mod slab;
mod telemetry;
mod timeouts;
mod timers;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod udp;
#[cfg(unix)]
mod unix_datagram;
mod write;

use std::io;
use std::num::NonZeroU32;
use std::time::Duration;

#[cfg(unix)]
pub(crate) use entry::UnixDatagramEntry;
pub(crate) use entry::{Connection, Entry, ListenerEntry, UdpEntry};
pub(crate) use listener::Accepted;
pub(crate) use prepare::Opening;
pub(crate) use timers::Task;
pub(crate) use transport::Filled;
#[cfg(all(test, feature = "tls"))]
pub(crate) use transport::tls_filter::TlsFilter;
#[cfg(test)]
pub(crate) use transport::{Filter, xor_filter, xor_filter_of};
#[cfg(test)]
pub(crate) use write::EncodePayload;
pub(crate) use write::{InPlace, Unframed};

use self::slab::Entries;
use crate::addr::Addr;
use crate::config::Config;
use crate::conn::Readiness;
use crate::cutmap::Recorder;
use crate::error::Gone;
use crate::id::{SocketId, Token};
use crate::log_target::IO_TARGET;
use crate::os::{Event, Os};
use active::{Active, BATCH_LEN_BASE};
use entry::of_any_kind;
use listener::Admission;
use memory_budget::MemoryBudget;
use queues::Queues;
use shutdown::Shutdown;
use telemetry::Telemetry;
use timeouts::Timeouts;
use timers::Timers;

/// Delay of the trim timer. A trim frees memory above the base size that was not used since the
/// last trim.
const TRIM_AFTER: Duration = Duration::from_secs(1);

/// The parts of a reactor that do not depend on its handler.
pub(crate) struct Engine {
    pub(crate) config: Config,
    pub(crate) os: Os,
    /// Connections, listeners and datagram sockets, by token.
    pub(crate) entries: Entries,
    pub(crate) queues: Queues,
    /// The connection being dispatched, and its output.
    pub(crate) active: Active,
    pub(crate) timers: Timers,
    pub(crate) memory: MemoryBudget,
    pub(crate) admission: Admission,
    pub(crate) telemetry: Telemetry,
    pub(crate) shutdown: Shutdown,
}

impl Engine {
    pub(crate) fn new(mut config: Config, os: Os) -> io::Result<Self> {
        config.check()?;
        // A read into the read buffer must not exceed the read budget of a turn.
        config.read_len_max = config.read_len_max.min(config.read_budget_bytes);
        config.busy_poll = config.busy_poll.filter(|time| !time.is_zero());
        let timeouts = Timeouts::new(&config.limits());
        let now = os.now();
        let recorder = Recorder::new(now, config.recording_events_max);
        Ok(Self {
            os,
            entries: Entries::new(),
            queues: Queues::new(),
            active: Active::none(),
            timers: Timers::new(now, timeouts),
            memory: MemoryBudget::new(config.memory_bytes_max, config.pool_bytes_max),
            admission: Admission::new(),
            telemetry: Telemetry::new(recorder),
            shutdown: Shutdown::none(),
            config,
        })
    }

    /// Records the events of the last wait: marks the entry of each event ready and queues it, and
    /// queues caught signals. Does no I/O and calls no callback.
    pub(crate) fn record_events(&mut self) {
        let (entries, ready) = (&mut self.entries, &mut self.queues.ready);
        let count = self.os.for_each_event(|event| {
            let Some((token, state)) = entries.of_poll(event.token()) else {
                #[cfg(feature = "signals")]
                self.shutdown
                    .signals
                    .record_event(event.token(), &mut self.queues.signals);
                return;
            };
            if state.add_readiness(readiness(event)) {
                ready.push(token);
            }
        });
        self.telemetry.stats.events += count as u64;
    }

    /// Starts the dispatch phase of a turn.
    pub(crate) fn begin_dispatch_phase(&mut self) {
        self.queues.ready.begin_turn();
        #[cfg(feature = "tls")]
        self.admission.begin_turn(&self.config);
        self.telemetry.is_traced = log::log_enabled!(target: IO_TARGET, log::Level::Trace);
    }

    /// Looks up a ready entry and removes its queue mark.
    pub(crate) fn take_ready(&mut self, token: Token) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(token).ok()?;
        entry.state_mut().unmark_queued();
        Some(entry)
    }

    /// Queues an entry for the next turn, unless it is queued already.
    pub(crate) fn queue(&mut self, token: Token) {
        if let Ok(state) = self.entries.state_mut(token)
            && state.mark_queued()
        {
            self.queues.ready.push(token);
        }
    }

    /// Sets the trim timer if a trim may free memory of the engine or, if `elsewhere` is true, of
    /// the reactor.
    pub(crate) fn arm_trim(&mut self, elsewhere: bool) {
        let can_trim = elsewhere
            || self.memory.pool.is_over_base()
            || self.active.batch.capacity() > BATCH_LEN_BASE
            || !self.queues.grown_udp.is_empty()
            || !self.queues.oversized.is_empty();
        if can_trim && !self.memory.trim_armed {
            self.memory.trim_armed = true;
            self.timers.set_task(TRIM_AFTER, Task::Trim);
        }
    }

    /// Frees memory that was not used since the last trim.
    pub(crate) fn trim(&mut self) {
        self.memory.trim_armed = false;
        self.memory.pool.trim();
        self.memory.spare_queues.trim();
        self.trim_datagrams();
        self.trim_oversized();
        self.active.trim_batch();
    }

    /// Adds the entry that `entry` creates for a new generation, and registers its socket with the
    /// poll. Returns the token of the entry. If the registration fails, removes the entry.
    fn add(&mut self, entry: impl FnOnce(NonZeroU32) -> Entry) -> io::Result<Token> {
        let token = self.entries.insert(entry);
        let (os, poll_token) = (&self.os, token.to_poll());
        let entry = self.entries.get_mut(token)?;
        let registered = of_any_kind!(entry, entry => entry.socket.register(os, poll_token));
        if registered.is_err() {
            self.entries.remove(token);
        }
        registered.map(|()| token)
    }

    pub(crate) fn conn(&self, token: Token) -> Result<&Connection, Gone> {
        self.entries.conn(token)
    }

    pub(crate) fn conn_mut(&mut self, token: Token) -> Result<&mut Connection, Gone> {
        self.entries.conn_mut(token)
    }

    pub(crate) fn local_addr(&self, id: SocketId) -> io::Result<Addr> {
        of_any_kind!(self.entries.get(id.token())?, entry => entry.socket.local_addr())
    }

    pub(crate) fn options(&self, id: SocketId) -> io::Result<socket2::SockRef<'_>> {
        of_any_kind!(self.entries.get(id.token())?, entry => entry.socket.options())
    }
}

/// Converts an event to the readiness that it reports. An event that reports the end of the stream,
/// an error or urgent data makes both directions ready.
fn readiness(event: Event<'_>) -> Readiness {
    if event.has_ended() {
        return Readiness::ended(event.has_hung_up());
    }
    Readiness::new(event.is_readable(), event.is_writable())
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("entries", &self.entries.len())
            .field("ready", &self.queues.ready.len())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::sim::World;

    #[test]
    fn busy_poll_of_zero_is_off() {
        for (time, expected) in [(0, None), (1, Some(Duration::from_nanos(1)))] {
            let config = Config::new().busy_poll(Duration::from_nanos(time));
            let engine = Engine::new(config, World::current().os());
            let engine = engine.expect("the simulated poll opens");
            assert_eq!(engine.config.busy_poll, expected);
        }
    }
}
