//! The read side: bytes in, whole frames out.
//!
//! ```text
//!   what a read gave (the reactor's read_buffer buffer)
//!   | rest of a frame | frame | frame | frame | head of a frame |
//!         |               `-------+-------'            |
//!         v                       v                    v
//!     to the tail,        delivered in place       kept as the tail
//!     delivered there
//! ```
//!
//! A connection owns a buffer, its tail, only while a frame is unfinished or its delivery was
//! stopped. The tail grows with the bytes that came, to at most eight times their number, whatever
//! length a header claims; one of up to 64 KiB that a frame was in stays for the head behind it, so
//! that frames of one length find their buffer ready, until the next trim. A byte is copied into
//! the tail once, and once more, when the frame is whole, where the buffer became too small
//! meanwhile: twice in all. The codecs of this crate find the end of a frame before its bytes are
//! copied. One of a user's own has to be shown them, in one piece each time, and a few bytes behind
//! the end come with them: that makes it up to two and a quarter.

use super::partial::{
    append, direct_room, first_capacity, is_fit, is_oversized, is_short_head, is_to_shrink,
};
use super::partial::{keep_in, note_more, note_need, open_ended_step};
use super::run::{End, run, run_once, split_skip};
use super::sink::{Delivery, Flow, Sink};
use crate::codec::{BuiltinCodec, Codec, Decoder, ErasedState, Kind, LengthU32, Lookahead};
use crate::codec::{ScanState, with_builtin};
use crate::memory::{Buf, Pool};
use crate::timer::Stamp;

/// The read side of one connection. Idle, it owns nothing.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// Undecoded bytes. `need > len()`: the head of an unfinished frame. Otherwise bytes that
    /// nobody has looked at yet, as the delivery was stopped before them. Empty only while bytes to
    /// come are skipped. It stays here while its frames are delivered, so that a sink that panics
    /// costs no buffer.
    tail: Option<Box<Buf>>,
    /// The state of a user's codec, once it has looked at a byte. Two boxes, as one pointer is
    /// what every connection pays for it.
    custom: Option<Box<ErasedState>>,
}

impl Assembler {
    /// Decodes `bytes`, which follow what was given before. To be called only while
    /// [`has_undelivered`](Assembler::has_undelivered) is false.
    #[inline]
    pub(crate) fn ingest<S: Sink>(&mut self, bytes: &[u8], sink: &mut S) -> Delivery {
        debug_assert!(
            !self.has_undelivered(),
            "bytes are delivered in their order"
        );
        self.ingest_any(bytes, sink)
    }

    /// [`ingest`](Assembler::ingest) where there is more to it.
    fn ingest_any<S: Sink>(&mut self, bytes: &[u8], sink: &mut S) -> Delivery {
        if let Kind::Length(codec) = sink.kind()
            && codec.is_u32()
        {
            let decode = LengthU32(codec.limit);
            return self.feed_other(bytes, sink, decode);
        }
        with_builtin!(sink.kind(), codec => {
            let codec = codec.to_owned();
            self.feed_builtin(bytes, sink, codec.itself())
        }, custom => {
            let custom = custom.clone();
            let mut state = self.take_custom(|| custom.new_state());
            let decode = |bytes: &[u8]| custom.decode_erased(&mut state, bytes);
            let outcome = self.feed_other(bytes, sink, decode);
            self.custom = Some(state);
            outcome
        })
    }

    /// Not inlined: each framing has a loop of its own, and none pays for the others' registers.
    #[inline(never)]
    fn feed_builtin<S, C>(&mut self, bytes: &[u8], sink: &mut S, codec: &C) -> Delivery
    where
        S: Sink,
        C: BuiltinCodec,
    {
        let mut scanned = self.scanned();
        let outcome = self.feed(bytes, sink, codec.asked(&mut scanned));
        self.keep_scanned(scanned);
        self.report_oversized(sink);
        outcome
    }

    /// The same for a codec whose state is not kept with the bytes.
    #[inline(never)]
    fn feed_other<S: Sink, D: Decoder>(
        &mut self,
        bytes: &[u8],
        sink: &mut S,
        decode: D,
    ) -> Delivery {
        let outcome = self.feed(bytes, sink, decode);
        self.report_oversized(sink);
        outcome
    }

    /// Takes the first `len` bytes that [`direct`](Assembler::direct) was filled with, and decodes.
    #[inline]
    pub(crate) fn ingest_direct<S: Sink>(&mut self, len: usize, sink: &mut S) -> Delivery {
        if self.tail.as_ref().is_some_and(|tail| tail.is_open_ended) {
            with_builtin!(sink.kind(), codec => {
                let codec = codec.to_owned();
                return self.search_direct(len, sink, codec.itself());
            }, _custom => {});
        }
        self.direct_advance(len);
        if self.has_undelivered() {
            return self.resume(sink);
        }
        self.report_oversized(sink);
        Delivery::NeedMore
    }

    /// The same where the end of the frame is looked for: if it is not among these bytes, those
    /// before them need not be looked at, nor be in one buffer with them.
    #[inline(never)]
    fn search_direct<S, C>(&mut self, len: usize, sink: &mut S, codec: &C) -> Delivery
    where
        S: Sink,
        C: BuiltinCodec,
    {
        let mut scanned = self.scanned();
        let Some(tail) = &mut self.tail else {
            return Delivery::NeedMore;
        };
        let ahead = codec.ahead(&mut scanned, tail, &tail.spare()[..len]);
        tail.advance(len);
        let outcome = match ahead {
            Lookahead::Inside => {
                note_more(tail);
                Delivery::NeedMore
            }
            ahead => {
                if let Lookahead::Ends { payload_len, .. } = ahead {
                    // The end is found again, and nothing but the end is searched for it.
                    scanned.to = payload_len;
                }
                self.decode_tail(sink, &mut codec.asked(&mut scanned))
            }
        };
        self.keep_scanned(scanned);
        self.report_oversized(sink);
        outcome
    }

    /// Decodes what an earlier round left undelivered.
    pub(crate) fn resume<S: Sink>(&mut self, sink: &mut S) -> Delivery {
        let mut scanned = self.scanned();
        let outcome = with_builtin!(sink.kind(), codec => {
            let codec = codec.to_owned();
            let outcome = self.decode_tail(sink, &mut codec.asked(&mut scanned));
            self.keep_scanned(scanned);
            outcome
        }, custom => {
            let custom = custom.clone();
            let mut state = self.take_custom(|| custom.new_state());
            let mut decode = |bytes: &[u8]| custom.decode_erased(&mut state, bytes);
            let outcome = self.decode_tail(sink, &mut decode);
            self.custom = Some(state);
            outcome
        });
        self.report_oversized(sink);
        outcome
    }

    /// Shows the codec what is left now that the stream has ended.
    pub(crate) fn finish<S: Sink>(&mut self, sink: &mut S) -> Delivery {
        let mut scanned = self.scanned();
        let outcome = with_builtin!(sink.kind(), codec => {
            let codec = codec.to_owned();
            let outcome = self.decode_tail(sink, &mut |rest: &[u8]| codec.finish(&mut scanned, rest));
            self.keep_scanned(scanned);
            outcome
        }, custom => {
            let custom = custom.clone();
            let mut state = self.take_custom(|| custom.new_state());
            let mut decode = |rest: &[u8]| custom.finish_erased(&mut state, rest);
            let outcome = self.decode_tail(sink, &mut decode);
            self.custom = Some(state);
            outcome
        });
        self.report_oversized(sink);
        outcome
    }

    /// Forgets what the former framing remembered; the bytes stay. A frame that it skips by count
    /// is skipped to its end.
    pub(crate) fn reframe(&mut self) {
        self.custom = None;
        self.keep_scanned(ScanState::default());
        if let Some(tail) = &mut self.tail
            && tail.skip == 0
        {
            note_need(tail, 0);
        }
    }

    /// True if it holds nothing: neither bytes nor a skip.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.tail.is_none()
    }

    /// Whether the next bytes are to be [ingested](Assembler::ingest): nothing is undelivered, and no
    /// long frame is to be read on [directly](Assembler::direct).
    #[inline]
    pub(crate) fn is_to_ingest(&self) -> bool {
        self.tail.as_deref().is_none_or(is_short_head)
    }

    /// Whether bytes are held that nobody has looked at yet.
    #[inline]
    pub(crate) fn has_undelivered(&self) -> bool {
        self.tail
            .as_ref()
            .is_some_and(|tail| tail.need <= tail.len())
    }

    /// Bytes held: read from the socket, and not delivered.
    pub(crate) fn len(&self) -> usize {
        self.tail.as_ref().map_or(0, |tail| tail.len())
    }

    /// Bytes to come that belong to a frame that is skipped.
    pub(super) fn left_to_skip(&self) -> u64 {
        self.tail.as_ref().map_or(0, |tail| tail.skip)
    }

    pub(super) fn put_custom(&mut self, state: Box<ErasedState>) {
        self.custom = Some(state);
    }

    /// The capacity of the buffer that holds them.
    pub(crate) fn capacity(&self) -> usize {
        self.tail.as_ref().map_or(0, |tail| tail.total_capacity())
    }

    /// When the unfinished frame began to come, if there is one.
    pub(crate) fn unfinished_since(&self) -> Option<Stamp> {
        let tail = self.tail.as_ref()?;
        (tail.need > tail.len()).then_some(tail.since)
    }

    /// Counts an unfinished frame as begun now.
    pub(crate) fn restart_frame(&mut self, now: Stamp) {
        if let Some(tail) = &mut self.tail {
            tail.since = now;
        }
    }

    /// Where a long unfinished frame is to be read on, if there is one: at most the bytes that it
    /// lacks, where they are known, at most `len_max`, never empty.
    #[inline]
    pub(crate) fn direct(&mut self, len_max: usize, pool: &mut Pool) -> Option<&mut [u8]> {
        direct_room(self.tail.as_mut()?, len_max, pool)
    }

    /// Tells that [`direct`](Assembler::direct) was filled with `len` bytes.
    pub(crate) fn direct_advance(&mut self, len: usize) {
        self.tail
            .as_mut()
            .expect("a tail was read into")
            .advance(len);
    }

    /// Gives the buffer back and tells how many bytes were in it.
    pub(crate) fn clear(&mut self, pool: &mut Pool) -> usize {
        self.custom = None;
        self.tail.take().map_or(0, |tail| {
            let len = tail.len();
            pool.put(tail);
            len
        })
    }

    /// Puts what is held into a buffer of its size, if its own is far larger. To be called some
    /// time after a sink was told that it [keeps room](Sink::buffer_is_oversized): a stream that goes on
    /// grows it again, and one that does not would hold it for nothing.
    pub(crate) fn trim(&mut self, pool: &mut Pool) {
        if self.tail.as_deref().is_some_and(is_oversized) {
            self.shrink_to_fit(pool);
        }
    }

    /// Puts what is held into a buffer of its size. Nothing else is changed by it.
    pub(crate) fn shrink_to_fit(&mut self, pool: &mut Pool) {
        let scanned = self.scanned();
        if let Some(tail) = &mut self.tail
            && !tail.is_empty()
        {
            pool.settle(tail);
            self.shrink(pool);
            self.keep_scanned(scanned);
        }
    }

    /// Tells of room that is kept, at the end of each round that may have kept some.
    #[inline]
    pub(super) fn report_oversized<S: Sink>(&self, sink: &mut S) {
        if let Some(tail) = &self.tail
            && is_oversized(tail)
        {
            sink.buffer_is_oversized();
        }
    }

    /// Decodes bytes that follow those in the tail. The rest of its frame is put there, and the
    /// frames behind it are delivered in place.
    #[inline(always)]
    pub(super) fn feed<S, D>(&mut self, bytes: &[u8], sink: &mut S, mut decode: D) -> Delivery
    where
        S: Sink,
        D: Decoder,
    {
        let mut at = 0;
        while let Some(tail) = &mut self.tail {
            let left = &bytes[at..];
            let ahead = match tail.skip {
                0 => decode.ahead(tail, left),
                _ => Lookahead::Unknown,
            };
            let look = match ahead {
                Lookahead::Ends { len, payload_len } => {
                    append(tail, &left[..len], false, sink.pool());
                    at += len;
                    sink.pool().settle(tail);
                    let flow = sink.frame(&tail.bytes()[..payload_len]);
                    tail.clear();
                    if flow == Flow::Stop {
                        return self.keep_rest(&bytes[at..], End::Stopped, sink);
                    }
                    break;
                }
                Lookahead::Inside => {
                    append(tail, left, false, sink.pool());
                    note_more(tail);
                    return Delivery::NeedMore;
                }
                Lookahead::Look(len) => Some(len),
                Lookahead::Unknown => None,
            };
            match self.finish_front(bytes, &mut at, look, sink, &mut decode) {
                Front::Unfinished => {}
                Front::Finished => break,
                Front::Halted(outcome) => return outcome,
            }
        }
        // A place that nobody else has seen: what it holds may stay in registers.
        let mut decode = decode;
        let mut rest = &bytes[at..];
        if let Some(end) = run(&mut rest, sink, &mut decode) {
            if let End::Need(need) = end
                && let Some(tail) = &mut self.tail
                && is_fit(tail, rest.len(), need)
            {
                sink.split(rest);
                keep_in(tail, rest, need, sink.now(), sink.pool());
                return Delivery::NeedMore;
            }
            return self.keep_rest(rest, end, sink);
        }
        if self.tail.is_some() {
            self.put_tail(sink.pool());
        }
        Delivery::NeedMore
    }

    /// Keeps what a run has left.
    #[inline(never)]
    fn keep_rest<S: Sink>(&mut self, rest: &[u8], end: End, sink: &mut S) -> Delivery {
        match end {
            End::Need(need) => {
                sink.split(rest);
                self.keep(rest, need, sink);
            }
            End::Skip { beyond, flow } => {
                self.keep_skip(beyond, sink);
                return flow.into();
            }
            End::Stopped => {
                self.keep(rest, 0, sink);
                return Delivery::Stopped;
            }
            End::Failed(error) => {
                self.put_tail(sink.pool());
                return Delivery::failed(error, rest.len());
            }
        }
        Delivery::NeedMore
    }

    /// Goes on with what an earlier read left unfinished, bytes to skip or the frame in the tail,
    /// by those of `bytes` from `at` on. The codec is asked when it has what it needs, or `look`
    /// bytes more.
    #[inline(never)]
    fn finish_front<S, D>(
        &mut self,
        bytes: &[u8],
        at: &mut usize,
        look: Option<usize>,
        sink: &mut S,
        decode: &mut D,
    ) -> Front
    where
        S: Sink,
        D: Decoder,
    {
        let left = &bytes[*at..];
        let Some(tail) = &mut self.tail else {
            return Front::Finished;
        };
        if tail.skip > 0 {
            let (here, beyond) = split_skip(tail.skip, left.len());
            *at += here;
            tail.skip = beyond;
            if beyond > 0 {
                return Front::Halted(Delivery::NeedMore);
            }
            self.put_tail(sink.pool());
            return Front::Finished;
        }
        let (len, is_due) = match look {
            Some(len) => (len, true),
            None => {
                let missing = tail.need - tail.len();
                let wanted = if tail.is_open_ended {
                    open_ended_step(tail)
                } else {
                    missing
                };
                let len = left.len().min(wanted);
                (len, len >= missing)
            }
        };
        // What is looked at in each step is in one buffer again at once.
        let is_settled = look.is_none() && tail.is_open_ended;
        append(tail, &left[..len], is_settled, sink.pool());
        *at += len;
        if !is_due {
            return Front::Halted(Delivery::NeedMore);
        }

        sink.pool().settle(tail);
        let mut behind = tail.bytes();
        let end = run_once(&mut behind, sink, decode);
        let rest = behind.len();
        let consumed = tail.len() - rest;
        let stopped = match end {
            None => false,
            Some(End::Need(need)) => {
                tail.consume(consumed);
                note_need(tail, need);
                return match *at < bytes.len() {
                    true => Front::Unfinished,
                    false => Front::Halted(Delivery::NeedMore),
                };
            }
            Some(End::Skip { beyond, flow }) => {
                let (here, beyond) = split_skip(beyond, bytes.len() - *at);
                *at += here;
                if beyond > 0 {
                    let since = tail.since;
                    self.put_tail(sink.pool());
                    self.keep_skip_since(beyond, since, sink.pool());
                    return Front::Halted(flow.into());
                }
                flow == Flow::Stop
            }
            Some(End::Stopped) => true,
            Some(End::Failed(error)) => {
                let undecoded = rest + bytes.len() - *at;
                tail.consume(consumed);
                return Front::Halted(Delivery::failed(error, undecoded));
            }
        };
        if rest > *at || *at == bytes.len() {
            // The frame ended before the bytes that just came, or all of them are in the tail
            // already: go on there.
            tail.consume(consumed);
            tail.since = sink.now();
            note_need(tail, 0);
            append(tail, &bytes[*at..], true, sink.pool());
            if tail.is_empty() {
                self.put_tail(sink.pool());
            }
            return Front::Halted(if stopped {
                Delivery::Stopped
            } else {
                self.decode_tail(sink, decode)
            });
        }
        // What is left in the tail is what just came: go on with it in place.
        *at -= rest;
        tail.clear();
        if stopped {
            self.keep(&bytes[*at..], 0, sink);
            return Front::Halted(Delivery::Stopped);
        }
        Front::Finished
    }

    /// Decodes the tail in place, as far as it goes.
    #[inline(never)]
    pub(super) fn decode_tail<S, D>(&mut self, sink: &mut S, decode: &mut D) -> Delivery
    where
        S: Sink,
        D: Decoder,
    {
        let Some(tail) = &mut self.tail else {
            return Delivery::NeedMore;
        };
        let is_unseen = tail.need == 0;
        sink.pool().settle(tail);
        let mut rest = tail.bytes();
        let end = run(&mut rest, sink, decode);
        let consumed = tail.len() - rest.len();
        tail.consume(consumed);
        if consumed > 0 {
            tail.since = sink.now();
        }
        note_need(tail, 0);
        let outcome = match end {
            None => Delivery::NeedMore,
            Some(End::Need(need)) => {
                note_need(tail, need);
                if is_unseen || consumed > 0 {
                    sink.split(tail.bytes());
                }
                Delivery::NeedMore
            }
            Some(End::Skip { beyond, flow }) => {
                self.put_tail(sink.pool());
                self.keep_skip(beyond, sink);
                return flow.into();
            }
            Some(End::Stopped) => Delivery::Stopped,
            Some(End::Failed(error)) => Delivery::failed(error, tail.len()),
        };
        if tail.is_empty() {
            self.put_tail(sink.pool());
        } else if is_to_shrink(tail, is_unseen) {
            self.shrink(sink.pool());
        }
        outcome
    }

    /// The head of a frame, in a buffer that held a whole burst: what may wait for long waits in a
    /// buffer of its size.
    #[cold]
    fn shrink(&mut self, pool: &mut Pool) {
        if let Some(tail) = self.tail.take() {
            self.keep_some(tail.bytes(), tail.need, tail.since, pool);
            pool.put(tail);
        }
    }

    /// Gives the buffer back.
    fn put_tail(&mut self, pool: &mut Pool) {
        if let Some(tail) = self.tail.take() {
            pool.put(tail);
        }
    }

    /// Keeps bytes for later; `need` as in [`Assembler::tail`].
    #[inline]
    fn keep<S: Sink>(&mut self, bytes: &[u8], need: usize, sink: &mut S) {
        let now = sink.now();
        if bytes.is_empty() {
            self.put_tail(sink.pool());
        } else {
            self.keep_some(bytes, need, now, sink.pool());
        }
    }

    fn keep_some(&mut self, bytes: &[u8], need: usize, since: Stamp, pool: &mut Pool) {
        let tail = match &mut self.tail {
            Some(empty) if is_fit(empty, bytes.len(), need) => empty,
            tail => {
                tail.take().into_iter().for_each(|empty| pool.put(empty));
                tail.insert(pool.take(first_capacity(bytes.len(), need)))
            }
        };
        keep_in(tail, bytes, need, since, pool);
    }

    /// Remembers that bytes to come are skipped.
    #[cold]
    fn keep_skip<S: Sink>(&mut self, bytes: u64, sink: &mut S) {
        let now = sink.now();
        self.keep_skip_since(bytes, now, sink.pool());
    }

    fn keep_skip_since(&mut self, bytes: u64, since: Stamp, pool: &mut Pool) {
        self.put_tail(pool);
        let mut tail = pool.take(0);
        tail.skip = bytes;
        tail.since = since;
        note_need(&mut tail, 1);
        self.tail = Some(tail);
    }

    pub(super) fn take_custom(&mut self, new: impl FnOnce() -> ErasedState) -> Box<ErasedState> {
        self.custom.take().unwrap_or_else(|| Box::new(new()))
    }

    #[inline]
    pub(super) fn scanned(&self) -> ScanState {
        self.tail
            .as_ref()
            .map_or_else(ScanState::default, |tail| ScanState {
                to: tail.scanned,
                dropped: tail.dropped,
            })
    }

    #[inline]
    pub(super) fn keep_scanned(&mut self, state: ScanState) {
        if let Some(tail) = &mut self.tail {
            tail.scanned = state.to;
            tail.dropped = state.dropped;
        }
    }
}

/// What became of that which an earlier read left unfinished.
enum Front {
    /// It needs more of the bytes, and there are some.
    Unfinished,
    /// The bytes behind it are to be decoded in place. The tail may be empty: a buffer for the next
    /// frame that is cut.
    Finished,
    Halted(Delivery),
}
