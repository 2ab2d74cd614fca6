//! The read side of a connection that is observed: each frame is told with its place in the stream.
//!
//! The loops that decode plain connections know nothing of this. An observed one has its codec
//! wrapped, so that what it answers is seen, and its sink, so that a frame is told before it is
//! delivered.

use std::cell::Cell;

use super::deframe::Assembler;
use super::sink::{Delivery, Flow, Sink};
use crate::codec::{Codec, ErasedState, Kind, ScanState, Skipped, Step, with_builtin};
use crate::error::FrameError;
use crate::memory::Pool;
use crate::timer::Stamp;

/// Where a frame lies in its stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FrameBounds {
    pub(crate) offset: u64,
    pub(crate) len: usize,
    /// Bytes before and behind its payload.
    pub(crate) header_len: usize,
    pub(crate) trailer_len: usize,
}

/// What there is to decode.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Round<'a> {
    /// What a read gave.
    Bytes(&'a [u8]),
    /// What an earlier round left.
    Rest,
    /// The same, and the stream has ended.
    End,
}

impl Assembler {
    /// [`ingest`](Assembler::ingest), [`resume`](Assembler::resume) or [`finish`](Assembler::finish), and
    /// each frame is told to `found` before it is delivered. `read_bytes` of the stream were read,
    /// those of this round included.
    #[cold]
    pub(crate) fn record<S: Sink>(
        &mut self,
        round: Round<'_>,
        read_bytes: u64,
        sink: &mut S,
        found: fn(&mut S, FrameBounds),
    ) -> Delivery {
        let kind = sink.kind().clone();
        let mut scanned = self.scanned();
        let mut state = match &kind {
            Kind::Custom(custom) => Some(self.take_custom(|| custom.new_state())),
            _ => None,
        };
        let new = match round {
            Round::Bytes(bytes) => bytes.len(),
            Round::Rest | Round::End => 0,
        };
        let mut offset = read_bytes.saturating_sub((self.len() + new) as u64);
        offset += self.left_to_skip().min(new as u64);
        let place = Cell::new(FrameBounds::default());
        let mut decode = |bytes: &[u8]| {
            let step = decode(&kind, &mut scanned, state.as_deref_mut(), round, bytes);
            match &step {
                Ok(Step::Frame { frame, consumed }) => {
                    place.set(FrameBounds {
                        offset,
                        len: *consumed,
                        header_len: frame.start,
                        trailer_len: consumed.saturating_sub(frame.end),
                    });
                    offset += *consumed as u64;
                }
                Ok(Step::Skip { bytes } | Step::SkipFrame { bytes, .. }) => {
                    offset = offset.saturating_add(*bytes);
                }
                Ok(Step::SkipPart { bytes }) => offset += *bytes as u64,
                Ok(Step::Need(_)) | Err(_) => {}
            }
            step
        };
        let place = &place;
        let mut sink = Observing { sink, place, found };
        let outcome = match round {
            Round::Bytes(bytes) => self.feed(bytes, &mut sink, decode),
            Round::Rest | Round::End => self.decode_tail(&mut sink, &mut decode),
        };
        match state {
            Some(state) => self.put_custom(state),
            None => self.keep_scanned(scanned),
        }
        self.report_oversized(&mut sink);
        outcome
    }
}

/// Asks whatever codec it is, once.
fn decode(
    kind: &Kind,
    scanned: &mut ScanState,
    state: Option<&mut ErasedState>,
    round: Round<'_>,
    bytes: &[u8],
) -> Result<Step, FrameError> {
    let is_end = matches!(round, Round::End);
    with_builtin!(kind, codec => match is_end {
        false => codec.decode(scanned, bytes),
        true => codec.finish(scanned, bytes),
    }, custom => match (state, is_end) {
        (Some(state), false) => custom.decode_erased(state, bytes),
        (Some(state), true) => custom.finish_erased(state, bytes),
        (None, _) => unreachable!("a user's codec was given its state"),
    })
}

/// A sink that is told of each frame's place before it is given the frame.
struct Observing<'a, S> {
    sink: &'a mut S,
    /// Where the frame lies that was found last.
    place: &'a Cell<FrameBounds>,
    found: fn(&mut S, FrameBounds),
}

impl<S: Sink> Sink for Observing<'_, S> {
    fn kind(&self) -> &Kind {
        self.sink.kind()
    }

    fn frame(&mut self, frame: &[u8]) -> Flow {
        (self.found)(self.sink, self.place.get());
        self.sink.frame(frame)
    }

    fn skipped(&mut self, skipped: Skipped) -> Flow {
        self.sink.skipped(skipped)
    }

    fn split(&mut self, head: &[u8]) {
        self.sink.split(head);
    }

    fn buffer_is_oversized(&mut self) {
        self.sink.buffer_is_oversized();
    }

    fn now(&self) -> Stamp {
        self.sink.now()
    }

    fn pool(&mut self) -> &mut Pool {
        self.sink.pool()
    }
}
