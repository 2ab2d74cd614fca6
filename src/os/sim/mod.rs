//! A simulated operating system for tests: a clock, a poll, sockets and the peers behind them.
//!
//! A [`World`] is a seeded state machine in memory. It makes no system call, and the same calls in
//! the same order give the same results. The poll follows the rules of epoll with `EPOLLET`. Time
//! advances only while a poll waits or when the test advances it.
//!
//! ```text
//!   test:  World, SimPeer, SimListener, Script         engine:  Os::Sim(SimPoll), Stream::Sim(..)
//!                         \                             /
//!                          State: sockets, polls, actions in virtual time
//! ```
//!
//! Every handle is an index into a thread-local table. A handle is therefore `Copy`, and a library
//! type that contains one stays `Send`. A world must be used only on the thread that created it.

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
