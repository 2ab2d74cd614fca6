//! The bytes of a connection that are read but not delivered, and the sizing rules of their buffer.
//!
//! The buffer grows with the bytes received, never by a length that a header claims:
//!
//! | bytes held | capacity at most |
//! |---|---|
//! | up to 8 | 64 bytes, the smallest buffer |
//! | up to 256 KiB, or any number of bytes of a frame whose length is known | 8 times the bytes |
//! | more than 256 KiB of a frame whose length is unknown | 4 times the bytes |
//! | any number, in a buffer that is kept from the previous frame | 64 KiB, if that exceeds the other rows |
//!
//! If the delivery stops, the buffer with the undecoded bytes keeps its capacity. A partial frame
//! that remains after the delivery of these bytes may keep a larger capacity: 16 times its bytes,
//! or 16 KiB if that is more. [`Assembler::trim`](super::Assembler::trim) later moves the bytes of
//! a stream that has stopped into a smaller buffer.

use std::fmt;

use super::Pool;
use crate::codec::{CheckedStep, ScanState};
use crate::memory::{Buf, GrowBuf};
use crate::timer::Stamp;

/// Minimum number of new bytes per decode step while the length of a frame is unknown. Each step
/// adds a quarter of the bytes held, within [`STEP_MIN`] and [`STEP_MAX`]. It adds fewer bytes if
/// the read or the spare capacity has fewer. The steps are short, so that few bytes beyond the end
/// of the frame are copied.
const STEP_MIN: usize = 128;
/// Maximum number of new bytes per decode step while the length of a frame is unknown.
const STEP_MAX: usize = 1024;
/// Maximum length of a length field of variable width: the 20 digits and the colon of a netstring.
/// A varint has up to 10 bytes.
const LENGTH_LEN_MAX: usize = 21;
/// Minimum number of missing bytes for a direct read into the buffer of the frame. In addition,
/// either this number of bytes must have arrived, or the spare capacity must hold all missing
/// bytes. With fewer missing bytes, a read into the buffer that all connections share is cheaper:
/// it costs one more copy, but also returns the next frames.
const DIRECT_LEN_MIN: usize = 16 * 1024;
/// Maximum capacity of all buffers of a partial frame, as a multiple of its bytes.
const GROWTH: usize = 8;
/// Length in bytes from which the capacity is limited by [`GROWTH_OF_LONG`] instead of [`GROWTH`].
/// A frame of unknown length and at least this size either ends soon, or its sender tries to use up
/// memory.
const LONG_LEN: usize = 256 * 1024;
/// Replacement of [`GROWTH`] for a partial frame of at least [`LONG_LEN`] bytes. A direct read of a
/// frame of known length may exceed this multiple, but not [`GROWTH`].
const GROWTH_OF_LONG: usize = 4;
/// Minimum number of bytes held for a direct read of a frame of unknown length. Such a read may
/// also return the next frames.
const OPEN_ENDED_LEN_MIN: usize = 4 * 1024;
/// Maximum capacity of a buffer that is kept for the next partial frame, even if few bytes of that
/// frame have arrived. An earlier frame needed the buffer, and most frames of a stream have a
/// similar length.
const KEPT_LEN: usize = 64 * 1024;
/// Minimum length, in bytes, that the check for an oversized buffer assumes for a partial frame.
const SMALL_LEN: usize = 256;
/// Maximum capacity that a partial frame keeps after earlier frames are delivered, as a multiple of
/// the bytes held. It is twice [`GROWTH`], so that a buffer does not grow and shrink alternately.
const SHRINK: usize = 2 * GROWTH;

/// State of the bytes in a [`Partial`].
#[derive(Debug, Clone, Copy, Default)]
enum Held {
    /// Bytes that the codec has not decoded, for example because the delivery was stopped before
    /// them.
    #[default]
    Undecoded,
    /// The first bytes of a frame. The next decode step needs `need` bytes. `need > len`, except in
    /// two cases. In the first case, the needed bytes were appended without a decode step: by a
    /// direct read, or while the handler peeks. In the second case, the framing was replaced, and
    /// the new framing has not decoded the bytes; `need` is then 1.
    Frame {
        need: usize,
        /// True if the codec needs exactly one more byte. Usually the length of the frame is then
        /// unknown; otherwise only the last byte of the frame is missing.
        is_open_ended: bool,
    },
    /// No bytes are held, and the next `left` bytes of the stream are skipped. `left` is at least
    /// 1.
    Skipping { left: u64 },
    /// The bytes of a frame that the [former](Former) framing skips to its end. `is_due` is true if
    /// bytes were added that this framing has not decoded.
    Former { is_due: bool },
}

/// The decode step of a framing that was replaced while it skipped a frame that is too long. Only
/// that framing finds the end of the frame. The arguments of the function are the bytes, and true
/// if the stream has ended.
///
/// The function is a boxed trait object, so that the destructor of [`Partial`] stays short. A
/// longer destructor would cost 6 instructions per frame.
pub(crate) struct Former(pub(super) Box<FormerStep>);

pub(super) type FormerStep = dyn for<'a> FnMut(&'a [u8], bool) -> CheckedStep<'a> + Send + Sync;

/// An unfinished skip, as a detached connection passes it to the connection that adopts its bytes.
#[derive(Debug, Default)]
pub(crate) enum UnfinishedSkip {
    #[default]
    None,
    /// The next `left` bytes of the stream are skipped. `left` is at least 1.
    Bytes { left: u64 },
    /// `framing` skips the held bytes and the bytes after them, up to the end of the frame. This
    /// framing has decoded at most the first `decoded_len` held bytes. `decoded_len` is at least 1.
    ToEnd { framing: Former, decoded_len: usize },
}

/// Bytes that are read but not delivered.
///
/// Invariant between two decode calls: the buffer is empty if and only if `held` is
/// [`Held::Skipping`]. During a decode call, the buffer may also be empty while it is kept for the
/// next partial frame.
#[derive(Debug, Default)]
pub(crate) struct Partial {
    pub(super) buf: GrowBuf,
    /// State of the bytes in `buf`.
    held: Held,
    /// Start of the frame deadline. This is the latest of three times: the arrival of the first
    /// byte in `buf`, the delivery of the previous frame, and the last restart of the deadline.
    pub(super) since: Stamp,
    /// State of a built-in codec for the frame that begins at the first byte.
    pub(super) scan: ScanState,
    /// Former framing that skips the bytes; `Some` if and only if `held` is [`Held::Former`].
    former: Option<Former>,
}

impl fmt::Debug for Former {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Former(..)")
    }
}

impl Partial {
    /// Takes a box and an empty buffer with a capacity of at least `len` bytes from the pool.
    fn take(len: usize, pool: &mut Pool) -> Box<Self> {
        let mut partial = pool.take_box();
        partial.buf.set_buf(pool.take(len));
        partial
    }

    /// Stores `bytes` in a buffer of the pool. If `need` is zero, they are undecoded bytes.
    /// Otherwise they are the first bytes of a frame that needs `need` bytes.
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

    /// Creates the state in which the next `left` bytes of the stream are skipped.
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

    /// Returns true if the next decode step can run: the codec has not decoded the bytes, or all
    /// bytes that it needs have arrived.
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

    /// Returns the number of bytes to skip that have not arrived.
    #[inline]
    pub(super) fn left_to_skip(&self) -> u64 {
        match self.held {
            Held::Skipping { left } => left,
            Held::Undecoded | Held::Frame { .. } | Held::Former { .. } => 0,
        }
    }

    /// Sets the number of bytes to skip that have not arrived; `left` is at least 1.
    pub(super) fn set_left_to_skip(&mut self, left: u64) {
        self.held = Held::Skipping { left };
    }

    /// Returns true if the next bytes are skipped: either a known number of bytes, or all bytes up
    /// to the end of a frame.
    #[inline]
    pub(super) fn is_skipping(&self) -> bool {
        matches!(self.held, Held::Skipping { .. } | Held::Former { .. })
    }

    /// Returns true if a [former](Former) framing skips a frame.
    pub(super) fn has_former(&self) -> bool {
        self.former.is_some()
    }

    /// Records that the former framing has not decoded all bytes. Does nothing if no former framing
    /// skips a frame.
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

    /// Makes `former` skip the frame to its end.
    pub(super) fn set_former(&mut self, former: Former) {
        self.held = Held::Former { is_due: false };
        self.former = Some(former);
    }

    /// Marks the bytes as not decoded, unless bytes are being skipped.
    #[inline]
    pub(super) fn set_undecoded(&mut self) {
        if !self.is_skipping() {
            self.held = Held::Undecoded;
        }
    }

    /// Makes the next decode step due without more bytes, unless bytes are being skipped. A partial
    /// frame keeps the state [`Held::Frame`], because it was already counted as cut.
    pub(super) fn set_due(&mut self) {
        if let Held::Frame { .. } = self.held {
            self.held = Held::Frame {
                need: 1,
                is_open_ended: false,
            };
        }
    }

    /// Stores the number of bytes that the codec needs for the next step.
    #[inline]
    pub(super) fn set_need(&mut self, need: usize) {
        let is_open_ended = need == self.len() + 1;
        self.held = Held::Frame {
            need,
            is_open_ended,
        };
    }

    /// Updates the number of needed bytes after bytes inside the frame were appended.
    #[inline]
    pub(super) fn need_more(&mut self) {
        if self.is_open_ended() {
            self.set_need(self.len() + 1);
        }
    }

    /// Returns the number of bytes that the next decode step needs; 0 outside a frame.
    #[inline]
    fn need(&self) -> usize {
        match self.held {
            Held::Frame { need, .. } => need,
            Held::Undecoded | Held::Skipping { .. } | Held::Former { .. } => 0,
        }
    }

    /// Returns the number of needed bytes that have not arrived.
    #[inline]
    fn missing(&self) -> usize {
        self.need().saturating_sub(self.len())
    }

    /// Returns true if the next bytes are to be read into the shared read buffer.
    #[inline]
    pub(super) fn is_to_ingest(&self) -> bool {
        match self.held {
            Held::Undecoded => false,
            Held::Frame { need, .. } => need > self.len() && !self.is_direct(),
            Held::Skipping { .. } => true,
            Held::Former { is_due } => !is_due,
        }
    }

    /// Returns true if the next bytes are to be read directly into the buffer of the frame: see
    /// [`DIRECT_LEN_MIN`] and [`OPEN_ENDED_LEN_MIN`].
    #[inline]
    fn is_direct(&self) -> bool {
        if self.is_open_ended() {
            return self.len() >= OPEN_ENDED_LEN_MIN && self.buf.spare_len() >= DIRECT_LEN_MIN;
        }
        let missing = self.missing();
        let fits = self.len() >= DIRECT_LEN_MIN || self.buf.spare_len() >= missing;
        missing >= DIRECT_LEN_MIN && fits
    }

    /// Returns the spare capacity for a direct read: see
    /// [`Assembler::direct`](super::Assembler::direct).
    pub(super) fn direct(&mut self, len_max: usize, pool: &mut Pool) -> Option<&mut [u8]> {
        if !self.is_direct() {
            return None;
        }
        let missing = self.missing();
        if self.buf.spare_len() < DIRECT_LEN_MIN {
            let capacity_max = capacity_max(self.len(), self.buf.total_capacity());
            self.grow(missing.min(self.len()), capacity_max, pool);
        }
        let len = self.buf.spare_len().min(len_max);
        let len = match self.is_open_ended() {
            true => len,
            false => len.min(missing),
        };
        Some(&mut self.buf.spare_mut()[..len])
    }

    /// Returns the number of bytes to append, out of the next `left_len` bytes, and true if a
    /// decode step must follow. If the codec returned `Lookahead::StepAfter`, `step_after` contains
    /// its number of bytes.
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

    /// Returns the number of new bytes for the next decode step if the length of the frame is
    /// unknown. The number is limited to the spare capacity, if there is any, so that the buffer
    /// does not grow.
    fn open_ended_step(&self) -> usize {
        let step = (self.len() / 4).clamp(STEP_MIN, STEP_MAX);
        match self.buf.spare_len() {
            0 => step,
            spare_len => step.min(spare_len),
        }
    }

    /// Appends bytes. If the buffer is too small, a larger buffer is added. A later call of
    /// [`settle`](GrowBuf::settle) moves all bytes into the larger buffer. `is_settled_next` is
    /// true if the caller expects a call of `settle` before the next append. The capacity of the
    /// smaller buffers then does not count for the limit of the capacity, because `settle` returns
    /// them to the pool.
    #[inline(always)]
    pub(super) fn append(&mut self, bytes: &[u8], is_settled_next: bool, pool: &mut Pool) {
        if !self.buf.try_put(bytes) {
            self.append_grown(bytes, is_settled_next, pool);
        }
        pool.moved_bytes += bytes.len() as u64;
    }

    #[inline(never)]
    fn append_grown(&mut self, bytes: &[u8], is_settled_next: bool, pool: &mut Pool) {
        let used = match is_settled_next {
            true => 0,
            false => self.buf.total_capacity(),
        };
        let capacity_max = capacity_max(self.len() + bytes.len(), used);
        self.grow(bytes.len(), capacity_max, pool);
        self.buf.put(bytes);
    }

    #[inline(never)]
    fn grow(&mut self, additional: usize, capacity_max: usize, pool: &mut Pool) {
        let capacity = match self.is_open_ended() {
            true => open_ended_capacity(self.len() + additional, capacity_max),
            false => capacity_for(self.need(), capacity_max),
        };
        self.buf.reserve(additional, capacity, pool);
    }

    /// Puts `bytes` into the empty buffer. If `need` is zero, they are undecoded bytes. Otherwise
    /// they are the first bytes of a frame that needs `need` bytes.
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

    /// Returns a copy of the bytes, and the unfinished skip, if there is one. Removes the former
    /// framing, which becomes a part of the skip.
    pub(super) fn content(&mut self, pool: &mut Pool) -> (Vec<u8>, UnfinishedSkip) {
        self.buf.settle(pool);
        let bytes = self.buf.bytes().to_vec();
        let skip = match (self.former.take(), self.left_to_skip()) {
            (Some(framing), _) => UnfinishedSkip::ToEnd {
                framing,
                decoded_len: bytes.len(),
            },
            (None, 0) => UnfinishedSkip::None,
            (None, left) => UnfinishedSkip::Bytes { left },
        };
        (bytes, skip)
    }

    /// Returns true if the buffer is far larger than its bytes need.
    #[inline]
    pub(super) fn is_oversized(&self) -> bool {
        self.buf.is_larger_than(GROWTH * self.len().max(SMALL_LEN))
    }

    /// Returns true if a decode call has left a partial frame in a buffer that is too large for it.
    /// A buffer of up to [`KEPT_LEN`] is kept, unless it held undecoded bytes before the call
    /// (`was_undecoded`): their number says nothing about the length of a frame.
    pub(super) fn is_to_shrink(&self, was_undecoded: bool) -> bool {
        self.need() > self.len()
            && self.buf.is_larger_than(SHRINK * self.len().max(STEP_MAX))
            && (was_undecoded || self.buf.is_larger_than(KEPT_LEN))
    }

    /// Moves the bytes into a buffer of their size. The state does not change.
    pub(super) fn shrink(&mut self, pool: &mut Pool) {
        self.buf.settle(pool);
        let mut smaller = pool.take(first_capacity(self.len(), self.need()));
        smaller.put(self.buf.bytes());
        pool.moved_bytes += self.len() as u64;
        self.buf.put_back(pool);
        self.buf.set_buf(smaller);
    }

    /// Returns true if the empty buffer is suitable for the first `len` bytes of a frame that needs
    /// `need` bytes. For undecoded bytes `need` is zero.
    #[inline]
    pub(super) fn is_suitable(&self, len: usize, need: usize) -> bool {
        let len_min = match is_long_open_ended(len, need) {
            true => 2 * len,
            false => need.max(len),
        };
        let fits = self.buf.spare_len() >= len_min && !self.buf.is_larger_than(KEPT_LEN);
        fits || self.is_suitable_slow(len, need)
    }

    /// Computes [`is_suitable`](Partial::is_suitable) for a buffer that is larger than [`KEPT_LEN`]
    /// or smaller than the frame.
    #[inline(never)]
    fn is_suitable_slow(&self, len: usize, need: usize) -> bool {
        let len_min = match is_long_open_ended(len, need) {
            true => 2 * len,
            false => first_capacity(len, need),
        };
        let capacity_max = capacity_max(len, 0).max(KEPT_LEN);
        self.buf.spare_len() >= len_min && self.buf.capacity() <= capacity_max
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

/// Returns the capacity of the buffer for the first `len` bytes of a frame that needs `need` bytes.
fn first_capacity(len: usize, need: usize) -> usize {
    let capacity_max = capacity_max(len, 0);
    if is_long_open_ended(len, need) {
        open_ended_capacity(2 * len, capacity_max)
    } else {
        capacity_for(need, capacity_max).max(len)
    }
}

/// Returns true if the length of the frame is unknown, and more bytes have arrived than an
/// incomplete length field can have.
fn is_long_open_ended(len: usize, need: usize) -> bool {
    need == len + 1 && len > LENGTH_LEN_MAX
}

/// Returns the capacity of a buffer for a frame that needs `need` bytes. The capacity is `need` if
/// a buffer of `capacity_max` bytes can hold `need` bytes.
///
/// Otherwise the capacity is half of `capacity_max`. The frame is then more than twice as long as
/// this capacity. So at most about half of the frame is copied when the buffer grows.
fn capacity_for(need: usize, capacity_max: usize) -> usize {
    if need <= Buf::len_max_of(capacity_max) {
        need
    } else {
        capacity_max / 2
    }
}

/// Returns the capacity of a buffer for `len` bytes of a frame of unknown length. The capacity is
/// at most `capacity_max`.
fn open_ended_capacity(len: usize, capacity_max: usize) -> usize {
    capacity_max.min(KEPT_LEN.max(len.next_power_of_two()))
}

/// Returns the maximum capacity, a power of two, of a new buffer for a partial frame of `len`
/// bytes. `used` is the capacity of the buffers that the partial frame already has.
fn capacity_max(len: usize, used: usize) -> usize {
    let growth = match len < LONG_LEN {
        true => GROWTH,
        false => GROWTH_OF_LONG,
    };
    let capacity = len.saturating_mul(growth).saturating_sub(used);
    1 << capacity.max(1).ilog2()
}
