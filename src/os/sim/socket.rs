//! Sockets of a simulated world, and the handle through which the engine calls a socket.

use std::io;

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
    pub(super) local: Addr,
    pub(super) kind: Kind,
    pub(super) registration: Option<Registration>,
    pub(super) is_closed: bool,
}

pub(super) enum Kind {
    Stream(Stream),
    Listener(Listener),
    Datagrams(Datagrams),
}

impl Socket {
    pub(super) fn new(local: Addr, kind: Kind) -> Self {
        Self {
            local,
            kind,
            registration: None,
            is_closed: false,
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
        self.with(|state, index| {
            state.sockets[index].registration = None;
            if std::mem::replace(&mut state.sockets[index].is_closed, true) {
                return;
            }
            match state.sockets[index].kind {
                Kind::Stream(_) => state.close_stream(index),
                Kind::Listener(_) => state.close_listener(index),
                Kind::Datagrams(_) => {}
            }
        });
    }

    pub(super) fn with<R>(self, call: impl FnOnce(&mut State, usize) -> R) -> R {
        self.world.with(|state| call(state, self.index as usize))
    }
}

impl State {
    /// Returns the open socket that is bound to `addr` and whose kind `is_of_kind` accepts. A
    /// wildcard address matches every address of its port.
    pub(super) fn bound(&self, addr: &Addr, is_of_kind: fn(&Kind) -> bool) -> Option<usize> {
        let matches = |local: &Addr| {
            local == addr
                || match (local.inet(), addr.inet()) {
                    (Some(local), Some(addr)) => {
                        local.ip().is_unspecified() && local.port() == addr.port()
                    }
                    _ => false,
                }
        };
        self.sockets.iter().position(|socket| {
            !socket.is_closed && is_of_kind(&socket.kind) && matches(&socket.local)
        })
    }

    /// Chooses a port if the address has none, and checks that the address is free.
    pub(super) fn choose_local(
        &mut self,
        addr: &Addr,
        is_of_kind: fn(&Kind) -> bool,
    ) -> io::Result<Addr> {
        let mut addr = addr.clone();
        if let Addr::Inet(inet) = &mut addr
            && inet.port() == 0
        {
            inet.set_port(self.free_port());
        }
        #[cfg(unix)]
        let is_unnamed = matches!(&addr, Addr::Unix(name) if name.is_unnamed());
        #[cfg(not(unix))]
        let is_unnamed = false;
        if !is_unnamed && self.bound(&addr, is_of_kind).is_some() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        Ok(addr)
    }

    pub(super) fn free_port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = port.checked_add(1).expect("tests use few ports");
        port
    }
}
