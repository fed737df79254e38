//! A request of which the tiers beside the device have what the device has not.
//!
//! It is a transfer as one from another group is ([`super::fetch`]), but every rank has the bytes
//! itself, and nobody is asked. It begins when the request arrives, or as soon as there is room for
//! the blocks: until then the request waits for that room anyway. So it does when it is preempted.

use std::time::Duration;

use troupe_runtime::{
    id::SequenceId,
    wire::{tier::LoadOrder, transfer::TransferOrder},
};

use super::{
    engine::{Engine, EngineEffect},
    fetch::{Fetch, Source},
    settings::EngineSettings,
    transfers::{TransferEffect, TransferSetup},
};
use crate::{
    kv::tiers::Tiers,
    scheduler::{Kept, Reserved},
};

impl Engine {
    /// The tiers beside its device, if it has any.
    pub fn tiers(&self) -> Option<&Tiers> {
        self.scheduler.tiers()
    }

    /// Has the ranks bring back what tiers have of a sequence that has just begun to wait; later,
    /// if there is no room yet.
    pub(super) fn bring_back(
        &mut self,
        now: Duration,
        id: SequenceId,
        effects: &mut Vec<EngineEffect>,
    ) {
        if self.scheduler.tiers().is_some() && !self.begin_load(now, id, effects) {
            self.transfers.wanting.insert(id);
        }
    }

    /// Looks at what waits for room, or may have been given up since it began to wait: in the order
    /// of arrival and no further than the first that can begin, so that nobody is overtaken and a
    /// long queue costs nothing.
    pub(super) fn load_waiting(&mut self, now: Duration, effects: &mut Vec<EngineEffect>) {
        let mut after = None;
        loop {
            let next = |id: &&SequenceId| after.is_none_or(|after| **id > after);
            let Some(&id) = self.transfers.wanting.iter().find(next) else { return };
            if self.scheduler.is_waiting(id) && !self.scheduler.is_idle(id) {
                after = Some(id);
                continue;
            }
            if self.scheduler.is_waiting(id) && !self.begin_load(now, id, effects) {
                return;
            }
            self.transfers.wanting.remove(&id);
        }
    }

    /// These have lost their blocks, which may be kept when they go on.
    pub(super) fn preempted(&mut self, ids: &[SequenceId]) {
        if self.scheduler.tiers().is_some() {
            self.transfers.wanting.extend(ids);
        }
    }

    fn begin_load(
        &mut self,
        now: Duration,
        id: SequenceId,
        effects: &mut Vec<EngineEffect>,
    ) -> bool {
        let Some(setup) = self.transfers.setup.clone() else { return false };
        if !self.transfers.may_fetch() {
            return false;
        }
        let Some(Kept { reserved, places }) = self.scheduler.reserve_kept(id) else {
            return false;
        };
        let Reserved { wants, blocks, cached } = reserved;
        let first = cached / self.settings.limits.block_size;
        let end = wants.iter().map(|run| run.end).max().unwrap_or(first);
        let transfer = self.transfers.mint(&setup);
        let time = self.patience(end - first);
        let source = Source::Tiers(places.clone());
        let fetch = Fetch::new(id, (now, time), (first, end), &setup.ranks, source);
        self.transfers.fetches.insert(transfer, fetch);
        // What these blocks had is kept before they are filled.
        self.keep_moved(effects);
        let order = LoadOrder { transfer, first, wants, blocks, places };
        effects.push(TransferEffect::Order(TransferOrder::Load(Box::new(order))).into());
        true
    }

    /// Has the ranks keep what the device has given up: before whatever they are told next, which
    /// may use those blocks for something else.
    pub(super) fn keep_moved(&mut self, effects: &mut Vec<EngineEffect>) {
        let moves = self.scheduler.moves();
        if !moves.is_empty() {
            effects.push(TransferEffect::Order(TransferOrder::Move(moves)).into());
        }
    }
}

/// The tiers that the settings ask for, at a group of such ranks.
pub(super) fn tiers(settings: &EngineSettings, setup: &TransferSetup) -> Option<Tiers> {
    let offload = settings.limits.offload;
    let slots = |bytes: u64| {
        // More than all of them are never numbered.
        u32::try_from(bytes / setup.block_bytes.max(1)).unwrap_or(u32::MAX).min(MOST_SLOTS)
    };
    let (host, disk) = (slots(offload.host_bytes), slots(offload.disk_bytes));
    let groups = settings.windows.len();
    (host > 0 && settings.limits.prefix_caching)
        .then(|| Tiers::new(groups, (host, disk), offload.eviction))
}

/// Most slots of one tier: the books of so many take some hundred megabytes.
const MOST_SLOTS: u32 = 1 << 22;
