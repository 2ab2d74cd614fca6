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
//! A connection owns a buffer only while it holds a partial frame, or while its delivery is
//! stopped. A buffer of up to 64 KiB is kept for a partial frame that follows in the same read. So
//! frames of one length find their buffer ready.
//!
//! A byte is copied into the buffer once, and once more if the buffer became too small: at most
//! twice. The built-in codecs find the end of a frame before its bytes are copied. A user's codec
//! has to see them in one piece each time, and a few bytes behind the frame come with them: at most
//! two and a quarter times.

mod feed;

use super::Pool;
use super::partial::Partial;
use super::sink::{Delivery, FrameSink};
use crate::codec::{AnyDecoder, BoundCustom, BuiltinCodec, Decoder, ErasedState, Kind};
use crate::codec::{LengthU32, Lookahead, ScanState, with_builtin};
use crate::timer::Stamp;

/// The read side of one connection. While the connection is idle it owns nothing.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// Bytes that are read and not delivered. It stays here while its frames are delivered, so that
    /// a sink that panics costs no buffer.
    partial: Option<Box<Partial>>,
    /// State of a user's codec, once it has seen a byte. Boxed twice, as every connection pays for
    /// one pointer.
    custom: Option<Box<ErasedState>>,
}

impl Assembler {
    /// Decodes `bytes`, which follow those of earlier calls. To be called only while
    /// [`has_undelivered`](Assembler::has_undelivered) is false.
    #[inline]
    pub(crate) fn ingest<S: FrameSink>(&mut self, bytes: &[u8], sink: &mut S) -> Delivery {
        debug_assert!(
            !self.has_undelivered(),
            "bytes are delivered in their order"
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
            let mut state = self.take_custom(|| codec.new_state());
            let decoder = BoundCustom { codec, state: &mut state };
            let outcome = self.feed_stateless(bytes, sink, decoder);
            self.custom = Some(state);
            outcome
        })
    }

    // Not inlined: each framing has a loop of its own, and none pays for the others' registers.
    #[inline(never)]
    fn feed_builtin<S, C>(&mut self, bytes: &[u8], sink: &mut S, codec: &C) -> Delivery
    where
        S: FrameSink,
        C: BuiltinCodec,
    {
        let mut scan = self.scan();
        let outcome = self.feed(bytes, sink, codec.bind(&mut scan));
        self.set_scan(scan);
        self.end_round(sink);
        outcome
    }

    /// Feeds a decoder that keeps no state with the bytes.
    #[inline(never)]
    fn feed_stateless<S, D>(&mut self, bytes: &[u8], sink: &mut S, decoder: D) -> Delivery
    where
        S: FrameSink,
        D: Decoder,
    {
        let outcome = self.feed(bytes, sink, decoder);
        self.end_round(sink);
        outcome
    }

    /// Decodes after a direct read: `len` bytes were read into [`direct`](Assembler::direct).
    #[inline]
    pub(crate) fn ingest_direct<S: FrameSink>(&mut self, len: usize, sink: &mut S) -> Delivery {
        if self
            .partial
            .as_ref()
            .is_some_and(|partial| partial.is_open_ended())
        {
            with_builtin!(sink.kind(), codec => {
                let codec = codec.to_owned();
                return self.search_direct(len, sink, codec.itself());
            }, _custom => {});
        }
        self.direct_advance(len);
        if self.has_undelivered() {
            return self.resume(sink);
        }
        self.end_round(sink);
        Delivery::NeedMore
    }

    /// Searches a direct read for the end of the frame. If the end is not there, the bytes before
    /// it need not be decoded again, nor moved into one buffer.
    #[inline(never)]
    fn search_direct<S, C>(&mut self, len: usize, sink: &mut S, codec: &C) -> Delivery
    where
        S: FrameSink,
        C: BuiltinCodec,
    {
        let mut scan = self.scan();
        let Some(partial) = &mut self.partial else {
            return Delivery::NeedMore;
        };
        let ahead = partial.ahead_in_spare(len, codec, &mut scan);
        partial.advance(len);
        let outcome = match ahead {
            Lookahead::Inside => {
                partial.need_more();
                Delivery::NeedMore
            }
            ahead => {
                if let Lookahead::Ends { payload_len, .. } = ahead {
                    // The step finds the end again, and searches nothing but the end for it.
                    scan.to = payload_len;
                }
                self.decode_held(sink, &mut codec.bind(&mut scan))
            }
        };
        self.set_scan(scan);
        self.end_round(sink);
        outcome
    }

    /// Decodes the bytes that an earlier round left undelivered.
    pub(crate) fn resume<S: FrameSink>(&mut self, sink: &mut S) -> Delivery {
        let outcome = with_builtin!(sink.kind(), codec => {
            let codec = codec.to_owned();
            let mut scan = self.scan();
            let outcome = self.decode_held(sink, &mut codec.bind(&mut scan));
            self.set_scan(scan);
            outcome
        }, custom => {
            let codec = &*custom.clone();
            let mut state = self.take_custom(|| codec.new_state());
            let mut decoder = BoundCustom { codec, state: &mut state };
            let outcome = self.decode_held(sink, &mut decoder);
            self.custom = Some(state);
            outcome
        });
        self.end_round(sink);
        outcome
    }

    /// Decodes the bytes that are left at the end of the stream.
    pub(crate) fn finish<S: FrameSink>(&mut self, sink: &mut S) -> Delivery {
        self.with_any_decoder(sink, true, |assembler, sink, mut decoder| {
            assembler.decode_held(sink, &mut decoder)
        })
    }

    /// Runs a round with a decoder that selects the codec at each step.
    pub(super) fn with_any_decoder<S: FrameSink>(
        &mut self,
        sink: &mut S,
        has_ended: bool,
        round: impl FnOnce(&mut Self, &mut S, AnyDecoder<'_>) -> Delivery,
    ) -> Delivery {
        let kind = sink.kind().clone();
        let mut scan = self.scan();
        let mut state = match &kind {
            Kind::Custom(custom) => Some(self.take_custom(|| custom.new_state())),
            _ => None,
        };
        let decoder = AnyDecoder {
            kind: &kind,
            scanned: &mut scan,
            custom: state.as_deref_mut(),
            has_ended,
        };
        let outcome = round(self, sink, decoder);
        self.custom = state;
        self.set_scan(scan);
        self.end_round(sink);
        outcome
    }

    /// Forgets the state of the former framing; the bytes stay. A frame that it skips by length is
    /// skipped to its end.
    pub(crate) fn reframe(&mut self) {
        self.custom = None;
        if let Some(partial) = &mut self.partial {
            partial.set_scan(ScanState::default());
            partial.set_undecoded();
        }
    }

    /// True if it holds nothing: neither bytes nor a skip.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.partial.is_none()
    }

    /// True if the next bytes are to be [ingested](Assembler::ingest): nothing is undelivered, and
    /// no long frame is to be read [directly](Assembler::direct).
    #[inline]
    pub(crate) fn is_to_ingest(&self) -> bool {
        self.partial
            .as_ref()
            .is_none_or(|partial| partial.is_to_ingest())
    }

    /// True if bytes are held that are to be decoded.
    #[inline]
    pub(crate) fn has_undelivered(&self) -> bool {
        self.partial
            .as_ref()
            .is_some_and(|partial| partial.is_due())
    }

    /// Number of bytes that are read and not delivered.
    pub(crate) fn len(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.len())
    }

    /// Number of bytes to come that are skipped.
    #[inline]
    pub(super) fn left_to_skip(&self) -> u64 {
        self.partial
            .as_ref()
            .map_or(0, |partial| partial.left_to_skip())
    }

    /// Capacity of the buffers that hold undelivered bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.partial
            .as_ref()
            .map_or(0, |partial| partial.capacity())
    }

    /// Arrival time of the first byte of the partial frame, if there is one.
    pub(crate) fn unfinished_since(&self) -> Option<Stamp> {
        let partial = self.partial.as_ref()?;
        (!partial.is_due()).then_some(partial.since())
    }

    /// Counts the partial frame as begun now.
    pub(crate) fn restart_frame(&mut self, now: Stamp) {
        if let Some(partial) = &mut self.partial {
            partial.set_since(now);
        }
    }

    /// Spare capacity to read the rest of a long partial frame into, if there is one. It is never
    /// empty, has at most `len_max` bytes, and at most the bytes that the frame lacks, if that is
    /// known.
    #[inline]
    pub(crate) fn direct(&mut self, len_max: usize, pool: &mut Pool) -> Option<&mut [u8]> {
        self.partial.as_mut()?.direct(len_max, pool)
    }

    /// Appends `len` bytes that were read into [`direct`](Assembler::direct).
    pub(crate) fn direct_advance(&mut self, len: usize) {
        self.partial
            .as_mut()
            .expect("direct() returned capacity of a partial frame")
            .advance(len);
    }

    /// Drops all bytes, gives the buffer back, and returns the number of bytes dropped.
    pub(crate) fn clear(&mut self, pool: &mut Pool) -> usize {
        self.custom = None;
        let len = self.len();
        self.put_partial(pool);
        len
    }

    /// Moves the bytes into a buffer of their size, if theirs is far larger. To be called some time
    /// after the sink was [notified](FrameSink::buffer_is_oversized): a stream that continues grows
    /// the buffer again, and one that stops would hold it for nothing.
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

    /// Ends a round that may have kept a buffer: reports one that is far too large.
    #[inline]
    fn end_round<S: FrameSink>(&self, sink: &mut S) {
        if let Some(partial) = &self.partial {
            partial.check();
            if partial.is_oversized() {
                sink.buffer_is_oversized();
            }
        }
    }

    #[inline]
    fn take_custom(&mut self, new: impl FnOnce() -> ErasedState) -> Box<ErasedState> {
        self.custom.take().unwrap_or_else(|| Box::new(new()))
    }

    #[inline]
    fn scan(&self) -> ScanState {
        self.partial
            .as_ref()
            .map_or_else(ScanState::default, |partial| partial.scan())
    }

    #[inline]
    fn set_scan(&mut self, scan: ScanState) {
        if let Some(partial) = &mut self.partial {
            partial.set_scan(scan);
        }
    }
}
