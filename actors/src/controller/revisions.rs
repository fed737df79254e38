//! The revisions of a service: what its groups were to run, numbered from 1, the last ten kept.
//!
//! A revision is what changes how groups run: the launch, and the wishes about hosts. How many
//! groups there are is none. Going back to something that was declared before makes it the newest
//! again under a new number, as Kubernetes does, and groups that still run it are not touched. A
//! store that has lost them (or never had them) gets them back from what groups run.

use std::collections::BTreeMap;

use serde_json::Value;
use troupe_runtime::discovery::directory::{GroupRecord, Launch, RevisionRecord};

use super::{desired::Desired, wishes::Wishes};

/// The revisions of one service.
#[derive(Clone, Debug, Default)]
pub(super) struct Revisions {
    records: BTreeMap<u64, Revision>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Revision {
    pub(super) record: RevisionRecord,
    pub(super) wishes: Wishes,
}

/// What is to be written about them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RevisionChange {
    pub(super) put: Option<RevisionRecord>,
    pub(super) delete: Vec<u64>,
    /// It was under the first number and is under the second now.
    pub(super) renumbered: Option<(u64, u64)>,
}

// === impl Revisions ===

impl Revisions {
    /// What the store says.
    pub(super) fn recall(&mut self, record: RevisionRecord) {
        let wishes = serde_json::from_value(record.wishes.clone()).unwrap_or_default();
        self.records.insert(record.number, Revision { record, wishes });
    }

    /// The store has it no more.
    pub(super) fn forget(&mut self, number: u64) {
        self.records.remove(&number);
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.records.keys().copied()
    }

    pub(super) fn of(&self, number: u64) -> Option<&Revision> {
        self.records.get(&number)
    }

    /// The newest.
    pub(super) fn newest(&self) -> Option<u64> {
        self.records.last_key_value().map(|(number, _)| *number)
    }

    /// Makes what is desired the newest revision, unless it is that already. `groups` are those
    /// that there are.
    pub(super) fn settle<'a>(
        &mut self,
        now_seconds: u64,
        desired: &Desired,
        groups: impl Iterator<Item = &'a GroupRecord>,
    ) -> RevisionChange {
        let groups: Vec<&GroupRecord> = groups.collect();
        let highest_run = groups.iter().map(|record| record.revision).max().unwrap_or(0);
        let newest = self.newest();
        if let Some(newest) = newest
            && self.records[&newest].is_of(desired)
            && newest >= highest_run
        {
            return RevisionChange::default();
        }
        let was = self.records.iter().rev().find(|(_, revision)| revision.is_of(desired));
        let was = was.map(|(number, _)| *number);
        // Nothing is known of it, but groups run it: the store has lost it.
        let runs_it = |record: &&&GroupRecord| record.launch == desired.launch;
        let lost = groups.iter().find(runs_it).map(|record| record.revision);
        let next = newest.unwrap_or(0).max(highest_run) + 1;
        let number = match (was, lost) {
            (None, Some(lost)) if lost == highest_run && newest.is_none_or(|n| n < lost) => lost,
            _ => next,
        };
        let created = was.map_or(now_seconds, |was| self.records[&was].record.created);
        let mut change = RevisionChange::default();
        if let Some(was) = was {
            self.records.remove(&was);
            change.delete.push(was);
            change.renumbered = Some((was, number));
        }
        let record = RevisionRecord {
            number,
            document: desired.document.clone(),
            launch: desired.launch.clone(),
            wishes: serde_json::to_value(&desired.wishes).unwrap_or(Value::Null),
            created,
            cause: desired.cause.clone(),
        };
        let wishes = desired.wishes.clone();
        self.records.insert(number, Revision { record: record.clone(), wishes });
        change.put = Some(record);
        change.delete.extend(self.too_old(&groups));
        change
    }

    /// What a group of this revision runs and wants, if that is known.
    pub(super) fn plan(&self, number: u64) -> Option<(&Launch, &Wishes)> {
        self.records.get(&number).map(|revision| (&revision.record.launch, &revision.wishes))
    }

    /// Beyond the last ten, those that no group runs.
    fn too_old(&mut self, groups: &[&GroupRecord]) -> Vec<u64> {
        let more = self.records.len().saturating_sub(KEPT);
        let unused = |number: &&u64| groups.iter().all(|record| record.revision != **number);
        let old: Vec<u64> = self.records.keys().filter(unused).take(more).copied().collect();
        for number in &old {
            self.records.remove(number);
        }
        old
    }
}

impl Revision {
    fn is_of(&self, desired: &Desired) -> bool {
        self.record.launch == desired.launch && self.wishes == desired.wishes
    }
}

/// How many are kept.
const KEPT: usize = 10;
