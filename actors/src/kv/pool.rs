//! The KV blocks of one group: who holds each, what it contains, and which is used next.
//!
//! A block is *held* by sequences (`refs` of them), *cached* if nobody holds it but its contents
//! are known and can be found, or *free*. `free + held + cached == total` always. Contents are
//! named by keys: the chained hash of a full block, and that of the partly filled one at a prompt's
//! end. A block keeps its keys until it is given out for something else; that is what eviction is.

use troupe_runtime::id::{BlockId, StepId};

use super::{index::Index, lru::Lru};

/// Names a block's contents: see [`troupe_runtime::prefix`].
pub type BlockKey = u128;

/// One group's blocks.
#[derive(Clone, Debug)]
pub struct Pool {
    blocks: Vec<Block>,
    /// Blocks that nobody holds: those without contents first, then by last use.
    reusable: Lru,
    by_key: Index,
    /// How many of the reusable have keys.
    cached: u32,
    /// Keys of full blocks that lead nowhere any more, if anybody wants to know.
    gone: Option<Vec<BlockKey>>,
    /// Full blocks that were given out for something else and whose bytes are there yet, if anybody
    /// would keep them.
    given_up: Option<Vec<GivenUp>>,
}

/// Which contents of a block a key names. Each has one place: the first of the block's keys is that
/// of the full block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Full,
    /// A prompt's end, which does not fill it.
    End,
}

/// What is known of a block.
#[derive(Clone, Debug, Default)]
struct Block {
    refs: u32,
    /// Of the full block, and of the prompt's end within it.
    keys: [Option<BlockKey>; 2],
    /// The step that writes the last of what the keys name.
    written: StepId,
    /// The step that fills it, if it has the key of a full block.
    filled: StepId,
}

/// A full block that was given out for something else.
#[derive(Clone, Copy, Debug)]
pub(super) struct GivenUp {
    /// What it contained.
    pub(super) key: BlockKey,
    /// Which it is.
    pub(super) block: BlockId,
    /// The step that filled it, or a later one.
    pub(super) filled: StepId,
}

/// How many blocks a pool has of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Held by sequences.
    pub held: u32,
    /// Held by none, but with contents that may be found.
    pub cached: u32,
    /// Neither.
    pub free: u32,
    /// All.
    pub total: u32,
}

impl Pool {
    /// A pool of free blocks.
    pub fn new(total: u32) -> Self {
        Self {
            blocks: vec![Block::default(); total as usize],
            reusable: Lru::full(total),
            by_key: Index::default(),
            cached: 0,
            gone: None,
            given_up: None,
        }
    }

    /// The same, which remembers from now on which keys are gone.
    pub(super) fn remembering(self) -> Self {
        Self { gone: Some(Vec::new()), ..self }
    }

    /// The same, which notes from now on what it gives up.
    pub(super) fn noting(self) -> Self {
        Self { given_up: Some(Vec::new()), ..self }
    }

    /// The full blocks that were given out for something else since this was last asked, in order.
    pub(super) fn given_up(&mut self) -> impl Iterator<Item = GivenUp> + '_ {
        self.given_up.iter_mut().flat_map(|given_up| given_up.drain(..))
    }

    /// The key of a block that is full.
    pub(super) fn full_key(&self, block: BlockId) -> Option<BlockKey> {
        self.blocks[block.0 as usize].keys[Part::Full as usize]
    }

    /// The keys of full blocks that lead nowhere since this was last asked.
    pub(super) fn gone(&mut self) -> impl Iterator<Item = BlockKey> + '_ {
        self.gone.iter_mut().flat_map(|gone| gone.drain(..))
    }

    /// How its blocks are used.
    pub fn usage(&self) -> Usage {
        let (total, reusable) = (self.blocks.len() as u32, self.reusable.len());
        let (held, cached) = (total - reusable, self.cached);
        Usage { held, cached, free: reusable - cached, total }
    }

    /// Blocks that can be given out.
    pub fn available(&self) -> u32 {
        self.reusable.len()
    }

    /// The block with these contents, and the step that writes them.
    pub fn find(&self, key: BlockKey) -> Option<(BlockId, StepId)> {
        let block = self.by_key.find(key)?;
        Some((block, self.blocks[block.0 as usize].written))
    }

    /// The keys of all full blocks.
    pub(super) fn full_keys(&self) -> impl Iterator<Item = BlockKey> + '_ {
        self.blocks.iter().filter_map(|block| block.keys[Part::Full as usize])
    }

    /// The step that fills the block of this key.
    pub(super) fn filled(&self, key: BlockKey) -> Option<StepId> {
        let block = &self.blocks[self.by_key.find(key)?.0 as usize];
        (block.keys[Part::Full as usize] == Some(key)).then_some(block.filled)
    }

    /// Whether somebody holds the block.
    pub fn is_held(&self, block: BlockId) -> bool {
        self.blocks[block.0 as usize].refs > 0
    }

    /// One more sequence holds the block.
    pub fn share(&mut self, block: BlockId) {
        let entry = &mut self.blocks[block.0 as usize];
        if entry.refs == 0 {
            self.cached -= u32::from(entry.keys != [None; 2]);
            self.reusable.remove(block);
        }
        entry.refs += 1;
    }

    /// Gives out the block whose contents were used longest ago; they are forgotten.
    pub fn take(&mut self) -> Option<BlockId> {
        let block = self.reusable.pop_front()?;
        let entry = &mut self.blocks[block.0 as usize];
        debug_assert_eq!(entry.refs, 0, "block {block} is held and was to be reused");
        self.cached -= u32::from(entry.keys != [None; 2]);
        entry.refs = 1;
        let (full, filled) = (entry.keys[Part::Full as usize], entry.filled);
        if let Some(given_up) = &mut self.given_up {
            given_up.extend(full.map(|key| GivenUp { key, block, filled }));
        }
        self.forget(block);
        Some(block)
    }

    /// One sequence less holds the block. If nobody does, it is used again: last if it has
    /// contents that are worth keeping, else first.
    pub fn release(&mut self, block: BlockId, keep: bool) {
        let entry = &mut self.blocks[block.0 as usize];
        assert!(entry.refs > 0, "block {block} was released twice");
        entry.refs -= 1;
        if entry.refs > 0 {
            return;
        }
        if !keep {
            self.forget(block);
        }
        if self.blocks[block.0 as usize].keys == [None; 2] {
            self.reusable.push_front(block);
        } else {
            self.cached += 1;
            self.reusable.push_back(block);
        }
    }

    /// Names the contents of a held block, which `step` completes, and says whether this key led
    /// nowhere before. If another block has the same contents, nothing is changed.
    pub fn name(&mut self, block: BlockId, part: Part, key: BlockKey, step: StepId) -> bool {
        if self.by_key.find(key).is_some() {
            return false;
        }
        let entry = &mut self.blocks[block.0 as usize];
        let slot = &mut entry.keys[part as usize];
        if slot.is_some() {
            // One prompt's end in a block: another is not worth remembering.
            return false;
        }
        *slot = Some(key);
        entry.written = entry.written.max(step);
        if part == Part::Full {
            entry.filled = step;
        }
        self.by_key.insert(key, block);
        true
    }

    /// Forgets a held block's contents: they turned out to be worthless.
    pub fn forget(&mut self, block: BlockId) {
        let [full, end] = std::mem::take(&mut self.blocks[block.0 as usize].keys);
        for key in [full, end].into_iter().flatten() {
            self.by_key.remove(key);
        }
        if let Some(gone) = &mut self.gone {
            gone.extend(full);
        }
    }

    /// Forgets all contents of blocks that nobody holds.
    pub fn clear_cache(&mut self) {
        for index in 0..self.blocks.len() as u32 {
            let block = BlockId(index);
            if self.reusable.contains(block) {
                self.forget(block);
            }
        }
        self.cached = 0;
    }

    /// Checks that every block is held as often as `holders` says, that nobody holds a reusable
    /// one, and that every key leads to the block that bears it.
    ///
    /// # Errors
    /// What does not add up.
    pub fn check_integrity(&self, holders: &[u32]) -> Result<(), String> {
        let mut cached = 0;
        for (index, (block, &holders)) in self.blocks.iter().zip(holders).enumerate() {
            let id = BlockId(index as u32);
            if block.refs != holders {
                return Err(format!("block {id} is held {holders} times, {} noted", block.refs));
            }
            if self.reusable.contains(id) != (block.refs == 0) {
                return Err(format!("block {id} with {} holders is misplaced", block.refs));
            }
            if block.keys.iter().flatten().any(|key| self.by_key.find(*key) != Some(id)) {
                return Err(format!("block {id} bears a key that leads elsewhere"));
            }
            cached += u32::from(block.refs == 0 && block.keys != [None; 2]);
        }
        let keys = self.blocks.iter().flat_map(|block| block.keys.iter().flatten()).count();
        if keys != self.by_key.len() || cached != self.cached {
            let (known, noted) = (self.by_key.len(), self.cached);
            return Err(format!("{keys} keys, {known} known; {cached} cached, {noted} noted"));
        }
        let usage = self.usage();
        if usage.free + usage.held + usage.cached != usage.total {
            return Err(format!("{usage:?} does not add up"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_found_until_their_block_is_used_for_something_else() {
        let mut pool = Pool::new(2);
        let (a, b) = (pool.take().unwrap(), pool.take().unwrap());
        assert!(pool.name(a, Part::Full, 7, StepId(1)));
        assert!(!pool.name(b, Part::Full, 7, StepId(1)), "equal contents are merged");
        pool.release(a, true);
        pool.release(b, true);
        assert_eq!(pool.usage(), Usage { held: 0, cached: 1, free: 1, total: 2 });
        assert_eq!(pool.take(), Some(b), "a block without contents first");
        assert_eq!(pool.find(7), Some((a, StepId(1))));
        assert_eq!(pool.take(), Some(a));
        assert_eq!(pool.find(7), None);
        assert_eq!(pool.take(), None);
        pool.check_integrity(&[1, 1]).unwrap();
    }

    #[test]
    fn a_found_block_is_shared_and_what_is_not_to_be_kept_is_forgotten() {
        let mut pool = Pool::new(2);
        let a = pool.take().unwrap();
        pool.name(a, Part::Full, 7, StepId(1));
        pool.release(a, true);
        pool.share(a);
        pool.share(a);
        pool.release(a, false);
        assert!(pool.find(7).is_some(), "somebody still holds it");
        pool.check_integrity(&[1, 0]).unwrap();
        pool.release(a, false);
        assert_eq!(pool.usage().free, 2);
        pool.check_integrity(&[0, 0]).unwrap();
    }

    #[test]
    fn the_end_of_a_prompt_has_a_key_beside_the_full_block() {
        let mut pool = Pool::new(1);
        let a = pool.take().unwrap();
        pool.name(a, Part::Full, 7, StepId(1));
        pool.name(a, Part::End, 8, StepId(3));
        assert_eq!(pool.find(7), Some((a, StepId(3))));
        pool.release(a, true);
        pool.clear_cache();
        assert_eq!((pool.find(7), pool.usage().free), (None, 1));
        pool.check_integrity(&[0]).unwrap();
    }
}
