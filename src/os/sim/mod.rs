//! A simulated operating system for tests: a clock, a poll, sockets and the peers behind them.
//!
//! A [`World`] is a seeded state machine in memory. The same calls in the same order give the same
//! results. A world makes system calls only for detached streams, which get a real descriptor. The
//! poll follows the rules of epoll with `EPOLLET`. Time advances only while a poll waits or when
//! the test advances it.
//!
//! ```text
//!   test:  World, SimPeer, SimListener, Script         engine:  Os::Sim(SimPoll), Stream::Sim(..)
//!                         \                             /
//!                          State: sockets, polls, actions in virtual time
//! ```
//!
//! [`World`] and [`SimSocket`] are handles: indexes into thread-local tables. A handle is therefore
//! `Copy`, and a library type that contains one stays `Send`. A world must be used only on the
//! thread that created it.

#[cfg(all(test, target_os = "linux"))]
mod against_kernel;
mod connect;
mod datagram;
mod faults;
#[cfg(unix)]
mod handover;
mod host;
mod link;
mod peer;
mod poll;
mod script;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod world;

pub use faults::{Call, Faults};
pub use link::Link;
pub use peer::PeerState;
pub(crate) use peer::{SimListener, SimPeer};
pub(crate) use poll::{Ready, SimEvent, SimPoll};
pub(crate) use script::{Calls, ReadResult, Script, WriteResult};
pub(crate) use socket::SimSocket;
pub(crate) use world::World;
