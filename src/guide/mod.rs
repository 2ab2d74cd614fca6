//! Chapters of the guide. The modules hold only documentation.

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

#[doc = include_str!("internals.md")]
pub mod internals {}
