//! A simulated operating system for tests: a clock, a poll, sockets and the peers behind them.
//!
//! A [`World`] is a seeded state machine in memory. It makes no system call, and the same calls in
//! the same order give the same results. The poll follows the rules of epoll with `EPOLLET`, which
//! the design document lists. Time advances only while a poll waits or when the test advances it.
//!
//! ```text
//!   test:  World, SimPeer, SimListener, Script         engine:  Os::Sim(SimPoll), Stream::Sim(..)
//!                         \                             /
//!                          State: sockets, polls, actions in virtual time
//! ```
//!
//! All handles are indices into a thread-local table. So they are `Copy`, and the library's types
//! stay `Send`. A world must not leave its thread.

mod connect;
mod datagram;
mod peer;
mod poll;
mod script;
mod socket;
mod stream;
mod tests;
mod world;

pub(crate) use peer::SimPeer;
pub(crate) use poll::{Ready, SimEvent, SimPoll};
pub(crate) use script::{Reading, Script, Seen, Writing};
pub(crate) use socket::SimSocket;
pub(crate) use world::World;
