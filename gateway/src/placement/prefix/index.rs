//! Which blocks are in whose cache: written by the followers, read by every placement.
//!
//! Readers take no lock but for the handle of the table, which a writer only ever holds to put a
//! larger one in its place; writers wait for each other, a batch at a time. An owner's blocks are
//! closed towards the beginning, because leaders tell nothing else: so with the k-th block of a
//! prompt an owner holds all before it, and how much each one holds is found by dividing the prompt
//! where the set of owners changes, in a handful of probes rather than one for each block. All
//! parts are divided at a time: what a round of probes looks at is fetched together.
//!
//! Who is gone, or gets its blocks anew, is not taken out block by block: its number is no longer
//! live, which counts at once, and is used again when a sweep has been through the table. Sweeping
//! goes on a little with every write.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use super::{
    owners::{Bits, FreeRows, MOST_OWNERS, Owner, Rows, Set},
    table::{Table, Tag},
};
use crate::placement::cells::Cells;

/// The index.
pub(crate) struct Index {
    table: RwLock<Arc<Table>>,
    rows: Rows,
    /// Whose blocks count.
    live: Bits,
    writer: Mutex<Writer>,
}

/// What only the writer has.
struct Writer {
    table: Arc<Table>,
    entries: usize,
    rows: FreeRows,
    /// Numbers that nobody has.
    free: Vec<Owner>,
    /// Numbers that were given back, and may still be in the table; the first of them will not once
    /// the sweep that is under way has ended.
    left: Vec<Owner>,
    swept: usize,
    /// The next bucket of that sweep.
    at: usize,
}

/// How many leading blocks of a prompt each owner holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs(Vec<u32>);

// === impl Index ===

impl Default for Index {
    fn default() -> Self {
        let table = Arc::new(Table::for_entries(FIRST_ROOM));
        let writer = Writer {
            table: Arc::clone(&table),
            entries: 0,
            rows: FreeRows::default(),
            free: (0..MOST_OWNERS as Owner).rev().collect(),
            left: Vec::new(),
            swept: 0,
            at: 0,
        };
        Self {
            table: RwLock::new(table),
            rows: Rows::new(),
            live: Bits::new(),
            writer: Mutex::new(writer),
        }
    }
}

impl Index {
    /// A number for somebody who holds nothing; what it holds counts from [`Index::show`] on. None
    /// if all are given out.
    pub(super) fn claim(&self) -> Option<Owner> {
        let mut writer = self.writer();
        if writer.free.is_empty() {
            // Two, for what was given back since the first began.
            for _ in 0..2 {
                writer.sweep(usize::MAX, &self.rows);
            }
        }
        writer.free.pop()
    }

    /// What it holds counts from now on.
    pub(super) fn show(&self, owner: Owner) {
        self.live.put(owner, true);
    }

    /// It holds nothing any more, and somebody else may have its number.
    pub(super) fn retire(&self, owner: Owner) {
        self.live.put(owner, false);
        self.writer().left.push(owner);
    }

    /// It holds these from now on; calls for each, with whether it did not before.
    pub(super) fn add(&self, owner: Owner, hashes: &[u128], mut each: impl FnMut(u128, bool)) {
        for hashes in hashes.chunks(AT_A_TIME) {
            let mut writer = self.writer();
            for hashes in hashes.chunks(AHEAD) {
                writer.table.ahead(hashes.iter().map(|hash| Tag::of(*hash)));
                for hash in hashes {
                    each(*hash, writer.add(owner, Tag::of(*hash), &self.rows));
                }
            }
            if writer.entries > writer.table.room() {
                writer.grow(&self.rows);
                *self.table.write().unwrap_or_else(PoisonError::into_inner) =
                    Arc::clone(&writer.table);
            }
            writer.sweep(hashes.len(), &self.rows);
        }
    }

    /// It holds these no more; returns how many of them it did.
    pub(super) fn remove(&self, owner: Owner, hashes: &[u128]) -> usize {
        let mut removed = 0;
        for hashes in hashes.chunks(AT_A_TIME) {
            let mut writer = self.writer();
            for hashes in hashes.chunks(AHEAD) {
                let tags = hashes.iter().map(|hash| Tag::of(*hash));
                writer.table.ahead(tags.clone());
                removed += tags.filter(|tag| writer.remove(owner, *tag, &self.rows)).count();
            }
            writer.sweep(hashes.len(), &self.rows);
        }
        removed
    }

    /// How many leading blocks of a prompt each owner holds.
    pub(crate) fn runs(&self, hashes: &[u128]) -> Runs {
        let mut runs = Runs::default();
        if hashes.is_empty() {
            return runs;
        }
        let table = self.table();
        let words = self.live.words();
        let search = Search { index: self, table: &table, hashes, words };
        let from = search.probe(1);
        if !search.any_lost(from.set, Set::EMPTY) {
            return runs;
        }
        runs.0.resize(words * 64, 0);
        let to = search.probe(hashes.len());
        search.divide(Part { from, to }, &mut runs);
        search.raise(to, Set::EMPTY, &mut runs);
        runs
    }

    /// Different blocks in it.
    pub(crate) fn blocks(&self) -> usize {
        self.writer().entries
    }

    /// Memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.table().bytes() + self.rows.bytes()
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Runs ===

impl Runs {
    /// Whether nobody holds any.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many leading blocks the endpoint holds that has these cells.
    pub(crate) fn at(&self, cells: &Cells) -> u32 {
        // Who has no number is beyond all of them.
        self.0.get(cells.owner() as usize).copied().unwrap_or(0)
    }

    /// How many leading blocks this one holds.
    #[cfg(test)]
    pub(super) fn of(&self, owner: Owner) -> u32 {
        self.0.get(usize::from(owner)).copied().unwrap_or(0)
    }

    /// Those of a word of owners hold so many.
    fn raise(&mut self, at: usize, mut owners: u64, blocks: usize) {
        let Some(runs) = self.0.get_mut(at * 64..at * 64 + 64) else { return };
        while owners != 0 {
            let run = &mut runs[owners.trailing_zeros() as usize];
            *run = (*run).max(blocks as u32);
            owners &= owners - 1;
        }
    }
}

/// One look-up.
struct Search<'a> {
    index: &'a Index,
    table: &'a Table,
    hashes: &'a [u128],
    words: usize,
}

/// Who holds so many leading blocks.
#[derive(Clone, Copy)]
struct Probe {
    blocks: usize,
    set: Set,
}

/// What is between two probes.
#[derive(Clone, Copy)]
struct Part {
    from: Probe,
    to: Probe,
}

impl Search<'_> {
    fn probe(&self, blocks: usize) -> Probe {
        Probe { blocks, set: self.table.get(self.tag(blocks)) }
    }

    /// Of the last of so many blocks.
    fn tag(&self, blocks: usize) -> Tag {
        Tag::of(self.hashes[blocks - 1])
    }

    /// Finds whose runs end in a part. Who holds more holds all that is before.
    fn divide(&self, whole: Part, runs: &mut Runs) {
        if !self.any_lost(whole.from.set, whole.to.set) {
            return;
        }
        let (mut parts, mut halves) = (vec![whole], Vec::new());
        while !parts.is_empty() {
            for parts in parts.chunks(AHEAD) {
                let middles = parts.iter().map(|part| self.tag(part.middle()));
                // One alone is fetched as soon by looking at it.
                if parts.len() > 1 {
                    self.table.ahead(middles);
                }
                let mut found = [Set::EMPTY; AHEAD];
                for (found, part) in found.iter_mut().zip(parts) {
                    *found = self.probe(part.middle()).set;
                }
                if parts.len() > 1 {
                    self.index.rows.ahead(&found);
                }
                for (part, set) in parts.iter().zip(found) {
                    let middle = Probe { blocks: part.middle(), set };
                    let both =
                        [Part { from: part.from, to: middle }, Part { from: middle, to: part.to }];
                    for half in both {
                        // A block that is looked at twice may have changed hands in between: then
                        // both are at one place, and there is nothing to divide.
                        if half.from.blocks + 1 >= half.to.blocks {
                            self.raise(half.from, half.to.set, runs);
                        } else if self.any_lost(half.from.set, half.to.set) {
                            halves.push(half);
                        }
                    }
                }
            }
            parts.clear();
            std::mem::swap(&mut parts, &mut halves);
        }
    }

    /// Whether somebody is in a set and not in another.
    fn any_lost(&self, from: Set, to: Set) -> bool {
        let Index { rows, live, .. } = self.index;
        from != to && !rows.lost(from, to, (live, self.words), |_, _| false)
    }

    /// Those that held so many blocks and are not in the set of the next hold no more than those.
    fn raise(&self, held: Probe, next: Set, runs: &mut Runs) {
        let Index { rows, live, .. } = self.index;
        rows.lost(held.set, next, (live, self.words), |at, owners| {
            runs.raise(at, owners, held.blocks);
            true
        });
    }
}

impl Part {
    fn middle(&self) -> usize {
        self.from.blocks.midpoint(self.to.blocks)
    }
}

// === impl Writer ===

impl Writer {
    fn add(&mut self, owner: Owner, tag: Tag, rows: &Rows) -> bool {
        let Some(place) = self.table.find(tag) else {
            if let Some(set) = rows.with(Set::EMPTY, owner, &mut self.rows) {
                self.table.insert(tag, set);
                self.entries += 1;
            }
            return true;
        };
        let set = self.table.set(place);
        if rows.contains(set, owner) {
            return false;
        }
        match rows.with(set, owner, &mut self.rows) {
            Some(with) if with != set => self.table.replace(place, with),
            // It is in its row, or there is no row left: then it is not known to hold this.
            Some(_) => {}
            None => return false,
        }
        true
    }

    fn remove(&mut self, owner: Owner, tag: Tag, rows: &Rows) -> bool {
        let Some(place) = self.table.find(tag) else { return false };
        let set = self.table.set(place);
        if !rows.contains(set, owner) {
            return false;
        }
        match rows.without(set, owner, &mut self.rows) {
            Set::EMPTY => {
                self.table.remove(place);
                self.entries -= 1;
            }
            without if without != set => self.table.replace(place, without),
            _ => {}
        }
        true
    }

    /// Goes on with taking out those that are gone, through so many buckets.
    fn sweep(&mut self, buckets: usize, rows: &Rows) {
        if self.swept == 0 {
            if self.left.is_empty() {
                return;
            }
            (self.swept, self.at) = (self.left.len(), 0);
        }
        let table = Arc::clone(&self.table);
        let end = self.at.saturating_add(buckets).min(table.buckets());
        for bucket in self.at..end {
            for (place, _) in table.entries(bucket) {
                self.purge(&table, place, rows);
            }
        }
        self.at = end;
        if end == table.buckets() {
            self.free.extend(self.left.drain(..self.swept));
            self.swept = 0;
        }
    }

    /// Takes those that are swept out of one entry.
    fn purge(&mut self, table: &Table, place: super::table::Place, rows: &Rows) {
        let set = table.set(place);
        let mut left = set;
        for owner in &self.left[..self.swept] {
            if rows.contains(left, *owner) {
                left = rows.without(left, *owner, &mut self.rows);
            }
        }
        if left == Set::EMPTY {
            table.remove(place);
            self.entries -= 1;
        } else if left != set {
            table.replace(place, left);
        }
    }

    /// A table of twice the size, if what is gone is not enough of it.
    fn grow(&mut self, rows: &Rows) {
        // One for what is under way, one for what was given back since.
        for _ in 0..2 {
            self.sweep(usize::MAX, rows);
        }
        if self.entries * 4 < self.table.room() * 3 {
            return;
        }
        let larger = Table::for_entries(2 * self.table.room());
        for bucket in 0..self.table.buckets() {
            for (place, tag) in self.table.entries(bucket) {
                larger.insert(tag, self.table.set(place));
            }
        }
        self.table = Arc::new(larger);
        self.at = 0;
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Index({} blocks)", self.blocks())
    }
}

/// Room that it begins with.
const FIRST_ROOM: usize = 1 << 12;
/// Buckets that are fetched at once: processors wait for about so many lines at a time.
const AHEAD: usize = 16;
/// Hashes for which a writer keeps others waiting.
const AT_A_TIME: usize = 1 << 10;

#[cfg(test)]
mod tests;
