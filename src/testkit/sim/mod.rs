//! Reactors in a simulated network with virtual time, for tests of handlers.
//!
//! A [`Simulation`] runs any number of reactors with the program's own [`Handler`]s. The reactors
//! run the code of a real program, but their sockets and their clock are simulated. A test runs
//! virtual time, reads the state of the handlers, and uses raw [`Peer`]s, which send and receive
//! bytes without a framing. Such a test opens no network socket, starts no thread and never sleeps.
//!
//! The seed of a simulation determines the order in which reactors run, and each random decision of
//! the network. So a run depends only on the seed and on the calls of the test, and is the same on
//! every machine.
//!
//! The chapter [on simulation](crate::guide::simulation) tests a chat server and finds a bug in it.
//!
//! This module requires the feature `sim`. A build without the feature contains no part of it.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use unstick::testkit::sim::Simulation;
//! # use unstick::{ConnId, Context, Framing, Handler};
//! # struct Echo;
//! # impl Handler for Echo {
//! #     type Session = ();
//! #     fn on_frame(&mut self, cx: &mut Context<Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
//! #         let _ = cx.send(conn, frame);
//! #     }
//! # }
//!
//! # fn main() -> std::io::Result<()> {
//! let mut sim = Simulation::new(1);
//! let server = sim.reactor(Echo);
//! sim[server].listen(server.addr(7000), Framing::line())?;
//!
//! let peer = sim.connect(server.addr(7000));
//! peer.send(b"hel");
//! peer.send(b"lo\nwor");
//! sim.run_for(Duration::from_secs(1));
//! assert_eq!(peer.recv(), b"hello\n");
//! assert_eq!(sim[server].stats().connections, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Reactors
//!
//! [`Simulation::reactor`] adds a reactor on a separate host, and returns a [`Node`]. Indexing the
//! simulation with the node gives the [`Reactor`], for [`listen`](crate::Reactor::listen),
//! [`with`](crate::Reactor::with) and [`handler`](crate::Reactor::handler). The hosts have the
//! addresses 10.0.0.1, 10.0.0.2 and so on. Loopback addresses reach sockets of the same host. Unix
//! addresses are shared by all hosts.
//!
//! [`Handler`]: crate::Handler
//! [`Reactor`]: crate::Reactor

mod network;
mod node;
mod peer;
mod scripts;
mod simulation;

pub use crate::os::sim::{Call, Faults, Link, PeerState};
pub use node::Node;
pub use peer::{DatagramPeer, Peer, PeerListener};
pub use scripts::{ScriptFailure, Scripts};
pub use simulation::Simulation;
