//! The buffer of an unfinished frame, the tail of a connection's input: how large it is taken, how
//! it grows, and what is noted with it.

use crate::memory::{Buf, Pool};
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

/// Whether a tail is the head of a frame that is not long, or of none.
#[inline]
pub(super) fn is_short_head(tail: &Buf) -> bool {
    tail.need > tail.len() && !is_long_head(tail)
}

/// Whether a tail is the head of a frame that is read straight into it: that is long, or has a
/// buffer for all of it already.
#[inline]
fn is_long_head(tail: &Buf) -> bool {
    if tail.is_open_ended {
        return tail.len() >= OPEN_ENDED_LEN_MIN && tail.spare_len() >= DIRECT_LEN_MIN;
    }
    let missing = tail.need.saturating_sub(tail.len());
    missing >= DIRECT_LEN_MIN && (tail.len() >= DIRECT_LEN_MIN || tail.spare_len() >= missing)
}

/// Where a long head is to be read on: see [`Assembler::direct`](super::Assembler::direct).
#[inline]
pub(super) fn direct_room<'a>(
    tail: &'a mut Box<Buf>,
    len_max: usize,
    pool: &mut Pool,
) -> Option<&'a mut [u8]> {
    if !is_long_head(tail) {
        return None;
    }
    let missing = tail.need.saturating_sub(tail.len());
    if tail.spare_len() < DIRECT_LEN_MIN {
        let most = most_for(tail.len(), tail.total_capacity());
        grow(tail, missing.min(tail.len()), most, pool);
    }
    let len = tail.spare_len().min(len_max);
    let len = match tail.is_open_ended {
        true => len,
        false => len.min(missing),
    };
    Some(&mut tail.spare_mut()[..len])
}

/// Whether its bytes would be given a smaller buffer.
#[inline]
pub(super) fn is_oversized(tail: &Buf) -> bool {
    tail.is_larger_than(GROWTH * tail.len().max(SMALL_LEN))
}

/// Whether what a round of decoding has left is the head of a frame in a buffer far larger than it.
/// One that was for a frame, and not for a burst that nobody had looked at, may be kept.
#[inline]
pub(super) fn is_to_shrink(tail: &Buf, was_unseen: bool) -> bool {
    tail.need > tail.len()
        && tail.is_larger_than(SHRINK * tail.len().max(STEP_MAX))
        && (was_unseen || tail.is_larger_than(KEPT_LEN))
}

/// Whether an empty buffer, in which a frame was, is used again for the first `len` bytes of one
/// that needs so many; of bytes that nobody has looked at, `need` is zero.
#[inline]
pub(super) fn is_fit(empty: &Buf, len: usize, need: usize) -> bool {
    let least = match is_long_open_ended(len, need) {
        true => 2 * len,
        false => need.max(len),
    };
    empty.spare_len() >= least && !empty.is_larger_than(KEPT_LEN)
        || is_fit_by_growth(empty, len, need)
}

/// The same where it is large, or smaller than the frame.
#[inline(never)]
fn is_fit_by_growth(empty: &Buf, len: usize, need: usize) -> bool {
    let least = match is_long_open_ended(len, need) {
        true => 2 * len,
        false => first_capacity(len, need),
    };
    let most = most_for(len, 0).max(KEPT_LEN);
    empty.spare_len() >= least && empty.capacity() <= most
}

/// How large a buffer is taken for the first `len` bytes of a frame that needs so many.
pub(super) fn first_capacity(len: usize, need: usize) -> usize {
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

/// Puts bytes into an empty tail, of a frame that needs so many.
#[inline]
pub(super) fn keep_in(tail: &mut Buf, bytes: &[u8], need: usize, since: Stamp, pool: &mut Pool) {
    tail.put(bytes);
    tail.since = since;
    tail.need = need;
    tail.is_open_ended = need == bytes.len() + 1;
    pool.moved_bytes += bytes.len() as u64;
}

/// Keeps in mind what the codec needs, as it was told of the bytes in `tail`.
pub(super) fn note_need(tail: &mut Buf, need: usize) {
    tail.need = need;
    tail.is_open_ended = need == tail.len() + 1;
}

/// More of the frame has come, and not what it needs.
#[inline]
pub(super) fn note_more(tail: &mut Buf) {
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
pub(super) fn open_ended_step(tail: &Buf) -> usize {
    let step = (tail.len() / 4).clamp(STEP_MIN, STEP_MAX);
    match tail.spare_len() {
        0 => step,
        room => step.min(room),
    }
}

/// Puts bytes behind those in the tail. Where it becomes too small, it `is_settled` in a larger one
/// at once, or when the frame is whole.
#[inline(always)]
pub(super) fn append(tail: &mut Box<Buf>, bytes: &[u8], is_settled: bool, pool: &mut Pool) {
    if !tail.try_put(bytes) {
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
