//! Datagrams: messages that keep their boundaries.
//!
//! Beside a connection, which has bytes and needs a state machine to find frames in them, a
//! datagram is whole when it comes and whole when it goes. So its send queue is two rings, one of
//! payload bytes and one of their lengths and addresses, and nothing is ever cut or glued.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::buffer::Buf;

/// One received datagram.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Datagram<'a> {
    /// The address that it says it is from. UDP lets a sender write what it likes here.
    pub from: SocketAddr,
    /// Its payload. Empty is as good as any other.
    pub data: &'a [u8],
    /// It was longer than [`Config::datagram_len_max`](crate::Config::datagram_len_max); `data` is
    /// its beginning and the rest is gone.
    pub truncated: bool,
}

/// What a queued datagram is counted as beside its payload, in bytes: without it, empty ones would
/// queue without end.
const OVERHEAD: usize = 64;

/// Datagrams that wait for the socket. Invariant: the lengths of `heads` add up to `payload`.
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

    /// Datagrams queued.
    pub(crate) fn count(&self) -> usize {
        self.heads.len()
    }

    /// Bytes queued, each datagram with what it is counted as beside its payload.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.payload.len() + OVERHEAD * self.heads.len()
    }

    /// Queues one, unless the queue would be longer than `limit` bytes with it.
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

    /// The oldest one; its address is `None` where it goes to the connected peer.
    pub(crate) fn front(&self) -> Option<(Option<SocketAddr>, &[u8])> {
        let head = self.heads.front()?;
        Some((head.to, &self.payload.bytes()[..head.len]))
    }

    /// Drops the oldest one.
    pub(crate) fn pop(&mut self) {
        if let Some(head) = self.heads.pop_front() {
            self.payload.consume(head.len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_and_order_are_kept_with_empty_ones_between() {
        let mut queue = DatagramQueue::default();
        let to = "127.0.0.1:9".parse().ok();
        let sent: Vec<Vec<u8>> = (0..50).map(|len| vec![7; len % 5 * 100]).collect();
        for (index, data) in sent.iter().enumerate() {
            assert!(queue.push(to.filter(|_| index % 2 == 0), data, usize::MAX));
            if index % 3 == 0 {
                assert_eq!(queue.front().expect("not empty").1, sent[index / 3]);
                queue.pop();
            }
        }
        for (index, data) in sent.iter().enumerate().skip(17) {
            assert_eq!(
                queue.front(),
                Some((to.filter(|_| index % 2 == 0), &data[..]))
            );
            queue.pop();
        }
        assert!(queue.is_empty());
    }

    #[test]
    fn the_limit_holds_for_empty_datagrams_too() {
        let mut queue = DatagramQueue::default();
        let accepted = (0..1000).filter(|_| queue.push(None, b"", 6400)).count();
        assert_eq!(accepted, 100);
        queue.pop();
        assert!(queue.push(None, b"", 6400));
        assert!(!queue.push(None, b"", 6400));
    }
}
