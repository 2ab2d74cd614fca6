//! Connections that are opened from this side: by a connect, or by adopting a connected socket.

use std::io;
use std::time::Duration;

use super::dial::Dial;
use super::prepare::{Opening, Preparation, Stage};
use super::{Connection, Engine, Entry};
use crate::addr::{ToAddrs, unknown};
use crate::codec::Framing;
use crate::conn::State;
use crate::error::invalid_input;
use crate::event::{CloseReason, Origin};
use crate::id::{ConnId, Token};
use crate::log_target::{LOG_TARGET, log_conn};
use crate::memory::ReadBuffer;
use crate::os::{ConnectOptions, OwnedSocket, Stream};
#[cfg(feature = "tls")]
use crate::tls::TlsClient;

impl Engine {
    /// Starts a connect. Every failure is reported by `on_close`.
    pub(crate) fn connect(
        &mut self,
        addrs: impl ToAddrs,
        framing: Framing,
        options: &ConnectOptions,
    ) -> ConnId {
        let token = self.insert_connecting(framing);
        let begun = self.begin_connect(token, addrs, options);
        self.end_if_failed(token, begun)
    }

    /// Adopts a connected socket. The new connection is in the connecting phase, and the next turn
    /// opens it. Every failure is reported by `on_close`.
    pub(crate) fn adopt_stream(&mut self, socket: OwnedSocket, framing: Framing) -> ConnId {
        let token = self.insert_connecting(framing);
        let begun = self.begin_adopt(token, socket);
        self.end_if_failed(token, begun)
    }

    /// Ends a connection whose connect or adoption could not begin. Returns its id.
    pub(super) fn end_if_failed(&mut self, token: Token, begun: io::Result<()>) -> ConnId {
        if let Err(error) = begun {
            self.end(token, CloseReason::ConnectFailed(error));
        }
        ConnId(token)
    }

    pub(super) fn insert_connecting(&mut self, framing: Framing) -> Token {
        let mut state = State::connecting(self.times_callbacks());
        state.set_reads_above_high(self.config.read_above_high);
        self.admission.connections += 1;
        self.entries.insert(|generation| {
            let stream = Stream::None;
            Entry::Conn(Connection::new(
                stream,
                unknown(),
                framing,
                generation,
                state,
            ))
        })
    }

    fn begin_connect(
        &mut self,
        token: Token,
        addrs: impl ToAddrs,
        options: &ConnectOptions,
    ) -> io::Result<()> {
        self.check_may_open()?;
        let addrs = addrs.to_addrs()?.collect();
        // The name look-up may have taken long, so the deadlines count from its end.
        self.timers.set_now(self.os.now());
        let timeout = options.timeout.unwrap_or(self.config.connect_deadline);
        let until = self.timers.since_epoch().saturating_add(timeout);
        let dial = Dial::new(addrs, options.clone(), until);
        let preparation = self.preparation_of_connect(options, timeout)?;
        let extras = self.conn_mut(token)?.extras();
        extras.dial = Some(Box::new(dial));
        extras.preparation = preparation;
        self.connect_next(token, no_address());
        Ok(())
    }

    pub(super) fn begin_adopt(&mut self, token: Token, socket: OwnedSocket) -> io::Result<()> {
        self.check_may_open()?;
        let mut stream = Stream::adopt(socket, &self.os)?;
        let conn = self.entries.conn_mut(token)?;
        conn.extras().adopted = true;
        // The peer is checked before the registration, because a failed check drops the socket. If
        // the program holds a duplicate of the descriptor, dropping the socket would not end a
        // registration.
        if let Some(peer) = stream.connected()? {
            conn.peer = peer;
        }
        stream.register(&self.os, token.to_poll())?;
        conn.socket = stream;
        // The entry is queued, because no event reports a socket that has no input and a full send
        // buffer.
        self.queue(token);
        Ok(())
    }

    /// Returns the preparation of a new connect; `None` if it needs none.
    fn preparation_of_connect(
        &self,
        options: &ConnectOptions,
        timeout: Duration,
    ) -> io::Result<Option<Box<Preparation>>> {
        let mut stages = Vec::new();
        let bytes = options.proxy_header.clone();
        stages.extend(bytes.map(|bytes| Stage::Send { bytes, timeout }));
        #[cfg(test)]
        stages.extend(self.admission.prefix.map(Stage::Prefix));
        #[cfg(feature = "tls")]
        if let Some((config, name)) = options.tls.clone() {
            let client = TlsClient::new(config, name)?;
            stages.push(Stage::TlsClient(Box::new(client)));
        }
        Ok(Preparation::new(Some(Origin::Connected), stages))
    }

    /// Continues the connect or the preparation of a connection after an event.
    pub(crate) fn continue_opening(
        &mut self,
        token: Token,
        read_buffer: &mut ReadBuffer,
    ) -> Opening {
        let conn = self.entries.conn(token);
        if conn.is_ok_and(|conn| conn.state.is_connecting()) {
            if !self.select_connected(token) {
                return Opening::Waits;
            }
            if let Some(origin) = self.finish_connect(token) {
                return Opening::Opened(origin);
            }
        }
        self.prepare(token, read_buffer)
    }

    /// Ends the connecting phase. Returns the origin of the connection if it is open now; `None` if
    /// it needs a preparation.
    fn finish_connect(&mut self, token: Token) -> Option<Origin> {
        let conn = self.entries.conn_mut(token).ok()?;
        conn.state.connected();
        let extras = conn.extras();
        self.timers.cancel(extras.deadline.take());
        let origin = match extras.adopted {
            true => Origin::Adopted,
            false => Origin::Connected,
        };
        let is_prepared = extras.preparation.is_none();
        let (id, peer) = (ConnId(token), &conn.peer);
        log_conn!(debug, LOG_TARGET, id, peer, "{id} connected to {peer}");
        self.established(token);
        if !is_prepared {
            self.begin_preparation(token);
            return None;
        }
        self.opened(token);
        self.telemetry.stats.connected += 1;
        Some(origin)
    }

    /// Ends the connecting phase of an adopted socket that has a peer. So a close before `on_open`
    /// flushes the output that was adopted with the socket.
    pub(super) fn end_connecting_if_adopted(&mut self, token: Token) {
        if let Ok(conn) = self.entries.conn_mut(token)
            && conn.state.is_connecting()
            && conn.extras_ref().is_some_and(|extras| extras.adopted)
            && matches!(conn.socket.connected(), Ok(Some(_)))
        {
            conn.state.connected();
            // `on_drained` is not called for a connection without `on_open`.
            let _ = conn.state.at_low();
            self.telemetry.stats.connected += 1;
        }
    }

    /// Frees the extras that an open connection does not need, and starts its timeouts.
    pub(super) fn opened(&mut self, token: Token) {
        if let Ok(conn) = self.entries.conn_mut(token) {
            conn.free_extras();
        }
        self.start_timeouts(token);
        #[cfg(test)]
        self.install_test_filter(token);
    }

    /// Sets `TCP_NODELAY` on an established connection, if it is configured.
    pub(super) fn established(&self, token: Token) {
        if self.config.nodelay
            && let Ok(conn) = self.conn(token)
            && let Err(error) = conn.socket.set_nodelay(true)
        {
            // `set_nodelay` fails only if the peer has reset the connection. The next read reports
            // the reset.
            let (id, peer) = (ConnId(token), &conn.peer);
            log_conn!(
                debug,
                LOG_TARGET,
                id,
                peer,
                "setting TCP_NODELAY on {id} failed: {error}"
            );
        }
    }

    /// Installs the transport filter of the test, if it has one.
    #[cfg(test)]
    fn install_test_filter(&mut self, token: Token) {
        if let Some(filter_of) = self.admission.filters_connections
            && let Ok(conn) = self.entries.conn_mut(token)
        {
            let filter = filter_of(&conn.socket);
            conn.install_filter(filter);
        }
    }

    /// Returns true if the time of callbacks is measured.
    pub(super) fn times_callbacks(&self) -> bool {
        self.config.slow_callback_min.is_some()
    }

    /// Returns an error if a new connection may not be opened. The number of connections already
    /// includes the new one.
    fn check_may_open(&self) -> io::Result<()> {
        self.check_not_shutting_down()?;
        if self.admission.connections > self.config.connections_max {
            let max = self.config.connections_max;
            let error = format!("no connection can be opened: connections_max ({max}) is reached");
            return Err(io::Error::other(error));
        }
        Ok(())
    }
}

/// Calls `open` for each address. Returns the first success, or the error of the last address.
pub(super) fn first_ok<A, T>(
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

pub(super) fn no_address() -> io::Error {
    invalid_input("the host name or the list of addresses has no address")
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, ToSocketAddrs};
    use std::time::Duration;

    use super::*;
    use crate::config::Config;
    use crate::os::sim::World;

    #[test]
    fn slow_name_lookup_does_not_shorten_the_connect_timeout() {
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
        let mut engine =
            Engine::new(Config::default(), world.os()).expect("the simulated poll opens");
        engine.connect(name, Framing::raw(), &ConnectOptions::new());
        engine.timers.set_now(engine.os.now());
        assert!(engine.timers.time_to_next() > Some(Duration::from_secs(20)));
    }
}
