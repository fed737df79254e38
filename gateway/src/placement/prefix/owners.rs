//! Sets of owners, as small as they mostly are.
//!
//! A block is in few caches, except for what all prompts begin with. So a set is one word: up to
//! four owners as numbers in it, or the number of a row with a bit for each. Rows live in segments
//! that are made when they are needed and never move, so that a reader needs no lock to look at
//! one.

use std::{
    hint::black_box,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// One that holds blocks, by number.
pub(super) type Owner = u16;

/// Most owners: a thousand endpoints, and as many that come or go.
pub(super) const MOST_OWNERS: usize = 2048;

/// Words of a row.
pub(super) const WORDS: usize = MOST_OWNERS / 64;

/// A set of owners; what it means is [`Rows`]' to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Set(pub(super) u64);

/// Where the large sets are.
pub(super) struct Rows {
    segments: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

/// Which rows are taken; whoever writes has it.
#[derive(Debug, Default)]
pub(super) struct FreeRows {
    free: Vec<u32>,
    next: u32,
}

/// One bit for each owner.
#[derive(Debug)]
pub(super) struct Bits(Box<[AtomicU64]>);

// === impl Set ===

impl Set {
    pub(super) const EMPTY: Self = Self(0);

    fn row(self) -> Option<u32> {
        (self.0 & IN_A_ROW != 0).then_some(self.0 as u32)
    }

    /// The owners of a set that is no row.
    fn few(self) -> impl Iterator<Item = Owner> {
        let lanes = (0..FEW).map(move |lane| (self.0 >> (lane * LANE_BITS)) & LANE);
        lanes.filter(|lane| *lane > 0).map(|lane| (lane - 1) as Owner)
    }

    fn of_few(owners: impl Iterator<Item = Owner>) -> Self {
        let lane = |(lane, owner)| (u64::from(owner) + 1) << (lane * LANE_BITS);
        Self((0..FEW).zip(owners).map(lane).fold(0, |all, lane| all | lane))
    }
}

// === impl Rows ===

impl Rows {
    pub(super) fn new() -> Self {
        Self { segments: (0..SEGMENTS).map(|_| OnceLock::new()).collect() }
    }

    /// Calls for every owner of a set.
    pub(super) fn each(&self, set: Set, mut each: impl FnMut(Owner)) {
        let Some(row) = set.row() else { return set.few().for_each(each) };
        for (at, word) in self.words(row).iter().enumerate() {
            let mut left = word.load(Ordering::Relaxed);
            while left != 0 {
                each((at * 64) as Owner + left.trailing_zeros() as Owner);
                left &= left - 1;
            }
        }
    }

    pub(super) fn contains(&self, set: Set, owner: Owner) -> bool {
        match set.row() {
            None => set.few().any(|own| own == owner),
            Some(row) => self
                .words(row)
                .get(usize::from(owner) / 64)
                .is_some_and(|word| word.load(Ordering::Relaxed) >> (owner % 64) & 1 == 1),
        }
    }

    /// Calls for the owners of `from` that are not in `to`, as words of 64 with their places, if
    /// they are in `live`, of which so many words say something. Goes on as long as it is told to,
    /// and says whether it came to the end.
    pub(super) fn lost(
        &self,
        from: Set,
        to: Set,
        (live, words): (&Bits, usize),
        mut each: impl FnMut(usize, u64) -> bool,
    ) -> bool {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let Some(row) = from.row() else {
            let lost = |owner: &Owner| live.contains(*owner) && !self.contains(to, *owner);
            let mut lost = from.few().filter(lost);
            return lost.all(|owner| each(usize::from(owner) / 64, 1 << (owner % 64)));
        };
        let own = self.words(row).iter().zip(&live.0).take(words);
        let own = own.map(|(own, live)| load(own) & load(live)).enumerate();
        match to.row() {
            Some(row) => {
                let mut both = own.zip(self.words(row));
                both.all(|((at, own), to)| {
                    let lost = own & !load(to);
                    lost == 0 || each(at, lost)
                })
            }
            None => {
                let mut own = own;
                own.all(|(at, own)| {
                    let here = to.few().filter(|owner| usize::from(*owner) / 64 == at);
                    let lost = own & !here.fold(0, |all, owner| all | 1 << (owner % 64));
                    lost == 0 || each(at, lost)
                })
            }
        }
    }

    /// Has the processor fetch the rows of some sets, all at once.
    pub(super) fn ahead(&self, sets: &[Set]) {
        let rows = sets.iter().filter_map(|set| set.row());
        let lines = rows.flat_map(|row| self.words(row).iter().step_by(LINE_WORDS));
        black_box(lines.fold(0, |all, word| all ^ word.load(Ordering::Relaxed)));
    }

    /// The set with one more owner, if there is room; the same if it is in it.
    pub(super) fn with(&self, set: Set, owner: Owner, free: &mut FreeRows) -> Option<Set> {
        if let Some(row) = set.row() {
            self.put(row, owner, true);
            return Some(set);
        }
        if set.few().count() < FEW as usize {
            return Some(Set::of_few(set.few().chain([owner])));
        }
        let row = free.take()?;
        let segment = self.segments.get(row as usize / SEGMENT_ROWS)?;
        segment.get_or_init(|| (0..SEGMENT_ROWS * WORDS).map(|_| AtomicU64::new(0)).collect());
        self.words(row).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        set.few().chain([owner]).for_each(|owner| self.put(row, owner, true));
        Some(Set(IN_A_ROW | u64::from(row)))
    }

    /// The set with one owner less.
    pub(super) fn without(&self, set: Set, owner: Owner, free: &mut FreeRows) -> Set {
        let Some(row) = set.row() else {
            return Set::of_few(set.few().filter(|own| *own != owner));
        };
        self.put(row, owner, false);
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed).count_ones();
        // Not at once, so that a set whose size goes up and down stays where it is.
        if self.words(row).iter().map(word).sum::<u32>() > FEW / 2 {
            return set;
        }
        let mut left = Vec::new();
        self.each(set, |owner| left.push(owner));
        free.free.push(row);
        Set::of_few(left.into_iter())
    }

    pub(super) fn bytes(&self) -> usize {
        let made = self.segments.iter().filter(|segment| segment.get().is_some()).count();
        made * SEGMENT_ROWS * WORDS * 8 + size_of_val(&*self.segments)
    }

    fn put(&self, row: u32, owner: Owner, is_in: bool) {
        let Some(word) = self.words(row).get(usize::from(owner) / 64) else { return };
        let (old, bit) = (word.load(Ordering::Relaxed), 1 << (owner % 64));
        // Nobody else writes.
        word.store(if is_in { old | bit } else { old & !bit }, Ordering::Relaxed);
    }

    fn words(&self, row: u32) -> &[AtomicU64] {
        let segment = self.segments.get(row as usize / SEGMENT_ROWS).and_then(OnceLock::get);
        let from = row as usize % SEGMENT_ROWS * WORDS;
        segment.and_then(|segment| segment.get(from..from + WORDS)).unwrap_or_default()
    }
}

// === impl FreeRows ===

impl FreeRows {
    fn take(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            let row = self.next;
            ((row as usize) < SEGMENTS * SEGMENT_ROWS).then(|| {
                self.next += 1;
                row
            })
        })
    }
}

// === impl Bits ===

impl Bits {
    pub(super) fn new() -> Self {
        Self((0..WORDS).map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn contains(&self, owner: Owner) -> bool {
        let word = self.0.get(usize::from(owner) / 64);
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (owner % 64) & 1 == 1)
    }

    pub(super) fn put(&self, owner: Owner, is_in: bool) {
        let Some(word) = self.0.get(usize::from(owner) / 64) else { return };
        let bit = 1 << (owner % 64);
        if is_in {
            word.fetch_or(bit, Ordering::AcqRel);
        } else {
            word.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// How many words there are up to the last that is not empty.
    pub(super) fn words(&self) -> usize {
        let is_some = |word: &AtomicU64| word.load(Ordering::Relaxed) != 0;
        self.0.iter().rposition(is_some).map_or(0, |last| last + 1)
    }
}

/// Owners in a word.
const FEW: u32 = 4;
/// One of them, as its number and one: 0 is none.
const LANE_BITS: u32 = 15;
const LANE: u64 = (1 << LANE_BITS) - 1;
/// Says that the rest of the word is the number of a row.
const IN_A_ROW: u64 = 1 << 63;
/// Words in a line of the processor's cache.
const LINE_WORDS: usize = 8;
/// Rows in a segment: 256 KiB.
const SEGMENT_ROWS: usize = 1024;
/// Four million rows, a gigabyte: more blocks are not in more than four caches.
const SEGMENTS: usize = 4096;
