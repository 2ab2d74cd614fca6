//! Lists of timers, one per slot of the wheel.
//!
//! A list is a chain of chunks, oldest first. Each chunk is one cache line of timer indices. A
//! chunk contains the indices of several timers, so the processor can fetch these timers in
//! parallel. In a linked list of the timers themselves, each step would wait for memory. Removing a
//! timer from such a list would also touch its two neighbours.
//!
//! ```text
//!   first            last
//!   [3 9 . 4 ..] <-> [. 7 8 6 . .]      A dot is a free entry. A removed index leaves a dot.
//!                         push ^        A chunk without any index is removed and freed.
//! ```

use super::places::{BLOCK_LEN, Places};

const NIL: u32 = u32::MAX;
/// Number of indices per chunk: with the other fields they fill a cache line of 64 bytes.
const CHUNK_LEN: usize = 13;

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Chunk {
    entries: [u32; CHUNK_LEN],
    /// Bit set of the entries that hold an index. At least one bit is set while the chunk is in a
    /// list.
    held: u16,
    prev: u32,
    next: u32,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

/// Position of an index in a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot {
    chunk: u32,
    list: u16,
    entry: u8,
}

impl Spot {
    pub(super) const NOWHERE: Self = Self {
        chunk: NIL,
        list: 0,
        entry: 0,
    };

    pub(super) fn list(self) -> usize {
        usize::from(self.list)
    }
}

#[derive(Debug)]
pub(super) struct Lists<const COUNT: usize> {
    ends: [Ends; COUNT],
    chunks: Vec<Chunk>,
    /// Allocator of the elements of `chunks`.
    places: Places,
}

impl<const COUNT: usize> Lists<COUNT> {
    pub(super) fn new() -> Self {
        let (first, last) = (NIL, NIL);
        Self {
            ends: [Ends { first, last }; COUNT],
            chunks: Vec::new(),
            places: Places::new(),
        }
    }

    /// Appends an index to a list and returns its position.
    pub(super) fn push(&mut self, list: usize, index: u32) -> Spot {
        let last = self.ends[list].last;
        let (chunk, entry) = match self.chunks.get(last as usize).map(Chunk::next_entry) {
            Some(entry) if entry < CHUNK_LEN => (last, entry),
            _ => (self.append_chunk(list), 0),
        };
        let Chunk { entries, held, .. } = &mut self.chunks[chunk as usize];
        entries[entry] = index;
        *held |= 1 << entry;
        Spot {
            chunk,
            list: list as u16,
            entry: entry as u8,
        }
    }

    /// Returns the oldest index of a list.
    pub(super) fn first(&self, list: usize) -> Option<u32> {
        let chunk = self.chunks.get(self.ends[list].first as usize)?;
        Some(chunk.entries[chunk.held.trailing_zeros() as usize])
    }

    /// Removes the index at a position. Returns true if the list is empty afterwards.
    pub(super) fn remove(&mut self, spot: Spot) -> bool {
        let chunk = &mut self.chunks[spot.chunk as usize];
        chunk.held &= !(1 << spot.entry);
        chunk.held == 0 && self.remove_chunk(spot.list(), spot.chunk)
    }

    /// Removes the first chunk of a list, and returns the indices in the chunk, oldest first.
    /// Returns `None` if the list is empty.
    pub(super) fn take_chunk(
        &mut self,
        list: usize,
    ) -> Option<impl Iterator<Item = u32> + use<COUNT>> {
        let first = self.ends[list].first;
        let Chunk {
            entries, mut held, ..
        } = *self.chunks.get(first as usize)?;
        self.remove_chunk(list, first);
        Some(std::iter::from_fn(move || {
            let entry = held.trailing_zeros() as usize;
            held &= held.wrapping_sub(1);
            entries.get(entry).copied()
        }))
    }

    fn append_chunk(&mut self, list: usize) -> u32 {
        let last = self.ends[list].last;
        let new = Chunk {
            entries: [NIL; CHUNK_LEN],
            held: 0,
            prev: last,
            next: NIL,
        };
        let number = match self.places.take() {
            Some(number) => number,
            None => {
                self.chunks.resize(self.chunks.len() + BLOCK_LEN, new);
                self.places.grow()
            }
        };
        self.chunks[number as usize] = new;
        self.ends[list].last = number;
        match self.chunks.get_mut(last as usize) {
            Some(last) => last.next = number,
            None => self.ends[list].first = number,
        }
        number
    }

    /// Removes a chunk from a list and frees it. Returns true if the list is empty afterwards.
    fn remove_chunk(&mut self, list: usize, number: u32) -> bool {
        let Chunk { prev, next, .. } = self.chunks[number as usize];
        match self.chunks.get_mut(prev as usize) {
            Some(before) => before.next = next,
            None => self.ends[list].first = next,
        }
        match self.chunks.get_mut(next as usize) {
            Some(behind) => behind.prev = prev,
            None => self.ends[list].last = prev,
        }
        self.places.free(number);
        self.ends[list].first == NIL
    }
}

impl Chunk {
    /// Returns the position of the first free entry after all used entries; `CHUNK_LEN` if there is
    /// none.
    fn next_entry(&self) -> usize {
        (u16::BITS - self.held.leading_zeros()) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<const COUNT: usize>(lists: &mut Lists<COUNT>, list: usize) -> Vec<u32> {
        std::iter::from_fn(|| lists.take_chunk(list).map(Iterator::collect::<Vec<_>>))
            .flatten()
            .collect()
    }

    #[test]
    fn chunk_is_one_cache_line() {
        assert_eq!(size_of::<Chunk>(), 64);
    }

    #[test]
    fn list_keeps_its_order_after_removals() {
        let mut lists = Lists::<2>::new();
        let spots: Vec<_> = (0..100).map(|index| lists.push(1, index)).collect();
        let held = |lists: &Lists<2>| lists.chunks.iter().filter(|chunk| chunk.held != 0).count();
        assert_eq!(held(&lists), 100_usize.div_ceil(CHUNK_LEN));
        for (index, spot) in (0..).zip(&spots) {
            if index % 7 != 3 && !(26..39).contains(&index) {
                assert!(!lists.remove(*spot), "the list still has indices");
            }
        }
        let mut left: Vec<_> = (0..100)
            .filter(|index| index % 7 == 3 || (26..39).contains(index))
            .collect();
        assert_eq!(lists.first(1), Some(3));
        for index in 100..150 {
            lists.push(1, index);
            left.push(index);
        }
        assert_eq!(all(&mut lists, 1), left);
        assert_eq!((lists.first(0), lists.first(1)), (None, None));
    }

    #[test]
    fn emptied_list_is_reported_and_its_chunks_are_reused() {
        let mut lists = Lists::<3>::new();
        for round in 0..1000 {
            let list = round % 3;
            let mut spots: Vec<_> = (0..30).map(|index| lists.push(list, index)).collect();
            let last = spots.remove(round % 30);
            for spot in spots {
                assert!(!lists.remove(spot));
            }
            assert!(lists.remove(last));
            assert_eq!(lists.first(list), None);
        }
        assert_eq!(lists.chunks.len(), BLOCK_LEN, "freed chunks are used again");
    }
}
