//! Which places of an array are free.
//!
//! The array is split into blocks of 64, a bit for each place. The block that was left last is the
//! first to be filled again, from its front. So whoever comes after one that left finds memory that
//! the cache still holds; and a million that come after a million left, in whatever order, fill it
//! nearly in its own order. A list of free places would lead them through it in the order in which
//! they became free, and wait for memory at each.

const NIL: u32 = u32::MAX;
pub(super) const BLOCK_LEN: usize = 64;

#[derive(Debug)]
struct Block {
    /// A bit for each place that is free.
    free: u64,
    /// The next of the blocks that have a free place; what it is in others means nothing.
    next: u32,
}

/// Invariant: a block is on the stack exactly while it has a free place.
#[derive(Debug)]
pub(super) struct Places {
    blocks: Vec<Block>,
    top: u32,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            blocks: Vec::new(),
            top: NIL,
        }
    }

    /// Takes a free place, if there is one.
    #[inline]
    pub(super) fn take(&mut self) -> Option<u32> {
        let block = self.blocks.get_mut(self.top as usize)?;
        let index = self.top * BLOCK_LEN as u32 + block.free.trailing_zeros();
        block.free &= block.free - 1;
        if block.free == 0 {
            self.top = block.next;
        }
        Some(index)
    }

    /// Gives a place back that was taken.
    #[inline]
    pub(super) fn give(&mut self, index: u32) {
        let number = index / BLOCK_LEN as u32;
        let block = &mut self.blocks[number as usize];
        if block.free == 0 {
            block.next = std::mem::replace(&mut self.top, number);
        }
        block.free |= 1 << (index % BLOCK_LEN as u32);
    }

    /// Takes note of [`BLOCK_LEN`] places more, and takes the first of them.
    #[cold]
    pub(super) fn grow(&mut self) -> u32 {
        let number = self.blocks.len() as u32;
        let next = std::mem::replace(&mut self.top, number);
        self.blocks.push(Block { free: !1, next });
        number * BLOCK_LEN as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_given_to_one_at_a_time() {
        let mut places = Places::new();
        assert_eq!(places.take(), None);
        let mut taken = vec![places.grow()];
        taken.extend(std::iter::from_fn(|| places.take()));
        taken.push(places.grow());
        taken.extend(std::iter::from_fn(|| places.take()));
        taken.sort_unstable();
        assert_eq!(taken, (0..128).collect::<Vec<_>>());
        for index in [70, 3, 127, 64, 0] {
            places.give(index);
        }
        let mut again: Vec<_> = std::iter::from_fn(|| places.take()).collect();
        again.sort_unstable();
        assert_eq!(again, [0, 3, 64, 70, 127]);
    }

    #[test]
    fn places_left_in_any_order_are_filled_in_the_order_of_memory_within_a_block() {
        let mut places = Places::new();
        for _ in 0..4 {
            places.grow();
            while places.take().is_some() {}
        }
        for step in 0..256 {
            places.give(step * 37 % 256);
        }
        let again: Vec<_> = std::iter::from_fn(|| places.take()).collect();
        assert_eq!(again.len(), 256);
        for block in again.chunks(BLOCK_LEN) {
            assert!(block.is_sorted());
        }
    }
}
