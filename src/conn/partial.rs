//! The bytes of a connection that are read and not delivered, and the sizing rules of their buffer.
//!
//! The buffer grows with the bytes received, never by a length that a header claims:
//!
//! | bytes held | capacity at most |
//! |---|---|
//! | up to 256 KiB | 8 times the bytes |
//! | more, if the length of the frame is unknown | 4 times the bytes |
//! | an empty buffer between two frames | 64 KiB |

use std::fmt;

use super::Pool;
use crate::codec::{CheckedStep, ScanState};
use crate::memory::{Buf, GrowBuf};
use crate::timer::Stamp;

/// Minimum and maximum number of new bytes per decode step while the length of a frame is unknown.
/// Between them it is a quarter of the bytes held. So few bytes after the end of the frame are
/// copied.
const STEP_MIN: usize = 128;
const STEP_MAX: usize = 1024;
/// Maximum length of a length field of variable width: the 20 digits and the colon of a netstring.
/// A varint has up to 10 bytes.
const LENGTH_LEN_MAX: usize = 21;
/// Minimum number of missing bytes for a direct read into the buffer of the frame. This many bytes
/// must also have arrived, or the missing bytes must fit. With fewer missing bytes a shared read is
/// cheaper: it costs one more copy, but also returns the next frames.
const DIRECT_LEN_MIN: usize = 16 * 1024;
/// Maximum capacity of all buffers of a partial frame, as a multiple of its bytes.
const GROWTH: usize = 8;
/// Number of bytes from which a buffer grows by [`GROWTH_OF_LONG`]. A frame of unknown length that
/// is this long ends soon, or its sender tries to use up memory.
const LONG_LEN: usize = 256 * 1024;
const GROWTH_OF_LONG: usize = 4;
/// Minimum number of bytes held for a direct read of a frame of unknown length. Such a read may
/// also return the next frames.
const OPEN_ENDED_LEN_MIN: usize = 4 * 1024;
/// Maximum capacity of a buffer that is kept for the next partial frame, even if few bytes of it
/// have arrived. An earlier frame needed the buffer, and most frames of a stream have a similar
/// length.
const KEPT_LEN: usize = 64 * 1024;
/// Minimum length in bytes for the check for an oversized buffer; a shorter partial frame counts as
/// this long.
const SMALL_LEN: usize = 256;
/// Maximum capacity, as a multiple of the bytes, that a partial frame keeps after other frames.
/// Twice the growth, so that a buffer does not grow and shrink alternately.
const SHRINK: usize = 2 * GROWTH;

/// State of the bytes in a [`Partial`].
#[derive(Debug, Clone, Copy, Default)]
enum Held {
    /// Bytes that the codec has not seen: the delivery was stopped before them.
    #[default]
    Undecoded,
    /// The first bytes of a frame that has at least `need` bytes. `need > len`, except between a
    /// direct read that completes the frame and the decode step that follows it.
    Frame {
        need: usize,
        /// True if the codec asked for exactly one more byte. Usually the length of the frame is
        /// then unknown; otherwise the frame lacks one byte.
        is_open_ended: bool,
    },
    /// No bytes, while the next `left >= 1` bytes of the stream are skipped.
    Skipping { left: u64 },
    /// The bytes of a frame that is skipped to its end by its [former](Former) framing. A decode
    /// step `is_due` if bytes were added that this framing has not seen.
    Former { is_due: bool },
}

/// The decode step of a framing that was replaced while it skipped a frame that is too long. Only
/// that framing finds the end of the frame. The arguments are the bytes, and true if the stream has
/// ended.
///
/// It is a trait object, so that the code that drops a partial frame stays short: a larger one
/// costs 6 instructions per frame.
pub(super) struct Former(pub(super) Box<FormerStep>);

pub(super) type FormerStep = dyn for<'a> FnMut(&'a [u8], bool) -> CheckedStep<'a> + Send + Sync;

/// Bytes that are read and not delivered.
///
/// Invariant between two decode calls: the buffer is empty if and only if bytes are skipped. During
/// a decode call it may also be empty, while it is kept for the next partial frame.
#[derive(Debug, Default)]
pub(crate) struct Partial {
    pub(super) buf: GrowBuf,
    held: Held,
    /// Time at which the first byte arrived.
    pub(super) since: Stamp,
    /// State of a built-in codec for the first frame.
    pub(super) scan: ScanState,
    /// `Some` if and only if `held` is [`Held::Former`].
    former: Option<Former>,
}

impl fmt::Debug for Former {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Former(..)")
    }
}

impl Partial {
    /// Takes an empty buffer that holds `len` bytes from the pool.
    fn take(len: usize, pool: &mut Pool) -> Box<Self> {
        let mut partial = pool.take_box();
        partial.buf.set_buf(pool.take(len));
        partial
    }

    /// Takes a buffer for the first bytes of a frame that needs `need` bytes, or for undecoded
    /// bytes if `need` is zero.
    pub(super) fn with_bytes(
        bytes: &[u8],
        need: usize,
        since: Stamp,
        pool: &mut Pool,
    ) -> Box<Self> {
        let mut partial = Self::take(first_capacity(bytes.len(), need), pool);
        partial.put_first(bytes, need, since, pool);
        partial
    }

    /// Skips the next `left` bytes of the stream.
    pub(super) fn skipping(left: u64, since: Stamp, pool: &mut Pool) -> Box<Self> {
        let mut partial = Self::take(0, pool);
        partial.held = Held::Skipping { left };
        partial.since = since;
        partial
    }

    /// Returns the buffer and the box to the pool.
    pub(super) fn put_back(mut self: Box<Self>, pool: &mut Pool) {
        self.buf.put_back(pool);
        (self.held, self.scan) = (Held::Undecoded, ScanState::default());
        self.former = None;
        pool.put_box(self);
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.buf.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// True if a decode step is due: the codec has not seen the bytes, or all bytes that it needs
    /// have arrived.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        match self.held {
            Held::Undecoded => true,
            Held::Frame { need, .. } => need <= self.len(),
            Held::Skipping { .. } => false,
            Held::Former { is_due } => is_due,
        }
    }

    #[inline]
    pub(super) fn is_undecoded(&self) -> bool {
        matches!(self.held, Held::Undecoded)
    }

    #[inline]
    pub(super) fn is_open_ended(&self) -> bool {
        match self.held {
            Held::Frame { is_open_ended, .. } => is_open_ended,
            Held::Undecoded | Held::Skipping { .. } | Held::Former { .. } => false,
        }
    }

    /// Number of bytes to skip that have not arrived.
    #[inline]
    pub(super) fn left_to_skip(&self) -> u64 {
        match self.held {
            Held::Skipping { left } => left,
            Held::Undecoded | Held::Frame { .. } | Held::Former { .. } => 0,
        }
    }

    /// Continues a skip; `left` is at least 1.
    pub(super) fn set_left_to_skip(&mut self, left: u64) {
        self.held = Held::Skipping { left };
    }

    /// True if the next bytes are skipped: by their number, or up to the end of a frame.
    #[inline]
    pub(super) fn is_skipping(&self) -> bool {
        matches!(self.held, Held::Skipping { .. } | Held::Former { .. })
    }

    /// True if a [former](Former) framing skips a frame.
    pub(super) fn has_former(&self) -> bool {
        self.former.is_some()
    }

    /// Marks bytes that were added as not seen by the former framing, if there is one.
    pub(super) fn set_former_due(&mut self) {
        if let Held::Former { is_due } = &mut self.held {
            *is_due = true;
        }
    }

    /// Takes the former framing for a decode call. The bytes then count as undecoded.
    pub(super) fn take_former(&mut self) -> Option<Former> {
        let former = self.former.take()?;
        self.held = Held::Undecoded;
        Some(former)
    }

    /// Lets a former framing skip the frame to its end.
    pub(super) fn set_former(&mut self, former: Former) {
        self.held = Held::Former { is_due: false };
        self.former = Some(former);
    }

    /// Marks the bytes as not seen by the codec, unless bytes are skipped.
    #[inline]
    pub(super) fn set_undecoded(&mut self) {
        if !self.is_skipping() {
            self.held = Held::Undecoded;
        }
    }

    /// Stores the need that the codec reported for the bytes held.
    #[inline]
    pub(super) fn set_need(&mut self, need: usize) {
        let is_open_ended = need == self.len() + 1;
        self.held = Held::Frame {
            need,
            is_open_ended,
        };
    }

    /// Updates the need after bytes were appended that do not contain the end of the frame.
    #[inline]
    pub(super) fn need_more(&mut self) {
        if self.is_open_ended() {
            self.set_need(self.len() + 1);
        }
    }

    #[inline]
    fn need(&self) -> usize {
        match self.held {
            Held::Frame { need, .. } => need,
            Held::Undecoded | Held::Skipping { .. } | Held::Former { .. } => 0,
        }
    }

    #[inline]
    fn missing(&self) -> usize {
        self.need().saturating_sub(self.len())
    }

    /// True if the next bytes are to be read into the shared read buffer.
    #[inline]
    pub(super) fn is_to_ingest(&self) -> bool {
        match self.held {
            Held::Undecoded => false,
            Held::Frame { need, .. } => need > self.len() && !self.is_direct(),
            Held::Skipping { .. } => true,
            Held::Former { is_due } => !is_due,
        }
    }

    /// True if the frame is read directly into its buffer: it is long, or its buffer holds all of
    /// it already.
    #[inline]
    fn is_direct(&self) -> bool {
        if self.is_open_ended() {
            return self.len() >= OPEN_ENDED_LEN_MIN && self.buf.spare_len() >= DIRECT_LEN_MIN;
        }
        let missing = self.missing();
        let fits = self.len() >= DIRECT_LEN_MIN || self.buf.spare_len() >= missing;
        missing >= DIRECT_LEN_MIN && fits
    }

    /// Spare capacity for a direct read: see [`Assembler::direct`](super::Assembler::direct).
    pub(super) fn direct(&mut self, len_max: usize, pool: &mut Pool) -> Option<&mut [u8]> {
        if !self.is_direct() {
            return None;
        }
        let missing = self.missing();
        if self.buf.spare_len() < DIRECT_LEN_MIN {
            let most = capacity_max(self.len(), self.buf.total_capacity());
            self.grow(missing.min(self.len()), most, pool);
        }
        let len = self.buf.spare_len().min(len_max);
        let len = match self.is_open_ended() {
            true => len,
            false => len.min(missing),
        };
        Some(&mut self.buf.spare_mut()[..len])
    }

    /// Returns the number of bytes to append, of the next `left_len` ones, and true if a decode
    /// step is due after them. `step_after` is the number of bytes after which a step is due, if it
    /// is known.
    #[inline]
    pub(super) fn next_append(&self, left_len: usize, step_after: Option<usize>) -> (usize, bool) {
        if let Some(len) = step_after {
            return (len, true);
        }
        let missing = self.missing();
        let wanted = match self.is_open_ended() {
            true => self.open_ended_step(),
            false => missing,
        };
        let len = left_len.min(wanted);
        (len, len >= missing)
    }

    /// Number of new bytes for the next decode step if the length of the frame is unknown. It is
    /// limited to the spare capacity, if there is any, so that the buffer does not grow.
    fn open_ended_step(&self) -> usize {
        let step = (self.len() / 4).clamp(STEP_MIN, STEP_MAX);
        match self.buf.spare_len() {
            0 => step,
            spare_len => step.min(spare_len),
        }
    }

    /// Appends bytes. If the buffer is too small, a larger one is added, and
    /// [`settle`](GrowBuf::settle) moves all bytes there. `is_settled_next` is true if the caller
    /// settles next; the smaller buffers then do not count.
    #[inline(always)]
    pub(super) fn append(&mut self, bytes: &[u8], is_settled_next: bool, pool: &mut Pool) {
        if !self.buf.try_put(bytes) {
            self.append_grown(bytes, is_settled_next, pool);
        }
        pool.moved_bytes += bytes.len() as u64;
    }

    #[inline(never)]
    fn append_grown(&mut self, bytes: &[u8], is_settled_next: bool, pool: &mut Pool) {
        let beside = match is_settled_next {
            true => 0,
            false => self.buf.total_capacity(),
        };
        let most = capacity_max(self.len() + bytes.len(), beside);
        self.grow(bytes.len(), most, pool);
        self.buf.put(bytes);
    }

    #[inline(never)]
    fn grow(&mut self, additional: usize, most: usize, pool: &mut Pool) {
        let capacity = match self.is_open_ended() {
            true => open_ended_capacity(self.len() + additional, most),
            false => capacity_for(self.need(), most),
        };
        self.buf.reserve(additional, capacity, pool);
    }

    /// Puts bytes into the empty buffer: the first bytes of a frame that needs `need` bytes, or
    /// undecoded bytes if `need` is zero.
    #[inline]
    pub(super) fn put_first(&mut self, bytes: &[u8], need: usize, since: Stamp, pool: &mut Pool) {
        self.buf.put(bytes);
        self.since = since;
        match need {
            0 => self.held = Held::Undecoded,
            need => self.set_need(need),
        }
        pool.moved_bytes += bytes.len() as u64;
    }

    /// Returns a copy of the bytes, the number of bytes to skip, and the number of bytes that were
    /// skipped of the frame in the bytes.
    pub(super) fn content(&mut self, pool: &mut Pool) -> (Vec<u8>, u64, u64) {
        self.buf.settle(pool);
        let bytes = self.buf.bytes().to_vec();
        (bytes, self.left_to_skip(), self.scan.dropped)
    }

    /// True if the buffer is far larger than its bytes need.
    #[inline]
    pub(super) fn is_oversized(&self) -> bool {
        self.buf.is_larger_than(GROWTH * self.len().max(SMALL_LEN))
    }

    /// True if a decode call has left a partial frame in a buffer that is too large for it. A
    /// buffer of up to [`KEPT_LEN`] may stay, unless it held a burst of frames (`was_undecoded`).
    pub(super) fn is_to_shrink(&self, was_undecoded: bool) -> bool {
        self.need() > self.len()
            && self.buf.is_larger_than(SHRINK * self.len().max(STEP_MAX))
            && (was_undecoded || self.buf.is_larger_than(KEPT_LEN))
    }

    /// Moves the bytes into a buffer of their size. Nothing else changes.
    pub(super) fn shrink(&mut self, pool: &mut Pool) {
        self.buf.settle(pool);
        let mut smaller = pool.take(first_capacity(self.len(), self.need()));
        smaller.put(self.buf.bytes());
        pool.moved_bytes += self.len() as u64;
        self.buf.put_back(pool);
        self.buf.set_buf(smaller);
    }

    /// True if the empty buffer is suitable for the first `len` bytes of a frame that needs `need`
    /// bytes. For undecoded bytes `need` is zero.
    #[inline]
    pub(super) fn is_suitable(&self, len: usize, need: usize) -> bool {
        let least = match is_long_open_ended(len, need) {
            true => 2 * len,
            false => need.max(len),
        };
        let fits = self.buf.spare_len() >= least && !self.buf.is_larger_than(KEPT_LEN);
        fits || self.is_suitable_slow(len, need)
    }

    /// Slow path of [`is_suitable`](Partial::is_suitable): the buffer is large, or smaller than the
    /// frame.
    #[inline(never)]
    fn is_suitable_slow(&self, len: usize, need: usize) -> bool {
        let least = match is_long_open_ended(len, need) {
            true => 2 * len,
            false => first_capacity(len, need),
        };
        let most = capacity_max(len, 0).max(KEPT_LEN);
        self.buf.spare_len() >= least && self.buf.capacity() <= most
    }

    /// Checks the invariants that hold between two decode calls.
    pub(super) fn check(&self) {
        let is_sound = match self.held {
            Held::Undecoded => !self.is_empty(),
            Held::Frame { need, .. } => need >= 1 && !self.is_empty(),
            Held::Skipping { left } => left >= 1 && self.is_empty(),
            Held::Former { .. } => self.former.is_some() && !self.is_empty(),
        };
        let (held, len) = (self.held, self.len());
        debug_assert!(
            is_sound,
            "partial frame in state {held:?} holds {len} bytes"
        );
    }
}

/// Capacity of the buffer for the first `len` bytes of a frame that needs `need` bytes.
fn first_capacity(len: usize, need: usize) -> usize {
    let most = capacity_max(len, 0);
    if is_long_open_ended(len, need) {
        open_ended_capacity(2 * len, most)
    } else {
        capacity_for(need, most).max(len)
    }
}

/// True if the length of the frame is unknown, and more bytes have arrived than a length field has.
fn is_long_open_ended(len: usize, need: usize) -> bool {
    need == len + 1 && len > LENGTH_LEN_MAX
}

/// Capacity for a frame that needs `need` bytes; at most `most`. It is `need` if that fits into
/// `most`. Otherwise it is half of `most`, so that growing copies at most half of the frame.
fn capacity_for(need: usize, most: usize) -> usize {
    if need <= Buf::len_max_of(most) {
        need
    } else {
        most / 2
    }
}

/// Capacity for at least `least` bytes of a frame of unknown length; at most `most`.
fn open_ended_capacity(least: usize, most: usize) -> usize {
    most.min(KEPT_LEN.max(least.next_power_of_two()))
}

/// Largest capacity, a power of two, of a buffer for `len` bytes, with `beside` bytes of capacity
/// in the buffers before it.
fn capacity_max(len: usize, beside: usize) -> usize {
    let growth = match len < LONG_LEN {
        true => GROWTH,
        false => GROWTH_OF_LONG,
    };
    let most = len.saturating_mul(growth).saturating_sub(beside);
    1 << most.max(1).ilog2()
}
