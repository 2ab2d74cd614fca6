//! The clock, the only code of the library that reads the time.

use std::time::Instant;

#[cfg(test)]
use super::sim::World;

/// A clock, real or simulated. Copies are cheap.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Clock {
    /// The monotonic clock of the system.
    Real,
    /// The virtual time of a simulated world.
    #[cfg(test)]
    Sim(World),
}

impl Clock {
    /// Returns the current time.
    pub(crate) fn now(self) -> Instant {
        match self {
            Self::Real => Instant::now(),
            #[cfg(test)]
            Self::Sim(world) => base() + world.now(),
        }
    }
}

/// Returns the instant at which the virtual time of every world begins. An [`Instant`] has no
/// constructor, so this one is read from the real clock, once per process.
#[cfg(test)]
fn base() -> Instant {
    static BASE: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    *BASE
}
