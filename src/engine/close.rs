//! The end of an entry: close, half-close, abort and the reap.
//!
//! An entry that ends is only marked as dead. The reap at the end of the turn frees its key. So no
//! event, queue or id of this turn can reach a later socket with the same key.

use super::write::discard_output;
use super::{Engine, Entry, Task};
use crate::conn::{Action, State};
use crate::error::Gone;
use crate::event::{CloseReason, Closed};
use crate::id::{ConnId, Token, UdpId};
use crate::log_target::{LOG_TARGET, log_conn};

/// The close of a single connection or socket.
impl Engine {
    /// Closes a connection: flushes its queued output, sends the FIN, and discards input until the
    /// peer ends too or the deadline passes. Unread input at the close of a socket would make the
    /// kernel send a reset, which destroys data that the peer has not read (RFC 1122, 4.2.2.13).
    pub(crate) fn close(&mut self, token: Token, reason: CloseReason) {
        self.end_connecting_if_adopted(token);
        self.close_with(token, reason, State::close);
    }

    /// Closes a connection by a transition of its state.
    pub(super) fn close_with(
        &mut self,
        token: Token,
        reason: CloseReason,
        transition: fn(&mut State) -> Action,
    ) {
        let Ok(conn) = self.entries.conn_mut(token) else {
            return;
        };
        let action = transition(&mut conn.state);
        if action == Action::None {
            return;
        }
        conn.extras().set_reason(reason);
        if action != Action::Flush {
            return self.queues.to_reap.push_back(token);
        }
        let own = conn.own_limits();
        let after = own.map_or(self.config.close_deadline, |(own, _)| own.close_deadline);
        let deadline = self.timers.set_conn_task(after, Task::Deadline, token);
        let former = conn.extras().deadline.replace(deadline);
        self.timers.cancel(former);
        // If the connection is being dispatched, this dispatch discards its input, writes its batch
        // and continues the close.
        if !self.active.is(token) {
            self.flush_later(token);
            self.queue(token);
        }
    }

    /// Ends the write half: flushes queued output, then sends the FIN. Input is still delivered.
    pub(crate) fn half_close(&mut self, token: Token) -> Result<(), Gone> {
        let reason = self.local_reason(token);
        let conn = self.conn_mut(token)?;
        if conn.state.half_close() == Action::Flush {
            conn.extras().reason.get_or_insert(reason);
            if !self.active.is(token) {
                self.flush_later(token);
            }
        }
        Ok(())
    }

    /// Returns the reason of a close that the handler requests.
    pub(crate) fn local_reason(&self, token: Token) -> CloseReason {
        match self.conn(token) {
            Ok(conn) if conn.state.peer_ended() => CloseReason::Peer,
            _ => CloseReason::Local,
        }
    }

    /// Ends a connection with a reset: no further output is sent and no further input is delivered.
    pub(crate) fn abort(&mut self, token: Token, reason: CloseReason) {
        if let Ok(conn) = self.conn_mut(token)
            && !conn.state.is_dead()
        {
            conn.extras().reset = true;
            self.end(token, reason);
        }
    }

    /// Ends a connection now. `reason` is recorded unless an earlier reason takes precedence.
    pub(crate) fn end(&mut self, token: Token, reason: CloseReason) {
        if let Ok(conn) = self.entries.conn_mut(token)
            && conn.state.end() == Action::Reap
        {
            conn.extras().set_reason(reason);
            self.queues.to_reap.push_back(token);
        }
    }

    /// Ends a listener or a datagram socket.
    pub(crate) fn end_socket(&mut self, token: Token) {
        if let Ok(state) = self.entries.state_mut(token)
            && state.end() == Action::Reap
        {
            self.queues.to_reap.push_back(token);
        }
    }

    /// Handles the deadline of a connect, of a stage of a preparation, or of a close.
    pub(crate) fn deadline_passed(&mut self, token: Token) {
        let Ok(conn) = self.conn_mut(token) else {
            return;
        };
        conn.extras().deadline = None;
        match conn.state.deadline_passed() {
            Action::NextAddress => self.connect_timer_fired(token),
            Action::FailPreparation => self.preparation_timed_out(token),
            Action::Reset => self.abort(token, CloseReason::CloseTimeout),
            _ => {}
        }
    }
}

/// The reap.
impl Engine {
    /// Takes the next ended entry and removes its socket from the poll. For a connection, also
    /// closes or detaches the socket, and returns the [`Closed`] to report. If `on_refused` has
    /// reported the end of the connection, returns no [`Closed`]. The key stays in use until
    /// [`free`](Engine::free).
    pub(crate) fn next_to_reap(&mut self) -> Option<(Token, Option<Closed>)> {
        let token = self.queues.to_reap.pop_front()?;
        let os = &self.os;
        match self.entries.get_mut(token).ok()? {
            Entry::Listener(entry) => entry.socket.deregister(os),
            #[cfg(unix)]
            Entry::UnixDatagram(entry) => entry.socket.deregister(os),
            Entry::Udp(entry) => {
                entry.socket.deregister(os);
                self.telemetry.stats.datagrams_dropped += entry.queue.count() as u64;
                self.memory.pool.count(entry.counted_bytes, 0);
                self.telemetry.recorder.forget(UdpId(token));
            }
            Entry::Conn(_) => return Some((token, self.reap_conn(token))),
        }
        Some((token, None))
    }

    fn reap_conn(&mut self, token: Token) -> Option<Closed> {
        let detached = self.take_detached(token);
        self.count_failed_preparation(token);
        let conn = self.entries.conn_mut(token).ok()?;
        let memory = &mut self.memory;
        let unsent = discard_output(conn, &mut self.telemetry.stats, memory);
        super::transport::release(conn, &mut memory.pool);
        let undelivered = conn.assembler.clear(&mut memory.pool) as u64;
        if conn.state.is_addr_counted()
            && let Some(ip) = conn.counted_ip()
        {
            self.admission.per_addr.leave(ip);
        }
        let stats = conn.stats(self.telemetry.callback_times.of(token));
        let mut extras = conn.take_extras();
        if extras.proxied.is_some() {
            // Keeps the header of the PROXY protocol, which `on_close` can read.
            conn.extras().proxied = extras.proxied.take();
        }
        if let Some(dial) = &mut extras.dial {
            dial.close(&self.os);
        }
        match extras.reset {
            true => conn.socket.reset(&self.os),
            false => conn.socket.close(&self.os),
        }
        self.timers.cancel(extras.deadline);
        self.timers.cancel(conn.timeout_check.take());
        let closed = Closed {
            reason: detached.or(extras.reason).unwrap_or(CloseReason::Local),
            unsent_bytes: extras.unsent_bytes + unsent,
            undecoded_bytes: extras.undecoded_bytes + undelivered,
            stats,
        };
        let (id, peer, reason) = (ConnId(token), &conn.peer, &closed.reason);
        log_conn!(
            debug,
            LOG_TARGET,
            id,
            peer,
            "{id} with {peer} ended: {reason}"
        );
        #[cfg(feature = "metrics")]
        self.count_closed(closed.reason.label());
        let stats = &mut self.telemetry.stats;
        #[cfg(feature = "tls")]
        match closed.reason {
            CloseReason::Tls(_) => stats.tls_failed += 1,
            CloseReason::TlsTruncated => stats.tls_truncated += 1,
            _ => {}
        }
        stats.closed += 1;
        stats.unsent_bytes += closed.unsent_bytes;
        stats.undecoded_bytes += closed.undecoded_bytes;
        self.admission.connections -= 1;
        (!extras.is_refused).then_some(closed)
    }

    /// Frees the key of a reaped entry. Its descriptor is free too, unless it was detached. So
    /// listeners that ran out of descriptors accept again.
    pub(crate) fn free(&mut self, token: Token) {
        debug_assert!(
            !self.active.is(token),
            "the key of the active connection must not be freed"
        );
        self.entries.remove(token);
        self.telemetry.callback_times.forget(token);
        self.end_drain_if_idle();
        self.retry_accepts();
    }
}
