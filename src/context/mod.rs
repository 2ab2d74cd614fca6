//! [`Context`]: the requests that a callback can make to the reactor.

// The documentation of `Context` shows the methods in the order of these modules. The blank lines
// keep rustfmt from sorting the modules.
mod send;

mod open;

mod sessions;

mod timers;

mod close;

mod flow;

mod sockets;

#[cfg(feature = "signals")]
mod signals;

#[cfg(feature = "tls")]
mod tls;

#[cfg(unix)]
mod unix_datagram;

use std::fmt;

use crate::engine::Engine;
use crate::handler::Handler;

pub(crate) use sessions::Sessions;
pub(crate) use sockets::not_inet;

/// Access to the reactor inside a callback.
///
/// A callback can open connections and sockets, and can use and close all those of the reactor. No
/// method calls another callback before the current callback has returned. Outside of a callback,
/// [`Reactor::with`](crate::Reactor::with) provides a `Context`.
///
/// The methods are in this order: sending, opening sockets, sessions, timers, closing, flow
/// control, addresses and options, statistics, recordings, signals, TLS, and Unix datagram sockets.
pub struct Context<'a, H: Handler> {
    pub(crate) engine: &'a mut Engine,
    pub(crate) sessions: &'a mut Sessions<H::Session>,
}

impl<H: Handler> fmt::Debug for Context<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}
