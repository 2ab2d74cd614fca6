//! Hierarchical timing wheel.
//!
//! ```text
//!   level 0:  64 slots of 1 tick
//!   level 1:  64 slots of 64 ticks
//!   level 2:  64 slots of 4,096 ticks
//!   ...
//! ```
//!
//! The *hand* is the tick up to which timers have fired. Each level is one digit of a tick, written
//! in base 64. A timer is put on the highest level whose digit differs between the deadline and the
//! hand. When the hand reaches the slot of the timer, the timer moves to a lower level, or fires on
//! level 0. So a timer that is not postponed moves at most once per level.
//!
//! A million timers do not fit into a processor cache. The cost of an operation is therefore the
//! number of cache lines that it fetches. Lines that can be fetched in parallel cost less:
//!
//! * Setting a timer takes the next free node and appends its index to the list of a slot.
//! * Postponing a timer is one store in its node.
//! * Cancelling a timer touches its node and the chunk that holds its index.
//! * Firing a timer touches its node, and so does each earlier move to a lower level.
//!
//! A timer uses 32 bytes for its node, 5 bytes for its list entry and less than one byte for other
//! data. If most timers of a slot are cancelled, a remaining timer may occupy a chunk of 64 bytes
//! alone. The memory of ended timers is kept for later timers.

use std::fmt;
use std::num::NonZeroU32;

use super::TimerId;
use super::lists::{Lists, Spot};
use super::places::{BLOCK_LEN, Places};

const LEVELS: usize = 6;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Span of the wheel in ticks, about two years. A timer whose deadline is further ahead than half
/// of the span is put into the slot at half the span. When the hand reaches that slot, the timer is
/// put into another slot.
const HORIZON: u64 = (1 << (SLOT_BITS * LEVELS as u32)) - 1;

/// A timer, or a node that is free for a later timer.
#[derive(Debug, Clone)]
struct Node<K> {
    deadline: u64,
    value: u64,
    generation: NonZeroU32,
    spot: Spot,
    /// `None` while the node is free.
    kind: Option<K>,
}

fn slot_of(level: usize, tick: u64) -> usize {
    (tick >> (SLOT_BITS * level as u32)) as usize % SLOTS
}

/// Timing wheel. Each timer carries a kind and a value. A kind of one byte keeps the node of a
/// timer at 32 bytes.
///
/// Invariants: `hand <= now`. The hand reaches the slot of a timer at the timer's deadline or
/// before. The hand passes a slot only if the slot's list is empty.
pub(crate) struct Wheel<K> {
    /// Current tick. Every new deadline is later.
    now: u64,
    /// The hand: the tick up to which timers have fired. Timers of this tick may still fire.
    hand: u64,
    lists: Lists<{ LEVELS * SLOTS }>,
    /// Bit set, for each level, of the slots whose list is not empty.
    occupied: [u64; LEVELS],
    nodes: Vec<Node<K>>,
    places: Places,
    len: usize,
}

impl<K: Copy> Wheel<K> {
    pub(crate) fn new() -> Self {
        Self {
            now: 0,
            hand: 0,
            lists: Lists::new(),
            occupied: [0; LEVELS],
            nodes: Vec::new(),
            places: Places::new(),
            len: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of timers that are set.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Sets a timer. A deadline that is not after the current tick is replaced by the next tick, so
    /// the timer does not fire before the next [`advance`](Wheel::advance).
    pub(crate) fn insert(&mut self, deadline: u64, kind: K, value: u64) -> TimerId {
        let index = match self.places.take() {
            Some(index) => index,
            None => self.grow(),
        };
        let deadline = self.after_now(deadline);
        let node = &mut self.nodes[index as usize];
        (node.deadline, node.value, node.kind) = (deadline, value, Some(kind));
        let generation = node.generation;
        self.link(index, deadline);
        self.len += 1;
        TimerId { index, generation }
    }

    /// Cancels a timer and returns its kind and value, or `None` if the timer has ended.
    pub(crate) fn cancel(&mut self, id: TimerId) -> Option<(K, u64)> {
        let node = self.node_mut(id)?;
        let (carried, spot) = ((node.kind?, node.value), node.spot);
        self.unlink(spot);
        self.release(id.index);
        Some(carried)
    }

    /// Changes the deadline of a timer. Returns its kind and value, or `None` if the timer has
    /// ended.
    ///
    /// The timer stays in its slot if the hand reaches the slot at or before the new deadline. The
    /// timer moves when the hand reaches the slot.
    pub(crate) fn reset(&mut self, id: TimerId, deadline: u64) -> Option<(K, u64)> {
        let deadline = self.after_now(deadline);
        let node = self.node_mut(id)?;
        let (carried, spot) = ((node.kind?, node.value), node.spot);
        let is_brought_forward = deadline < node.deadline;
        node.deadline = deadline;
        let (level, slot) = (spot.list() / SLOTS, spot.list() % SLOTS);
        if is_brought_forward && self.tick_of_slot(level, slot) > deadline {
            self.unlink(spot);
            self.link(id.index, deadline);
        }
        Some(carried)
    }

    fn node_mut(&mut self, id: TimerId) -> Option<&mut Node<K>> {
        let node = self.nodes.get_mut(id.index as usize)?;
        (node.generation == id.generation).then_some(node)
    }

    /// Advances the current tick to `now`. [`pop_due`](Wheel::pop_due) then returns the timers that
    /// are due at or before `now`.
    pub(crate) fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        if self.is_empty() {
            self.hand = self.now;
        }
    }

    /// Returns the timer that was due first, or `None` if no timer is due.
    ///
    /// If `next` returns a deadline, the timer is set again with that deadline and the same id.
    /// Otherwise the timer is removed, and its id becomes invalid.
    pub(crate) fn pop_due(
        &mut self,
        next: impl FnOnce(K, u64) -> Option<u64>,
    ) -> Option<(TimerId, K, u64)> {
        loop {
            let Some(index) = self.lists.first(slot_of(0, self.hand)) else {
                if self.move_hand() {
                    continue;
                }
                return None;
            };
            let node = &self.nodes[index as usize];
            let (deadline, spot) = (node.deadline, node.spot);
            if deadline > self.hand {
                self.unlink(spot); // The timer was postponed.
                self.link(index, deadline);
                continue;
            }
            let kind = node.kind.expect("a node in a list holds a timer");
            let (value, generation) = (node.value, node.generation);
            self.unlink(spot);
            match next(kind, value) {
                Some(deadline) => {
                    let deadline = self.after_now(deadline);
                    self.nodes[index as usize].deadline = deadline;
                    self.link(index, deadline);
                }
                None => self.release(index),
            }
            return Some((TimerId { index, generation }, kind, value));
        }
    }

    /// Returns the tick at which the wheel must be advanced next, or `None` if no timer is set. The
    /// tick may have passed already. At that tick, a timer may be due, or may only move to a lower
    /// level. No timer is due earlier.
    pub(crate) fn next_tick(&self) -> Option<u64> {
        let (level, slot) = self.next_slot()?;
        Some(self.tick_of_slot(level, slot))
    }

    /// Moves the hand to the next slot that is not empty, and returns true. If that slot is later
    /// than `now`, moves the hand to `now` and returns false.
    ///
    /// On a level above 0, the timers of that slot move to lower levels. On level 0, they stay in
    /// the slot until [`pop_due`](Wheel::pop_due) removes them.
    fn move_hand(&mut self) -> bool {
        let Some((level, slot)) = self.next_slot() else {
            self.hand = self.now;
            return false;
        };
        let at = self.tick_of_slot(level, slot);
        self.hand = at.min(self.now);
        if at > self.now {
            return false;
        }
        if level > 0 {
            self.occupied[level] &= !(1 << slot);
            while let Some(chunk) = self.lists.take_chunk(level * SLOTS + slot) {
                chunk.for_each(|index| self.link(index, self.nodes[index as usize].deadline));
            }
        }
        true
    }

    /// Returns the level and the number of the slot that the hand reaches next, or `None` if no
    /// timer is set. That slot is always on the lowest level that is not empty.
    fn next_slot(&self) -> Option<(usize, usize)> {
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        let present = slot_of(level, self.hand);
        let ahead = self.occupied[level]
            .rotate_right(present as u32)
            .trailing_zeros();
        Some((level, (present + ahead as usize) % SLOTS))
    }

    /// Returns the tick at which the hand reaches a slot. If the hand is in the slot, returns the
    /// tick at which the hand entered the slot.
    fn tick_of_slot(&self, level: usize, slot: usize) -> u64 {
        let shift = SLOT_BITS * level as u32;
        let ahead = slot.wrapping_sub(slot_of(level, self.hand)) % SLOTS;
        ((self.hand >> shift) + ahead as u64) << shift
    }

    fn after_now(&self, deadline: u64) -> u64 {
        deadline.max(self.now.saturating_add(1))
    }

    /// Appends a timer to the list of its deadline. The timer must be in no list.
    fn link(&mut self, index: u32, deadline: u64) {
        debug_assert!(
            deadline >= self.hand,
            "the deadline of a timer must not be before the hand"
        );
        let deadline = deadline.min(self.hand.saturating_add(HORIZON / 2));
        let differing = ((self.hand ^ deadline) | 1).ilog2() / SLOT_BITS;
        let level = (differing as usize).min(LEVELS - 1);
        let slot = slot_of(level, deadline);
        self.occupied[level] |= 1 << slot;
        self.nodes[index as usize].spot = self.lists.push(level * SLOTS + slot, index);
    }

    fn unlink(&mut self, spot: Spot) {
        if self.lists.remove(spot) {
            let list = spot.list();
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        }
    }

    /// Frees the node of a timer that is in no list, and makes the id of the timer invalid.
    fn release(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        node.generation = node.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        node.kind = None;
        self.places.free(index);
        self.len -= 1;
    }

    /// Adds [`BLOCK_LEN`] nodes, takes the first of them and returns its index.
    fn grow(&mut self) -> u32 {
        let len = self.nodes.len() + BLOCK_LEN;
        assert!(
            u32::try_from(len).is_ok(),
            "a wheel must have fewer than 2^32 timers"
        );
        let free = Node {
            deadline: 0,
            value: 0,
            generation: NonZeroU32::MIN,
            spot: Spot::NOWHERE,
            kind: None,
        };
        self.nodes.resize(len, free);
        self.places.grow()
    }
}

impl<K> fmt::Debug for Wheel<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel")
            .field("now", &self.now)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fires all timers that are due by `now` and returns their values.
    fn due(wheel: &mut Wheel<()>, now: u64) -> Vec<u64> {
        wheel.advance(now);
        std::iter::from_fn(|| wheel.pop_due(|(), _| None).map(|(_, (), task)| task)).collect()
    }

    /// Returns the next pseudo-random number. `state` is the seed, so a failure repeats.
    fn random(state: &mut u64) -> u64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        *state >> 20
    }

    #[test]
    fn timer_fires_at_its_tick_and_never_before() {
        for deadline in [
            1,
            2,
            63,
            64,
            65,
            4095,
            4096,
            4097,
            262_144,
            16_777_217,
            1 << 31,
        ] {
            for start in [0, 1, 63, 64, 4095, 5_000_000] {
                let mut wheel = Wheel::new();
                wheel.advance(start);
                wheel.insert(start + deadline, (), 7);
                while let Some(tick) = wheel.next_tick().filter(|&tick| tick < start + deadline) {
                    assert!(
                        due(&mut wheel, tick).is_empty(),
                        "no timer is due at tick {tick}"
                    );
                }
                assert_eq!(wheel.next_tick(), Some(start + deadline));
                assert_eq!(due(&mut wheel, start + deadline), [7]);
                assert!(wheel.is_empty());
            }
        }
    }

    #[test]
    fn random_timers_fire_in_order_of_deadline_and_age() {
        let mut state = 42;
        let mut wheel = Wheel::new();
        let mut list: Vec<(u64, u64, TimerId)> = Vec::new();
        let (mut now, mut serial) = (0, 0);
        let mut was_reset = Vec::new();
        for _ in 0..20_000 {
            match random(&mut state) % 5 {
                4 if !list.is_empty() => {
                    let at = random(&mut state) as usize % list.len();
                    let spread = 1 << (random(&mut state) % 24);
                    let deadline = now + 1 + random(&mut state) % spread;
                    assert_eq!(wheel.reset(list[at].2, deadline), Some(((), list[at].1)));
                    list[at].0 = deadline;
                    was_reset.push(list[at].1);
                }
                0 | 1 => {
                    let spread = 1 << (random(&mut state) % 24);
                    let deadline = now + 1 + random(&mut state) % spread;
                    list.push((deadline, serial, wheel.insert(deadline, (), serial)));
                    serial += 1;
                }
                2 if !list.is_empty() => {
                    let at = random(&mut state) as usize % list.len();
                    let (_, task, id) = list.swap_remove(at);
                    assert_eq!(wheel.cancel(id), Some(((), task)));
                    assert_eq!(wheel.cancel(id), None, "a stale id cancels nothing");
                }
                _ => {
                    now += random(&mut state) % (1 << (random(&mut state) % 16));
                    let mut expected: Vec<_> = list
                        .extract_if(.., |(deadline, ..)| *deadline <= now)
                        .map(|(deadline, serial, _)| (deadline, serial))
                        .collect();
                    expected.sort_unstable();
                    // The position of a reset timer among the timers of its tick is not defined.
                    let place = |&(deadline, serial): &(u64, u64)| {
                        (deadline, was_reset.contains(&serial), serial)
                    };
                    let mut fired: Vec<_> = due(&mut wheel, now)
                        .into_iter()
                        .map(|task| {
                            let found = expected.iter().find(|(_, serial)| *serial == task);
                            *found.expect("the timer was set and is due")
                        })
                        .collect();
                    assert!(fired.is_sorted_by_key(|(deadline, _)| *deadline));
                    fired.sort_by_key(|(deadline, serial)| {
                        let reset = was_reset.contains(serial);
                        (*deadline, reset, if reset { *serial } else { 0 })
                    });
                    expected.sort_unstable_by_key(place);
                    assert_eq!(fired, expected);
                }
            }
        }
        assert_eq!(wheel.len, list.len());
    }

    #[test]
    fn past_deadline_fires_at_the_next_tick() {
        let mut wheel = Wheel::new();
        wheel.advance(100);
        wheel.insert(3, (), 7);
        assert!(due(&mut wheel, 100).is_empty());
        assert_eq!(due(&mut wheel, 101), [7]);
    }

    #[test]
    fn furthest_deadlines_do_not_overflow() {
        let mut wheel = Wheel::new();
        for (task, deadline) in [(1, HORIZON * 3), (2, u64::MAX), (3, 50 * 86_400_000)] {
            wheel.insert(deadline, (), task);
        }
        assert_eq!(due(&mut wheel, HORIZON), [3]);
        assert_eq!(due(&mut wheel, HORIZON * 3), [1]);
        assert!(due(&mut wheel, HORIZON * 4).is_empty());
        assert!(!wheel.is_empty(), "the timer at u64::MAX is still set");
    }

    #[test]
    fn due_timer_can_be_cancelled() {
        let mut wheel = Wheel::new();
        let ids: Vec<_> = (0..3).map(|task| wheel.insert(5, (), task)).collect();
        wheel.advance(5);
        assert_eq!(wheel.cancel(ids[1]), Some(((), 1)));
        let mut rest = due(&mut wheel, 5);
        rest.sort_unstable();
        assert_eq!(rest, [0, 2]);
    }

    /// A callback may postpone a timer that is due later in the current turn.
    #[test]
    fn due_timer_can_be_postponed() {
        let mut wheel = Wheel::new();
        let ids = [1, 2, 3].map(|tick| wheel.insert(tick, (), tick));
        wheel.advance(5);
        assert_eq!(wheel.reset(ids[1], 9), Some(((), 2)));
        assert_eq!(due(&mut wheel, 8), [1, 3]);
        assert_eq!(due(&mut wheel, 9), [2]);
    }

    /// If a turn has used its budget, due timers remain for the next turn.
    #[test]
    fn timers_fire_in_order_of_deadline_across_advances() {
        let mut wheel = Wheel::new();
        for tick in [300, 5, 90, 7, 6] {
            wheel.insert(tick, (), tick);
        }
        wheel.advance(6);
        assert_eq!(wheel.pop_due(|(), _| None).map(|(.., tick)| tick), Some(5));
        wheel.insert(3, (), 1000);
        wheel.advance(400);
        wheel.insert(8, (), 2000);
        assert_eq!(
            wheel.next_tick(),
            Some(6),
            "the other timers are due already"
        );
        assert_eq!(due(&mut wheel, 400), [6, 7, 1000, 90, 300]);
        assert_eq!(due(&mut wheel, 401), [2000]);
    }

    /// A program may, for example, replace an idle timeout of one minute by a deadline of ten
    /// seconds.
    #[test]
    fn postponed_timer_can_be_brought_forward() {
        let mut wheel = Wheel::new();
        let id = wheel.insert(1000, (), 7);
        for (deadline, moves) in [(9000, false), (2000, false), (900, true), (9000, false)] {
            let before = wheel.nodes[id.index as usize].spot.list();
            assert_eq!(wheel.reset(id, deadline), Some(((), 7)));
            let after = wheel.nodes[id.index as usize].spot.list();
            assert_eq!(
                before != after,
                moves,
                "wrong list of the timer after a reset to {deadline}"
            );
        }
        assert!(due(&mut wheel, 8999).is_empty());
        assert_eq!(due(&mut wheel, 9000), [7]);
    }

    #[test]
    fn id_of_an_ended_timer_does_not_match_a_reused_node() {
        let mut wheel = Wheel::new();
        let cancelled = wheel.insert(10, (), 1);
        assert_eq!(wheel.cancel(cancelled), Some(((), 1)));
        let fired = wheel.insert(10, (), 2);
        assert_eq!(fired.index, cancelled.index, "the node is used again");
        assert_eq!(wheel.cancel(cancelled), None);
        assert_eq!(wheel.reset(cancelled, 20), None);
        assert_eq!(due(&mut wheel, 10), [2]);
        let next = wheel.insert(20, (), 3);
        assert_eq!(next.index, fired.index, "the node is used again");
        assert_eq!(wheel.cancel(fired), None);
        assert_eq!(due(&mut wheel, 20), [3]);
    }

    #[test]
    fn periodic_timer_keeps_its_id() {
        let mut wheel = Wheel::new();
        let id = wheel.insert(10, (), 7);
        for round in 1..5 {
            wheel.advance(10 * round);
            let fired = wheel.pop_due(|(), _| Some(10 * round + 10));
            assert_eq!(fired, Some((id, (), 7)));
            assert_eq!(wheel.pop_due(|(), _| None), None);
        }
        assert_eq!(wheel.cancel(id), Some(((), 7)));
        assert!(wheel.is_empty());
    }

    #[test]
    fn timer_node_has_32_bytes() {
        assert_eq!(size_of::<Node<bool>>(), 32);
    }
}
