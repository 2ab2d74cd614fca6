//! Counters of a connection and of a reactor.

use std::time::Duration;

/// Counters of one connection, from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConnStats {
    /// Number of read calls, including those that would have blocked.
    pub reads: u64,
    /// Bytes read, including framing.
    pub read_bytes: u64,
    /// Bytes taken by the kernel, including framing. With TLS, plaintext counts once it is
    /// encrypted. If it is then lost, it no longer counts.
    pub written_bytes: u64,
    /// Number of frames delivered to `on_frame`.
    pub frames_in: u64,
    /// Number of payloads accepted by `send`.
    pub frames_out: u64,
    /// Time spent in callbacks about this connection, without `on_close`. Zero unless
    /// [`Config::slow_callback_min`](crate::Config::slow_callback_min) is set.
    pub callback_time: Duration,
}

impl ConnStats {
    /// Returns the average number of frames per read of this connection; zero if it was never read.
    ///
    /// A value above one means that frames arrived glued together.
    #[must_use]
    pub fn frames_per_read(&self) -> f64 {
        ratio(self.frames_in, self.reads)
    }

    /// Returns the average number of reads per frame of this connection; zero if no frame arrived.
    #[must_use]
    pub fn reads_per_frame(&self) -> f64 {
        ratio(self.reads, self.frames_in)
    }
}

/// Counters that the entry of a connection keeps for its [`ConnStats`]. The entry counts the reads
/// in another field.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ConnCounts {
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) frames_in: u64,
    pub(crate) frames_out: u64,
}

/// Counters of a reactor, from its creation, and a few current values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Number of turns of the loop.
    pub turns: u64,
    /// Number of events returned by the poll.
    pub events: u64,
    /// Number of connections accepted and not refused at once.
    pub accepted: u64,
    /// Number of connections opened by `connect` or adopted.
    pub connected: u64,
    /// Number of accepted connections that were closed before they opened, for one of the reasons
    /// of [`Refusal`](crate::Refusal).
    pub refused: u64,
    /// Number of failed accept calls, without `WouldBlock`.
    pub accept_errors: u64,
    /// Number of preparations that began. In a preparation, a connection exchanges bytes that are
    /// not frames, such as a TLS handshake, before [`on_open`] or in mid-stream.
    ///
    /// [`on_open`]: crate::Handler::on_open
    pub preparations: u64,
    /// Number of preparations during which the connection ended; included in `preparations`.
    pub preparations_failed: u64,
    /// Number of preparations that took too long; included in `preparations_failed`.
    pub preparations_timed_out: u64,
    /// Number of TLS handshakes that began. A handshake of an accepted connection begins when its
    /// first byte arrives.
    pub tls_handshakes: u64,
    /// Number of TLS handshakes that succeeded.
    pub tls_established: u64,
    /// Number of TLS handshakes that resumed an earlier session; included in `tls_established`.
    pub tls_resumed: u64,
    /// Number of TLS sessions that failed with [`CloseReason::Tls`], during or after the handshake.
    ///
    /// [`CloseReason::Tls`]: crate::CloseReason
    pub tls_failed: u64,
    /// Number of TLS sessions that the peer ended without a `close_notify`.
    pub tls_truncated: u64,
    /// Number of connections that ended, including failed connects.
    pub closed: u64,
    /// Number of frames delivered to `on_frame`.
    pub frames_in: u64,
    /// Number of frames that were cut: they arrived in more than one read.
    pub frames_split: u64,
    /// Number of frames whose header was cut; included in `frames_split`.
    pub headers_split: u64,
    /// Number of frames that were too long and were skipped; each was reported to `on_skipped`.
    pub frames_skipped: u64,
    /// Bytes of connections that lie between frames and belong to no frame. These are the bytes of
    /// [`Framing::skip_between`](crate::Framing::skip_between), and bytes that a custom codec skips
    /// with [`Step::Skip`](crate::Step::Skip). The latter count when the codec returns the step.
    pub filler_bytes: u64,
    /// Number of payloads accepted by `send`.
    pub frames_out: u64,
    /// Number of read calls on connections, including those that would have blocked.
    pub reads: u64,
    /// Number of write calls on connections, including those that would have blocked.
    pub writes: u64,
    /// Bytes read from connections, including framing.
    pub read_bytes: u64,
    /// Bytes of connections taken by the kernel, including framing. With TLS, plaintext counts once
    /// it is encrypted. If it is then lost, it no longer counts, so the value can decrease.
    pub written_bytes: u64,
    /// Bytes accepted by `send` that the kernel never took; counted when a connection ends.
    pub unsent_bytes: u64,
    /// Bytes read that were never delivered; counted when a connection ends.
    pub undecoded_bytes: u64,
    /// Number of datagrams delivered to `on_datagram` or `on_unix_datagram`.
    pub datagrams_in: u64,
    /// Number of datagrams taken by the kernel.
    pub datagrams_out: u64,
    /// Bytes of delivered datagrams.
    pub datagram_bytes_in: u64,
    /// Bytes of datagrams taken by the kernel.
    pub datagram_bytes_out: u64,
    /// Number of delivered datagrams that were truncated.
    pub datagrams_truncated: u64,
    /// Number of outgoing datagrams that were lost. They were rejected because the queue or the
    /// memory budget was full, could not be sent, or were still queued when their socket was
    /// closed.
    pub datagrams_dropped: u64,
    /// Time spent in callbacks, including the time to decode the frames passed to them. Zero unless
    /// [`Config::slow_callback_min`](crate::Config::slow_callback_min) is set.
    pub callback_time: Duration,
    /// Number of callbacks that took at least
    /// [`Config::slow_callback_min`](crate::Config::slow_callback_min).
    pub slow_callbacks: u64,
    /// Current number of connections, in any state.
    pub connections: usize,
    /// Current number of connections in a preparation; included in `connections`.
    pub preparing: usize,
    /// Bytes currently held by all connections and sockets, counted as for
    /// [`Config::memory_bytes_max`](crate::Config::memory_bytes_max).
    pub held_bytes: usize,
    /// Current number of connections, listeners and datagram sockets that wait for their dispatch,
    /// in this turn or the next.
    pub ready: usize,
    /// Current number of timers: those of the handler and a few of the reactor itself.
    pub timers: usize,
    /// Number of datagrams that a connected socket dropped, because the sender is not the socket's
    /// peer. The kernel received these datagrams before the connect.
    pub datagrams_filtered: u64,
    /// Number of datagrams that the kernel dropped because the receive buffer of their socket was
    /// full. Zero unless [`UdpOptions::count_overflows`] is set.
    ///
    /// [`UdpOptions::count_overflows`]: crate::UdpOptions::count_overflows
    pub datagrams_overflowed: u64,
    /// Number of datagrams dropped because their header of the PROXY protocol is missing or
    /// invalid, or because their sender is not trusted.
    pub datagrams_refused: u64,
    /// Number of errors of datagram sockets. Each was reported to `on_datagram_error` or
    /// `on_unix_datagram_error`.
    pub datagram_errors: u64,
}

impl Stats {
    /// Returns the average number of frames per read; zero if nothing was read.
    ///
    /// A value above one means that frames arrived glued together.
    #[must_use]
    pub fn frames_per_read(&self) -> f64 {
        ratio(self.frames_in, self.reads)
    }

    /// Returns the average number of reads per frame; zero if no frame arrived.
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
