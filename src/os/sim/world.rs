//! The world: virtual time, scheduled actions, the network's properties and the event log.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::datagram::Datagram;
#[cfg(unix)]
use super::handover::StandIn;
use super::host::{Binding, FIRST_HOST, Host};
use super::link::Links;
use super::poll::{Poll, Ready, SimPoll};
use super::script::Script;
use super::socket::{Kind, SimSocket, Socket};
use super::stream::Stream;
use crate::addr::Addr;
use crate::os::Os;
use crate::testkit::Random;

thread_local! {
    /// The worlds of this thread, by their index. A world that was removed is `None`.
    static WORLDS: RefCell<Vec<Option<Box<State>>>> = const { RefCell::new(Vec::new()) };
}

/// Handle of a simulated world of this thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct World(u32);

/// State of a world.
pub(super) struct State {
    pub(super) now: Duration,
    pub(super) random: Random,
    /// All sockets that were ever opened. A [`SimSocket`] contains an index of this list.
    pub(super) sockets: Vec<Socket>,
    pub(super) hosts: Vec<Host>,
    /// The socket of each address in use. The map is only used for look-ups, because its order
    /// differs between runs.
    pub(super) bindings: HashMap<Binding, usize>,
    pub(super) polls: Vec<Poll>,
    /// Streams that were detached from their reactor.
    #[cfg(unix)]
    pub(super) stand_ins: Vec<StandIn>,
    /// Actions by their time and a sequence number: actions of the same time run in the order in
    /// which they were scheduled.
    actions: BTreeMap<(Duration, u64), Action>,
    /// Number of actions that were ever scheduled.
    scheduled: u64,
    pub(super) links: Links,
    /// Maximum lengths of the send and receive buffers of sockets that are opened without options
    /// for them.
    pub(super) buffer_lens: (usize, usize),
    /// Addresses that do not respond to connects.
    pub(super) silent: Vec<Addr>,
    /// The error of every connect, as a system error number; `None` if connects can succeed.
    pub(super) connects_fail: Option<i32>,
    /// IP addresses that no host has, so that no socket can be bound to them.
    pub(super) absent: Vec<IpAddr>,
    /// Errors that the next waits return.
    pub(super) failing_waits: Vec<io::ErrorKind>,
    log: Option<String>,
}

/// A change that happens at a given time.
pub(super) enum Action {
    /// Calls a function of the test.
    Call(Box<dyn FnOnce()>),
    /// The SYN of this socket reaches the host of its target. The number counts the SYNs that the
    /// socket has sent before.
    Syn(usize, u32),
    /// The connect of this socket fails, because no SYN was answered.
    SynTimeout(usize),
    /// The next `len` bytes of the stream `from` reach the host of its peer. If `fin` is true, the
    /// FIN of the stream follows these bytes.
    Arrive { from: usize, len: usize, fin: bool },
    /// The poll reports the readiness of a socket, after a fault blocked or shortened a call.
    Edge(usize, Ready),
    /// A reset reaches this socket.
    Reset(usize),
    /// A datagram reaches the socket `to`.
    Datagram { to: usize, datagram: Datagram },
    /// The report that a datagram was refused (ICMP port unreachable) reaches its sender.
    Refusal(usize),
}

impl Action {
    /// Returns the number of bytes that the packet takes in the network.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Arrive { len, .. } => *len,
            Self::Datagram { datagram, .. } => datagram.len(),
            _ => 0,
        }
    }

    /// Returns a copy of a packet that the network may duplicate.
    pub(super) fn duplicate(&self) -> Option<Self> {
        match self {
            Self::Datagram { to, datagram } => Some(Self::Datagram {
                to: *to,
                datagram: datagram.clone(),
            }),
            _ => None,
        }
    }
}

impl World {
    /// Creates a world. The seed determines all random decisions, such as losses and segment
    /// lengths.
    pub(crate) fn new(seed: u64) -> Self {
        WORLDS.with_borrow_mut(|worlds| {
            worlds.push(Some(Box::new(State {
                now: Duration::ZERO,
                random: Random(seed),
                sockets: Vec::new(),
                hosts: vec![Host::default()],
                bindings: HashMap::new(),
                polls: Vec::new(),
                #[cfg(unix)]
                stand_ins: Vec::new(),
                actions: BTreeMap::new(),
                scheduled: 0,
                links: Links::new(),
                buffer_lens: (64 * 1024, 64 * 1024),
                silent: Vec::new(),
                connects_fail: None,
                absent: Vec::new(),
                failing_waits: Vec::new(),
                log: None,
            })));
            Self(u32::try_from(worlds.len() - 1).expect("tests create few worlds"))
        })
    }

    /// Returns the first world of this thread. Creates it if the thread has none.
    pub(crate) fn current() -> Self {
        let exists = WORLDS.with_borrow(|worlds| !worlds.is_empty());
        if exists { Self(0) } else { Self::new(0) }
    }

    /// Frees the state of the world. Handles of the world must not be used any more.
    pub(crate) fn remove(self) {
        let state = WORLDS.with_borrow_mut(|worlds| worlds[self.0 as usize].take());
        // A scheduled function of the test may use other worlds when it is dropped.
        drop(state);
    }

    /// Returns the simulated operating system for one reactor or engine of this world.
    pub(crate) fn os(self) -> Os {
        self.os_of(FIRST_HOST)
    }

    /// Returns the simulated operating system for one reactor of a host.
    pub(crate) fn os_of(self, host: usize) -> Os {
        Os::Sim(SimPoll::new(self, host))
    }

    /// Creates a connected stream without a peer, and returns its script. The script decides the
    /// result of each read and write. The poll reports only the events that the test injects with
    /// [`Script::event`].
    pub(crate) fn script(self) -> Script {
        let stream = Stream::scripted();
        let local = Addr::Inet(([127, 0, 0, 1], 1).into());
        let index = self.with(|state| state.add(FIRST_HOST, local, Kind::Stream(Box::new(stream))));
        SimSocket { world: self, index }.script()
    }

    /// Returns the virtual time since the world began.
    pub(crate) fn now(self) -> Duration {
        self.with(|state| state.now)
    }

    /// Advances the virtual time by `time`, and runs the actions that are due by then.
    pub(crate) fn advance(self, time: Duration) {
        self.advance_to(self.now() + time);
    }

    /// Runs `action` after `delay` of virtual time.
    pub(crate) fn after(self, delay: Duration, action: impl FnOnce() + 'static) {
        self.with(|state| {
            let at = state.now + delay;
            state.schedule(at, Action::Call(Box::new(action)));
        });
    }

    /// Returns the time until the next action, if one is scheduled.
    pub(crate) fn next_action_in(self) -> Option<Duration> {
        let next = self.with(|state| state.next_action());
        next.map(|at| at.saturating_sub(self.now()))
    }

    /// Returns true if no poll has an event to report.
    pub(crate) fn is_quiet(self) -> bool {
        self.with(|state| state.polls.iter().all(Poll::is_quiet))
    }

    /// Returns a random number below `bound`, which is not 0.
    pub(crate) fn random_below(self, bound: usize) -> usize {
        self.with(|state| state.random.below(bound))
    }

    /// Sets the maximum buffer lengths of sockets that are opened later without options for them.
    pub(crate) fn set_buffer_lens(self, send: usize, recv: usize) {
        self.with(|state| state.buffer_lens = (send, recv));
    }

    /// Makes an address not respond, so that connects to it time out after 127 seconds.
    pub(crate) fn silence(self, addr: impl Into<Addr>) {
        let addr = addr.into();
        self.with(|state| state.silent.push(addr));
    }

    /// Makes every connect fail at once with a system error number. `None` makes connects succeed
    /// again.
    pub(crate) fn fail_connects(self, errno: Option<i32>) {
        self.with(|state| state.connects_fail = errno);
    }

    /// Removes an IP address from all hosts, so that no socket can be bound to it.
    pub(crate) fn remove_ip(self, ip: IpAddr) {
        self.with(|state| state.absent.push(ip));
    }

    /// Makes the next wait of any poll fail.
    pub(crate) fn fail_next_wait(self, kind: io::ErrorKind) {
        self.with(|state| state.failing_waits.push(kind));
    }

    /// Returns the number of streams that are not closed.
    pub(crate) fn open_streams(self) -> usize {
        let is_open = |it: &&Socket| !it.is_closed && matches!(it.kind, Kind::Stream(_));
        self.with(|state| state.sockets.iter().filter(is_open).count())
    }

    /// Starts the event log.
    pub(crate) fn keep_log(self) {
        self.with(|state| state.log = Some(String::new()));
    }

    /// Returns the event log. It has one line with the time for each event, for each read, write
    /// and send, and for each accept and receive that succeeded.
    pub(crate) fn log(self) -> String {
        self.with(|state| state.log.clone().unwrap_or_default())
    }

    /// Advances the virtual time to `until`, and runs the actions that are due by then. An action
    /// of the test may call the world.
    pub(super) fn advance_to(self, until: Duration) {
        #[cfg(unix)]
        self.with(State::close_dropped_stand_ins);
        while let Some(call) = self.with(|state| state.run_until(until)) {
            call();
        }
    }

    pub(super) fn with<R>(self, call: impl FnOnce(&mut State) -> R) -> R {
        let result = self.try_with(call);
        result.expect("a simulated socket is used on its own thread, and while its world exists")
    }

    /// Calls `call` with the state of the world. Returns `None` if the world was removed, or if it
    /// belongs to another thread.
    pub(super) fn try_with<R>(self, call: impl FnOnce(&mut State) -> R) -> Option<R> {
        WORLDS.with_borrow_mut(|worlds| {
            let state = worlds.get_mut(self.0 as usize)?.as_mut()?;
            Some(call(state))
        })
    }
}

impl State {
    pub(super) fn add(&mut self, host: usize, local: Addr, kind: Kind) -> u32 {
        self.sockets.push(Socket::new(host, local, kind));
        u32::try_from(self.sockets.len() - 1).expect("tests open few sockets")
    }

    pub(super) fn schedule(&mut self, at: Duration, action: Action) {
        self.actions.insert((at, self.scheduled), action);
        self.scheduled += 1;
    }

    pub(super) fn next_action(&self) -> Option<Duration> {
        self.actions.first_key_value().map(|((at, _), _)| *at)
    }

    /// Runs the actions up to `until`, and advances the clock. Stops at an action that is a
    /// function of the test, and returns the function: the caller must call it after releasing the
    /// state.
    fn run_until(&mut self, until: Duration) -> Option<Box<dyn FnOnce()>> {
        while let Some(entry) = self.actions.first_entry()
            && entry.key().0 <= until
        {
            let ((at, _), action) = entry.remove_entry();
            self.now = self.now.max(at);
            match action {
                Action::Call(call) => return Some(call),
                action => self.perform(action),
            }
        }
        self.now = self.now.max(until);
        None
    }

    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Call(_) => unreachable!(
                "`advance_to` calls the functions of the test, because they need the state"
            ),
            Action::Syn(client, repetition) => self.receive_syn(client, repetition),
            Action::SynTimeout(client) => self.time_out_connect(client),
            Action::Arrive { from, len, fin } => self.arrive(from, len, fin),
            Action::Edge(index, ready) => self.edge(index, ready),
            Action::Reset(index) => self.receive_reset(index),
            Action::Datagram { to, datagram } => self.receive_datagram(to, datagram),
            Action::Refusal(index) => self.receive_refusal(index),
        }
    }

    /// Appends a line to the event log, if the log is kept.
    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{now:?} {}", line());
        }
    }
}
