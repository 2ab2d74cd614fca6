//! Unix datagram sockets. They have no send queue, because the kernel reports at once if the
//! receiver took a datagram.

use std::io;

use super::udp::ReceiveFailures;
use super::{Engine, Entry, UnixDatagramEntry};
use crate::addr::UnixAddr;
use crate::conn::State;
use crate::error::Gone;
use crate::id::UnixDatagramId;
use crate::os::{OwnedSocket, UnixDatagramSocket};

impl Engine {
    pub(crate) fn bind_unix_datagram(
        &mut self,
        addr: Option<&UnixAddr>,
    ) -> io::Result<UnixDatagramId> {
        self.check_not_shutting_down()?;
        self.add_unix_datagram(self.os.bind_unix_datagram(addr)?)
    }

    pub(crate) fn adopt_unix_datagram(
        &mut self,
        socket: OwnedSocket,
    ) -> io::Result<UnixDatagramId> {
        self.check_not_shutting_down()?;
        self.add_unix_datagram(UnixDatagramSocket::adopt(socket)?)
    }

    fn add_unix_datagram(&mut self, socket: UnixDatagramSocket) -> io::Result<UnixDatagramId> {
        let peer = socket.peer_addr();
        let token = self.add(|generation| {
            Entry::UnixDatagram(Box::new(UnixDatagramEntry {
                socket,
                from: UnixAddr::default(),
                peer,
                failures: ReceiveFailures::default(),
                was_full: false,
                generation,
                state: State::default(),
            }))
        })?;
        Ok(UnixDatagramId(token))
    }

    pub(crate) fn connect_unix_datagram(
        &mut self,
        id: UnixDatagramId,
        peer: &UnixAddr,
    ) -> io::Result<()> {
        let entry = self.unix_datagram_mut(id)?;
        entry.socket.connect(peer)?;
        entry.peer = entry.socket.peer_addr();
        Ok(())
    }

    /// Returns the entry of an open Unix datagram socket.
    pub(crate) fn unix_datagram_mut(
        &mut self,
        id: UnixDatagramId,
    ) -> Result<&mut UnixDatagramEntry, Gone> {
        match self.entries.get_mut(id.0)? {
            Entry::UnixDatagram(entry) if !entry.state.is_dead() => Ok(entry),
            _ => Err(Gone),
        }
    }

    /// Sends a datagram at once. `to` is `None` if the connected peer is the receiver.
    pub(crate) fn send_unix_datagram(
        &mut self,
        id: UnixDatagramId,
        to: Option<&UnixAddr>,
        data: &[u8],
    ) -> io::Result<()> {
        let entry = self.unix_datagram_mut(id)?;
        match entry.socket.send(to, data) {
            Ok(len) => {
                self.telemetry.stats.datagrams_out += 1;
                self.telemetry.stats.datagram_bytes_out += len as u64;
                Ok(())
            }
            Err(error) => {
                entry.was_full |= error.kind() == io::ErrorKind::WouldBlock && to.is_none();
                self.telemetry.stats.datagrams_dropped += 1;
                Err(error)
            }
        }
    }
}
