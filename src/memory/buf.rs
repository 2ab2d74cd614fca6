//! Byte buffers and the pool that they come from.
//!
//! One buffer type serves both directions. Its memory is initialised once, when it is made, so that
//! a socket may be read straight into it; its cursors only say which part is in use:
//!
//! ```text
//!   0          start            end          capacity
//!   | consumed  | bytes in use   | room to write |
//! ```
//!
//! A long buffer begins in the middle of a page of memory. The kernel's own begin where pages do,
//! and processors copy slowly between addresses that differ by little but the page: an echo of
//! 256 KiB frames takes half the processor time that it takes where buffers begin as malloc has it.
//!
//! This module does no I/O and knows nothing of frames.

use std::ops::Range;

use crate::timer::Stamp;

/// From this capacity on a buffer begins in the middle of a page.
pub(super) const PLACED_LEN_MIN: usize = 64 * 1024;
pub(super) const PAGE_LEN: usize = 4096;

/// From this capacity on a buffer has room beyond it, so that a frame whose payload is a power of
/// two, as many are, fits with its header into a buffer of just that capacity.
pub(super) const SPARED_LEN_MIN: usize = 1024;
pub(super) const SPARE_LEN: usize = 64;

/// A contiguous buffer. Invariant: `base <= start <= end <= data.len()`.
#[derive(Debug, Default)]
pub(crate) struct Buf {
    pub(super) data: Box<[u8]>,
    /// Where its memory is used from.
    pub(super) base: usize,
    pub(super) start: usize,
    pub(super) end: usize,
    /// A note of the reading side: how many bytes the unfinished frame at `start` needs at least.
    /// At most `len()` where the bytes have not been looked at yet.
    pub(crate) need: usize,
    /// A note of the reading side: `need` is one byte more than there were. Mostly nobody knows yet
    /// how long the frame will be; it may lack just that one.
    pub(crate) is_open_ended: bool,
    /// A note of the reading side: when the unfinished frame at `start` began to come.
    pub(crate) since: Stamp,
    /// A note of the reading side: how far a built-in codec has scanned the bytes from `start`.
    pub(crate) scanned: usize,
    /// A note of the reading side: bytes of the frame at `start` that a built-in codec has dropped
    /// already.
    pub(crate) dropped: u64,
    /// A note of the reading side: bytes still to come that are skipped. While there are any, the
    /// buffer is empty.
    pub(crate) skip: u64,
    /// As how many bytes the pool counts it while it is lent.
    pub(super) lent: usize,
    /// What stands before the bytes in use, in the buffer that became too small. Room of its length
    /// is kept free for it behind `start`, and counts as in use: see [`Pool::settle`](super::Pool::settle).
    pub(super) front: Option<Box<Self>>,
}

impl Buf {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        let (data, base) = memory(capacity);
        Self {
            data,
            base,
            start: base,
            end: base,
            ..Self::default()
        }
    }

    /// How many bytes one of this capacity has room for.
    pub(crate) fn len_max_of(capacity: usize) -> usize {
        if capacity < SPARED_LEN_MIN {
            capacity
        } else {
            capacity + SPARE_LEN
        }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.end == self.start
    }

    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        match self.data.len() {
            len if len >= PLACED_LEN_MIN + SPARE_LEN => len - SPARE_LEN - PAGE_LEN,
            len if len >= SPARED_LEN_MIN => len - SPARE_LEN,
            len => len,
        }
    }

    /// Whether its capacity is more than so many bytes; mostly told without working it out.
    #[inline]
    pub(crate) fn is_larger_than(&self, capacity: usize) -> bool {
        self.data.len() > capacity && self.capacity() > capacity
    }

    /// The capacity of this buffer and of those that hold what stands before its bytes.
    pub(crate) fn total_capacity(&self) -> usize {
        let front = self.front.as_ref();
        self.capacity() + front.map_or(0, |front| front.total_capacity())
    }

    /// How many of the bytes in use, the first ones, are still in another buffer.
    pub(super) fn front_len(&self) -> usize {
        self.front.as_ref().map_or(0, |front| front.len())
    }

    /// Fills `end` with the last bytes, of which there are as many.
    pub(crate) fn copy_end(&self, end: &mut [u8]) {
        let here = self.len() - self.front_len();
        let (before, own) = end.split_at_mut(end.len().saturating_sub(here));
        own.copy_from_slice(&self.data[self.end - own.len()..self.end]);
        if let Some(front) = &self.front {
            front.copy_end(before);
        }
    }

    /// The last of the bytes in use.
    #[cold]
    pub(crate) fn last(&self) -> Option<u8> {
        let mut last = [0];
        (!self.is_empty()).then(|| self.copy_end(&mut last))?;
        Some(last[0])
    }

    /// Bytes that can be written at the end without moving anything.
    #[inline]
    pub(crate) fn spare_len(&self) -> usize {
        self.data.len() - self.end
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        debug_assert!(self.front.is_none(), "it was settled");
        &self.data[self.start..self.end]
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..self.end]
    }

    /// Where a part of the bytes in use lies, for [`Buf::at`].
    #[inline]
    pub(crate) fn place_of(&self, part: Range<usize>) -> Range<usize> {
        self.start + part.start..self.start + part.end
    }

    /// The bytes at a place, which may be consumed meanwhile: they stand until something is put.
    #[inline]
    pub(crate) fn at(&self, place: Range<usize>) -> &[u8] {
        &self.data[place]
    }

    /// The room at the end, to be filled and then told of by [`Buf::advance`].
    #[inline]
    pub(crate) fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.end..]
    }

    /// What is in that room.
    #[inline]
    pub(crate) fn spare(&self) -> &[u8] {
        &self.data[self.end..]
    }

    #[inline]
    pub(crate) fn advance(&mut self, len: usize) {
        debug_assert!(
            len <= self.spare_len(),
            "no more can be filled than there was room for"
        );
        self.end += len;
    }

    /// Drops `len` bytes from the front.
    #[inline]
    pub(crate) fn consume(&mut self, len: usize) {
        debug_assert!(len <= self.len(), "no more can be consumed than is in use");
        self.start += len;
        if self.start == self.end {
            self.clear();
        }
    }

    #[inline]
    pub(crate) fn clear(&mut self) {
        self.start = self.base;
        self.end = self.base;
    }

    /// Moves what is in use to the front.
    pub(super) fn move_to_front(&mut self) {
        self.data.copy_within(self.start..self.end, self.base);
        self.end -= self.start - self.base;
        self.start = self.base;
    }

    /// Appends, growing on the heap where there is no room.
    #[inline]
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        if bytes.len() > self.spare_len() {
            self.grow(bytes.len());
        }
        let end = self.end + bytes.len();
        self.data[self.end..end].copy_from_slice(bytes);
        self.end = end;
    }

    /// Appends where there is room for all of it, and answers whether there was.
    #[inline(always)]
    pub(crate) fn try_put(&mut self, bytes: &[u8]) -> bool {
        let end = self.end + bytes.len();
        match self.data.get_mut(self.end..end) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.end = end;
                true
            }
            None => false,
        }
    }

    /// Appends zeros, and answers them.
    pub(crate) fn put_zeros(&mut self, len: usize) -> &mut [u8] {
        self.reserve(len);
        let zeros = &mut self.data[self.end..self.end + len];
        zeros.fill(0);
        self.end += len;
        zeros
    }

    /// Appends a header and a payload.
    #[inline]
    pub(crate) fn put_with_header<const N: usize>(&mut self, header: [u8; N], payload: &[u8]) {
        while !self.try_put_with_header(header, payload, usize::MAX) {
            self.grow(N + payload.len());
        }
    }

    /// The same where there is room for them and the buffer has no more than `len_max` bytes with
    /// them; nothing otherwise. Answers which it was.
    #[inline(always)]
    pub(crate) fn try_put_with_header<const N: usize>(
        &mut self,
        header: [u8; N],
        payload: &[u8],
        len_max: usize,
    ) -> bool {
        let end = self.end + N + payload.len();
        if end - self.start <= len_max
            && let Some(front) = self.data.get_mut(..end)
            && let Some(frame) = front.get_mut(self.end..)
            && let Some((head, rest)) = frame.split_first_chunk_mut::<N>()
        {
            *head = header;
            rest.copy_from_slice(payload);
            self.end = end;
            return true;
        }
        false
    }

    /// Takes back what was appended since the length was `len`.
    #[inline]
    pub(crate) fn truncate(&mut self, len: usize) {
        debug_assert!(len <= self.len(), "a buffer is not grown by truncating it");
        self.end = self.start + len;
    }

    /// Makes room for `additional` bytes at the end.
    pub(crate) fn reserve(&mut self, additional: usize) {
        if additional > self.spare_len() {
            self.grow(additional);
        }
    }

    /// Makes room at the end: by moving to the front where at least half is free, else on the heap.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, additional: usize) {
        let wanted = self.len() + additional;
        if wanted <= self.capacity() / 2 {
            self.move_to_front();
            return;
        }
        self.exchange(wanted.max(2 * self.capacity()).next_power_of_two());
    }

    /// Gives back the memory that the bytes in use do not need.
    pub(crate) fn shrink_to_fit(&mut self) {
        if self.capacity() > self.len() {
            self.exchange(0);
        }
    }

    /// Goes on in other memory, of `capacity` bytes or as many as are in use.
    #[cold]
    pub(crate) fn exchange(&mut self, capacity: usize) {
        let (mut data, base) = memory(capacity.max(self.len()));
        let end = base + self.len();
        data[base..end].copy_from_slice(self.bytes());
        self.data = data;
        (self.base, self.start, self.end) = (base, base, end);
    }
}

/// Memory of one length, which begins where a buffer does.
#[derive(Debug)]
pub(crate) struct PageOffsetBox {
    data: Vec<u8>,
    pub(super) base: usize,
}

impl PageOffsetBox {
    pub(crate) fn new(len: usize) -> Self {
        let (data, base) = memory(len);
        let mut data = data.into_vec();
        data.truncate(base + len);
        Self { data, base }
    }

    pub(crate) fn len(&self) -> usize {
        self.data.len() - self.base
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.base..]
    }
}

/// Memory for `capacity` bytes, and where in it they begin.
fn memory(capacity: usize) -> (Box<[u8]>, usize) {
    let len = Buf::len_max_of(capacity);
    if capacity < PLACED_LEN_MIN {
        return (vec![0; len].into_boxed_slice(), 0);
    }
    let data = vec![0; len + PAGE_LEN].into_boxed_slice();
    let base = (PAGE_LEN / 2).wrapping_sub(data.as_ptr().addr()) % PAGE_LEN;
    (data, base)
}
