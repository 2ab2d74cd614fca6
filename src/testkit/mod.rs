//! For tests: whatever a stream is cut into, a codec must find the same frames in it.
//!
//! Nothing of this is meant for a server, and a program that does not name it carries none of it.

mod read_side;

pub use read_side::ReadSide;
