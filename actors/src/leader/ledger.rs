//! What is told of an engine's KV blocks: changes in numbered batches, and how to catch up.
//!
//! The engine notes what comes and goes; whoever follows reads from where it is. Nothing is kept
//! for a follower: the ledger remembers the latest batches up to a bound, and who is behind them
//! gets all that is held instead, and goes on from there. So a follower that does not read costs
//! nothing.
//!
//! Noting is an append and the rest is done when somebody reads, on the reader's thread, so that
//! the engine is not kept from planning. A batch is cut a few milliseconds after its first change:
//! what comes and goes within it is not told at all.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use troupe_runtime::{
    id::Epoch,
    wire::cache::{CacheBatch, MAX_HASHES},
};

use super::rooted::{Rooted, Turn};
use crate::kv::{findable::Change, pool::BlockKey};

/// One engine's ledger, for as long as its epoch lasts.
#[derive(Clone, Debug)]
pub struct Ledger {
    epoch: Epoch,
    rooted: Rooted,
    /// Since the last batch was cut.
    open: Vec<Change>,
    /// When the first of them came.
    opened: Option<Duration>,
    /// Consecutive, the latest last.
    batches: VecDeque<Arc<CacheBatch>>,
    /// Hashes in `batches`.
    kept: usize,
    /// The number of the last batch; there is none before 1.
    seq: u64,
}

/// What a follower is to be told now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The next batches.
    Batches(Vec<Arc<CacheBatch>>),
    /// All that is held after this batch.
    Snapshot {
        /// The batch's number.
        seq: u64,
        /// In any order.
        held: Vec<BlockKey>,
    },
    /// Nothing; something when this time has come, or if there is none, when something changes.
    Nothing(Option<Duration>),
}

impl Ledger {
    /// An empty one.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            rooted: Rooted::default(),
            open: Vec::new(),
            opened: None,
            batches: VecDeque::new(),
            kept: 0,
            seq: 0,
        }
    }

    /// Something has changed.
    pub fn note(&mut self, now: Duration, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        self.opened.get_or_insert(now);
        self.open.extend(changes);
        if self.open.len() > MOST_OPEN {
            self.cut();
        }
    }

    /// What a follower is told that knows everything up to batch `since`.
    pub fn read(&mut self, now: Duration, since: Option<u64>) -> Reading {
        let due = self.opened.map(|opened| opened + INTERVAL);
        if due.is_some_and(|due| due <= now) {
            self.cut();
        }
        // Without one, or with one that never was, it starts anew.
        let Some(since) = since.filter(|since| *since <= self.seq) else { return self.snapshot() };
        if since == self.seq {
            return Reading::Nothing(self.opened.map(|opened| opened + INTERVAL));
        }
        match self.batches.front() {
            Some(first) if first.seq <= since + 1 => {
                let from = (since + 1 - first.seq) as usize;
                let next = self.batches.range(from..).take(MOST_AT_ONCE);
                Reading::Batches(next.cloned().collect())
            }
            _ => self.snapshot(),
        }
    }

    fn snapshot(&mut self) -> Reading {
        self.cut();
        let held = self.rooted.found().map(|(key, _)| key).collect();
        Reading::Snapshot { seq: self.seq, held }
    }

    /// Closes the open batch: what has become of everything that it names.
    fn cut(&mut self) {
        self.opened = None;
        let mut turns = Vec::new();
        for change in self.open.drain(..) {
            self.rooted.take(change, &mut turns);
        }
        // Of each block the last turn, if there is an odd number of them: else it is as it was.
        turns.sort_by_key(|turn| turn.key);
        let net = turns.chunk_by(|one, other| one.key == other.key);
        let net = net.filter(|turns| turns.len() % 2 == 1).filter_map(|turns| turns.last());
        let (mut stored, mut removed): (Vec<Turn>, Vec<Turn>) = net.partition(|turn| turn.found);
        let cleared = removed.len() > self.rooted.len();
        if cleared {
            removed.clear();
            let found = self.rooted.found();
            stored = found.map(|(key, depth)| Turn { key, depth, found: true }).collect();
        } else if stored.is_empty() && removed.is_empty() {
            return;
        }
        stored.sort_by_key(|turn| turn.depth);
        removed.sort_by_key(|turn| std::cmp::Reverse(turn.depth));
        // Nothing that comes stands on something that goes, so the parts need no order among them.
        let keys = |turns: &[Turn]| turns.iter().map(|turn| turn.key).collect::<Vec<_>>();
        let (mut removed, mut stored) = (removed.chunks(MAX_HASHES), stored.chunks(MAX_HASHES));
        for part in 0..removed.len().max(stored.len()).max(1) {
            self.push(CacheBatch {
                epoch: self.epoch,
                seq: self.seq + 1,
                cleared: cleared && part == 0,
                removed: removed.next().map(keys).unwrap_or_default(),
                stored: stored.next().map(keys).unwrap_or_default(),
            });
        }
    }

    fn push(&mut self, batch: CacheBatch) {
        self.seq = batch.seq;
        self.kept += hashes(&batch);
        self.batches.push_back(Arc::new(batch));
        while self.kept > MOST_KEPT || self.batches.len() > MOST_BATCHES {
            let Some(oldest) = self.batches.pop_front() else { return };
            self.kept -= hashes(&oldest);
        }
    }
}

fn hashes(batch: &CacheBatch) -> usize {
    batch.removed.len() + batch.stored.len()
}

/// From a batch's first change to its end: no gateway places by what is so young, and there are at
/// most 200 frames a second.
const INTERVAL: Duration = Duration::from_millis(5);
/// Changes that may wait for a reader: more than a step of any engine makes.
const MOST_OPEN: usize = 1 << 12;
/// Hashes that are remembered: 4 MiB. All blocks of a large engine come and go once in them.
const MOST_KEPT: usize = 1 << 18;
/// Batches that are remembered: about 20 s of changes without a pause.
const MOST_BATCHES: usize = 1 << 12;
/// Batches that are handed out at a time, while the engine's notes wait.
const MOST_AT_ONCE: usize = 64;

#[cfg(test)]
mod tests;
