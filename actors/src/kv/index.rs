//! Blocks by what they contain.
//!
//! Every decode step looks here, in tens of thousands of entries, which is what a tree is slow at.
//! Keys are keyed hashes, so the table needs no hash of its own; and nobody walks over it, so that
//! its order shows nowhere.

use hashbrown::HashTable;
use troupe_runtime::id::BlockId;

use super::pool::BlockKey;

/// The block of each key.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    entries: HashTable<(BlockKey, BlockId)>,
}

impl Index {
    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The block that bears a key.
    pub(super) fn find(&self, key: BlockKey) -> Option<BlockId> {
        self.entries.find(part(key), |(own, _)| *own == key).map(|(_, block)| *block)
    }

    /// A block bears a key that none bears yet.
    pub(super) fn insert(&mut self, key: BlockKey, block: BlockId) {
        debug_assert_eq!(self.find(key), None, "a key names one block");
        self.entries.insert_unique(part(key), (key, block), |(key, _)| part(*key));
    }

    /// No block bears this key any more.
    pub(super) fn remove(&mut self, key: BlockKey) {
        if let Ok(entry) = self.entries.find_entry(part(key), |(own, _)| *own == key) {
            entry.remove();
        }
    }
}

/// As many bits of a key as the table takes.
fn part(key: BlockKey) -> u64 {
    key as u64
}
