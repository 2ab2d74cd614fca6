//! The simulation: its reactors and peers, and the order in which they run.

use std::any::Any;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::{Index, IndexMut};
use std::time::Duration;

use super::node::{AnyReactor, Node};
use super::peer::{DatagramPeer, Peer, PeerListener};
use crate::addr::{Addr, ToAddrs};
use crate::config::Config;
use crate::handler::Handler;
use crate::os::ListenOptions;
use crate::os::sim::{Link, World};
use crate::reactor::Reactor;

/// Maximum number of turns without any virtual time between them. More turns are an endless loop:
/// a reactor that spins, or handlers that reply to each other without latency.
const TURNS_AT_ONCE_MAX: u32 = 100_000;
/// Maximum virtual time that [`Simulation::expect`] waits.
const EXPECT_TIME_MAX: Duration = Duration::from_secs(60);

/// A simulated network with its reactors, and virtual time. See the
/// [module](crate::testkit::sim).
///
/// Virtual time begins at zero. The methods [`run_for`](Self::run_for),
/// [`run_until`](Self::run_until), [`step`](Self::step) and [`expect`](Self::expect) advance it,
/// but only while no running reactor has work to do. A turn of a reactor takes no virtual time.
///
/// A simulation stays on the thread that created it. A closed connection keeps about a kilobyte of
/// memory, which is freed when the simulation is dropped.
pub struct Simulation {
    world: World,
    nodes: Vec<Member>,
    peer_host: usize,
    /// Number of turns since the virtual time advanced.
    turns_at_once: u32,
}

/// A reactor, and its place in the network.
pub(super) struct Member {
    reactor: Box<dyn AnyReactor>,
    pub(super) host: usize,
    config: Config,
    /// True if the reactor gets no turns.
    pub(super) is_paused: bool,
}

impl Member {
    fn is_running(&self) -> bool {
        !self.is_paused && !self.reactor.has_ended()
    }
}

/// Methods that create a simulation and its reactors.
impl Simulation {
    /// Address of the host of all raw peers, except for those of
    /// [`connect_from`](Simulation::connect_from).
    pub const PEER_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));

    /// Creates a simulation without reactors. The seed determines all random decisions.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let world = World::new(seed);
        world.set_default_link(Link::new());
        Self {
            world,
            nodes: Vec::new(),
            peer_host: world.add_host(Self::PEER_IP),
            turns_at_once: 0,
        }
    }

    /// Adds a reactor with the default configuration, on a new host.
    ///
    /// # Panics
    ///
    /// If the simulation already has 65,535 reactors.
    pub fn reactor<H: Handler + 'static>(&mut self, handler: H) -> Node<H> {
        self.reactor_with(handler, Config::default())
            .expect("the default configuration is valid")
    }

    /// Adds a reactor with a configuration, on a new host.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`: a field of the configuration has an invalid value; the error names it.
    ///
    /// # Panics
    ///
    /// If the simulation already has 65,535 reactors.
    pub fn reactor_with<H: Handler + 'static>(
        &mut self,
        handler: H,
        config: Config,
    ) -> io::Result<Node<H>> {
        let index = self.nodes.len();
        let [high, low] = u16::try_from(index + 1)
            .expect("a simulation has at most 65,535 reactors")
            .to_be_bytes();
        let ip = IpAddr::from([10, 0, high, low]);
        let host = self.world.add_host(ip);
        let reactor = Reactor::with_os(handler, config.clone(), self.world.os_of(host))?;
        self.nodes.push(Member {
            reactor: Box::new(reactor),
            host,
            config,
            is_paused: false,
        });
        Ok(Node {
            index,
            ip,
            handler: PhantomData,
        })
    }

    /// Replaces a reactor by a new one with the same configuration and address, and returns the
    /// handler of the old one. The call simulates the end and the restart of a process: the kernel
    /// closes all sockets of the old reactor, and the new one has no sockets and no timers.
    ///
    /// # Panics
    ///
    /// If the node belongs to another simulation.
    pub fn restart<H: Handler + 'static>(&mut self, node: Node<H>, handler: H) -> H {
        let member = self.member_mut(node);
        let (host, config) = (member.host, member.config.clone());
        let reactor = Reactor::with_os(handler, config, self.world.os_of(host))
            .expect("the configuration was valid before");
        std::mem::replace(&mut self[node], reactor).into_handler()
    }

    /// Returns true if the reactor gets turns: it is not paused, and neither
    /// [`Context::stop`](crate::Context::stop) nor a complete
    /// [`shutdown`](crate::Context::shutdown) has ended it.
    ///
    /// # Panics
    ///
    /// If the node belongs to another simulation.
    #[must_use]
    pub fn is_running<H>(&self, node: Node<H>) -> bool {
        self.member(node).is_running()
    }

    pub(super) fn world(&self) -> World {
        self.world
    }

    pub(super) fn end_pauses(&mut self) {
        self.nodes
            .iter_mut()
            .for_each(|member| member.is_paused = false);
    }

    pub(super) fn member<H>(&self, node: Node<H>) -> &Member {
        let member = self.nodes.get(node.index);
        member.expect("the node belongs to this simulation")
    }

    pub(super) fn member_mut<H>(&mut self, node: Node<H>) -> &mut Member {
        let member = self.nodes.get_mut(node.index);
        member.expect("the node belongs to this simulation")
    }
}

/// Methods that run virtual time.
impl Simulation {
    /// Returns the virtual time since the simulation began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.world.now()
    }

    /// Runs everything that happens within this virtual time. On return the time has passed, and no
    /// running reactor has work left. A time of zero runs all work that is due now.
    ///
    /// # Panics
    ///
    /// If reactors run 100,000 turns and no virtual time passes. Then a reactor spins, or handlers
    /// reply to each other through a network without latency.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now().saturating_add(time);
        while self.step_until(Some(end)) {}
    }

    /// Runs until `condition` returns true, at most for this virtual time. The condition is checked
    /// first, and after each [step](Simulation::step). Returns false if the condition is still
    /// false when the time has passed.
    ///
    /// # Panics
    ///
    /// Same as [`run_for`](Simulation::run_for).
    #[must_use]
    pub fn run_until(
        &mut self,
        time_max: Duration,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> bool {
        let end = self.now().saturating_add(time_max);
        loop {
            if condition(self) {
                return true;
            }
            if !self.step_until(Some(end)) {
                return false;
            }
        }
    }

    /// Runs one step: a turn of one reactor that has work, or, if none has work, the time to the
    /// next event. The seed determines the order of reactors that have work at the same time.
    /// Returns false, without effect, if nothing will ever happen: no reactor has work or a timer,
    /// and nothing is on its way in the network.
    ///
    /// # Panics
    ///
    /// Same as [`run_for`](Simulation::run_for).
    pub fn step(&mut self) -> bool {
        self.step_until(None)
    }

    /// Runs one step that ends at `end` at the latest. Returns false if nothing is left to do until
    /// then.
    fn step_until(&mut self, end: Option<Duration>) -> bool {
        self.world.advance(Duration::ZERO);
        let ready = |index: &usize| {
            let member = &self.nodes[*index];
            member.is_running() && member.reactor.is_ready()
        };
        let ready: Vec<usize> = (0..self.nodes.len()).filter(ready).collect();
        if !ready.is_empty() {
            let chosen = ready[self.world.random_below(ready.len())];
            self.nodes[chosen].reactor.turn();
            self.turns_at_once += 1;
            assert!(
                self.turns_at_once < TURNS_AT_ONCE_MAX,
                "{TURNS_AT_ONCE_MAX} turns passed without any virtual time: a reactor spins, or \
                 handlers reply to each other through a network without latency"
            );
            return true;
        }
        let running = self.nodes.iter().filter(|member| member.is_running());
        let timers = running.filter_map(|member| member.reactor.next_turn_in());
        let next = timers.chain(self.world.next_action_in()).min();
        let left = end.map(|end| end - self.now());
        let time = match (next, left) {
            (Some(next), Some(left)) => next.min(left),
            (Some(time), None) | (None, Some(time)) => time,
            (None, None) => return false,
        };
        self.turns_at_once = 0;
        self.world.advance(time);
        left != Some(Duration::ZERO)
    }
}

/// Raw peers, which the test uses without a reactor.
impl Simulation {
    /// Connects a raw peer, from the host at [`PEER_IP`](Simulation::PEER_IP). The connect is
    /// complete when the simulation has run for the latency of the network; [`Peer::state`] shows
    /// its progress. Bytes can be sent at once.
    ///
    /// # Panics
    ///
    /// If the connect cannot begin:
    ///
    /// * The address is not valid, or has another IP version than the host.
    /// * No listener has the Unix address, or the backlog of the listener is full.
    /// * 16,384 connections of raw peers are open.
    pub fn connect(&mut self, addr: impl ToAddrs) -> Peer {
        self.connect_from(Self::PEER_IP, addr)
    }

    /// Connects a raw peer, like [`connect`](Simulation::connect), from another IP address. The
    /// first use of the address adds a host to the network.
    ///
    /// # Panics
    ///
    /// Same as [`connect`](Simulation::connect).
    pub fn connect_from(&mut self, ip: impl Into<IpAddr>, addr: impl ToAddrs) -> Peer {
        let (ip, addr) = (ip.into(), first_of(addr));
        let host = self.world.host_with(ip);
        let host = host.unwrap_or_else(|| self.world.add_host(ip));
        match self.world.connect_of(host, &addr) {
            Ok(peer) => Peer::new(peer),
            Err(error) => panic!("a raw peer cannot connect to {addr}: {error}"),
        }
    }

    /// Listens without a reactor, on the host at [`PEER_IP`](Simulation::PEER_IP). Port 0 chooses a
    /// free port.
    ///
    /// # Panics
    ///
    /// If the address is not valid or in use, or if it is an IP address of another host.
    pub fn listen(&mut self, addr: impl ToAddrs) -> PeerListener {
        let addr = first_of(addr);
        let options = ListenOptions::new();
        match self.world.listen_of(self.peer_host, &addr, &options) {
            Ok(listener) => PeerListener::new(listener),
            Err(error) => panic!("a raw listener cannot be bound to {addr}: {error}"),
        }
    }

    /// Binds a datagram socket without a reactor: a UDP socket on the host at
    /// [`PEER_IP`](Simulation::PEER_IP), or a Unix datagram socket. Port 0 chooses a free port.
    ///
    /// # Panics
    ///
    /// If the address is not valid or in use, or if it is an IP address of another host.
    pub fn bind_datagrams(&mut self, addr: impl ToAddrs) -> DatagramPeer {
        let addr = first_of(addr);
        match self.world.bind_datagram_of(self.peer_host, &addr) {
            Ok(socket) => DatagramPeer::new(socket),
            Err(error) => panic!("a raw datagram socket cannot be bound to {addr}: {error}"),
        }
    }

    /// Starts the event log of the simulation, for the search of a bug.
    pub fn keep_log(&mut self) {
        self.world.keep_log();
    }

    /// Returns the event log. Each line has the virtual time and one event of a poll, one read,
    /// write or send, or one successful accept or receive. The log is empty without
    /// [`keep_log`](Simulation::keep_log).
    #[must_use]
    pub fn log(&self) -> String {
        self.world.log()
    }

    /// Runs until these bytes have arrived at a raw peer, and receives them.
    ///
    /// # Panics
    ///
    /// If other bytes arrive, or if the bytes are not complete after 60 seconds of virtual time.
    #[track_caller]
    pub fn expect(&mut self, peer: Peer, bytes: &[u8]) {
        let mut received = Vec::new();
        let is_complete = self.run_until(EXPECT_TIME_MAX, |_| {
            received.extend(peer.recv_up_to(bytes.len() - received.len()));
            received.len() == bytes.len() || !bytes.starts_with(&received)
        });
        assert!(
            is_complete && received == bytes,
            "{peer:?} received \"{}\" instead of \"{}\"{}",
            received.escape_ascii(),
            bytes.escape_ascii(),
            match is_complete {
                true => String::new(),
                false => format!(" within {EXPECT_TIME_MAX:?} of virtual time"),
            }
        );
    }
}

/// Returns the first address. Panics if there is none.
fn first_of(addrs: impl ToAddrs) -> Addr {
    let first = addrs.to_addrs().map(|mut addrs| addrs.next());
    match first {
        Ok(Some(addr)) => addr,
        Ok(None) => panic!("the list of addresses is empty"),
        Err(error) => panic!("the address is not valid: {error}"),
    }
}

impl<H: Handler + 'static> Index<Node<H>> for Simulation {
    type Output = Reactor<H>;

    /// Returns the reactor of a node. Panics if the node belongs to another simulation.
    fn index(&self, node: Node<H>) -> &Reactor<H> {
        let member = self.nodes.get(node.index);
        let reactor = member.and_then(|member| {
            let any: &dyn Any = &*member.reactor;
            any.downcast_ref()
        });
        reactor.expect("the node belongs to this simulation")
    }
}

impl<H: Handler + 'static> IndexMut<Node<H>> for Simulation {
    fn index_mut(&mut self, node: Node<H>) -> &mut Reactor<H> {
        let any: &mut dyn Any = &mut *self.member_mut(node).reactor;
        any.downcast_mut()
            .expect("the node belongs to this simulation")
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        // The reactors use the world when they are dropped.
        self.nodes.clear();
        self.world.remove();
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("now", &self.now())
            .field("reactors", &self.nodes.len())
            .finish_non_exhaustive()
    }
}
