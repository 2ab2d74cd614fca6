//! Listeners: opening them, accepting, and retrying after a failed accept.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::log_limit::warn_limited;
use super::open::{first_ok, no_address};
use super::per_addr::PerAddr;
use super::prepare::Preparation;
#[cfg(test)]
use super::transport::Filter;
use super::{Connection, Engine, Entry, ListenerEntry, Task};
use crate::addr::{Addr, ToAddrs};
use crate::codec::Framing;
#[cfg(feature = "tls")]
use crate::config::Config;
use crate::conn::State;
use crate::event::{Origin, Refusal};
use crate::id::{ConnId, ListenerId};
use crate::log_target::{LOG_TARGET, log_conn};
use crate::os::{AcceptFailure, ListenOptions, Listener, OwnedSocket, Stream, lacks_family};
#[cfg(feature = "tls")]
use crate::tls::TlsServer;

/// First delay of the retry timer. When the timer fires, the listeners of `Admission::exhausted`
/// accept again. When the reactor closes a socket, they accept again in the next turn.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(100);
/// Maximum delay of the retry timer, which makes listeners accept again after a failed accept. A
/// waiting client is accepted within a second after a descriptor becomes free.
const RETRY_AFTER_MAX: Duration = Duration::from_millis(800);

/// Number of ports that `listen_all` tries if the system chooses the port. A port that is free for
/// one address may be in use for another address.
const PORT_TRIES: u32 = 16;
/// Number of consecutive accepts that were rejected or aborted. Once this number is reached, the
/// next [rejected](AcceptFailure::Rejected) accept makes the listener wait for the retry timer. If
/// the system rejects every accept, a listener without a wait would cause a busy loop.
const REJECTED_MAX: u32 = 16;
/// Number of consecutive accepts that were rejected or aborted. Once this number is reached, the
/// next [aborted](AcceptFailure::Aborted) accept makes the listener wait for the retry timer. An
/// aborted accept normally removes a connection from the backlog. On a system that leaves the
/// connection there, a listener without a wait would cause a busy loop.
const ABORTED_MAX: u32 = 1024;

/// The counts of connections, and the listeners that currently cannot accept.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Number of connections, including connects in progress.
    pub(super) connections: usize,
    /// Number of connections that are being prepared.
    pub(super) preparing: usize,
    /// Number of connections whose TLS handshake may still continue in this turn.
    #[cfg(feature = "tls")]
    pub(super) handshakes_left: usize,
    /// Number of connections by address; maintained only while `connections_per_addr_max` is set.
    pub(super) per_addr: PerAddr,
    /// Listeners that currently cannot accept: the last accept failed for lack of descriptors or
    /// memory, or too many consecutive accepts were rejected or aborted.
    exhausted: Vec<ListenerId>,
    /// True while the retry timer is set.
    retry_armed: bool,
    /// Delay with which the retry timer is set the next time.
    retry_after: Duration,
    /// Creates the filter of a new connection of the test; `None` if there is no filter.
    #[cfg(test)]
    pub(crate) filters_connections: Option<fn(&Stream) -> Filter>,
    /// The bytes that new connections of the test expect before they open.
    #[cfg(test)]
    pub(crate) prefix: Option<&'static [u8]>,
}

impl Admission {
    pub(super) fn new() -> Self {
        Self {
            connections: 0,
            preparing: 0,
            #[cfg(feature = "tls")]
            handshakes_left: 0,
            per_addr: PerAddr::default(),
            exhausted: Vec::new(),
            retry_armed: false,
            retry_after: RETRY_AFTER_MIN,
            #[cfg(test)]
            filters_connections: None,
            #[cfg(test)]
            prefix: None,
        }
    }
}

#[cfg(feature = "tls")]
impl Admission {
    /// Renews the budget of handshakes.
    pub(super) fn begin_turn(&mut self, config: &Config) {
        self.handshakes_left = config.tls_handshake_budget;
    }
}

/// The result of one accept.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// The connection is open.
    Conn(ConnId),
    /// The connection opens after its preparation.
    Preparing(ConnId),
    /// A limit refused the connection. More connections may wait.
    Refused(Addr, Refusal),
    /// The accept or the registration failed. More connections may wait.
    Failed,
    /// No connection waits, or the listener cannot accept now.
    Nothing,
}

impl Engine {
    pub(crate) fn listen(
        &mut self,
        addrs: impl ToAddrs,
        framing: Framing,
        options: &ListenOptions,
    ) -> io::Result<ListenerId> {
        self.check_may_listen()?;
        let backlog = self.config.backlog;
        let listener = first_ok(addrs.to_addrs()?, |addr| {
            let listener = self.os.listen(&addr, options, backlog);
            listener.map_err(|error| cannot_listen(&addr, &error))
        })?;
        self.add_listener(listener, framing, options)
    }

    /// Listens at each address that [`open_listeners`](Engine::open_listeners) does not skip. All
    /// addresses with port 0 get the same port. If one address fails, no listener stays open.
    pub(crate) fn listen_all(
        &mut self,
        addrs: impl ToAddrs,
        framing: &Framing,
        options: &ListenOptions,
    ) -> io::Result<Vec<ListenerId>> {
        self.check_may_listen()?;
        let mut distinct = Vec::new();
        for addr in addrs.to_addrs()? {
            if !distinct.contains(&addr) {
                distinct.push(addr);
            }
        }
        let is_family =
            |is_v4| move |addr: &Addr| addr.inet().is_some_and(|it| it.is_ipv4() == is_v4);
        let mut options = options.clone();
        if distinct.iter().any(is_family(true)) && distinct.iter().any(is_family(false)) {
            // Without `IPV6_V6ONLY`, a listener at `[::]` would occupy the port at `0.0.0.0` too.
            options.or_only_v6();
        }
        let has_no_port = |addr: &Addr| addr.inet().is_some_and(|addr| addr.port() == 0);
        let mut tries = match distinct.iter().any(has_no_port) {
            true => PORT_TRIES,
            false => 1,
        };
        let listeners = loop {
            tries -= 1;
            match self.open_listeners(&distinct, &options) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
                opened => break opened?,
            }
        };
        let mut ids = Vec::new();
        for listener in listeners {
            match self.add_listener(listener, framing.clone(), &options) {
                Ok(id) => ids.push(id),
                Err(error) => {
                    self.remove_listeners(&ids);
                    return Err(error);
                }
            }
        }
        Ok(ids)
    }

    /// Opens a listening socket for each address, except addresses of a family that the system does
    /// not support or that is turned off. An address with port 0 gets the port of the first socket.
    fn open_listeners(&self, addrs: &[Addr], options: &ListenOptions) -> io::Result<Vec<Listener>> {
        let backlog = self.config.backlog;
        let mut listeners: Vec<Listener> = Vec::new();
        let mut skipped = no_address();
        for addr in addrs {
            let mut addr = addr.clone();
            if let Addr::Inet(inet) = &mut addr
                && inet.port() == 0
                && let Some(first) = listeners.first()
                && let Some(chosen) = first.local_addr()?.inet()
            {
                inet.set_port(chosen.port());
            }
            match self.os.listen(&addr, options, backlog) {
                Ok(listener) => listeners.push(listener),
                Err(error) if lacks_family(&error) || lacks_local_v6(&error, &addr) => {
                    skipped = cannot_listen(&addr, &error);
                }
                Err(error) => return Err(cannot_listen(&addr, &error)),
            }
        }
        match listeners.is_empty() {
            true => Err(skipped),
            false => Ok(listeners),
        }
    }

    /// Closes listeners that the current call has opened. They need no reap, because no event can
    /// refer to them yet.
    fn remove_listeners(&mut self, ids: &[ListenerId]) {
        for id in ids {
            if let Ok(entry) = self.entries.listener_mut(*id) {
                entry.socket.deregister(&self.os);
                self.entries.remove(id.0);
            }
        }
    }

    pub(crate) fn adopt_listener(
        &mut self,
        socket: OwnedSocket,
        framing: Framing,
        options: &ListenOptions,
    ) -> io::Result<ListenerId> {
        self.check_may_listen()?;
        self.add_listener(Listener::adopt(socket)?, framing, options)
    }

    fn add_listener(
        &mut self,
        listener: Listener,
        framing: Framing,
        options: &ListenOptions,
    ) -> io::Result<ListenerId> {
        let key = options.key;
        #[cfg(feature = "tls")]
        let tls = match &options.tls {
            Some((config, is_optional)) => Some((TlsServer::new(config)?, *is_optional)),
            None => None,
        };
        let token = self.add(|generation| {
            Entry::Listener(Box::new(ListenerEntry {
                socket: listener,
                framing,
                proxy: options.proxy.clone(),
                #[cfg(feature = "tls")]
                tls,
                key,
                rejected: 0,
                generation,
                state: State::default(),
            }))
        })?;
        Ok(ListenerId(token))
    }

    /// Returns the origin of the connections of a listener.
    pub(crate) fn origin_of(&mut self, listener: ListenerId) -> Origin {
        let key = self.entries.listener_mut(listener).map_or(0, |it| it.key);
        Origin::Accepted { listener, key }
    }

    /// Accepts one connection.
    pub(crate) fn accept(&mut self, id: ListenerId) -> Accepted {
        let entry = match self.entries.listener_mut(id) {
            Ok(entry) if entry.state.may_accept() => entry,
            _ => return Accepted::Nothing,
        };
        let framing = entry.framing.clone();
        match entry.socket.accept() {
            Ok((stream, peer)) => {
                entry.rejected = 0;
                match self.preparation_of_accept(id, &peer) {
                    Ok(preparation) => self.admit_prepared(stream, peer, framing, preparation),
                    Err(refusal) => self.refuse(peer, refusal),
                }
            }
            Err(error) => self.accept_failed(id, &error),
        }
    }

    /// Adds a connection that opens at once: see [`admit_prepared`](Engine::admit_prepared).
    #[cfg(test)]
    pub(crate) fn admit(&mut self, stream: Stream, peer: Addr, framing: Framing) -> Accepted {
        self.admit_prepared(stream, peer, framing, None)
    }

    /// Adds a connection for an accepted socket, unless a limit refuses it.
    fn admit_prepared(
        &mut self,
        stream: Stream,
        peer: Addr,
        framing: Framing,
        preparation: Option<Box<Preparation>>,
    ) -> Accepted {
        let per_addr_max = self.config.connections_per_addr_max;
        let addr = peer.inet().map(|peer| peer.ip());
        let is_identified = preparation.as_ref().is_none_or(|it| it.knows_client());
        let counted = addr.filter(|_| per_addr_max != usize::MAX && is_identified);
        if self.admission.connections >= self.config.connections_max {
            return self.refuse(peer, Refusal::Connections);
        }
        if preparation.is_some() && self.admission.preparing >= self.config.preparing_max {
            return self.refuse(peer, Refusal::Preparing);
        }
        if counted.is_some_and(|addr| !self.admission.per_addr.enter(addr, per_addr_max)) {
            return self.refuse(peer, Refusal::ConnectionsPerAddr);
        }
        let mut state = State::accepted(self.times_callbacks(), counted.is_some());
        state.set_reads_above_high(self.config.read_above_high);
        let from = peer.clone();
        let added = self.add(|generation| {
            Entry::Conn(Connection::new(stream, from, framing, generation, state))
        });
        if let Err(error) = &added {
            self.telemetry.stats.accept_errors += 1;
            warn_limited!(self, Accept => "cannot register the connection from {peer}: {error}");
            if let Some(addr) = counted {
                self.admission.per_addr.leave(addr);
            }
        }
        let Ok(token) = added else {
            return Accepted::Failed;
        };
        self.admission.retry_after = RETRY_AFTER_MIN;
        self.admission.connections += 1;
        self.telemetry.stats.accepted += 1;
        self.established(token);
        let id = ConnId(token);
        log_conn!(debug, LOG_TARGET, id, peer, "{id} accepted from {peer}");
        if let Some(preparation) = preparation
            && let Ok(conn) = self.entries.conn_mut(token)
        {
            conn.extras().preparation = Some(preparation);
            self.begin_preparation(token);
            return Accepted::Preparing(ConnId(token));
        }
        self.opened(token);
        Accepted::Conn(ConnId(token))
    }

    /// Counts and logs a refused connection.
    pub(super) fn count_refusal(&mut self, peer: &Addr, refusal: Refusal) {
        self.telemetry.stats.refused += 1;
        #[cfg(feature = "metrics")]
        self.count_refused(refusal.label());
        warn_limited!(self, Refused => "refused the connection from {peer}: {refusal}");
    }

    fn refuse(&mut self, peer: Addr, refusal: Refusal) -> Accepted {
        self.count_refusal(&peer, refusal);
        Accepted::Refused(peer, refusal)
    }

    fn accept_failed(&mut self, id: ListenerId, error: &io::Error) -> Accepted {
        let mut failure = AcceptFailure::of(error);
        if let Ok(entry) = self.entries.listener_mut(id) {
            match failure {
                AcceptFailure::WouldBlock => entry.rejected = 0,
                AcceptFailure::Rejected if entry.rejected >= REJECTED_MAX => {
                    failure = AcceptFailure::Exhausted;
                }
                AcceptFailure::Aborted if entry.rejected >= ABORTED_MAX => {
                    failure = AcceptFailure::Exhausted;
                }
                AcceptFailure::Rejected | AcceptFailure::Aborted => entry.rejected += 1,
                AcceptFailure::Exhausted => {}
            }
        }
        if failure == AcceptFailure::WouldBlock {
            return Accepted::Nothing;
        }
        self.telemetry.stats.accept_errors += 1;
        warn_limited!(self, Accept => "{id} cannot accept: {error}");
        if failure != AcceptFailure::Exhausted {
            return Accepted::Failed;
        }
        let admission = &mut self.admission;
        if !admission.exhausted.contains(&id) {
            admission.exhausted.push(id);
        }
        if !std::mem::replace(&mut admission.retry_armed, true) {
            let after = admission.retry_after;
            self.timers.set_task(after, Task::AcceptRetry);
        }
        Accepted::Nothing
    }

    /// Handles the retry timer: queues the listeners so that they accept again, and doubles the
    /// delay.
    pub(crate) fn accept_retry_due(&mut self) {
        let admission = &mut self.admission;
        admission.retry_armed = false;
        admission.retry_after = (2 * admission.retry_after).min(RETRY_AFTER_MAX);
        self.retry_accepts();
    }

    /// Queues the listeners of `Admission::exhausted`, so that they accept again. Called by the
    /// retry timer, and whenever an entry is freed.
    pub(super) fn retry_accepts(&mut self) {
        while let Some(id) = self.admission.exhausted.pop() {
            self.queue(id.0);
        }
    }
}

/// Returns true if a bind failed because IPv6 is turned off. The system then supports the family,
/// but no interface has an IPv6 address, not even `::1` (Linux: `disable_ipv6`).
fn lacks_local_v6(error: &io::Error, addr: &Addr) -> bool {
    let is_local = |ip: IpAddr| ip.is_ipv6() && (ip.is_loopback() || ip.is_unspecified());
    error.kind() == io::ErrorKind::AddrNotAvailable
        && addr.inet().is_some_and(|addr| is_local(addr.ip()))
}

/// Returns an error that has the kind of `error`, and a text with the address and the text of
/// `error`. The error number of the system is only in the text.
fn cannot_listen(addr: &Addr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::Config;
    use crate::event::CloseReason;
    use crate::id::Token;
    use crate::os::sim::{Script, World};

    /// Returns an engine with a connection, and with a listener whose accept failed for lack of
    /// descriptors.
    fn exhausted() -> (Engine, Token, ListenerId) {
        let mut engine = Engine::new(Config::default(), World::current().os())
            .expect("the simulated poll opens");
        let options = ListenOptions::new();
        let listener = engine
            .listen("127.0.0.1:0", Framing::raw(), &options)
            .expect("port 0 is free");
        let peer = SocketAddr::from(([127, 0, 0, 1], 1)).into();
        let stream = Script::new().stream();
        let Accepted::Conn(conn) = engine.admit(stream, peer, Framing::raw()) else {
            panic!("the connection was not admitted");
        };
        fail_with_emfile(&mut engine, listener);
        (engine, conn.0, listener)
    }

    fn fail_with_emfile(engine: &mut Engine, listener: ListenerId) {
        // 10024 is WSAEMFILE on Windows, and 24 is EMFILE on every Unix.
        let error = io::Error::from_raw_os_error(if cfg!(windows) { 10024 } else { 24 });
        let accepted = engine.accept_failed(listener, &error);
        assert!(matches!(accepted, Accepted::Nothing), "{accepted:?}");
    }

    /// Begins a dispatch phase, and takes its first ready entry. Returns `None` if there is no
    /// ready entry, or if the entry no longer exists.
    fn next_ready(engine: &mut Engine) -> Option<Token> {
        engine.begin_dispatch_phase();
        let token = engine.queues.ready.pop()?;
        engine.take_ready(token).map(|_| token)
    }

    #[test]
    fn close_retries_listeners_that_ran_out_of_descriptors() {
        let (mut engine, conn, listener) = exhausted();
        while next_ready(&mut engine).is_some() {}
        engine.end(conn, CloseReason::Local);
        let (dead, _) = engine.next_to_reap().expect("the connection has ended");
        assert_eq!(
            next_ready(&mut engine),
            None,
            "the key of the connection is not free yet"
        );
        engine.free(dead);
        assert_eq!(next_ready(&mut engine), Some(listener.0));
    }

    /// A timer retries the accept, because another process may free descriptors. The delay doubles
    /// up to a maximum, until an accept succeeds.
    #[test]
    fn accept_retry_delay_doubles_until_an_accept_succeeds() {
        let (mut engine, _, listener) = exhausted();
        while next_ready(&mut engine).is_some() {}
        for millis in [100, 200, 400, 800, 800, 800] {
            let begun = engine.timers.now;
            let task = loop {
                let wait = engine
                    .timers
                    .time_to_next()
                    .expect("the retry timer is set");
                engine.timers.set_now(engine.timers.now + wait);
                engine.timers.snapshot_due();
                if let Some((_, task, _)) = engine.timers.next_due() {
                    break task;
                }
            };
            assert!(matches!(task, Task::AcceptRetry), "{task:?}");
            let waited = (engine.timers.now - begun).as_millis();
            assert!(
                (millis..=millis + 1).contains(&waited),
                "the retry came after {waited} ms"
            );
            engine.accept_retry_due();
            assert_eq!(next_ready(&mut engine), Some(listener.0));
            fail_with_emfile(&mut engine, listener);
        }
        let peer = SocketAddr::from(([127, 0, 0, 1], 2)).into();
        let stream = Script::new().stream();
        let accepted = engine.admit(stream, peer, Framing::raw());
        assert!(matches!(accepted, Accepted::Conn(_)), "{accepted:?}");
        assert_eq!(engine.admission.retry_after, RETRY_AFTER_MIN);
    }
}
