//! A single-threaded reactor for framed TCP and for UDP.

#![warn(
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    clippy::print_stderr,
    clippy::print_stdout
)]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod buffer;
mod codec;
mod config;
mod conn;
mod context;
mod datagram;
mod engine;
mod error;
mod handler;
mod reactor;
mod remote;
mod session;
mod socket;
mod stats;
mod timer;
mod token;

pub use codec::{Codec, Framing, Out, ParseFramingError, Step};
pub use config::Config;
pub use context::Context;
pub use datagram::Datagram;
pub use error::{CloseReason, Closed, FrameError, Gone, PostError, SendError, Sent};
pub use handler::{Handler, Origin};
pub use reactor::Reactor;
pub use remote::Remote;
pub use stats::{ConnStats, Stats};
pub use timer::TimerId;
pub use token::{ConnId, ListenerId, SocketId, UdpId};
