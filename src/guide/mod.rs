//! The guide. It consists of chapters to read, and contains no code of the crate.
//!
//! | purpose | chapter |
//! |---|---|
//! | learn | [tutorial]: from an empty folder to a server with its own protocol, tests and limits |
//! | | [coming from](coming_from) mio, tokio, Twisted, asyncio, Netty or libuv |
//! | do | [how-to](how_to): common tasks, from back-pressure to hostile peers |
//! | | [questions]: short answers, by the words that users search for |
//! | | [embedding]: the loop of a GUI, a game or another library |
//! | | [tuning]: measuring, and the settings of a busy server |
//! | | [deployment]: balancers, restarts, limits of the system, and monitoring |
//! | | `tls`, with the feature `tls`: certificates, STARTTLS, costs and errors |
//! | | `simulation`, with the feature `sim`: tests in a simulated network |
//! | understand | [stickiness]: why TCP glues and cuts messages |
//! | | [design]: why one thread, why edge-triggered, and what each decision costs |
//! | | [internals]: how the crate is built |
//! | | [simulated_kernel]: how the simulated sockets are compared with Linux |
//! | look up | [protocols]: the framing of many well-known protocols |
//! | | [sockets]: the socket functions of Python and C |
//!
//! The [front page](crate) explains each part of the crate in a few sentences.

#[doc = include_str!("tutorial.md")]
pub mod tutorial {}

#[doc = include_str!("how_to.md")]
pub mod how_to {}

#[doc(alias("FAQ", "troubleshooting"))]
#[doc = include_str!("questions.md")]
pub mod questions {}

#[doc = include_str!("coming_from.md")]
pub mod coming_from {}

#[doc(alias("sticky packet", "coalescing"))]
#[doc = include_str!("stickiness.md")]
pub mod stickiness {}

#[doc = include_str!("protocols.md")]
pub mod protocols {}

#[doc = include_str!("sockets.md")]
pub mod sockets {}

#[doc = include_str!("embedding.md")]
pub mod embedding {}

#[doc = include_str!("tuning.md")]
pub mod tuning {}

#[cfg(feature = "tls")]
#[doc = include_str!("tls.md")]
pub mod tls {}

#[cfg(feature = "sim")]
#[doc = include_str!("simulation.md")]
pub mod simulation {}

#[doc = include_str!("simulated_kernel.md")]
pub mod simulated_kernel {}

#[doc = include_str!("deployment.md")]
pub mod deployment {}

#[doc = include_str!("design.md")]
pub mod design {}

#[doc = include_str!("internals.md")]
pub mod internals {}
