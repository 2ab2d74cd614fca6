//! [`Reactor`]: the loop.

mod clock;
mod dispatch;
#[cfg(test)]
mod stress;
#[cfg(test)]
mod tests;
mod udp;
#[cfg(unix)]
mod unix_datagram;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use crate::addr::{Addr, ToAddrs};
use crate::codec::Framing;
use crate::config::Config;
use crate::context::Sessions;
use crate::context::{Context, not_inet};
use crate::datagram::RecvBatch;
use crate::engine::{Drained, Engine, Entry, Task};
use crate::handler::Handler;
use crate::id::{ConnId, ListenerId, SocketId, Token, UdpId};
use crate::memory::ReadBuffer;
use crate::os::Os;
use crate::remote::{Inlet, Posted, Remote};
use crate::stats::Stats;
use clock::Since;

/// A single-threaded event loop that holds TCP listeners, connections and UDP sockets, and a
/// [`Handler`] that it calls.
///
/// Run it with [`run`](Reactor::run), or take single turns of it from a loop of your own with
/// [`turn`](Reactor::turn).
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
/// println!("listening on {}", reactor.local_inet_addr(listener)?);
/// # reactor.remote().shutdown(std::time::Duration::ZERO)?;
/// reactor.run()
/// # }
/// ```
pub struct Reactor<H: Handler> {
    engine: Engine,
    handler: H,
    sessions: Sessions<H::Session>,
    /// What one read is put into; frames are slices of it.
    read_buffer: ReadBuffer,
    recv_batch: RecvBatch,
    inlet: Inlet<H>,
    /// What other threads posted that was taken and has not run yet.
    posted: VecDeque<Posted<H>>,
}

impl<H: Handler> Reactor<H> {
    /// A reactor with the default limits and budgets.
    ///
    /// # Errors
    ///
    /// What the system answered to the request for a poll: it needs two descriptors.
    pub fn new(handler: H) -> io::Result<Self> {
        Self::with_config(handler, Config::default())
    }

    /// A reactor with limits and budgets of your own.
    ///
    /// # Errors
    ///
    /// As for [`new`](Reactor::new), and `InvalidInput` where the limits contradict each other.
    pub fn with_config(handler: H, config: Config) -> io::Result<Self> {
        Self::with_os(handler, config, Os::real()?)
    }

    /// Creates a reactor on the given operating system, real or simulated.
    pub(crate) fn with_os(handler: H, config: Config, os: Os) -> io::Result<Self> {
        let posts_max = config.posts_max;
        let engine = Engine::new(config, os)?;
        let read_buffer = ReadBuffer::new(engine.config.read_len_max);
        let inlet = Inlet::new(engine.os.waker(), posts_max);
        let posted = VecDeque::new();
        Ok(Self {
            engine,
            handler,
            sessions: Sessions::new(),
            read_buffer,
            recv_batch: RecvBatch::default(),
            inlet,
            posted,
        })
    }

    /// Takes turns until [`Context::stop`], or until a [`Context::shutdown`] is done.
    ///
    /// # Errors
    ///
    /// What the poll answered, if the system refuses it. Nothing that a peer does ends it.
    pub fn run(&mut self) -> io::Result<()> {
        let _parks = self.inlet.parks();
        self.engine.stopped = false;
        while !self.engine.stopped && !self.engine.is_shut_down() {
            self.take_turn(None)?;
        }
        Ok(())
    }

    /// Takes one turn: waits for events, at most for `timeout` (`None`: until there is one), and
    /// serves what is there. In this order:
    ///
    /// 1. The time to wait: none while an entry is ready, else up to the next timer or `timeout`.
    /// 2. The poll. A signal does not end it early.
    /// 3. Events are noted: each marks its entry and queues it. No I/O, no callback.
    /// 4. The entries that are queued are served once around: accepted, read, decoded, written,
    ///    each within its budget. Whoever is cut short by it goes to the back of the queue.
    /// 5. Timers that are due fire, and what other threads posted is run, each within its budget.
    /// 6. Output that was queued for other connections is flushed, once for all of it: behind the
    ///    timers and closures, so that theirs goes out in the same turn.
    /// 7. Entries that have ended are reaped: `on_close` is called, and their keys are free.
    /// 8. Where memory was short and is no more, those that waited for it are let on: in the next
    ///    turn they are read.
    ///
    /// # Errors
    ///
    /// What the poll answered, if the system refuses it.
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let _parks = self.inlet.parks();
        self.take_turn(timeout)
    }

    fn take_turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.wait(timeout)?; // 1 and 2
        self.engine.note_events(); // 3
        self.engine.begin_turn();
        while let Some(token) = self.engine.next_ready() {
            self.serve(token); // 4
        }
        self.fire_timers(); // 5
        self.run_posted();
        for _ in 0..self.engine.to_flush_count() {
            self.flush_next(); // 6
        }
        for _ in 0..self.engine.dead_count() {
            self.reap_next(); // 7
        }
        if self.engine.paused_for_memory_count() > 0 {
            self.resume_paused_for_memory(); // 8
        }
        self.engine.arm_trim(self.read_buffer.is_over_base());
        self.engine.stats.turns += 1;
        Ok(())
    }

    /// How long a loop of your own may wait before it takes the next [`turn`](Reactor::turn), if
    /// nothing happens: zero where a budget has cut the last one short, up to the next timer where
    /// one is set, and `None` for as long as it likes. What happens meanwhile makes the poll's
    /// descriptor readable: events of sockets, and closures from other threads.
    ///
    /// It holds until something is asked of the reactor, by a turn or by
    /// [`with`](Reactor::with). No system call, but for the clock.
    ///
    /// # Examples
    ///
    /// See [the guide](crate::guide::embedding).
    #[must_use]
    pub fn next_turn_in(&self) -> Option<Duration> {
        let engine = &self.engine;
        if engine.has_work() || !self.posted.is_empty() || engine.os.was_full() {
            return Some(Duration::ZERO);
        }
        let since_turn = engine.os.now().saturating_duration_since(engine.now);
        let timer = engine.time_to_next_timer()?;
        Some(timer.saturating_sub(since_turn))
    }

    /// Enters from outside of a callback: for a first `connect`, or to look at something between
    /// two turns.
    pub fn with<R>(&mut self, enter: impl FnOnce(&mut H, &mut Context<'_, H>) -> R) -> R {
        self.engine.set_now(self.engine.os.now());
        let Self {
            engine,
            handler,
            sessions,
            ..
        } = self;
        enter(handler, &mut Context { engine, sessions })
    }

    /// [`Context::listen`], from outside of a callback.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn listen(&mut self, addr: impl ToAddrs, framing: Framing) -> io::Result<ListenerId> {
        self.with(|_, cx| cx.listen(addr, framing))
    }

    /// [`Context::bind_udp`], from outside of a callback.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn bind_udp(&mut self, addr: impl ToSocketAddrs) -> io::Result<UdpId> {
        self.with(|_, cx| cx.bind_udp(addr))
    }

    /// [`Context::connect`], from outside of a callback.
    pub fn connect(&mut self, addr: impl ToAddrs, framing: Framing, session: H::Session) -> ConnId {
        self.with(|_, cx| cx.connect(addr, framing, session))
    }

    /// [`Context::local_inet_addr`], from outside of a callback.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn local_inet_addr(&self, socket: impl Into<SocketId>) -> io::Result<SocketAddr> {
        self.local_addr(socket)?.inet().ok_or_else(not_inet)
    }

    /// [`Context::local_addr`], from outside of a callback.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn local_addr(&self, socket: impl Into<SocketId>) -> io::Result<Addr> {
        self.engine.local_addr(socket.into())
    }

    /// The way in for other threads.
    #[must_use]
    pub fn remote(&self) -> Remote<H> {
        self.inlet.remote()
    }

    /// The handler.
    #[must_use]
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// The handler, to change.
    pub fn handler_mut(&mut self) -> &mut H {
        &mut self.handler
    }

    /// Ends the reactor and gives the handler back. Sockets that are open are closed as they are:
    /// to end gently, [`Context::shutdown`] first.
    #[must_use]
    pub fn into_handler(self) -> H {
        self.handler
    }

    /// What the reactor has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Whether a shutdown is done: everything is closed and told of.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        self.engine.is_shut_down()
    }

    /// Phases 1 and 2: how long to wait, and the wait. Reads the turn's clock at its end.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let engine = &mut self.engine;
        let mut left = if engine.has_work() || !self.posted.is_empty() {
            Some(Duration::ZERO)
        } else {
            timeout
        };
        if left != Some(Duration::ZERO) && (left.is_some() || !engine.wheel.is_empty()) {
            // A wait with an end begins now: the last turn may be long ago.
            engine.set_now(engine.os.now());
        }
        if let Some(busy) = engine.config.busy_poll
            && left != Some(Duration::ZERO)
        {
            let before = engine.now;
            if self.poll_busily(busy, left)? {
                return Ok(());
            }
            let spent = self.engine.now.saturating_duration_since(before);
            left = left.map(|left| left.saturating_sub(spent));
        }
        let engine = &mut self.engine;
        loop {
            let wait = shorter(left, engine.time_to_next_timer());
            let may_block = wait != Some(Duration::ZERO) && self.inlet.fall_asleep();
            let wait = if may_block {
                wait
            } else {
                Some(Duration::ZERO)
            };
            let result = engine.os.wait(wait);
            if may_block {
                self.inlet.awake();
            }
            let before = engine.now;
            engine.set_now(engine.os.now());
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    let waited = engine.now.saturating_duration_since(before);
                    left = left.map(|left| left.saturating_sub(waited));
                }
                result => return result,
            }
        }
    }

    /// Phase 2, where latency is bought: asks the poll without waiting, for as long as `busy` or as
    /// `left` and the next timer allow. Answers whether the turn has something to do, or is over.
    fn poll_busily(&mut self, busy: Duration, left: Option<Duration>) -> io::Result<bool> {
        /// A look at the clock costs a tenth of a poll.
        const POLLS_PER_LOOK: u32 = 8;
        let Self { engine, inlet, .. } = self;
        // What is posted from here on is seen without a wake-up.
        inlet.awake();
        let wait = shorter(left, engine.time_to_next_timer());
        let busy = wait.map_or(busy, |wait| wait.min(busy));
        // Where nothing bounds the wait, the turn's clock may be old.
        let mut began = wait.map(|_| engine.now);
        loop {
            for _ in 0..POLLS_PER_LOOK {
                match engine.os.wait(Some(Duration::ZERO)) {
                    Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                    _ if engine.os.has_events() || inlet.is_pending() => {
                        engine.set_now(engine.os.now());
                        return Ok(true);
                    }
                    _ => {}
                }
            }
            engine.set_now(engine.os.now());
            let began = *began.get_or_insert(engine.now);
            let spent = engine.now.saturating_duration_since(began);
            if spent >= busy {
                return Ok(wait.is_some_and(|wait| spent >= wait));
            }
        }
    }

    /// Gives back memory that was not used since the last time.
    fn trim(&mut self) {
        self.engine.trim();
        self.read_buffer.trim();
    }

    /// Phase 5, for the timers that are due now. One that is set by a callback waits for a later
    /// turn, also with a delay of zero.
    fn fire_timers(&mut self) {
        if self.engine.wheel.is_empty() {
            return;
        }
        self.engine.note_due_timers();
        for _ in 0..self.engine.config.timer_budget {
            let Some((id, task)) = self.engine.next_due() else {
                return;
            };
            match task {
                Task::User { key } => {
                    let Self {
                        engine,
                        handler,
                        sessions,
                        ..
                    } = self;
                    let since = Since::now(engine);
                    handler.on_timer(&mut Context { engine, sessions }, id, key);
                    since.end(engine, "on_timer", None);
                }
                Task::Deadline(token) => self.engine.deadline_passed(token),
                Task::Check(token) => self.engine.check_timeouts(token),
                Task::AcceptRetry => self.engine.accept_retry_due(),
                Task::Trim => self.trim(),
                Task::Memory => self.engine.memory_deadline_passed(),
                Task::Shutdown => self.engine.shutdown_deadline_passed(),
            }
        }
    }

    /// Phase 5, for what other threads posted up to now.
    fn run_posted(&mut self) {
        if self.posted.is_empty() {
            if !self.inlet.is_pending() {
                return;
            }
            if let Some(deadline) = self.inlet.take(&mut self.posted) {
                self.engine.shutdown(deadline);
            }
        }
        let Self {
            engine,
            handler,
            sessions,
            posted,
            ..
        } = self;
        let mut budget = engine.config.post_budget;
        while budget > 0 {
            match posted.front_mut() {
                Some(Posted::Run(closures)) => {
                    let since = Since::now(engine);
                    if closures.run_next(handler, &mut Context { engine, sessions }) {
                        since.end(engine, "a posted closure", None);
                        budget -= 1;
                        continue;
                    }
                }
                Some(Posted::Send { conn, payload }) => {
                    budget -= 1;
                    // First, so that what makes a codec panic is not tried again.
                    let (conn, payload) = (*conn, std::mem::take(payload));
                    posted.pop_front();
                    if let Err(refused) = engine.send_owned(conn.0, payload.into()) {
                        let cx = &mut Context { engine, sessions };
                        let since = Since::now(cx.engine);
                        let payload = refused.payload.into();
                        handler.on_send_refused(cx, conn, payload, refused.error);
                        since.end(cx.engine, "on_send_refused", None);
                    }
                    continue;
                }
                None => return,
            }
            posted.pop_front();
        }
    }

    /// Phase 6, for one entry.
    fn flush_next(&mut self) {
        match self.engine.next_to_flush() {
            Some((token, Entry::Conn(_))) => {
                let drained = self.engine.flush(token);
                self.tell_drained(token, drained);
            }
            Some((token, Entry::Udp(_))) => {
                self.or_queue(token, |reactor| reactor.flush_udp(UdpId(token)));
            }
            // The others have nothing queued.
            Some(_) | None => {}
        }
    }

    /// Phase 7, for one entry.
    fn reap_next(&mut self) {
        let Some((token, closed)) = self.engine.next_dead() else {
            return;
        };
        let Self {
            engine,
            handler,
            sessions,
            ..
        } = self;
        let ended = OnUnwind::new(engine, token, Engine::free);
        if let Some(closed) = closed {
            let session = sessions.take(token.key());
            let engine = &mut *ended.engine;
            let (conn, since) = (ConnId(token), Since::now(engine));
            handler.on_close(&mut Context { engine, sessions }, conn, session, closed);
            since.end(engine, "on_close", Some(conn.into()));
        }
        ended.disarm();
        self.engine.free(token);
    }

    /// Phase 8. One that is told of room may use it up for those behind it: they wait on.
    #[cold]
    fn resume_paused_for_memory(&mut self) {
        for _ in 0..self.engine.paused_for_memory_count() {
            if let Some((token, is_told)) = self.engine.next_paused_for_memory() {
                self.tell_drained(token, Drained(is_told));
            }
        }
        self.engine.arm_memory_deadline();
    }

    /// Calls `on_drained`, and lets a connection be read again that was above its high mark.
    #[inline]
    fn tell_drained(&mut self, token: Token, drained: Drained) {
        if drained == Drained(true) {
            self.call_drained(token);
        }
    }

    #[cold]
    fn call_drained(&mut self, token: Token) {
        self.call(token, "on_drained", |handler, cx, conn, session| {
            handler.on_drained(cx, conn, session)
        });
        self.engine.restart_frame_deadline(token);
        self.engine.queue(token);
    }

    /// Serves a socket that outlives a panic in its callbacks, and that may have more to be served
    /// than it came to then: it is queued again, as no event would tell of that.
    fn or_queue(&mut self, token: Token, serve: impl FnOnce(&mut Self)) {
        struct Unserved<'a, H: Handler>(&'a mut Reactor<H>, Token);

        impl<H: Handler> Drop for Unserved<'_, H> {
            fn drop(&mut self) {
                self.0.engine.queue(self.1);
            }
        }

        let unserved = Unserved(self, token);
        serve(&mut *unserved.0);
        std::mem::forget(unserved);
    }

    /// Calls a callback about one connection, with its session.
    fn call(
        &mut self,
        token: Token,
        name: &'static str,
        callback: impl FnOnce(&mut H, &mut Context<'_, H>, ConnId, &mut H::Session),
    ) {
        let Self {
            engine,
            handler,
            sessions,
            ..
        } = self;
        let called = OnUnwind::new(engine, token, Engine::handler_panicked);
        let mut session = sessions.take(token.key());
        let engine = &mut *called.engine;
        let (conn, since) = (ConnId(token), Since::now(engine));
        callback(
            handler,
            &mut Context { engine, sessions },
            conn,
            &mut session,
        );
        since.end(engine, name, Some(conn.into()));
        called.disarm();
        sessions.put(token.key(), session);
    }
}

/// The shorter of two times to wait, of which either may be endless.
#[inline]
fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Leaves the engine as it should be where a callback panics: dropped by unwinding, it does what
/// the code behind the callback would have done.
struct OnUnwind<'a> {
    engine: &'a mut Engine,
    token: Token,
    recover: fn(&mut Engine, Token),
}

impl<'a> OnUnwind<'a> {
    #[inline]
    fn new(engine: &'a mut Engine, token: Token, recover: fn(&mut Engine, Token)) -> Self {
        Self {
            engine,
            token,
            recover,
        }
    }

    /// It owns nothing: forgotten, it leaves nothing behind.
    #[inline]
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for OnUnwind<'_> {
    fn drop(&mut self) {
        (self.recover)(self.engine, self.token);
    }
}

/// The poll's descriptor: readable when a turn has events, so that another loop can watch it, as
/// [the guide](crate::guide::embedding) shows. Nothing may be done with it but to watch it.
#[cfg(unix)]
impl<H: Handler> std::os::fd::AsFd for Reactor<H> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.engine.os.as_fd()
    }
}

/// As for [`AsFd`](std::os::fd::AsFd).
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
