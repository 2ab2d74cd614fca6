//! What was counted.

use std::time::Duration;

/// What one connection has carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConnStats {
    /// Calls of read, those that would have blocked included.
    pub reads: u64,
    /// Bytes that reads gave, headers included.
    pub read_bytes: u64,
    /// Bytes that the kernel took, headers included.
    pub written_bytes: u64,
    /// Frames delivered to `on_frame`.
    pub frames_in: u64,
    /// Payloads that `send` accepted.
    pub frames_out: u64,
    /// Time spent in its callbacks but for `on_close`, measured as [`Stats::callback_time`] is.
    pub callback_time: Duration,
}

impl ConnStats {
    /// As [`Stats::frames_per_read`], of this connection.
    #[must_use]
    pub fn frames_per_read(&self) -> f64 {
        ratio(self.frames_in, self.reads)
    }

    /// As [`Stats::reads_per_frame`], of this connection.
    #[must_use]
    pub fn reads_per_frame(&self) -> f64 {
        ratio(self.reads, self.frames_in)
    }
}

/// What the entry of a connection counts for its [`ConnStats`]; its reads stand beside it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ConnCounts {
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) frames_in: u64,
    pub(crate) frames_out: u64,
}

/// What a reactor has done since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Turns of the loop.
    pub turns: u64,
    /// Events that the poll brought.
    pub events: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that `connect` opened, and those that were adopted.
    pub connected: u64,
    /// Connections that were accepted and closed at once, as there were too many.
    pub refused: u64,
    /// Failed calls of accept, `WouldBlock` not counted.
    pub accept_errors: u64,
    /// Connections that have ended, failed connects included.
    pub closed: u64,
    /// Frames delivered to `on_frame`.
    pub frames_in: u64,
    /// Frames that came in more than one read, or were cut by the end of one: TCP cut them.
    pub frames_split: u64,
    /// Those of them whose header was cut.
    pub headers_split: u64,
    /// Frames that were too long and were skipped, each told to `on_skipped`.
    pub frames_skipped: u64,
    /// Payloads that `send` accepted.
    pub frames_out: u64,
    /// Calls of read on connections, those that would have blocked included.
    pub reads: u64,
    /// Calls of write on connections, those that would have blocked included.
    pub writes: u64,
    /// Bytes that reads gave.
    pub read_bytes: u64,
    /// Bytes that writes took.
    pub written_bytes: u64,
    /// Bytes accepted by `send` that the kernel never took, of the connections that have ended.
    pub unsent_bytes: u64,
    /// Bytes read that were never delivered, of the connections that have ended.
    pub undecoded_bytes: u64,
    /// Datagrams delivered to `on_datagram`.
    pub datagrams_in: u64,
    /// Datagrams that the kernel took.
    pub datagrams_out: u64,
    /// Bytes of the datagrams delivered.
    pub datagram_bytes_in: u64,
    /// Bytes of the datagrams that the kernel took.
    pub datagram_bytes_out: u64,
    /// Datagrams delivered that were truncated.
    pub datagrams_truncated: u64,
    /// Datagrams that were refused by a full queue, failed to be sent, or were queued when their
    /// socket was closed.
    pub datagrams_dropped: u64,
    /// Time spent in callbacks, where [`Config::slow_callback_min`](crate::Config::slow_callback_min) asks
    /// for it to be measured. For frames, the time to decode them is in it.
    pub callback_time: Duration,
    /// Callbacks that took as long as that or longer.
    pub slow_callbacks: u64,
    /// Connections that there are at present, in whatever state.
    pub connections: usize,
    /// Bytes that all connections and sockets hold at present, as
    /// [`Config::memory_bytes_max`](crate::Config::memory_bytes_max) counts them.
    pub held_bytes: usize,
    /// Connections and sockets with work that waits for the next turn, as a budget has put it off.
    pub ready: usize,
    /// Timers that are set at present: the handler's, and the few that the reactor itself needs.
    pub timers: usize,
    /// Errors of UDP sockets, each told to `on_datagram_error`.
    pub datagram_errors: u64,
}

impl Stats {
    /// How many frames a read brought, on average: above one, TCP or their sender has glued them.
    /// Zero where nothing was read.
    #[must_use]
    pub fn frames_per_read(&self) -> f64 {
        ratio(self.frames_in, self.reads)
    }

    /// How many reads a frame took, on average. Zero where no frame came.
    #[must_use]
    pub fn reads_per_frame(&self) -> f64 {
        ratio(self.reads, self.frames_in)
    }
}

fn ratio(one: u64, other: u64) -> f64 {
    if other == 0 {
        return 0.0;
    }
    one as f64 / other as f64
}
