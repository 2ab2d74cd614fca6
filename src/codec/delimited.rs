//! Delimiters: a frame ends where one of a set of byte strings stands. Where that is one byte, it
//! is a [line](super::line).

use memchr::memmem::Finder;

use super::{BuiltinCodec, Codec, Limit, Lookahead, Out, ScanState, Step, count_scanned};
use crate::error::FrameError;
use crate::memory::GrowBuf;

/// See [`Framing::delimiters`](super::Framing::delimiters).
#[derive(Debug, Clone)]
pub(crate) struct Delimited {
    search: Search,
    /// What `encode` puts behind a payload.
    ending: Box<[u8]>,
    /// The length of the longest one.
    longest: usize,
    pub(crate) limit: Limit,
}

/// A delimiter that has begun in the bytes that are held is looked for in so many at the most.
const BORDER_LEN_MAX: usize = 64;

/// How the delimiters are looked for, the fastest way that serves their set.
#[derive(Debug, Clone)]
enum Search {
    One(Box<Finder<'static>>),
    Any(Any),
}

/// Several delimiters, and the bytes that they begin with.
#[derive(Debug, Clone)]
struct Any {
    delimiters: Box<[Box<[u8]>]>,
    firsts: Box<[u8]>,
}

/// What a search came to. Positions count from the frame's first byte.
enum Found {
    /// The delimiter at `start` ends at `end`.
    At { start: usize, end: usize },
    /// None is there; one may begin at or behind this position.
    NotBefore(usize),
}

impl Delimited {
    /// # Panics
    ///
    /// Without a delimiter, or with an empty one.
    pub(crate) fn new(delimiters: &[&[u8]], limit: Limit) -> Self {
        assert!(
            !delimiters.is_empty(),
            "a frame must have a delimiter to end with"
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
        // One that begins another would leave the decoder waiting for the longer one.
        let ending = delimiters.iter().copied().find(|one| !is_begun_by(one));
        let search = match delimiters {
            [one] => Search::One(Box::new(Finder::new(one).into_owned())),
            _ => Search::Any(Any::new(delimiters)),
        };
        let ending = Box::from(ending.expect("the longest one begins no other"));
        let lens = delimiters.iter().map(|one| one.len());
        Self {
            search,
            ending,
            longest: lens.max().unwrap_or_default(),
            limit,
        }
    }

    pub(crate) fn delimiters(&self) -> impl Iterator<Item = &[u8]> {
        let (one, any) = match &self.search {
            Search::One(finder) => (Some(finder.needle()), &[][..]),
            Search::Any(any) => (None, &*any.delimiters),
        };
        one.into_iter().chain(any.iter().map(|one| &**one))
    }

    /// Looks for the first delimiter that begins at `from` or behind it. While more bytes may come,
    /// a longer delimiter that has begun is waited for.
    fn find(&self, bytes: &[u8], from: usize, more_may_come: bool) -> Found {
        match &self.search {
            Search::One(finder) => find_one(finder, bytes, from),
            Search::Any(any) => any.find(bytes, from, more_may_come),
        }
    }

    /// Looks for a delimiter that has begun in what is held: where there is one or may be one yet,
    /// that is answered.
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
            return Some(Lookahead::Look(self.longest.min(more.len())));
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
        // Nothing but a delimiter that begins in what is held is left to be found there.
        scanned.to = scanned.to.saturating_add(start);
        Some(if is_there {
            let of_it = begun.saturating_sub(start);
            Lookahead::Look(self.longest.saturating_sub(of_it).clamp(1, more.len()))
        } else {
            self.limit.without_end(scanned, held.len(), more)
        })
    }

    /// None of the bytes shown ends the frame. All before `at` is content of it, however it goes
    /// on.
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

    /// The end was found: `len` bytes of those shown are payload, and `dropped` before them.
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
                // No frame; but it may be too long for one by now.
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
        // A delimiter may also begin in the payload and end in the ending, or in the next frame.
        match self.find(out.bytes(), 0, true) {
            Found::At { start, .. } if start == len => Ok(()),
            _ => Err(FrameError::Unencodable("a delimiter inside")),
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
        Self {
            delimiters: delimiters.iter().map(|one| Box::from(*one)).collect(),
            firsts: firsts.into_boxed_slice(),
        }
    }

    /// The earliest delimiter wins, and of those that begin together the longest.
    fn find(&self, bytes: &[u8], from: usize, more_may_come: bool) -> Found {
        let mut at = from;
        while let Some(start) = self.next_first(bytes, at) {
            let here = bytes.get(start..).unwrap_or_default();
            let whole = self.delimiters.iter().filter(|one| here.starts_with(one));
            let whole = whole.map(|one| one.len()).max();
            let longer_has_begun = more_may_come
                && self.delimiters.iter().any(|one| {
                    one.len() > here.len() && whole < Some(one.len()) && one.starts_with(here)
                });
            match whole {
                _ if longer_has_begun => return Found::NotBefore(start),
                Some(len) => {
                    return Found::At {
                        start,
                        end: start.saturating_add(len),
                    };
                }
                None => at = start.saturating_add(1),
            }
        }
        Found::NotBefore(bytes.len())
    }

    /// Where the next byte stands that a delimiter may begin with.
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

    /// Decodes `bytes` given in two pieces, and at the end of the stream.
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
    fn the_earliest_delimiter_wins_and_then_the_longest() {
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
    fn a_delimiter_of_several_bytes_may_overlap_itself() {
        check(&[b"aab"], b"aaab1aab", &["a", "1"]);
        check(&[b"abab"], b"xababab-abab", &["x", "ab-"]);
        check(&[b"\0\0\0"], b"a\0\0b\0\0\0\0\0\0\0", &["a\\x00\\x00b", ""]);
    }

    #[test]
    fn a_payload_that_would_end_early_is_refused() {
        let refused = |delimiters: &[&[u8]], payload: &[u8]| {
            let codec = Delimited::new(delimiters, Limit::of(100));
            let mut buf = Buf::default();
            codec.encode(payload, &mut Out::new(&mut buf)).is_err()
        };
        assert!(refused(&[b"\n"], b"a\nb"));
        assert!(refused(&[b"abab"], b"1ab"), "1ababab ends after the 1");
        assert!(
            refused(&[b"\n", b"\r\n"], b"a\r"),
            "its \\r would be taken for half an ending"
        );
        assert!(refused(&[b";", b"|"], b"a|b"));
        assert!(
            refused(&[b";", b"x;y"], b"ax"),
            "ax; and a y in front of the next payload end after the a"
        );
        assert!(!refused(&[b";", b"x;y"], b"ay"));
        assert!(!refused(&[b"abab"], b"1aba-"));
        assert!(!refused(&[b"\r\n"], b"a\rb\n"));
    }

    #[test]
    fn what_is_sent_ends_with_a_delimiter_that_begins_no_other() {
        let codec = Delimited::new(&[b"ab", b"abc"], Limit::of(100));
        let mut buf = Buf::default();
        codec
            .encode(b"x", &mut Out::new(&mut buf))
            .expect("a payload");
        assert_eq!(buf.bytes(), b"xabc");
    }

    #[test]
    fn the_limit_counts_what_must_be_content() {
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
    fn what_is_left_behind_the_last_frame_is_held_to_the_limit_too() {
        let codec = Delimited::new(&[b";", b";abcdefgh"], Limit::of(3));
        let (mut scanned, bytes) = (ScanState::default(), b";abcde");
        assert!(matches!(
            codec.decode(&mut scanned, bytes),
            Ok(Step::Need(_))
        ));
        let step = codec
            .finish(&mut scanned, bytes)
            .expect("; counts at the end");
        assert!(matches!(step, Step::Frame { consumed: 1, .. }));
        let finish = |rest: &[u8]| codec.finish(&mut ScanState::default(), rest);
        assert!(matches!(finish(b"abc"), Ok(Step::Need(_))));
        assert!(matches!(finish(b"abcd"), Err(FrameError::TooLong { .. })));
    }
}
