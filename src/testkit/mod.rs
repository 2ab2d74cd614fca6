//! Tests of codecs: a codec must find the same frames however a stream is cut.
//!
//! [`Cuts`] passes the bytes of a stream to a codec, a built-in or a user's own, cut in every way
//! that a network may cut them. It checks the [contract](crate::Codec), and reports the smallest
//! cut under which the codec fails. [`ReadSide`] is the read side of one connection, for further
//! tests.
//!
//! It uses no socket, no thread and no clock, so that a failure repeats. It is not meant for
//! servers, and a program that does not use it contains none of it.
//!
//! # Examples
//!
//! A codec with a bug: it does not find a delimiter that is cut in two.
//!
//! ```
//! use unstick::testkit::Cuts;
//! use unstick::{Codec, FrameError, Framing, Out, Step};
//!
//! struct Crlf;
//!
//! impl Codec for Crlf {
//!     type State = usize; // how far it has searched
//!
//!     fn decode(&self, searched: &mut usize, bytes: &[u8]) -> Result<Step, FrameError> {
//!         let unseen = &bytes[*searched..];
//!         if let Some(at) = unseen.windows(2).position(|pair| pair == b"\r\n") {
//!             let end = std::mem::take(searched) + at;
//!             return Ok(Step::Frame { frame: 0..end, consumed: end + 2 });
//!         }
//!         *searched = bytes.len(); // should be one less
//!         Ok(Step::Need(bytes.len() + 1))
//!     }
//!
//!     fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
//!         out.put(payload);
//!         out.put(b"\r\n");
//!         Ok(())
//!     }
//! }
//!
//! let framing = Framing::custom(Crlf);
//! let failure = Cuts::of(&framing)
//!     .stream(b"ab\r\nc\r\n")
//!     .expect(&[b"ab", b"c"])
//!     .try_check()
//!     .expect_err("it loses a frame");
//! assert_eq!(failure.pieces(), [&b"ab\r"[..], b"\nc\r\n"]);
//! println!("{failure}"); // with a line of code that repeats it
//! ```

mod cuts;
mod failure;
mod probe;
mod random;
mod read_side;
mod way;

pub use cuts::Cuts;
pub use failure::Failure;
#[cfg(test)]
pub(crate) use random::Random;
pub use read_side::ReadSide;
