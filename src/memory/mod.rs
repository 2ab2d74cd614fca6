//! Byte buffers and the pool that they come from.
//!
//! This module does no I/O and does not know frames.

mod buf;
mod pool;
mod read_buffer;

pub(crate) use buf::{Buf, PageOffsetBox};
pub(crate) use pool::Pool;
pub(crate) use read_buffer::ReadBuffer;
