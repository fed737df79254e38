//! Blocks that the device gave up and its host keeps: in its memory, then on its disk.
//!
//! Names and slots only, never bytes. Every rank holds its own share of a block in the slot of the
//! same number, so one book is enough for a group. A block that the device gives to somebody else
//! is kept in the host's memory; what makes room for it there ([`super::evict`]) goes to the disk,
//! and what makes room there is dropped. What is found again stays where it is, so that giving it
//! up once more costs nothing.
//!
//! What is being loaded is pinned: its slot is not used for anything else until whoever loads has
//! told every rank to stop.

use std::mem;

use troupe_runtime::{
    id::BlockId,
    spec::service::Eviction,
    wire::tier::{Tier, TierFrom, TierMove, TierPlace},
};

use super::{evict::Order, index::Index, pool::BlockKey};

/// The tiers of all KV groups of one engine.
#[derive(Clone, Debug)]
pub struct Tiers {
    groups: Vec<Shelf>,
    /// What ranks have to do, in order, that they were not told yet.
    moves: Vec<TierMove>,
    counts: [TierCounts; 2],
}

/// What became of blocks in one tier since the start, all KV groups together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierCounts {
    /// Blocks that came.
    pub stored: u64,
    /// Blocks that went back to the device.
    pub loaded: u64,
    /// Blocks that were dropped, whether or not another tier has them.
    pub dropped: u64,
}

/// One KV group.
#[derive(Clone, Debug)]
struct Shelf {
    host: Store,
    disk: Store,
    /// Names that this group's tiers have dropped and that nobody was told of.
    gone: Vec<BlockKey>,
}

/// One KV group in one tier. Slots are numbered as blocks are; a pinned one is in no order.
#[derive(Clone, Debug)]
struct Store {
    slots: Vec<Slot>,
    order: Order,
    /// Slots that hold nothing, the next one last.
    free: Vec<BlockId>,
    by_key: Index,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: Option<BlockKey>,
    pins: u32,
}

// === impl Tiers ===

impl Tiers {
    /// Empty tiers with so many slots for each of `groups` KV groups.
    pub fn new(groups: usize, (host, disk): (u32, u32), eviction: Eviction) -> Self {
        let (host, disk) = (Store::new(host, eviction), Store::new(disk, eviction));
        let shelf = Shelf { host, disk, gone: Vec::new() };
        Self { groups: vec![shelf; groups], moves: Vec::new(), counts: Default::default() }
    }

    /// Whether the group's block of this name is in any tier.
    pub fn holds(&self, group: usize, key: BlockKey) -> bool {
        let shelf = &self.groups[group];
        shelf.host.by_key.find(key).is_some() || shelf.disk.by_key.find(key).is_some()
    }

    /// The names of all blocks of a group, some of them twice.
    pub fn keys(&self, group: usize) -> impl Iterator<Item = BlockKey> + '_ {
        let Shelf { host, disk, .. } = &self.groups[group];
        host.slots.iter().chain(&disk.slots).filter_map(|slot| slot.key)
    }

    /// The device gives a block up that has these contents.
    pub fn keep(&mut self, group: usize, block: BlockId, key: BlockKey) {
        let Shelf { host, disk, gone } = &mut self.groups[group];
        let [of_host, of_disk] = &mut self.counts;
        disk.touch(key);
        if host.touch(key) {
            return;
        }
        // All are pinned: this one is lost.
        let Some((slot, old)) = host.take(key) else { return };
        // Groups are few.
        let number = group as u32;
        if let Some(old) = old {
            of_host.dropped += 1;
            if disk.by_key.find(old).is_none() {
                match disk.take(old) {
                    Some((to, lost)) => {
                        disk.put(to, old);
                        of_disk.stored += 1;
                        of_disk.dropped += u64::from(lost.is_some());
                        gone.extend(lost.filter(|lost| host.by_key.find(*lost).is_none()));
                        let from = TierFrom::Host(slot.0);
                        self.moves.push(TierMove { group: number, key: old, from, slot: to.0 });
                    }
                    None => gone.push(old),
                }
            }
        }
        host.put(slot, key);
        of_host.stored += 1;
        let from = TierFrom::Device(block);
        self.moves.push(TierMove { group: number, key, from, slot: slot.0 });
    }

    /// What ranks have to do since this was last asked, in this order.
    pub fn moves(&mut self) -> Vec<TierMove> {
        mem::take(&mut self.moves)
    }

    /// Where a block is, which stays there until it is unpinned.
    pub fn pin(&mut self, group: usize, key: BlockKey) -> Option<TierPlace> {
        let Shelf { host, disk, .. } = &mut self.groups[group];
        let place = |tier, slot: BlockId| TierPlace { tier, slot: slot.0, key };
        let found = host.pin(key).map(|slot| place(Tier::Host, slot));
        let found = found.or_else(|| disk.pin(key).map(|slot| place(Tier::Disk, slot)));
        self.counts[found?.tier as usize].loaded += 1;
        found
    }

    /// Nobody reads what was pinned there any more. It was used last.
    pub fn unpin(&mut self, group: usize, place: TierPlace) {
        self.groups[group].store(place.tier).unpin(BlockId(place.slot));
    }

    /// Forgets a group's block: it cannot be had, or must not be.
    pub fn forget(&mut self, group: usize, key: BlockKey) {
        let shelf = &mut self.groups[group];
        let [host, disk] = [shelf.host.forget(key), shelf.disk.forget(key)];
        self.counts[Tier::Host as usize].dropped += u64::from(host);
        self.counts[Tier::Disk as usize].dropped += u64::from(disk);
        if host || disk {
            shelf.gone.push(key);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        for group in 0..self.groups.len() {
            let keys: Vec<_> = self.keys(group).collect();
            keys.into_iter().for_each(|key| self.forget(group, key));
        }
    }

    /// Names of a group that are in no tier any more, since this was last asked.
    pub fn gone(&mut self, group: usize) -> impl Iterator<Item = BlockKey> + '_ {
        self.groups[group].gone.drain(..)
    }

    /// What became of blocks in a tier.
    pub fn counts(&self, tier: Tier) -> TierCounts {
        self.counts[tier as usize]
    }

    /// Slots of a tier that are in use, and all, of the fullest KV group.
    pub fn usage(&self, tier: Tier) -> (u32, u32) {
        let stores = self.groups.iter().map(|shelf| match tier {
            Tier::Host => &shelf.host,
            Tier::Disk => &shelf.disk,
        });
        // Slots are numbered by u32s.
        let of = |store: &Store| (store.by_key.len() as u32, store.slots.len() as u32);
        stores.map(of).max().unwrap_or_default()
    }

    /// Checks that every name leads to one slot that bears it, and that what is not pinned is in
    /// the order of use.
    ///
    /// # Errors
    /// What does not add up.
    pub fn check_integrity(&self) -> Result<(), String> {
        for (group, shelf) in self.groups.iter().enumerate() {
            for (tier, store) in [(Tier::Host, &shelf.host), (Tier::Disk, &shelf.disk)] {
                let wrong = |why| format!("{tier:?} tier, KV group {group}: {why}");
                store.check_integrity().map_err(wrong)?;
            }
        }
        Ok(())
    }

    /// Slots that are pinned: none when nothing is being loaded.
    pub fn pinned(&self) -> usize {
        let stores = self.groups.iter().flat_map(|shelf| [&shelf.host, &shelf.disk]);
        stores.flat_map(|store| &store.slots).filter(|slot| slot.pins > 0).count()
    }
}

impl Shelf {
    fn store(&mut self, tier: Tier) -> &mut Store {
        match tier {
            Tier::Host => &mut self.host,
            Tier::Disk => &mut self.disk,
        }
    }
}

// === impl Store ===

impl Store {
    fn new(slots: u32, eviction: Eviction) -> Self {
        Self {
            slots: vec![Slot::default(); slots as usize],
            order: Order::new(slots, eviction),
            free: (0..slots).rev().map(BlockId).collect(),
            by_key: Index::default(),
        }
    }

    /// Notes that a block is used, if it is here.
    fn touch(&mut self, key: BlockKey) -> bool {
        let Some(slot) = self.by_key.find(key) else { return false };
        if self.slots[slot.0 as usize].pins == 0 {
            self.order.used(slot);
        }
        true
    }

    /// Takes the slot that is to hold `key`, and says what was in it.
    fn take(&mut self, key: BlockKey) -> Option<(BlockId, Option<BlockKey>)> {
        if let Some(slot) = self.free.pop() {
            return Some((slot, None));
        }
        let slots = &mut self.slots;
        let slot = self.order.next(key, |slot| slots[slot.0 as usize].key)?;
        let old = slots[slot.0 as usize].key.take();
        old.into_iter().for_each(|key| self.by_key.remove(key));
        Some((slot, old))
    }

    /// Fills a slot that was just taken.
    fn put(&mut self, slot: BlockId, key: BlockKey) {
        self.slots[slot.0 as usize].key = Some(key);
        self.by_key.insert(key, slot);
        self.order.put(slot, key);
    }

    fn pin(&mut self, key: BlockKey) -> Option<BlockId> {
        let slot = self.by_key.find(key)?;
        let entry = &mut self.slots[slot.0 as usize];
        entry.pins += 1;
        if entry.pins == 1 {
            self.order.remove(slot);
        }
        Some(slot)
    }

    fn unpin(&mut self, slot: BlockId) {
        let entry = &mut self.slots[slot.0 as usize];
        assert!(entry.pins > 0, "slot {slot} was unpinned twice");
        entry.pins -= 1;
        if entry.pins == 0 {
            match entry.key {
                Some(_) => self.order.used(slot),
                None => self.free.push(slot),
            }
        }
    }

    fn forget(&mut self, key: BlockKey) -> bool {
        let Some(slot) = self.by_key.find(key) else { return false };
        self.by_key.remove(key);
        let entry = &mut self.slots[slot.0 as usize];
        entry.key = None;
        if entry.pins == 0 {
            self.order.remove(slot);
            self.free.push(slot);
        }
        true
    }

    fn check_integrity(&self) -> Result<(), String> {
        let named = |slot: &Slot| u32::from(slot.key.is_some());
        for (index, slot) in self.slots.iter().enumerate() {
            let id = BlockId(index as u32);
            if slot.key.is_some_and(|key| self.by_key.find(key) != Some(id)) {
                return Err(format!("slot {id} bears a name that leads elsewhere"));
            }
            let places = (self.order.contains(id), self.free.contains(&id));
            if places != (slot.pins == 0 && slot.key.is_some(), slot.pins + named(slot) == 0) {
                return Err(format!("slot {id} with {} pins is misplaced: {places:?}", slot.pins));
            }
        }
        let (named, known) =
            (self.slots.iter().map(named).sum::<u32>() as usize, self.by_key.len());
        match named == known {
            true => Ok(()),
            false => Err(format!("{named} slots bear names, {known} are known")),
        }
    }
}

#[cfg(test)]
mod tests;
