//! The poll of the system: registrations, events and the waker.

use std::io;
use std::sync::Arc;
#[cfg(any(test, feature = "sim"))]
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::event::Source;
use mio::{Events, Interest, Poll, Token};

#[cfg(any(test, feature = "sim"))]
use super::sim;
use crate::id::PollToken;

/// Token of the waker. It is larger than any slab key, so no entry has this token.
pub(super) const WAKER: PollToken = PollToken(usize::MAX);

/// Returns the token of a caught signal. It is larger than any slab key, so no entry has this
/// token.
#[cfg(all(unix, feature = "signals"))]
pub(super) fn signal_token(signal: crate::signal::Signal) -> PollToken {
    let number = usize::try_from(signal.as_raw()).unwrap_or_default();
    PollToken(WAKER.0 - number)
}

/// Initial capacity of the event list: 1.5 KiB with epoll on x86-64.
const EVENTS_MIN: usize = 128;
/// Maximum capacity of the event list. If more sockets are ready, the next wait returns the
/// remaining events.
const EVENTS_MAX: usize = 16 * 1024;

/// Interest in all events of a socket: input, output, and urgent data if the poll can report it.
const INTEREST: Interest = {
    let both = Interest::READABLE.add(Interest::WRITABLE);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let both = both.add(Interest::PRIORITY);
    both
};

/// An event of a socket, of the waker or of a caught signal. The readiness of a socket is a hint:
/// only a read or a write reports the true state.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event<'a> {
    Real(&'a mio::event::Event),
    #[cfg(any(test, feature = "sim"))]
    Sim(sim::SimEvent, std::marker::PhantomData<&'a ()>),
}

impl Event<'_> {
    pub(crate) fn token(self) -> PollToken {
        match self {
            Self::Real(event) => PollToken(event.token().0),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(event, _) => event.token,
        }
    }

    pub(crate) fn is_readable(self) -> bool {
        match self {
            Self::Real(event) => event.is_readable(),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(event, _) => event.ready.has(sim::Ready::READABLE),
        }
    }

    pub(crate) fn is_writable(self) -> bool {
        match self {
            Self::Real(event) => event.is_writable(),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(event, _) => event.ready.has(sim::Ready::WRITABLE),
        }
    }

    /// Returns true if the peer ended its side or reset the connection, or if an error or a byte of
    /// urgent data is pending. A read returns only the bytes before urgent data.
    pub(crate) fn has_ended(self) -> bool {
        match self {
            // In this order the compiler needs only two bit tests for epoll.
            Self::Real(event) => {
                event.is_error() | event.is_priority()
                    || event.is_read_closed()
                    || event.is_write_closed()
            }
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(event, _) => event.ready.has(sim::Ready::ENDED),
        }
    }

    /// Returns true if the peer ended its side or reset the connection.
    pub(crate) fn has_hung_up(self) -> bool {
        match self {
            Self::Real(event) => event.is_read_closed(),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(event, _) => event.ready.has(sim::Ready::HUNG_UP),
        }
    }
}

/// A handle that ends the current or the next wait, from any thread.
#[derive(Debug, Clone)]
pub(crate) enum Waker {
    Real(Arc<mio::Waker>),
    /// Flag that ends the next simulated wait. The wait clears the flag.
    #[cfg(any(test, feature = "sim"))]
    Sim(Arc<AtomicBool>),
}

impl Waker {
    pub(crate) fn wake(&self) -> io::Result<()> {
        match self {
            Self::Real(waker) => super::retry(|| waker.wake()),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(woken) => {
                woken.store(true, Ordering::Release);
                Ok(())
            }
        }
    }
}

/// The poll of the operating system, with the events of its last wait.
#[derive(Debug)]
pub(crate) struct Poller {
    poll: Poll,
    events: Events,
    pub(super) was_full: bool,
    pub(super) waker: Waker,
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), Token(WAKER.0))?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_MIN),
            was_full: false,
            waker: Waker::Real(Arc::new(waker)),
        })
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.poll.poll(&mut self.events, timeout)
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Calls `each` for every event and returns the number of events. If the list was full, its
    /// capacity is doubled up to [`EVENTS_MAX`], so that the next wait can return more events.
    pub(super) fn for_each_event(&mut self, mut each: impl FnMut(Event<'_>)) -> usize {
        let mut count = 0;
        for event in &self.events {
            count += 1;
            each(Event::Real(event));
        }
        self.was_full = count == self.events.capacity();
        if self.was_full && count < EVENTS_MAX {
            self.events = Events::with_capacity(2 * count);
        }
        count
    }

    /// Registers a socket for all its events, edge-triggered.
    pub(super) fn register(&self, source: &mut impl Source, token: PollToken) -> io::Result<()> {
        let registry = self.poll.registry();
        registry.register(source, Token(token.0), INTEREST)
    }

    /// Registers a registered socket again, so that the next wait reports its current readiness
    /// (epoll_ctl(2), `EPOLL_CTL_MOD`).
    pub(super) fn reregister(&self, source: &mut impl Source, token: PollToken) -> io::Result<()> {
        self.poll
            .registry()
            .reregister(source, Token(token.0), INTEREST)
    }

    /// Registers a datagram socket for input only. With output events, each sent datagram would
    /// cause an event, because the socket becomes writable again.
    pub(super) fn register_datagrams(
        &self,
        source: &mut impl Source,
        token: PollToken,
    ) -> io::Result<()> {
        let registry = self.poll.registry();
        registry.register(source, Token(token.0), Interest::READABLE)
    }

    /// Enables or disables the event that reports that a datagram socket is writable.
    pub(super) fn await_writable(
        &self,
        source: &mut impl Source,
        token: PollToken,
        on: bool,
    ) -> io::Result<()> {
        let interest = if on { INTEREST } else { Interest::READABLE };
        let registry = self.poll.registry();
        registry.reregister(source, Token(token.0), interest)
    }

    /// Removes a registration. Dropping the socket is not enough, because a duplicate of its
    /// descriptor keeps the registration. An error is ignored, because it means that the socket is
    /// not registered.
    pub(super) fn deregister(&self, source: &mut impl Source) {
        let _ = self.poll.registry().deregister(source);
    }

    #[cfg(unix)]
    pub(super) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(self.poll.registry())
    }
}
