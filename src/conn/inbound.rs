//! The read side: bytes in, whole frames out.
//!
//! ```text
//!   what a read gave (the reactor's scratch buffer)
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

use super::run::{End, run, run_once, split_skip};
use super::sink::{Flow, Halt, Sink};
use crate::buffer::{Buf, Pool};
use crate::codec::{Ahead, Asked, Builtin, Codec, ErasedState, Kind, Length, LengthU32};
use crate::codec::{Scanned, with_builtin};
use crate::timer::Stamp;

/// Where an unfinished frame says no more than "one byte more", a quarter of what is there is tried
/// at a time, and no less or more than this.
const STEP_MIN: usize = 128;
const STEP_MAX: usize = 1024;
/// Up to so many bytes, an end that nobody knows yet may be that of a length: in digits, or a
/// varint.
const LENGTH_LEN_MAX: usize = 21;
/// Where this many bytes are missing, a frame is read straight into its tail, if as many have come
/// or there is room for them: below it, one read that also brings the frames behind it is cheaper
/// than one copy less.
const DIRECT_LEN_MIN: usize = 16 * 1024;
/// How many times larger than the bytes that came the buffers of a tail are at the most.
const GROWTH: usize = 8;
/// From this many bytes on a tail grows by less where nobody knows how long the frame will be: it
/// will end soon, or is meant to hold memory.
const LONG_LEN: usize = 256 * 1024;
const GROWTH_OF_LONG: usize = 4;
/// A frame whose length nobody knows yet is read straight into its tail from so many bytes on,
/// where there is room: such a read brings the frames behind it, too.
const OPEN_ENDED_LEN_MIN: usize = 4 * 1024;
/// A buffer of up to so many bytes is used again for the next frame that is cut, however few its
/// bytes are: it was paid for by the frame before, and most frames of a stream are of one length.
const KEPT_LEN: usize = 64 * 1024;
/// A head of up to so many bytes may as well lie in a buffer for the head of so many.
const SMALL_LEN: usize = 256;
/// How many times larger than its bytes a tail may stay when a round of decoding leaves the head of
/// a frame in it. Twice what growing makes of it, so that no tail grows and shrinks in turns.
const SHRINK: usize = 2 * GROWTH;

/// The read side of one connection. Idle, it owns nothing.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// Undecoded bytes. `need > len()`: the head of an unfinished frame. Otherwise bytes that
    /// nobody has looked at yet, as the delivery was stopped before them. Empty only while bytes to
    /// come are skipped. It stays here while its frames are delivered, so that a sink that panics
    /// costs no buffer.
    tail: Option<Box<Buf>>,
    /// The state of a user's codec, once it has looked at a byte. Two boxes, as one pointer is
    /// what every connection pays for it.
    custom: Option<Box<ErasedState>>,
}

impl Inbound {
    /// Decodes `bytes`, which follow what was given before. To be called only while
    /// [`has_undelivered`](Inbound::has_undelivered) is false.
    #[inline]
    pub(crate) fn ingest<S: Sink>(&mut self, bytes: &[u8], sink: &mut S) -> Halt {
        debug_assert!(
            !self.has_undelivered(),
            "bytes are delivered in their order"
        );
        // One frame and no more is what one at a time comes to.
        if self.tail.is_none()
            && let Some(payload) = Length::only_u32(bytes)
            && payload.len() < sink.u32_len_end()
        {
            return match sink.frame(payload) {
                Flow::Continue => Halt::Drained,
                Flow::Stop => Halt::Stopped,
            };
        }
        self.ingest_any(bytes, sink)
    }

    /// [`ingest`](Inbound::ingest) where there is more to it.
    fn ingest_any<S: Sink>(&mut self, bytes: &[u8], sink: &mut S) -> Halt {
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
            let halt = self.feed_other(bytes, sink, decode);
            self.custom = Some(state);
            halt
        })
    }

    /// Not inlined: each framing has a loop of its own, and none pays for the others' registers.
    #[inline(never)]
    fn feed_builtin<S, C>(&mut self, bytes: &[u8], sink: &mut S, codec: &C) -> Halt
    where
        S: Sink,
        C: Builtin,
    {
        let mut scanned = self.scanned();
        let halt = self.feed(bytes, sink, codec.asked(&mut scanned));
        self.keep_scanned(scanned);
        self.tell_room(sink);
        halt
    }

    /// The same for a codec whose state is not kept with the bytes.
    #[inline(never)]
    fn feed_other<S: Sink, D: Asked>(&mut self, bytes: &[u8], sink: &mut S, decode: D) -> Halt {
        let halt = self.feed(bytes, sink, decode);
        self.tell_room(sink);
        halt
    }

    /// Decodes what an earlier round left undelivered.
    pub(crate) fn resume<S: Sink>(&mut self, sink: &mut S) -> Halt {
        let mut scanned = self.scanned();
        let halt = with_builtin!(sink.kind(), codec => {
            let codec = codec.to_owned();
            let halt = self.decode_tail(sink, &mut codec.asked(&mut scanned));
            self.keep_scanned(scanned);
            halt
        }, custom => {
            let custom = custom.clone();
            let mut state = self.take_custom(|| custom.new_state());
            let mut decode = |bytes: &[u8]| custom.decode_erased(&mut state, bytes);
            let halt = self.decode_tail(sink, &mut decode);
            self.custom = Some(state);
            halt
        });
        self.tell_room(sink);
        halt
    }

    /// Shows the codec what is left now that the stream has ended.
    pub(crate) fn finish<S: Sink>(&mut self, sink: &mut S) -> Halt {
        let mut scanned = self.scanned();
        let halt = with_builtin!(sink.kind(), codec => {
            let codec = codec.to_owned();
            let halt = self.decode_tail(sink, &mut |rest: &[u8]| codec.finish(&mut scanned, rest));
            self.keep_scanned(scanned);
            halt
        }, custom => {
            let custom = custom.clone();
            let mut state = self.take_custom(|| custom.new_state());
            let mut decode = |rest: &[u8]| custom.finish_erased(&mut state, rest);
            let halt = self.decode_tail(sink, &mut decode);
            self.custom = Some(state);
            halt
        });
        self.tell_room(sink);
        halt
    }

    /// Forgets what the former framing remembered; the bytes stay. A frame that it skips by count
    /// is skipped to its end.
    pub(crate) fn reframe(&mut self) {
        self.custom = None;
        self.keep_scanned(Scanned::default());
        if let Some(tail) = &mut self.tail
            && tail.skip == 0
        {
            note_need(tail, 0);
        }
    }

    /// Whether the next bytes are to be [ingested](Inbound::ingest): nothing is undelivered, and no
    /// long frame is to be read on [directly](Inbound::direct).
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
        let tail = self.tail.as_mut()?;
        if !is_long_head(tail) {
            return None;
        }
        let missing = tail.need.saturating_sub(tail.len());
        if tail.room() < DIRECT_LEN_MIN {
            let most = most_for(tail.len(), tail.total_capacity());
            grow(tail, missing.min(tail.len()), most, pool);
        }
        let len = tail.room().min(len_max);
        let len = match tail.is_open_ended {
            true => len,
            false => len.min(missing),
        };
        Some(&mut tail.room_mut()[..len])
    }

    /// Tells that [`direct`](Inbound::direct) was filled with `len` bytes.
    pub(crate) fn direct_filled(&mut self, len: usize) {
        self.tail
            .as_mut()
            .expect("a tail was read into")
            .filled(len);
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
    /// time after a sink was told that it [keeps room](Sink::keeps_room): a stream that goes on
    /// grows it again, and one that does not would hold it for nothing.
    pub(crate) fn trim(&mut self, pool: &mut Pool) {
        if self.tail.as_deref().is_some_and(is_roomy) {
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
    pub(super) fn tell_room<S: Sink>(&self, sink: &mut S) {
        if let Some(tail) = &self.tail
            && is_roomy(tail)
        {
            sink.keeps_room();
        }
    }

    /// Decodes bytes that follow those in the tail: the rest of its frame, which is delivered there,
    /// then the frames behind it, in place.
    #[inline(always)]
    pub(super) fn feed<S, D>(&mut self, bytes: &[u8], sink: &mut S, mut decode: D) -> Halt
    where
        S: Sink,
        D: Asked,
    {
        let mut at = 0;
        while let Some(tail) = &mut self.tail {
            let left = &bytes[at..];
            let ahead = match tail.skip {
                0 => decode.ahead(tail, left),
                _ => Ahead::Unknown,
            };
            let look = match ahead {
                Ahead::Ends { len, payload_len } => {
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
                Ahead::Inside => {
                    append(tail, left, false, sink.pool());
                    note_more(tail);
                    return Halt::Drained;
                }
                Ahead::Look(len) => Some(len),
                Ahead::Unknown => None,
            };
            match self.finish_front(bytes, &mut at, look, sink, &mut decode) {
                Front::Unfinished => {}
                Front::Finished => break,
                Front::Halted(halt) => return halt,
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
                return Halt::Drained;
            }
            return self.keep_rest(rest, end, sink);
        }
        if self.tail.is_some() {
            self.put_tail(sink.pool());
        }
        Halt::Drained
    }

    /// Keeps what a run has left.
    #[inline(never)]
    fn keep_rest<S: Sink>(&mut self, rest: &[u8], end: End, sink: &mut S) -> Halt {
        match end {
            End::Need(need) => {
                sink.split(rest);
                self.keep(rest, need, sink);
            }
            End::Skip { beyond, .. } => self.keep_skip(beyond, sink),
            End::Stopped => {
                self.keep(rest, 0, sink);
                return Halt::Stopped;
            }
            End::Failed(error) => {
                self.put_tail(sink.pool());
                return Halt::failed(error, rest.len());
            }
        }
        Halt::Drained
    }

    /// Goes on with what an earlier read left unfinished, bytes to skip or the frame in the tail, by
    /// those of `bytes` from `at` on. The codec is asked when it has what it needs, or `look` bytes
    /// more.
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
        D: Asked,
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
                return Front::Halted(Halt::Drained);
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
            note_more(tail);
            return Front::Halted(Halt::Drained);
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
                    false => Front::Halted(Halt::Drained),
                };
            }
            Some(End::Skip { beyond, flow }) => {
                let (here, beyond) = split_skip(beyond, bytes.len() - *at);
                *at += here;
                if beyond > 0 {
                    let since = tail.since;
                    self.put_tail(sink.pool());
                    self.keep_skip_since(beyond, since, sink.pool());
                    return Front::Halted(match flow {
                        Flow::Continue => Halt::Drained,
                        Flow::Stop => Halt::Stopped,
                    });
                }
                flow == Flow::Stop
            }
            Some(End::Stopped) => true,
            Some(End::Failed(error)) => {
                let undecoded = rest + bytes.len() - *at;
                tail.consume(consumed);
                return Front::Halted(Halt::failed(error, undecoded));
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
                Halt::Stopped
            } else {
                self.decode_tail(sink, decode)
            });
        }
        // What is left in the tail is what just came: go on with it in place.
        *at -= rest;
        tail.clear();
        if stopped {
            self.keep(&bytes[*at..], 0, sink);
            return Front::Halted(Halt::Stopped);
        }
        Front::Finished
    }

    /// Decodes the tail in place, as far as it goes.
    #[inline(never)]
    pub(super) fn decode_tail<S, D>(&mut self, sink: &mut S, decode: &mut D) -> Halt
    where
        S: Sink,
        D: Asked,
    {
        let Some(tail) = &mut self.tail else {
            return Halt::Drained;
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
        let halt = match end {
            None => Halt::Drained,
            Some(End::Need(need)) => {
                note_need(tail, need);
                if is_unseen || consumed > 0 {
                    sink.split(tail.bytes());
                }
                Halt::Drained
            }
            Some(End::Skip { beyond, .. }) => {
                self.put_tail(sink.pool());
                self.keep_skip(beyond, sink);
                return Halt::Drained;
            }
            Some(End::Stopped) => Halt::Stopped,
            Some(End::Failed(error)) => Halt::failed(error, tail.len()),
        };
        if tail.is_empty() {
            self.put_tail(sink.pool());
        } else if tail.need > tail.len() && tail.capacity() > SHRINK * tail.len().max(STEP_MAX) {
            // Where it was for one frame, and not for a burst, it may be kept.
            if is_unseen || tail.capacity() > KEPT_LEN {
                self.shrink(sink.pool());
            }
        }
        halt
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

    /// Keeps bytes for later; `need` as in [`Inbound::tail`].
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
    pub(super) fn scanned(&self) -> Scanned {
        self.tail
            .as_ref()
            .map_or_else(Scanned::default, |tail| Scanned {
                to: tail.scanned,
                dropped: tail.dropped,
            })
    }

    #[inline]
    pub(super) fn keep_scanned(&mut self, state: Scanned) {
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
    Halted(Halt),
}

/// Whether a tail is the head of a frame that is not long, or of none.
#[inline]
fn is_short_head(tail: &Buf) -> bool {
    tail.need > tail.len() && !is_long_head(tail)
}

/// Whether a tail is the head of a frame that is read straight into it: that is long, or has a
/// buffer for all of it already.
#[inline]
fn is_long_head(tail: &Buf) -> bool {
    if tail.is_open_ended {
        return tail.len() >= OPEN_ENDED_LEN_MIN && tail.room() >= DIRECT_LEN_MIN;
    }
    let missing = tail.need.saturating_sub(tail.len());
    missing >= DIRECT_LEN_MIN && (tail.len() >= DIRECT_LEN_MIN || tail.room() >= missing)
}

/// Whether its bytes would be given a smaller buffer.
#[inline]
fn is_roomy(tail: &Buf) -> bool {
    tail.is_larger_than(GROWTH * tail.len().max(SMALL_LEN))
}

/// Whether an empty buffer, in which a frame was, is used again for the first `len` bytes of one
/// that needs so many; of bytes that nobody has looked at, `need` is zero.
#[inline]
fn is_fit(empty: &Buf, len: usize, need: usize) -> bool {
    let least = match is_long_open_ended(len, need) {
        true => 2 * len,
        false => need.max(len),
    };
    empty.room() >= least && !empty.is_larger_than(KEPT_LEN) || is_fit_by_growth(empty, len, need)
}

/// The same where it is large, or smaller than the frame.
#[inline(never)]
fn is_fit_by_growth(empty: &Buf, len: usize, need: usize) -> bool {
    let least = match is_long_open_ended(len, need) {
        true => 2 * len,
        false => first_capacity(len, need),
    };
    let most = most_for(len, 0).max(KEPT_LEN);
    empty.room() >= least && empty.capacity() <= most
}

/// How large a buffer is taken for the first `len` bytes of a frame that needs so many.
fn first_capacity(len: usize, need: usize) -> usize {
    let most = most_for(len, 0);
    if is_long_open_ended(len, need) {
        most_open_ended(2 * len, most)
    } else {
        capacity_for(need, most).max(len)
    }
}

/// Whether nobody knows how long the frame will be, and there is more of it than of any length.
#[inline]
fn is_long_open_ended(len: usize, need: usize) -> bool {
    need == len + 1 && len > LENGTH_LEN_MAX
}

/// Puts bytes into an empty tail; `need` as in [`Inbound::tail`].
#[inline]
fn keep_in(tail: &mut Buf, bytes: &[u8], need: usize, since: Stamp, pool: &mut Pool) {
    tail.put(bytes);
    tail.since = since;
    tail.need = need;
    tail.is_open_ended = need == bytes.len() + 1;
    pool.moved_bytes += bytes.len() as u64;
}

/// Keeps in mind what the codec needs, as it was told of the bytes in `tail`.
fn note_need(tail: &mut Buf, need: usize) {
    tail.need = need;
    tail.is_open_ended = need == tail.len() + 1;
}

/// More of the frame has come, and not what it needs.
#[inline]
fn note_more(tail: &mut Buf) {
    if tail.is_open_ended {
        tail.need = tail.len() + 1;
    }
}

/// The capacity of a tail for a frame of `need` bytes, where it may have `most`. A frame of up to
/// that gets all it needs; for a longer one half as much is made ready, so that what is copied by
/// growing is no more than half the frame.
fn capacity_for(need: usize, most: usize) -> usize {
    if need <= Buf::len_max_of(most) {
        need
    } else {
        most / 2
    }
}

/// The largest buffer, a power of two, for a tail that holds `len` bytes, with as much beside it as
/// it is `held` in already.
fn most_for(len: usize, held: usize) -> usize {
    let growth = if len < LONG_LEN {
        GROWTH
    } else {
        GROWTH_OF_LONG
    };
    let most = len.saturating_mul(growth).saturating_sub(held);
    1 << most.max(1).ilog2()
}

/// The same where nobody knows how long the frame will be, and `least` bytes are to fit: what may
/// be kept, if that does for it.
fn most_open_ended(least: usize, most: usize) -> usize {
    most.min(KEPT_LEN.max(least.next_power_of_two()))
}

/// How many bytes are tried at a time where nobody knows how many the frame lacks: what is copied
/// in vain is no more than a part of the frame, and nothing is made to grow for it.
fn open_ended_step(tail: &Buf) -> usize {
    let step = (tail.len() / 4).clamp(STEP_MIN, STEP_MAX);
    match tail.room() {
        0 => step,
        room => step.min(room),
    }
}

/// Puts bytes behind those in the tail. Where it becomes too small, it `is_settled` in a larger one
/// at once, or when the frame is whole.
#[inline(always)]
fn append(tail: &mut Box<Buf>, bytes: &[u8], is_settled: bool, pool: &mut Pool) {
    if !tail.has_put(bytes) {
        append_grown(tail, bytes, is_settled, pool);
    }
    pool.moved_bytes += bytes.len() as u64;
}

#[cold]
#[inline(never)]
fn append_grown(tail: &mut Box<Buf>, bytes: &[u8], is_settled: bool, pool: &mut Pool) {
    let held = if is_settled { 0 } else { tail.total_capacity() };
    let most = most_for(tail.len() + bytes.len(), held);
    grow(tail, bytes.len(), most, pool);
    tail.put(bytes);
}

#[cold]
#[inline(never)]
fn grow(tail: &mut Box<Buf>, additional: usize, most: usize, pool: &mut Pool) {
    let capacity = if tail.is_open_ended {
        most_open_ended(tail.len() + additional, most)
    } else {
        capacity_for(tail.need, most)
    };
    pool.reserve(tail, additional, capacity);
}
