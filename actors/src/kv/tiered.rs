//! The tiers beside the device as the pools use them: what the device gives up goes there, and what
//! a sequence lacks is looked for there by the same names.
//!
//! A pool notes which blocks it gives to somebody else. That is acted on when whoever plans asks
//! for the moves, before the plan that uses those blocks goes out: until then their bytes are
//! there.

use troupe_runtime::wire::{
    tier::{TierMove, TierPlace},
    transfer::Run,
};

use super::{
    blocks::BlockPools,
    pool::{BlockKey, GivenUp},
    tiers::Tiers,
};

impl BlockPools {
    /// The tiers, if there are any.
    pub fn tiers(&self) -> Option<&Tiers> {
        self.tiers.as_ref()
    }

    /// What ranks have to do before whatever they are told next: keep what was given up since this
    /// was last asked.
    pub fn moves(&mut self) -> Vec<TierMove> {
        self.keep_given_up();
        self.tiers.as_mut().map(Tiers::moves).unwrap_or_default()
    }

    /// How many of a sequence's first `end` blocks there would be once the tiers have given back
    /// what follows the first `shared`, which are here.
    pub fn reach(&self, keys: &[BlockKey], shared: u32, end: u32) -> u32 {
        let Some(tiers) = &self.tiers else { return shared };
        // Per group, how many blocks in a row are kept, up to the latest.
        let mut runs = vec![0; self.groups.len()];
        let mut reach = shared;
        for (at, key) in (shared..end).zip(keys.iter().skip(shared as usize)) {
            let (mut reaches, mut may_go_on) = (true, true);
            for (group, run) in runs.iter_mut().enumerate() {
                *run = if tiers.holds(group, *key) { *run + 1 } else { 0 };
                let left = self.left(group, (at + 1) * self.block_size()).max(shared);
                let has = *run >= at + 1 - left;
                reaches &= has;
                may_go_on &= has || self.has_window(group);
            }
            if reaches {
                reach = at + 1;
            }
            if !may_go_on {
                break;
            }
        }
        reach
    }

    /// Where the blocks of these names are kept, per group and in order; they stay there until they
    /// are unpinned. Nothing is pinned unless all can be.
    pub fn pin(&mut self, keys: &[BlockKey], wants: &[Run]) -> Option<Vec<Vec<TierPlace>>> {
        let tiers = self.tiers.as_mut()?;
        let wanted = |run: &Run| keys.get(run.first as usize..run.end.max(run.first) as usize);
        let mut all = wants.iter().enumerate();
        if !all.all(|(group, run)| {
            wanted(run).is_some_and(|keys| keys.iter().all(|key| tiers.holds(group, *key)))
        }) {
            return None;
        }
        let mut places = Vec::new();
        for (group, run) in wants.iter().enumerate() {
            let keys = wanted(run).unwrap_or_default().iter();
            places.push(keys.filter_map(|key| tiers.pin(group, *key)).collect());
        }
        Some(places)
    }

    /// Nobody reads these any more. A text's end is used again first, as on the device.
    pub fn unpin(&mut self, places: &[Vec<TierPlace>]) {
        let Some(tiers) = &mut self.tiers else { return };
        for (group, places) in places.iter().enumerate() {
            places.iter().rev().for_each(|place| tiers.unpin(group, *place));
        }
    }

    /// These could not be had where they were said to be.
    pub fn forget_kept(&mut self, places: &[Vec<TierPlace>]) {
        let Some(tiers) = &mut self.tiers else { return };
        for (group, places) in places.iter().enumerate() {
            places.iter().for_each(|place| tiers.forget(group, place.key));
        }
    }

    /// Has the tiers keep what the pools gave up.
    pub(super) fn keep_given_up(&mut self) {
        let Some(tiers) = &mut self.tiers else { return };
        for (group, pool) in self.groups.iter_mut().enumerate() {
            for GivenUp { key, block, filled } in pool.given_up() {
                tiers.keep(group, block, key);
                if let Some(findable) = &mut self.findable {
                    findable.filled(key, filled);
                }
            }
        }
    }
}
