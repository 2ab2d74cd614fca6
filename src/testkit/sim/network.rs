//! The network and the faults of a simulation.

use std::io;
use std::net::IpAddr;

use super::Simulation;
use super::node::Node;
use crate::os::sim::{Call, Faults, Link};

/// Methods that change the network. A host is named by its IP address or by its [`Node`].
impl Simulation {
    /// Sets the link of all pairs of hosts that have no separate link. Also applies to
    /// connections within a host.
    pub fn set_links(&mut self, link: Link) {
        self.world().set_default_link(link);
    }

    /// Sets the link from one host to another, in this direction only.
    ///
    /// # Panics
    ///
    /// If one of the addresses belongs to no host.
    pub fn set_link(&mut self, from: impl Into<IpAddr>, to: impl Into<IpAddr>, link: Link) {
        let (from, to) = (self.host(from), self.host(to));
        self.world().set_link(from, to, link);
    }

    /// Cuts the link from one host to another, in this direction only.
    ///
    /// While the link is cut, datagrams, reports of refused datagrams, and resets are lost.
    /// Connects and the bytes of streams wait, and are sent when the link is
    /// [restored](Simulation::heal). Packets that are on their way still arrive. A connect needs
    /// only the direction from the client to the server: the replies of its handshake are not
    /// simulated.
    ///
    /// # Panics
    ///
    /// If one of the addresses belongs to no host.
    pub fn cut(&mut self, from: impl Into<IpAddr>, to: impl Into<IpAddr>) {
        let (from, to) = (self.host(from), self.host(to));
        self.world().set_cut(from, to, true);
    }

    /// Cuts the links between two hosts in both directions, like two calls of
    /// [`cut`](Simulation::cut).
    ///
    /// # Panics
    ///
    /// If one of the addresses belongs to no host.
    pub fn partition(&mut self, one: impl Into<IpAddr>, other: impl Into<IpAddr>) {
        let (one, other) = (one.into(), other.into());
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Restores the links between two hosts in both directions. Does nothing for links that are not
    /// cut.
    ///
    /// # Panics
    ///
    /// If one of the addresses belongs to no host.
    pub fn heal(&mut self, one: impl Into<IpAddr>, other: impl Into<IpAddr>) {
        let (one, other) = (self.host(one), self.host(other));
        self.world().set_cut(one, other, false);
        self.world().set_cut(other, one, false);
    }

    fn host(&self, ip: impl Into<IpAddr>) -> usize {
        let ip = ip.into();
        let host = self.world().host_with(ip);
        host.unwrap_or_else(|| panic!("no host of the simulation has the address {ip}"))
    }
}

/// Methods that inject faults into reactors.
impl Simulation {
    /// Makes system calls of a reactor fail at random, from now on.
    ///
    /// # Panics
    ///
    /// If the node belongs to another simulation.
    pub fn set_faults<H>(&mut self, node: Node<H>, faults: Faults) {
        let host = self.member(node).host;
        self.world().set_faults(host, faults);
    }

    /// Makes the next `count` system calls of one kind fail with this error, for all sockets of a
    /// reactor. Replaces an earlier setting for this kind. A count of zero only removes the earlier
    /// setting, and `usize::MAX` makes all calls fail.
    ///
    /// An error of a read or write ends the connection at both ends, except for `WouldBlock` and
    /// `Interrupted`. After `WouldBlock`, an event reports when the call can succeed. The errors of
    /// other calls have no other effect on the sockets.
    ///
    /// # Panics
    ///
    /// If the node belongs to another simulation.
    ///
    /// # Examples
    ///
    /// ```
    /// # use unstick::testkit::sim::{Call, Node, Simulation};
    /// # fn f<H: unstick::Handler>(sim: &mut Simulation, server: Node<H>) {
    /// let no_descriptor = std::io::Error::from_raw_os_error(24);
    /// sim.fail_next(server, Call::Accept, no_descriptor, 1);
    /// # }
    /// ```
    pub fn fail_next<H>(
        &mut self,
        node: Node<H>,
        call: Call,
        error: impl Into<io::Error>,
        count: usize,
    ) {
        let host = self.member(node).host;
        self.world().fail_calls(host, call, &error.into(), count);
    }

    /// Stops the turns of a reactor, like a process that hangs. Its kernel still accepts
    /// connections and receives bytes, until the buffers are full.
    ///
    /// # Panics
    ///
    /// If the node belongs to another simulation.
    pub fn pause<H>(&mut self, node: Node<H>) {
        self.member_mut(node).is_paused = true;
    }

    /// Continues the turns of a reactor that was [paused](Simulation::pause). Does nothing for a
    /// reactor that runs.
    ///
    /// # Panics
    ///
    /// If the node belongs to another simulation.
    pub fn resume<H>(&mut self, node: Node<H>) {
        self.member_mut(node).is_paused = false;
    }

    /// Ends all faults: random and planned faults of system calls, cuts and pauses. All links get
    /// the properties of [`Link::new`].
    ///
    /// A test of liveness calls this method at some time. From then on, everything that was
    /// accepted must arrive or be reported.
    pub fn end_faults(&mut self) {
        self.end_pauses();
        self.world().end_faults();
    }
}
