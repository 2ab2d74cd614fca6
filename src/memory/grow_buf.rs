//! A buffer that grows without copying its bytes each time.
//!
//! If a buffer becomes too small, its bytes stay in it, and a larger buffer receives the next
//! bytes. At its start, the larger buffer has a gap that is as long as all earlier bytes.
//! [`GrowBuf::settle`] copies the earlier bytes into the gap of the largest buffer. So each byte is
//! copied at most once, even if the buffer grew several times:
//!
//! ```text
//!   outgrown[0]   | a b c |
//!                     |
//!   outgrown[1]   |  gap  | d e f g |
//!                          |
//!   buf           |       gap       | h i j |   spare capacity   |
//!   buf, settled  | a b c d e f g h i j |       spare capacity   |
//! ```

use super::buf::Buf;
use super::pool::BufferPool;

/// Number of elements of `outgrown` that are reserved for a long buffer. Few frames need more.
const OUTGROWN_LEN: usize = 4;
/// Minimum capacity of a long buffer, in bytes. The memory of `outgrown` is small compared with
/// such a buffer. A peer that sends only a header gets a shorter buffer, for which nothing is
/// reserved.
const LONG_CAPACITY: usize = 4096;

/// A buffer from the pool, and the smaller buffers that it replaced.
///
/// Invariants, where `all` is `outgrown` followed by `buf`: no buffer of `outgrown` is empty;
/// `all[i].len() <= all[i + 1].len()`; the first `all[i].len()` bytes of `all[i + 1]` are its gap.
#[derive(Debug, Default)]
pub(crate) struct GrowBuf {
    /// The largest buffer. It begins with a gap that is as long as all bytes in `outgrown`. So
    /// `buf.len()` is the number of all bytes.
    buf: Buf,
    /// Buffers that became too small, in the order of their length. The memory of this list is
    /// allocated with the first long buffer, or when a short buffer grows, and is then kept.
    outgrown: Vec<Buf>,
}

impl GrowBuf {
    /// Sets the buffer. [`GrowBuf::put_back`] must have returned the previous buffer to the pool.
    pub(crate) fn set_buf(&mut self, buf: Buf) {
        debug_assert!(
            self.outgrown.is_empty(),
            "put_back() must have returned all previous buffers to the pool"
        );
        if buf.capacity() >= LONG_CAPACITY {
            self.outgrown.reserve(OUTGROWN_LEN);
        }
        self.buf = buf;
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.buf.len()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// Returns all bytes. Call [`settle`](GrowBuf::settle) first, so that one buffer contains them.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        debug_assert!(
            self.outgrown.is_empty(),
            "settle() must be called first, so that one buffer contains all bytes"
        );
        self.buf.bytes()
    }

    /// Returns the capacity of the largest buffer.
    pub(crate) fn capacity(&self) -> usize {
        self.buf.capacity()
    }

    /// Returns true if the capacity of the largest buffer exceeds `capacity`.
    #[inline]
    pub(crate) fn is_larger_than(&self, capacity: usize) -> bool {
        self.buf.is_larger_than(capacity)
    }

    /// Returns the capacity of all buffers together.
    pub(crate) fn total_capacity(&self) -> usize {
        let outgrown = self.outgrown.iter().map(Buf::capacity);
        self.buf.capacity() + outgrown.sum::<usize>()
    }

    #[inline]
    pub(crate) fn spare_len(&self) -> usize {
        self.buf.spare_len()
    }

    /// Returns the spare capacity to read into; call [`GrowBuf::advance`] with the number of bytes
    /// read.
    #[inline]
    pub(crate) fn spare_mut(&mut self) -> &mut [u8] {
        self.buf.spare_mut()
    }

    /// Returns the spare capacity, to check bytes that were read into it and are not appended yet.
    #[inline]
    pub(crate) fn spare(&self) -> &[u8] {
        self.buf.spare()
    }

    /// Appends the first `len` bytes of the spare capacity to the content.
    #[inline]
    pub(crate) fn advance(&mut self, len: usize) {
        self.buf.advance(len);
    }

    /// Drops the first `len` bytes. Call [`settle`](GrowBuf::settle) first, so that one buffer
    /// contains all bytes.
    #[inline]
    pub(crate) fn consume(&mut self, len: usize) {
        debug_assert!(
            self.outgrown.is_empty(),
            "settle() must be called first, so that one buffer contains all bytes"
        );
        self.buf.consume(len);
    }

    /// Drops all bytes. Call [`settle`](GrowBuf::settle) first, so that one buffer contains them.
    #[inline]
    pub(crate) fn clear(&mut self) {
        debug_assert!(
            self.outgrown.is_empty(),
            "settle() must be called first, so that one buffer contains all bytes"
        );
        self.buf.clear();
    }

    /// Appends bytes that fit into the spare capacity.
    #[inline]
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        debug_assert!(
            bytes.len() <= self.spare_len(),
            "the bytes must fit into the spare capacity"
        );
        self.buf.put(bytes);
    }

    /// Appends bytes and returns true, or returns false if the spare capacity is too small.
    #[inline(always)]
    pub(crate) fn try_put(&mut self, bytes: &[u8]) -> bool {
        self.buf.try_put(bytes)
    }

    /// Copies the last `target.len()` bytes to `target`. The content must be at least that long.
    pub(crate) fn copy_end(&self, mut target: &mut [u8]) {
        let mut buf = &self.buf;
        for previous in self.outgrown.iter().rev() {
            let own_len = buf.len() - previous.len();
            let (before, copied) = target.split_at_mut(target.len().saturating_sub(own_len));
            copied.copy_from_slice(end_of(buf, copied.len()));
            (buf, target) = (previous, before);
        }
        target.copy_from_slice(end_of(buf, target.len()));
    }

    /// Returns the last byte.
    pub(crate) fn last(&self) -> Option<u8> {
        let mut last = [0];
        (!self.is_empty()).then(|| self.copy_end(&mut last))?;
        Some(last[0])
    }

    /// Ensures a spare capacity of at least `additional` bytes.
    ///
    /// If there are at least as many consumed bytes as bytes in use, and a move creates enough
    /// spare capacity, moves the bytes in use to the start of the buffer. Otherwise takes a larger
    /// buffer from the pool, with at least `capacity` bytes. So the number of copies per received
    /// byte has a constant bound.
    pub(crate) fn reserve<T: Default>(
        &mut self,
        additional: usize,
        capacity: usize,
        pool: &mut BufferPool<T>,
    ) {
        if additional <= self.spare_len() {
            return;
        }
        let len = self.len();
        if len <= self.buf.consumed_len() && len + additional <= self.capacity() {
            pool.moved_bytes += len as u64;
            self.buf.move_to_front();
            return;
        }
        let mut wanted = capacity.max(len + additional);
        if self.buf.consumed_len() > 0 && wanted <= Buf::len_max_of(self.capacity()) {
            // A buffer of the same capacity would be full again after few bytes. Each time, all
            // bytes would be copied.
            wanted = 2 * self.capacity();
        }
        let mut larger = pool.take(wanted);
        larger.advance(len);
        let outgrown = std::mem::replace(&mut self.buf, larger);
        if outgrown.is_empty() {
            pool.put(outgrown);
        } else {
            self.outgrown.push(outgrown);
        }
    }

    /// Copies all bytes into the largest buffer, and returns the smaller buffers to the pool.
    #[inline]
    pub(crate) fn settle<T: Default>(&mut self, pool: &mut BufferPool<T>) {
        if !self.outgrown.is_empty() {
            self.settle_outgrown(pool);
        }
    }

    #[inline(never)]
    fn settle_outgrown<T: Default>(&mut self, pool: &mut BufferPool<T>) {
        let mut copied = 0;
        for smaller in self.outgrown.drain(..) {
            let own = &smaller.bytes()[copied..];
            pool.moved_bytes += own.len() as u64;
            self.buf.bytes_mut()[copied..smaller.len()].copy_from_slice(own);
            copied = smaller.len();
            pool.put(smaller);
        }
    }

    /// Returns all buffers to the pool. The `GrowBuf` is then empty and owns no buffer.
    pub(crate) fn put_back<T: Default>(&mut self, pool: &mut BufferPool<T>) {
        for smaller in self.outgrown.drain(..) {
            pool.put(smaller);
        }
        pool.put(std::mem::take(&mut self.buf));
    }
}

/// Returns the last `len` bytes of a buffer.
fn end_of(buf: &Buf, len: usize) -> &[u8] {
    let bytes = buf.bytes();
    &bytes[bytes.len() - len..]
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pool = BufferPool<()>;

    fn taken(pool: &mut Pool, len: usize) -> GrowBuf {
        let mut buf = GrowBuf::default();
        buf.set_buf(pool.take(len));
        buf
    }

    #[test]
    fn reserve_moves_bytes_to_the_start_before_it_grows() {
        let mut pool = Pool::new(0);
        let mut buf = taken(&mut pool, 64);
        buf.put(&[7; 60]);
        buf.consume(50);
        buf.reserve(54, 0, &mut pool);
        assert_eq!((buf.capacity(), buf.len(), pool.moved_bytes), (64, 10, 10));
        buf.reserve(55, 100, &mut pool);
        buf.settle(&mut pool);
        assert_eq!((buf.capacity(), buf.len(), pool.moved_bytes), (128, 10, 20));
        assert_eq!(buf.bytes(), [7; 10]);
        assert_eq!(pool.free_bytes(), 64);
    }

    #[test]
    fn reserve_grows_if_more_bytes_are_held_than_consumed() {
        let mut pool = Pool::new(0);
        let mut buf = taken(&mut pool, 64);
        buf.put(&[7; 60]);
        buf.consume(29);
        buf.reserve(10, 0, &mut pool);
        assert_eq!((buf.capacity(), pool.moved_bytes), (128, 0));
        assert_eq!((buf.total_capacity(), buf.len()), (192, 31));
        buf.settle(&mut pool);
        assert_eq!((buf.bytes(), pool.moved_bytes), (&[7; 31][..], 31));
    }

    #[test]
    fn a_buffer_that_grew_in_steps_is_copied_once() {
        let mut pool = Pool::new(0);
        let mut buf = taken(&mut pool, 64);
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for (index, byte) in bytes.iter().enumerate() {
            buf.reserve(1, 0, &mut pool);
            buf.put(&[*byte]);
            assert_eq!(buf.last(), Some(*byte));
            for len in [1, 3, index.min(90)]
                .into_iter()
                .filter(|len| *len <= index)
            {
                let mut end = vec![0; len];
                buf.copy_end(&mut end);
                assert_eq!(end, bytes[index + 1 - len..=index]);
            }
        }
        assert_eq!(buf.total_capacity(), 64 + 128 + 256 + 512 + 1024);
        assert_eq!(pool.lent_bytes(), buf.total_capacity());
        buf.settle(&mut pool);
        assert_eq!((buf.bytes(), pool.moved_bytes), (&bytes[..], 512));
        assert_eq!((pool.lent_bytes(), pool.free_bytes()), (1024, 960));

        buf.reserve(100, 0, &mut pool);
        assert_eq!(pool.lent_bytes(), 1024 + 2048);
        buf.put_back(&mut pool);
        assert_eq!((pool.lent_bytes(), pool.free_bytes()), (0, 960 + 3072));
        assert_eq!((buf.len(), buf.total_capacity()), (0, 0));
    }

    #[test]
    fn a_long_buffer_grows_to_the_next_power_of_two() {
        let mut pool = Pool::new(0);
        let mut buf = taken(&mut pool, 64 * 1024);
        buf.put(&[1; 64 * 1024]);
        buf.consume(1);
        buf.reserve(4096, 0, &mut pool);
        buf.settle(&mut pool);
        assert_eq!(buf.capacity(), 128 * 1024);
        assert_eq!(buf.bytes(), &[1; 64 * 1024 - 1][..]);
        buf.put_back(&mut pool);
        assert_eq!(pool.free_bytes(), 3 * 64 * 1024);
    }
}
