//! Tests of codecs: a codec must find the same frames however a stream is cut. The module `sim` has
//! tests of handlers (feature `sim`), and [`Random`] gives the same random numbers in each run.
//!
//! [`Cuts`] cuts a stream in the ways in which a network may cut it, and passes the pieces to a
//! codec, built-in or custom. It checks the [contract](crate::Codec), and reports a cut with few
//! pieces for which the codec fails. [`ReadSide`] is the read side of one connection, for further
//! tests.
//!
//! This module uses no socket, no thread and no clock, so that each failure can be repeated. It is
//! not meant for servers. A program that does not use the module contains none of its code.
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
//!     type State = usize; // number of bytes already searched
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
//!     .expect_err("the codec loses a frame");
//! assert_eq!(failure.pieces(), [&b"ab\r"[..], b"\nc\r\n"]);
//! println!("{failure}"); // with code that repeats the failure
//! ```

mod cuts;
mod failure;
#[cfg(feature = "tokio-util")]
mod items;
mod probe;
mod random;
mod read_side;
#[cfg(feature = "sim")]
pub mod sim;
mod way;

pub use cuts::Cuts;
pub use failure::Failure;
#[cfg(feature = "tokio-util")]
pub use items::check_decoder;
pub use random::Random;
pub use read_side::ReadSide;
