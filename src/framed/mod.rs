//! The framings without a reactor: for files, pipes, serial lines and blocking sockets.

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
