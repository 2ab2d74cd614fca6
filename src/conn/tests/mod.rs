//! Tests of the code of a connection without sockets: every framing, every cut of a stream, and the
//! costs.
//!
//! [`deliver`] passes a stream to an [`Assembler`] as the reactor does; the test chooses the read
//! lengths. [`naive`] returns the expected outcome.

mod codecs;
mod contract;
mod costs;
mod naive;
mod partial;
/// Plain decoders, shared with the integration tests and the fuzz targets.
#[path = "../../../tests/common/naive.rs"]
mod plain;
mod skips;
mod splits;
mod state;

use super::{Assembler, Delivery, Flow, FrameSink, Pool};
use crate::codec::{FrameBounds, Framing, Kind, Skipped};
use crate::error::FrameError;
use crate::testkit::Random;
use crate::timer::Stamp;

/// Passes the names of all tested framings to another macro. Each name is the short name of a
/// built-in framing, or a name that [`codecs::framing`] defines.
macro_rules! with_framings {
    ($then:ident! $($with:tt)*) => {
        $then! {
            $($with)* raw "raw", line "line", u8 "u8", u16 "u16", u24 "u24", u32 "u32", u64 "u64",
            u16_le "u16-le", u24_le "u24-le", u32_le "u32-le", u64_le "u64-le",
            fixed "fixed", byte "byte", delimiter "delimiter", delimiters "delimiters",
            varint "varint", netstring "netstring", field "field", kept "kept", records "records",
            crlf "line-crlf", rest "rest", beats "beats", digits "digits",
            nul "nul", marked "marked", tagged "tagged", blocks "blocks"
        }
    };
}

macro_rules! names {
    ($($name:ident $framing:literal),*) => {
        [$($framing),*]
    };
}

const FRAMINGS: [&str; 28] = with_framings!(names!);

/// Defines a test for every framing.
macro_rules! for_every_framing {
    ($test:ident) => {
        with_framings! { for_every_framing! $test: }
    };
    ($test:ident: $($name:ident $framing:literal),*) => {
        mod $test {
            $(#[test]
            fn $name() {
                super::$test($framing);
            })*
        }
    };
}
use {for_every_framing, with_framings};

/// A part of a stream, whose frames all have one framing.
#[derive(Debug, Clone)]
struct Section {
    name: &'static str,
    /// Maximum length of a frame, if the framing has one.
    limit: usize,
    framing: Framing,
    /// Number of frames; `usize::MAX` for the last section.
    frames: usize,
}

impl Section {
    fn new(name: &'static str, limit: usize, frames: usize) -> Self {
        let framing = codecs::framing(name).frame_len_max(limit);
        Self {
            name,
            limit,
            framing,
            frames,
        }
    }

    /// Returns the plan of a stream with a single framing.
    fn all(name: &'static str, limit: usize) -> [Self; 1] {
        [Self::new(name, limit, usize::MAX)]
    }
}

/// Result of decoding a whole stream.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    frames: Vec<Vec<u8>>,
    /// Number of bytes left undelivered at the end of the stream.
    left: usize,
    /// Offset of the invalid frame in the stream, or `None` if no frame is invalid.
    error_offset: Option<usize>,
}

/// Settings of the delivery of a stream.
#[derive(Debug, Clone, Copy)]
struct Mode {
    /// Number of frames after which the delivery is stopped and resumed.
    budget: usize,
    /// True if long frames are read directly into their buffer.
    direct: bool,
}

/// Mode without stops of the delivery.
const AT_ONCE: Mode = Mode {
    budget: usize::MAX,
    direct: false,
};
/// Mode that stops and resumes the delivery after each frame.
const ONE_BY_ONE: Mode = Mode {
    budget: 1,
    direct: false,
};

const MODES: [Mode; 2] = [AT_ONCE, ONE_BY_ONE];

/// Sink that collects frames. It stops the delivery at the end of a budget or of a section.
struct Collect {
    framing: Framing,
    frames: Vec<Vec<u8>>,
    count: usize,
    filler_bytes: u64,
    /// Offsets of the frames of a recorded stream.
    offsets: Vec<u64>,
    /// True if frames are counted and not kept.
    only_counts: bool,
    /// Number of frames until the section ends.
    section_left: usize,
    /// Number of frames until the budget is used up.
    budget_left: usize,
    pool: Pool,
    now: Stamp,
    /// Lengths of the partial frames that the sink was notified of.
    partial_lens: Vec<usize>,
    /// True if the sink was notified of an oversized buffer.
    is_oversized: bool,
    /// Error that ended the last stream.
    error: Option<FrameError>,
}

impl Collect {
    fn new() -> Self {
        Self {
            framing: Framing::raw(),
            frames: Vec::new(),
            count: 0,
            filler_bytes: 0,
            offsets: Vec::new(),
            only_counts: false,
            section_left: usize::MAX,
            budget_left: usize::MAX,
            pool: Pool::new(0),
            now: Stamp::default(),
            partial_lens: Vec::new(),
            is_oversized: false,
            error: None,
        }
    }

    fn of(framing: &Framing) -> Self {
        Self {
            framing: framing.clone(),
            ..Self::new()
        }
    }

    fn counting() -> Self {
        Self::counting_of(&Framing::raw())
    }

    fn counting_of(framing: &Framing) -> Self {
        Self {
            only_counts: true,
            ..Self::of(framing)
        }
    }
}

impl FrameSink for Collect {
    fn kind(&self) -> &Kind {
        self.framing.kind()
    }

    fn recorded(&mut self, bounds: FrameBounds) {
        self.offsets.push(bounds.offset);
    }

    fn filler(&mut self, bytes: u64) {
        self.filler_bytes += bytes;
    }

    fn split(&mut self, partial: &[u8]) {
        self.partial_lens.push(partial.len());
    }

    fn buffer_is_oversized(&mut self) {
        self.is_oversized = true;
    }

    fn now(&self) -> Stamp {
        self.now
    }

    fn frame(&mut self, frame: &[u8]) -> Flow {
        self.count += 1;
        if !self.only_counts {
            self.frames.push(frame.to_vec());
        }
        self.section_left -= 1;
        self.budget_left -= 1;
        if self.section_left == 0 || self.budget_left == 0 {
            Flow::Break(())
        } else {
            Flow::Continue(())
        }
    }

    fn skipped(&mut self, skipped: Skipped) -> Flow {
        self.frame(skipped.to_string().as_bytes())
    }

    fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }
}

/// Delivers `stream` to the sink as the reactor does. A read at the offset `at` has at most
/// `read_len(at)` bytes.
fn deliver(
    plan: &[Section],
    stream: &[u8],
    mode: Mode,
    sink: &mut Collect,
    mut read_len: impl FnMut(usize) -> usize,
) -> Outcome {
    let mut sections = plan.iter();
    let mut section = sections.next().expect("a plan has a section");
    sink.section_left = section.frames;
    sink.error = None;
    let mut assembler = Assembler::default();
    let mut at = 0;
    let error_offset = loop {
        if sink.section_left == 0 {
            section = sections
                .next()
                .expect("another section follows a section that ends");
            sink.section_left = section.frames;
            assembler.reframe_between_frames();
        }
        sink.budget_left = mode.budget;
        sink.framing = section.framing.clone();
        let outcome = if assembler.has_undelivered() {
            assembler.resume(sink)
        } else if at < stream.len() {
            let len = read_len(at).min(stream.len() - at);
            if mode.direct
                && let Some(spare) = assembler.direct(len, &mut sink.pool)
            {
                let len = spare.len();
                spare.copy_from_slice(&stream[at..at + len]);
                at += len;
                assembler.ingest_direct(len, sink)
            } else {
                at += len;
                assembler.ingest(&stream[at - len..at], sink)
            }
        } else if matches!(assembler.len(), 1..) {
            match assembler.finish(sink) {
                Delivery::NeedMore => break None,
                outcome => outcome,
            }
        } else {
            break None;
        };
        let (held, capacity) = (assembler.len(), assembler.capacity());
        assert!(
            std::mem::take(&mut sink.is_oversized) || capacity <= 8 * held.max(256),
            "the sink was not notified of an oversized buffer: {held} bytes, capacity {capacity}"
        );
        if let Delivery::Failed(failed) = outcome {
            sink.error = Some(failed.error);
            break Some(at - failed.undecoded);
        }
    };
    let left = assembler.clear(&mut sink.pool);
    Outcome {
        frames: std::mem::take(&mut sink.frames),
        left: if error_offset.is_none() { left } else { 0 },
        error_offset,
    }
}

/// A stream, and the outcome that it must have for every cut.
struct Case<'a> {
    plan: &'a [Section],
    stream: &'a [u8],
    expected: Outcome,
}

impl<'a> Case<'a> {
    /// Returns a case that expects the outcome of the naive decoder.
    fn new(plan: &'a [Section], stream: &'a [u8]) -> Self {
        Self {
            plan,
            stream,
            expected: naive::decode(plan, stream),
        }
    }

    /// Checks every split of a stream of at most 16 bytes.
    fn check_every_split(&self, sink: &mut Collect) {
        assert!(self.stream.len() <= 16);
        for split in 0..1_u32 << (self.stream.len() - 1) {
            // If bit `i` of `split` is set, a read ends after byte `i`.
            let read_len = |at: usize| 1 + (split >> at).trailing_zeros() as usize;
            let describe_cuts = || format!("{:?} split by {split:#b}", self.stream);
            for mode in MODES {
                self.check(mode, sink, describe_cuts, read_len);
            }
        }
    }

    /// Delivers the stream, and compares the outcome with the expected one. Raw frames are joined
    /// first, because their ends depend on the cuts.
    fn check(
        &self,
        mode: Mode,
        sink: &mut Collect,
        describe_cuts: impl Fn() -> String,
        read_len: impl FnMut(usize) -> usize,
    ) {
        let Self {
            plan,
            stream,
            expected,
        } = self;
        let mut outcome = deliver(plan, stream, mode, sink, read_len);
        if plan.last().is_some_and(|section| section.name == "raw") {
            let framed: usize = plan[..plan.len() - 1]
                .iter()
                .map(|section| section.frames)
                .sum();
            let raw = outcome.frames.split_off(framed.min(outcome.frames.len()));
            outcome
                .frames
                .extend((!raw.is_empty()).then(|| raw.concat()));
        }
        assert!(
            outcome == *expected,
            "{}, {mode:?}, {}: {outcome:?} instead of {expected:?}",
            plan.iter()
                .map(|section| section.name)
                .collect::<Vec<_>>()
                .join(" then "),
            describe_cuts(),
        );
    }
}

/// One read brings the end of a frame and the start of the next frame. The next frame must have the
/// time of that read, even if the delivery was stopped between the two frames.
#[test]
fn unfinished_since_is_the_time_of_the_read_of_the_first_byte() {
    let at = |millis| Stamp::at(std::time::Duration::from_millis(millis));
    let line = Framing::line();
    let (mut assembler, mut sink) = (Assembler::default(), Collect::of(&line));
    sink.now = at(5);
    assert!(matches!(
        assembler.ingest(b"ab", &mut sink),
        Delivery::NeedMore
    ));
    assert_eq!(assembler.unfinished_since(), Some(at(5)));
    (sink.now, sink.budget_left) = (at(10), 1);
    assert!(matches!(
        assembler.ingest(b"c\nde", &mut sink),
        Delivery::Stopped
    ));
    (sink.now, sink.budget_left) = (at(20), usize::MAX);
    assert!(matches!(assembler.resume(&mut sink), Delivery::NeedMore));
    assert_eq!(assembler.unfinished_since(), Some(at(10)));
    sink.now = at(30);
    assert!(matches!(
        assembler.ingest(b"f", &mut sink),
        Delivery::NeedMore
    ));
    assert_eq!(
        assembler.unfinished_since(),
        Some(at(10)),
        "a later read of the same frame does not change the time"
    );
}
