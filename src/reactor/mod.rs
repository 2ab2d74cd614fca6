//! The event loop: [`Reactor`] and the phases of a turn.

mod callbacks;
mod dispatch;
#[cfg(feature = "signals")]
mod signals;
#[cfg(test)]
mod stress;
mod tasks;
#[cfg(test)]
mod tests;
mod udp;
#[cfg(unix)]
mod unix_datagram;
mod wait;

use std::collections::VecDeque;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;
use std::{fmt, io};

use crate::addr::{Addr, ToAddrs};
use crate::codec::Framing;
use crate::config::Config;
use crate::conn::Watermark;
use crate::context::{Context, Sessions, not_inet};
use crate::datagram::RecvBatch;
use crate::engine::{Engine, Entry};
use crate::handler::Handler;
use crate::id::{ConnId, ListenerId, SocketId, Token, UdpId};
use crate::memory::ReadBuffer;
use crate::os::Os;
use crate::proxy_header::ProxyHeader;
use crate::remote::{Inlet, Posted, Remote};
use crate::stats::Stats;
use callbacks::Callbacks;

/// A single-threaded event loop. It owns TCP listeners, connections, datagram sockets, and the
/// [`Handler`] that it calls.
///
/// [`run`](Reactor::run) runs the loop. [`turn`](Reactor::turn) runs one turn, for a program with
/// its own loop. For everything else, [`with`](Reactor::with) gives access to the [`Context`],
/// which callbacks get too. Its methods send, close, set timers, and open sockets with options.
///
/// # Examples
///
/// ```
/// use unstick::{ConnId, Context, Framing, Handler, Reactor};
///
/// struct Echo;
///
/// impl Handler for Echo {
///     type Session = ();
///
///     fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
///         let _ = cx.send(conn, frame);
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let mut reactor = Reactor::new(Echo)?;
/// let listener = reactor.listen("127.0.0.1:0", Framing::length_u32())?;
/// println!("listening on {}", reactor.local_addr(listener)?);
/// # reactor.remote().shutdown(std::time::Duration::ZERO)?;
/// reactor.run()
/// # }
/// ```
pub struct Reactor<H: Handler> {
    engine: Engine,
    handler: H,
    sessions: Sessions<H::Session>,
    /// The read buffer of all connections. A frame that one read returned whole is usually
    /// delivered as a slice of this buffer.
    read_buffer: ReadBuffer,
    /// The buffer for the datagrams of one receive.
    recv_batch: RecvBatch,
    /// The header of the datagram that is being delivered; kept so that its memory is reused.
    proxy_header: ProxyHeader,
    /// The queue of posts from other threads.
    inlet: Inlet<H>,
    /// Posts of other threads that were taken from `inlet` and have not run yet.
    posted: VecDeque<Posted<H>>,
}

/// Methods that create a reactor and run it.
impl<H: Handler> Reactor<H> {
    /// Creates a reactor with the default configuration.
    ///
    /// # Errors
    ///
    /// The system's error if the poll cannot be created. The poll needs two descriptors.
    pub fn new(handler: H) -> io::Result<Self> {
        Self::with_config(handler, Config::default())
    }

    /// Creates a reactor with a configuration.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`: a field of the configuration has an invalid value; the error names it.
    /// * The system's error if the poll cannot be created. The poll needs two descriptors.
    pub fn with_config(handler: H, config: Config) -> io::Result<Self> {
        Self::with_os(handler, config, Os::real()?)
    }

    /// Creates a reactor on an operating system, real or simulated.
    pub(crate) fn with_os(handler: H, config: Config, os: Os) -> io::Result<Self> {
        let posts_max = config.posts_max;
        let engine = Engine::new(config, os)?;
        let read_buffer = ReadBuffer::new(engine.config.read_len_max);
        let inlet = Inlet::new(engine.os.waker(), posts_max);
        Ok(Self {
            engine,
            handler,
            sessions: Sessions::new(),
            read_buffer,
            recv_batch: RecvBatch::default(),
            proxy_header: ProxyHeader::local(),
            inlet,
            posted: VecDeque::new(),
        })
    }

    /// Runs turns until [`Context::stop`] is called, or until a [`Context::shutdown`] is complete.
    /// A `stop` from before this call has no effect.
    ///
    /// # Errors
    ///
    /// The system's error if the poll fails. No action of a peer ends the loop.
    pub fn run(&mut self) -> io::Result<()> {
        let _park = self.inlet.park_on_drop();
        self.engine.shutdown.is_stopped = false;
        while !self.engine.shutdown.is_stopped && !self.engine.is_shut_down() {
            self.run_turn(None)?;
        }
        Ok(())
    }

    /// Runs one turn: waits for events and handles them. `timeout` is the maximum time of the wait;
    /// `None` sets no maximum. On Linux and Windows, the system waits for whole milliseconds,
    /// rounded up, so a wait without events may last up to 1 ms longer. The guide has a
    /// [loop](crate::guide::embedding#steps-at-exact-times) that is more exact.
    ///
    /// The phases of a turn, in order:
    ///
    /// 1. Time to wait: zero if work is left, for example because a budget was spent; otherwise the
    ///    time to the next timer, at most `timeout`.
    /// 2. Poll: waits for events. A signal that is not caught does not shorten the wait.
    /// 3. Events: each event marks its entry as ready and queues it. This phase does no I/O and
    ///    calls no callback.
    /// 4. Dispatch: handles each entry of the ready queue once. A listener accepts; a connection is
    ///    read, decoded and written; a datagram socket receives and sends. Each entry has a budget.
    ///    An entry whose budget is spent is queued for the next turn.
    /// 5. Tasks: runs due timers, handles caught signals, and runs posts of other threads. Timers
    ///    and posts each have a budget.
    /// 6. Flush: writes output that is still queued for datagram sockets and connections. The flush
    ///    comes after the timers and posts, so that their output leaves in the same turn.
    /// 7. Reap: frees the connections and sockets that have ended. Before it frees a connection, it
    ///    calls `on_close`.
    /// 8. Resume: connections that were paused for memory resume if memory is available again. They
    ///    are read in the next turn.
    ///
    /// # Errors
    ///
    /// The system's error if the poll fails.
    #[doc(alias("poll", "run_once"))]
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let _park = self.inlet.park_on_drop();
        self.run_turn(timeout)
    }

    fn run_turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.wait(timeout)?; // phases 1 and 2
        self.engine.record_events(); // phase 3
        self.engine.begin_dispatch_phase();
        while let Some(token) = self.engine.queues.ready.pop() {
            self.dispatch(token); // phase 4
        }
        self.run_timers(); // phase 5
        #[cfg(feature = "signals")]
        if self.engine.queues.has_signals() {
            self.run_signals();
        }
        self.run_posted();
        for _ in 0..self.engine.queues.to_flush.len() {
            self.flush_next(); // phase 6
        }
        for _ in 0..self.engine.queues.to_reap.len() {
            self.reap_next(); // phase 7
        }
        if self.engine.paused_for_memory_count() > 0 {
            self.resume_paused_for_memory(); // phase 8
        }
        self.engine.arm_trim(self.read_buffer.is_over_base());
        self.engine.telemetry.stats.turns += 1;
        #[cfg(feature = "metrics")]
        self.engine.measure_turn();
        Ok(())
    }

    /// Returns true if a turn of a simulated reactor has work without a wait.
    #[cfg(feature = "sim")]
    pub(crate) fn is_ready_in_simulation(&self) -> bool {
        self.engine.os.is_sim_ready() || self.next_turn_in() == Some(Duration::ZERO)
    }

    /// Returns true if [`run`](Reactor::run) would have returned: a callback stopped it, or a
    /// shutdown is complete.
    #[cfg(feature = "sim")]
    pub(crate) fn has_ended_in_simulation(&self) -> bool {
        self.engine.shutdown.is_stopped || self.engine.is_shut_down()
    }

    /// Returns the longest time to wait before the next [`turn`](Reactor::turn) if no event
    /// arrives. For a program with its own loop.
    ///
    /// The time is zero if work is left, for example because a budget was spent or because
    /// [`with`](Reactor::with) queued output. It is `None` if no timer is set. Otherwise it is at
    /// most the time to the next timer. It may be shorter, because the timing wheel sorts a distant
    /// timer in one or several earlier turns, which call no callback. For example, it may be 28.7 s
    /// for a timer that is due in 30 s. Socket events and posts of other threads make the
    /// descriptor of the poll readable.
    ///
    /// A poll of the outer loop may round the time up to a whole millisecond, as
    /// [`turn`](Reactor::turn) does.
    ///
    /// The result is valid until the next call of [`turn`](Reactor::turn) or
    /// [`with`](Reactor::with). The method makes no system call, apart from reading the clock.
    ///
    /// # Examples
    ///
    /// See [the guide](crate::guide::embedding).
    #[must_use]
    pub fn next_turn_in(&self) -> Option<Duration> {
        let engine = &self.engine;
        if engine.queues.have_work() || !self.posted.is_empty() || engine.os.was_full() {
            return Some(Duration::ZERO);
        }
        let since_turn = engine.os.now().saturating_duration_since(engine.timers.now);
        let timer = engine.timers.time_to_next()?;
        Some(timer.saturating_sub(since_turn))
    }
}

/// Methods for code outside of callbacks: they open sockets and give access to the handler.
impl<H: Handler> Reactor<H> {
    /// Calls `enter` with the handler and the [`Context`], from outside of a callback. Use it for a
    /// first connect, for sockets with options, or to read state between two turns.
    pub fn with<R>(&mut self, enter: impl FnOnce(&mut H, &mut Context<'_, H>) -> R) -> R {
        self.engine.timers.set_now(self.engine.os.now());
        let Callbacks { handler, mut cx } = self.callbacks();
        enter(handler, &mut cx)
    }

    /// Opens a listener from outside of a callback: see [`Context::listen`].
    ///
    /// # Errors
    ///
    /// Same as [`Context::listen`].
    pub fn listen(&mut self, addr: impl ToAddrs, framing: Framing) -> io::Result<ListenerId> {
        self.with(|_, cx| cx.listen(addr, framing))
    }

    /// Opens a UDP socket from outside of a callback: see [`Context::bind_udp`].
    ///
    /// # Errors
    ///
    /// Same as [`Context::bind_udp`].
    pub fn bind_udp(&mut self, addr: impl ToSocketAddrs) -> io::Result<UdpId> {
        self.with(|_, cx| cx.bind_udp(addr))
    }

    /// Starts to connect from outside of a callback: see [`Context::connect`].
    pub fn connect(&mut self, addr: impl ToAddrs, framing: Framing, session: H::Session) -> ConnId {
        self.with(|_, cx| cx.connect(addr, framing, session))
    }

    /// Returns the local IP address and port of a socket: see [`Context::local_inet_addr`].
    ///
    /// # Errors
    ///
    /// Same as [`Context::local_inet_addr`].
    pub fn local_inet_addr(&self, socket: impl Into<SocketId>) -> io::Result<SocketAddr> {
        self.local_addr(socket)?.inet().ok_or_else(not_inet)
    }

    /// Returns the local address of any socket: see [`Context::local_addr`].
    ///
    /// # Errors
    ///
    /// Same as [`Context::local_addr`].
    pub fn local_addr(&self, socket: impl Into<SocketId>) -> io::Result<Addr> {
        self.engine.local_addr(socket.into())
    }

    /// Returns a [`Remote`], which other threads use to reach this reactor.
    #[must_use]
    pub fn remote(&self) -> Remote<H> {
        self.inlet.remote()
    }

    /// Returns the handler.
    #[must_use]
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// Returns the handler, so that the program can change it.
    pub fn handler_mut(&mut self) -> &mut H {
        &mut self.handler
    }

    /// Drops the reactor and returns the handler. As in any drop of a reactor, open sockets are
    /// closed without a flush and without `on_close`. To close them cleanly, call
    /// [`Context::shutdown`] first.
    #[must_use]
    pub fn into_handler(self) -> H {
        self.handler
    }

    /// Returns the statistics of the reactor since its creation.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Returns true if a shutdown is complete: every socket is closed, and `on_close` has reported
    /// every connection.
    ///
    /// A handler that connects again in each `on_close` cannot prevent the end: the shutdown is
    /// complete at the latest 100 turns after its deadline.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        self.engine.is_shut_down()
    }

    fn callbacks(&mut self) -> Callbacks<'_, H> {
        Callbacks::new(&mut self.handler, &mut self.engine, &mut self.sessions)
    }
}

/// The work of phases 6 to 8 of a turn.
impl<H: Handler> Reactor<H> {
    /// Runs phase 6 for one entry.
    fn flush_next(&mut self) {
        match self.engine.next_to_flush() {
            Some((token, Entry::Conn(_))) => {
                let watermark = self.engine.flush(token);
                self.notify_watermark(token, watermark);
            }
            Some((token, Entry::Udp(entry))) => {
                // All datagrams that were received before the detach are delivered by now.
                if entry.is_detached {
                    entry.state.close_datagrams();
                }
                self.queue_on_panic(UdpId(token), Self::flush_udp);
            }
            // Listeners and Unix datagram sockets have no output to flush.
            Some(_) | None => {}
        }
    }

    /// Runs phase 7 for one entry.
    fn reap_next(&mut self) {
        if let Some((token, closed)) = self.engine.next_to_reap() {
            if let Some(closed) = closed {
                self.callbacks().closed(token, closed);
            }
            self.engine.free(token);
        }
    }

    /// Runs phase 8. If an `on_drained` uses up the memory again, the remaining connections keep
    /// waiting.
    fn resume_paused_for_memory(&mut self) {
        for _ in 0..self.engine.paused_for_memory_count() {
            if let Some((token, watermark)) = self.engine.resume_next_for_memory() {
                self.notify_watermark(token, watermark);
            }
        }
        self.engine.arm_memory_deadline();
    }

    /// Calls `on_drained` if the write queue went down to the low watermark, and resumes reading.
    #[inline(never)]
    fn notify_watermark(&mut self, token: Token, watermark: Watermark) {
        if watermark == Watermark::Drained {
            self.callbacks().drained(token);
            self.engine.restart_frame_deadline(token);
            self.engine.queue(token);
        }
    }
}

/// The descriptor of the poll, for use in another event loop. The descriptor becomes readable when
/// a turn has events to handle: see [the guide](crate::guide::embedding). Do not use it for any
/// other purpose. A reactor of a [simulation](crate::testkit) has no descriptor, so `as_fd` panics.
#[cfg(unix)]
impl<H: Handler> std::os::fd::AsFd for Reactor<H> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.engine.os.as_fd()
    }
}

/// The raw descriptor of the poll; see the implementation of [`AsFd`](std::os::fd::AsFd).
#[cfg(unix)]
impl<H: Handler> std::os::fd::AsRawFd for Reactor<H> {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsFd::as_fd(self).as_raw_fd()
    }
}

impl<H: Handler> fmt::Debug for Reactor<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}
