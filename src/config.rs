//! Limits and budgets, each with its default and the reason for it.

use std::time::Duration;

use crate::setters::field_setters;

mod check;

/// Limits and budgets of a reactor.
///
/// These fields and [`Framing::frame_len_max`](crate::Framing::frame_len_max) bound everything that
/// a peer could make grow. A *budget* is the work allowed per turn; further work waits for the next
/// turn. A *limit* is a maximum: bytes, connections or posts that exceed it are rejected.
///
/// Each field has a method of the same name that sets it, for example:
///
/// ```
/// use std::time::Duration;
/// use unstick::Config;
///
/// let config = Config::new()
///     .connections_max(10_000)
///     .write_high_bytes(1 << 20)
///     .idle_timeout(Duration::from_secs(60));
/// ```
///
/// # Memory of one connection
///
/// A connection holds at most the sum of `read_len_max`, one frame and `write_queue_bytes_max`,
/// counted in bytes received or sent. The sizes of the buffers are powers of two, and can be larger
/// than their content:
///
/// * The buffer of an incomplete frame has at most eight times the bytes that have arrived.
/// * If the buffer of the previous frame is used again, it may have 64 KiB for one second.
///
/// An idle connection holds no buffer.
///
/// # Errors
///
/// [`Reactor::with_config`](crate::Reactor::with_config) rejects a value outside the range of its
/// field with `InvalidInput`. The error names the field, its value and the bound, such as
/// `connections_max is 0, but must be at least 1`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Maximum length of one read, in bytes. Allowed: 1 to 1 GiB. A value above `read_budget_bytes`
    /// counts as `read_budget_bytes`.
    ///
    /// Default: 260 KiB, which fits sixteen frames of 16 KiB, or one frame of 256 KiB, with their
    /// headers. All reads share one buffer, except those that continue a long frame. The shared
    /// buffer starts with 68 KiB and grows, up to this limit, if more data arrives at once.
    pub read_len_max: usize,
    /// Number of bytes that one connection may read per turn. At least 1.
    ///
    /// Default: 260 KiB, one read of the default `read_len_max`, so that a fast peer does not delay
    /// other connections for longer than one read.
    pub read_budget_bytes: usize,
    /// Number of frames that one connection may be delivered per turn. At least 1.
    ///
    /// Default: 1,024. A budget in bytes alone does not bound the work, because an empty frame can
    /// have one byte and still takes one callback.
    pub frame_budget: usize,
    /// Number of connections that one listener may accept per turn. At least 1.
    ///
    /// Default: 64, so that a burst of new connections does not delay the open connections.
    pub accept_budget: usize,
    /// Number of datagrams that one socket may receive per turn. At least 1.
    ///
    /// Default: 64, so that a flood of datagrams does not delay the other sockets. With
    /// `datagram_batches`, a socket may receive more datagrams in a turn.
    pub datagram_budget: usize,
    /// High watermark of a write queue, in bytes.
    ///
    /// Above the high watermark, `send` still accepts payloads but returns
    /// [`Sent::AboveHigh`](crate::Sent), and the connection is not read until the queue has drained
    /// (see `read_above_high`). Must be at least `write_low_bytes` and at most
    /// `write_queue_bytes_max`.
    ///
    /// Default: 260 KiB, the maximum length of one read. So the echo of one read does not exceed
    /// the watermark and does not stop the reading.
    pub write_high_bytes: usize,
    /// Low watermark of a write queue, in bytes.
    ///
    /// When a queue that was above the high watermark goes down to this value, it has drained:
    /// reading resumes and [`on_drained`](crate::Handler::on_drained) is called.
    ///
    /// Default: 64 KiB, so that the socket still has output while the handler produces more.
    pub write_low_bytes: usize,
    /// True if a connection is read while its write queue is above the high watermark.
    ///
    /// If true, only the handler bounds the queue: after [`Sent::AboveHigh`](crate::Sent) it must
    /// [pause](crate::Context::pause) the source of the output. A proxy needs this option, because
    /// the source is another connection. Without the option, two peers that wait for each other's
    /// output would wait forever.
    ///
    /// Default: false, because most output is the reply to a frame of the same connection.
    pub read_above_high: bool,
    /// Maximum size of a write queue, in bytes. If a payload would make the queue exceed this size,
    /// the payload is rejected with [`SendError::Full`](crate::SendError). At least 1, and at least
    /// `write_high_bytes`. To set a maximum below 260 KiB, lower `write_high_bytes` and
    /// `write_low_bytes` too.
    ///
    /// Output is written at the end of a dispatch or of a turn, so the queue holds everything that
    /// one turn sends to one connection. For example, if 100 members of a chat each send a line in
    /// one turn, the queue of every member must hold 100 lines, even if all of them read fast.
    ///
    /// Default: 16 MiB, which is sixteen times the default frame limit.
    pub write_queue_bytes_max: usize,
    /// Maximum number of bytes that all connections and sockets may hold together. At least
    /// `write_low_bytes`: otherwise a single slow reader would stop all connections.
    ///
    /// The limit counts the buffers of incomplete or undelivered input, queued output and queued
    /// datagrams. A payload that several queues share is counted once for each queue.
    ///
    /// * At the limit, no connection is read, and `send` fails with
    ///   [`SendError::Full`](crate::SendError). Connections that are closing still send their
    ///   output and discard their input.
    /// * When less than seven eighths of the limit are in use, the connections are read again, in
    ///   the order in which they stopped. Connections whose output was rejected get
    ///   [`on_drained`](crate::Handler::on_drained).
    /// * The last read with the replies to its frames, or the last payload, may exceed the limit by
    ///   at most the [memory of one connection](Config#memory-of-one-connection).
    ///
    /// Default: no limit, because only the program knows how much memory it may use. A server that
    /// unknown clients can reach needs a limit: see [`for_public_server`](Self::for_public_server).
    pub memory_bytes_max: usize,
    /// Maximum time for which `memory_bytes_max` may be used up.
    ///
    /// After this time, the connections that hold the most memory are aborted with
    /// [`CloseReason::MemoryFull`](crate::CloseReason) until enough memory is free. Otherwise peers
    /// that send incomplete frames or read nothing could block all other connections forever.
    ///
    /// Default: 10 s.
    pub memory_deadline: Duration,
    /// Maximum number of connections that are open at the same time, whether accepted, connected or
    /// adopted. At least 1.
    ///
    /// A connection accepted beyond this number is closed at once, counted in
    /// [`Stats::refused`](crate::Stats::refused) and reported to
    /// [`on_refused`](crate::Handler::on_refused). A connect beyond this number fails.
    ///
    /// Default: 1,000,000; in practice the descriptor limit applies first.
    pub connections_max: usize,
    /// Maximum number of open connections that were accepted from one IP address. At least 1.
    ///
    /// Further connections are closed and reported as for `connections_max`. All addresses of an
    /// IPv6 /64 network count as one, because a single host may use any of them. An IPv4 address
    /// counts as one address, whether it appears as IPv4 or mapped into IPv6.
    ///
    /// Default: no limit, because thousands of hosts may share one address behind a NAT. With a
    /// limit, each address that has a connection takes about 40 bytes.
    pub connections_per_addr_max: usize,
    /// Maximum number of connections that are in a TLS handshake, or that exchange other bytes that
    /// are not frames. At least 1.
    ///
    /// The limit applies only to accepted connections. If it is reached, a further connection that
    /// does not open at once is closed and reported as refused.
    ///
    /// Default: 4,096. A handshake holds up to about 20 KB, so all handshakes take about 80 MB.
    pub preparing_max: usize,
    /// Number of connections whose TLS handshake may continue per turn. At least 1.
    ///
    /// Default: 4. One step of a handshake takes up to a millisecond, so a flood of handshakes
    /// delays the other connections by a few milliseconds. The rest of a turn costs only
    /// microseconds if there is no other work, so the budget does not limit the handshakes per
    /// second.
    #[cfg(feature = "tls")]
    pub tls_handshake_budget: usize,
    /// Time allowed for a TLS handshake. When it has passed, the connection is closed with
    /// [`CloseReason::TlsHandshakeTimeout`](crate::CloseReason::TlsHandshakeTimeout). Must not be
    /// zero.
    ///
    /// Default: 10 s, enough for several retries of a lost packet. A silent peer counts towards
    /// `preparing_max` until this time has passed.
    #[cfg(feature = "tls")]
    pub tls_handshake_timeout: Duration,
    /// Maximum length of a received datagram, in bytes. A longer datagram is delivered truncated
    /// and marked as [truncated](crate::Datagram::truncated). At most 65,535.
    ///
    /// Default: 65,535, the maximum of UDP.
    pub datagram_len_max: usize,
    /// True to receive and send many datagrams with one system call. This works on Linux with the
    /// crate's feature `udp-batch`, which is on by default; elsewhere the field has no effect.
    ///
    /// Batches change no boundaries, order or errors of datagrams, but have two side effects:
    ///
    /// * The sockets have `UDP_GRO` set. Code that reads from such a socket outside the reactor may
    ///   get several datagrams as one.
    /// * A turn may receive more than `datagram_budget` datagrams. The kernel of a sender may
    ///   combine up to 64 datagrams, which are then received together. After them, the budget
    ///   applies again.
    ///
    /// A sandbox or an old kernel may reject these system calls. Then datagrams are received and
    /// sent one by one, and one log line reports this.
    ///
    /// Default: true, because one system call per datagram limits the throughput.
    pub datagram_batches: bool,
    /// Maximum size of a socket's queue of outgoing datagrams, in bytes. Each datagram counts as
    /// its length plus 64 bytes, so a queue with a maximum below 64 accepts no datagram.
    ///
    /// A datagram that would make the queue exceed this size is dropped, and `send_to` fails with
    /// [`SendError::Full`](crate::SendError).
    ///
    /// Default: 1 MiB, about 700 datagrams of 1,400 bytes.
    pub datagram_queue_bytes_max: usize,
    /// Number of timers that may fire per turn. At least 1.
    ///
    /// Default: 1,024, so that many timers due at once do not delay the sockets.
    pub timer_budget: usize,
    /// Time for which an idle turn polls in a loop before the thread sleeps. `None` and zero turn
    /// busy polling off.
    ///
    /// Busy polling uses processor time to reduce latency: an event is handled without the
    /// microseconds that the kernel takes to wake a thread. Set the time longer than the usual
    /// pause between two messages. With [`Duration::MAX`] the thread never sleeps. Busy polling
    /// does not delay timers and posts.
    ///
    /// Default: `None`, because busy polling occupies a whole processor.
    pub busy_poll: Option<Duration>,
    /// Maximum number of closures and payloads from other threads that wait for the loop. At least
    /// 1.
    ///
    /// The loop takes the whole queue at once. While the taken posts wait to run, the queue can
    /// fill up again, so up to twice this number may wait. If the queue is full, posting fails with
    /// [`PostError::Full`](crate::PostError).
    ///
    /// Default: 65,536, which bounds the memory if threads post faster than the loop runs.
    pub posts_max: usize,
    /// Number of closures and payloads from other threads that run per turn. At least 1.
    ///
    /// Default: 1,024, so that threads that post as fast as they can do not delay sockets and
    /// timers.
    pub post_budget: usize,
    /// Time allowed for a connect, for all addresses of a name together. Must not be zero.
    ///
    /// Default: 30 s, enough for several retries of a lost first packet.
    pub connect_deadline: Duration,
    /// Time allowed after [`close`](crate::Context::close) for sending the queued output and for
    /// the peer to end its side. When this time has passed, the connection is aborted. Its reason
    /// is [`CloseReason::CloseTimeout`](crate::CloseReason::CloseTimeout), unless a timeout had
    /// closed it.
    ///
    /// The timeouts `idle_timeout`, `read_idle_timeout` and `frame_deadline` close a connection in
    /// this way. If the peer has vanished, `on_close` follows `close_deadline` after such a
    /// timeout.
    ///
    /// Default: 10 s, so that a peer that never closes does not keep a descriptor for long.
    pub close_deadline: Duration,
    /// Time without any input or output after which a connection is closed. Must not be zero. At
    /// most 48 days; a longer time counts as `None`. A shorter `read_idle_timeout`, such as that of
    /// [`for_public_server`](Self::for_public_server), closes the connection first.
    ///
    /// The connection is closed by [`close`](crate::Context::close). If the peer has vanished,
    /// [`on_close`](crate::Handler::on_close) follows [`close_deadline`](Self::close_deadline)
    /// later.
    ///
    /// Default: `None`, because some protocols are silent for hours.
    pub idle_timeout: Option<Duration>,
    /// Time without any input after which a connection is closed, even if this side sends output.
    /// Must not be zero. At most 48 days; a longer time counts as `None`.
    ///
    /// `idle_timeout` is restarted by output too, so a server that sends regularly keeps a silent
    /// peer forever. Set this timeout for a peer that must send something at intervals. An MQTT
    /// client, for example, may be silent for one and a half times its keep-alive time (MQTT 3.1.1,
    /// 3.1.2.10). Set it for one connection with [`set_limits`](crate::Context::set_limits).
    ///
    /// The connection is closed by [`close`](crate::Context::close). If the peer has vanished,
    /// [`on_close`](crate::Handler::on_close) follows [`close_deadline`](Self::close_deadline)
    /// later.
    ///
    /// Any byte counts as input, even if its frame is incomplete. A peer does not count as silent
    /// in two cases: its input waits because the connection is not read, or the peer has ended its
    /// side.
    ///
    /// Default: `None`, because in many protocols one side only listens.
    pub read_idle_timeout: Option<Duration>,
    /// Time allowed from the first byte of a frame to its last byte, no matter how many bytes
    /// arrive in between. When this time has passed, the connection is closed. If the reactor stops
    /// reading the connection within the frame, for example for a pause, the time starts again when
    /// reading resumes. Must not be zero. At most 48 days; a longer time counts as `None`.
    ///
    /// The connection is closed by [`close`](crate::Context::close), which waits for the peer, at
    /// most for [`close_deadline`](Self::close_deadline).
    ///
    /// Default: `None`, because a suitable time depends on the largest frame and on the slowest
    /// legitimate peer. A server on the public internet should set this deadline.
    pub frame_deadline: Option<Duration>,
    /// Time without progress after which a connection with queued output is aborted. Progress means
    /// that the kernel took some of the output. Must not be zero. At most 48 days; a longer time
    /// counts as `None`. An abort does not wait for the peer.
    ///
    /// Default: `None`, because a suitable time depends on the slowest legitimate peer. A server on
    /// the public internet should set this timeout.
    pub write_stall_timeout: Option<Duration>,
    /// Duration from which a callback counts as slow. If set, the time of every callback is
    /// measured and added to [`Stats::callback_time`](crate::Stats::callback_time).
    ///
    /// A slow callback is reported in the log with its name and connection, at most once a second.
    /// No other connection makes progress while a callback runs.
    ///
    /// Default: `None`, so that no clock is read for callbacks.
    pub slow_callback_min: Option<Duration>,
    /// True to send small writes at once (`TCP_NODELAY`).
    ///
    /// Default: true. The reactor combines the output of a turn itself, so Nagle's algorithm is not
    /// needed. That algorithm costs 40 ms if the peer delays its acknowledgements (RFC 896).
    pub nodelay: bool,
    /// Number of connections that the kernel may queue for a listener before they are accepted. At
    /// least 1. The kernel limits the number to its own maximum: `net.core.somaxconn` on Linux,
    /// 4,096 by default since Linux 5.4 and 128 before.
    ///
    /// If the queue is full, the kernel drops further connects. The clients try again after a
    /// second, and the reactor is not notified.
    /// [The guide](crate::guide::tuning#the-backlog-of-a-listener) shows how to count the drops.
    ///
    /// Default: 4,096, so that a burst of connects between two turns fits into the queue.
    pub backlog: u32,
    /// Maximum number of events in a [recording](crate::cutmap). If this number is reached, the
    /// oldest events are discarded. Zero records nothing.
    ///
    /// Each event takes 64 bytes. No memory is used until recording begins.
    ///
    /// Default: 65,536, about one minute at 1,000 events a second.
    pub recording_events_max: usize,
    /// Maximum size of the free buffers that are kept permanently, in bytes. Free buffers that
    /// exceed this size are released if they were not used for one second.
    ///
    /// Default: 1 MiB, which avoids allocations in the steady state and costs little.
    pub pool_bytes_max: usize,
}

/// Limits of a single connection, set by [`Context::set_limits`](crate::Context::set_limits).
///
/// Each field replaces the field of [`Config`] with that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Overrides [`Config::write_high_bytes`].
    pub write_high_bytes: usize,
    /// Overrides [`Config::write_low_bytes`].
    pub write_low_bytes: usize,
    /// Overrides [`Config::write_queue_bytes_max`].
    pub write_queue_bytes_max: usize,
    /// Overrides [`Config::idle_timeout`].
    pub idle_timeout: Option<Duration>,
    /// Overrides [`Config::read_idle_timeout`].
    pub read_idle_timeout: Option<Duration>,
    /// Overrides [`Config::frame_deadline`].
    pub frame_deadline: Option<Duration>,
    /// Overrides [`Config::write_stall_timeout`].
    pub write_stall_timeout: Option<Duration>,
    /// Overrides [`Config::close_deadline`].
    pub close_deadline: Duration,
}

/// Methods that set one field each.
impl Limits {
    field_setters! {
        Limits:
        write_high_bytes: usize,
        write_low_bytes: usize,
        write_queue_bytes_max: usize,
        close_deadline: Duration;
        optional:
        idle_timeout: Duration,
        read_idle_timeout: Duration,
        frame_deadline: Duration,
        write_stall_timeout: Duration,
    }
}

/// Default length of a read: a payload of 256 KiB, plus 4 KiB for its header.
const READ_LEN: usize = 260 * 1024;

impl Default for Config {
    fn default() -> Self {
        Self {
            read_len_max: READ_LEN,
            read_budget_bytes: READ_LEN,
            frame_budget: 1024,
            accept_budget: 64,
            datagram_budget: 64,
            write_high_bytes: READ_LEN,
            write_low_bytes: 64 * 1024,
            read_above_high: false,
            write_queue_bytes_max: 16 << 20,
            memory_bytes_max: usize::MAX,
            memory_deadline: Duration::from_secs(10),
            connections_max: 1_000_000,
            connections_per_addr_max: usize::MAX,
            preparing_max: 4096,
            #[cfg(feature = "tls")]
            tls_handshake_budget: 4,
            #[cfg(feature = "tls")]
            tls_handshake_timeout: Duration::from_secs(10),
            datagram_len_max: 65_535,
            datagram_batches: true,
            datagram_queue_bytes_max: 1 << 20,
            timer_budget: 1024,
            busy_poll: None,
            posts_max: 65_536,
            post_budget: 1024,
            connect_deadline: Duration::from_secs(30),
            close_deadline: Duration::from_secs(10),
            idle_timeout: None,
            read_idle_timeout: None,
            frame_deadline: None,
            write_stall_timeout: None,
            slow_callback_min: None,
            nodelay: true,
            backlog: 4096,
            recording_events_max: 65_536,
            pool_bytes_max: 1 << 20,
        }
    }
}

/// Methods that set one field each.
impl Config {
    /// Creates the default configuration.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates the configuration of a server that unknown clients can reach.
    ///
    /// `memory_bytes_max` is the memory that the buffers of all connections and sockets may use
    /// together. It must be at least `write_low_bytes` (64 KiB). A good value is half of the memory
    /// that the process may use, and many times the longest frame.
    ///
    /// The default configuration bounds each connection, but not all of them together, and the
    /// timeouts in the table are off. Any number of clients can then each hold a long unfinished
    /// frame or unread output until the process runs out of memory. This configuration differs from
    /// the default in these fields:
    ///
    /// | field | value | reason |
    /// |---|---|---|
    /// | `memory_bytes_max` | the argument | clients cannot use up the memory of the process |
    /// | `memory_deadline` | 1 ms | clients that hold the most memory are aborted at once |
    /// | `connections_max` | one for each 4 KiB of memory, at least 64 | each connection needs memory |
    /// | `write_queue_bytes_max` | a quarter of the memory, from 260 KiB to 16 MiB | one client cannot use all memory |
    /// | `read_idle_timeout` | 60 s | a silent client frees its place |
    /// | `frame_deadline` | 30 s | a frame that is sent byte by byte does not keep its memory |
    /// | `write_stall_timeout` | 30 s | a client that does not read frees its place and its memory |
    ///
    /// A protocol whose clients are silent for longer than 60 s needs a longer `read_idle_timeout`,
    /// or heart-beats. An example is a chat, whose members may only listen: output does not restart
    /// `read_idle_timeout`. A longer `idle_timeout` has no effect, because `read_idle_timeout`
    /// passes first.
    ///
    /// Two other limits depend on the clients, and keep their default values. Set these limits too
    /// if you can:
    ///
    /// * The longest frame: [`Framing::frame_len_max`](crate::Framing::frame_len_max), 1 MiB by
    ///   default.
    /// * [`connections_per_addr_max`](Self::connections_per_addr_max): without this limit, one
    ///   client can use all connections. But many clients can share one address.
    ///
    /// # Examples
    ///
    /// ```
    /// use unstick::{Config, Framing, Reactor};
    /// # use unstick::{ConnId, Context, Handler};
    /// # struct Echo;
    /// # impl Handler for Echo {
    /// #     type Session = ();
    /// #     fn on_frame(&mut self, cx: &mut Context<Self>, id: ConnId, _: &mut (), frame: &[u8]) {
    /// #         let _ = cx.send(id, frame);
    /// #     }
    /// # }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let config = Config::for_public_server(256 << 20).connections_per_addr_max(100);
    /// let mut reactor = Reactor::with_config(Echo, config)?;
    /// reactor.listen("127.0.0.1:0", Framing::length_u32().frame_len_max(64 * 1024))?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn for_public_server(memory_bytes_max: usize) -> Self {
        let default = Self::default();
        Self {
            memory_bytes_max,
            memory_deadline: Duration::from_millis(1),
            connections_max: (memory_bytes_max / 4096).clamp(64, default.connections_max),
            write_queue_bytes_max: (memory_bytes_max / 4)
                .clamp(default.write_high_bytes, default.write_queue_bytes_max),
            read_idle_timeout: Some(Duration::from_secs(60)),
            frame_deadline: Some(Duration::from_secs(30)),
            write_stall_timeout: Some(Duration::from_secs(30)),
            ..default
        }
    }

    field_setters! {
        Config:
        read_len_max: usize,
        read_budget_bytes: usize,
        frame_budget: usize,
        accept_budget: usize,
        datagram_budget: usize,
        write_high_bytes: usize,
        write_low_bytes: usize,
        read_above_high: bool,
        write_queue_bytes_max: usize,
        memory_bytes_max: usize,
        memory_deadline: Duration,
        connections_max: usize,
        connections_per_addr_max: usize,
        preparing_max: usize,
        #[cfg(feature = "tls")]
        tls_handshake_budget: usize,
        #[cfg(feature = "tls")]
        tls_handshake_timeout: Duration,
        datagram_len_max: usize,
        datagram_batches: bool,
        datagram_queue_bytes_max: usize,
        timer_budget: usize,
        posts_max: usize,
        post_budget: usize,
        connect_deadline: Duration,
        close_deadline: Duration,
        nodelay: bool,
        backlog: u32,
        recording_events_max: usize,
        pool_bytes_max: usize;
        optional:
        busy_poll: Duration,
        idle_timeout: Duration,
        read_idle_timeout: Duration,
        frame_deadline: Duration,
        write_stall_timeout: Duration,
        slow_callback_min: Duration,
    }
}

impl Config {
    /// Returns the default limits of a connection.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            write_high_bytes: self.write_high_bytes,
            write_low_bytes: self.write_low_bytes,
            write_queue_bytes_max: self.write_queue_bytes_max,
            idle_timeout: self.idle_timeout,
            read_idle_timeout: self.read_idle_timeout,
            frame_deadline: self.frame_deadline,
            write_stall_timeout: self.write_stall_timeout,
            close_deadline: self.close_deadline,
        }
    }
}

#[cfg(test)]
mod tests;
