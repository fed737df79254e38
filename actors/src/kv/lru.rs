//! The order in which blocks that nobody holds are used again: a doubly linked list through arrays.
//!
//! A block that is found again in the prefix cache has to leave the middle of the list at once,
//! which a queue cannot do and a map does slower. Each block is in the list once or not at all.

use troupe_runtime::id::BlockId;

/// Block ids in order; the front is used first.
#[derive(Clone, Debug)]
pub struct Lru {
    /// Entry `len` is the list's own: its `next` is the front, its `previous` the back.
    links: Vec<Link>,
    len: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    previous: u32,
    next: u32,
}

/// Stands for "not in the list" in both directions.
const OUT: Link = Link { previous: u32::MAX, next: u32::MAX };

impl Lru {
    /// None of the blocks below `total`.
    pub fn empty(total: u32) -> Self {
        let mut list = Self { links: vec![OUT; total as usize], len: 0 };
        list.links.push(Link { previous: total, next: total });
        list
    }

    /// All blocks below `total`, in the order of their ids.
    pub fn full(total: u32) -> Self {
        let mut list = Self::empty(total);
        (0..total).for_each(|id| list.push_back(BlockId(id)));
        list
    }

    /// How many blocks are in it.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no block is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether this block is.
    pub fn contains(&self, block: BlockId) -> bool {
        self.links[block.0 as usize] != OUT
    }

    /// Takes the block that is to be used next.
    pub fn pop_front(&mut self) -> Option<BlockId> {
        let front = self.links[self.own()].next;
        (front as usize != self.own()).then(|| {
            self.remove(BlockId(front));
            BlockId(front)
        })
    }

    /// Puts a block where it is used last.
    pub fn push_back(&mut self, block: BlockId) {
        let own = self.own() as u32;
        self.insert(block, self.links[own as usize].previous, own);
    }

    /// Puts a block where it is used first.
    pub fn push_front(&mut self, block: BlockId) {
        let own = self.own() as u32;
        self.insert(block, own, self.links[own as usize].next);
    }

    /// Takes a block out of the middle.
    pub fn remove(&mut self, block: BlockId) {
        let Link { previous, next } = self.links[block.0 as usize];
        assert!(previous != u32::MAX, "block {block} is not in the list");
        self.links[previous as usize].next = next;
        self.links[next as usize].previous = previous;
        self.links[block.0 as usize] = OUT;
        self.len -= 1;
    }

    fn insert(&mut self, block: BlockId, previous: u32, next: u32) {
        assert!(!self.contains(block), "block {block} is in the list already");
        self.links[block.0 as usize] = Link { previous, next };
        self.links[previous as usize].next = block.0;
        self.links[next as usize].previous = block.0;
        self.len += 1;
    }

    fn own(&self) -> usize {
        self.links.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_leave_from_the_front_and_from_the_middle() {
        let mut list = Lru::full(4);
        list.remove(BlockId(1));
        assert_eq!(list.pop_front(), Some(BlockId(0)));
        list.push_front(BlockId(1));
        list.push_back(BlockId(0));
        let order: Vec<_> = std::iter::from_fn(|| list.pop_front()).map(|id| id.0).collect();
        assert_eq!(order, [1, 2, 3, 0]);
        assert!(list.is_empty());
    }
}
