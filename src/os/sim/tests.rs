//! Facts of the simulated world.
