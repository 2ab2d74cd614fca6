//! A contiguous byte buffer.
//!
//! Reading and writing use the same buffer type. Its memory is filled with zeros once, when it is
//! allocated, so that a socket can be read directly into it. Two cursors mark the bytes in use:
//!
//! ```text
//!   base          start            end             data.len()
//!   |  consumed    | bytes in use   | spare capacity |
//! ```
//!
//! A long buffer begins in the middle of a memory page, because the kernel's own buffers begin at a
//! page boundary. Processors copy slowly between two addresses with nearly equal offsets in their
//! pages. An echo of 256 KiB frames takes twice the processor time with buffers at malloc's
//! addresses.

use std::ops::Range;

/// Minimum capacity, in bytes, of a buffer that begins in the middle of a page.
const PAGE_OFFSET_LEN_MIN: usize = 64 * 1024;
/// Assumed length of a memory page, in bytes. If the real length differs, copies are slower, but
/// still correct.
const PAGE_LEN: usize = 4096;

/// Minimum capacity, in bytes, of a buffer with [`HEADER_SPARE_LEN`] additional bytes. The length
/// of a payload is often a power of two. With the additional bytes, a buffer of that capacity holds
/// the payload and its header.
const HEADER_SPARE_LEN_MIN: usize = 1024;
/// Number of additional bytes beyond the capacity, for the header of a frame.
const HEADER_SPARE_LEN: usize = 64;

/// A contiguous buffer. Invariant: `base <= start <= end <= data.len()`.
#[derive(Debug, Default)]
pub(crate) struct Buf {
    data: Box<[u8]>,
    /// Offset in `data` at which the buffer begins: `base < PAGE_LEN`. Earlier bytes are never
    /// used.
    base: usize,
    /// Offset of the first byte in use: `base <= start <= end`.
    start: usize,
    /// Offset after the last byte in use: `start <= end <= data.len()`.
    end: usize,
}

impl Buf {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        let (data, base) = memory(capacity);
        Self {
            data,
            base,
            start: base,
            end: base,
        }
    }

    /// Returns the number of bytes that fit into every buffer of this capacity: the capacity and,
    /// from [`HEADER_SPARE_LEN_MIN`] on, the additional bytes for a header. A long buffer may hold
    /// up to [`PAGE_LEN`] bytes more.
    pub(crate) const fn len_max_of(capacity: usize) -> usize {
        if capacity < HEADER_SPARE_LEN_MIN {
            capacity
        } else {
            capacity + HEADER_SPARE_LEN
        }
    }

    /// Returns the smallest capacity of a buffer that holds `len` bytes, but at least
    /// `capacity_min`.
    pub(super) fn capacity_for(len: usize, capacity_min: usize) -> usize {
        let spared = len
            .saturating_sub(HEADER_SPARE_LEN)
            .max(HEADER_SPARE_LEN_MIN);
        len.clamp(capacity_min, spared)
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
            len if len >= PAGE_OFFSET_LEN_MIN + HEADER_SPARE_LEN => {
                len - HEADER_SPARE_LEN - PAGE_LEN
            }
            len if len >= HEADER_SPARE_LEN_MIN => len - HEADER_SPARE_LEN,
            len => len,
        }
    }

    /// Returns true if the capacity exceeds `capacity`.
    #[inline]
    pub(crate) fn is_larger_than(&self, capacity: usize) -> bool {
        self.data.len() > capacity && self.capacity() > capacity
    }

    /// Returns the number of bytes that can be appended without moving or reallocating the content.
    #[inline]
    pub(crate) fn spare_len(&self) -> usize {
        self.data.len() - self.end
    }

    /// Returns the number of consumed bytes before the bytes in use. [`Buf::move_to_front`] turns
    /// their memory into spare capacity.
    pub(super) fn consumed_len(&self) -> usize {
        self.start - self.base
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..self.end]
    }

    /// Converts a range of the bytes in use into a range of `data`, for [`Buf::at`].
    #[inline]
    pub(crate) fn position_of(&self, part: Range<usize>) -> Range<usize> {
        self.start + part.start..self.start + part.end
    }

    /// Returns the bytes at a range from [`Buf::position_of`]. The range stays valid after its
    /// bytes are consumed, until bytes are written or moved.
    #[inline]
    pub(crate) fn at(&self, position: Range<usize>) -> &[u8] {
        &self.data[position]
    }

    /// Returns the spare capacity to read into; call [`Buf::advance`] with the number of bytes
    /// read.
    #[inline]
    pub(crate) fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.end..]
    }

    /// Returns the spare capacity, to check bytes that were read into it and are not appended yet.
    #[inline]
    pub(crate) fn spare(&self) -> &[u8] {
        &self.data[self.end..]
    }

    /// Appends the first `len` bytes of the spare capacity to the bytes in use.
    #[inline]
    pub(crate) fn advance(&mut self, len: usize) {
        debug_assert!(
            len <= self.spare_len(),
            "`len` must not exceed the spare capacity"
        );
        self.end += len;
    }

    /// Drops the first `len` bytes in use.
    #[inline]
    pub(crate) fn consume(&mut self, len: usize) {
        debug_assert!(len <= self.len(), "`len` must not exceed the bytes in use");
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

    /// Moves the bytes in use to the start of the buffer, so that the consumed bytes become spare
    /// capacity.
    pub(super) fn move_to_front(&mut self) {
        self.data.copy_within(self.start..self.end, self.base);
        self.end -= self.start - self.base;
        self.start = self.base;
    }

    /// Appends bytes; allocates more memory if the spare capacity is too small.
    #[inline]
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        if bytes.len() > self.spare_len() {
            self.grow(bytes.len());
        }
        let end = self.end + bytes.len();
        self.data[self.end..end].copy_from_slice(bytes);
        self.end = end;
    }

    /// Appends bytes and returns true, or returns false if the spare capacity is too small.
    #[inline(always)]
    pub(crate) fn try_put(&mut self, bytes: &[u8]) -> bool {
        let end = self.end + bytes.len();
        match self.data.get_mut(self.end..end) {
            Some(spare) => {
                spare.copy_from_slice(bytes);
                self.end = end;
                true
            }
            None => false,
        }
    }

    /// Appends `len` zeros, and returns the appended bytes.
    pub(crate) fn put_zeros(&mut self, len: usize) -> &mut [u8] {
        self.reserve(len);
        let zeros = &mut self.data[self.end..self.end + len];
        zeros.fill(0);
        self.end += len;
        zeros
    }

    /// Appends a header and a payload; allocates more memory if the spare capacity is too small.
    #[inline]
    pub(crate) fn put_with_header<const N: usize>(&mut self, header: [u8; N], payload: &[u8]) {
        while !self.try_put_with_header(header, payload, usize::MAX) {
            self.grow(N + payload.len());
        }
    }

    /// Appends a header and a payload and returns true. Appends nothing and returns false if the
    /// spare capacity is too small, or if more than `len_max` bytes would be in use.
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

    /// Keeps the first `len` bytes in use and drops the bytes after them.
    #[inline]
    pub(crate) fn truncate(&mut self, len: usize) {
        debug_assert!(len <= self.len(), "`len` must not exceed the bytes in use");
        self.end = self.start + len;
    }

    /// Ensures a spare capacity of at least `additional` bytes.
    pub(crate) fn reserve(&mut self, additional: usize) {
        if additional > self.spare_len() {
            self.grow(additional);
        }
    }

    /// Creates spare capacity for `additional` bytes. Moves the bytes in use to the start if they
    /// and the additional bytes fill at most half of the capacity. Otherwise reallocates.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, additional: usize) {
        let wanted = self.len() + additional;
        if wanted <= self.capacity() / 2 {
            self.move_to_front();
            return;
        }
        self.reallocate(wanted.max(2 * self.capacity()).next_power_of_two());
    }

    /// Frees the memory that the bytes in use do not need.
    pub(crate) fn shrink_to_fit(&mut self) {
        if self.capacity() > self.len() {
            self.reallocate(0);
        }
    }

    /// Moves the bytes in use to new memory. Its capacity is `capacity`, or the number of bytes in
    /// use if that is larger.
    #[cold]
    pub(crate) fn reallocate(&mut self, capacity: usize) {
        let (mut data, base) = memory(capacity.max(self.len()));
        let end = base + self.len();
        data[base..end].copy_from_slice(self.bytes());
        self.data = data;
        (self.base, self.start, self.end) = (base, base, end);
    }
}

/// Memory of a fixed length. From 64 KiB on, it begins in the middle of a memory page.
#[derive(Debug)]
pub(crate) struct PageOffsetBox {
    data: Vec<u8>,
    /// Offset in `data` at which the memory begins. Earlier bytes are never used.
    base: usize,
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

/// Allocates memory for `capacity` bytes. Returns the memory and the offset at which a buffer in it
/// begins.
fn memory(capacity: usize) -> (Box<[u8]>, usize) {
    let len = Buf::len_max_of(capacity);
    if capacity < PAGE_OFFSET_LEN_MIN {
        return (vec![0; len].into_boxed_slice(), 0);
    }
    let data = vec![0; len + PAGE_LEN].into_boxed_slice();
    let base = (PAGE_LEN / 2).wrapping_sub(data.as_ptr().addr()) % PAGE_LEN;
    (data, base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn put_and_consume_keep_order_across_growth() {
        let mut buf = Buf::with_capacity(4);
        buf.put(b"abc");
        buf.consume(2);
        buf.put(b"defghijkl");
        assert_eq!(buf.bytes(), b"cdefghijkl");
        buf.truncate(3);
        assert_eq!(buf.bytes(), b"cde");
        buf.consume(3);
        assert!(buf.is_empty());
        assert_eq!(buf.spare_len(), buf.capacity());
    }

    #[test]
    fn a_long_buffer_always_begins_in_the_middle_of_a_page() {
        let page_offset = |buf: &Buf| buf.bytes().as_ptr().addr() % PAGE_LEN;
        for capacity in [PAGE_OFFSET_LEN_MIN, 100_000, 1 << 20] {
            let mut buf = Buf::with_capacity(capacity);
            assert_eq!(buf.capacity(), capacity);
            assert!(buf.spare_len() >= capacity);
            buf.put(&vec![1; capacity]);
            assert_eq!(page_offset(&buf), PAGE_LEN / 2);
            buf.consume(capacity - 1);
            buf.put(&vec![2; capacity / 2 - 1]);
            assert_eq!(
                page_offset(&buf),
                PAGE_LEN / 2,
                "the page offset must be half a page after the bytes were moved to the start"
            );
            buf.put(&vec![3; capacity]);
            assert_eq!(
                page_offset(&buf),
                PAGE_LEN / 2,
                "the page offset must be half a page after the buffer grew"
            );
            assert!(buf.capacity() > capacity && buf.capacity().is_power_of_two());
            assert_eq!(buf.bytes()[..3], [1, 2, 2]);
            buf.clear();
            buf.put(b"again");
            assert_eq!(
                page_offset(&buf),
                PAGE_LEN / 2,
                "the page offset must be half a page after the buffer was cleared"
            );
        }
    }

    #[test]
    fn is_larger_than_compares_capacity_without_header_spare() {
        for capacity in [
            1,
            64,
            1023,
            1024,
            1087,
            1088,
            65_535,
            65_536,
            69_696,
            1 << 20,
        ] {
            let buf = Buf::with_capacity(capacity);
            assert_eq!(buf.capacity(), capacity);
            assert!(buf.is_larger_than(capacity - 1));
            for more in [0, 1, HEADER_SPARE_LEN - 1, HEADER_SPARE_LEN + PAGE_LEN - 1] {
                assert!(
                    !buf.is_larger_than(capacity + more),
                    "a buffer of {capacity} bytes is not larger than {capacity} + {more} bytes"
                );
            }
        }
    }
}
