//! Listeners: opening them, accepting, and retrying after a failed accept.

use std::io;
use std::time::Duration;

use super::log_limit::LogTopic;
use super::open::first_ok;
use super::per_addr::PerAddr;
use super::{Connection, Engine, Entry, ListenerEntry, Task};
use crate::addr::{Addr, ToAddrs};
use crate::codec::Framing;
use crate::conn::State;
use crate::event::Refusal;
use crate::id::{ConnId, ListenerId};
use crate::os::{AcceptFailure, ListenOptions, Listener, OwnedSocket, Stream};

/// First delay of the retry after an accept failed for want of descriptors or memory. A close
/// retries at once.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(100);
/// Longest delay of the retry: a waiting client is accepted within a second after a descriptor is
/// free.
const RETRY_AFTER_MAX: Duration = Duration::from_millis(800);

/// The connections that are open, and the listeners that cannot accept at present.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Number of connections, those that are connecting included.
    pub(super) connections: usize,
    /// Connections by address, while these have a limit.
    pub(super) per_addr: PerAddr,
    /// Listeners whose last accept failed for want of descriptors or memory.
    exhausted: Vec<ListenerId>,
    retry_armed: bool,
    retry_after: Duration,
    /// New connections pass their bytes through the test's filter.
    #[cfg(test)]
    pub(crate) filters_connections: bool,
}

impl Admission {
    pub(super) fn new() -> Self {
        Self {
            connections: 0,
            per_addr: PerAddr::default(),
            exhausted: Vec::new(),
            retry_armed: false,
            retry_after: RETRY_AFTER_MIN,
            #[cfg(test)]
            filters_connections: false,
        }
    }
}

/// The result of one accept.
#[derive(Debug)]
pub(crate) enum Accepted {
    Conn(ConnId),
    /// A connection was refused; there may be more.
    Refused(Addr, Refusal),
    /// A connection was lost; there may be more.
    Lost,
    /// No connection is left, or none can be accepted now.
    Nothing,
}

impl Engine {
    pub(crate) fn listen(
        &mut self,
        addrs: impl ToAddrs,
        framing: Framing,
        options: &ListenOptions,
    ) -> io::Result<ListenerId> {
        self.check_not_shutting_down()?;
        let backlog = self.config.backlog;
        let listener = first_ok(addrs.to_addrs()?, |addr| {
            self.os.listen(&addr, options, backlog)
        })?;
        self.add_listener(listener, framing)
    }

    pub(crate) fn adopt_listener(
        &mut self,
        socket: OwnedSocket,
        framing: Framing,
    ) -> io::Result<ListenerId> {
        self.check_not_shutting_down()?;
        self.add_listener(Listener::adopt(socket)?, framing)
    }

    fn add_listener(&mut self, listener: Listener, framing: Framing) -> io::Result<ListenerId> {
        let token = self.entries.insert(|generation| {
            Entry::Listener(Box::new(ListenerEntry {
                listener,
                framing,
                generation,
                state: State::default(),
            }))
        });
        self.register(token)?;
        Ok(ListenerId(token))
    }

    /// Accepts one connection.
    pub(crate) fn accept(&mut self, id: ListenerId) -> Accepted {
        let Ok(entry) = self.listener_mut(id) else {
            return Accepted::Nothing;
        };
        if !entry.state.may_accept() {
            return Accepted::Nothing;
        }
        let framing = entry.framing.clone();
        match entry.listener.accept() {
            Ok((stream, peer)) => self.admit(stream, peer, framing),
            Err(error) => self.accept_failed(id, &error),
        }
    }

    /// Makes a connection of an accepted socket, unless a limit refuses it.
    pub(crate) fn admit(&mut self, stream: Stream, peer: Addr, framing: Framing) -> Accepted {
        let per_addr_max = self.config.connections_per_addr_max;
        let addr = peer.inet().map(|peer| peer.ip());
        let counted = addr.filter(|_| per_addr_max != usize::MAX);
        if self.admission.connections >= self.config.connections_max {
            return self.refuse(peer, Refusal::Connections);
        }
        if counted.is_some_and(|addr| !self.admission.per_addr.enter(addr, per_addr_max)) {
            return self.refuse(peer, Refusal::ConnectionsPerAddr);
        }
        let state = State::accepted(self.times_callbacks(), counted.is_some());
        let from = peer.clone();
        let token = self.entries.insert(|generation| {
            Entry::Conn(Connection::new(stream, from, framing, generation, state))
        });
        if let Err(error) = self.register(token) {
            self.telemetry.stats.accept_errors += 1;
            if let Some(suppressed) = self.telemetry.may_log(LogTopic::Accept, self.timers.now) {
                log::warn!("registering the connection from {peer} failed: {error}{suppressed}");
            }
            if let Some(addr) = counted {
                self.admission.per_addr.leave(addr);
            }
            return Accepted::Lost;
        }
        self.admission.retry_after = RETRY_AFTER_MIN;
        self.admission.connections += 1;
        self.telemetry.stats.accepted += 1;
        self.opened(token);
        log::debug!("{} accepted from {peer}", ConnId(token));
        Accepted::Conn(ConnId(token))
    }

    fn refuse(&mut self, peer: Addr, refusal: Refusal) -> Accepted {
        self.telemetry.stats.refused += 1;
        if let Some(suppressed) = self.telemetry.may_log(LogTopic::Refused, self.timers.now) {
            log::warn!("refused {peer}: {refusal}{suppressed}");
        }
        Accepted::Refused(peer, refusal)
    }

    fn accept_failed(&mut self, id: ListenerId, error: &io::Error) -> Accepted {
        let failure = AcceptFailure::of(error);
        if failure != AcceptFailure::WouldBlock {
            self.telemetry.stats.accept_errors += 1;
            if let Some(suppressed) = self.telemetry.may_log(LogTopic::Accept, self.timers.now) {
                log::warn!("{id} cannot accept: {error}{suppressed}");
            }
        }
        match failure {
            AcceptFailure::ThisOne => return Accepted::Lost,
            AcceptFailure::WouldBlock => {}
            AcceptFailure::Exhausted => {
                let admission = &mut self.admission;
                admission.exhausted.push(id);
                if !std::mem::replace(&mut admission.retry_armed, true) {
                    self.timers
                        .set_task(admission.retry_after, Task::AcceptRetry);
                }
            }
        }
        Accepted::Nothing
    }

    /// Retries when the retry timer fires.
    pub(crate) fn accept_retry_due(&mut self) {
        let admission = &mut self.admission;
        admission.retry_armed = false;
        admission.retry_after = (2 * admission.retry_after).min(RETRY_AFTER_MAX);
        self.retry_accepts();
    }

    /// Queues the listeners that could not accept: on the timer, and after every close.
    pub(super) fn retry_accepts(&mut self) {
        while let Some(id) = self.admission.exhausted.pop() {
            self.queue(id.0);
        }
    }
}
#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::Config;
    use crate::event::CloseReason;
    use crate::id::Token;
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
        engine.begin_dispatch_phase();
        let token = engine.next_ready()?;
        engine.take_ready(token).map(|_| token)
    }

    #[test]
    fn a_close_has_those_accept_again_who_found_no_descriptor() {
        let (mut engine, conn, listener) = exhausted();
        while next_ready(&mut engine).is_some() {}
        engine.end(conn, CloseReason::Local);
        let (dead, _) = engine.next_to_reap().expect("it was killed");
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
            let begun = engine.now();
            let task = loop {
                let wait = engine.timers.time_to_next().expect("it is tried again");
                engine.timers.set_now(engine.now() + wait);
                engine.timers.snapshot_due();
                if let Some((_, task)) = engine.timers.next_due() {
                    break task;
                }
            };
            assert!(matches!(task, Task::AcceptRetry), "{task:?}");
            let waited = (engine.now() - begun).as_millis();
            assert!((millis..=millis + 1).contains(&waited), "{waited} ms");
            engine.accept_retry_due();
            assert_eq!(next_ready(&mut engine), Some(listener.0));
            find_no_descriptor(&mut engine, listener);
        }
        let peer = SocketAddr::from(([127, 0, 0, 1], 2)).into();
        let stream = Script::new().stream();
        let accepted = engine.admit(stream, peer, Framing::raw());
        assert!(matches!(accepted, Accepted::Conn(_)), "{accepted:?}");
        assert_eq!(engine.admission.retry_after, RETRY_AFTER_MIN);
    }
}
