//! The pool that the buffers of all connections come from.

use super::buf::{Buf, SPARE_LEN, SPARED_LEN_MIN};

/// The smallest buffer of the pool: a cut header and a short frame fit, and a thousand connections
/// that each hold half a header cost next to nothing.
const CAPACITY_MIN: usize = 64;

/// Free lists of buffers, one per power of two.
///
/// The pool grows to what was in use at once. [`Pool::trim`], called once in a while as long as
/// [`Pool::is_over_base`], gives back what the time since the last call did not need.
#[derive(Debug)]
pub(crate) struct Pool {
    /// `classes[i]` holds buffers with a capacity of `CAPACITY_MIN << i`, and no others.
    #[expect(
        clippy::vec_box,
        reason = "a connection holds the box: eight bytes while it idles"
    )]
    classes: Vec<Vec<Box<Buf>>>,
    /// Bytes of all free buffers.
    free_bytes: usize,
    /// The least `free_bytes` was since the last trim: what nobody needed in that time.
    spare_bytes: usize,
    base_bytes: usize,
    /// Bytes of all buffers that are taken and not put back, and of what else was counted.
    lent_bytes: usize,
    /// Bytes copied between buffers so far; tests hold this against the bytes received.
    pub(crate) moved_bytes: u64,
}

impl Pool {
    pub(crate) fn new(base_bytes: usize) -> Self {
        Self {
            classes: Vec::new(),
            free_bytes: 0,
            spare_bytes: 0,
            base_bytes,
            lent_bytes: 0,
            moved_bytes: 0,
        }
    }

    /// An empty buffer with room for `len` bytes, and less than twice as much.
    pub(crate) fn take(&mut self, len: usize) -> Box<Buf> {
        let class = class_of(len);
        let mut buf = match self.classes.get_mut(class).and_then(Vec::pop) {
            Some(buf) => {
                self.free_bytes -= buf.capacity();
                self.spare_bytes = self.spare_bytes.min(self.free_bytes);
                buf
            }
            None => Box::new(Buf::with_capacity(CAPACITY_MIN << class)),
        };
        self.recount(&mut buf);
        buf
    }

    pub(crate) fn put(&mut self, mut buf: Box<Buf>) {
        self.lent_bytes -= std::mem::take(&mut buf.lent);
        if let Some(front) = buf.front.take() {
            self.put(front);
        }
        let class = class_of(buf.capacity());
        if buf.capacity() != CAPACITY_MIN << class {
            return;
        }
        buf.clear();
        buf.need = 0;
        buf.is_open_ended = false;
        buf.scanned = 0;
        buf.dropped = 0;
        buf.skip = 0;
        if class >= self.classes.len() {
            self.classes.resize_with(class + 1, Vec::new);
        }
        self.free_bytes += buf.capacity();
        self.classes[class].push(buf);
    }

    /// Makes room for `additional` bytes at the end of `buf`: by moving its bytes to the front
    /// where that is enough, and more than those were consumed; else in a buffer of `capacity`
    /// bytes, or as many as it takes. The bytes stay where they are until [`Pool::settle`]: so they
    /// are copied once, however often the buffer grows meanwhile.
    pub(crate) fn reserve(&mut self, buf: &mut Box<Buf>, additional: usize, capacity: usize) {
        if additional <= buf.spare_len() {
            return;
        }
        let consumed = buf.start - buf.base;
        if buf.len() <= consumed && buf.len() + additional <= buf.capacity() {
            self.moved_bytes += buf.len() as u64;
            buf.move_to_front();
            return;
        }
        let mut larger = self.take(capacity.max(buf.len() + additional));
        larger.end += buf.len();
        larger.need = buf.need;
        larger.is_open_ended = buf.is_open_ended;
        larger.scanned = buf.scanned;
        larger.dropped = buf.dropped;
        larger.since = buf.since;
        let front = std::mem::replace(buf, larger);
        if front.is_empty() {
            self.put(front);
        } else {
            buf.front = Some(front);
        }
    }

    /// Puts all bytes of `buf` into one place.
    #[inline]
    pub(crate) fn settle(&mut self, buf: &mut Buf) {
        while let Some(front) = buf.front.take() {
            self.settle_one(buf, front);
        }
    }

    #[cold]
    #[inline(never)]
    fn settle_one(&mut self, buf: &mut Buf, mut front: Box<Buf>) {
        let own = front.start + front.front_len()..front.end;
        let at = buf.start + front.front_len();
        self.moved_bytes += own.len() as u64;
        buf.data[at..at + own.len()].copy_from_slice(&front.data[own]);
        buf.front = front.front.take();
        self.put(front);
    }

    /// Counts a lent buffer as it is now: it may have grown by itself.
    #[inline]
    pub(crate) fn recount(&mut self, buf: &mut Buf) {
        let now = buf.capacity();
        let before = std::mem::replace(&mut buf.lent, now);
        self.count(before, now);
    }

    /// Counts memory that is lent by others: it was `before` bytes and is `after`.
    #[inline]
    pub(crate) fn count(&mut self, before: usize, after: usize) {
        self.lent_bytes = self.lent_bytes - before + after;
    }

    #[inline]
    pub(crate) fn lent_bytes(&self) -> usize {
        self.lent_bytes
    }

    pub(crate) fn is_over_base(&self) -> bool {
        self.free_bytes > self.base_bytes
    }

    /// Frees buffers that lay idle since the last call, the largest first, until no more than the
    /// base is left.
    pub(crate) fn trim(&mut self) {
        let mut idle_bytes = self.spare_bytes;
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
        self.spare_bytes = self.free_bytes;
    }

    #[cfg(test)]
    pub(crate) fn free_bytes(&self) -> usize {
        self.free_bytes
    }
}

/// The class of the smallest buffers with room for so many bytes.
fn class_of(len: usize) -> usize {
    let spared = len.saturating_sub(SPARE_LEN).max(SPARED_LEN_MIN);
    let rounded = len.clamp(CAPACITY_MIN, spared).next_power_of_two();
    (rounded.ilog2() - CAPACITY_MIN.ilog2()) as usize
}

#[cfg(test)]
mod tests {
    use super::super::buf::{PAGE_LEN, PLACED_LEN_MIN};
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
    fn a_long_buffer_begins_in_the_middle_of_a_page_whatever_becomes_of_it() {
        let place = |buf: &Buf| buf.bytes().as_ptr().addr() % PAGE_LEN;
        for capacity in [PLACED_LEN_MIN, 100_000, 1 << 20] {
            let mut buf = Buf::with_capacity(capacity);
            assert_eq!(buf.capacity(), capacity);
            assert!(buf.spare_len() >= capacity);
            buf.put(&vec![1; capacity]);
            assert_eq!(place(&buf), PAGE_LEN / 2);
            buf.consume(capacity - 1);
            buf.put(&vec![2; capacity / 2 - 1]);
            assert_eq!(place(&buf), PAGE_LEN / 2, "moved to the front");
            buf.put(&vec![3; capacity]);
            assert_eq!(place(&buf), PAGE_LEN / 2, "grown");
            assert!(buf.capacity() > capacity && buf.capacity().is_power_of_two());
            assert_eq!(buf.bytes()[..3], [1, 2, 2]);
            buf.clear();
            buf.put(b"anew");
            assert_eq!(place(&buf), PAGE_LEN / 2, "emptied");
        }
        let mut pool = Pool::new(0);
        let mut buf = pool.take(PLACED_LEN_MIN);
        buf.put(&[1; PLACED_LEN_MIN]);
        buf.consume(1);
        pool.reserve(&mut buf, 4096, 0);
        pool.settle(&mut buf);
        assert_eq!(
            (place(&buf), buf.capacity()),
            (PAGE_LEN / 2, 2 * PLACED_LEN_MIN)
        );
        pool.put(buf);
        assert_eq!(pool.free_bytes(), 3 * PLACED_LEN_MIN);
    }

    #[test]
    fn whether_a_buffer_is_larger_is_told_by_its_capacity_and_not_by_what_is_spared() {
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
            for more in [0, 1, SPARE_LEN - 1, SPARE_LEN + PAGE_LEN - 1] {
                assert!(!buf.is_larger_than(capacity + more), "{capacity}");
            }
        }
    }

    #[test]
    fn reserve_moves_to_the_front_before_it_grows() {
        let mut pool = Pool::new(0);
        let mut buf = pool.take(64);
        buf.put(&[7; 60]);
        buf.consume(50);
        pool.reserve(&mut buf, 54, 0);
        assert_eq!((buf.capacity(), buf.len(), pool.moved_bytes), (64, 10, 10));
        pool.reserve(&mut buf, 55, 100);
        pool.settle(&mut buf);
        assert_eq!((buf.capacity(), buf.len(), pool.moved_bytes), (128, 10, 20));
        assert_eq!(buf.bytes(), [7; 10]);
        assert_eq!(pool.free_bytes(), 64);
    }

    #[test]
    fn what_was_consumed_is_not_made_room_of_where_more_would_be_moved() {
        let mut pool = Pool::new(0);
        let mut buf = pool.take(64);
        buf.put(&[7; 60]);
        buf.consume(29);
        pool.reserve(&mut buf, 10, 0);
        assert_eq!((buf.capacity(), pool.moved_bytes), (64, 0));
        assert_eq!((buf.total_capacity(), buf.len()), (128, 31));
        pool.settle(&mut buf);
        assert_eq!((buf.bytes(), pool.moved_bytes), (&[7; 31][..], 31));
    }

    #[test]
    fn a_buffer_that_grew_in_steps_is_copied_once() {
        let mut pool = Pool::new(0);
        let mut buf = pool.take(64);
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for (index, byte) in bytes.iter().enumerate() {
            pool.reserve(&mut buf, 1, 0);
            buf.put(&[*byte]);
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
        pool.settle(&mut buf);
        assert_eq!((buf.bytes(), pool.moved_bytes), (&bytes[..], 512));
        assert_eq!((pool.lent_bytes(), pool.free_bytes()), (1024, 960));

        pool.reserve(&mut buf, 100, 0);
        assert_eq!(pool.lent_bytes(), 1024 + 2048);
        pool.put(buf);
        assert_eq!((pool.lent_bytes(), pool.free_bytes()), (0, 960 + 3072));
    }

    #[test]
    fn a_payload_of_a_power_of_two_fits_with_its_header() {
        for class in 4..15 {
            let len = (CAPACITY_MIN << class) + SPARE_LEN;
            let mut pool = Pool::new(0);
            let mut buf = pool.take(len);
            buf.put(&vec![7; len]);
            assert_eq!(buf.capacity(), CAPACITY_MIN << class, "it did not grow");
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
        buf.need = 9;
        buf.scanned = 9;
        pool.put(buf);
        let buf = pool.take(65);
        assert!(buf.is_empty());
        assert_eq!((buf.need, buf.scanned, pool.free_bytes()), (0, 0, 0));
    }

    #[test]
    fn what_is_lent_is_counted_also_where_it_grew_meanwhile() {
        let mut pool = Pool::new(0);
        let mut buf = pool.take(100);
        let other = pool.take(64);
        assert_eq!(pool.lent_bytes(), 192);
        pool.reserve(&mut buf, 200, 0);
        assert_eq!(pool.lent_bytes(), 256 + 64);
        buf.put(&[0; 1000]);
        pool.recount(&mut buf);
        assert_eq!(pool.lent_bytes(), 1024 + 64);
        buf.put(&[0; 1000]);
        pool.put(buf);
        assert_eq!(
            pool.lent_bytes(),
            64,
            "what was not recounted counts for nothing"
        );
        pool.put(other);
        assert_eq!(pool.lent_bytes(), 0);
    }

    #[test]
    fn trim_frees_only_what_lay_idle_and_stops_at_the_base() {
        let mut pool = Pool::new(1024);
        let held: Vec<_> = (0..8).map(|_| pool.take(1024)).collect();
        held.into_iter().for_each(|buf| pool.put(buf));
        assert!(pool.is_over_base());
        pool.trim();
        assert_eq!(
            pool.free_bytes(),
            8192,
            "all of it was in use since the last call"
        );
        let in_use = pool.take(1024);
        pool.put(in_use);
        pool.trim();
        assert_eq!(pool.free_bytes(), 1024);
        assert!(!pool.is_over_base());
    }

    #[test]
    fn one_buffer_larger_than_the_base_is_freed_too() {
        let mut pool = Pool::new(1024);
        let large = pool.take(4096);
        pool.put(large);
        pool.trim();
        assert!(pool.is_over_base(), "it was in use since the last call");
        pool.trim();
        assert_eq!(pool.free_bytes(), 0);
    }
}
