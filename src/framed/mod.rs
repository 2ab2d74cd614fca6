//! The framings without a reactor: for files, pipes, serial lines, blocking sockets and other
//! runtimes.
//!
//! [`Deframer`] turns bytes into frames, and [`Framer`] turns frames into bytes. [`FramedStream`]
//! combines both over a blocking stream.

mod deframer;
mod framed_stream;
mod framer;
#[cfg(feature = "tokio-util")]
mod tokio_codec;

pub use deframer::{Decoded, Deframer};
pub use framed_stream::FramedStream;
pub use framer::Framer;
#[cfg(feature = "tokio-util")]
pub use tokio_codec::{Items, TokioCodec};
