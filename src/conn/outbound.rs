//! The write side: output that the kernel has not taken yet, in order.

use std::collections::VecDeque;

use crate::buffer::{Buf, Pool};
use crate::timer::Stamp;

/// The largest segment that is made for more than one payload. Segments are freed one by one as
/// they drain, so a long queue gives its memory back while it shrinks.
const SEGMENT_LEN: usize = 64 * 1024;
/// Room beyond the payload that is kept for its header.
const HEADER_ROOM: usize = 32;

/// A queue of pooled segments. Invariant: `len` is the sum of their lengths, none is empty.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    segments: VecDeque<Box<Buf>>,
    len: usize,
    /// When the kernel last took something, or the queue began.
    pub(crate) progress: Stamp,
}

impl Outbound {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends bytes that are encoded already.
    pub(crate) fn push(&mut self, bytes: &[u8], pool: &mut Pool) {
        if bytes.is_empty() {
            return;
        }
        self.back_with_room(bytes.len(), pool).put(bytes);
        self.len += bytes.len();
    }

    /// Appends what `encode` puts, for a payload of `payload_len` bytes; nothing where it fails, or
    /// where the queue would be longer than `limit` (`Ok(false)`).
    pub(crate) fn encode<E>(
        &mut self,
        payload_len: usize,
        limit: usize,
        pool: &mut Pool,
        encode: impl FnOnce(&mut Buf) -> Result<(), E>,
    ) -> Result<bool, E> {
        let queued = self.len;
        let back = self.back_with_room(payload_len.saturating_add(HEADER_ROOM), pool);
        let before = back.len();
        let result = encode(back);
        let mut added = back.len() - before;
        let accepted = result.is_ok() && queued + added <= limit;
        if !accepted {
            back.truncate(before);
            added = 0;
        }
        pool.recount(back);
        if back.is_empty() {
            self.segments
                .pop_back()
                .into_iter()
                .for_each(|back| pool.put(back));
        }
        self.len += added;
        result.map(|()| accepted)
    }

    /// The bytes to write next; empty where there are none.
    pub(crate) fn front(&self) -> &[u8] {
        self.segments.front().map_or(&[], |front| front.bytes())
    }

    /// Drops `len` bytes of [`front`](Outbound::front), which the kernel has taken.
    pub(crate) fn consume(&mut self, len: usize, pool: &mut Pool) {
        let front = self
            .segments
            .front_mut()
            .expect("only bytes that were shown are consumed");
        front.consume(len);
        self.len -= len;
        if front.is_empty() {
            self.segments
                .pop_front()
                .into_iter()
                .for_each(|front| pool.put(front));
        }
    }

    /// Bytes of the buffers that it holds.
    pub(crate) fn held_bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.capacity()).sum()
    }

    /// Gives all segments back and tells how many bytes were in them.
    pub(crate) fn clear(&mut self, pool: &mut Pool) -> usize {
        self.segments
            .drain(..)
            .for_each(|segment| pool.put(segment));
        std::mem::take(&mut self.len)
    }

    fn back_with_room(&mut self, len: usize, pool: &mut Pool) -> &mut Box<Buf> {
        if self.segments.back().is_none_or(|back| back.room() < len) {
            let capacity = (2 * self.len).min(SEGMENT_LEN).max(len);
            self.segments.push_back(pool.take(capacity));
        }
        self.segments
            .back_mut()
            .expect("one was pushed if there was none")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(queue: &mut Outbound, piece: usize, pool: &mut Pool) -> Vec<u8> {
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
            let mut queue = Outbound::default();
            let mut expected = Vec::new();
            for index in 0..300_u32 {
                let bytes = vec![index.to_le_bytes()[0]; (index * 7 % 1000) as usize];
                queue.push(&bytes, &mut pool);
                expected.extend_from_slice(&bytes);
            }
            assert_eq!(queue.len(), expected.len());
            assert!(drain(&mut queue, piece, &mut pool) == expected);
        }
    }

    #[test]
    fn a_refused_payload_leaves_the_queue_as_it_was() {
        let mut pool = Pool::new(0);
        let mut queue = Outbound::default();
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

        let mut empty = Outbound::default();
        let encoded = empty.encode(3, 100, &mut pool, |_| Err("refused"));
        assert_eq!(encoded, Err("refused"));
        assert_eq!(empty.front(), b"");
        assert!(
            empty.segments.is_empty(),
            "its buffer went back to the pool"
        );
    }

    #[test]
    fn an_empty_queue_holds_no_buffer() {
        let mut pool = Pool::new(0);
        let mut queue = Outbound::default();
        queue.push(&[1; 100_000], &mut pool);
        queue.push(b"", &mut pool);
        queue.consume(100_000, &mut pool);
        assert!(queue.segments.is_empty());
        assert_eq!(pool.free_bytes(), 131_072);
    }
}
