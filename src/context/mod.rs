//! [`Context`]: everything a callback can ask of the reactor.

mod close;
mod flow;
mod open;
mod recording;
mod send;
mod sessions;
mod sockets;
mod timers;

use std::fmt;

use crate::engine::Engine;
use crate::handler::Handler;

pub(crate) use sessions::Sessions;
pub(crate) use sockets::not_inet;

/// What a callback may do: everything, to every connection, and nothing of it calls back before
/// the callback has returned.
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
