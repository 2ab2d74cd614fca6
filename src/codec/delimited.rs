//! Delimited frames: each frame ends with one of several byte strings. A single delimiter of one
//! byte is handled by [`line`](super::line).

use std::cmp::Reverse;

use memchr::memmem::Finder;

use super::{BuiltinCodec, Codec, Limit, Lookahead, Out, ScanState, Step, count_scanned};
use crate::error::FrameError;
use crate::memory::GrowBuf;

/// Codec of [`Framing::delimiters`](super::Framing::delimiters).
#[derive(Debug, Clone)]
pub(crate) struct Delimited {
    /// The delimiters, in the order of the configuration.
    delimiters: Box<[Box<[u8]>]>,
    search: Search,
    /// Delimiter that `encode` appends to a payload.
    ending: Box<[u8]>,
    /// Length of the longest delimiter, in bytes.
    longest: usize,
    pub(crate) limit: Limit,
}

/// Maximum number of bytes that are copied together to find a delimiter that begins in the held
/// bytes.
const BORDER_LEN_MAX: usize = 64;

/// Search method: the fastest one for the set of delimiters.
#[derive(Debug, Clone)]
enum Search {
    One(Box<Finder<'static>>),
    Any(Any),
}

/// Several delimiters, and the first bytes of all of them.
#[derive(Debug, Clone)]
struct Any {
    longest_first: Box<[Box<[u8]>]>,
    firsts: Box<[u8]>,
}

/// Result of a search. Positions count from the frame's first byte.
enum Found {
    /// Delimiter at `start..end`.
    At { start: usize, end: usize },
    /// No complete delimiter; one may begin at this position or later.
    NotBefore(usize),
}

impl Delimited {
    /// # Panics
    ///
    /// Panics if `delimiters` is empty or contains an empty one.
    pub(crate) fn new(delimiters: &[&[u8]], limit: Limit) -> Self {
        assert!(
            !delimiters.is_empty(),
            "`Framing::delimiters` needs at least one delimiter"
        );
        assert!(
            delimiters.iter().all(|one| !one.is_empty()),
            "a delimiter must not be empty"
        );
        let is_begun_by = |one: &&[u8]| {
            delimiters
                .iter()
                .any(|other| other.len() > one.len() && other.starts_with(one))
        };
        // A prefix of another delimiter is not a suitable ending: the decoder would wait for the
        // longer one.
        let ending = delimiters.iter().copied().find(|one| !is_begun_by(one));
        let search = match delimiters {
            [one] => Search::One(Box::new(Finder::new(one).into_owned())),
            _ => Search::Any(Any::new(delimiters)),
        };
        let ending =
            Box::from(ending.expect("the longest delimiter is not a prefix of a longer one"));
        let lens = delimiters.iter().map(|one| one.len());
        Self {
            delimiters: delimiters.iter().map(|one| Box::from(*one)).collect(),
            search,
            ending,
            longest: lens.max().unwrap_or_default(),
            limit,
        }
    }

    pub(crate) fn delimiters(&self) -> impl Iterator<Item = &[u8]> {
        self.delimiters.iter().map(|one| &**one)
    }

    /// Finds the first delimiter that begins at or after `from`.
    ///
    /// If `more_may_come` is true, a longer delimiter that may still be completed has precedence:
    /// the result is then [`Found::NotBefore`].
    fn find(&self, bytes: &[u8], from: usize, more_may_come: bool) -> Found {
        match &self.search {
            Search::One(finder) => find_one(finder, bytes, from),
            Search::Any(any) => any.find(bytes, from, more_may_come),
        }
    }

    /// Searches for a delimiter that begins in the held bytes, complete or partial. Returns `None`
    /// if there is none.
    #[cold]
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
        let (start, is_there) = match self.find(border, 0, true) {
            Found::At { start, .. } => (start, true),
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

    /// Handles bytes that do not end the frame. All bytes before `at` are certainly payload.
    #[inline(never)]
    fn unfinished(
        &self,
        scanned: &mut ScanState,
        bytes: &[u8],
        at: usize,
    ) -> Result<Step, FrameError> {
        let len = scanned.dropped.saturating_add(at as u64);
        if len > self.limit.len as u64 {
            let shown = bytes.len();
            return self.limit.exceeded_without_end(scanned, at, at, shown);
        }
        scanned.to = at;
        Ok(Step::Need(bytes.len().saturating_add(1)))
    }

    /// Returns the frame whose end was found. Its payload consists of `dropped` bytes that were
    /// skipped earlier, and of the first `len` bytes shown.
    #[inline(always)]
    fn frame(&self, dropped: u64, len: usize, consumed: usize) -> Result<Step, FrameError> {
        let whole = dropped.saturating_add(len as u64);
        if whole > self.limit.len as u64 {
            return self.limit.exceeded(whole, consumed as u64);
        }
        Ok(Step::Frame {
            frame: 0..len,
            consumed,
        })
    }
}

impl Codec for Delimited {
    type State = ScanState;

    fn decode(&self, scanned: &mut ScanState, bytes: &[u8]) -> Result<Step, FrameError> {
        let from = scanned.to;
        let found = self.find(bytes, from, true);
        let looked_at = match found {
            Found::At { end, .. } => end,
            Found::NotBefore(_) => bytes.len(),
        };
        count_scanned(looked_at.saturating_sub(from));
        match found {
            Found::At { start, end } => self.frame(std::mem::take(scanned).dropped, start, end),
            Found::NotBefore(at) => self.unfinished(scanned, bytes, at),
        }
    }

    fn finish(&self, scanned: &mut ScanState, rest: &[u8]) -> Result<Step, FrameError> {
        let ScanState { to, dropped } = std::mem::take(scanned);
        match self.find(rest, to, false) {
            Found::At { start, end } => self.frame(dropped, start, end),
            Found::NotBefore(_) => {
                // No frame ends here; the limit must still be checked.
                *scanned = ScanState { to, dropped };
                self.decode(scanned, rest)
            }
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
        // A delimiter may also begin in the payload and end in the appended delimiter or in the
        // next frame.
        match self.find(out.bytes(), 0, true) {
            Found::At { start, .. } if start == len => Ok(()),
            _ => Err(FrameError::Unencodable(
                "it contains or completes a delimiter",
            )),
        }
    }
}

impl BuiltinCodec for Delimited {
    #[inline]
    fn ahead(&self, scanned: &mut ScanState, held: &GrowBuf, more: &[u8]) -> Lookahead {
        let more = self.limit.clip(scanned, held.len(), more);
        if scanned.to < held.len()
            && let Some(ahead) = self.ahead_at_border(scanned, held, more)
        {
            return ahead;
        }
        match self.find(more, 0, true) {
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
        }
    }
}

fn find_one(finder: &Finder<'_>, bytes: &[u8], from: usize) -> Found {
    let delimiter = finder.needle();
    let unseen = bytes.get(from..).unwrap_or_default();
    if let Some(at) = finder.find(unseen) {
        let start = from.saturating_add(at);
        return Found::At {
            start,
            end: start.saturating_add(delimiter.len()),
        };
    }
    let longest = delimiter.len().saturating_sub(1).min(unseen.len());
    let begun = (1..=longest).rev().find(|&len| {
        delimiter
            .get(..len)
            .is_some_and(|beginning| unseen.ends_with(beginning))
    });
    Found::NotBefore(bytes.len().saturating_sub(begun.unwrap_or_default()))
}

impl Any {
    fn new(delimiters: &[&[u8]]) -> Self {
        let mut firsts: Vec<u8> = delimiters
            .iter()
            .filter_map(|one| one.first().copied())
            .collect();
        firsts.sort_unstable();
        firsts.dedup();
        let mut longest_first: Vec<_> = delimiters.iter().map(|one| Box::from(*one)).collect();
        longest_first.sort_by_key(|one: &Box<[u8]>| Reverse(one.len()));
        Self {
            longest_first: longest_first.into_boxed_slice(),
            firsts: firsts.into_boxed_slice(),
        }
    }

    /// Finds the earliest delimiter; of several that begin at one position, the longest.
    fn find(&self, bytes: &[u8], from: usize, more_may_come: bool) -> Found {
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

    /// Returns the position of the next byte that a delimiter begins with.
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Buf;

    /// Decodes `bytes` in two pieces, split at `cut`, and then the end of the stream.
    fn frames(codec: &Delimited, bytes: &[u8], cut: usize) -> Vec<Vec<u8>> {
        let (mut frames, mut start, mut scanned) = (Vec::new(), 0, ScanState::default());
        for (end, is_last) in [(cut, false), (bytes.len(), false), (bytes.len(), true)] {
            while start < end {
                let rest = &bytes[start..end];
                let step = match is_last {
                    true => codec.finish(&mut scanned, rest),
                    false => codec.decode(&mut scanned, rest),
                };
                let Step::Frame { frame, consumed } = step.expect("within the limit") else {
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
                .map(|one| one.escape_ascii().to_string())
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
        let refused = |delimiters: &[&[u8]], payload: &[u8]| {
            let codec = Delimited::new(delimiters, Limit::of(100));
            let mut buf = Buf::default();
            codec.encode(payload, &mut Out::new(&mut buf)).is_err()
        };
        assert!(refused(&[b"\n"], b"a\nb"));
        assert!(refused(&[b"abab"], b"1ab"), "1ababab would end after the 1");
        assert!(
            refused(&[b"\n", b"\r\n"], b"a\r"),
            "the \\r would become part of the ending \\r\\n"
        );
        assert!(refused(&[b";", b"|"], b"a|b"));
        assert!(
            refused(&[b";", b"x;y"], b"ax"),
            "ax; and a next payload that begins with y contain x;y"
        );
        assert!(!refused(&[b";", b"x;y"], b"ay"));
        assert!(!refused(&[b"abab"], b"1aba-"));
        assert!(!refused(&[b"\r\n"], b"a\rb\n"));
    }

    #[test]
    fn encode_ends_with_a_delimiter_that_is_no_prefix() {
        let codec = Delimited::new(&[b"ab", b"abc"], Limit::of(100));
        let mut buf = Buf::default();
        codec
            .encode(b"x", &mut Out::new(&mut buf))
            .expect("a valid payload");
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
            .expect("; ends the frame at the end of the stream");
        assert!(matches!(step, Step::Frame { consumed: 1, .. }));
        let finish = |rest: &[u8]| codec.finish(&mut ScanState::default(), rest);
        assert!(matches!(finish(b"abc"), Ok(Step::Need(_))));
        assert!(matches!(finish(b"abcd"), Err(FrameError::TooLong { .. })));
    }
}
