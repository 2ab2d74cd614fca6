//! Test of a codec with every cut of a stream.

use std::iter;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::failure::{Failure, Literals};
use super::probe::{self, Outcome, Stride};
use super::random::Random;
use super::read_side::ReadSide;
use super::way::Way;
use crate::codec::Framing;
use crate::error::FrameError;
use crate::framed::Framer;

/// Maximum length of a stream that is cut in every possible way. A stream of 16 bytes can be cut in
/// 32,768 ways.
const EVERY_SPLIT_LEN_MAX: usize = 16;
/// Maximum length of a stream that is cut at every pair of offsets.
const TWO_CUTS_LEN_MAX: usize = 96;
/// Maximum length of a stream that is cut at every single offset.
const ONE_CUT_LEN_MAX: usize = 1024;
/// Number of random cuts of a stream, and number of garbage streams.
const RANDOM_COUNT: usize = 100;
/// Exclusive limit of the length of a garbage stream, before bytes are inserted into it.
const GARBAGE_LEN_MAX: usize = 200;
/// Number of bytes that the check of a length limit allows for the header and the delimiter of a
/// frame.
const OVERHEAD_MAX: usize = 1024 + 256;

/// Test of a framing with every cut of a stream.
///
/// It tries:
///
/// * all cuts of a stream of up to 16 bytes. A stream of up to 96 bytes is cut at every pair of
///   offsets, a stream of up to 1,024 bytes at every offset. All streams of more than 16 bytes are
///   also cut into single bytes, and in a hundred random ways;
/// * each cut in five ways: with the codec alone; through a connection that is never paused;
///   through a connection that is paused after each frame; through a connection whose buffer is
///   shrunk after each read; and through a connection whose framing is replaced by an equal
///   framing. The framing is replaced after each frame, and after each read of the first 1,024
///   bytes;
/// * streams of garbage, made from a seed: random bytes, and the given stream with some bytes
///   changed.
///
/// It checks that:
///
/// * every cut leads to the same frames, and the undelivered or invalid bytes begin at the same
///   offset;
/// * the [contract](crate::Codec) is kept, and no `Step::Need` requests more bytes than the codec
///   needs for the next frame;
/// * the codec does not search the same bytes of a long frame twice for the end of the frame. This
///   is checked if the stream has a frame of 200 bytes or more;
/// * received bytes are copied at most twice, or three times with a custom codec. Replacing the
///   framing allows one more copy, and shrinking the buffer any number. A buffer is at most 16
///   times as large as its content. A buffer with a short content may have 16 KiB, and a buffer
///   that an earlier frame needed may have 64 KiB;
/// * a [limit](Cuts::frame_len_max) is kept;
/// * nothing panics, and no loop is endless.
///
/// [`Framing::raw`] cannot pass the test, because its frames depend on the reads.
///
/// # Examples
///
/// ```
/// use unstick::Framing;
/// use unstick::testkit::Cuts;
///
/// Cuts::of(&Framing::line())
///     .stream(b"a\r\n\nbc\nd")
///     .expect(&[b"a", b"", b"bc"])
///     .check();
/// Cuts::of(&Framing::varint()).payloads(&[b"a", b"", &[7; 300]]).check();
/// ```
#[derive(Debug, Clone)]
#[must_use = "the test runs only when `check` is called"]
pub struct Cuts {
    framing: Framing,
    stream: Vec<u8>,
    /// End offsets of the pieces, if the stream is cut in only one way; `None` tries all cuts.
    ends: Option<Vec<usize>>,
    expected: Option<Vec<Vec<u8>>>,
    /// The last payload that the framing rejected, and the error.
    rejected: Option<(Vec<u8>, String)>,
    expects_error: bool,
    is_stateful: bool,
    frame_len_max: Option<usize>,
    seed: u64,
}

impl Cuts {
    /// Creates the test of a framing. Without a stream, the framing is tested with garbage only.
    pub fn of(framing: &Framing) -> Self {
        Self {
            framing: framing.clone(),
            stream: Vec::new(),
            ends: None,
            expected: None,
            rejected: None,
            expects_error: false,
            is_stateful: false,
            frame_len_max: None,
            seed: 1,
        }
    }

    /// Sets the stream to cut. Short streams find most bugs. A stream with a long frame detects a
    /// codec that starts its search from the beginning with every piece.
    pub fn stream(mut self, bytes: &[u8]) -> Self {
        self.stream = bytes.to_vec();
        self.ends = None;
        self
    }

    /// Sets the stream to these payloads, each encoded by the framing. The payloads are the
    /// expected frames, unless a later [`expect`](Cuts::expect) sets other frames. If the framing
    /// cannot decode its own [output](Framing::with_output), use [`stream`](Cuts::stream).
    pub fn payloads(mut self, payloads: &[&[u8]]) -> Self {
        let mut framer = Framer::new(self.framing.clone());
        let mut stream = Vec::new();
        for payload in payloads {
            match framer.frame(payload) {
                Ok(bytes) => stream.extend_from_slice(bytes),
                Err(error) => self.rejected = Some((payload.to_vec(), error.to_string())),
            }
        }
        self.stream(&stream).expect(payloads)
    }

    /// Sets the stream and the only way in which it is cut. Use it to repeat a reported failure.
    pub fn pieces(mut self, pieces: &[&[u8]]) -> Self {
        let ends = pieces.iter().scan(0, |end, piece| {
            *end += piece.len();
            Some(*end)
        });
        self.ends = Some(ends.collect());
        self.stream = pieces.concat();
        self
    }

    /// Sets the expected frames. By default, the frames of the uncut stream are expected.
    pub fn expect(mut self, frames: &[&[u8]]) -> Self {
        self.expected = Some(frames.iter().map(|frame| frame.to_vec()).collect());
        self
    }

    /// Expects an error after the expected frames.
    pub fn expect_error(mut self) -> Self {
        self.expects_error = true;
        self
    }

    /// Sets the maximum length of a frame. The test fails if a longer frame is delivered, or if the
    /// buffered bytes of a frame exceed this number by more than 1,280 bytes. The 1,280 bytes are
    /// allowed for a header and a delimiter.
    pub fn frame_len_max(mut self, bytes: usize) -> Self {
        self.frame_len_max = Some(bytes);
        self
    }

    /// Marks the codec as one that keeps state from one frame to the next on purpose. The test then
    /// never replaces the framing.
    pub fn stateful(mut self) -> Self {
        self.is_stateful = true;
        self
    }

    /// Sets the seed of the random cuts and of the garbage.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Runs the test.
    ///
    /// # Panics
    ///
    /// Panics if the codec fails the test. The message is the [`Failure`].
    #[track_caller]
    pub fn check(&self) {
        if let Err(failure) = self.try_check() {
            panic!("{failure}");
        }
    }

    /// Runs the test. If the codec fails, returns a [`Failure`] with few cuts.
    ///
    /// # Errors
    /// The failure, if the codec fails the test.
    pub fn try_check(&self) -> Result<(), Failure> {
        if let Some((payload, error)) = &self.rejected {
            let payload = Literals(std::slice::from_ref(payload));
            return Err(Failure {
                what: format!("the framing rejects the payload {payload}: {error}"),
                way: Way::Alone.describe(),
                pieces: vec![self.stream.clone()],
                calls: vec![format!(".payloads(&[{payload}])")],
            });
        }
        let whole = Trial::of(self, &self.stream, self.expected.as_deref())?;
        if let Some(ends) = &self.ends {
            return whole.run_all_ways(ends);
        }
        whole.run_every_cut()?;
        self.check_limit()?;
        let mut random = Random(self.seed);
        let lenient = Self {
            expected: None,
            expects_error: false,
            ..self.clone()
        };
        for _ in 0..RANDOM_COUNT {
            let garbage = random.garbage(&self.stream);
            let trial = Trial::of(&lenient, &garbage, None)?;
            trial.run_shrinking(&random.ends(garbage.len()))?;
        }
        Ok(())
    }

    /// Checks the limit of the frame length. Tries streams that begin like the given stream and
    /// continue with a repeated byte, so that a frame may never end.
    fn check_limit(&self) -> Result<(), Failure> {
        let Some(limit) = self.frame_len_max else {
            return Ok(());
        };
        let held_max = limit.saturating_add(OVERHEAD_MAX);
        let head_len_max = self.stream.len().min(EVERY_SPLIT_LEN_MAX);
        for head_len in 0..=head_len_max {
            for filler in [0, b'0', b'x', 0x7F, 0x80, 0xFF] {
                let mut side = ReadSide::new(self.framing.clone());
                let (mut longest, mut held_most) = (0, 0);
                let (head, piece) = (&self.stream[..head_len], [filler; 64]);
                let repeated = iter::repeat_n(&piece[..], 2 * held_max / piece.len());
                for piece in iter::once(head).chain(repeated) {
                    let read = read_all(&mut side, piece, |frame| {
                        longest = longest.max(frame.len());
                    });
                    if read.is_err() {
                        break;
                    }
                    held_most = held_most.max(side.held_bytes());
                }
                let what = if longest > limit {
                    format!(
                        "a frame of {longest} bytes was delivered, with a limit of {limit} bytes"
                    )
                } else if held_most > held_max {
                    format!(
                        "{held_most} bytes of a frame were buffered, with a limit of {limit} bytes"
                    )
                } else {
                    continue;
                };
                return Err(Failure {
                    what: format!("{what}, if the last piece is repeated"),
                    way: Way::Through.describe(),
                    pieces: vec![head.to_vec(), piece.to_vec()],
                    calls: vec![
                        format!(".stream(b\"{}\")", head.escape_ascii()),
                        format!(".frame_len_max({limit})"),
                    ],
                });
            }
        }
        Ok(())
    }
}

/// A stream, and the outcome that each of its cuts must have.
struct Trial<'a> {
    cuts: &'a Cuts,
    stream: &'a [u8],
    /// Frames that [`Cuts::expect`] has set; `None` if the uncut stream determines them.
    frames: Option<&'a [Vec<u8>]>,
    expected: Outcome,
    strides: Vec<Stride>,
}

impl<'a> Trial<'a> {
    /// Decodes the uncut stream. Its outcome is the expected outcome of all cuts.
    fn of(
        cuts: &'a Cuts,
        stream: &'a [u8],
        frames: Option<&'a [Vec<u8>]>,
    ) -> Result<Self, Failure> {
        let mut trial = Self {
            cuts,
            stream,
            frames,
            expected: Outcome::default(),
            strides: Vec::new(),
        };
        let first = guarded(|| {
            trial.strides = probe::strides(&cuts.framing, stream)?;
            if probe::searches_again(&cuts.framing, stream, &trial.strides)? {
                return Err("the codec searches the same bytes more than once".into());
            }
            probe::decode(&cuts.framing, &[stream], &trial.strides)
        });
        let outcome = first.map_err(|what| trial.failure(what, Way::Alone, &[]))?;
        trial.expected = outcome;
        if let Some(frames) = frames {
            let found = std::mem::replace(&mut trial.expected.frames, frames.to_vec());
            if let Some(what) = difference(frames, &found) {
                return Err(trial.failure(what, Way::Alone, &[]));
            }
        }
        let what = match (cuts.expects_error, trial.expected.is_error) {
            (true, false) => "an error is expected, but the codec reports none",
            (false, true) if frames.is_some() => {
                "the codec reports an unexpected error after the frames"
            }
            _ => return Ok(trial),
        };
        Err(trial.failure(what.to_owned(), Way::Alone, &[]))
    }

    /// Tries all cuts. Cuts into few pieces are tried first, so that the first failure has few
    /// pieces.
    fn run_every_cut(&self) -> Result<(), Failure> {
        let len = self.stream.len();
        self.run_all_ways(&[])?;
        if len <= EVERY_SPLIT_LEN_MAX {
            let mut splits: Vec<u32> = (1..1 << len.saturating_sub(1)).collect();
            splits.sort_by_key(|split| split.count_ones());
            for split in splits {
                // Bit `i` is a cut after byte `i`.
                let ends: Vec<_> = (1..len).filter(|end| split >> (end - 1) & 1 == 1).collect();
                self.run_all_ways(&ends)?;
            }
            return Ok(());
        }
        if len <= ONE_CUT_LEN_MAX {
            (1..len).try_for_each(|end| self.run_all_ways(&[end]))?;
        }
        if len <= TWO_CUTS_LEN_MAX {
            for first in 1..len {
                (first + 1..len).try_for_each(|second| self.run_all_ways(&[first, second]))?;
            }
        }
        let bytewise: Vec<usize> = (1..len).collect();
        self.run_shrinking(&bytewise)?;
        let mut random = Random(self.cuts.seed);
        (0..RANDOM_COUNT).try_for_each(|_| self.run_shrinking(&random.ends(len)))
    }

    /// Tries one set of cuts. If the codec fails, removes cuts while the codec still fails.
    fn run_shrinking(&self, ends: &[usize]) -> Result<(), Failure> {
        let Err(mut failure) = self.run_all_ways(ends) else {
            return Ok(());
        };
        let mut ends = ends.to_vec();
        // Large groups of cuts are removed first, so that a thousand cuts need only some dozens of
        // trials.
        let mut count = ends.len().next_power_of_two();
        while count > 0 {
            let mut at = 0;
            while at < ends.len() {
                let mut fewer = ends.clone();
                fewer.drain(at..ends.len().min(at + count));
                match self.run_all_ways(&fewer) {
                    Err(smaller) => (failure, ends) = (smaller, fewer),
                    Ok(()) => at += count,
                }
            }
            count /= 2;
        }
        Err(failure)
    }

    fn run_all_ways(&self, ends: &[usize]) -> Result<(), Failure> {
        for way in Way::ALL {
            if way == Way::Reframed && self.cuts.is_stateful {
                continue;
            }
            let pieces: Vec<&[u8]> = pieces(self.stream, ends).collect();
            let outcome = guarded(|| way.decode(&self.cuts.framing, &pieces, &self.strides));
            let what = match outcome {
                Err(what) => what,
                Ok(outcome) if outcome == self.expected => continue,
                Ok(outcome) => self.difference(&outcome),
            };
            return Err(self.failure(what, way, ends));
        }
        Ok(())
    }

    fn difference(&self, found: &Outcome) -> String {
        if let Some(what) = difference(&self.expected.frames, &found.frames) {
            return what;
        }
        let end = |outcome: &Outcome| {
            let what = match outcome.is_error {
                true => "an error at",
                false => "undecoded bytes from",
            };
            let (taken, skipped) = (outcome.taken, outcome.frames_skipped);
            format!("{what} byte {taken}, with {skipped} frames skipped")
        };
        let (expected, found) = (end(&self.expected), end(found));
        format!("after the frames: {found}; expected: {expected}")
    }

    fn failure(&self, what: String, way: Way, ends: &[usize]) -> Failure {
        let pieces: Vec<_> = pieces(self.stream, ends).map(<[u8]>::to_vec).collect();
        let mut calls = vec![format!(".pieces(&[{}])", Literals(&pieces))];
        if let Some(frames) = self.frames {
            calls.push(format!(".expect(&[{}])", Literals(frames)));
        }
        if self.cuts.expects_error {
            calls.push(".expect_error()".to_owned());
        }
        if self.cuts.is_stateful {
            calls.push(".stateful()".to_owned());
        }
        Failure {
            what,
            way: way.describe(),
            pieces,
            calls,
        }
    }
}

/// Splits a stream at the given offsets, which are sorted.
pub(super) fn pieces<'a>(stream: &'a [u8], ends: &[usize]) -> impl Iterator<Item = &'a [u8]> {
    let ends = ends.iter().copied().chain([stream.len()]);
    ends.scan(0, |start, end| {
        let piece = &stream[*start..end];
        *start = end;
        Some(piece)
    })
}

/// Describes the first frame that differs from the expected frame, if there is such a frame.
fn difference(expected: &[Vec<u8>], found: &[Vec<u8>]) -> Option<String> {
    let index = (0..expected.len().max(found.len())).find(|i| expected.get(*i) != found.get(*i))?;
    let show = |frame: Option<&Vec<u8>>| match frame {
        Some(frame) => format!("b\"{}\"", frame.escape_ascii()),
        None => "none".to_owned(),
    };
    Some(format!(
        "frame {index} is {}, instead of {}",
        show(found.get(index)),
        show(expected.get(index)),
    ))
}

/// Reads all bytes through the read side of a connection that is not paused.
fn read_all(
    side: &mut ReadSide,
    mut bytes: &[u8],
    mut on_frame: impl FnMut(&[u8]),
) -> Result<(), FrameError> {
    while !bytes.is_empty() {
        let taken = side.read(bytes, |frame| {
            on_frame(frame);
            ControlFlow::Continue(())
        })?;
        bytes = &bytes[taken..];
    }
    Ok(())
}

/// Turns a panic of the codec into a failure.
fn guarded<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("the codec panics".to_owned()))
}

impl Random {
    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or_default()
    }

    /// Returns random offsets at which to cut `len` bytes; the maximum length of a piece is random
    /// too.
    pub(super) fn ends(&mut self, len: usize) -> Vec<usize> {
        let piece_len_max = [3, 20, 200, 1460][self.below(4)];
        let mut ends = Vec::new();
        let mut end = 0;
        loop {
            end += 1 + self.below(piece_len_max);
            if end >= len {
                return ends;
            }
            ends.push(end);
        }
    }

    /// Returns random bytes, or a part of a stream with some bytes changed.
    fn garbage(&mut self, stream: &[u8]) -> Vec<u8> {
        let len = self.below(GARBAGE_LEN_MAX);
        if stream.is_empty() || self.below(3) == 0 {
            return (0..len).map(|_| self.byte()).collect();
        }
        let start = self.below(stream.len());
        let mut garbage = [&stream[start..], stream].concat();
        garbage.truncate(len.max(1));
        for _ in 0..=self.below(4) {
            let at = self.below(garbage.len());
            match self.below(3) {
                0 => garbage[at] = self.byte(),
                1 => garbage[at] ^= 1 << self.below(8),
                _ => garbage.insert(at, garbage[at]),
            }
        }
        garbage
    }
}
