//! The simulated poll: it is edge-triggered and follows the rules of epoll.
//!
//! A change of a socket puts it on the list of its poll, unless it is already there. A wait takes
//! the list, and reports the current readiness of each listed socket. Unread data alone causes no
//! further event.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::ops::BitOr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::socket::{Kind, SimSocket};
use super::world::{State, World};
use crate::id::PollToken;
use crate::os::{Event, Waker};

/// Token of the waker, as in the real poll.
const WAKER_TOKEN: PollToken = PollToken(usize::MAX);

/// A set of directions and conditions that an event reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ready(u8);

impl Ready {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const READABLE: Self = Self(1);
    pub(crate) const WRITABLE: Self = Self(2);
    /// The stream has ended, was reset, or has an error: `EPOLLRDHUP`, `EPOLLHUP`, `EPOLLERR`.
    pub(crate) const ENDED: Self = Self(4);
    /// The peer has ended or reset the stream: `EPOLLRDHUP` or `EPOLLHUP`. An event that has this
    /// bit also has `ENDED`.
    pub(crate) const HUNG_UP: Self = Self(8);
    /// Readable and writable.
    pub(super) const BOTH: Self = Self(3);
    /// Conditions that an event reports even if they are not in the registered interest.
    const ALWAYS: Self = Self(12);
    pub(super) const ALL: Self = Self(15);

    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn only_if(self, condition: bool) -> Self {
        if condition { self } else { Self::NONE }
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Ready {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One event of a socket, or of the waker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SimEvent {
    pub(crate) token: PollToken,
    pub(crate) ready: Ready,
}

/// Handle of a poll of the world, with the events of its last wait. Each engine owns one.
#[derive(Debug)]
pub(crate) struct SimPoll {
    world: World,
    /// Index of the host that opens sockets through this poll.
    host: usize,
    index: usize,
    woken: Arc<AtomicBool>,
    events: Vec<SimEvent>,
}

/// State of a poll in the world.
#[derive(Debug, Default)]
pub(super) struct Poll {
    /// Sockets that changed since the last wait. Each socket is listed at most once.
    changed: VecDeque<usize>,
    pub(super) is_closed: bool,
}

/// The registration of a socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Registration {
    poll: usize,
    token: PollToken,
    interest: Ready,
    /// True if `Poll::changed` contains the socket.
    is_listed: bool,
    /// Readiness that the test injected for the next wait.
    injected: Ready,
}

impl Poll {
    pub(super) fn is_quiet(&self) -> bool {
        self.is_closed || self.changed.is_empty()
    }
}

impl SimPoll {
    pub(super) fn new(world: World, host: usize) -> Self {
        let index = world.with(|state| {
            state.polls.push(Poll::default());
            state.polls.len() - 1
        });
        Self {
            world,
            host,
            index,
            woken: Arc::default(),
            events: Vec::new(),
        }
    }

    pub(crate) fn world(&self) -> World {
        self.world
    }

    pub(crate) fn host(&self) -> usize {
        self.host
    }

    /// Returns true if the next wait may report an event or a wake-up.
    pub(crate) fn is_ready(&self) -> bool {
        let is_quiet = self.world.with(|state| state.polls[self.index].is_quiet());
        !is_quiet || self.woken.load(Ordering::Acquire)
    }

    pub(crate) fn waker(&self) -> Waker {
        Waker::Sim(Arc::clone(&self.woken))
    }

    /// Waits in virtual time until the first event, or until `timeout` has passed.
    ///
    /// A wait without a timeout is a deadlock if no event and no scheduled action is left. The wait
    /// then panics if this poll is the only one of its world. Otherwise it returns without events,
    /// so that the test can run the other reactors.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let world = self.world;
        let until = timeout.map(|timeout| world.now().saturating_add(timeout));
        world.advance(Duration::ZERO);
        if let Some(kind) = world.with(|state| state.failing_waits.pop()) {
            self.events.clear();
            return Err(kind.into());
        }
        loop {
            self.events = world.with(|state| state.take_events(self.index));
            if self.woken.swap(false, Ordering::Acquire) {
                let (token, ready) = (WAKER_TOKEN, Ready::READABLE);
                self.events.push(SimEvent { token, ready });
            }
            if !self.events.is_empty() || timeout == Some(Duration::ZERO) {
                return Ok(());
            }
            match (world.with(|state| state.next_action()), until) {
                (Some(next), until) if until.is_none_or(|until| next <= until) => {
                    world.advance_to(next);
                }
                (_, Some(until)) if world.now() < until => world.advance_to(until),
                (_, Some(_)) => return Ok(()),
                (None, None) if world.with(|state| state.is_only_poll()) => {
                    panic!(
                        "deadlock: a simulated poll waits without a timeout, and no event can come"
                    )
                }
                _ => return Ok(()),
            }
        }
    }

    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(crate) fn for_each_event(&self, mut each: impl FnMut(Event<'_>)) -> usize {
        for event in &self.events {
            each(Event::Sim(*event, PhantomData));
        }
        self.events.len()
    }

    /// Registers a socket for input and output. If the socket is already ready, the next wait
    /// reports it.
    pub(crate) fn register(&self, socket: SimSocket, token: PollToken) -> io::Result<()> {
        self.register_for(socket, token, Ready::BOTH)
    }

    /// Registers a socket for input only.
    pub(crate) fn register_datagrams(&self, socket: SimSocket, token: PollToken) -> io::Result<()> {
        self.register_for(socket, token, Ready::READABLE)
    }

    fn register_for(&self, socket: SimSocket, token: PollToken, interest: Ready) -> io::Result<()> {
        assert_eq!(
            socket.world, self.world,
            "the socket belongs to another world"
        );
        socket.with(|state, index| {
            let registration = &mut state.sockets[index].registration;
            if registration.is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            *registration = Some(Registration {
                poll: self.index,
                token,
                interest,
                is_listed: false,
                injected: Ready::NONE,
            });
            let ready = state.ready(index);
            state.edge(index, ready);
            Ok(())
        })
    }
}

impl Drop for SimPoll {
    fn drop(&mut self) {
        // The world may have been removed before its last reactor.
        self.world.try_with(|state| state.close_poll(self.index));
    }
}

impl SimSocket {
    /// Changes the registration of a socket: input and output if `on` is true, otherwise input
    /// only. After a change, the next wait reports existing readiness again, as after
    /// `EPOLL_CTL_MOD`.
    pub(crate) fn await_writable(self, on: bool) -> io::Result<()> {
        self.with(|state, index| {
            let interest = if on { Ready::BOTH } else { Ready::READABLE };
            let Some(registration) = &mut state.sockets[index].registration else {
                return if on {
                    Err(io::ErrorKind::NotFound.into())
                } else {
                    Ok(())
                };
            };
            if registration.interest != interest {
                registration.interest = interest;
                let ready = state.ready(index);
                state.edge(index, ready);
            }
            Ok(())
        })
    }

    /// Makes the next wait report the current readiness again, as `EPOLL_CTL_MOD` does.
    pub(crate) fn rearm(self) -> io::Result<()> {
        self.with(|state, index| {
            if state.sockets[index].registration.is_none() {
                return Err(io::ErrorKind::NotFound.into());
            }
            let ready = state.ready(index);
            state.edge(index, ready);
            Ok(())
        })
    }

    /// Makes the next wait report `ready`, even if the socket is not ready. Returns false if the
    /// socket is not registered.
    pub(crate) fn inject(self, ready: Ready) -> bool {
        self.with(|state, index| {
            let Some(registration) = &mut state.sockets[index].registration else {
                return false;
            };
            registration.injected = registration.injected | ready;
            state.list(index);
            true
        })
    }
}

impl State {
    /// Puts a socket on the list of its poll if `change` is of interest to the poll. Does nothing
    /// for a scripted stream, because the poll reports only the injected events of such a stream.
    pub(super) fn edge(&mut self, index: usize, change: Ready) {
        let socket = &self.sockets[index];
        let is_scripted = matches!(&socket.kind, Kind::Stream(stream) if stream.is_scripted);
        if let Some(registration) = &socket.registration
            && !is_scripted
            && change.has(registration.interest | Ready::ALWAYS)
        {
            self.list(index);
        }
    }

    fn list(&mut self, index: usize) {
        if let Some(registration) = &mut self.sockets[index].registration
            && !std::mem::replace(&mut registration.is_listed, true)
        {
            self.polls[registration.poll].changed.push_back(index);
        }
    }

    /// Deregisters a socket. Its poll reports no further event for it, as after `EPOLL_CTL_DEL`.
    pub(super) fn deregister(&mut self, index: usize) {
        if let Some(registration) = self.sockets[index].registration.take()
            && registration.is_listed
        {
            let changed = &mut self.polls[registration.poll].changed;
            changed.retain(|listed| *listed != index);
        }
    }

    fn take_events(&mut self, poll: usize) -> Vec<SimEvent> {
        let mut events = Vec::new();
        for index in std::mem::take(&mut self.polls[poll].changed) {
            let now = self.ready(index);
            let Some(registration) = &mut self.sockets[index].registration else {
                continue;
            };
            registration.is_listed = false;
            let injected = std::mem::take(&mut registration.injected);
            let ready = now.and(registration.interest | Ready::ALWAYS) | injected;
            if ready == Ready::NONE {
                continue;
            }
            let token = registration.token;
            if let Kind::Stream(stream) = &mut self.sockets[index].kind {
                stream.script.record_event(ready);
            }
            self.note(|| format!("poll {poll}: socket {index} {ready:?}"));
            events.push(SimEvent { token, ready });
        }
        events
    }

    /// Closes a poll and the sockets that are registered with it, as the system does at the end of
    /// a process.
    fn close_poll(&mut self, poll: usize) {
        self.polls[poll].is_closed = true;
        for index in 0..self.sockets.len() {
            let registration = self.sockets[index].registration;
            if registration.is_some_and(|registration| registration.poll == poll) {
                self.close_socket(index);
            }
        }
    }

    fn is_only_poll(&self) -> bool {
        self.polls.iter().filter(|poll| !poll.is_closed).count() == 1
    }

    /// Returns the current readiness of a socket.
    pub(super) fn ready(&self, index: usize) -> Ready {
        match &self.sockets[index].kind {
            Kind::Stream(stream) => stream.ready(),
            Kind::Listener(listener) => listener.ready(),
            Kind::Datagrams(datagrams) => datagrams.ready(),
        }
    }
}
