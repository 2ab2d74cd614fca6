//! Reactors of a simulation, with handlers of different types in one list.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::handler::Handler;
use crate::reactor::Reactor;

/// Handle of a reactor in a [`Simulation`](super::Simulation), with the address of its host.
///
/// Indexing the simulation with the handle gives the [`Reactor`].
pub struct Node<H> {
    pub(super) index: usize,
    pub(super) ip: IpAddr,
    /// The type of the handler. The node owns no handler, so it can be copied and sent for every
    /// `H`.
    pub(super) handler: PhantomData<fn() -> H>,
}

impl<H> Node<H> {
    /// Returns the IP address of the reactor's host.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// Returns the IP address of the reactor's host with a port.
    #[must_use]
    pub fn addr(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }
}

impl<H> Clone for Node<H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H> Copy for Node<H> {}

impl<H> fmt::Debug for Node<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.ip)
    }
}

impl<H> From<Node<H>> for IpAddr {
    fn from(node: Node<H>) -> Self {
        node.ip
    }
}

/// A reactor with any handler.
pub(super) trait AnyReactor: Any {
    /// Returns true if a turn has work without a wait.
    fn is_ready(&self) -> bool;

    /// Returns true if [`Reactor::run`] would have returned.
    fn has_ended(&self) -> bool;

    /// Returns the time to the next timer.
    fn next_turn_in(&self) -> Option<Duration>;

    /// Runs one turn without a wait.
    fn turn(&mut self);
}

impl<H: Handler + 'static> AnyReactor for Reactor<H> {
    fn is_ready(&self) -> bool {
        self.is_ready_in_simulation()
    }

    fn has_ended(&self) -> bool {
        self.has_ended_in_simulation()
    }

    fn next_turn_in(&self) -> Option<Duration> {
        Self::next_turn_in(self)
    }

    fn turn(&mut self) {
        Self::turn(self, Some(Duration::ZERO)).expect("a simulated poll does not fail");
    }
}
