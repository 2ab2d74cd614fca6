//! A buffer that grows without copying.
//!
//! If the buffer is too small, its bytes stay there, and a larger buffer takes the next bytes. The
//! larger buffer has a gap at its start for the earlier bytes. [`GrowBuf::settle`] fills the gaps,
//! so that a byte is copied once, however often the buffer grew meanwhile:
//!
//! ```text
//!   outgrown[0]   | a b c |
//!                     |
//!   outgrown[1]   |  gap  | d e f g |
//!                          |
//!   buf           |       gap       | h i j |   spare capacity   |
//!
//!   settled       | a b c d e f g h i j |       spare capacity   |
//! ```

use super::buf::Buf;
use super::pool::BufferPool;

/// Number of outgrown pieces that a long buffer has space for. Most frames need no more.
const OUTGROWN_LEN: usize = 4;
/// Capacity of a long buffer, in bytes. The space for its outgrown pieces is small beside it, and a
/// peer that sends only a header does not get it.
const LONG_CAPACITY: usize = 4096;

/// A buffer of the pool, and the smaller ones that it replaced.
///
/// Invariants, with `pieces` as `outgrown` followed by `buf`: no piece of `outgrown` is empty;
/// `pieces[i].len() <= pieces[i + 1].len()`; the first `pieces[i].len()` bytes of `pieces[i + 1]`
/// are the gap.
#[derive(Debug, Default)]
pub(crate) struct GrowBuf {
    /// The last piece; its length is that of all bytes, as it includes the gap.
    buf: Buf,
    /// Allocated with the first long buffer, or when a short one grows, and reused from then on.
    outgrown: Vec<Buf>,
}

impl GrowBuf {
    /// Sets the buffer. The previous one must have been put back.
    pub(crate) fn set_buf(&mut self, buf: Buf) {
        debug_assert!(
            self.outgrown.is_empty(),
            "put_back() must be called before a new buffer is set"
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

    /// All bytes. Call [`settle`](GrowBuf::settle) first.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        debug_assert!(
            self.outgrown.is_empty(),
            "settle() must be called before this method"
        );
        self.buf.bytes()
    }

    /// Capacity of the last piece.
    pub(crate) fn capacity(&self) -> usize {
        self.buf.capacity()
    }

    /// True if the capacity of the last piece exceeds `capacity`.
    #[inline]
    pub(crate) fn is_larger_than(&self, capacity: usize) -> bool {
        self.buf.is_larger_than(capacity)
    }

    /// Capacity of all pieces together.
    pub(crate) fn total_capacity(&self) -> usize {
        let outgrown = self.outgrown.iter().map(Buf::capacity);
        self.buf.capacity() + outgrown.sum::<usize>()
    }

    #[inline]
    pub(crate) fn spare_len(&self) -> usize {
        self.buf.spare_len()
    }

    /// Spare capacity to read into; call [`GrowBuf::advance`] with the number of bytes read.
    #[inline]
    pub(crate) fn spare_mut(&mut self) -> &mut [u8] {
        self.buf.spare_mut()
    }

    /// Content of the spare capacity.
    #[inline]
    pub(crate) fn spare(&self) -> &[u8] {
        self.buf.spare()
    }

    /// Appends `len` bytes that are in the spare capacity already.
    #[inline]
    pub(crate) fn advance(&mut self, len: usize) {
        self.buf.advance(len);
    }

    /// Drops `len` bytes from the start. Call [`settle`](GrowBuf::settle) first.
    #[inline]
    pub(crate) fn consume(&mut self, len: usize) {
        debug_assert!(
            self.outgrown.is_empty(),
            "settle() must be called before this method"
        );
        self.buf.consume(len);
    }

    /// Drops all bytes. Call [`settle`](GrowBuf::settle) first.
    #[inline]
    pub(crate) fn clear(&mut self) {
        debug_assert!(
            self.outgrown.is_empty(),
            "settle() must be called before this method"
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

    /// Copies the last `end.len()` bytes to `end`. The buffer must hold at least this many.
    pub(crate) fn copy_end(&self, mut end: &mut [u8]) {
        let mut piece = &self.buf;
        for previous in self.outgrown.iter().rev() {
            let own = piece.len() - previous.len();
            let (before, copied) = end.split_at_mut(end.len().saturating_sub(own));
            copied.copy_from_slice(end_of(piece, copied.len()));
            (piece, end) = (previous, before);
        }
        end.copy_from_slice(end_of(piece, end.len()));
    }

    /// The last byte.
    pub(crate) fn last(&self) -> Option<u8> {
        let mut last = [0];
        (!self.is_empty()).then(|| self.copy_end(&mut last))?;
        Some(last[0])
    }

    /// Makes the spare capacity at least `additional` bytes. Moves the bytes to the start if that
    /// is enough and they are not more than the consumed bytes. Otherwise adds a piece of
    /// `capacity` bytes, or more if needed.
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
        let mut larger = pool.take(capacity.max(len + additional));
        larger.advance(len);
        let outgrown = std::mem::replace(&mut self.buf, larger);
        if outgrown.is_empty() {
            pool.put(outgrown);
        } else {
            self.outgrown.push(outgrown);
        }
    }

    /// Copies all bytes into the last piece, and puts the other pieces back.
    #[inline]
    pub(crate) fn settle<T: Default>(&mut self, pool: &mut BufferPool<T>) {
        if !self.outgrown.is_empty() {
            self.settle_outgrown(pool);
        }
    }

    #[inline(never)]
    fn settle_outgrown<T: Default>(&mut self, pool: &mut BufferPool<T>) {
        let mut copied = 0;
        for piece in self.outgrown.drain(..) {
            let own = &piece.bytes()[copied..];
            pool.moved_bytes += own.len() as u64;
            self.buf.bytes_mut()[copied..piece.len()].copy_from_slice(own);
            copied = piece.len();
            pool.put(piece);
        }
    }

    /// Puts all pieces back; the buffer is empty then, and has no memory.
    pub(crate) fn put_back<T: Default>(&mut self, pool: &mut BufferPool<T>) {
        for piece in self.outgrown.drain(..) {
            pool.put(piece);
        }
        pool.put(std::mem::take(&mut self.buf));
    }
}

fn end_of(piece: &Buf, len: usize) -> &[u8] {
    let bytes = piece.bytes();
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
        assert_eq!((buf.capacity(), pool.moved_bytes), (64, 0));
        assert_eq!((buf.total_capacity(), buf.len()), (128, 31));
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
