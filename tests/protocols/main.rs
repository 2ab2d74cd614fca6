//! Framings of well-known protocols: real messages in every cut, and hostile ones with their exact
//! outcome. The guide page `guide::protocols` shows the same code.

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
