//! The KV blocks of an engine as its sequences use them: found, taken, grown, released.
//!
//! Ids only, never bytes. Ask, then do: [`BlockPools::can_admit`] before [`BlockPools::admit`],
//! [`BlockPools::can_grow`] before [`BlockPools::grow`]. A sequence's table grows in all KV groups
//! or in none. What a sequence gives back while a step in flight may still touch it is *fenced*: it
//! stays held until that step is done, because only then nothing writes there any more.

use std::collections::BTreeMap;

use troupe_runtime::{
    id::{BlockId, StepId},
    wire::step::{BlockCopy, BlockSwap},
};

use super::{
    findable::Findable,
    hit::Hit,
    pool::{BlockKey, Part, Pool, Usage},
    tiers::Tiers,
};

/// A sequence's blocks: one table per KV group, covering the same positions.
pub type BlockTables = Vec<Vec<BlockId>>;

/// Stands in a table for a block that no later position sees, and that was given back. No executor
/// looks at it.
pub const GONE: BlockId = BlockId(u32::MAX);

/// The pools of all KV groups of one engine.
#[derive(Clone, Debug)]
pub struct BlockPools {
    block_size: u32,
    pub(super) groups: Vec<Pool>,
    /// What others may be told, if anybody is.
    pub(super) findable: Option<Findable>,
    /// Where blocks go that the groups give up, if anywhere.
    pub(super) tiers: Option<Tiers>,
    /// How far back each group's layers see, their own position included, if not to the start.
    windows: Vec<Option<u32>>,
    /// Blocks that are given back once a step is done: (group, block, whether to keep it).
    fenced: BTreeMap<StepId, Vec<(u32, BlockId, bool)>>,
}

/// A sequence's tables when it starts, and what must be copied first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Tables that cover all of its positions.
    pub tables: BlockTables,
    /// Copies that its first step makes.
    pub copies: Vec<BlockCopy>,
    /// How many leading blocks are shared.
    pub shared: u32,
}

impl BlockPools {
    /// Pools with `totals[g]` blocks in group `g`, each block of `block_size` positions; all layers
    /// see every position before their own.
    pub fn new(block_size: u32, totals: &[u32]) -> Self {
        assert!(block_size > 0, "a block holds at least one position");
        let groups = totals.iter().map(|&total| Pool::new(total)).collect();
        let (windows, fenced) = (vec![None; totals.len()], BTreeMap::new());
        Self { block_size, groups, findable: None, tiers: None, windows, fenced }
    }

    /// The same where layers of group `g` see `windows[g]` positions only, their own included.
    pub fn with_windows(self, windows: &[Option<u32>]) -> Self {
        assert_eq!(windows.len(), self.groups.len(), "one for each group, or none");
        Self { windows: windows.to_vec(), ..self }
    }

    /// The same, which keep note of what can be found: see [`BlockPools::changes`].
    pub fn telling(self) -> Self {
        let groups = self.groups.into_iter().map(Pool::remembering).collect();
        Self { groups, findable: Some(Findable::default()), ..self }
    }

    /// The same with tiers for what its groups give up.
    pub fn with_tiers(self, tiers: Tiers) -> Self {
        let groups = self.groups.into_iter().map(Pool::noting).collect();
        Self { groups, tiers: Some(tiers), ..self }
    }

    /// Empty tables for a new sequence.
    pub fn tables(&self) -> BlockTables {
        vec![Vec::new(); self.groups.len()]
    }

    /// Positions per block.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Whether a sequence of `positions` could run at all, alone.
    pub fn could_ever_hold(&self, positions: u32) -> bool {
        let blocks = positions.div_ceil(self.block_size);
        self.groups.iter().all(|pool| blocks <= pool.usage().total)
    }

    /// Whether a sequence with this hit can be given blocks for all `positions`, leaving `reserve`.
    pub fn can_admit(&self, hit: &Hit, positions: u32, reserve: u32) -> bool {
        let blocks = positions.div_ceil(self.block_size);
        self.groups.iter().enumerate().all(|(group, pool)| {
            let shared = hit.shared.get(group).map_or(&[][..], Vec::as_slice);
            let revived = kept(shared).filter(|block| !pool.is_held(*block)).count() as u32;
            let own = blocks.saturating_sub(shared.len() as u32);
            own.saturating_add(revived).saturating_add(reserve) <= pool.available()
        })
    }

    /// Gives a sequence the blocks of its hit and further ones to cover `positions`.
    ///
    /// Panics if [`BlockPools::can_admit`] does not hold: the caller has asked.
    pub fn admit(&mut self, hit: &Hit, positions: u32) -> Admitted {
        assert!(self.can_admit(hit, positions, 0), "admit without can_admit");
        for (pool, shared) in self.groups.iter_mut().zip(&hit.shared) {
            kept(shared).for_each(|block| pool.share(block));
        }
        let mut tables = self.tables();
        tables.iter_mut().zip(&hit.shared).for_each(|(table, shared)| table.clone_from(shared));
        let shared = tables.first().map_or(0, Vec::len) as u32;
        self.grow(&mut tables, positions);
        let copies = (0..)
            .zip(tables.iter().zip(&hit.source))
            .filter_map(|(group, (table, &from))| {
                let to = *table.get(shared as usize)?;
                // A block that was given out again still holds what it held: nothing to copy.
                (from != to).then_some(BlockCopy { group, from, to })
            })
            .collect();
        Admitted { tables, copies, shared }
    }

    /// Whether `tables` can be made to cover `positions` now.
    pub fn can_grow(&self, tables: &BlockTables, positions: u32) -> bool {
        self.lacks(tables, positions, |_| 0)
    }

    /// Whether they could be once the steps in flight are done.
    pub fn can_grow_later(&self, tables: &BlockTables, positions: u32) -> bool {
        self.lacks(tables, positions, |group| {
            let fenced = self.fenced.values().flatten();
            fenced.filter(|(of, _, _)| *of == group).count() as u32
        })
    }

    fn lacks(&self, tables: &BlockTables, positions: u32, more: impl Fn(u32) -> u32) -> bool {
        let blocks = positions.div_ceil(self.block_size);
        (0..).zip(self.groups.iter().zip(tables)).all(|(group, (pool, table))| {
            let need = blocks.saturating_sub(table.len() as u32);
            need <= pool.available() || need <= pool.available() + more(group)
        })
    }

    /// Makes `tables` cover `positions` and returns what was added to each group's table; nothing
    /// if nothing was.
    ///
    /// Panics if [`BlockPools::can_grow`] does not hold: the caller has asked.
    pub fn grow(&mut self, tables: &mut BlockTables, positions: u32) -> BlockTables {
        let blocks = positions.div_ceil(self.block_size) as usize;
        // Mostly there is room in the last block.
        if tables.iter().all(|table| table.len() >= blocks) {
            return Vec::new();
        }
        assert!(self.can_grow(tables, positions), "grow without can_grow");
        self.groups
            .iter_mut()
            .zip(tables)
            .map(|(pool, table)| {
                let need = blocks.saturating_sub(table.len());
                let added: Vec<_> = (0..need).map_while(|_| pool.take()).collect();
                table.extend(&added);
                added
            })
            .collect()
    }

    /// Takes all blocks of a sequence back, tail first, so that its head is reused last; once
    /// `fence` is done, if a step may still touch them. What they contain stays findable if `keep`.
    pub fn release(&mut self, tables: &mut BlockTables, fence: Option<StepId>, keep: bool) {
        for (group, table) in (0..).zip(tables) {
            for block in table.drain(..).rev().filter(|block| *block != GONE) {
                self.give_back(group, block, fence, keep);
            }
        }
    }

    /// Takes back what no position from `next` on sees, in groups that have windows; under the same
    /// rules as [`BlockPools::release`].
    pub fn release_left(
        &mut self,
        tables: &mut BlockTables,
        next: u32,
        fence: Option<StepId>,
        keep: bool,
    ) {
        for (group, table) in (0..).zip(tables) {
            let left = (self.left(group as usize, next) as usize).min(table.len());
            // What left earlier is gone already. What is earliest is used again first: who finds
            // this text again needs its end.
            let new = table[..left].iter().rev().take_while(|block| **block != GONE).count();
            for slot in &mut table[left - new..left] {
                let block = std::mem::replace(slot, GONE);
                self.give_back(group, block, fence, keep);
            }
        }
    }

    /// A step is done: what was fenced by it or an earlier one is free to be used.
    pub fn step_done(&mut self, step: StepId) {
        while let Some(entry) = self.fenced.first_entry().filter(|entry| *entry.key() <= step) {
            for (group, block, keep) in entry.remove() {
                self.groups[group as usize].release(block, keep);
            }
        }
        if let Some(findable) = &mut self.findable {
            findable.step_done(step);
        }
    }

    /// Names the contents of one column of a sequence's tables, which `step` completes. `parent`
    /// names the column before.
    pub fn name(
        &mut self,
        tables: &BlockTables,
        index: u32,
        (key, parent): (BlockKey, Option<BlockKey>),
        step: StepId,
    ) {
        let mut is_new = false;
        for (group, table) in tables.iter().enumerate() {
            if let Some(&block) = table.get(index as usize).filter(|block| **block != GONE) {
                let named = self.groups[group].name(block, Part::Full, key, step);
                is_new |= named && self.decides(group);
            }
        }
        if let Some(findable) = self.findable.as_mut().filter(|_| is_new) {
            findable.named(key, parent, step);
        }
    }

    /// Names what one column holds of a prompt that ends there, which `step` completes.
    pub fn name_end(&mut self, tables: &BlockTables, index: u32, key: BlockKey, step: StepId) {
        for (pool, table) in self.groups.iter_mut().zip(tables) {
            if let Some(&block) = table.get(index as usize).filter(|block| **block != GONE) {
                pool.name(block, Part::End, key, step);
            }
        }
    }

    /// Puts the block that is known by `key` into a sequence's tables in place of an equal one of
    /// its own, and says what was put where.
    pub fn merge(
        &mut self,
        tables: &mut BlockTables,
        index: u32,
        key: BlockKey,
        fence: Option<StepId>,
    ) -> Vec<BlockSwap> {
        let mut swaps = Vec::new();
        for (group, table) in (0..).zip(tables) {
            let slot = table.get_mut(index as usize).filter(|slot| **slot != GONE);
            let Some(slot) = slot else { continue };
            let pool = &mut self.groups[group as usize];
            let Some((known, _)) = pool.find(key).filter(|(known, _)| known != slot) else {
                continue;
            };
            pool.share(known);
            let own = std::mem::replace(slot, known);
            swaps.push(BlockSwap { group, index, block: known });
            self.give_back(group, own, fence, true);
        }
        swaps
    }

    /// Forgets what a sequence's blocks contain, wherever that is: it turned out to be worthless.
    pub fn forget(&mut self, tables: &BlockTables) {
        for (group, (pool, table)) in self.groups.iter_mut().zip(tables).enumerate() {
            for block in kept(table) {
                if let (Some(tiers), Some(key)) = (&mut self.tiers, pool.full_key(block)) {
                    tiers.forget(group, key);
                }
                pool.forget(block);
            }
        }
    }

    /// Forgets everything that no sequence holds.
    pub fn clear_cache(&mut self) {
        self.groups.iter_mut().for_each(Pool::clear_cache);
        self.keep_given_up();
        self.tiers.iter_mut().for_each(Tiers::clear);
    }

    /// How the blocks of the fullest group are used.
    pub fn usage(&self) -> Usage {
        let share =
            |usage: &Usage| u64::from(usage.held) * 1_000_000 / u64::from(usage.total.max(1));
        self.groups.iter().map(Pool::usage).max_by_key(share).unwrap_or_default()
    }

    /// Checks that what sequences hold, what is fenced and what can be reused make up the whole.
    ///
    /// # Errors
    /// What does not add up.
    pub fn check_integrity<'a>(
        &self,
        held: impl Iterator<Item = &'a BlockTables> + Clone,
    ) -> Result<(), String> {
        for (group, pool) in (0_u32..).zip(&self.groups) {
            let mut holders = vec![0; pool.usage().total as usize];
            let tables = held.clone().filter_map(|tables| tables.get(group as usize));
            let fenced = self.fenced.values().flatten().filter(|(of, _, _)| *of == group);
            let fenced = fenced.map(|(_, block, _)| *block);
            for block in tables.flat_map(|table| kept(table)).chain(fenced) {
                match holders.get_mut(block.0 as usize) {
                    Some(count) => *count += 1,
                    None => return Err(format!("block {block} of group {group} does not exist")),
                }
            }
            pool.check_integrity(&holders).map_err(|why| format!("KV group {group}: {why}"))?;
        }
        self.tiers.as_ref().map_or(Ok(()), Tiers::check_integrity)
    }

    pub(super) fn find_in(&self, group: usize, key: BlockKey) -> Option<BlockId> {
        self.groups[group].find(key).map(|(block, _)| block)
    }

    pub(super) fn find_all(&self, key: BlockKey) -> Option<Vec<(BlockId, StepId)>> {
        self.groups.iter().map(|pool| pool.find(key)).collect()
    }

    /// Whether the layers of a group do not see everything before them.
    pub(super) fn has_window(&self, group: usize) -> bool {
        self.windows[group].is_some()
    }

    /// How many of a table's first blocks no position from `next` on sees.
    pub(crate) fn left(&self, group: usize, next: u32) -> u32 {
        self.windows[group].map_or(0, |window| (next + 1).saturating_sub(window) / self.block_size)
    }

    fn give_back(&mut self, group: u32, block: BlockId, fence: Option<StepId>, keep: bool) {
        match fence {
            Some(step) => self.fenced.entry(step).or_default().push((group, block, keep)),
            None => self.groups[group as usize].release(block, keep),
        }
    }
}

/// The blocks of a table that were not given back.
fn kept(table: &[BlockId]) -> impl Iterator<Item = BlockId> + '_ {
    table.iter().copied().filter(|block| *block != GONE)
}

#[cfg(test)]
mod tests;
