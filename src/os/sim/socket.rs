//! Sockets of a simulated world, and the handle through which the engine calls a socket.

use std::time::Duration;

use super::connect::Listener;
use super::datagram::Datagrams;
use super::poll::Registration;
use super::script::Script;
use super::stream::Stream;
use super::world::{State, World};
use crate::addr::Addr;

/// Handle of a socket. All copies of a handle refer to one socket, which [`close`](Self::close)
/// closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SimSocket {
    pub(super) world: World,
    pub(super) index: u32,
}

pub(super) struct Socket {
    /// Index of the host that the socket belongs to.
    pub(super) host: usize,
    pub(super) local: Addr,
    pub(super) kind: Kind,
    pub(super) registration: Option<Registration>,
    pub(super) is_closed: bool,
    /// Times until which calls for input and calls for output return `WouldBlock`, because of a
    /// fault.
    pub(super) blocked_until: [Duration; 2],
}

pub(super) enum Kind {
    Stream(Box<Stream>),
    Listener(Listener),
    Datagrams(Datagrams),
}

impl Socket {
    pub(super) fn new(host: usize, local: Addr, kind: Kind) -> Self {
        Self {
            host,
            local,
            kind,
            registration: None,
            is_closed: false,
            blocked_until: [Duration::ZERO; 2],
        }
    }
}

impl SimSocket {
    pub(crate) fn local_addr(self) -> Addr {
        self.with(|state, index| state.sockets[index].local.clone())
    }

    pub(crate) fn is_unix(self) -> bool {
        self.local_addr().inet().is_none()
    }

    /// Returns the script of a stream.
    pub(crate) fn script(self) -> Script {
        Script(self)
    }

    /// Deregisters and closes the socket.
    pub(crate) fn close(self) {
        self.with(State::close_socket);
    }

    pub(super) fn with<R>(self, call: impl FnOnce(&mut State, usize) -> R) -> R {
        self.world.with(|state| call(state, self.index as usize))
    }
}

impl State {
    /// Deregisters and closes a socket.
    pub(super) fn close_socket(&mut self, index: usize) {
        self.deregister(index);
        if std::mem::replace(&mut self.sockets[index].is_closed, true) {
            return;
        }
        self.unbind(index);
        match self.sockets[index].kind {
            Kind::Stream(_) => self.close_stream(index),
            Kind::Listener(_) => self.close_listener(index),
            Kind::Datagrams(_) => self.discard_datagrams(index),
        }
    }
}
