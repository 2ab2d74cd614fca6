//! Statistics, recordings and log limits: everything that the engine reports about itself.

use std::time::Duration;

use super::Engine;
use super::log_limit::{LogLimit, warn_limited};
use crate::cutmap::Recorder;
use crate::error::Gone;
use crate::id::{SocketId, Token};
use crate::stats::{ConnStats, Stats};

/// The counters, the recorder and the log limit of one engine.
#[derive(Debug)]
pub(crate) struct Telemetry {
    pub(crate) stats: Stats,
    pub(super) callback_times: CallbackTimes,
    /// The recorder of the sockets that are recorded for a cut map.
    pub(super) recorder: Recorder,
    pub(super) log_limit: LogLimit,
    /// True if reads and writes are logged; updated once per turn.
    pub(super) is_traced: bool,
    /// The published metrics; `None` if none are published.
    #[cfg(feature = "metrics")]
    pub(super) metrics: Option<Box<super::metrics::Published>>,
}

impl Telemetry {
    pub(super) fn new(recorder: Recorder) -> Self {
        Self {
            stats: Stats::default(),
            callback_times: CallbackTimes::default(),
            recorder,
            log_limit: LogLimit::default(),
            is_traced: false,
            #[cfg(feature = "metrics")]
            metrics: None,
        }
    }
}

/// The callback time of each connection, indexed by slab key. The times are not stored in the slab,
/// so that they take no memory unless they are measured.
#[derive(Debug, Default)]
pub(super) struct CallbackTimes(Vec<Duration>);

impl CallbackTimes {
    /// Adds the duration of one callback.
    pub(super) fn add(&mut self, token: Token, took: Duration) {
        let key = token.key() as usize;
        if key >= self.0.len() {
            self.0.resize(key + 1, Duration::ZERO);
        }
        self.0[key] += took;
    }

    /// Returns the total time of a connection; zero if it is not measured.
    pub(super) fn of(&self, token: Token) -> Duration {
        let time = self.0.get(token.key() as usize);
        time.copied().unwrap_or_default()
    }

    /// Resets the time of a slab key that is freed.
    pub(super) fn forget(&mut self, token: Token) {
        if let Some(time) = self.0.get_mut(token.key() as usize) {
            *time = Duration::ZERO;
        }
    }
}

impl Engine {
    /// Adds the duration of a callback to the statistics, and logs the callback if it was slow.
    pub(crate) fn callback_returned(
        &mut self,
        name: &'static str,
        socket: Option<SocketId>,
        took: Duration,
    ) {
        #[cfg(feature = "metrics")]
        self.measure_callback(took);
        let telemetry = &mut self.telemetry;
        telemetry.stats.callback_time += took;
        if let Some(SocketId::Conn(conn)) = socket {
            telemetry.callback_times.add(conn.0, took);
        }
        let slow_min = self.config.slow_callback_min;
        if slow_min.is_some_and(|slow_min| took >= slow_min) {
            telemetry.stats.slow_callbacks += 1;
            match socket {
                Some(socket) => {
                    warn_limited!(self, Slow => "slow callback: {name} of {socket} took {took:?}")
                }
                None => warn_limited!(self, Slow => "slow callback: {name} took {took:?}"),
            }
        }
    }

    /// Returns the statistics of one connection, including those of a dispatch in progress.
    pub(crate) fn conn_stats(&self, token: Token) -> Result<ConnStats, Gone> {
        let callback_time = self.telemetry.callback_times.of(token);
        let mut stats = self.conn(token)?.stats(callback_time);
        if self.active.is(token) {
            let (frames_in, frames_out) = self.active.uncounted();
            stats.frames_in += frames_in;
            stats.frames_out += frames_out;
        }
        Ok(stats)
    }

    /// Returns the statistics of the reactor, including those of a dispatch in progress.
    pub(crate) fn stats(&self) -> Stats {
        let counted = self.telemetry.stats;
        let (frames_in, frames_out) = self.active.uncounted();
        Stats {
            frames_in: counted.frames_in + frames_in,
            frames_out: counted.frames_out + frames_out,
            connections: self.admission.connections,
            preparing: self.admission.preparing,
            held_bytes: self.memory.pool.lent_bytes(),
            ready: self.queues.ready.len(),
            timers: self.timers.len(),
            ..counted
        }
    }
}
