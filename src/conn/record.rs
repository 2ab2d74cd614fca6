//! The read side of a recorded connection: the sink gets the bounds of each frame in the stream.
//!
//! [`RecordingDecoder`] wraps the decoder and stores the bounds of each frame. The decode loop
//! passes these bounds to the sink before the frame.

use super::assembler::Assembler;
use super::sink::{Delivery, FrameSink};
use crate::codec::{AnyDecoder, CheckedStep, Decoder, FrameBounds};

/// Input of a decode call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DecodeInput<'a> {
    /// Bytes of a read.
    Bytes(&'a [u8]),
    /// Bytes that an earlier call left undelivered.
    Undelivered,
    /// The end of the stream, and the bytes that are held at that time.
    EndOfStream,
}

impl Assembler {
    /// Decodes `input` like [`ingest`](Assembler::ingest), [`resume`](Assembler::resume) or
    /// [`finish`](Assembler::finish), and passes the bounds of each frame to the sink before the
    /// frame. `read_bytes` is the number of bytes read from the stream so far, including `input`.
    pub(crate) fn record<S: FrameSink>(
        &mut self,
        input: DecodeInput<'_>,
        read_bytes: u64,
        sink: &mut S,
    ) -> Delivery {
        let has_ended = matches!(input, DecodeInput::EndOfStream);
        if self.has_former() {
            let bytes = match input {
                DecodeInput::Bytes(bytes) => bytes,
                DecodeInput::Undelivered | DecodeInput::EndOfStream => &[],
            };
            if let Some(outcome) = self.skip_by_former(bytes, has_ended, sink) {
                return outcome;
            }
            if !has_ended {
                return self.record(DecodeInput::Undelivered, read_bytes, sink);
            }
        }
        let new_len = match input {
            DecodeInput::Bytes(bytes) => bytes.len(),
            DecodeInput::Undelivered | DecodeInput::EndOfStream => 0,
        };
        let offset = read_bytes.saturating_sub((self.len() + new_len) as u64)
            + self.left_to_skip().min(new_len as u64);
        self.with_any_decoder(sink, has_ended, |assembler, sink, decoder| {
            let bounds = FrameBounds::default();
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

/// A decoder that stores the bounds of the most recently decoded frame.
struct RecordingDecoder<'a> {
    decoder: AnyDecoder<'a>,
    /// Offset in the stream of the first byte that the next step decodes.
    offset: u64,
    /// Bounds of the most recently decoded frame.
    bounds: FrameBounds,
}

impl Decoder for RecordingDecoder<'_> {
    fn step<'a>(&mut self, bytes: &'a [u8]) -> CheckedStep<'a> {
        let step = self.decoder.step(bytes);
        match &step {
            CheckedStep::Frame {
                range, consumed, ..
            } => {
                self.bounds = FrameBounds {
                    offset: self.offset,
                    len: *consumed,
                    header_len: range.start,
                    trailer_len: consumed - range.end,
                };
                self.offset += *consumed as u64;
            }
            CheckedStep::Skip(skip) => self.offset = self.offset.saturating_add(skip.bytes),
            CheckedStep::Need(_) | CheckedStep::Failed(_) => {}
        }
        step
    }

    fn recorded(&self) -> Option<FrameBounds> {
        Some(self.bounds)
    }
}
