//! The read side of a connection: bytes in, whole frames out, however the stream was cut.
//!
//! ```text
//!   the bytes of one read, in the buffer that all connections share
//!   | end of a frame | frame | frame | frame | partial frame |
//!           |        `-------+-------'              |
//!           v                v                      v
//!     appended to the   delivered in place    copied to a buffer of
//!     partial frame,                          the connection
//!     delivered there
//! ```
//!
//! A connection owns a buffer only while it holds bytes, or while it skips a frame. A buffer of up
//! to 64 KiB is kept for a partial frame that follows in the same read. Frames of one length
//! therefore reuse one buffer.
//!
//! A byte is copied into the buffer once, and once more if the buffer became too small: at most
//! twice. The built-in codecs find the end of a frame before its bytes are copied. A user's codec
//! needs all bytes of the frame in one piece at each step. So some bytes after the frame are copied
//! into the buffer too. Each of these bytes is copied at most three times.

mod feed;
mod former;

use super::Pool;
use super::deframe::split_skip;
use super::partial::{Partial, UnfinishedSkip};
use super::sink::{Delivery, FrameSink};
use crate::codec::{AnyDecoder, BoundCustom, BuiltinCodec, Decoder, ErasedState, Framing, Kind};
use crate::codec::{LengthU32, Lookahead, ScanState, with_builtin};
use crate::timer::Stamp;

/// The read side of one connection. Apart from the state of a user's codec, it owns no memory while
/// it holds no bytes and skips no frame.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// Bytes that are read but not delivered. The box is not moved out during the delivery, so that
    /// a panic of the sink does not lose the buffer.
    partial: Option<Box<Partial>>,
    /// State of a user's codec; `None` until the codec is called. The state is boxed twice, so that
    /// this field adds only one pointer to every connection.
    custom: Option<Box<ErasedState>>,
}

impl Assembler {
    /// Decodes `bytes`, the next bytes of the stream. Call it only while
    /// [`has_undelivered`](Assembler::has_undelivered) is false.
    #[inline]
    pub(crate) fn ingest<S: FrameSink>(&mut self, bytes: &[u8], sink: &mut S) -> Delivery {
        debug_assert!(
            !self.has_undelivered(),
            "undelivered bytes must be delivered before new bytes are decoded"
        );
        self.ingest_any(bytes, sink)
    }

    fn ingest_any<S: FrameSink>(&mut self, bytes: &[u8], sink: &mut S) -> Delivery {
        if let Kind::Length(codec) = sink.kind()
            && codec.is_u32()
        {
            let decoder = LengthU32(codec.limit);
            return self.feed_stateless(bytes, sink, decoder);
        }
        with_builtin!(sink.kind(), codec => {
            let codec = codec.to_owned();
            self.feed_builtin(bytes, sink, codec.itself())
        }, custom => {
            let codec = &*custom.clone();
            let mut state = self.custom.take().unwrap_or_default();
            let decoder = BoundCustom { codec, state: &mut state };
            let outcome = self.feed_stateless(bytes, sink, decoder);
            self.custom = Some(state);
            outcome
        })
    }

    // Not inlined: each framing gets its own loop, so that the loops do not compete for registers.
    #[inline(never)]
    fn feed_builtin<S: FrameSink, C: BuiltinCodec>(
        &mut self,
        bytes: &[u8],
        sink: &mut S,
        codec: &C,
    ) -> Delivery {
        let mut scan = self.scan();
        let outcome = self.feed(bytes, sink, codec.bind(&mut scan));
        self.set_scan(scan);
        self.end_decode(sink);
        outcome
    }

    /// Decodes `bytes` with a decoder whose state is not part of the partial frame.
    #[inline(never)]
    fn feed_stateless<S: FrameSink, D: Decoder>(
        &mut self,
        bytes: &[u8],
        sink: &mut S,
        decoder: D,
    ) -> Delivery {
        let outcome = self.feed(bytes, sink, decoder);
        self.end_decode(sink);
        outcome
    }

    /// Decodes after a direct read: `len` bytes were read into the capacity that
    /// [`direct`](Assembler::direct) returned.
    #[inline]
    pub(crate) fn ingest_direct<S: FrameSink>(&mut self, len: usize, sink: &mut S) -> Delivery {
        if self.partial.as_deref().is_some_and(Partial::is_open_ended) {
            with_builtin!(sink.kind(), codec => {
                let codec = codec.to_owned();
                return self.search_direct(len, sink, codec.itself());
            }, _custom => {});
        }
        self.direct_advance(len);
        if self.has_undelivered() {
            return self.resume(sink);
        }
        self.end_decode(sink);
        Delivery::NeedMore
    }

    /// Searches the bytes of a direct read for the end of the frame. If the end is not found, the
    /// frame is neither decoded nor moved into one buffer yet.
    #[inline(never)]
    fn search_direct<S: FrameSink, C: BuiltinCodec>(
        &mut self,
        len: usize,
        sink: &mut S,
        codec: &C,
    ) -> Delivery {
        let mut scan = self.scan();
        let Some(partial) = &mut self.partial else {
            return Delivery::NeedMore;
        };
        let ahead = codec.ahead(&mut scan, &partial.buf, &partial.buf.spare()[..len]);
        partial.buf.advance(len);
        let outcome = match ahead {
            Lookahead::Inside => {
                partial.need_more();
                Delivery::NeedMore
            }
            ahead => {
                if let Lookahead::Ends { payload_len, .. } = ahead {
                    // The decode step searches again, but only from the end of the payload on.
                    scan.to = payload_len;
                }
                self.decode_held(sink, &mut codec.bind(&mut scan))
            }
        };
        self.set_scan(scan);
        self.end_decode(sink);
        outcome
    }

    /// Decodes the bytes that an earlier call left undelivered.
    pub(crate) fn resume<S: FrameSink>(&mut self, sink: &mut S) -> Delivery {
        if self.has_former()
            && let Some(outcome) = self.skip_by_former(&[], false, sink)
        {
            return outcome;
        }
        let outcome = with_builtin!(sink.kind(), codec => {
            let codec = codec.to_owned();
            let mut scan = self.scan();
            let outcome = self.decode_held(sink, &mut codec.bind(&mut scan));
            self.set_scan(scan);
            outcome
        }, custom => {
            let codec = &*custom.clone();
            let mut state = self.custom.take().unwrap_or_default();
            let mut decoder = BoundCustom { codec, state: &mut state };
            let outcome = self.decode_held(sink, &mut decoder);
            self.custom = Some(state);
            outcome
        });
        self.end_decode(sink);
        outcome
    }

    /// Decodes the remaining bytes at the end of the stream.
    pub(crate) fn finish<S: FrameSink>(&mut self, sink: &mut S) -> Delivery {
        if self.has_former()
            && let Some(outcome) = self.skip_by_former(&[], true, sink)
        {
            return outcome;
        }
        self.with_any_decoder(sink, true, |assembler, sink, mut decoder| {
            assembler.decode_held(sink, &mut decoder)
        })
    }

    /// Calls `decode` with a decoder that selects the codec at each step.
    pub(super) fn with_any_decoder<S: FrameSink>(
        &mut self,
        sink: &mut S,
        has_ended: bool,
        decode: impl FnOnce(&mut Self, &mut S, AnyDecoder<'_>) -> Delivery,
    ) -> Delivery {
        let kind = sink.kind().clone();
        let mut scan = self.scan();
        let is_custom = matches!(kind, Kind::Custom(_));
        let mut state = is_custom.then(|| self.custom.take().unwrap_or_default());
        let mut no_state = ErasedState::default();
        let decoder = AnyDecoder {
            kind: &kind,
            scanned: &mut scan,
            custom: state.as_deref_mut().unwrap_or(&mut no_state),
            has_ended,
        };
        let outcome = decode(self, sink, decoder);
        self.custom = state;
        self.set_scan(scan);
        self.end_decode(sink);
        outcome
    }

    /// Returns true if no bytes are held and no skip is in progress.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.partial.is_none()
    }

    /// Returns true if the next bytes are to be [ingested](Assembler::ingest): nothing is
    /// undelivered, and no long frame is to be read [directly](Assembler::direct).
    #[inline]
    pub(crate) fn is_to_ingest(&self) -> bool {
        self.partial.as_deref().is_none_or(Partial::is_to_ingest)
    }

    /// Returns true if bytes are held that must be decoded before the next read.
    #[inline]
    pub(crate) fn has_undelivered(&self) -> bool {
        self.partial.as_deref().is_some_and(Partial::is_due)
    }

    /// Returns the number of bytes that are read but not delivered.
    pub(crate) fn len(&self) -> usize {
        self.partial.as_deref().map_or(0, Partial::len)
    }

    /// Returns the number of bytes to skip that have not arrived.
    #[inline]
    pub(super) fn left_to_skip(&self) -> u64 {
        self.partial.as_deref().map_or(0, Partial::left_to_skip)
    }

    /// Returns the capacity of the buffers that hold undelivered bytes, in bytes.
    pub(crate) fn capacity(&self) -> usize {
        let partial = self.partial.as_ref();
        partial.map_or(0, |partial| partial.buf.total_capacity())
    }

    /// Returns the time from which the frame deadline of the partial or skipped frame counts,
    /// usually the arrival of its first byte. Returns `None` if there is no such frame.
    pub(crate) fn unfinished_since(&self) -> Option<Stamp> {
        let partial = self.partial.as_ref()?;
        (!partial.is_due()).then_some(partial.since)
    }

    /// Returns the time from which the frame deadline of the held bytes counts, usually the arrival
    /// of the first held byte. Returns `None` if no bytes are held.
    pub(crate) fn held_since(&self) -> Option<Stamp> {
        let partial = self.partial.as_ref()?;
        (!partial.is_empty()).then_some(partial.since)
    }

    /// Restarts the frame deadline at `now`.
    pub(crate) fn restart_frame(&mut self, now: Stamp) {
        if let Some(partial) = &mut self.partial {
            partial.since = now;
        }
    }

    /// Returns spare capacity into which to read the missing bytes of a long partial frame; `None`
    /// if there is no such frame. The capacity is never empty. It has at most `len_max` bytes. If
    /// the number of missing bytes is known, the capacity does not exceed that number.
    #[inline]
    pub(crate) fn direct(&mut self, len_max: usize, pool: &mut Pool) -> Option<&mut [u8]> {
        self.partial.as_mut()?.direct(len_max, pool)
    }

    /// Appends `len` bytes that were read into the capacity that [`direct`](Assembler::direct)
    /// returned.
    pub(crate) fn direct_advance(&mut self, len: usize) {
        let partial = self.partial.as_mut();
        let partial = partial.expect("direct() returned capacity of a partial frame");
        partial.buf.advance(len);
    }

    /// Returns the bytes that are held, in one piece.
    pub(crate) fn held_bytes(&mut self, pool: &mut Pool) -> &[u8] {
        let Some(partial) = &mut self.partial else {
            return &[];
        };
        partial.buf.settle(pool);
        partial.buf.bytes()
    }

    /// Drops all bytes, puts the buffer back into the pool, and returns the number of bytes
    /// dropped.
    pub(crate) fn clear(&mut self, pool: &mut Pool) -> usize {
        self.custom = None;
        let len = self.len();
        self.put_partial(pool);
        len
    }

    /// Takes the content: the bytes that are held, and a skip whose end has not arrived. `framing`
    /// is the framing of the connection. The skip includes this framing if no other framing can
    /// find the end of the skipped frame.
    pub(crate) fn take(&mut self, framing: &Framing, pool: &mut Pool) -> (Vec<u8>, UnfinishedSkip) {
        self.reframe(framing);
        let partial = self.partial.as_mut();
        let content = partial.map_or_else(Default::default, |partial| partial.content(pool));
        self.clear(pool);
        content
    }

    /// Stores content of another read side: see [`take`](Assembler::take). The program may have
    /// removed some of the bytes. If fewer bytes are left than the framing of a skip may have
    /// decoded, the skip ends. Call this method only while nothing is held.
    pub(crate) fn put(
        &mut self,
        (bytes, skip): (&[u8], UnfinishedSkip),
        now: Stamp,
        pool: &mut Pool,
    ) {
        let left = match skip {
            UnfinishedSkip::Bytes { left } => left,
            UnfinishedSkip::None | UnfinishedSkip::ToEnd { .. } => 0,
        };
        let (here, left) = split_skip(left, bytes.len());
        let bytes = &bytes[here..];
        if left > 0 {
            self.partial = Some(Partial::skipping(left, now, pool));
        } else if !bytes.is_empty() {
            let mut partial = Partial::with_bytes(bytes, 0, now, pool);
            if let UnfinishedSkip::ToEnd {
                framing,
                decoded_len,
            } = skip
                && decoded_len <= bytes.len()
            {
                partial.set_former(framing);
                partial.set_former_due();
            }
            self.partial = Some(partial);
        }
    }

    /// Moves the bytes into a buffer of their size, if their buffer is oversized. Call it some time
    /// after the sink was [notified](FrameSink::buffer_is_oversized). A stream that continues would
    /// need the large buffer again; a stream that has stopped does not.
    pub(crate) fn trim(&mut self, pool: &mut Pool) {
        if let Some(partial) = &mut self.partial
            && partial.is_oversized()
        {
            partial.shrink(pool);
        }
    }

    /// Moves the bytes into a buffer of their size.
    pub(crate) fn shrink_to_fit(&mut self, pool: &mut Pool) {
        if let Some(partial) = &mut self.partial
            && !partial.is_empty()
        {
            partial.shrink(pool);
        }
    }

    #[inline]
    fn put_partial(&mut self, pool: &mut Pool) {
        if let Some(partial) = self.partial.take() {
            partial.put_back(pool);
        }
    }

    /// Ends a decode call: checks the invariants, and reports an oversized buffer.
    #[inline]
    fn end_decode<S: FrameSink>(&self, sink: &mut S) {
        if let Some(partial) = &self.partial {
            partial.check();
            if partial.is_oversized() {
                sink.buffer_is_oversized();
            }
        }
    }

    #[inline]
    fn scan(&self) -> ScanState {
        let partial = self.partial.as_ref();
        partial.map_or_else(ScanState::default, |partial| partial.scan)
    }

    #[inline]
    fn set_scan(&mut self, scan: ScanState) {
        if let Some(partial) = &mut self.partial {
            partial.scan = scan;
        }
    }
}
