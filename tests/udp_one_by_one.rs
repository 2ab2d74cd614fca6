//! What `tests/udp.rs` tells of datagrams, where each is received and sent by a call of its own.

#[path = "udp.rs"]
mod udp;
