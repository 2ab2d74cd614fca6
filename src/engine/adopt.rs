//! Taking in sockets that somebody else made.

use std::io;
use std::net::SocketAddr;

use super::{Connection, Engine, Entry};
use crate::codec::Framing;
use crate::conn::State;
use crate::event::CloseReason;
use crate::id::{ConnId, ListenerId, Token, UdpId};
use crate::os::{Listener, OwnedSocket, Stream, Udp};

impl Engine {
    pub(crate) fn adopt_listener(
        &mut self,
        socket: OwnedSocket,
        framing: Framing,
    ) -> io::Result<ListenerId> {
        self.refuse_when_shutting_down()?;
        self.add_listener(Listener::adopt(socket)?, framing)
    }

    pub(crate) fn adopt_udp(&mut self, socket: OwnedSocket) -> io::Result<UdpId> {
        self.refuse_when_shutting_down()?;
        self.add_udp(Udp::adopt(socket, self.config.datagram_batches)?)
    }

    /// Takes a connection in as one whose connect is done: the first event of its socket opens it.
    /// Whatever goes wrong is told when the entry is reaped.
    pub(crate) fn adopt_stream(&mut self, socket: OwnedSocket, framing: Framing) -> ConnId {
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
        if let Err(error) = self.begin_adopt(token, socket) {
            self.kill(token, CloseReason::ConnectFailed(error));
        }
        ConnId(token)
    }

    fn begin_adopt(&mut self, token: Token, socket: OwnedSocket) -> io::Result<()> {
        self.may_open()?;
        let mut stream = Stream::adopt(socket)?;
        let Self { entries, os, .. } = self;
        let conn = entries.conn_mut(token)?;
        conn.extras().adopted = true;
        // Decoder first: whoever handed the socket down may keep a duplicate, by which a registration
        // would outlive a socket that is dropped here.
        if let Some(peer) = stream.connected()? {
            conn.peer = peer;
        }
        stream.register(os, token.to_poll())?;
        conn.stream = stream;
        Ok(())
    }
}
