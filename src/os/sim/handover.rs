//! Simulated streams that leave their reactor, with a real descriptor as a stand-in.
//!
//! A detached connection carries a descriptor, and a simulated stream has none. So each detached
//! stream gets one end of a real socket pair, and the world keeps the other end. When the program
//! closes its end, the simulated stream is closed too.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::socket::SimSocket;
use super::world::{State, World};
use crate::os::OwnedSocket;

/// A detached stream.
#[derive(Debug)]
pub(super) struct StandIn {
    /// Number of the descriptor that the program has.
    given: i32,
    kept: UnixStream,
    socket: usize,
}

impl SimSocket {
    /// Deregisters a stream, and returns a descriptor that stands for it. Closes the stream and
    /// returns `None` if the process has no descriptor left.
    pub(crate) fn detach(self) -> Option<OwnedSocket> {
        let pair = UnixStream::pair()
            .and_then(|(given, kept)| kept.set_nonblocking(true).map(|()| (given, kept)));
        let Ok((given, kept)) = pair else {
            self.close();
            return None;
        };
        self.with(|state, socket| {
            state.deregister(socket);
            state.stream(socket).script.was_deregistered();
            state.stand_ins.push(StandIn {
                given: given.as_raw_fd(),
                kept,
                socket,
            });
        });
        Some(given.into())
    }
}

impl World {
    /// Returns the stream that a descriptor stands for. Fails if the descriptor is a real socket.
    pub(crate) fn adopt(self, socket: &OwnedSocket) -> io::Result<SimSocket> {
        let index = self.with(|state| {
            state.close_dropped_stand_ins();
            let given = socket.as_raw_fd();
            let place = state.stand_ins.iter().position(|it| it.given == given)?;
            Some(state.stand_ins.swap_remove(place).socket)
        });
        let index = index.ok_or_else(|| {
            let error = "a simulated reactor cannot adopt a real socket";
            io::Error::new(io::ErrorKind::Unsupported, error)
        })?;
        Ok(SimSocket {
            world: self,
            index: u32::try_from(index).expect("a socket index fits 32 bits"),
        })
    }
}

impl State {
    /// Closes the detached streams whose descriptor the program has closed.
    pub(super) fn close_dropped_stand_ins(&mut self) {
        let mut dropped = Vec::new();
        self.stand_ins.retain_mut(|it| {
            let is_open = it.kept.read(&mut [0]).is_err();
            if !is_open {
                dropped.push(it.socket);
            }
            is_open
        });
        for socket in dropped {
            self.close_socket(socket);
        }
    }
}
