//! How many groups there are while a new revision replaces an old one, and which go next: a pure
//! function of what there is, so that a controller that takes over goes on where the last one was.
//!
//! As LeaderWorkerSet does it. Groups are updated from the highest index down. While any is still
//! to be updated there are up to `max_surge` more groups than wanted, behind the others, of the new
//! revision. The *partition* is the index below which groups keep what they have: it moves down
//! as groups at the top become ready, one for each of those in a row, and never so far that more
//! than `max_unavailable` of the wanted number are missing. When everything is updated the groups
//! behind are taken back, those that are not ready first and then from the top, as soon as the
//! wanted ones can do without them.
//!
//! What is ours: a group that was given up is updated at once, wherever it is, because waiting for
//! it would be waiting for ever; and behind groups are only reckoned with once there is one,
//! because devices may not suffice.

use std::{cmp::Reverse, collections::BTreeMap};

/// What may happen at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Strategy {
    /// Groups that are wanted.
    pub(super) replicas: u32,
    /// Groups of a lower index keep their revision.
    pub(super) partition: u32,
    /// How many of the wanted number may be missing.
    pub(super) max_unavailable: u32,
    /// How many more there may be meanwhile.
    pub(super) max_surge: u32,
    /// How many groups behind are kept although nothing is to be updated: others will move.
    pub(super) hold: u32,
    /// Groups behind are kept until all the others are ready, not only as many as must be.
    pub(super) whole: bool,
}

/// A group, as far as this matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    /// It is of the newest revision, or on its way there.
    pub(super) updated: bool,
    /// It serves, and is to go on.
    pub(super) ready: bool,
    /// It was given up.
    pub(super) failed: bool,
}

/// What is next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// Groups of a lower index keep what they have.
    pub(super) partition: u32,
    /// Groups that there are not and should be, lowest first.
    pub(super) create: Vec<u32>,
    /// Groups that become the newest revision, highest first.
    pub(super) update: Vec<u32>,
    /// Groups that there should not be, in the order to go.
    pub(super) remove: Vec<u32>,
}

type Slots = BTreeMap<u32, Slot>;

// === impl Strategy ===

impl Strategy {
    /// What is next for groups like these. Nothing to create, update or remove means: wait until
    /// something has changed.
    pub(super) fn step(&self, slots: &Slots) -> Step {
        let failed = slots.iter().filter(|(index, slot)| {
            **index < self.replicas && **index >= self.partition && slot.failed && !slot.updated
        });
        let failed: Vec<u32> = failed.map(|(index, _)| *index).collect();
        let create = (0..self.replicas).filter(|index| !slots.contains_key(index));
        let mut step = Step { create: create.collect(), update: failed, ..Step::default() };
        if self.is_under_way(slots) {
            self.surge(slots, &mut step);
            step.partition = match step.create.iter().any(|index| *index >= self.replicas) {
                // First the groups behind; the others after that.
                true => lowest_updated(slots, self.end(slots)),
                false => self.next_partition(slots),
            };
            let outdated = slots.iter().rev().filter(|(index, slot)| {
                **index >= step.partition && !slot.updated && !step.update.contains(index)
            });
            let outdated: Vec<u32> = outdated.map(|(index, _)| *index).collect();
            step.update.extend(outdated);
        } else {
            step.partition = self.partition.min(self.replicas);
            self.reclaim(slots, &mut step);
        }
        step
    }

    /// Whether a wanted group is still to be updated.
    pub(super) fn is_under_way(&self, slots: &Slots) -> bool {
        slots.range(self.partition..).any(|(index, slot)| *index < self.replicas && !slot.updated)
    }

    /// One more than the highest index.
    fn end(&self, slots: &Slots) -> u32 {
        let highest = slots.last_key_value().map_or(0, |(index, _)| index + 1);
        highest.max(self.replicas)
    }

    /// Groups behind, as many as there may be.
    fn surge(&self, slots: &Slots, step: &mut Step) {
        // No more than there are groups to update.
        let most = self.max_surge.min(self.replicas.saturating_sub(self.partition));
        let most = most.max(self.hold);
        let end = self.replicas.saturating_add(most);
        step.create.extend((self.replicas..end).filter(|index| !slots.contains_key(index)));
        let behind = slots.range(self.replicas..).filter(|(index, _)| **index >= end);
        step.remove = behind.map(|(index, _)| *index).rev().collect();
    }

    fn next_partition(&self, slots: &Slots) -> u32 {
        let end = self.end(slots);
        let slot = |index: u32| slots.get(&index).copied().unwrap_or(MISSING);
        let ready_in_a_row =
            (0..end).rev().take_while(|index| slot(*index).updated && slot(*index).ready).count()
                as u32;
        // A group behind may be missing like one of the wanted.
        let at_once = self.max_unavailable + (end - self.replicas);
        let mut partition = end.saturating_sub(ready_in_a_row + at_once);
        // What is missing below counts among those that may be.
        partition += (0..partition).filter(|index| !slot(*index).ready).count() as u32;
        // Updating what is not ready, or again what is updated, takes nothing from anybody.
        let free = |index: u32| !slot(index).ready || slot(index).updated;
        let mut at = partition.min(end.saturating_sub(1));
        loop {
            if !free(at) {
                break;
            }
            partition = at;
            if at == 0 {
                break;
            }
            at -= 1;
        }
        partition.min(lowest_updated(slots, end)).max(self.partition)
    }

    /// Takes groups behind back, as far as the wanted ones can do without them.
    fn reclaim(&self, slots: &Slots, step: &mut Step) {
        let missing = (0..self.hold).map(|more| self.replicas + more);
        step.create.extend(missing.filter(|index| !slots.contains_key(index)));
        let ready = |range: &mut dyn Iterator<Item = (&u32, &Slot)>| {
            range.filter(|(_, slot)| slot.ready).count() as u32
        };
        let needed = match self.whole {
            true => self.replicas,
            false => self.replicas.saturating_sub(self.max_unavailable),
        };
        let ready_wanted = ready(&mut slots.range(..self.replicas));
        let ready_behind = ready(&mut slots.range(self.replicas..));
        let keep = needed.saturating_sub(ready_wanted).min(ready_behind);
        let mut behind: Vec<(u32, Slot)> =
            slots.range(self.replicas..).map(|(index, slot)| (*index, *slot)).collect();
        // Who goes first: not ready, then the highest.
        behind.sort_by_key(|(index, slot)| (slot.ready, Reverse(*index)));
        let keep = keep.max(self.hold) as usize;
        let going = behind.len().saturating_sub(keep);
        step.remove = behind.into_iter().take(going).map(|(index, _)| index).collect();
    }
}

/// The lowest index from which on all groups are updated; one that is missing will be.
fn lowest_updated(slots: &Slots, end: u32) -> u32 {
    let outdated = slots.range(..end).rev().find(|(_, slot)| !slot.updated);
    outdated.map_or(0, |(index, _)| index + 1)
}

/// A group that there is not is formed as the newest revision.
const MISSING: Slot = Slot { updated: true, ready: false, failed: false };
