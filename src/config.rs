//! Limits and budgets, each with its default and the reason for it.

use std::io;
use std::time::Duration;

/// Limits and budgets of a reactor.
///
/// Everything that a peer or a busy program could make grow is bounded by one of these.
///
/// ```
/// let mut config = unstick::Config::default();
/// config.connections_max = 10_000;
/// config.write_high_bytes = 1 << 20;
/// ```
///
/// What one connection may hold is at most `read_len_max`, plus one frame, plus
/// `write_queue_bytes_max`, in bytes that have come or were sent; the buffers that they lie in are
/// powers of two, and may be up to eight times as large as a frame's first bytes, or for a second
/// as large as those of the frame before, up to 64 KiB. A connection that idles holds nothing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The most bytes that one read asks for.
    ///
    /// 260 KiB: a whole batch of 16 KiB frames fits, or one of 256 KiB with its header. The one
    /// buffer that all reads share has 68 KiB as long as no more comes at once, and at most this.
    pub read_len_max: usize,
    /// The most bytes that one connection reads before the others have their turn. 260 KiB.
    pub read_budget_bytes: usize,
    /// The most frames that one connection is delivered before the others have their turn.
    ///
    /// 1,024: a flood of empty frames costs a byte and a callback each, so bytes alone do not bound
    /// the work.
    pub frame_budget: usize,
    /// The most connections that one listener accepts in a turn. 64.
    pub accept_budget: usize,
    /// The most datagrams that one socket receives in a turn. 64.
    pub datagram_budget: usize,
    /// Above this many queued bytes `send` answers [`Sent::AboveHigh`](crate::Sent), and the
    /// connection is read no more until it drained.
    ///
    /// 260 KiB: as much as one read can bring in, so that an echo of it does not stop the reading.
    pub write_high_bytes: usize,
    /// At or below this many queued bytes a connection that was above its high mark has drained.
    /// 64 KiB.
    pub write_low_bytes: usize,
    /// More queued bytes than this are refused with [`SendError::Full`](crate::SendError).
    /// 16 MiB: sixteen of the largest frames.
    pub write_queue_bytes_max: usize,
    /// The most bytes that all connections and sockets may hold together: input that is unfinished
    /// or was not delivered, by the buffers that it lies in, queued output and queued datagrams. A
    /// payload that several queues share counts in each.
    ///
    /// At the limit, connections are read no more, and what is sent is refused with
    /// [`SendError::Full`](crate::SendError); below seven eighths of it they are read again, in the
    /// order in which they were stopped, and `on_drained` comes for those that were refused. The
    /// last that is read or accepted before may take it above the limit, by no more than what
    /// [one connection may hold](Config). Connections that are closing are flushed as ever.
    ///
    /// No limit by default, as only the program knows how much its machine can spare; a server that
    /// strangers reach should set it, to many times the longest frame.
    pub memory_bytes_max: usize,
    /// How long all connections together may be at `memory_bytes_max`. Then those that hold the most are
    /// aborted, with [`CloseReason::MemoryFull`](crate::CloseReason), until there is room: peers
    /// that send halves of frames or read nothing could else stop everybody for good. 10 s.
    pub memory_deadline: Duration,
    /// The most connections at a time, accepted and connected. More are accepted and closed at
    /// once, counted as refused and told to [`on_refused`](crate::Handler::on_refused). A million,
    /// where descriptors end first.
    pub connections_max: usize,
    /// The most connections at a time that are accepted from one IP address; more are refused like
    /// those beyond `connections_max`. An IPv6 address stands for its /64, within which a single
    /// host may choose; an IPv4 address is the same whether it comes as IPv6 or not. No limit by
    /// default, as one address may stand for thousands behind a NAT. With a limit, each address
    /// that has a connection takes some 40 bytes.
    pub connections_per_addr_max: usize,
    /// The longest datagram that is received whole; a longer one is cut and told of as truncated.
    /// 65,535, the most that UDP can carry.
    pub datagram_len_max: usize,
    /// Receives and sends many datagrams with one system call where the system can: on Linux, with
    /// the crate's feature `udp-batch`, which is on by default. True.
    ///
    /// No boundary, order or error is changed by it. But the sockets have `UDP_GRO` set: whoever
    /// reads from one past the reactor may be given several datagrams as one. And a turn may
    /// receive more than `datagram_budget`: what a sender handed to its kernel as one, up to 64
    /// datagrams, is not cut. Where that goes on the budget holds.
    pub datagram_batches: bool,
    /// More queued bytes of datagrams than this, each counted with 64 bytes for itself, are
    /// refused with [`SendError::Full`](crate::SendError). 1 MiB.
    pub datagram_queue_bytes_max: usize,
    /// The most timers that fire in a turn; the rest is due in the next. 1,024.
    pub timer_budget: usize,
    /// For how long a turn that finds nothing to do asks the poll again and again before it lets
    /// the thread sleep. None by default, and where it is zero.
    ///
    /// It buys latency with a processor: what comes while the thread is awake is seen without the
    /// time that the kernel takes to wake it, some microseconds, and the thread is never idle for
    /// as long. A time longer than the usual pause between two messages does it; with
    /// [`Duration::MAX`] it never sleeps. Timers and posts are served as promptly as ever.
    pub busy_poll: Option<Duration>,
    /// The most closures and payloads that wait for the loop to take them from other threads; as
    /// many again may be taken and not have run yet. 65,536.
    pub posts_max: usize,
    /// The most of them that run in a turn; the rest is run in the next. 1,024: threads that post
    /// as fast as they can do not keep sockets and timers waiting.
    pub post_budget: usize,
    /// How long a connect may take, with all the addresses of a name. 30 s.
    pub connect_deadline: Duration,
    /// How long a closed connection may take to flush its output and see the peer's end. 10 s.
    pub close_deadline: Duration,
    /// Closes a connection over which nothing came or went for this long. None by default: some
    /// protocols are silent for hours. At most 48 days; longer counts as none, as for the two
    /// below.
    pub idle_timeout: Option<Duration>,
    /// Closes a connection whose peer takes longer than this from a frame's first byte to its last,
    /// whatever it trickles in between. The time in which the connection is paused does not count.
    /// None by default, as it depends on the largest frame and the slowest honest peer; a server
    /// that strangers reach should set it.
    pub frame_deadline: Option<Duration>,
    /// Aborts a connection that has output queued of which the peer took nothing for this long.
    /// None by default; a server that strangers reach should set it.
    pub write_stall_timeout: Option<Duration>,
    /// Measures how long each callback takes, adds it up in
    /// [`Stats::callback_time`](crate::Stats::callback_time), and warns in the log, at most once a
    /// second, of one that took as long as this or longer, with its name and its connection: while
    /// it ran, nobody else was active. None by default: then no clock is read for it.
    pub slow_callback_min: Option<Duration>,
    /// Sends small writes at once (`TCP_NODELAY`). On, as the reactor gathers a turn's output
    /// itself, and Nagle's algorithm against delayed acknowledgements costs 40 ms (RFC 896).
    pub nodelay: bool,
    /// The listen backlog asked of the kernel, which caps it by its own limit. 4,096.
    pub backlog: u32,
    /// The most events that a [recording](crate::cutmap) holds; beyond them the oldest make room.
    /// Zero records nothing. Each takes 72 bytes, and none is held until something is observed.
    /// 65,536: a minute of a thousand frames a second.
    pub recording_events_max: usize,
    /// Bytes of free buffers that are kept for good. Beyond them, what was not used for a second is
    /// given back. 1 MiB.
    pub pool_bytes_max: usize,
}

/// The limits that a single connection may have of its own, by
/// [`Context::set_limits`](crate::Context::set_limits).
///
/// Each is what the field of the same name is in [`Config`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// [`Config::write_high_bytes`].
    pub write_high_bytes: usize,
    /// [`Config::write_low_bytes`].
    pub write_low_bytes: usize,
    /// [`Config::write_queue_bytes_max`].
    pub write_queue_bytes_max: usize,
    /// [`Config::idle_timeout`].
    pub idle_timeout: Option<Duration>,
    /// [`Config::frame_deadline`].
    pub frame_deadline: Option<Duration>,
    /// [`Config::write_stall_timeout`].
    pub write_stall_timeout: Option<Duration>,
}

impl Limits {
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.write_low_bytes > self.write_high_bytes
            || self.write_high_bytes > self.write_queue_bytes_max
        {
            return Err(invalid(
                "write_low_bytes <= write_high_bytes <= write_queue_bytes_max must hold".to_owned(),
            ));
        }
        Ok(())
    }
}

/// What one read asks for by default: 256 KiB of payload, and what stands around it.
const READ_LEN: usize = 260 * 1024;
/// The largest `read_len_max`: one peer that sends much can have the buffer grow to it.
const READ_LEN_MAX: usize = 1 << 30;

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
            write_queue_bytes_max: 16 << 20,
            memory_bytes_max: usize::MAX,
            memory_deadline: Duration::from_secs(10),
            connections_max: 1_000_000,
            connections_per_addr_max: usize::MAX,
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

impl Config {
    pub(crate) fn check(&self) -> io::Result<()> {
        let positive = [
            ("read_len_max", self.read_len_max),
            ("read_budget_bytes", self.read_budget_bytes),
            ("frame_budget", self.frame_budget),
            ("accept_budget", self.accept_budget),
            ("datagram_budget", self.datagram_budget),
            ("timer_budget", self.timer_budget),
            ("posts_max", self.posts_max),
            ("memory_bytes_max", self.memory_bytes_max),
            ("post_budget", self.post_budget),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(invalid(format!("{name} must be at least 1")));
        }
        if self.datagram_len_max > 65_535 || self.read_len_max > READ_LEN_MAX {
            return Err(invalid(
                "datagram_len_max is at most 65,535, and read_len_max at most 1 GiB".to_owned(),
            ));
        }
        self.limits().check()
    }

    /// The limits of a connection that has none of its own.
    #[inline]
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            write_high_bytes: self.write_high_bytes,
            write_low_bytes: self.write_low_bytes,
            write_queue_bytes_max: self.write_queue_bytes_max,
            idle_timeout: self.idle_timeout,
            frame_deadline: self.frame_deadline,
            write_stall_timeout: self.write_stall_timeout,
        }
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Framing;
    use crate::memory::Buf;

    #[test]
    fn a_read_takes_256_kib_with_their_header_and_their_echo_does_not_stop_the_reading() {
        let mut frame = Buf::with_capacity(0);
        Framing::length_u64()
            .encode(&[0; 256 * 1024], &mut frame)
            .expect("it is below the limit");
        let config = Config::default();
        let room = [
            config.read_len_max,
            config.read_budget_bytes,
            config.write_high_bytes,
        ];
        assert!(room.iter().all(|room| frame.len() <= *room), "{room:?}");
    }

    #[test]
    fn the_default_passes_its_own_check_and_nonsense_does_not() {
        Config::default().check().expect("the default is sound");
        let nonsense: [fn(&mut Config); 6] = [
            |config| config.read_len_max = usize::MAX,
            |config| config.datagram_len_max = 65_536,
            |config| config.read_len_max = 0,
            |config| config.frame_budget = 0,
            |config| config.write_low_bytes = config.write_high_bytes + 1,
            |config| config.write_high_bytes = config.write_queue_bytes_max + 1,
        ];
        for spoil in nonsense {
            let mut config = Config::default();
            spoil(&mut config);
            let error = config.check().expect_err("nonsense");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
