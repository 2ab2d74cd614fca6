//! One connection without its socket: bytes, states and limits. No I/O, no clock, no callbacks.
//!
//! [`State`] is the state of the connection, and [`Assembler`] turns bytes into frames.
//! [`WriteQueue`] holds output that the kernel has not taken. [`Credit`] counts the frames that the
//! handler granted.
//!
//! Listeners and datagram sockets use only [`State`] of this module. For datagrams, see
//! [`datagram`](crate::datagram).

mod assembler;
mod deframe;
mod flow;
mod partial;
mod record;
mod sink;
mod state;
mod write_queue;

use crate::memory::BufferPool;

pub(crate) use assembler::Assembler;
pub(crate) use flow::Credit;
pub(crate) use partial::UnfinishedSkip;
pub(crate) use record::DecodeInput;
pub(crate) use sink::{Delivery, Failed, Flow, FrameSink};
pub(crate) use state::{Action, MemoryResume, Readiness, State, Watermark};
pub(crate) use write_queue::{SLICES_MAX, WriteQueue};

/// The pool of the buffers of all connections, and of the boxes of their partial frames.
pub(crate) type Pool = BufferPool<partial::Partial>;

#[cfg(test)]
mod tests;
