//! A rank's bytes of blocks that its device gave up, by slot.
//!
//! A slot's memory is taken when it is used for the first time. With the bytes goes the name of
//! what they are: what was not kept, because the device or the disk failed, is not found later.

use std::collections::BTreeMap;

use troupe_gpu::executor::Executor;
use troupe_runtime::wire::tier::{Tier, TierFrom, TierMove, TierPlace};

use super::disk::{Disk, Ticket};

/// One rank's tiers.
#[derive(Debug, Default)]
pub struct Shelf {
    /// By KV group and slot.
    host: BTreeMap<(u32, u32), Bytes>,
    disk: Option<Disk>,
}

#[derive(Debug, Default)]
struct Bytes {
    key: u128,
    bytes: Vec<u8>,
}

/// What there is of a place.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// Its bytes.
    Here(&'a [u8]),
    /// They have to be read from the disk.
    OnDisk,
    /// It holds something else, or nothing.
    Nothing,
}

impl Shelf {
    /// An empty one, with a disk or without.
    pub fn new(disk: Option<Disk>) -> Self {
        Self { host: BTreeMap::new(), disk }
    }

    /// Moves a block's bytes one tier further. What cannot be moved is lost.
    pub fn take(&mut self, step: &TierMove, executor: &mut dyn Executor) {
        let TierMove { group, key, from, slot } = *step;
        match from {
            TierFrom::Host(from) => {
                let kept = self.host.get_mut(&(group, from)).filter(|kept| kept.key == key);
                if let (Some(kept), Some(disk)) = (kept, &mut self.disk) {
                    kept.key = 0;
                    disk.write((group, slot), key, std::mem::take(&mut kept.bytes));
                }
            }
            TierFrom::Device(block) => {
                let kept = self.host.entry((group, slot)).or_default();
                let saved = executor.save_block(group as usize, block, &mut kept.bytes);
                match saved {
                    Ok(()) => kept.key = key,
                    Err(error) => {
                        tracing::warn!(%error, group, %block, "a KV block is not kept");
                        self.host.remove(&(group, slot));
                    }
                }
            }
        }
    }

    /// What there is of a group's block.
    pub fn find(&self, group: u32, place: TierPlace) -> Found<'_> {
        let host = self.host.get(&(group, place.slot)).filter(|kept| kept.key == place.key);
        match (place.tier, host, &self.disk) {
            (Tier::Host, Some(kept), _) => Found::Here(&kept.bytes),
            (Tier::Disk, _, Some(_)) => Found::OnDisk,
            (Tier::Host, None, _) | (Tier::Disk, _, None) => Found::Nothing,
        }
    }

    /// Has a block read from the disk; false if the disk has no time for it now.
    pub fn read(&mut self, group: u32, place: TierPlace, ticket: Ticket) -> bool {
        let disk = self.disk.as_mut();
        disk.is_none_or(|disk| disk.read((group, place.slot), place.key, ticket))
    }

    /// What has been read since this was last asked.
    pub fn read_so_far(&mut self) -> Vec<(Ticket, Result<Vec<u8>, String>)> {
        self.disk.as_mut().map(Disk::read_so_far).unwrap_or_default()
    }
}
