//! Failures of a codec, in a form that can be pasted into a test.

use std::error::Error;
use std::fmt;

/// A stream, cut into pieces, for which a codec fails. It has few pieces, because the test removes
/// cuts while the codec still fails.
///
/// [`Display`](fmt::Display) writes the description of the failure, and code that repeats it.
#[derive(Debug, Clone)]
pub struct Failure {
    pub(super) what: String,
    pub(super) way: &'static str,
    pub(super) pieces: Vec<Vec<u8>>,
    /// Calls that repeat the failure, between `Cuts::of` and `check`.
    pub(super) calls: Vec<String>,
}

impl Failure {
    /// Returns a short description of the failure.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Returns the stream in the pieces with which the codec failed.
    #[must_use]
    pub fn pieces(&self) -> &[Vec<u8>] {
        &self.pieces
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        writeln!(
            f,
            "  tested {}; this code repeats the failure in a test:",
            self.way
        )?;
        writeln!(f)?;
        writeln!(f, "    unstick::testkit::Cuts::of(&framing)")?;
        for call in &self.calls {
            writeln!(f, "        {call}")?;
        }
        write!(f, "        .check();")
    }
}

impl Error for Failure {}

/// Byte strings, displayed as Rust literals.
pub(super) struct Literals<'a>(pub(super) &'a [Vec<u8>]);

impl fmt::Display for Literals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, bytes) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}b\"{}\"", bytes.escape_ascii())?;
        }
        Ok(())
    }
}
