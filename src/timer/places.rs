//! Allocation of the elements of an array.
//!
//! The array is divided into blocks of 64 elements, with one bit per element. Blocks with a free
//! element are on a stack. The block that joined the stack last is filled first, from its start. A
//! new element therefore often uses memory that is still in the processor cache.
//!
//! If a million elements are freed in any order, the next million allocations fill one block after
//! the other, each in address order. A linked list of free elements would follow the order in which
//! they were freed, and each allocation would wait for memory.

const NIL: u32 = u32::MAX;
pub(super) const BLOCK_LEN: usize = 64;

#[derive(Debug)]
struct Block {
    /// Bit set of the free elements.
    free: u64,
    /// Number of the next block on the stack; meaningless if this block is not on the stack.
    next: u32,
}

/// Allocator of the elements of an array.
///
/// Invariant: a block is on the stack if and only if it has a free element.
#[derive(Debug)]
pub(super) struct Places {
    blocks: Vec<Block>,
    /// Number of the first block on the stack; `NIL` if no element is free.
    top: u32,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            blocks: Vec::new(),
            top: NIL,
        }
    }

    /// Takes a free element and returns its index, or `None` if no element is free.
    pub(super) fn take(&mut self) -> Option<u32> {
        let block = self.blocks.get_mut(self.top as usize)?;
        let index = self.top * BLOCK_LEN as u32 + block.free.trailing_zeros();
        block.free &= block.free - 1;
        if block.free == 0 {
            self.top = block.next;
        }
        Some(index)
    }

    /// Frees an element that was taken.
    pub(super) fn free(&mut self, index: u32) {
        let number = index / BLOCK_LEN as u32;
        let block = &mut self.blocks[number as usize];
        if block.free == 0 {
            block.next = std::mem::replace(&mut self.top, number);
        }
        block.free |= 1 << (index % BLOCK_LEN as u32);
    }

    /// Adds [`BLOCK_LEN`] elements, takes the first of them and returns its index.
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
    fn element_is_not_taken_twice_before_it_is_freed() {
        let mut places = Places::new();
        assert_eq!(places.take(), None);
        let mut taken = vec![places.grow()];
        taken.extend(std::iter::from_fn(|| places.take()));
        taken.push(places.grow());
        taken.extend(std::iter::from_fn(|| places.take()));
        taken.sort_unstable();
        assert_eq!(taken, (0..128).collect::<Vec<_>>());
        for index in [70, 3, 127, 64, 0] {
            places.free(index);
        }
        let mut again: Vec<_> = std::iter::from_fn(|| places.take()).collect();
        again.sort_unstable();
        assert_eq!(again, [0, 3, 64, 70, 127]);
    }

    #[test]
    fn freed_elements_of_a_block_are_reused_in_memory_order() {
        let mut places = Places::new();
        for _ in 0..4 {
            places.grow();
            while places.take().is_some() {}
        }
        for step in 0..256 {
            places.free(step * 37 % 256);
        }
        let again: Vec<_> = std::iter::from_fn(|| places.take()).collect();
        assert_eq!(again.len(), 256);
        for block in again.chunks(BLOCK_LEN) {
            assert!(block.is_sorted());
        }
    }
}
