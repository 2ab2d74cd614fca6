//! The buffer that the reads of all connections share.

use std::mem;

use crate::memory::PageOffsetBox;

/// Initial length, in bytes: 64 KiB, plus space for headers and partial frames. A smaller
/// `len_max` applies instead.
const LEN_BASE: usize = 68 * 1024;

/// Memory into which all connections read, one after the other.
///
/// Its length adapts to the reads: it doubles when a read fills it, up to `len_max`, and
/// [`trim`](ReadBuffer::trim) frees the memory that no read needed for a while.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    memory: PageOffsetBox,
    len_max: usize,
    /// Longest read since the last trim, if it was at least `LEN_BASE`; otherwise 0.
    peak: usize,
}

impl ReadBuffer {
    pub(crate) fn new(len_max: usize) -> Self {
        Self {
            memory: PageOffsetBox::new(LEN_BASE.min(len_max)),
            len_max,
            peak: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_mut()
    }

    /// Records the length of a read. Call it after the bytes of the read are handled, because it
    /// may reallocate the memory.
    #[inline]
    pub(crate) fn record(&mut self, len: usize) {
        if len >= LEN_BASE {
            self.record_long(len);
        }
    }

    #[cold]
    fn record_long(&mut self, len: usize) {
        self.peak = len.max(self.peak);
        if len == self.len() && len < self.len_max {
            self.reallocate(2 * len);
        }
    }

    #[inline]
    pub(crate) fn is_over_base(&self) -> bool {
        self.len() > LEN_BASE
    }

    /// Shrinks the buffer to the longest read since the last call, but at least to [`LEN_BASE`].
    /// A buffer of at most twice the longest read keeps its length.
    pub(crate) fn trim(&mut self) {
        let peak = mem::take(&mut self.peak);
        if self.len() > LEN_BASE.max(2 * peak) {
            self.reallocate(LEN_BASE.max(peak));
        }
    }

    fn reallocate(&mut self, len: usize) {
        self.memory = PageOffsetBox::new(len.min(self.len_max));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_buffer_grows_to_its_maximum_and_shrinks_to_its_use() {
        let mut read_buffer = ReadBuffer::new(1_000_000);
        assert_eq!(read_buffer.bytes_mut().len(), LEN_BASE);
        assert!(!read_buffer.is_over_base());
        for _ in 0..5 {
            read_buffer.record(read_buffer.len() - 1);
            read_buffer.record(read_buffer.len());
        }
        assert_eq!(read_buffer.bytes_mut().len(), 1_000_000);
        assert!(read_buffer.is_over_base());
        for needed in [500_000, 3 * LEN_BASE, LEN_BASE + 1] {
            let before = read_buffer.len();
            read_buffer.record(needed);
            read_buffer.record(1);
            read_buffer.trim();
            let after = if before > 2 * needed { needed } else { before };
            assert_eq!(read_buffer.len(), after, "after a read of {needed} bytes");
        }
        read_buffer.trim();
        assert_eq!(
            read_buffer.len(),
            LEN_BASE,
            "the last trim restores the base length"
        );
    }

    #[test]
    fn a_short_read_buffer_keeps_its_length() {
        let mut read_buffer = ReadBuffer::new(7);
        read_buffer.record(7);
        read_buffer.trim();
        assert_eq!(read_buffer.bytes_mut().len(), 7);
        assert!(!read_buffer.is_over_base());
    }
}
