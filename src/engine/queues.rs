//! The queue of entries with work.

use crate::id::Token;

/// Entries with work, each once: those of the round under way, and those of the next one.
#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    current: Vec<Token>,
    /// How many of `round` are dispatched; at most its length.
    dispatched: usize,
    next: Vec<Token>,
}

impl ReadyQueue {
    #[inline]
    pub(super) fn push(&mut self, token: Token) {
        self.next.push(token);
    }

    /// Begins a round with all that wait; after a panic, with what is left of the last one.
    #[inline]
    pub(super) fn begin_turn(&mut self) {
        if self.dispatched == self.current.len() {
            self.current.clear();
            self.dispatched = 0;
            std::mem::swap(&mut self.current, &mut self.next);
        }
    }

    /// The next entry of the current.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Token> {
        let token = *self.current.get(self.dispatched)?;
        self.dispatched += 1;
        Some(token)
    }

    /// How many entries have work.
    pub(super) fn len(&self) -> usize {
        self.current.len() - self.dispatched + self.next.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.dispatched == self.current.len() && self.next.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn a_round_is_what_waited_when_it_began_and_nothing_is_lost_where_it_broke_off() {
        let [a, b, c] = [1, 2, 3].map(|key| Token::new(key, NonZeroU32::MIN));
        let mut queue = ReadyQueue::default();
        queue.push(a);
        queue.push(b);
        queue.begin_turn();
        assert_eq!((queue.len(), queue.pop()), (2, Some(a)));
        assert!(!queue.is_empty(), "the round is not over");
        queue.push(c);
        assert_eq!(queue.len(), 2);
        // A panic: the rest of the round is the next one.
        queue.begin_turn();
        assert_eq!((queue.pop(), queue.pop()), (Some(b), None));
        assert!(!queue.is_empty());
        queue.begin_turn();
        assert_eq!((queue.pop(), queue.pop()), (Some(c), None));
        assert!(queue.is_empty());
    }
}
