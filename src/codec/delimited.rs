//! Delimited frames: each frame ends with one of several byte strings. Also lines that strictly end
//! with `\r\n`. A single delimiter of one byte is handled by [`line`](super::line).

use std::cmp::Reverse;
use std::fmt;

use memchr::memmem::Finder;

use super::{BuiltinCodec, Codec, Limit, Lookahead, Out, ScanState, Step, count_scanned};
use crate::error::FrameError;
use crate::memory::GrowBuf;

/// Codec of [`Framing::delimiters`](super::Framing::delimiters) and
/// [`Framing::line_crlf`](super::Framing::line_crlf).
#[derive(Clone)]
pub(crate) struct Delimited {
    /// The delimiters, in the order of the configuration.
    delimiters: Box<[Box<[u8]>]>,
    /// The delimiters, sorted by length, the longest first.
    longest_first: Box<[Box<[u8]>]>,
    /// First byte of every delimiter, without duplicates.
    firsts: Box<[u8]>,
    /// Searcher for a single delimiter, which is faster than the search for `firsts`; `None` if
    /// there are several delimiters.
    only: Option<Finder<'static>>,
    /// Delimiter that `encode` appends to a payload.
    ending: Box<[u8]>,
    /// Length of the longest delimiter, in bytes.
    longest: usize,
    /// True if the only delimiter is `\r\n`, and a `\r` or `\n` outside it is malformed.
    pub(super) is_strict_crlf: bool,
    /// True if the bytes after the last delimiter are delivered as a frame at the end of the
    /// stream.
    pub(super) delivers_rest: bool,
    pub(crate) limit: Limit,
}

/// Leaves out the tables of the search, which follow from the delimiters.
impl fmt::Debug for Delimited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delimited")
            .field("delimiters", &self.delimiters)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// Length, in bytes, of an array for the end of the held bytes and the start of the new bytes. A
/// search of the array finds a delimiter that begins in the held bytes.
const BORDER_LEN_MAX: usize = 64;

const CRLF: &[u8] = b"\r\n";
const BARE_CR: &str = "a carriage return without a line feed after it";
const BARE_LF: &str = "a line feed without a carriage return before it";

/// Result of a search. Positions are offsets in the searched bytes.
enum Found {
    /// A delimiter at `start..end`.
    At { start: usize, end: usize },
    /// No delimiter is certain yet: none is complete, or more bytes may complete a longer one. A
    /// delimiter may begin at this position or later, but not before.
    NotBefore(usize),
    /// A `\r` or `\n` at `start` that is not part of `\r\n`, and therefore malformed. `what`
    /// describes it.
    Bare { start: usize, what: &'static str },
}

impl Delimited {
    /// Creates a codec for frames that end with any of `delimiters`.
    ///
    /// # Panics
    ///
    /// Panics if `delimiters` is empty or contains an empty delimiter.
    pub(crate) fn new(delimiters: &[&[u8]], limit: Limit) -> Self {
        assert!(
            !delimiters.is_empty(),
            "`Framing::delimiters` needs at least one delimiter"
        );
        assert!(
            delimiters.iter().all(|one| !one.is_empty()),
            "a delimiter must not be empty"
        );
        let is_prefix = |one: &&[u8]| {
            delimiters
                .iter()
                .any(|other| other.len() > one.len() && other.starts_with(one))
        };
        // A prefix of another delimiter is not a suitable ending, because the decoder would wait
        // for the longer delimiter.
        let ending = delimiters.iter().copied().find(|one| !is_prefix(one));
        let ending = ending.expect("the longest delimiter is not a prefix of another delimiter");
        let mut firsts: Vec<u8> = delimiters
            .iter()
            .filter_map(|one| one.first().copied())
            .collect();
        firsts.sort_unstable();
        firsts.dedup();
        let only = match delimiters {
            [only] => Some(Finder::new(only).into_owned()),
            _ => None,
        };
        let delimiters: Box<[Box<[u8]>]> = delimiters.iter().map(|one| Box::from(*one)).collect();
        let mut longest_first = delimiters.clone();
        longest_first.sort_by_key(|one| Reverse(one.len()));
        Self {
            longest: longest_first.first().map_or(0, |one| one.len()),
            longest_first,
            delimiters,
            firsts: firsts.into_boxed_slice(),
            only,
            ending: Box::from(ending),
            is_strict_crlf: false,
            delivers_rest: false,
            limit,
        }
    }

    /// Returns the codec of lines that strictly end with `\r\n`.
    pub(crate) fn strict_crlf(limit: Limit) -> Self {
        Self {
            is_strict_crlf: true,
            ..Self::new(&[CRLF], limit)
        }
    }

    pub(crate) fn delimiters(&self) -> impl Iterator<Item = &[u8]> {
        self.delimiters.iter().map(|one| &**one)
    }

    /// Finds the earliest delimiter that begins at or after offset `from`. If several delimiters
    /// begin at one position, finds the longest of them.
    ///
    /// `more_may_come` is true if further bytes may follow `bytes`. If further bytes may complete a
    /// longer delimiter, a shorter delimiter at the same position is not returned yet: the result
    /// is [`Found::NotBefore`].
    ///
    /// `before` is the number of bytes of the frame before `bytes`.
    fn find(&self, bytes: &[u8], from: usize, before: u64, more_may_come: bool) -> Found {
        if self.is_strict_crlf {
            return find_strict_crlf(bytes, from, self.strict_len(before));
        }
        let Some(finder) = &self.only else {
            return self.find_any(bytes, from, more_may_come);
        };
        let unseen = bytes.get(from..).unwrap_or_default();
        if let Some(len) = finder.find(unseen) {
            let start = from.saturating_add(len);
            let end = start.saturating_add(self.longest);
            return Found::At { start, end };
        }
        // `bytes` contains no complete delimiter, but may end with a partial one.
        let partial_len_max = self.longest.saturating_sub(1);
        let at = from.max(bytes.len().saturating_sub(partial_len_max));
        self.find_any(bytes, at, true)
    }

    /// Returns the number of searched bytes in which a bare `\r` or `\n` is an error. If long
    /// frames are skipped, bytes beyond the limit are not delivered. A bare `\r` or `\n` there is
    /// not an error. `before` is the number of bytes of the frame before the searched bytes.
    fn strict_len(&self, before: u64) -> u64 {
        let strict_len = (self.limit.len as u64).saturating_add(1);
        match self.limit.skips {
            true => strict_len.saturating_sub(before),
            false => u64::MAX,
        }
    }

    /// Finds a delimiter, or the beginning of one, by searching for the first bytes of all
    /// delimiters.
    fn find_any(&self, bytes: &[u8], from: usize, more_may_come: bool) -> Found {
        let mut at = from;
        while let Some(start) = self.next_first(bytes, at) {
            let here = bytes.get(start..).unwrap_or_default();
            let found = self.longest_first.iter().find_map(|one| {
                if here.starts_with(one) {
                    let end = start.saturating_add(one.len());
                    return Some(Found::At { start, end });
                }
                (more_may_come && one.starts_with(here)).then_some(Found::NotBefore(start))
            });
            match found {
                Some(found) => return found,
                None => at = start.saturating_add(1),
            }
        }
        Found::NotBefore(bytes.len())
    }

    /// Returns the position of the next byte, at or after `from`, that is the first byte of a
    /// delimiter.
    fn next_first(&self, bytes: &[u8], from: usize) -> Option<usize> {
        let unseen = bytes.get(from..)?;
        let at = match *self.firsts {
            [a] => memchr::memchr(a, unseen),
            [a, b] => memchr::memchr2(a, b, unseen),
            [a, b, c] => memchr::memchr3(a, b, c, unseen),
            _ => unseen.iter().position(|byte| self.firsts.contains(byte)),
        };
        at.map(|at| from.saturating_add(at))
    }

    /// Searches for a complete or partial delimiter that begins in the held bytes. Returns `None`
    /// if no delimiter begins there.
    fn ahead_at_border(
        &self,
        scanned: &mut ScanState,
        held: &GrowBuf,
        more: &[u8],
    ) -> Option<Lookahead> {
        let begun = held.len().saturating_sub(scanned.to);
        let more_len = self.longest.saturating_sub(1).min(more.len());
        let mut border = [0; BORDER_LEN_MAX];
        let Some(border) = border.get_mut(..begun.saturating_add(more_len)) else {
            return Some(Lookahead::StepAfter(self.longest.min(more.len())));
        };
        let (front, back) = border.split_at_mut_checked(begun)?;
        held.copy_end(front);
        back.copy_from_slice(more.get(..more_len)?);
        let before = scanned.dropped.saturating_add(scanned.to as u64);
        let (start, is_there) = match self.find(border, 0, before, true) {
            Found::At { start, .. } | Found::Bare { start, .. } => (start, true),
            Found::NotBefore(start) => (start, false),
        };
        if start >= begun {
            return None;
        }
        // The held bytes before `start` contain no delimiter and need no further search.
        scanned.to = scanned.to.saturating_add(start);
        Some(if is_there {
            let of_it = begun.saturating_sub(start);
            Lookahead::StepAfter(self.longest.saturating_sub(of_it).clamp(1, more.len()))
        } else {
            self.limit.without_end(scanned, held.len(), more)
        })
    }
}

impl Codec for Delimited {
    type State = ScanState;

    fn decode(&self, scanned: &mut ScanState, bytes: &[u8]) -> Result<Step, FrameError> {
        let ScanState { to: from, dropped } = *scanned;
        match self.find(bytes, from, dropped, true) {
            Found::At { start, end } => {
                count_scanned(end.saturating_sub(from));
                *scanned = ScanState::default();
                self.limit.step_with_end(dropped, start, end)
            }
            Found::NotBefore(at) => {
                let len = bytes.len();
                count_scanned(len.saturating_sub(from));
                self.limit.step_without_end(scanned, at, at, len)
            }
            Found::Bare { start, what } => {
                count_scanned(start.saturating_add(1).saturating_sub(from));
                // If the frame exceeds the limit before the bare byte, it is reported as too long.
                // The error then does not depend on the cuts of the stream.
                self.limit.check_payload(start)?;
                Err(FrameError::Malformed(what))
            }
        }
    }

    fn finish(&self, scanned: &mut ScanState, rest: &[u8]) -> Result<Step, FrameError> {
        let ScanState { to, dropped } = *scanned;
        if let Found::At { start, end } = self.find(rest, to, dropped, false) {
            *scanned = ScanState::default();
            return self.limit.step_with_end(dropped, start, end);
        }
        // No delimiter was found. `decode` checks the limit.
        match self.decode(scanned, rest)? {
            Step::Need(_) if self.delivers_rest => {
                let cr = rest.len().saturating_sub(1) as u64;
                let is_strict = self.is_strict_crlf && cr < self.strict_len(dropped);
                if is_strict && rest.ends_with(b"\r") {
                    return Err(FrameError::Malformed(BARE_CR));
                }
                *scanned = ScanState::default();
                self.limit.step_with_end(dropped, rest.len(), rest.len())
            }
            step => Ok(step),
        }
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        self.limit.check_payload(payload.len())?;
        out.put(payload);
        self.encode_in_place(out)
    }

    fn encode_in_place(&self, out: &mut Out<'_>) -> Result<(), FrameError> {
        let len = out.bytes().len();
        self.limit.check_payload(len)?;
        out.put(&self.ending);
        // The search includes the appended delimiter, because a delimiter may begin in the payload
        // and end in the appended delimiter or in the next frame.
        match self.find(out.bytes(), 0, 0, true) {
            Found::At { start, .. } if start == len => Ok(()),
            _ if self.is_strict_crlf => Err(FrameError::Unencodable(
                "the payload contains a carriage return or a line feed",
            )),
            _ => Err(FrameError::Unencodable(
                "a delimiter starts inside the payload",
            )),
        }
    }
}

impl BuiltinCodec for Delimited {
    fn ahead(&self, scanned: &mut ScanState, held: &GrowBuf, more: &[u8]) -> Lookahead {
        let more = self.limit.clip(scanned, held.len(), more);
        if scanned.to < held.len()
            && let Some(ahead) = self.ahead_at_border(scanned, held, more)
        {
            return ahead;
        }
        let before = scanned.dropped.saturating_add(held.len() as u64);
        match self.find(more, 0, before, true) {
            Found::At { start, end } => {
                count_scanned(end);
                let to = held.len().saturating_add(start);
                self.limit.with_end(scanned, to, to, end)
            }
            Found::NotBefore(start) => {
                count_scanned(more.len());
                let ahead = self.limit.without_end(scanned, held.len(), more);
                scanned.to = held.len().saturating_add(start);
                ahead
            }
            // A decode step reports the error. It needs the bare byte, and the byte after it if
            // there is one.
            Found::Bare { start, .. } => {
                Lookahead::StepAfter(start.saturating_add(CRLF.len()).min(more.len()))
            }
        }
    }
}

/// Finds the first `\r\n`, or the first bare `\r` or `\n` within the first `strict_len` bytes. A
/// `\r` at the end of `bytes` is not bare yet, because a `\n` may follow.
fn find_strict_crlf(bytes: &[u8], from: usize, strict_len: u64) -> Found {
    let unseen = bytes.get(from..).unwrap_or_default();
    for at in memchr::memchr2_iter(b'\r', b'\n', unseen) {
        let start = from.saturating_add(at);
        let what = match unseen.get(at..) {
            Some([b'\r', b'\n', ..]) => {
                let end = start.saturating_add(CRLF.len());
                return Found::At { start, end };
            }
            Some([b'\r']) => return Found::NotBefore(start),
            Some([b'\r', ..]) => BARE_CR,
            _ => BARE_LF,
        };
        if (start as u64) < strict_len {
            return Found::Bare { start, what };
        }
    }
    Found::NotBefore(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Buf;

    /// Decodes `bytes` as two reads, split at `cut`, and then the end of the stream. Returns the
    /// frames.
    fn frames(codec: &Delimited, bytes: &[u8], cut: usize) -> Vec<Vec<u8>> {
        let (mut frames, mut start, mut scanned) = (Vec::new(), 0, ScanState::default());
        for (end, is_last) in [(cut, false), (bytes.len(), false), (bytes.len(), true)] {
            while start < end {
                let rest = &bytes[start..end];
                let step = match is_last {
                    true => codec.finish(&mut scanned, rest),
                    false => codec.decode(&mut scanned, rest),
                };
                let Step::Frame { frame, consumed } = step.expect("the frame is within the limit")
                else {
                    break;
                };
                frames.push(rest[frame].to_vec());
                start += consumed;
            }
        }
        frames
    }

    fn check(delimiters: &[&[u8]], bytes: &[u8], expected: &[&str]) {
        let codec = Delimited::new(delimiters, Limit::of(100));
        for cut in 0..=bytes.len() {
            let frames = frames(&codec, bytes, cut);
            let frames: Vec<_> = frames
                .iter()
                .map(|frame| frame.escape_ascii().to_string())
                .collect();
            assert_eq!(frames, expected, "cut at {cut}");
        }
    }

    #[test]
    fn earliest_delimiter_wins_then_the_longest() {
        check(&[b"\n", b"\r\n"], b"a\r\nb\n\n", &["a", "b", ""]);
        check(&[b"ab", b"abc"], b"xabcyabz", &["x", "y"]);
        check(&[b"abcd", b"c"], b"xabcdyabce", &["x", "yab"]);
        check(&[b"abc", b"ab"], b"1ab", &["1"]);
        check(&[b";", b"|"], b"a;b|c;", &["a", "b", "c"]);
        check(
            &[b"1", b"2", b"3", b"4.", b"4"],
            b"a1b4.c42d3",
            &["a", "b", "c", "", "d"],
        );
    }

    #[test]
    fn delimiter_may_overlap_itself() {
        check(&[b"aab"], b"aaab1aab", &["a", "1"]);
        check(&[b"abab"], b"xababab-abab", &["x", "ab-"]);
        check(&[b"\0\0\0"], b"a\0\0b\0\0\0\0\0\0\0", &["a\\x00\\x00b", ""]);
    }

    #[test]
    fn payload_that_would_end_early_is_unencodable() {
        let is_rejected = |delimiters: &[&[u8]], payload: &[u8]| {
            let codec = Delimited::new(delimiters, Limit::of(100));
            let mut buf = Buf::default();
            codec.encode(payload, &mut Out::new(&mut buf)).is_err()
        };
        assert!(is_rejected(&[b"\n"], b"a\nb"));
        assert!(
            is_rejected(&[b"abab"], b"1ab"),
            "in `1ababab` the delimiter starts after the `1`"
        );
        assert!(
            is_rejected(&[b"\n", b"\r\n"], b"a\r"),
            "the `\\r` and the delimiter `\\n` form the delimiter `\\r\\n`"
        );
        assert!(is_rejected(&[b";", b"|"], b"a|b"));
        assert!(
            is_rejected(&[b";", b"x;y"], b"ax"),
            "`ax;` and a following frame that begins with `y` contain `x;y`"
        );
        assert!(!is_rejected(&[b";", b"x;y"], b"ay"));
        assert!(!is_rejected(&[b"abab"], b"1aba-"));
        assert!(!is_rejected(&[b"\r\n"], b"a\rb\n"));
    }

    #[test]
    fn encode_ends_with_a_delimiter_that_is_no_prefix() {
        let codec = Delimited::new(&[b"ab", b"abc"], Limit::of(100));
        let mut buf = Buf::default();
        codec
            .encode(b"x", &mut Out::new(&mut buf))
            .expect("the payload is valid");
        assert_eq!(buf.bytes(), b"xabc");
    }

    #[test]
    fn frame_limit_does_not_count_a_partial_delimiter() {
        let codec = Delimited::new(&[b"\r\n\r\n"], Limit::of(4));
        let decode = |bytes: &[u8]| codec.decode(&mut ScanState::default(), bytes);
        assert!(matches!(decode(b"abcd\r\n\r"), Ok(Step::Need(8))));
        assert!(matches!(decode(b"abcd\r\n\r\n"), Ok(Step::Frame { .. })));
        for long in [
            &b"abcde"[..],
            b"abcde\r\n\r",
            b"abcde\r\n\r\n",
            b"abcd\r\n\rx",
        ] {
            assert!(matches!(
                decode(long),
                Err(FrameError::TooLong { limit: 4, .. })
            ));
        }
    }

    #[test]
    fn finish_checks_the_frame_limit() {
        let codec = Delimited::new(&[b";", b";abcdefgh"], Limit::of(3));
        let (mut scanned, bytes) = (ScanState::default(), b";abcde");
        assert!(matches!(
            codec.decode(&mut scanned, bytes),
            Ok(Step::Need(_))
        ));
        let step = codec
            .finish(&mut scanned, bytes)
            .expect("`;` ends the frame at the end of the stream");
        assert!(matches!(step, Step::Frame { consumed: 1, .. }));
        let finish = |rest: &[u8]| codec.finish(&mut ScanState::default(), rest);
        assert!(matches!(finish(b"abc"), Ok(Step::Need(_))));
        assert!(matches!(finish(b"abcd"), Err(FrameError::TooLong { .. })));
    }
}
