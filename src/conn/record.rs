//! The read side of a recorded connection: each frame is reported with its bounds in the stream.
//!
//! The decode loops do not know about recordings. For a recorded connection, a wrapper of the
//! decoder stores the bounds of each frame, and a wrapper of the sink reports them before the
//! frame.

use std::cell::Cell;

use super::Pool;
use super::assembler::Assembler;
use super::sink::{Delivery, Flow, FrameSink};
use crate::codec::{CheckedStep, Decoder, Kind, Skipped};
use crate::timer::Stamp;

/// Bounds of a frame in its stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FrameBounds {
    /// Offset of its first byte in the stream.
    pub(crate) offset: u64,
    /// Number of bytes, with header and trailer.
    pub(crate) len: usize,
    /// Number of bytes before its payload.
    pub(crate) header_len: usize,
    /// Number of bytes after its payload.
    pub(crate) trailer_len: usize,
}

/// Input of a decode call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DecodeInput<'a> {
    /// Bytes of a read.
    Bytes(&'a [u8]),
    /// Bytes that an earlier call left undelivered.
    Undelivered,
    /// The end of the stream, and the bytes held at that time.
    EndOfStream,
}

impl Assembler {
    /// [Ingests](Assembler::ingest), [resumes](Assembler::resume) or [finishes](Assembler::finish),
    /// and calls `found` with the bounds of each frame before the frame is delivered. `read_bytes`
    /// is the number of bytes read from the stream so far, including `input`.
    #[cold]
    pub(crate) fn record<S: FrameSink>(
        &mut self,
        input: DecodeInput<'_>,
        read_bytes: u64,
        sink: &mut S,
        found: fn(&mut S, FrameBounds),
    ) -> Delivery {
        let new_len = match input {
            DecodeInput::Bytes(bytes) => bytes.len(),
            DecodeInput::Undelivered | DecodeInput::EndOfStream => 0,
        };
        let offset = read_bytes.saturating_sub((self.len() + new_len) as u64)
            + self.left_to_skip().min(new_len as u64);
        let bounds = &Cell::new(FrameBounds::default());
        let mut sink = RecordingSink {
            sink,
            bounds,
            found,
        };
        let has_ended = matches!(input, DecodeInput::EndOfStream);
        self.with_any_decoder(&mut sink, has_ended, |assembler, sink, decoder| {
            let mut decoder = RecordingDecoder {
                decoder,
                offset,
                bounds,
            };
            match input {
                DecodeInput::Bytes(bytes) => assembler.feed(bytes, sink, decoder),
                DecodeInput::Undelivered | DecodeInput::EndOfStream => {
                    assembler.decode_held(sink, &mut decoder)
                }
            }
        })
    }
}

/// A decoder that stores the bounds of the last frame.
struct RecordingDecoder<'a, D> {
    decoder: D,
    /// Offset in the stream of the bytes of the next step.
    offset: u64,
    bounds: &'a Cell<FrameBounds>,
}

impl<D: Decoder> Decoder for RecordingDecoder<'_, D> {
    fn step<'a>(&mut self, bytes: &'a [u8]) -> CheckedStep<'a> {
        let step = self.decoder.step(bytes);
        match &step {
            CheckedStep::Frame {
                range, consumed, ..
            } => {
                self.bounds.set(FrameBounds {
                    offset: self.offset,
                    len: *consumed,
                    header_len: range.start,
                    trailer_len: consumed - range.end,
                });
                self.offset += *consumed as u64;
            }
            CheckedStep::Skip(skip) => self.offset = self.offset.saturating_add(skip.bytes),
            CheckedStep::Need(_) | CheckedStep::Failed(_) => {}
        }
        step
    }
}

/// A sink that reports the bounds of each frame before it passes the frame on.
struct RecordingSink<'a, S> {
    sink: &'a mut S,
    /// Bounds of the last frame.
    bounds: &'a Cell<FrameBounds>,
    found: fn(&mut S, FrameBounds),
}

impl<S: FrameSink> FrameSink for RecordingSink<'_, S> {
    fn kind(&self) -> &Kind {
        self.sink.kind()
    }

    fn frame(&mut self, frame: &[u8]) -> Flow {
        (self.found)(self.sink, self.bounds.get());
        self.sink.frame(frame)
    }

    fn skipped(&mut self, skipped: Skipped) -> Flow {
        self.sink.skipped(skipped)
    }

    fn split(&mut self, partial: &[u8]) {
        self.sink.split(partial);
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
