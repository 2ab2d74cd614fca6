//! Timers: a hierarchical timing wheel.
//!
//! Time is an argument, counted in ticks of a millisecond since the wheel was made. Setting and
//! cancelling a timer takes constant time and, once the wheel has held as many, no allocation. To
//! put one off is a store: it moves when its slot comes up.
//!
//! ```text
//!   level 0:  64 slots of 1 tick         a timer stands at the level where its deadline and
//!   level 1:  64 slots of 64 ticks       the present differ first, and moves down when its
//!   level 2:  64 slots of 4,096 ticks    slot comes up: at most once per level
//!   ...
//! ```

#![expect(
    clippy::cast_possible_truncation,
    reason = "levels, slots and lists are small numbers by their construction"
)]

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

const LEVELS: usize = 6;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// The furthest deadline, about two years ahead; later ones are set to it, and set again then.
const HORIZON: u64 = (1 << (SLOT_BITS * LEVELS as u32)) - 1;
/// No node.
const NIL: u32 = u32::MAX;
/// The list of nodes that are due, behind the lists of the slots.
const DUE: usize = LEVELS * SLOTS;

/// Names one timer of a reactor. Eight bytes, `Copy`, and good until it fired (a periodic one:
/// until it is cancelled).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerId {
    index: u32,
    generation: NonZeroU32,
}

impl fmt::Debug for TimerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimerId({}v{})", self.index, self.generation)
    }
}

/// The first tick at which that much time has passed: a timer is never early.
pub(crate) fn tick_at_or_after(elapsed: Duration) -> u64 {
    let millis = u64::from(elapsed.subsec_nanos().div_ceil(1_000_000));
    let seconds = elapsed.as_secs().saturating_mul(1000);
    seconds.saturating_add(millis)
}

/// The last tick that has passed by then.
pub(crate) fn tick_passed(elapsed: Duration) -> u64 {
    let seconds = elapsed.as_secs().saturating_mul(1000);
    seconds.saturating_add(u64::from(elapsed.subsec_millis()))
}

/// A moment in four bytes: milliseconds, counted over and over. Two moments can be compared that
/// are less than [`Stamp::SPAN_MAX`] apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stamp(u32);

impl Stamp {
    /// The longest span that stamps can tell, with room for a late look: 48 days.
    const SPAN_MAX: u32 = u32::MAX - 100_000_000;

    pub(crate) fn at(elapsed: Duration) -> Self {
        Self(elapsed.as_millis() as u32)
    }

    /// Milliseconds from `earlier` to this.
    pub(crate) fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// How far two stamps have to be apart for that much time to have passed for certain. A span
    /// longer than stamps can tell never passes.
    pub(crate) fn span(duration: Duration) -> Option<u32> {
        let millis = tick_at_or_after(duration).saturating_add(1);
        u32::try_from(millis)
            .ok()
            .filter(|millis| *millis <= Self::SPAN_MAX)
    }
}

#[derive(Debug)]
struct Node<T> {
    /// `None` while the node is free.
    task: Option<T>,
    deadline: u64,
    generation: NonZeroU32,
    list: u16,
    prev: u32,
    next: u32,
}

/// The wheel. Invariants: every timer that is not due has `deadline > now`, and the slot that it
/// stands in comes up at its deadline or before.
pub(crate) struct Wheel<T> {
    now: u64,
    /// The first node of each slot's list, and of the list of due ones.
    heads: [u32; DUE + 1],
    /// The last node of the list of due ones, so that they come in the order of their deadlines.
    due_last: u32,
    /// A bit for each slot of a level that is not empty.
    occupied: [u64; LEVELS],
    nodes: Vec<Node<T>>,
    free: u32,
    len: usize,
}

impl<T> Wheel<T> {
    pub(crate) fn new() -> Self {
        Self {
            now: 0,
            heads: [NIL; DUE + 1],
            due_last: NIL,
            occupied: [0; LEVELS],
            nodes: Vec::new(),
            free: NIL,
            len: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets a timer. A deadline that has passed is one tick ahead: it fires, but not in this round.
    pub(crate) fn insert(&mut self, deadline: u64, task: T) -> TimerId {
        let index = match self.free {
            NIL => {
                let index = u32::try_from(self.nodes.len()).expect("fewer than 2^32 timers");
                self.nodes.push(Node {
                    task: None,
                    deadline: 0,
                    generation: NonZeroU32::MIN,
                    list: 0,
                    prev: NIL,
                    next: NIL,
                });
                index
            }
            index => {
                self.free = self.node(index).next;
                index
            }
        };
        let deadline = deadline.max(self.now.saturating_add(1));
        let node = &mut self.nodes[index as usize];
        node.task = Some(task);
        node.deadline = deadline;
        let generation = node.generation;
        self.link(index);
        self.len += 1;
        TimerId { index, generation }
    }

    /// Ends a timer and gives its task back, unless it has ended before.
    pub(crate) fn cancel(&mut self, id: TimerId) -> Option<T> {
        let node = self.nodes.get(id.index as usize)?;
        if node.generation != id.generation || node.task.is_none() {
            return None;
        }
        self.unlink(id.index);
        self.release(id.index)
    }

    /// Gives a timer another deadline and answers with its task, unless it has ended before. One
    /// that is put off stays in its slot, and moves when that comes up.
    #[inline]
    pub(crate) fn reset(&mut self, id: TimerId, deadline: u64) -> Option<T>
    where
        T: Copy,
    {
        let now = self.now;
        let node = self.nodes.get_mut(id.index as usize)?;
        if node.generation != id.generation {
            return None;
        }
        let task = node.task?;
        let deadline = deadline.max(now.saturating_add(1));
        let is_put_off = deadline >= node.deadline && usize::from(node.list) != DUE;
        node.deadline = deadline;
        if !is_put_off {
            self.unlink(id.index);
            self.link(id.index);
        }
        Some(task)
    }

    /// Moves the present to `now` and makes everything that is due by then ready for
    /// [`pop_due`](Wheel::pop_due).
    pub(crate) fn advance(&mut self, now: u64) {
        while let Some((level, at)) = self.next_slot().filter(|&(_, at)| at <= now) {
            self.now = at;
            let slot = self.slot_of(level, at);
            self.occupied[level] &= !(1 << slot);
            let mut index = std::mem::replace(&mut self.heads[level * SLOTS + slot], NIL);
            while self.node(index).next != NIL {
                index = self.node(index).next;
            }
            // The list begins with its newest. The oldest goes first, here and at every level.
            while index != NIL {
                let newer = self.node(index).prev;
                self.link(index);
                index = newer;
            }
        }
        self.now = self.now.max(now);
    }

    /// Takes the timer that was due first. Where `next` answers a deadline, the timer goes on with
    /// it under the same id; else its id has ended.
    pub(crate) fn pop_due(
        &mut self,
        next: impl FnOnce(&mut T) -> Option<u64>,
    ) -> Option<(TimerId, T)>
    where
        T: Copy,
    {
        let index = self.heads[DUE];
        let node = self.nodes.get_mut(index as usize)?;
        let id = TimerId {
            index,
            generation: node.generation,
        };
        let task = node.task.as_mut().expect("a linked node has a task");
        let fired = *task;
        let deadline = next(task);
        self.unlink(index);
        match deadline {
            Some(deadline) => {
                self.nodes[index as usize].deadline = deadline.max(self.now.saturating_add(1));
                self.link(index);
            }
            None => {
                self.release(index);
            }
        }
        Some((id, fired))
    }

    /// The tick at which the wheel has to be advanced next. A timer may be due then, or only have
    /// to move down a level; nothing is due before.
    pub(crate) fn next_tick(&self) -> Option<u64> {
        if self.heads[DUE] != NIL {
            return Some(self.now);
        }
        self.next_slot().map(|(_, at)| at)
    }

    /// The slot that comes up next, and when: the lowest level that has any comes first.
    fn next_slot(&self) -> Option<(usize, u64)> {
        for level in 0..LEVELS {
            let occupied = self.occupied[level];
            if occupied == 0 {
                continue;
            }
            let shift = SLOT_BITS * level as u32;
            let present = self.slot_of(level, self.now) as u32;
            let ahead = u64::from(occupied.rotate_right(present).trailing_zeros());
            let at = ((self.now >> shift) + ahead) << shift;
            return Some((level, at.max(self.now)));
        }
        None
    }

    fn slot_of(&self, level: usize, tick: u64) -> usize {
        (tick >> (SLOT_BITS * level as u32)) as usize % SLOTS
    }

    /// Puts a node that stands in no list where its deadline belongs.
    fn link(&mut self, index: u32) {
        let deadline = self.node(index).deadline;
        if deadline <= self.now {
            self.link_due(index);
            return;
        }
        let deadline = deadline.min(self.now.saturating_add(HORIZON / 2));
        let differing = (self.now ^ deadline).ilog2() / SLOT_BITS;
        let level = (differing as usize).min(LEVELS - 1);
        let slot = self.slot_of(level, deadline);
        let list = level * SLOTS + slot;
        self.occupied[level] |= 1 << slot;
        let head = std::mem::replace(&mut self.heads[list], index);
        if head != NIL {
            self.nodes[head as usize].prev = index;
        }
        let node = &mut self.nodes[index as usize];
        (node.list, node.prev, node.next) = (list as u16, NIL, head);
    }

    fn link_due(&mut self, index: u32) {
        let last = std::mem::replace(&mut self.due_last, index);
        match last {
            NIL => self.heads[DUE] = index,
            last => self.nodes[last as usize].next = index,
        }
        let node = &mut self.nodes[index as usize];
        (node.list, node.prev, node.next) = (DUE as u16, last, NIL);
    }

    fn unlink(&mut self, index: u32) {
        let Node {
            list, prev, next, ..
        } = *self.node(index);
        let list = usize::from(list);
        match prev {
            NIL => self.heads[list] = next,
            prev => self.nodes[prev as usize].next = next,
        }
        match next {
            NIL if list == DUE => self.due_last = prev,
            NIL => {}
            next => self.nodes[next as usize].prev = prev,
        }
        if list != DUE && self.heads[list] == NIL {
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        }
    }

    fn release(&mut self, index: u32) -> Option<T> {
        let free = std::mem::replace(&mut self.free, index);
        let node = &mut self.nodes[index as usize];
        node.generation = node.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        node.next = free;
        self.len -= 1;
        node.task.take()
    }

    fn node(&self, index: u32) -> &Node<T> {
        &self.nodes[index as usize]
    }
}

impl<T> fmt::Debug for Wheel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel")
            .field("now", &self.now)
            .field("len", &self.len)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything due by `now`.
    fn due(wheel: &mut Wheel<u64>, now: u64) -> Vec<u64> {
        wheel.advance(now);
        std::iter::from_fn(|| wheel.pop_due(|_| None).map(|(_, task)| task)).collect()
    }

    /// A small generator of numbers, seeded, so that a failure repeats.
    fn random(state: &mut u64) -> u64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        *state >> 20
    }

    #[test]
    fn a_timer_fires_at_its_tick_and_never_before() {
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
                wheel.insert(start + deadline, 7);
                while let Some(tick) = wheel.next_tick().filter(|&tick| tick < start + deadline) {
                    assert!(due(&mut wheel, tick).is_empty(), "nothing is due at {tick}");
                }
                assert_eq!(wheel.next_tick(), Some(start + deadline));
                assert_eq!(due(&mut wheel, start + deadline), [7]);
                assert!(wheel.is_empty());
            }
        }
    }

    #[test]
    fn random_timers_fire_like_those_of_a_list_sorted_by_deadline_and_age() {
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
                    assert_eq!(wheel.reset(list[at].2, deadline), Some(list[at].1));
                    list[at].0 = deadline;
                    was_reset.push(list[at].1);
                }
                0 | 1 => {
                    let spread = 1 << (random(&mut state) % 24);
                    let deadline = now + 1 + random(&mut state) % spread;
                    list.push((deadline, serial, wheel.insert(deadline, serial)));
                    serial += 1;
                }
                2 if !list.is_empty() => {
                    let at = random(&mut state) as usize % list.len();
                    let (_, task, id) = list.swap_remove(at);
                    assert_eq!(wheel.cancel(id), Some(task));
                    assert_eq!(wheel.cancel(id), None, "a stale id cancels nothing");
                }
                _ => {
                    now += random(&mut state) % (1 << (random(&mut state) % 16));
                    let mut expected: Vec<_> = list
                        .extract_if(.., |(deadline, ..)| *deadline <= now)
                        .map(|(deadline, serial, _)| (deadline, serial))
                        .collect();
                    expected.sort_unstable();
                    // A timer that was reset has no fixed place among those of its tick.
                    let place = |&(deadline, serial): &(u64, u64)| {
                        (deadline, was_reset.contains(&serial), serial)
                    };
                    let mut fired: Vec<_> = due(&mut wheel, now)
                        .into_iter()
                        .map(|task| {
                            let found = expected.iter().find(|(_, serial)| *serial == task);
                            *found.expect("it was set, and is due")
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
    fn a_deadline_that_has_passed_fires_in_the_next_round() {
        let mut wheel = Wheel::new();
        wheel.advance(100);
        wheel.insert(3, 7);
        assert!(due(&mut wheel, 100).is_empty());
        assert_eq!(due(&mut wheel, 101), [7]);
    }

    #[test]
    fn the_furthest_deadlines_do_not_overflow() {
        assert_eq!(tick_at_or_after(Duration::MAX), u64::MAX);
        assert_eq!(tick_at_or_after(Duration::from_nanos(1)), 1);
        assert_eq!(tick_passed(Duration::from_nanos(999_999)), 0);
        let mut wheel = Wheel::new();
        for (task, deadline) in [(1, HORIZON * 3), (2, u64::MAX), (3, 50 * 86_400_000)] {
            wheel.insert(deadline, task);
        }
        assert_eq!(due(&mut wheel, HORIZON), [3]);
        assert_eq!(due(&mut wheel, HORIZON * 3), [1]);
        assert!(due(&mut wheel, HORIZON * 4).is_empty());
        assert!(!wheel.is_empty(), "the one at the end of time still stands");
    }

    #[test]
    fn stamps_compare_across_their_wrap_and_never_tell_too_much() {
        let at = |millis| Stamp::at(Duration::from_millis(millis));
        let wrap = u64::from(u32::MAX);
        assert_eq!(at(wrap + 5).since(at(wrap - 5)), 10);
        let span = Stamp::span(Duration::from_micros(1500)).expect("a short span");
        let (begin, end) = (Duration::from_micros(1999), Duration::from_micros(4000));
        assert!(
            Stamp::at(end).since(Stamp::at(begin)) >= span,
            "2 ms have passed"
        );
        let (begin, end) = (Duration::from_micros(1999), Duration::from_micros(3498));
        assert!(
            Stamp::at(end).since(Stamp::at(begin)) < span,
            "1.499 ms have passed"
        );
        for days in [49, 50, 1000] {
            assert_eq!(Stamp::span(Duration::from_secs(86_400 * days)), None);
        }
        assert_eq!(Stamp::span(Duration::MAX), None);
        assert!(Stamp::span(Duration::from_secs(86_400 * 25)).is_some());
    }

    #[test]
    fn a_timer_can_be_cancelled_while_it_is_due() {
        let mut wheel = Wheel::new();
        let ids: Vec<_> = (0..3).map(|task| wheel.insert(5, task)).collect();
        wheel.advance(5);
        assert_eq!(wheel.cancel(ids[1]), Some(1));
        let mut rest = due(&mut wheel, 5);
        rest.sort_unstable();
        assert_eq!(rest, [0, 2]);
    }

    /// As a callback does to one that is due in the same round, behind its own.
    #[test]
    fn a_timer_can_be_put_off_while_it_is_due() {
        let mut wheel = Wheel::new();
        let ids = [1, 2, 3].map(|tick| wheel.insert(tick, tick));
        wheel.advance(5);
        assert_eq!(wheel.reset(ids[1], 9), Some(2));
        assert_eq!(due(&mut wheel, 8), [1, 3]);
        assert_eq!(due(&mut wheel, 9), [2]);
    }

    #[test]
    fn the_id_of_a_timer_that_has_ended_means_nothing_to_the_next_one_in_its_place() {
        let mut wheel = Wheel::new();
        let cancelled = wheel.insert(10, 1);
        assert_eq!(wheel.cancel(cancelled), Some(1));
        let fired = wheel.insert(10, 2);
        assert_eq!(fired.index, cancelled.index, "the place is used again");
        assert_eq!(wheel.cancel(cancelled), None);
        assert_eq!(wheel.reset(cancelled, 20), None);
        assert_eq!(due(&mut wheel, 10), [2]);
        let next = wheel.insert(20, 3);
        assert_eq!(next.index, fired.index, "the place is used again");
        assert_eq!(wheel.cancel(fired), None);
        assert_eq!(due(&mut wheel, 20), [3]);
    }

    #[test]
    fn a_periodic_timer_keeps_its_id() {
        let mut wheel = Wheel::new();
        let id = wheel.insert(10, 10);
        for round in 1..5 {
            wheel.advance(10 * round);
            let fired = wheel.pop_due(|at| {
                *at += 10;
                Some(*at)
            });
            assert_eq!(fired, Some((id, 10 * round)));
            assert_eq!(wheel.pop_due(|_| None), None);
        }
        assert_eq!(wheel.cancel(id), Some(50));
    }
}
