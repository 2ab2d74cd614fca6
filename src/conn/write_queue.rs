//! The write side: output that the kernel has not taken yet, in order.

use std::collections::VecDeque;
use std::io::IoSlice;

use super::Pool;
use crate::memory::Buf;
use crate::payload::Payload;
use crate::timer::Stamp;

/// Maximum capacity of a new buffer for encoded bytes, unless a single append needs more. Segments
/// are freed one by one as they are written, so that a long queue releases its memory while it
/// shrinks.
const SEGMENT_LEN: usize = 64 * 1024;
/// Spare capacity for a header, in bytes, in addition to the length of the payload.
const HEADER_SPARE: usize = 32;
/// Maximum number of segments per write: enough for several frames, each with three segments:
/// header, payload and trailer.
pub(crate) const SLICES_MAX: usize = 16;

/// A queue of segments. Invariants: no segment is empty; `len` is the sum of the lengths of all
/// segments; `owned_len` is the sum of the lengths of the owned segments. The length of a segment
/// is the number of bytes that the kernel has not taken.
#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    segments: VecDeque<Segment>,
    len: usize,
    owned_len: usize,
    /// Time at which the kernel last took bytes, or at which the queue became non-empty if that is
    /// later.
    pub(crate) progress: Stamp,
}

#[derive(Debug)]
enum Segment {
    /// Encoded bytes in a buffer of the pool.
    Pooled(Buf),
    /// An owned payload. The pool counts its whole length as lent until the segment is removed.
    Owned(Box<Owned>),
}

/// The bytes of an owned payload from offset `start` on, which the kernel has not taken. Invariant:
/// `start < payload.len()`.
#[derive(Debug)]
struct Owned {
    payload: Payload,
    start: usize,
}

/// Guard of an encoder that appends to the last segment of a queue. If the appended bytes are
/// accepted, dropping the guard adds their number to the length of the queue. Otherwise dropping
/// the guard removes these bytes. The guard is also dropped after a panic of the encoder.
struct Encoding<'a> {
    write_queue: &'a mut WriteQueue,
    pool: &'a mut Pool,
    /// Length of the segment before the append.
    before: usize,
    /// Capacity of the segment before the append.
    capacity_before: usize,
    /// True if the appended bytes stay in the queue.
    is_accepted: bool,
}

impl Drop for Encoding<'_> {
    fn drop(&mut self) {
        let WriteQueue { segments, len, .. } = &mut *self.write_queue;
        if let Some(Segment::Pooled(back)) = segments.back_mut() {
            if !self.is_accepted {
                back.truncate(self.before);
            }
            *len += back.len() - self.before;
            // The encoder may have reallocated the segment.
            self.pool.count(self.capacity_before, back.capacity());
            if back.is_empty()
                && let Some(back) = segments.pop_back()
            {
                back.give_back(self.pool);
            }
        }
    }
}

impl WriteQueue {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends encoded bytes.
    pub(crate) fn push(&mut self, bytes: &[u8], pool: &mut Pool) {
        if bytes.is_empty() {
            return;
        }
        self.back_with_spare(bytes.len(), pool).put(bytes);
        self.len += bytes.len();
    }

    /// Appends an owned payload.
    pub(crate) fn push_owned(&mut self, payload: Payload, pool: &mut Pool) {
        if payload.is_empty() {
            return;
        }
        pool.count(0, payload.len());
        self.len += payload.len();
        self.owned_len += payload.len();
        let owned = Owned { payload, start: 0 };
        self.segments.push_back(Segment::Owned(Box::new(owned)));
    }

    /// Appends the bytes that `encode` puts. `payload_len` is the length of the payload, or 0 if it
    /// is unknown. If `encode` fails, appends nothing. If the queue would exceed `limit` bytes,
    /// appends nothing and returns `Ok(false)`.
    pub(crate) fn encode<E>(
        &mut self,
        payload_len: usize,
        limit: usize,
        pool: &mut Pool,
        encode: impl FnOnce(&mut Buf) -> Result<(), E>,
    ) -> Result<bool, E> {
        let queued = self.len;
        let wanted = match self.segments.back() {
            // The payload has an unknown length. If a nearly full segment grew for each such
            // payload, it would become the whole queue. So a new segment begins unless a quarter of
            // the capacity is free.
            Some(Segment::Pooled(back)) if payload_len == 0 => back.capacity() / 4,
            _ => payload_len,
        };
        let back = self.back_with_spare(wanted.saturating_add(HEADER_SPARE), pool);
        let (before, capacity_before) = (back.len(), back.capacity());
        let mut encoding = Encoding {
            write_queue: self,
            pool,
            before,
            capacity_before,
            is_accepted: false,
        };
        let Some(Segment::Pooled(back)) = encoding.write_queue.segments.back_mut() else {
            return Ok(false);
        };
        encode(back)?;
        encoding.is_accepted = queued + back.len() - before <= limit;
        Ok(encoding.is_accepted)
    }

    /// Returns the bytes to write next; empty if the queue is empty.
    #[cfg(test)]
    pub(crate) fn front(&self) -> &[u8] {
        self.segments.front().map_or(&[], |front| front.bytes())
    }

    /// Fills `slices` with the first segments of the queue, and returns the number of slices
    /// filled.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        for (slice, segment) in slices.iter_mut().zip(&self.segments) {
            *slice = IoSlice::new(segment.bytes());
        }
        self.segments.len().min(SLICES_MAX)
    }

    /// Removes the first `len` bytes, which the kernel has taken.
    pub(crate) fn consume(&mut self, mut len: usize, pool: &mut Pool) {
        self.len -= len;
        while len > 0 {
            let front = self
                .segments
                .front_mut()
                .expect("the kernel takes at most the queued bytes");
            let here = len.min(front.bytes().len());
            len -= here;
            if let Segment::Owned(_) = front {
                self.owned_len -= here;
            }
            if front.consume(here)
                && let Some(front) = self.segments.pop_front()
            {
                front.give_back(pool);
            }
        }
    }

    /// Returns the memory that the queue holds, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.segments.iter().map(Segment::held_bytes).sum()
    }

    /// Returns all segments to the pool, and returns the number of bytes that were queued.
    pub(crate) fn clear(&mut self, pool: &mut Pool) -> usize {
        let segments = self.segments.drain(..);
        segments.for_each(|segment| segment.give_back(pool));
        self.owned_len = 0;
        std::mem::take(&mut self.len)
    }

    /// Returns a copy of all bytes.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let segments = self.segments.iter();
        segments.flat_map(Segment::bytes).copied().collect()
    }

    /// Returns the last segment, with a spare capacity of at least `len` bytes. Adds a segment if
    /// the last one has less, or is an owned payload.
    fn back_with_spare(&mut self, len: usize, pool: &mut Pool) -> &mut Buf {
        let fits = match self.segments.back() {
            Some(Segment::Pooled(back)) => back.spare_len() >= len,
            _ => false,
        };
        if !fits {
            let pooled_len = self.len - self.owned_len;
            let capacity = (2 * pooled_len).min(SEGMENT_LEN).max(len);
            let buf = pool.take(capacity);
            self.segments.push_back(Segment::Pooled(buf));
        }
        match self.segments.back_mut() {
            Some(Segment::Pooled(back)) => back,
            _ => unreachable!("a segment was pushed"),
        }
    }
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Pooled(buf) => buf.bytes(),
            Self::Owned(owned) => &owned.payload[owned.start..],
        }
    }

    /// Removes the first `len` bytes, and returns true if the segment is then empty.
    fn consume(&mut self, len: usize) -> bool {
        match self {
            Self::Pooled(buf) => {
                buf.consume(len);
                buf.is_empty()
            }
            Self::Owned(owned) => {
                owned.start += len;
                owned.start == owned.payload.len()
            }
        }
    }

    fn held_bytes(&self) -> usize {
        match self {
            Self::Pooled(buf) => buf.capacity(),
            Self::Owned(owned) => owned.payload.len(),
        }
    }

    fn give_back(self, pool: &mut Pool) {
        match self {
            Self::Pooled(buf) => pool.put(buf),
            Self::Owned(owned) => pool.count(owned.payload.len(), 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consume_all(queue: &mut WriteQueue, piece: usize, pool: &mut Pool) -> Vec<u8> {
        let mut all = Vec::new();
        while !queue.is_empty() {
            let len = queue.front().len().min(piece);
            all.extend_from_slice(&queue.front()[..len]);
            queue.consume(len, pool);
        }
        all
    }

    #[test]
    fn order_is_kept_over_segments_and_partial_writes() {
        let mut pool = Pool::new(0);
        for piece in [1, 7, 4096, usize::MAX] {
            let mut queue = WriteQueue::default();
            let mut expected = Vec::new();
            for index in 0..300_u32 {
                let bytes = vec![index.to_le_bytes()[0]; (index * 7 % 1000) as usize];
                queue.push(&bytes, &mut pool);
                expected.extend_from_slice(&bytes);
            }
            assert_eq!(queue.len(), expected.len());
            assert!(consume_all(&mut queue, piece, &mut pool) == expected);
        }
    }

    #[test]
    fn failed_encode_leaves_the_queue_unchanged() {
        let mut pool = Pool::new(0);
        let mut queue = WriteQueue::default();
        queue.push(b"before", &mut pool);
        let encoded = queue.encode(3, 100, &mut pool, |out| {
            out.put(b"half");
            Err("refused")
        });
        assert_eq!(encoded, Err("refused"));
        let encoded = queue.encode(3, 8, &mut pool, |out| {
            out.put(b"abc");
            Ok::<_, ()>(())
        });
        assert_eq!(encoded, Ok(false), "nine bytes are over the limit of eight");
        assert_eq!((queue.len(), queue.front()), (6, &b"before"[..]));

        let mut empty = WriteQueue::default();
        let encoded = empty.encode(3, 100, &mut pool, |_| Err("refused"));
        assert_eq!(encoded, Err("refused"));
        assert_eq!(empty.front(), b"");
        assert!(
            empty.segments.is_empty(),
            "the unused buffer is returned to the pool"
        );
    }

    #[test]
    fn payloads_of_unknown_length_go_to_several_segments() {
        let mut pool = Pool::new(0);
        for len in [10, 100, 1024, 20_000, 33_000, 100_000] {
            let mut queue = WriteQueue::default();
            let payload = vec![7; len];
            while queue.len() < 1 << 20 {
                let put = |out: &mut Buf| {
                    out.put(&payload);
                    Ok::<_, ()>(())
                };
                assert_eq!(queue.encode(0, usize::MAX, &mut pool, put), Ok(true));
            }
            let longest = queue.segments.iter().map(Segment::held_bytes).max();
            let longest = longest.expect("the queue has segments");
            assert!(
                longest <= SEGMENT_LEN.max(8 * len),
                "payloads of {len} bytes: a segment holds {longest} bytes"
            );
            assert!(
                queue.held_bytes() <= 2 * queue.len(),
                "payloads of {len} bytes"
            );
            let queued = queue.len();
            assert_eq!(consume_all(&mut queue, 100_000, &mut pool).len(), queued);
        }
        assert_eq!(pool.lent_bytes(), 0);
    }

    #[test]
    fn an_empty_queue_holds_no_buffer() {
        let mut pool = Pool::new(0);
        let mut queue = WriteQueue::default();
        queue.push(&[1; 100_000], &mut pool);
        queue.push(b"", &mut pool);
        queue.consume(100_000, &mut pool);
        assert!(queue.segments.is_empty());
        assert_eq!(pool.free_bytes(), 131_072);
    }

    #[test]
    fn owned_payloads_keep_their_order_and_count_until_written() {
        let mut pool = Pool::new(0);
        let lent = pool.lent_bytes();
        for piece in [1, 5, usize::MAX] {
            let mut queue = WriteQueue::default();
            queue.push(b"head ", &mut pool);
            queue.push_owned(vec![b'x'; 1000].into(), &mut pool);
            queue.push_owned(Payload::from(&b""[..]), &mut pool);
            queue.push(b" tail", &mut pool);
            assert!(pool.lent_bytes() >= lent + 1000);
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            assert_eq!(queue.slices(&mut slices), 3);
            let all = [b"head ", &[b'x'; 1000][..], b" tail"].concat();
            assert!(
                slices[..3]
                    .iter()
                    .flat_map(|slice| slice.to_vec())
                    .eq(all.clone())
            );
            assert!(consume_all(&mut queue, piece, &mut pool) == all);
            assert_eq!(pool.lent_bytes(), lent);
        }
        let mut queue = WriteQueue::default();
        queue.push_owned(vec![0; 1000].into(), &mut pool);
        queue.push(b"tail", &mut pool);
        queue.consume(1002, &mut pool);
        assert_eq!(queue.front(), b"il", "a write may end in any segment");
        assert_eq!(queue.clear(&mut pool), 2);
        assert_eq!(pool.lent_bytes(), lent);
    }
}
