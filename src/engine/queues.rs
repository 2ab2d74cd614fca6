//! The queues of entries that have work. An entry is in each queue at most once, because a mark in
//! the entry, usually in its [`State`](crate::conn::State), records that it is queued.

use std::collections::VecDeque;

use crate::id::{Token, UdpId};
#[cfg(feature = "signals")]
use crate::signal::Signal;

/// Preallocated capacity of [`Queues::oversized`]. Oversized buffers may appear for the first time
/// in the steady state, which must not allocate.
const OVERSIZED_LEN: usize = 16;

/// All queues of the engine.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    /// Entries that have work.
    pub(crate) ready: ReadyQueue,
    /// Entries with output to write at the end of the turn. The batch of the active connection is
    /// not written then, but at the end of its dispatch.
    pub(crate) to_flush: VecDeque<Token>,
    /// Ended entries, to be reaped at the end of the turn.
    pub(crate) to_reap: VecDeque<Token>,
    /// Connections that wait for memory.
    pub(super) paused_for_memory: VecDeque<Token>,
    /// Connections whose partial frame is in an oversized buffer.
    pub(super) oversized: Vec<Token>,
    /// UDP sockets whose queues are so large that the next trim checks them.
    pub(super) grown_udp: Vec<UdpId>,
    /// Signals that were reported by an event and are not handled yet.
    #[cfg(feature = "signals")]
    pub(super) signals: Vec<Signal>,
}

impl Queues {
    pub(super) fn new() -> Self {
        Self {
            oversized: Vec::with_capacity(OVERSIZED_LEN),
            ..Self::default()
        }
    }

    /// Returns true if a signal is not handled yet.
    #[cfg(feature = "signals")]
    pub(crate) fn has_signals(&self) -> bool {
        !self.signals.is_empty()
    }

    /// Returns true if the next turn has work even if no event arrives.
    pub(crate) fn have_work(&self) -> bool {
        #[cfg(feature = "signals")]
        if self.has_signals() {
            return true;
        }
        !(self.ready.is_empty() && self.to_flush.is_empty() && self.to_reap.is_empty())
    }
}

/// The ready queue: the entries of the current turn, and the entries of the next turn.
///
/// Invariant: `dispatched <= current.len()`. The entries `current[..dispatched]` are dispatched
/// already.
#[derive(Debug, Default)]
pub(crate) struct ReadyQueue {
    current: Vec<Token>,
    dispatched: usize,
    next: Vec<Token>,
}

impl ReadyQueue {
    /// Adds an entry for the next turn.
    pub(super) fn push(&mut self, token: Token) {
        self.next.push(token);
    }

    /// Starts a turn with the entries that were queued for it. If a panic ended the last turn
    /// before all of its entries were dispatched, this turn takes only the remaining ones.
    pub(super) fn begin_turn(&mut self) {
        if self.dispatched == self.current.len() {
            self.current.clear();
            self.dispatched = 0;
            std::mem::swap(&mut self.current, &mut self.next);
        }
    }

    /// Takes the next entry of the current turn.
    pub(crate) fn pop(&mut self) -> Option<Token> {
        let token = *self.current.get(self.dispatched)?;
        self.dispatched += 1;
        Some(token)
    }

    /// Returns the number of entries that have work.
    pub(super) fn len(&self) -> usize {
        self.current.len() - self.dispatched + self.next.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn panic_in_a_turn_loses_no_ready_entry() {
        let [a, b, c] = [1, 2, 3].map(|key| Token::new(key, NonZeroU32::MIN));
        let mut queue = ReadyQueue::default();
        queue.push(a);
        queue.push(b);
        queue.begin_turn();
        assert_eq!((queue.len(), queue.pop()), (2, Some(a)));
        assert!(!queue.is_empty(), "the turn is not over");
        queue.push(c);
        assert_eq!(queue.len(), 2);
        // After a panic in this turn, the next turn takes only the remaining entries of this turn.
        queue.begin_turn();
        assert_eq!((queue.pop(), queue.pop()), (Some(b), None));
        assert!(!queue.is_empty());
        queue.begin_turn();
        assert_eq!((queue.pop(), queue.pop()), (Some(c), None));
        assert!(queue.is_empty());
    }
}
