//! The pool that the buffers of all connections come from.

use super::buf::Buf;

/// Smallest capacity of a buffer, in bytes: enough for a partial header or a short frame. A
/// thousand connections with such a buffer use only 64 KB.
const CAPACITY_MIN: usize = 64;

/// Free buffers, in one list per power of two, and free boxes. A box contains the state that a
/// connection needs only while it has a buffer.
///
/// A buffer that is taken back stays in the pool until a trim. The reactor calls
/// [`trim`](BufferPool::trim) at intervals while [`is_over_base`](BufferPool::is_over_base) is
/// true. This frees the memory that was not needed since the previous call.
#[derive(Debug, Default)]
pub(crate) struct BufferPool<T> {
    /// `classes[i]` contains the free buffers with a capacity of `CAPACITY_MIN << i`.
    classes: Vec<Vec<Buf>>,
    /// Free boxes.
    boxes: Vec<Box<T>>,
    /// Number of boxes that are lent. `boxes` has capacity for them, so that taking them back does
    /// not allocate.
    boxes_lent: usize,
    /// Capacity of all free buffers, in bytes.
    free_bytes: usize,
    /// Smallest `free_bytes` since the last trim: `idle_bytes <= free_bytes`.
    idle_bytes: usize,
    /// Number of free bytes above which a trim frees buffers.
    base_bytes: usize,
    /// Capacity of all buffers that are lent, in bytes, and the bytes counted with
    /// [`count`](BufferPool::count).
    lent_bytes: usize,
    /// Number of bytes copied into or within buffers so far. Tests compare it with the number of
    /// bytes received.
    pub(crate) moved_bytes: u64,
}

impl<T: Default> BufferPool<T> {
    pub(crate) fn new(base_bytes: usize) -> Self {
        Self {
            base_bytes,
            ..Self::default()
        }
    }

    /// Lends an empty buffer for `len` bytes. Its capacity is the smallest power of two that is
    /// enough, and at least [`CAPACITY_MIN`].
    pub(crate) fn take(&mut self, len: usize) -> Buf {
        let class = class_of(len);
        let buf = match self.classes.get_mut(class).and_then(Vec::pop) {
            Some(buf) => {
                self.free_bytes -= buf.capacity();
                self.idle_bytes = self.idle_bytes.min(self.free_bytes);
                buf
            }
            None => Buf::with_capacity(CAPACITY_MIN << class),
        };
        self.count(0, buf.capacity());
        buf
    }

    /// Takes a lent buffer back. If the buffer was reallocated meanwhile, the caller must have
    /// passed the old and the new capacity to [`count`](BufferPool::count). A buffer whose capacity
    /// is not that of a class is freed.
    pub(crate) fn put(&mut self, mut buf: Buf) {
        let capacity = buf.capacity();
        self.count(capacity, 0);
        let class = class_of(capacity);
        if capacity != CAPACITY_MIN << class {
            return;
        }
        buf.clear();
        if class >= self.classes.len() {
            self.classes.resize_with(class + 1, Vec::new);
        }
        self.free_bytes += capacity;
        self.classes[class].push(buf);
    }

    /// Lends a box. Its value is the default, or the value that it had when it was taken back.
    pub(crate) fn take_box(&mut self) -> Box<T> {
        self.boxes_lent += 1;
        self.boxes.pop().unwrap_or_else(|| {
            // Reserved now, so that putting the box back does not allocate.
            self.boxes.reserve(self.boxes_lent);
            Box::default()
        })
    }

    /// Takes a box back, for reuse.
    pub(crate) fn put_box(&mut self, spare: Box<T>) {
        debug_assert!(self.boxes_lent > 0, "the pool must have lent the box");
        self.boxes_lent = self.boxes_lent.saturating_sub(1);
        self.boxes.push(spare);
    }

    /// Subtracts `before` bytes from the count of lent memory, and adds `after` bytes. The count
    /// includes memory that was allocated outside the pool, and the growth of lent buffers.
    pub(crate) fn count(&mut self, before: usize, after: usize) {
        self.lent_bytes = self.lent_bytes - before + after;
    }

    pub(crate) fn lent_bytes(&self) -> usize {
        self.lent_bytes
    }

    pub(crate) fn is_over_base(&self) -> bool {
        self.free_bytes > self.base_bytes
    }

    /// Frees buffers that were not needed since the last call, the largest first, while more than
    /// `base_bytes` are free. Then frees boxes, until at most one is left for each free buffer.
    pub(crate) fn trim(&mut self) {
        let mut idle_bytes = self.idle_bytes;
        for class in self.classes.iter_mut().rev() {
            while self.free_bytes > self.base_bytes
                && let Some(buf) = class.pop_if(|buf| buf.capacity() <= idle_bytes)
            {
                idle_bytes -= buf.capacity();
                self.free_bytes -= buf.capacity();
            }
            if class.is_empty() {
                class.shrink_to_fit();
            }
        }
        self.idle_bytes = self.free_bytes;
        self.boxes
            .truncate(self.classes.iter().map(Vec::len).sum::<usize>());
        if self.boxes.is_empty() && self.boxes_lent == 0 {
            self.boxes.shrink_to_fit();
        }
    }

    #[cfg(test)]
    pub(crate) fn free_bytes(&self) -> usize {
        self.free_bytes
    }
}

/// Returns the index of the class with the smallest buffers that hold `len` bytes.
fn class_of(len: usize) -> usize {
    let capacity = Buf::capacity_for(len, CAPACITY_MIN).next_power_of_two();
    (capacity.ilog2() - CAPACITY_MIN.ilog2()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pool = BufferPool<()>;

    #[test]
    fn a_payload_of_a_power_of_two_fits_with_its_header() {
        for class in 4..15 {
            let header_spare = Buf::len_max_of(1024) - 1024;
            let len = (CAPACITY_MIN << class) + header_spare;
            let mut pool = Pool::new(0);
            let mut buf = pool.take(len);
            buf.put(&vec![7; len]);
            assert_eq!(
                buf.capacity(),
                CAPACITY_MIN << class,
                "the payload fits without a larger buffer"
            );
            pool.put(buf);
            assert_eq!(pool.free_bytes(), CAPACITY_MIN << class);
            assert_eq!(pool.take(len + 1).capacity(), CAPACITY_MIN << (class + 1));
        }
    }

    #[test]
    fn a_buffer_comes_back_from_the_pool_empty() {
        let mut pool = Pool::new(0);
        let mut buf = pool.take(100);
        assert_eq!(buf.capacity(), 128);
        buf.put(b"left over");
        pool.put(buf);
        let buf = pool.take(65);
        assert!(buf.is_empty());
        assert_eq!(pool.free_bytes(), 0);
    }

    #[test]
    fn growth_of_a_lent_buffer_is_counted_by_its_user() {
        let mut pool = Pool::new(0);
        let mut buf = pool.take(100);
        let other = pool.take(64);
        assert_eq!(pool.lent_bytes(), 192);
        let before = buf.capacity();
        buf.put(&[0; 1000]);
        pool.count(before, buf.capacity());
        assert_eq!(pool.lent_bytes(), 1024 + 64);
        pool.put(buf);
        assert_eq!(pool.lent_bytes(), 64);
        pool.put(other);
        assert_eq!(pool.lent_bytes(), 0);
    }

    #[test]
    fn trim_frees_only_unused_buffers_down_to_the_base() {
        let mut pool = Pool::new(1024);
        let held: Vec<_> = (0..8).map(|_| pool.take(1024)).collect();
        for buf in held {
            pool.put(buf);
        }
        let boxes: Vec<_> = (0..8).map(|_| pool.take_box()).collect();
        for spare in boxes {
            pool.put_box(spare);
        }
        assert!(pool.is_over_base());
        pool.trim();
        assert_eq!(
            pool.free_bytes(),
            8192,
            "all buffers were in use since the last trim"
        );
        let in_use = pool.take(1024);
        pool.put(in_use);
        pool.trim();
        assert_eq!(pool.free_bytes(), 1024);
        assert!(!pool.is_over_base());
        assert_eq!(
            pool.boxes.len(),
            1,
            "trim keeps one box for each free buffer"
        );
    }

    #[test]
    fn one_buffer_larger_than_the_base_is_freed_too() {
        let mut pool = Pool::new(1024);
        let large = pool.take(4096);
        pool.put(large);
        pool.trim();
        assert!(
            pool.is_over_base(),
            "the buffer was in use since the last trim"
        );
        pool.trim();
        assert_eq!(pool.free_bytes(), 0);
    }
}
