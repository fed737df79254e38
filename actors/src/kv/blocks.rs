//! Which KV blocks are free and which a sequence holds, for every KV group of a model.
//!
//! Ids only, never bytes. Ask, then do: [`BlockPools::can_grow`] before [`BlockPools::grow`]. A
//! sequence's table grows in all groups or in none. `free + used == total` always; the pool checks
//! it where blocks come back, and an engine that is idle checks it as a whole.

use troupe_runtime::id::BlockId;

/// A sequence's blocks: one table per KV group, covering the same positions.
pub type BlockTables = Vec<Vec<BlockId>>;

/// The pools of all KV groups of one engine.
#[derive(Clone, Debug)]
pub struct BlockPools {
    block_size: u32,
    groups: Vec<Pool>,
}

#[derive(Clone, Debug)]
struct Pool {
    total: u32,
    /// Free ids; the last one is given first, so that a warm block is used again soon.
    free: Vec<BlockId>,
}

impl BlockPools {
    /// Pools with `totals[g]` blocks in group `g`, each block of `block_size` positions.
    pub fn new(block_size: u32, totals: &[u32]) -> Self {
        assert!(block_size > 0, "a block holds at least one position");
        let groups = totals
            .iter()
            .map(|&total| Pool { total, free: (0..total).rev().map(BlockId).collect() })
            .collect();
        Self { block_size, groups }
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
        self.groups.iter().all(|pool| blocks <= pool.total)
    }

    /// Whether `tables` can be made to cover `positions` now.
    pub fn can_grow(&self, tables: &BlockTables, positions: u32) -> bool {
        let blocks = positions.div_ceil(self.block_size) as usize;
        self.groups
            .iter()
            .zip(tables)
            .all(|(pool, table)| blocks.saturating_sub(table.len()) <= pool.free.len())
    }

    /// Makes `tables` cover `positions` and returns what was added to each group's table.
    ///
    /// Panics if [`BlockPools::can_grow`] does not hold: the caller has asked.
    pub fn grow(&mut self, tables: &mut BlockTables, positions: u32) -> BlockTables {
        assert!(self.can_grow(tables, positions), "grow without can_grow");
        let blocks = positions.div_ceil(self.block_size) as usize;
        self.groups
            .iter_mut()
            .zip(tables)
            .map(|(pool, table)| {
                let need = blocks.saturating_sub(table.len());
                let added = pool.free.split_off(pool.free.len() - need);
                table.extend(added.iter().rev());
                added.into_iter().rev().collect()
            })
            .collect()
    }

    /// Takes all blocks of a sequence back, tail first, so that its head is reused last.
    pub fn release(&mut self, tables: &mut BlockTables) {
        for (pool, table) in self.groups.iter_mut().zip(tables) {
            pool.free.append(table);
            assert!(pool.free.len() <= pool.total as usize, "a block was released twice");
        }
    }

    /// Blocks in use and in all, of the fullest group.
    pub fn usage(&self) -> (u32, u32) {
        self.groups
            .iter()
            .map(|pool| (pool.total - pool.free.len() as u32, pool.total))
            .max_by(|a, b| {
                (u64::from(a.0) * u64::from(b.1)).cmp(&(u64::from(b.0) * u64::from(a.1)))
            })
            .unwrap_or((0, 0))
    }

    /// Checks that what sequences hold and what is free make up the whole, each block once.
    ///
    /// # Errors
    /// What does not add up.
    pub fn check_integrity<'a>(
        &self,
        held: impl Iterator<Item = &'a BlockTables> + Clone,
    ) -> Result<(), String> {
        for (group, pool) in self.groups.iter().enumerate() {
            let mut seen = vec![false; pool.total as usize];
            let tables = held.clone().filter_map(|tables| tables.get(group)).flatten();
            for block in pool.free.iter().chain(tables) {
                match seen.get_mut(block.0 as usize) {
                    Some(seen) if !*seen => *seen = true,
                    Some(_) => return Err(format!("block {block} of group {group} is held twice")),
                    None => return Err(format!("block {block} of group {group} does not exist")),
                }
            }
            if let Some(lost) = seen.iter().position(|seen| !seen) {
                return Err(format!("block {lost} of group {group} is neither free nor held"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_in_all_groups_or_none_and_gives_everything_back() {
        let mut pools = BlockPools::new(16, &[4, 3]);
        let mut tables = pools.tables();
        assert_eq!(pools.grow(&mut tables, 17)[0].len(), 2);
        assert_eq!(pools.grow(&mut tables, 32), vec![vec![], vec![]]);
        assert!(!pools.can_grow(&tables, 64), "group 1 has three blocks only");
        assert_eq!(pools.usage(), (2, 3));
        pools.check_integrity([&tables].into_iter()).expect("all blocks are accounted for");
        pools.release(&mut tables);
        assert_eq!(pools.usage().0, 0);
        pools.check_integrity(std::iter::empty()).expect("all blocks are free");
    }

    #[test]
    fn integrity_names_a_block_that_was_lost_or_doubled() {
        let mut pools = BlockPools::new(16, &[4]);
        let mut tables = pools.tables();
        pools.grow(&mut tables, 20);
        let doubled = [tables.clone(), tables.clone()];
        let error = pools.check_integrity(doubled.iter()).expect_err("held twice");
        assert!(error.contains("held twice"), "{error}");
        let error = pools.check_integrity(std::iter::empty()).expect_err("lost");
        assert!(error.contains("neither"), "{error}");
    }
}
