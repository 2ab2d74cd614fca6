//! The poll: what is registered, what happened, and the waker.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::event::Source;
use mio::{Events, Interest, Poll, Token};

use crate::id::PollToken;

/// Stands for the waker: no slab key is as large, so that its event is nobody's.
const WAKER_TOKEN: Token = Token(usize::MAX);
/// The event list starts this long; a kilobyte or so.
const EVENTS_MIN: usize = 128;
/// And grows no longer than this: the rest of a larger ready set comes with the next poll.
const EVENTS_MAX: usize = 16 * 1024;

/// Both directions; and urgent data, where the poll can tell of it.
const INTEREST: Interest = {
    let both = Interest::READABLE.add(Interest::WRITABLE);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let both = both.add(Interest::PRIORITY);
    both
};

/// What happened to a socket. All of it are hints: reading and writing tell the truth.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event<'a>(&'a mio::event::Event);

impl Event<'_> {
    #[inline]
    pub(crate) fn token(self) -> PollToken {
        PollToken(self.0.token().0)
    }

    #[inline]
    pub(crate) fn is_readable(self) -> bool {
        self.0.is_readable()
    }

    #[inline]
    pub(crate) fn is_writable(self) -> bool {
        self.0.is_writable()
    }

    /// The peer ended, the connection was reset, there is an error to fetch, or a byte of urgent
    /// data, at which reads stop short.
    #[inline]
    pub(crate) fn has_ended(self) -> bool {
        // In this order the compiler makes two looks at the bits of epoll of it.
        self.0.is_error() | self.0.is_priority()
            || self.0.is_read_closed()
            || self.0.is_write_closed()
    }

    /// The peer ended or reset the connection.
    pub(crate) fn has_hung_up(self) -> bool {
        self.0.is_read_closed()
    }
}

/// Ends a wait from any thread, also one that begins later.
#[derive(Debug, Clone)]
pub(crate) struct Waker(Arc<mio::Waker>);

impl Waker {
    pub(crate) fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}

/// The operating system's poll.
#[derive(Debug)]
pub(crate) struct Poller {
    poll: Poll,
    events: Events,
    was_full: bool,
    waker: Waker,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker(Arc::new(mio::Waker::new(poll.registry(), WAKER_TOKEN)?));
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_MIN),
            was_full: false,
            waker,
        })
    }

    pub(crate) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits for events; `Interrupted` is handed on, as time has passed.
    #[inline]
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.poll.poll(&mut self.events, timeout)
    }

    /// Whether the last wait brought anything.
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Hands on what the last wait brought, each socket's event once, and says how many there were.
    /// A list that was full is made larger, so that a large ready set is seen at once.
    #[inline]
    pub(crate) fn for_each_event(&mut self, mut each: impl FnMut(Event<'_>)) -> usize {
        let mut count = 0;
        for event in &self.events {
            count += 1;
            each(Event(event));
        }
        self.was_full = count == self.events.capacity();
        if self.was_full && count < EVENTS_MAX {
            self.events = Events::with_capacity(2 * count);
        }
        count
    }

    /// Whether the last wait may have left events behind.
    pub(crate) fn was_full(&self) -> bool {
        self.was_full
    }

    /// Registers once, for both directions, edge-triggered.
    pub(super) fn register(&self, source: &mut impl Source, token: PollToken) -> io::Result<()> {
        self.poll
            .registry()
            .register(source, Token(token.0), INTEREST)
    }

    /// Registers for what comes in only: a socket of datagrams has room to write anew after every
    /// one that went, and each time would be an event.
    pub(super) fn register_datagrams(
        &self,
        source: &mut impl Source,
        token: PollToken,
    ) -> io::Result<()> {
        self.poll
            .registry()
            .register(source, Token(token.0), Interest::READABLE)
    }

    /// Asks for word of room to write, or no more.
    pub(super) fn await_writable(
        &self,
        source: &mut impl Source,
        token: PollToken,
        on: bool,
    ) -> io::Result<()> {
        let interest = if on { INTEREST } else { Interest::READABLE };
        self.poll
            .registry()
            .reregister(source, Token(token.0), interest)
    }

    /// Ends what [`register`](Poller::register) began. A descriptor may live on in a duplicate,
    /// so dropping it is not enough. A failure means that it was registered no more.
    pub(super) fn deregister(&self, source: &mut impl Source) {
        let _ = self.poll.registry().deregister(source);
    }

    #[cfg(unix)]
    pub(crate) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(self.poll.registry())
    }
}
