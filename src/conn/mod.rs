//! The state machine of one connection, as bytes and flags: no sockets, no clock, no callbacks.
//!
//! [`Assembler`] turns bytes into frames, [`WriteQueue`] holds what the kernel refused, and [`State`]
//! says where in its life the connection stands:
//!
//! ```text
//!   connecting --> open --> closing --> lingering --> dead --> reaped
//!                    |      (flush)     (FIN sent,     ^
//!                    |                   input is      |
//!                    |                   discarded)    |
//!                    +---- abort, reset, deadline -----+
//! ```
//!
//! UDP has none of this: see [`datagram`](crate::datagram).

mod deframe;
mod flow;
mod observed;
mod partial;
mod run;
mod sink;
mod state;
mod write_queue;

pub(crate) use deframe::Assembler;
pub(crate) use flow::Credit;
pub(crate) use observed::{FrameBounds, Round};
pub(crate) use sink::{Delivery, Failed, Flow, Sink};
pub(crate) use state::{Action, MemoryResume, Readiness, State, Watermark};
pub(crate) use write_queue::{SLICES_MAX, WriteQueue};

#[cfg(test)]
mod tests;
