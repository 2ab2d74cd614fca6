//! Beginnings and ends: listen, accept, connect, close, abort, reap.
//!
//! An entry that ends is marked, and its key is freed only when it is reaped at the end of the
//! turn: no event, queue or id of this turn can reach somebody else by it.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use super::entry::Dial;
use super::log_limit::LogTopic;
use super::write::give_up_output;
use super::{
    ACCEPT_RETRY_MAX, ACCEPT_RETRY_MIN, Connection, Engine, Entry, ListenerEntry,
    SHUTDOWN_TURNS_MAX, Task, UdpEntry,
};
use crate::addr::{Addr, ToAddrs};
use crate::codec::{Framing, Skipped};
use crate::conn::{Assembler, State};
use crate::datagram::DatagramQueue;
use crate::error::{FrameError, Gone};
use crate::event::Origin;
use crate::event::{CloseReason, Closed, Refusal};
use crate::id::{ConnId, ListenerId, Token, UdpId};
use crate::os::{AcceptFailure, ConnectOptions, ListenOptions, Listener, Stream, Udp, UdpOptions};

/// What one try to accept came to.
#[derive(Debug)]
pub(crate) enum Accepted {
    Conn(ConnId),
    /// One was refused; there may be more.
    Refused(Addr, Refusal),
    /// One was lost; there may be more.
    Again,
    /// None is left, or none can be accepted now.
    Nothing,
}

impl Engine {
    pub(crate) fn listen(
        &mut self,
        addrs: impl ToAddrs,
        framing: Framing,
        options: &ListenOptions,
    ) -> io::Result<ListenerId> {
        self.refuse_when_shutting_down()?;
        let backlog = self.config.backlog;
        let listener = first_ok(addrs.to_addrs()?, |addr| {
            self.os.listen(&addr, options, backlog)
        })?;
        self.add_listener(listener, framing)
    }

    pub(super) fn add_listener(
        &mut self,
        listener: Listener,
        framing: Framing,
    ) -> io::Result<ListenerId> {
        let token = self.entries.insert(|generation| {
            Entry::Listener(Box::new(ListenerEntry {
                listener,
                framing,
                generation,
                flags: State::default(),
            }))
        });
        self.register(token)?;
        Ok(ListenerId(token))
    }

    pub(crate) fn bind_udp(
        &mut self,
        addrs: impl ToSocketAddrs,
        options: &UdpOptions,
    ) -> io::Result<UdpId> {
        self.refuse_when_shutting_down()?;
        let in_batches = self.config.datagram_batches;
        let udp = first_ok(addrs.to_socket_addrs()?, |addr| {
            self.os.bind_udp(addr, options, in_batches)
        })?;
        self.add_udp(udp)
    }

    pub(super) fn add_udp(&mut self, udp: Udp) -> io::Result<UdpId> {
        let token = self.entries.insert(|generation| {
            Entry::Udp(Box::new(UdpEntry {
                udp,
                queue: DatagramQueue::default(),
                counted_bytes: 0,
                queue_peak: 0,
                is_grown: false,
                refused: false,
                generation,
                flags: State::WRITABLE,
            }))
        });
        self.register(token)?;
        Ok(UdpId(token))
    }

    pub(crate) fn connect_udp(&mut self, id: UdpId, peer: impl ToSocketAddrs) -> io::Result<()> {
        let entry = self.udp_mut(id)?;
        first_ok(peer.to_socket_addrs()?, |peer| entry.udp.connect(peer))
    }

    /// Begins to connect. Whatever goes wrong is told when the entry is reaped.
    pub(crate) fn connect(
        &mut self,
        addrs: impl ToAddrs,
        framing: Framing,
        options: &ConnectOptions,
    ) -> ConnId {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0)).into();
        let flags = State::CONNECTING | State::WRITABLE | self.timed();
        let token = self.entries.insert(|generation| {
            Entry::Conn(Connection::new(
                Stream::None,
                unknown,
                framing,
                generation,
                flags,
            ))
        });
        self.connections += 1;
        if let Err(error) = self.begin_connect(token, addrs, options) {
            self.kill(token, CloseReason::ConnectFailed(error));
        }
        ConnId(token)
    }

    fn begin_connect(
        &mut self,
        token: Token,
        addrs: impl ToAddrs,
        options: &ConnectOptions,
    ) -> io::Result<()> {
        self.may_open()?;
        let addrs: VecDeque<_> = addrs.to_addrs()?.collect();
        // Looking a name up may have taken long: what is set from here on counts from its end.
        self.set_now(self.os.now());
        let timeout = options.timeout_or(self.config.connect_deadline);
        let until = self.since_epoch().saturating_add(timeout);
        let dial = Dial {
            addrs,
            options: options.clone(),
            until,
        };
        self.conn_mut(token)?.extras().dial = Some(Box::new(dial));
        self.connect_next(token, no_address())
    }

    /// Tries the next address, for its equal share of the time that is left: one that answers
    /// nothing leaves time for those behind it. `last` is why the one before failed.
    fn connect_next(&mut self, token: Token, mut last: io::Error) -> io::Result<()> {
        /// What events have told of a socket.
        const OF_SOCKET: State = State::READABLE.or(State::END_HINT).or(State::HUNG_UP);
        let now = self.since_epoch();
        let Self { entries, os, .. } = self;
        let conn = entries.conn_mut(token)?;
        conn.stream.close(os);
        // The events so far were the failed socket's.
        conn.flags.remove(OF_SOCKET);
        let mut dial = conn.extras().dial.take();
        while let Some(Dial {
            addrs,
            options,
            until,
        }) = dial.as_deref_mut()
            && let Some(addr) = addrs.pop_front()
        {
            let tries = u32::try_from(1 + addrs.len()).unwrap_or(u32::MAX);
            let share = until.saturating_sub(now) / tries;
            conn.peer = addr;
            let registered = os.connect(&conn.peer, options).and_then(|mut stream| {
                stream.register(os, token.to_poll())?;
                Ok(stream)
            });
            match registered {
                Ok(stream) => {
                    conn.stream = stream;
                    conn.extras().dial = dial;
                    let before = conn.extras().deadline.take();
                    self.cancel(before);
                    let deadline = self.set_task(share, Task::Deadline(token));
                    self.conn_mut(token)?.extras().deadline = Some(deadline);
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Looks how a connect stands, after an event. Answers where the connection came from once it
    /// is open.
    pub(crate) fn finish_connect(&mut self, token: Token) -> Option<Origin> {
        let conn = self.entries.conn_mut(token).ok()?;
        if conn.flags.intersects(State::DEAD) {
            // It was closed after its event had been noted.
            return None;
        }
        match conn.stream.connected() {
            Ok(Some(peer)) => {
                conn.peer = peer;
                conn.flags.remove(State::CONNECTING);
                let extras = conn.extras();
                let deadline = extras.deadline.take();
                extras.dial = None;
                let origin = if extras.adopted {
                    Origin::Adopted
                } else {
                    Origin::Connected
                };
                conn.extras.take_if(|extras| extras.is_empty());
                self.cancel(deadline);
                self.watch(token);
                self.set_nodelay(token);
                self.stats.connected += 1;
                log::debug!("{} connected", ConnId(token));
                Some(origin)
            }
            Ok(None) => None,
            Err(error) => {
                log::debug!("{} to {} failed: {error}", ConnId(token), conn.peer);
                if let Err(error) = self.connect_next(token, error) {
                    self.kill(token, CloseReason::ConnectFailed(error));
                }
                None
            }
        }
    }

    /// Accepts one connection.
    pub(crate) fn accept(&mut self, id: ListenerId) -> Accepted {
        let Ok(entry) = self.listener_mut(id) else {
            return Accepted::Nothing;
        };
        if entry.flags.intersects(State::DEAD | State::PAUSED) {
            return Accepted::Nothing;
        }
        let framing = entry.framing.clone();
        match entry.listener.accept() {
            Ok((stream, peer)) => self.admit(stream, peer, framing),
            Err(error) => self.accept_failed(id, &error),
        }
    }

    /// Makes a connection of a stream that was accepted.
    pub(crate) fn admit(&mut self, stream: Stream, peer: Addr, framing: Framing) -> Accepted {
        let of_addr_max = self.config.connections_per_addr_max;
        let addr = peer.inet().map(|peer| peer.ip());
        let counted = addr.filter(|_| of_addr_max != usize::MAX);
        if self.connections >= self.config.connections_max {
            return self.refuse(peer, Refusal::Connections);
        }
        if counted.is_some_and(|addr| !self.addrs.enter(addr, of_addr_max)) {
            return self.refuse(peer, Refusal::ConnectionsPerAddr);
        }
        let mut flags = State::WRITABLE;
        flags.set(State::ADDR_COUNTED, counted.is_some());
        flags.insert(self.timed());
        let from = peer.clone();
        let token = self.entries.insert(|generation| {
            Entry::Conn(Connection::new(stream, from, framing, generation, flags))
        });
        if let Err(error) = self.register(token) {
            self.stats.accept_errors += 1;
            if let Some(suppressed) = self.log_limit.pass(LogTopic::Accept, self.now) {
                log::warn!("{peer} cannot be watched: {error}{suppressed}");
            }
            if let Some(addr) = counted {
                self.addrs.leave(addr);
            }
            return Accepted::Again;
        }
        self.accept_retry_after = ACCEPT_RETRY_MIN;
        self.connections += 1;
        self.stats.accepted += 1;
        self.watch(token);
        self.set_nodelay(token);
        log::debug!("{} accepted from {peer}", ConnId(token));
        Accepted::Conn(ConnId(token))
    }

    #[cold]
    fn refuse(&mut self, peer: Addr, refusal: Refusal) -> Accepted {
        self.stats.refused += 1;
        if let Some(suppressed) = self.log_limit.pass(LogTopic::Refused, self.now) {
            log::warn!("refused {peer}: {refusal}{suppressed}");
        }
        Accepted::Refused(peer, refusal)
    }

    #[cold]
    fn accept_failed(&mut self, id: ListenerId, error: &io::Error) -> Accepted {
        let failure = AcceptFailure::of(error);
        if failure != AcceptFailure::WouldBlock {
            self.stats.accept_errors += 1;
            if let Some(suppressed) = self.log_limit.pass(LogTopic::Accept, self.now) {
                log::warn!("{id} cannot accept: {error}{suppressed}");
            }
        }
        if failure == AcceptFailure::ThisOne {
            return Accepted::Again;
        }
        if failure == AcceptFailure::Exhausted {
            self.exhausted.push(id);
            if !std::mem::replace(&mut self.accept_retry, true) {
                self.set_task(self.accept_retry_after, Task::AcceptRetry);
            }
        }
        Accepted::Nothing
    }

    /// The timer that listeners are tried again by has fired.
    pub(crate) fn accept_retry_due(&mut self) {
        self.accept_retry = false;
        self.accept_retry_after = (2 * self.accept_retry_after).min(ACCEPT_RETRY_MAX);
        self.retry_accepts();
    }

    /// Tries listeners again that had found no descriptor: on the timer, and after every close.
    fn retry_accepts(&mut self) {
        while let Some(id) = self.exhausted.pop() {
            self.queue(id.0);
        }
    }

    /// Closes gently: what is queued is flushed, then the FIN is sent, and input is discarded until
    /// the peer ends too or the deadline passes. Closing a socket with unread input would make the
    /// kernel send a reset, which destroys what the peer has not read yet (RFC 1122, 4.2.2.13).
    pub(crate) fn close(&mut self, token: Token, reason: CloseReason) {
        let Ok(conn) = self.conn_mut(token) else {
            return;
        };
        if conn.flags.intersects(State::CLOSING | State::DEAD) {
            return;
        }
        if conn
            .flags
            .intersects(State::CONNECTING | State::WRITE_FAILED)
        {
            self.kill(token, reason);
            return;
        }
        conn.flags.insert(State::CLOSING);
        // To discard takes no memory: what its events have told of is read now.
        if conn.flags.set(State::PAUSED_FOR_MEMORY, false) {
            conn.flags.insert(State::READABLE);
        }
        conn.extras().give_reason(reason);
        let deadline = self.set_task(self.config.close_deadline, Task::Deadline(token));
        if let Ok(conn) = self.conn_mut(token) {
            conn.extras().deadline = Some(deadline);
        }
        // The dispatch under way does both at its end; nobody else would.
        if !self.active.is(token) {
            self.flush_later(token);
            self.queue(token);
        }
    }

    /// Ends this side: what is queued is flushed, then the FIN is sent. Input goes on.
    pub(crate) fn half_close(&mut self, token: Token) -> Result<(), Gone> {
        let reason = self.local_reason(token);
        let conn = self.conn_mut(token)?;
        if !conn.flags.intersects(State::STOPS_SENDING) {
            conn.flags.insert(State::ENDING);
            conn.extras().reason.get_or_insert(reason);
            if !self.active.is(token) {
                self.flush_later(token);
            }
        }
        Ok(())
    }

    /// The reason for a close that the handler asked for.
    pub(crate) fn local_reason(&self, token: Token) -> CloseReason {
        match self.conn(token) {
            Ok(conn) if conn.flags.intersects(State::PEER_ENDED) => CloseReason::Peer,
            _ => CloseReason::Local,
        }
    }

    /// Closes with the reason that the bytes from the peer were no frame.
    #[cold]
    pub(crate) fn close_for_frame(&mut self, token: Token, error: FrameError, undecoded: usize) {
        let Ok(conn) = self.conn_mut(token) else {
            return;
        };
        let offset = conn.stats.read_bytes.saturating_sub(undecoded as u64);
        let peer = conn.peer.clone();
        if let Some(suppressed) = self.log_limit.pass(LogTopic::Frame, self.now) {
            log::warn!(
                "closing {} from {peer}: {error}, at byte {offset} of the stream\
                 {suppressed}",
                ConnId(token)
            );
        }
        self.close(token, CloseReason::Frame { error, offset });
    }

    /// Counts a frame that was too long, and logs it, but not every time.
    #[cold]
    pub(crate) fn note_skipped(&mut self, token: Token, skipped: Skipped) {
        self.stats.frames_skipped += 1;
        if let Some(suppressed) = self.log_limit.pass(LogTopic::Skipped, self.now) {
            log::warn!("{}: {skipped}{suppressed}", ConnId(token));
        }
    }

    /// Ends a connection with a reset; nothing more is sent or delivered.
    pub(crate) fn abort(&mut self, token: Token, reason: CloseReason) {
        if let Ok(conn) = self.conn_mut(token)
            && !conn.flags.intersects(State::DEAD)
        {
            conn.extras().reset = true;
            self.kill(token, reason);
        }
    }

    /// A callback about this connection panicked: its session is gone, and what it had sent in that
    /// dispatch is discarded. Of all reasons this one is told: it says that the session is lost.
    #[cold]
    pub(crate) fn handler_panicked(&mut self, token: Token) {
        let is_served = self.active.is(token);
        let discarded = if is_served { self.out.len() } else { 0 };
        if let Ok(conn) = self.entries.conn_mut(token) {
            let extras = conn.extras();
            extras.unsent_bytes += discarded as u64;
            extras.reason = Some(CloseReason::HandlerPanicked);
        }
        self.abort(token, CloseReason::HandlerPanicked);
        if is_served {
            self.out.clear();
            let _ = self.end_serving(token, Assembler::default());
        }
    }

    /// Marks a connection as ended, for `reason` unless there is a better one already.
    pub(crate) fn kill(&mut self, token: Token, reason: CloseReason) {
        let Ok(conn) = self.entries.conn_mut(token) else {
            return;
        };
        if !conn.flags.intersects(State::DEAD) {
            conn.flags.insert(State::DEAD);
            conn.extras().give_reason(reason);
            self.dead.push_back(token);
        }
    }

    /// Marks a listener or a UDP socket as ended.
    pub(crate) fn kill_socket(&mut self, token: Token) {
        if let Some(flags) = self.entries.flags_mut(token)
            && flags.set(State::DEAD, true)
        {
            self.dead.push_back(token);
        }
    }

    /// Closes a UDP socket when its queue is sent.
    pub(crate) fn close_udp(&mut self, id: UdpId) {
        if let Ok(entry) = self.udp_mut(id)
            && !entry.flags.intersects(State::DEAD)
        {
            entry.flags.insert(State::CLOSING);
            self.flush_later(id.0);
        }
    }

    /// A connection's deadline has passed.
    pub(crate) fn deadline_passed(&mut self, token: Token) {
        let Ok(conn) = self.conn_mut(token) else {
            return;
        };
        conn.extras().deadline = None;
        if conn.flags.intersects(State::DEAD) {
            return;
        }
        if conn.flags.intersects(State::CONNECTING) {
            if let Err(error) = self.connect_next(token, io::ErrorKind::TimedOut.into()) {
                self.kill(token, CloseReason::ConnectFailed(error));
            }
        } else {
            self.abort(token, CloseReason::CloseTimeout);
        }
    }

    /// Stops listening, and closes every connection and socket gently; at the deadline, hard.
    pub(crate) fn shutdown(&mut self, deadline: Duration) {
        self.set_task(deadline, Task::Shutdown);
        if std::mem::replace(&mut self.shutting_down, true) {
            return;
        }
        self.for_all(|engine, token, kind| match kind {
            Kind::Conn => {
                let reason = engine.local_reason(token);
                engine.close(token, reason);
            }
            Kind::Queueless => engine.kill_socket(token),
            Kind::Udp => engine.close_udp(UdpId(token)),
        });
    }

    pub(crate) fn shutdown_deadline_passed(&mut self) {
        self.shutdown_turn_max
            .get_or_insert(self.stats.turns + SHUTDOWN_TURNS_MAX);
        self.for_all(|engine, token, kind| match kind {
            Kind::Conn => engine.abort(token, CloseReason::Shutdown),
            Kind::Queueless | Kind::Udp => engine.kill_socket(token),
        });
    }

    /// Whether a shutdown has come to its end.
    #[inline]
    pub(crate) fn is_shut_down(&self) -> bool {
        let is_over = |max: u64| self.stats.turns >= max;
        self.shutting_down
            && (self.entries.is_empty() || self.shutdown_turn_max.is_some_and(is_over))
    }

    /// How many entries wait to be reaped now.
    pub(crate) fn dead_count(&self) -> usize {
        self.dead.len()
    }

    /// Takes the next ended entry: closes its socket, and for a connection says what is to be
    /// told. Its key lives on until [`free`](Engine::free).
    pub(crate) fn next_dead(&mut self) -> Option<(Token, Option<Closed>)> {
        let token = self.dead.pop_front()?;
        let Self {
            entries,
            os,
            pool,
            spare_queues,
            stats,
            recorder,
            ..
        } = self;
        match entries.get_mut(token).ok()? {
            Entry::Listener(entry) => entry.listener.deregister(os),
            #[cfg(unix)]
            Entry::UnixDatagram(entry) => entry.socket.deregister(os),
            Entry::Udp(entry) => {
                entry.udp.deregister(os);
                stats.datagrams_dropped += entry.queue.count() as u64;
                pool.count(entry.counted_bytes, 0);
                recorder.forget(UdpId(token));
            }
            Entry::Conn(conn) => {
                let lost = give_up_output(conn, pool, spare_queues);
                let undelivered = conn.assembler.clear(pool) as u64;
                let check = conn.check.take();
                if conn.flags.intersects(State::ADDR_COUNTED)
                    && let Some(peer) = conn.peer.inet()
                {
                    self.addrs.leave(peer.ip());
                }
                let carried = conn.stats(self.callback_times.of(token));
                let extras = conn.extras.take().unwrap_or_default();
                if extras.reset {
                    conn.stream.reset(os)
                } else {
                    conn.stream.close(os)
                }
                let closed = Closed {
                    reason: extras.reason.unwrap_or(CloseReason::Local),
                    unsent_bytes: extras.unsent_bytes + lost,
                    undecoded_bytes: extras.undecoded_bytes + undelivered,
                    stats: carried,
                };
                log::debug!(
                    "{} from {} ended: {}",
                    ConnId(token),
                    conn.peer,
                    closed.reason
                );
                stats.closed += 1;
                stats.unsent_bytes += closed.unsent_bytes;
                stats.undecoded_bytes += closed.undecoded_bytes;
                self.connections -= 1;
                self.cancel(extras.deadline);
                self.cancel(check);
                return Some((token, Some(closed)));
            }
        }
        Some((token, None))
    }

    /// Frees the key of a reaped entry. A descriptor is free with it, so accepting may go on.
    pub(crate) fn free(&mut self, token: Token) {
        debug_assert!(!self.active.is(token), "its dispatch ends first");
        self.entries.remove(token);
        self.callback_times.forget(token);
        self.retry_accepts();
    }

    /// Registers a new entry's socket; where that fails the entry is removed, as nobody knows it.
    pub(super) fn register(&mut self, token: Token) -> io::Result<()> {
        let (entries, os) = (&mut self.entries, &self.os);
        let poll_token = token.to_poll();
        let registered = match entries.get_mut(token)? {
            Entry::Conn(conn) => conn.stream.register(os, poll_token),
            Entry::Listener(entry) => entry.listener.register(os, poll_token),
            Entry::Udp(entry) => entry.udp.register(os, poll_token),
            #[cfg(unix)]
            Entry::UnixDatagram(entry) => entry.socket.register(os, poll_token),
        };
        if registered.is_err() {
            entries.remove(token);
        }
        registered
    }

    fn set_nodelay(&self, token: Token) {
        if self.config.nodelay
            && let Ok(conn) = self.conn(token)
            && let Err(error) = conn.stream.set_nodelay(true)
        {
            // It fails only where the peer has gone already; reading tells of that.
            log::debug!("TCP_NODELAY on {}: {error}", ConnId(token));
        }
    }

    pub(super) fn cancel(&mut self, deadline: Option<crate::timer::TimerId>) {
        if let Some(deadline) = deadline {
            self.wheel.cancel(deadline);
        }
    }

    /// Whether a connection, counted already, may be opened from this side.
    pub(super) fn may_open(&self) -> io::Result<()> {
        self.refuse_when_shutting_down()?;
        if self.connections > self.config.connections_max {
            return Err(io::Error::other("connections_max is reached"));
        }
        Ok(())
    }

    pub(super) fn refuse_when_shutting_down(&self) -> io::Result<()> {
        if self.shutting_down {
            return Err(io::Error::other("the reactor is shutting down"));
        }
        Ok(())
    }

    fn for_all(&mut self, mut each: impl FnMut(&mut Self, Token, Kind)) {
        for token in self.entries.tokens() {
            let kind = match self.entries.get(token) {
                Ok(Entry::Conn(_)) => Kind::Conn,
                Ok(Entry::Listener(_)) => Kind::Queueless,
                #[cfg(unix)]
                Ok(Entry::UnixDatagram(_)) => Kind::Queueless,
                Ok(Entry::Udp(_)) => Kind::Udp,
                Err(Gone) => continue,
            };
            each(self, token, kind);
        }
    }
}

enum Kind {
    Conn,
    Udp,
    /// A listener or a Unix datagram socket: nothing of it waits to be sent.
    Queueless,
}

/// The first success over all addresses, or the last error.
fn first_ok<A, T>(
    addrs: impl Iterator<Item = A>,
    mut open: impl FnMut(A) -> io::Result<T>,
) -> io::Result<T> {
    let mut last = no_address();
    for addr in addrs {
        match open(addr) {
            Ok(opened) => return Ok(opened),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the name has no address")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::os::sim::{Script, World};

    /// An engine with a connection and a listener that has found no descriptor.
    fn exhausted() -> (Engine, Token, ListenerId) {
        let mut engine = Engine::new(Config::default(), World::current().os()).expect("an engine");
        let options = ListenOptions::new();
        let listener = engine
            .listen("127.0.0.1:0", Framing::raw(), &options)
            .expect("a free port");
        let peer = SocketAddr::from(([127, 0, 0, 1], 1)).into();
        let stream = Script::new().stream();
        let Accepted::Conn(conn) = engine.admit(stream, peer, Framing::raw()) else {
            panic!("it is refused");
        };
        find_no_descriptor(&mut engine, listener);
        (engine, conn.0, listener)
    }

    fn find_no_descriptor(engine: &mut Engine, listener: ListenerId) {
        // EMFILE on every Unix, and WSAEMFILE.
        let error = io::Error::from_raw_os_error(if cfg!(windows) { 10024 } else { 24 });
        let accepted = engine.accept_failed(listener, &error);
        assert!(matches!(accepted, Accepted::Nothing), "{accepted:?}");
    }

    /// The next entry of a new round that is there.
    fn next_ready(engine: &mut Engine) -> Option<Token> {
        engine.begin_turn();
        let token = engine.next_ready()?;
        engine.look_at_ready(token).map(|_| token)
    }

    #[test]
    fn a_close_has_those_accept_again_who_found_no_descriptor() {
        let (mut engine, conn, listener) = exhausted();
        while next_ready(&mut engine).is_some() {}
        engine.kill(conn, CloseReason::Local);
        let (dead, _) = engine.next_dead().expect("it was killed");
        assert_eq!(next_ready(&mut engine), None, "its key is not free yet");
        engine.free(dead);
        assert_eq!(next_ready(&mut engine), Some(listener.0));
    }

    /// As somebody else may free some, they are tried again by a timer: less and less often, until
    /// one is found.
    #[test]
    fn the_time_to_the_next_try_doubles_until_somebody_is_accepted() {
        let (mut engine, _, listener) = exhausted();
        while next_ready(&mut engine).is_some() {}
        for millis in [100, 200, 400, 800, 800, 800] {
            let begun = engine.now;
            let task = loop {
                let wait = engine.time_to_next_timer().expect("it is tried again");
                engine.set_now(engine.now + wait);
                engine.note_due_timers();
                if let Some((_, task)) = engine.next_due() {
                    break task;
                }
            };
            assert!(matches!(task, Task::AcceptRetry), "{task:?}");
            let waited = (engine.now - begun).as_millis();
            assert!((millis..=millis + 1).contains(&waited), "{waited} ms");
            engine.accept_retry_due();
            assert_eq!(next_ready(&mut engine), Some(listener.0));
            find_no_descriptor(&mut engine, listener);
        }
        let peer = SocketAddr::from(([127, 0, 0, 1], 2)).into();
        let stream = Script::new().stream();
        let accepted = engine.admit(stream, peer, Framing::raw());
        assert!(matches!(accepted, Accepted::Conn(_)), "{accepted:?}");
        assert_eq!(engine.accept_retry_after, ACCEPT_RETRY_MIN);
    }

    #[test]
    fn a_connect_has_all_of_its_time_behind_a_look_up_that_took_long() {
        struct Slow(SocketAddr);

        impl ToSocketAddrs for Slow {
            type Iter = std::iter::Once<SocketAddr>;

            fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
                World::current().advance(Duration::from_secs(3600));
                Ok(std::iter::once(self.0))
            }
        }

        let name = Slow(SocketAddr::from(([192, 0, 2, 1], 7)));
        let world = World::current();
        world.silence(name.0);
        let mut engine = Engine::new(Config::default(), world.os()).expect("an engine");
        engine.connect(name, Framing::raw(), &ConnectOptions::new());
        engine.set_now(engine.os.now());
        assert!(engine.time_to_next_timer() > Some(Duration::from_secs(20)));
    }
}
