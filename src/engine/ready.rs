//! The queue of entries with work.

use crate::token::Token;

/// Entries with work, each once: those of the round under way, and those of the next one.
#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    round: Vec<Token>,
    /// How many of `round` are served; at most its length.
    served: usize,
    next: Vec<Token>,
}

impl ReadyQueue {
    #[inline]
    pub(super) fn push(&mut self, token: Token) {
        self.next.push(token);
    }

    /// Begins a round with all that wait; after a panic, with what is left of the last one.
    #[inline]
    pub(super) fn begin_round(&mut self) {
        if self.served == self.round.len() {
            self.round.clear();
            self.served = 0;
            std::mem::swap(&mut self.round, &mut self.next);
        }
    }

    /// The next entry of the round.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Token> {
        let token = *self.round.get(self.served)?;
        self.served += 1;
        Some(token)
    }

    /// How many entries have work.
    pub(super) fn len(&self) -> usize {
        self.round.len() - self.served + self.next.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.served == self.round.len() && self.next.is_empty()
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
        queue.begin_round();
        assert_eq!((queue.len(), queue.pop()), (2, Some(a)));
        assert!(!queue.is_empty(), "the round is not over");
        queue.push(c);
        assert_eq!(queue.len(), 2);
        // A panic: the rest of the round is the next one.
        queue.begin_round();
        assert_eq!((queue.pop(), queue.pop()), (Some(b), None));
        assert!(!queue.is_empty());
        queue.begin_round();
        assert_eq!((queue.pop(), queue.pop()), (Some(c), None));
        assert!(queue.is_empty());
    }
}
