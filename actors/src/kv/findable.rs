//! Which blocks' contents can be found, for those elsewhere who place requests by it.
//!
//! A block is named when the step that computes it is planned, because steps run in order and the
//! next one may build on it. Others may not: what they are told is there must be there. So a name
//! waits here until its step is done. What is said of it then is a state and not what happened: a
//! name that came and went in between was never there.
//!
//! With several KV groups a block can be found where it is in all groups whose layers see every
//! position. Groups with windows need only what is near the end, which may be there or not: that is
//! left out, and costs a prompt that is sent here too hopefully some recomputing, never a wrong
//! token. What the device has given up and a tier keeps can be found too: it can be had without
//! being computed.

use std::{collections::VecDeque, mem};

use troupe_runtime::id::StepId;

use super::{blocks::BlockPools, pool::BlockKey};

/// A block's contents came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// They are computed and can be found.
    Stored {
        /// Their name.
        key: BlockKey,
        /// The name of the block before, if there is one.
        parent: Option<BlockKey>,
    },
    /// They cannot be found any more.
    Removed(BlockKey),
}

/// Names that wait for their steps, and those whose steps are done since somebody last asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Findable {
    planned: VecDeque<(StepId, Name)>,
    computed: Vec<Name>,
    done: StepId,
}

#[derive(Clone, Copy, Debug)]
struct Name {
    key: BlockKey,
    parent: Option<BlockKey>,
}

// === impl Findable ===

impl Findable {
    /// A block was named whose contents `step` completes.
    pub(super) fn named(&mut self, key: BlockKey, parent: Option<BlockKey>, step: StepId) {
        let name = Name { key, parent };
        if step <= self.done {
            self.computed.push(name);
        } else {
            self.planned.push_back((step, name));
        }
    }

    /// A block is filled although `step`, which it was named for, is not done: it was named late,
    /// when results had said so.
    pub(super) fn filled(&mut self, key: BlockKey, step: StepId) {
        if step > self.done
            && let Some(at) = self.planned.iter().position(|(_, name)| name.key == key)
        {
            self.computed.extend(self.planned.remove(at).map(|(_, name)| name));
        }
    }

    /// All steps up to this one are done.
    pub(super) fn step_done(&mut self, step: StepId) {
        self.done = self.done.max(step);
        while let Some((_, name)) = self.planned.pop_front_if(|(step, _)| *step <= self.done) {
            self.computed.push(name);
        }
    }
}

// === impl BlockPools ===

impl BlockPools {
    /// What has come and gone since this was last asked; nothing unless they were made
    /// [`BlockPools::telling`]. A change may be told that changed nothing.
    pub fn changes(&mut self) -> Vec<Change> {
        self.keep_given_up();
        let Some(findable) = &mut self.findable else { return Vec::new() };
        let computed = mem::take(&mut findable.computed);
        let done = findable.done;
        let mut changes = Vec::new();
        for group in 0..self.groups.len() {
            let decides = self.decides(group);
            let gone = self.groups[group].gone();
            let dropped = self.tiers.iter_mut().flat_map(|tiers| tiers.gone(group));
            changes.extend(gone.chain(dropped).filter(|_| decides).map(Change::Removed));
        }
        // What is there again, or was told to be and has gone since: as it is now.
        if !changes.is_empty() {
            changes.retain(|change| match change {
                Change::Removed(key) => !self.is_findable(*key, done),
                Change::Stored { .. } => true,
            });
        }
        let stored = computed.into_iter().filter(|name| self.is_findable(name.key, done));
        changes.extend(stored.map(|Name { key, parent }| Change::Stored { key, parent }));
        changes
    }

    /// Everything that can be found now; for tests and idle moments.
    pub fn computed(&self) -> Vec<BlockKey> {
        let done = self.findable.as_ref().map_or(StepId(0), |findable| findable.done);
        let first = (0..self.groups.len()).find(|group| self.decides(*group));
        let Some(first) = first else { return Vec::new() };
        let kept = self.tiers.iter().flat_map(|tiers| tiers.keys(first));
        let keys = self.groups[first].full_keys().chain(kept);
        let mut keys: Vec<_> = keys.filter(|key| self.is_findable(*key, done)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Whether a block of these contents can be found by steps that begin when `done` is done.
    fn is_findable(&self, key: BlockKey, done: StepId) -> bool {
        let mut groups = (0..self.groups.len()).filter(|group| self.decides(*group));
        groups.all(|group| {
            self.groups[group].filled(key).is_some_and(|step| step <= done)
                || self.tiers.as_ref().is_some_and(|tiers| tiers.holds(group, key))
        })
    }

    /// Whether a block must be in this group to be found.
    pub(super) fn decides(&self, group: usize) -> bool {
        !self.has_window(group) || (0..self.groups.len()).all(|group| self.has_window(group))
    }
}
