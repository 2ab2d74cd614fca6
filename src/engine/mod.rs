//! The engine: all of a reactor that is not generic over its handler.
//!
//! It owns the entries, the queues that say which of them have work, the pool and the poll. It
//! never calls the user: what has to be told is answered to the reactor, which tells it. The
//! [`Context`](crate::Context) of a callback is a view of it.

mod active;
mod adopt;
mod callback_times;
mod entry;
mod flow;
mod lifecycle;
mod log_limit;
mod memory_budget;
mod owned_payload;
mod per_addr;
mod queues;
mod read;
mod recording;
mod slab;
mod timeouts;
mod timers;
mod udp;
#[cfg(unix)]
mod unix_datagram;
mod write;

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use ::slab::Slab;

pub(crate) use active::FirstRead;
#[cfg(unix)]
pub(crate) use entry::UnixDatagramEntry;
pub(crate) use entry::{Connection, Entry, ListenerEntry, UdpEntry};
pub(crate) use lifecycle::Accepted;
pub(crate) use read::Fill;
pub(crate) use timers::Task;
#[cfg(test)]
pub(crate) use write::Encode;
pub(crate) use write::{Drained, Written};

use self::slab::Entries;
use crate::addr::Addr;
use crate::config::Config;
use crate::conn::{Pool, State};
use crate::cutmap::{Clock, Recorder};
use crate::error::Gone;
use crate::id::{ListenerId, SocketId, Token, UdpId};
use crate::memory::Buf;
use crate::os::{Event, Poller};
use crate::stats::Stats;
use crate::timer::{Stamp, TimerId, Wheel};
use active::Active;
use callback_times::CallbackTimes;
use log_limit::{LogLimit, LogTopic};
use per_addr::PerAddr;
use queues::ReadyQueue;
use timeouts::Timeouts;
use timers::{Interval, Kind};
use write::SpareQueues;

/// How soon an accept that found no descriptor is tried again at first; a close tries it at once.
const ACCEPT_RETRY_MIN: Duration = Duration::from_millis(100);
/// And how seldom at last: whoever waits is served within a second of a descriptor's being free.
const ACCEPT_RETRY_MAX: Duration = Duration::from_millis(800);
/// What reads and writes are traced as.
const TRACED: &str = "unstick::io";
/// For so many connections that keep room at once the list of them is made ready: the first of them
/// comes in the midst of a stream.
const OVERSIZED_LEN: usize = 16;
/// How long a free buffer beyond the pool's base is kept unused.
const TRIM_AFTER: Duration = Duration::from_secs(1);
/// An output buffer of this many bytes is kept for good.
const OUT_LEN_BASE: usize = 64 * 1024;
/// How many turns a shutdown may take beyond its deadline, so that what is opened and refused in
/// `on_close` is told of too. A handler that always connects anew from there would go on for ever.
const SHUTDOWN_TURNS_MAX: u64 = 100;

pub(crate) struct Engine {
    pub(crate) config: Config,
    pub(crate) poller: Poller,
    pub(crate) entries: Entries,
    /// Entries with work, each once (`State::QUEUED`).
    ready: ReadyQueue,
    /// Entries with output that no dispatch of their own flushes, each once (`State::TO_FLUSH`).
    to_flush: VecDeque<Token>,
    /// Entries that have ended and are reaped at the end of the turn, each once (`State::DEAD`).
    dead: VecDeque<Token>,
    pub(crate) pool: Pool,
    spare_queues: SpareQueues,
    /// Output of the connection whose frames are being delivered, until the end of its dispatch.
    pub(crate) out: Buf,
    /// The longest that `out` was since the last trim, where that was longer than its base.
    out_peak: usize,
    pub(crate) active: Active,
    pub(crate) wheel: Wheel<Kind>,
    /// What timers that fire again and again are besides their nodes in the wheel.
    intervals: Slab<Interval>,
    /// When the wheel's ticks began.
    epoch: Instant,
    /// The turn's reading of the clock, or that behind a name's look-up.
    pub(crate) now: Instant,
    clock: Clock,
    /// The same in four bytes, kept up to date where timeouts are set.
    pub(crate) stamp: Stamp,
    /// Whether they are, or ever were for a connection.
    stamps_moments: bool,
    timeouts: Timeouts,
    pub(crate) stats: Stats,
    callback_times: CallbackTimes,
    /// What happened to those that are observed.
    recorder: Recorder,
    connections: usize,
    /// Listeners that found no descriptor or no memory at their last accept.
    exhausted: Vec<ListenerId>,
    accept_retry: bool,
    /// How soon they are tried again the next time.
    accept_retry_after: Duration,
    /// Connections by address, where these have a limit.
    addrs: PerAddr,
    trim_armed: bool,
    /// UDP sockets whose queues have grown, each once.
    grown: Vec<UdpId>,
    /// Connections that wait for memory, each once (`State::STOPPED_FOR_MEMORY`).
    paused_for_memory: VecDeque<Token>,
    /// Armed while they wait.
    memory_deadline: Option<TimerId>,
    log_limit: LogLimit,
    /// Connections that keep more room than their bytes need, each once (`State::OVERSIZED`).
    oversized: Vec<Token>,
    /// For what stands around a payload that is given.
    around: Buf,
    /// Reads and writes are traced: asked once a turn.
    is_traced: bool,
    pub(crate) shutting_down: bool,
    /// The turn that ends a shutdown whose deadline has passed, whatever is left.
    shutdown_turn_max: Option<u64>,
    pub(crate) stopped: bool,
}

impl Engine {
    pub(crate) fn new(mut config: Config, clock: Clock) -> io::Result<Self> {
        config.check()?;
        // No read of a turn may be longer than all of them.
        config.read_len_max = config.read_len_max.min(config.read_budget_bytes);
        let now = clock();
        let timeouts = Timeouts::new(&config.limits());
        Ok(Self {
            poller: Poller::new()?,
            entries: Entries::new(),
            ready: ReadyQueue::default(),
            to_flush: VecDeque::new(),
            dead: VecDeque::new(),
            pool: Pool::new(config.pool_bytes_max),
            spare_queues: SpareQueues::default(),
            out: Buf::default(),
            out_peak: 0,
            active: Active::nobody(),
            wheel: Wheel::new(),
            intervals: Slab::new(),
            epoch: now,
            now,
            clock,
            stamp: Stamp::default(),
            stamps_moments: timeouts.are_set(),
            timeouts,
            stats: Stats::default(),
            callback_times: CallbackTimes::default(),
            recorder: Recorder::new(clock, config.recording_events_max),
            connections: 0,
            exhausted: Vec::new(),
            accept_retry: false,
            accept_retry_after: ACCEPT_RETRY_MIN,
            addrs: PerAddr::default(),
            trim_armed: false,
            grown: Vec::new(),
            paused_for_memory: VecDeque::new(),
            memory_deadline: None,
            log_limit: LogLimit::default(),
            oversized: Vec::with_capacity(OVERSIZED_LEN),
            around: Buf::default(),
            is_traced: false,
            shutting_down: false,
            shutdown_turn_max: None,
            stopped: false,
            config,
        })
    }

    /// Takes note of an event. No I/O, no callback: the entry is served with the ready queue.
    #[inline]
    pub(crate) fn note_events(&mut self) {
        let Self {
            poller,
            entries,
            ready,
            stats,
            ..
        } = self;
        let count = poller.for_each_event(|event| note(entries, ready, event));
        stats.events += count as u64;
    }

    /// Begins to serve the entries that wait.
    #[inline]
    pub(crate) fn begin_turn(&mut self) {
        self.ready.begin_turn();
        self.is_traced = log::log_enabled!(target: TRACED, log::Level::Trace);
    }

    /// Looks at an entry of the round that is no plain connection, and takes it out of the queue.
    pub(crate) fn look_at_ready(&mut self, token: Token) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(token).ok()?;
        entry.flags_mut().remove(State::QUEUED);
        Some(entry)
    }

    /// Puts an entry at the back of the ready queue, unless it stands there.
    #[inline]
    pub(crate) fn queue(&mut self, token: Token) {
        if let Some(flags) = self.entries.flags_mut(token)
            && !flags.intersects(State::QUEUED)
        {
            flags.insert(State::QUEUED);
            self.ready.push(token);
        }
    }

    /// Whether the next turn has work without any event.
    pub(crate) fn has_work(&self) -> bool {
        !(self.ready.is_empty() && self.to_flush.is_empty() && self.dead.is_empty())
    }

    /// The clock was read, as once in every turn.
    #[inline]
    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
        if self.stamps_moments {
            self.stamp = Stamp::at(self.since_epoch());
        }
    }

    pub(crate) fn since_epoch(&self) -> Duration {
        self.now.saturating_duration_since(self.epoch)
    }

    /// Arms the one timer that shrinks what has grown, while there is something to shrink, here or
    /// elsewhere.
    #[inline]
    pub(crate) fn arm_trim(&mut self, elsewhere: bool) {
        let is_over_base = elsewhere
            || self.pool.is_over_base()
            || self.out.capacity() > OUT_LEN_BASE
            || !self.grown.is_empty()
            || !self.oversized.is_empty();
        if is_over_base && !self.trim_armed {
            self.trim_armed = true;
            self.set_task(TRIM_AFTER, Task::Trim);
        }
    }

    /// Gives back memory that was not used since the last time.
    pub(crate) fn trim(&mut self) {
        self.trim_armed = false;
        self.pool.trim();
        self.spare_queues.trim();
        self.trim_datagrams();
        self.trim_oversized();
        let out_peak = std::mem::take(&mut self.out_peak);
        if self.out.is_empty() && self.out.capacity() > OUT_LEN_BASE.max(2 * out_peak) {
            self.out = Buf::with_capacity(OUT_LEN_BASE.max(out_peak));
        }
    }

    #[inline]
    pub(crate) fn conn(&self, token: Token) -> Result<&Connection, Gone> {
        self.entries.conn(token)
    }

    #[inline]
    pub(crate) fn conn_mut(&mut self, token: Token) -> Result<&mut Connection, Gone> {
        self.entries.conn_mut(token)
    }

    pub(crate) fn listener_mut(&mut self, id: ListenerId) -> Result<&mut ListenerEntry, Gone> {
        self.entries.listener_mut(id)
    }

    pub(crate) fn udp_mut(&mut self, id: UdpId) -> Result<&mut UdpEntry, Gone> {
        self.entries.udp_mut(id)
    }

    /// The mark of a connection whose callbacks are measured, where they are.
    pub(crate) fn timed(&self) -> State {
        State::TIMED.given(self.config.slow_callback_min.is_some())
    }

    /// A callback took that long, as somebody wants to know.
    #[cold]
    pub(crate) fn note_callback(
        &mut self,
        name: &'static str,
        of: Option<SocketId>,
        took: Duration,
    ) {
        self.stats.callback_time += took;
        if let Some(SocketId::Conn(conn)) = of {
            self.callback_times.add(conn.0, took);
        }
        if self
            .config
            .slow_callback_min
            .is_some_and(|slow| took >= slow)
        {
            self.stats.slow_callbacks += 1;
            if let Some(suppressed) = self.log_limit.pass(LogTopic::Slow, self.now) {
                match of {
                    Some(of) => log::warn!("{name} of {of} took {took:?}{suppressed}"),
                    None => log::warn!("{name} took {took:?}{suppressed}"),
                }
            }
        }
    }

    pub(crate) fn local_addr(&self, id: SocketId) -> io::Result<Addr> {
        match self.entry(id)? {
            Entry::Conn(conn) => conn.stream.local_addr(),
            Entry::Listener(entry) => entry.listener.local_addr(),
            Entry::Udp(entry) => entry.udp.local_addr(),
            #[cfg(unix)]
            Entry::UnixDatagram(entry) => entry.socket.local_addr(),
        }
    }

    pub(crate) fn options(&self, id: SocketId) -> io::Result<socket2::SockRef<'_>> {
        match self.entry(id)? {
            Entry::Conn(conn) => conn.stream.options(),
            Entry::Listener(entry) => Ok(entry.listener.options()),
            Entry::Udp(entry) => Ok(entry.udp.options()),
            #[cfg(unix)]
            Entry::UnixDatagram(entry) => Ok(entry.socket.options()),
        }
    }

    fn entry(&self, id: SocketId) -> Result<&Entry, Gone> {
        self.entries.get(id.token())
    }
}

#[inline]
fn note(entries: &mut Entries, ready: &mut ReadyQueue, event: Event<'_>) {
    let Some((token, flags)) = entries.of_poll(event.token()) else {
        return;
    };
    let is_queued = flags.intersects(State::QUEUED);
    flags.insert(flags_of(event) | State::QUEUED);
    if !is_queued {
        ready.push(token);
    }
}

/// What an event makes known. After an end, both directions have something to tell.
#[inline]
fn flags_of(event: Event<'_>) -> State {
    if event.has_ended() {
        let both = State::READABLE | State::WRITABLE | State::END_HINT;
        return both | State::HUNG_UP.given(event.has_hung_up());
    }
    State::READABLE.given(event.is_readable()) | State::WRITABLE.given(event.is_writable())
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("entries", &self.entries.len())
            .field("ready", &self.ready)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
