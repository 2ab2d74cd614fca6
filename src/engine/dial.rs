//! The connect to the addresses of a name: attempts that overlap, as RFC 8305 describes
//! ("Happy Eyeballs").
//!
//! ```text
//!   time    0        250 ms    500 ms
//!   first   |---------- no reply -----------|  closed
//!   second           |--- no reply ---------|  closed
//!   third                       |-- connected: the socket of the connection
//! ```
//!
//! All attempts are registered with the token of the connection. An event does not tell which
//! attempt it concerns, so each event causes a check of all attempts.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use super::{Connection, Engine, Task};
use crate::addr::Addr;
use crate::event::CloseReason;
use crate::id::{ConnId, Token};
use crate::log_target::{LOG_TARGET, log_conn};
use crate::os::{ConnectOptions, Os, Stream, lacks_resources, names_no_server};

/// Time from the start of an attempt until the next address is tried too (RFC 8305, section 5,
/// "Connection Attempt Delay").
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Maximum number of pending attempts of one connect. A further attempt closes the oldest attempt.
/// By then the oldest attempt has usually waited two seconds, so TCP has repeated a lost SYN once:
/// it does so after one second (RFC 6298, 2.1).
const ATTEMPTS_MAX: usize = 8;

/// A connect to a list of addresses.
#[derive(Debug)]
pub(crate) struct Dial {
    /// The addresses that were not tried yet.
    addrs: VecDeque<Addr>,
    options: ConnectOptions,
    /// The deadline of the connect, as time since the epoch.
    until: Duration,
    /// The pending attempts, oldest first, except the newest attempt. The newest attempt is the
    /// socket of the connection.
    earlier: Vec<(Stream, Addr)>,
    /// Number of sockets that were opened.
    opened: usize,
}

impl Dial {
    /// Creates a connect. Addresses that no server can have are dropped, so that their error does
    /// not replace the error of the other addresses. If no server can have any of the addresses,
    /// all addresses are kept.
    pub(super) fn new(mut addrs: Vec<Addr>, options: ConnectOptions, until: Duration) -> Self {
        let may_name_server = |addr: &Addr| !addr.inet().is_some_and(names_no_server);
        if addrs.iter().any(may_name_server) {
            addrs.retain(may_name_server);
        }
        Self {
            addrs: alternate_families(addrs),
            options,
            until,
            earlier: Vec::new(),
            opened: 0,
        }
    }

    /// Closes all attempts except the newest one.
    pub(super) fn close(&mut self, os: &Os) {
        for (mut stream, _) in self.earlier.drain(..) {
            stream.close(os);
        }
    }

    /// Starts an attempt with the next address. If this attempt fails at once, stores its error in
    /// `last` and tries the address after it.
    ///
    /// If this host lacks resources while an attempt is pending, the address stays in the list. The
    /// address is tried again when an attempt ends or the timer fires. With a fixed local port,
    /// only one attempt can be pending.
    fn attempt(&mut self, conn: &mut Connection, os: &Os, token: Token, last: &mut io::Error) {
        let is_pending = !matches!(conn.socket, Stream::None);
        if is_pending && self.options.has_local_port() {
            return;
        }
        while let Some(addr) = self.addrs.pop_front() {
            let attempt = os.connect(&addr, &self.options).and_then(|mut stream| {
                stream.register(os, token.to_poll())?;
                Ok(stream)
            });
            match attempt {
                Ok(stream) => {
                    self.opened += 1;
                    let earlier = std::mem::replace(&mut conn.socket, stream);
                    let peer = std::mem::replace(&mut conn.peer, addr);
                    if is_pending {
                        self.earlier.push((earlier, peer));
                    }
                    if self.earlier.len() == ATTEMPTS_MAX {
                        self.earlier.remove(0).0.close(os);
                    }
                    return;
                }
                Err(error) if is_pending && lacks_resources(&error) => {
                    self.addrs.push_front(addr);
                    return;
                }
                Err(error) => {
                    *last = error;
                    if !is_pending {
                        conn.peer = addr;
                    }
                }
            }
        }
    }

    /// Returns the time until the next address is tried, or until the connect fails.
    fn next_after(&self, now: Duration) -> Duration {
        let left = self.until.saturating_sub(now);
        match self.addrs.is_empty() || self.options.has_local_port() {
            true => left,
            false => left.min(ATTEMPT_DELAY),
        }
    }
}

/// Orders addresses so that the families alternate, and the first address stays the first (RFC
/// 8305, section 4).
fn alternate_families(addrs: Vec<Addr>) -> VecDeque<Addr> {
    let is_v4 = |addr: &Addr| addr.inet().is_some_and(|addr| addr.is_ipv4());
    let first_is_v4 = addrs.first().is_some_and(is_v4);
    let of_first = |addr: &Addr| is_v4(addr) == first_is_v4;
    let (firsts, others): (Vec<_>, Vec<_>) = addrs.into_iter().partition(of_first);
    let (mut firsts, mut others) = (firsts.into_iter(), others.into_iter());
    let mut ordered = VecDeque::new();
    while firsts.len() + others.len() > 0 {
        ordered.extend(firsts.next());
        ordered.extend(others.next());
    }
    ordered
}

impl Engine {
    /// Starts an attempt to the next address; pending attempts continue, up to [`ATTEMPTS_MAX`]. If
    /// no attempt is pending afterwards, the connection ends with the error of the last attempt, or
    /// with `last` if no address was left.
    pub(super) fn connect_next(&mut self, token: Token, mut last: io::Error) {
        let now = self.timers.since_epoch();
        let Ok(conn) = self.entries.conn_mut(token) else {
            return;
        };
        if let Some(mut dial) = conn.extras().dial.take() {
            dial.attempt(conn, &self.os, token, &mut last);
            let after = dial.next_after(now);
            let extras = conn.extras();
            extras.dial = Some(dial);
            self.timers.cancel(extras.deadline.take());
            let timer = self.timers.set_conn_task(after, Task::Deadline, token);
            extras.deadline = Some(timer);
        }
        if matches!(conn.socket, Stream::None) {
            self.end(token, CloseReason::ConnectFailed(last));
        }
    }

    /// Handles the timer of a connect: tries the next address, or ends the connect.
    pub(super) fn connect_timer_fired(&mut self, token: Token) {
        let now = self.timers.since_epoch();
        let dial = self.conn_mut(token).map(|conn| &conn.extras().dial);
        let has_time = dial.is_ok_and(|dial| dial.as_ref().is_some_and(|dial| now < dial.until));
        let timed_out = io::ErrorKind::TimedOut.into();
        match has_time {
            true => self.connect_next(token, timed_out),
            false => self.end(token, CloseReason::ConnectFailed(timed_out)),
        }
    }

    /// Checks the pending attempts. If an attempt has succeeded, returns true: its socket becomes
    /// the socket of the connection, and the other attempts are closed. Otherwise, if an attempt
    /// has failed, tries the next address.
    pub(super) fn select_connected(&mut self, token: Token) -> bool {
        let Ok(conn) = self.entries.conn_mut(token) else {
            return false;
        };
        let mut dial = conn.extras().dial.take();
        let mut attempts = match &mut dial {
            Some(dial) => std::mem::take(&mut dial.earlier),
            None => Vec::new(),
        };
        let newest = std::mem::replace(&mut conn.socket, Stream::None);
        attempts.push((newest, conn.peer.clone()));

        let (mut connected, mut failed) = (None, None);
        attempts.retain_mut(|(stream, addr)| match stream.connected() {
            Ok(Some(peer)) if connected.is_none() => {
                connected = Some((std::mem::replace(stream, Stream::None), peer));
                false
            }
            Ok(_) => true,
            Err(error) => {
                let id = ConnId(token);
                log_conn!(
                    debug,
                    LOG_TARGET,
                    id,
                    addr,
                    "connecting {id} to {addr} failed: {error}"
                );
                stream.close(&self.os);
                failed = Some(error);
                false
            }
        });
        if let Some((stream, peer)) = connected {
            (conn.socket, conn.peer) = (stream, peer);
            attempts.iter_mut().for_each(|(it, _)| it.close(&self.os));
            if dial.is_some_and(|dial| dial.opened > 1) {
                // Readiness that the other sockets reported is cleared. The registration below
                // makes the poll report the readiness of this socket again.
                conn.state.socket_replaced();
                let registered = conn.socket.reregister(&self.os, token.to_poll());
                if let Err(error) = registered {
                    self.end(token, CloseReason::ConnectFailed(error));
                    return false;
                }
            }
            return true;
        }
        if let Some((stream, peer)) = attempts.pop() {
            (conn.socket, conn.peer) = (stream, peer);
        }
        if let Some(dial) = &mut dial {
            dial.earlier = attempts;
        }
        conn.extras().dial = dial;
        if let Some(error) = failed {
            self.connect_next(token, error);
        }
        false
    }
}
