//! Datagrams: messages that keep their boundaries.
//!
//! A connection has bytes, and needs a state machine to find frames in them. A datagram is whole
//! when it arrives and when it is sent. So a send queue is two rings: payload bytes, and lengths
//! with addresses.

mod framed;
#[cfg_attr(
    not(all(feature = "udp-batch", any(target_os = "linux", target_os = "android"))),
    allow(dead_code, reason = "only batches are made of runs")
)]
pub(crate) mod gso_run;

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::memory::Buf;

pub use framed::{DatagramError, DatagramFault};

/// One received datagram.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Datagram<'a> {
    /// Source address. UDP lets a sender write any address here.
    pub from: SocketAddr,
    /// Payload; empty is valid.
    pub data: &'a [u8],
    /// True if the datagram exceeded [`Config::datagram_len_max`](crate::Config::datagram_len_max):
    /// `data` is its beginning; the remaining bytes are lost.
    pub truncated: bool,
}

/// One datagram received by a Unix socket.
#[cfg(unix)]
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct UnixDatagram<'a> {
    /// Address that its sender is bound to. It is unnamed if the sender is not bound; such a
    /// datagram cannot be answered.
    pub from: &'a crate::UnixAddr,
    /// Payload; empty is valid.
    pub data: &'a [u8],
    /// True if the datagram exceeded [`Config::datagram_len_max`](crate::Config::datagram_len_max):
    /// `data` is its beginning; the remaining bytes are lost.
    pub truncated: bool,
}

/// Length of a slot, in bytes: the longest datagram, or the longest message of several datagrams
/// (`UDP_GRO`).
const SLOT_LEN: usize = 65_536;
/// Distance between two slots, in bytes. It is no power of two: otherwise the first bytes of all
/// slots would share one set of a cache.
const SLOT_STRIDE: usize = SLOT_LEN + 192;

/// Slots that datagrams are received into, shared by all sockets of a reactor. It is empty until
/// the first receive, then as large as the largest number of slots asked for. A datagram touches
/// only the pages that it needs.
#[derive(Debug, Default)]
pub(crate) struct RecvBatch {
    buf: Box<[u8]>,
    messages: Vec<Message>,
}

/// Content of one slot: one datagram, or several of one sender. All of these are `segment_len`
/// bytes long except the last, which may be shorter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    pub(crate) from: SocketAddr,
    pub(crate) len: usize,
    pub(crate) segment_len: usize,
}

impl Message {
    /// Creates the message of one datagram.
    pub(crate) fn one(from: SocketAddr, len: usize) -> Self {
        Self {
            from,
            len,
            segment_len: len,
        }
    }

    /// Number of datagrams; at least 1.
    pub(crate) fn count(&self) -> usize {
        self.len.div_ceil(self.segment_len.max(1)).max(1)
    }
}

impl RecvBatch {
    /// Returns `N` slots to receive into. Messages received before are dropped.
    pub(crate) fn slots<const N: usize>(&mut self) -> [&mut [u8]; N] {
        if self.buf.len() < N * SLOT_STRIDE {
            self.buf = vec![0; N * SLOT_STRIDE].into_boxed_slice();
            self.messages.reserve(N);
        }
        self.messages.clear();
        let mut slots = self.buf.chunks_exact_mut(SLOT_STRIDE);
        std::array::from_fn(|_| {
            let slot = slots
                .next()
                .expect("the buffer has a slot for each message");
            &mut slot[..SLOT_LEN]
        })
    }

    /// Appends the message of the next slot.
    pub(crate) fn push(&mut self, message: Message) {
        debug_assert!(message.len <= SLOT_LEN, "a message must fit into its slot");
        self.messages.push(message);
    }

    /// Number of messages received.
    pub(crate) fn count(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn message(&self, index: usize) -> Message {
        self.messages[index]
    }

    /// Returns the datagrams of the message at `index`; at least one.
    pub(crate) fn datagrams(&self, index: usize) -> impl Iterator<Item = &[u8]> {
        let message = self.messages[index];
        let begin = index * SLOT_STRIDE;
        let data = &self.buf[begin..begin + message.len];
        (0..message.count()).map(move |part| {
            let begin = part * message.segment_len;
            &data[begin..data.len().min(begin + message.segment_len)]
        })
    }
}

/// Bytes that a queued datagram counts beyond its payload. Without them the queue of empty
/// datagrams would be unbounded.
const OVERHEAD: usize = 64;

/// Datagrams that wait for the socket. Invariant: the lengths of `heads` add up to the length of
/// `payload`.
#[derive(Debug, Default)]
pub(crate) struct DatagramQueue {
    heads: VecDeque<Head>,
    payload: Buf,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    to: Option<SocketAddr>,
    len: usize,
}

impl DatagramQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Number of datagrams queued.
    pub(crate) fn count(&self) -> usize {
        self.heads.len()
    }

    /// Number of bytes queued, with [`OVERHEAD`] per datagram.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.payload.len() + OVERHEAD * self.heads.len()
    }

    /// Memory of the queue, in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.payload.capacity() + size_of::<Head>() * self.heads.capacity()
    }

    /// Queues a datagram and returns true, or returns false if the queue would exceed `limit`
    /// bytes.
    pub(crate) fn push(&mut self, to: Option<SocketAddr>, data: &[u8], limit: usize) -> bool {
        let queued = self.queued_bytes();
        if queued.saturating_add(data.len()).saturating_add(OVERHEAD) > limit {
            return false;
        }
        self.payload.put(data);
        self.heads.push_back(Head {
            to,
            len: data.len(),
        });
        true
    }

    /// The oldest datagram. Its address is `None` if it goes to the connected peer.
    pub(crate) fn front(&self) -> Option<(Option<SocketAddr>, &[u8])> {
        let head = self.heads.front()?;
        Some((head.to, &self.payload.bytes()[..head.len]))
    }

    /// Payload lengths, the oldest datagram first.
    pub(crate) fn lens(&self) -> impl Iterator<Item = usize> {
        self.heads.iter().map(|head| head.len)
    }

    /// Drops the `count` oldest datagrams, and returns the number of payload bytes dropped.
    pub(crate) fn pop(&mut self, count: usize) -> usize {
        let len = self.heads.drain(..count).map(|head| head.len).sum();
        self.payload.consume(len);
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagram_boundaries_and_order_are_kept() {
        let mut queue = DatagramQueue::default();
        let to = "127.0.0.1:9".parse().ok();
        let sent: Vec<Vec<u8>> = (0..50).map(|len| vec![7; len % 5 * 100]).collect();
        for (index, data) in sent.iter().enumerate() {
            assert!(queue.push(to.filter(|_| index % 2 == 0), data, usize::MAX));
            if index % 3 == 0 {
                assert_eq!(
                    queue.front().expect("the queue is not empty").1,
                    sent[index / 3]
                );
                queue.pop(1);
            }
        }
        for (index, data) in sent.iter().enumerate().skip(17) {
            assert_eq!(
                queue.front(),
                Some((to.filter(|_| index % 2 == 0), &data[..]))
            );
            queue.pop(1);
        }
        assert!(queue.is_empty());
    }

    #[test]
    fn datagram_is_queued_if_it_fits_exactly() {
        let mut queue = DatagramQueue::default();
        assert!(!queue.push(None, &[7; 1000 - OVERHEAD + 1], 1000));
        assert!(queue.push(None, &[7; 500 - OVERHEAD], 1000));
        assert!(!queue.push(None, &[7; 500 - OVERHEAD + 1], 1000));
        assert!(queue.push(None, &[7; 500 - OVERHEAD], 1000));
        assert_eq!(queue.queued_bytes(), 1000);
    }

    #[test]
    fn queue_limit_applies_to_empty_datagrams_too() {
        let mut queue = DatagramQueue::default();
        let accepted = (0..1000).filter(|_| queue.push(None, b"", 6400)).count();
        assert_eq!(accepted, 100);
        queue.pop(1);
        assert!(queue.push(None, b"", 6400));
        assert!(!queue.push(None, b"", 6400));
    }

    #[test]
    fn a_message_is_split_into_the_datagrams_of_its_sender() {
        let mut recv_batch = RecvBatch::default();
        let from = SocketAddr::from(([127, 0, 0, 1], 9));
        for (len, segment_len, parts) in [
            (0, 0, &[0][..]),
            (1, 1, &[1]),
            (10, 10, &[10]),
            (10, 4, &[4, 4, 2]),
            (8, 4, &[4, 4]),
            (SLOT_LEN, 65_000, &[65_000, 536]),
        ] {
            let [first, second] = recv_batch.slots();
            first[..len].fill(1);
            second[..len].fill(2);
            for _ in 0..2 {
                recv_batch.push(Message {
                    from,
                    len,
                    segment_len,
                });
            }
            assert_eq!(recv_batch.count(), 2);
            for (index, byte) in [(0, 1), (1, 2)] {
                assert_eq!(recv_batch.message(index).count(), parts.len());
                let datagrams: Vec<_> = recv_batch.datagrams(index).collect();
                assert!(datagrams.concat().iter().all(|received| *received == byte));
                let lens: Vec<_> = datagrams.iter().map(|data| data.len()).collect();
                assert_eq!(lens, parts);
            }
        }
    }
}
