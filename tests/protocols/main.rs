//! Framings of well-known protocols: real messages in every cut, and hostile ones with their exact
//! outcome. The guide page `guide::protocols` shows the same code.

mod check;
mod delimited;
mod header;
mod length;
mod page;
mod resync;
mod stateful;
mod text;
mod variable;
