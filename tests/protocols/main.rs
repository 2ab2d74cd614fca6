//! Framings of well-known protocols. Real messages are split at every byte. Hostile messages must
//! have an exact outcome. The guide page `guide::protocols` shows the same code.

#[path = "../common/mod.rs"]
mod common;

mod check;
mod delimited;
mod header;
mod length;
mod page;
mod resync;
mod sockets;
mod stateful;
mod text;
mod variable;
