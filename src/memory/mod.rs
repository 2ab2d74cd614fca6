//! Byte buffers and the pool that they come from.
//!
//! This module does no I/O and does not know frames.

mod buf;
mod grow_buf;
mod pool;
mod read_buffer;

pub(crate) use buf::{Buf, PageOffsetBox};
pub(crate) use grow_buf::GrowBuf;
pub(crate) use pool::BufferPool;
pub(crate) use read_buffer::ReadBuffer;
