//! Tests of the state machine without sockets: every framing, every cut, and the costs.
//!
//! [`deliver`] runs an [`Assembler`] as the reactor does, with a stream that is cut as a test needs
//! it; [`naive`] returns the expected outcome.

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
use crate::codec::{Framing, Kind, Skipped};
use crate::error::FrameError;
use crate::testkit::Random;
use crate::timer::Stamp;

/// Passes the names of all framings to another macro: the built-in ones, some of them with settings
/// of [`codecs`], and those of that module.
macro_rules! with_framings {
    ($then:ident! $($with:tt)*) => {
        $then! {
            $($with)* raw "raw", line "line", u8 "u8", u16 "u16", u24 "u24", u32 "u32", u64 "u64",
            u16_le "u16-le", u24_le "u24-le", u32_le "u32-le", u64_le "u64-le",
            fixed "fixed", byte "byte", delimiter "delimiter", delimiters "delimiters",
            varint "varint", netstring "netstring", field "field", kept "kept", records "records",
            nul "nul", marked "marked", tagged "tagged", blocks "blocks"
        }
    };
}

macro_rules! names {
    ($($name:ident $framing:literal),*) => {
        [$($framing),*]
    };
}

const FRAMINGS: [&str; 24] = with_framings!(names!);

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

/// A part of a stream: `frames` frames of one framing; then comes the next part.
#[derive(Debug, Clone)]
struct Stage {
    name: &'static str,
    /// Maximum length of a frame, if the framing has one.
    limit: usize,
    framing: Framing,
    frames: usize,
}

impl Stage {
    fn new(name: &'static str, limit: usize, frames: usize) -> Self {
        let framing = codecs::framing(name).frame_len_max(limit);
        Self {
            name,
            limit,
            framing,
            frames,
        }
    }

    /// Returns a whole stream of one framing.
    fn all(name: &'static str, limit: usize) -> [Self; 1] {
        [Self::new(name, limit, usize::MAX)]
    }
}

/// Outcome of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    frames: Vec<Vec<u8>>,
    /// Number of bytes left undelivered at the end of the stream.
    left: usize,
    /// Offset in the stream of the invalid bytes.
    bad_at: Option<usize>,
}

/// Way in which a stream is read and delivered.
#[derive(Debug, Clone, Copy)]
struct How {
    /// Number of frames after which the delivery is stopped and resumed.
    budget: usize,
    /// True if long frames are read directly into their buffer.
    direct: bool,
}

const AT_ONCE: How = How {
    budget: usize::MAX,
    direct: false,
};
const ONE_BY_ONE: How = How {
    budget: 1,
    direct: false,
};

/// Sink that collects frames, and stops at the end of a budget or of a stage.
struct Collect {
    framing: Framing,
    frames: Vec<Vec<u8>>,
    count: usize,
    /// True if frames are counted and not kept.
    only_counts: bool,
    stage_left: usize,
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
            only_counts: false,
            stage_left: usize::MAX,
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
        self.stage_left -= 1;
        self.budget_left -= 1;
        if self.stage_left == 0 || self.budget_left == 0 {
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

/// Reads `stream` as the reactor does, at most `read_len(at)` bytes at a time, and delivers it.
fn deliver(
    plan: &[Stage],
    stream: &[u8],
    how: How,
    sink: &mut Collect,
    mut read_len: impl FnMut(usize) -> usize,
) -> Outcome {
    let mut stages = plan.iter();
    let mut stage = stages.next().expect("a plan has a stage");
    sink.stage_left = stage.frames;
    sink.error = None;
    let mut assembler = Assembler::default();
    let mut at = 0;
    let bad_at = loop {
        if sink.stage_left == 0 {
            stage = stages.next().expect("the last stage is endless");
            sink.stage_left = stage.frames;
            assembler.reframe();
        }
        sink.budget_left = how.budget;
        sink.framing = stage.framing.clone();
        let outcome = if assembler.has_undelivered() {
            assembler.resume(sink)
        } else if at < stream.len() {
            let len = read_len(at).min(stream.len() - at);
            if how.direct
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
            "{held} bytes are held in a buffer of {capacity} without a notice"
        );
        if let Delivery::Failed(failed) = outcome {
            sink.error = Some(failed.error);
            break Some(at - failed.undecoded);
        }
    };
    let left = assembler.clear(&mut sink.pool);
    Outcome {
        frames: std::mem::take(&mut sink.frames),
        left: if bad_at.is_none() { left } else { 0 },
        bad_at,
    }
}

/// Delivers `stream`, and compares the outcome with `expected`. Raw frames are compared as one
/// string of bytes.
fn check(
    plan: &[Stage],
    stream: &[u8],
    expected: &Outcome,
    how: How,
    sink: &mut Collect,
    (what, read_len): (impl Fn() -> String, impl FnMut(usize) -> usize),
) {
    let mut outcome = deliver(plan, stream, how, sink, read_len);
    if plan.last().is_some_and(|stage| stage.name == "raw") {
        let framed: usize = plan[..plan.len() - 1]
            .iter()
            .map(|stage| stage.frames)
            .sum();
        let raw = outcome.frames.split_off(framed.min(outcome.frames.len()));
        outcome
            .frames
            .extend((!raw.is_empty()).then(|| raw.concat()));
    }
    assert!(
        outcome == *expected,
        "{}, {how:?}, {}: {outcome:?} instead of {expected:?}",
        plan.iter()
            .map(|stage| stage.name)
            .collect::<Vec<_>>()
            .join(" then "),
        what(),
    );
}

/// A partial frame that follows the end of another frame has the arrival time of that end, even if
/// the delivery was stopped between them.
#[test]
fn a_frame_is_as_old_as_the_read_that_brought_its_first_byte() {
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
        "more of it makes it no younger"
    );
}
