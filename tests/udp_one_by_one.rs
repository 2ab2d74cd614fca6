//! The tests of `tests/udp.rs` without batches: one system call for each datagram.

#[path = "udp.rs"]
mod udp;
