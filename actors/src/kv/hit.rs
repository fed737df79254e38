//! The beginning of a sequence whose KV exists already.
//!
//! A group of layers that see every position before them needs all blocks of the beginning; one
//! whose layers look back over a window needs those that the next position sees, and no others. So
//! the longest beginning is not always the longest run of known blocks from the start.

use troupe_runtime::id::{BlockId, StepId};

use super::{
    blocks::{BlockPools, BlockTables, GONE},
    pool::BlockKey,
};

/// What names the contents of a sequence's blocks.
#[derive(Clone, Copy, Debug)]
pub struct PrefixKeys<'a> {
    /// One for each full block, in order.
    pub full: &'a [BlockKey],
    /// The prompt's last block, if it is not full, and where the prompt ends.
    pub end: Option<(BlockKey, u32)>,
}

/// A beginning that need not be computed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// Positions that need not be computed.
    pub positions: u32,
    /// Full blocks to share, per group; [`GONE`] where no later position looks.
    pub(super) shared: BlockTables,
    /// Per group, the block whose beginning is to be copied into the first own one.
    pub(super) source: Vec<BlockId>,
}

impl BlockPools {
    /// The longest beginning, of at most `limit` positions, whose KV is or will be there when step
    /// `now` begins. Full blocks may be written by the same step, because a layer writes before it
    /// reads; a block that is to be copied must have been written by an earlier one.
    pub fn find(&self, keys: PrefixKeys<'_>, limit: u32, now: StepId) -> Hit {
        let size = self.block_size();
        let (full, shared) =
            self.find_full(&keys.full[..keys.full.len().min((limit / size) as usize)]);
        // Where the limit is in the midst of a block that is known, or the prompt ends in one.
        let cut = keys.full.get(full as usize).map(|key| (*key, (full + 1) * size));
        let end = keys.end.filter(|(_, end)| end / size == full);
        let partly = [cut, end].into_iter().flatten().find_map(|(key, end)| {
            let blocks = self.find_all(key)?;
            let is_written = blocks.iter().all(|(_, step)| *step < now);
            let positions = end.min(limit);
            (is_written && positions > full * size).then_some((positions, blocks))
        });
        let (positions, blocks) = partly.unwrap_or((full * size, Vec::new()));
        Hit { positions, shared, source: blocks.into_iter().map(|(block, _)| block).collect() }
    }

    /// The same of whole blocks only, at most `most` of them.
    pub fn find_whole(&self, keys: PrefixKeys<'_>, most: u32, now: StepId) -> Hit {
        let full = &keys.full[..keys.full.len().min(most as usize)];
        let hit = self.find(PrefixKeys { full, end: None }, most * self.block_size(), now);
        // What is known of a further block is no whole one.
        let shared = hit.shared.first().map_or(0, Vec::len) as u32;
        Hit { positions: shared * self.block_size(), shared: hit.shared, source: Vec::new() }
    }

    /// How many full blocks the longest beginning has, and which those are.
    fn find_full(&self, keys: &[BlockKey]) -> (u32, BlockTables) {
        let mut tables = self.tables();
        // Per group, how many blocks in a row are known, up to the latest.
        let mut runs = vec![0; tables.len()];
        let mut full = 0;
        for (count, key) in (1..).zip(keys) {
            let mut reaches = true;
            let mut may_go_on = true;
            for (group, (table, run)) in tables.iter_mut().zip(&mut runs).enumerate() {
                let found = self.find_in(group, *key);
                table.push(found.unwrap_or(GONE));
                *run = found.map_or(0, |_| *run + 1);
                let seen = count - self.left(group, count * self.block_size());
                reaches &= *run >= seen;
                may_go_on &= *run >= seen || self.has_window(group);
            }
            if reaches {
                full = count;
            }
            if !may_go_on {
                break;
            }
        }
        for (group, table) in tables.iter_mut().enumerate() {
            table.truncate(full as usize);
            let left = self.left(group, full * self.block_size()) as usize;
            table.iter_mut().take(left).for_each(|block| *block = GONE);
        }
        (full, tables)
    }
}
