//! Which adapters the sequences of an engine use, and which of those that wait may begin without
//! there being more at a time than the devices have room for.
//!
//! Who wants one too many is passed over, because rows of other adapters, or of none, lose nothing
//! by going first. That could go on for ever; so one that has waited as long as any may be passed
//! over has everybody wait until an adapter that runs is no longer used.

use std::collections::BTreeSet;

use troupe_runtime::id::{AdapterId, SequenceId};

use super::{scheduler::Scheduler, waiting::PATIENCE};

/// The adapters of sequences that run.
#[derive(Clone, Debug, Default)]
pub(super) struct AdapterRoom {
    running: BTreeSet<AdapterId>,
    most: u32,
}

impl AdapterRoom {
    /// Whether one more sequence fits that uses this one.
    pub(super) fn fits(&self, adapter: Option<AdapterId>) -> bool {
        adapter
            .is_none_or(|id| self.running.contains(&id) || (self.running.len() as u32) < self.most)
    }
}

impl Scheduler {
    /// Whether a live sequence uses an adapter.
    pub fn uses(&self, adapter: AdapterId) -> bool {
        self.sequences.iter().any(|(_, sequence)| sequence.spec.adapter == Some(adapter))
    }

    /// The adapters of sequences that run, and those that only waiting ones want.
    pub fn adapters(&self) -> (BTreeSet<AdapterId>, BTreeSet<AdapterId>) {
        if self.limits.max_loras == 0 {
            return Default::default();
        }
        let running = self.adapter_room().running;
        let all = self.sequences.iter().filter_map(|(_, sequence)| sequence.spec.adapter);
        let waiting = all.filter(|id| !running.contains(id)).collect();
        (running, waiting)
    }

    /// How many of those that wait lack no room for their adapter.
    pub(super) fn waiting_with_room(&self) -> u32 {
        let room = self.adapter_room();
        if room.most == 0 {
            return self.waiting.len() as u32;
        }
        if self.is_held_for_adapter(&room) {
            return 0;
        }
        let waiting = self.waiting.by_age();
        waiting.filter(|id| room.fits(self.adapter_of(*id))).count() as u32
    }

    pub(super) fn adapter_room(&self) -> AdapterRoom {
        let most = self.limits.max_loras;
        if most == 0 {
            return AdapterRoom::default();
        }
        let running = self.running.iter().filter_map(|id| self.adapter_of(*id));
        AdapterRoom { running: running.collect(), most }
    }

    pub(super) fn adapter_of(&self, id: SequenceId) -> Option<AdapterId> {
        self.sequences.get(id)?.spec.adapter
    }

    /// Whether one that lacks nothing but room for its adapter has waited too long.
    pub(super) fn is_held_for_adapter(&self, room: &AdapterRoom) -> bool {
        if room.most == 0 {
            return false;
        }
        let patience = PATIENCE * u64::from(self.limits.max_sequences);
        self.waiting.by_wait().any(|id| {
            self.sequences.get(id).is_some_and(|sequence| {
                !room.fits(sequence.spec.adapter)
                    && self.counters.admissions - sequence.waits_since >= patience
            })
        })
    }
}
