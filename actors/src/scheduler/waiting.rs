//! Who waits, and who is next.
//!
//! `fcfs` is the order of arrival. `priority` is the lower number first, then arrival. `lpm` takes
//! the longest prefix that is in the cache, then arrival. A preempted sequence keeps its age and so
//! comes before all that arrived after it. Under the last two a sequence could wait for ever while
//! others overtake it, so that one that has seen [`PATIENCE`] full batches admitted is next
//! whatever the policy says, but for every second place, which stays the policy's: this is the
//! bound on starvation, and many that have waited long do not stand before what is urgent.

use std::collections::BTreeSet;

use troupe_runtime::id::SequenceId;

/// In which order waiting sequences are admitted: `--scheduling-policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// First come, first served.
    #[default]
    Fcfs,
    /// Lower priority numbers first.
    Priority,
    /// Longest cached prefix first.
    Lpm,
}

/// Full batches that may be admitted before a sequence that waits.
pub(super) const PATIENCE: u64 = 2;
/// Above so many waiting, looking for prefixes costs more than it brings: first come, first served.
pub(super) const LPM_MOST: usize = 128;

/// What decides whose turn a waiting sequence's is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Lower is sooner.
    pub(super) priority: i32,
    /// Admissions that there had been when it began to wait.
    pub(super) since: u64,
    /// Ascends with age.
    pub(super) id: SequenceId,
}

/// Waiting sequences.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    by_rank: BTreeSet<(i32, SequenceId)>,
    by_age: BTreeSet<SequenceId>,
    by_wait: BTreeSet<(u64, SequenceId)>,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.by_age.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }

    pub(super) fn contains(&self, id: SequenceId) -> bool {
        self.by_age.contains(&id)
    }

    pub(super) fn insert(&mut self, Place { priority, since, id }: Place) {
        self.by_rank.insert((priority, id));
        self.by_age.insert(id);
        self.by_wait.insert((since, id));
    }

    pub(super) fn remove(&mut self, Place { priority, since, id }: Place) {
        self.by_rank.remove(&(priority, id));
        self.by_age.remove(&id);
        self.by_wait.remove(&(since, id));
    }

    /// By arrival.
    pub(super) fn by_age(&self) -> impl Iterator<Item = SequenceId> + '_ {
        self.by_age.iter().copied()
    }

    /// By priority, then arrival.
    pub(super) fn by_priority(&self) -> impl Iterator<Item = SequenceId> + '_ {
        self.by_rank.iter().map(|(_, id)| *id)
    }

    /// Who has waited longest first; a preempted sequence begins anew.
    pub(super) fn by_wait(&self) -> impl Iterator<Item = SequenceId> + '_ {
        self.by_wait.iter().map(|(_, id)| *id)
    }
}
