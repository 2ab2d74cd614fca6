//! The framings without a reactor: for files, pipes, serial lines and blocking sockets.

mod deframer;
mod framed_stream;
mod framer;

pub use deframer::{Decoded, Deframer};
pub use framed_stream::FramedStream;
pub use framer::Framer;
