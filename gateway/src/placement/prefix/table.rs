//! A hash table that is read without waiting for whoever writes.
//!
//! Buckets of seven entries: a line of tags and a line of sets. An entry stays where it was put
//! until it is removed, so a reader never misses one because others came or went; it looks at the
//! tag again after it has read the set, in case the place was given to another meanwhile. A bucket
//! counts the entries that found it full and went on to the next: while there are some, a reader
//! goes on as well. There is one writer at a time, and a table never grows: its successor does.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
};

use super::owners::Set;

/// Entries by the low half of their hash. Two blocks of which these are equal, one pair in 10^19,
/// are taken for one: a request would be placed less well.
pub(super) struct Table {
    buckets: Box<[Bucket]>,
}

/// Two cache lines.
#[repr(align(64))]
#[derive(Default)]
struct Bucket {
    /// Of each entry; 0 is none.
    tags: [AtomicU64; ENTRIES],
    /// Entries that are elsewhere because this bucket was full.
    passed: AtomicU64,
    sets: [AtomicU64; ENTRIES],
}

/// What names an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(u64);

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    bucket: usize,
    entry: usize,
}

// === impl Tag ===

impl Tag {
    pub(super) fn of(hash: u128) -> Self {
        Self((hash as u64).max(1))
    }
}

// === impl Table ===

impl Table {
    /// A table with room for so many entries at least.
    pub(super) fn for_entries(entries: usize) -> Self {
        let buckets = (entries * 10).div_ceil(ENTRIES * FULL_TENTHS).next_power_of_two();
        Self { buckets: (0..buckets).map(|_| Bucket::default()).collect() }
    }

    /// How many entries it takes before its successor should be made.
    pub(super) fn room(&self) -> usize {
        self.buckets.len() * ENTRIES * FULL_TENTHS / 10
    }

    pub(super) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    /// The set of a tag, empty if there is none. Anybody may ask at any time.
    pub(super) fn get(&self, tag: Tag) -> Set {
        let mut at = self.home(tag);
        for _ in 0..self.buckets.len() {
            let bucket = &self.buckets[at];
            for (own, set) in bucket.tags.iter().zip(&bucket.sets) {
                if own.load(Ordering::Acquire) == tag.0 {
                    let set = set.load(Ordering::Acquire);
                    if own.load(Ordering::Relaxed) == tag.0 {
                        return Set(set);
                    }
                }
            }
            if bucket.passed.load(Ordering::Acquire) == 0 {
                break;
            }
            at = self.next(at);
        }
        Set::EMPTY
    }

    /// Has the processor fetch what the next few look-ups need, all at once: a bucket is seldom in
    /// its cache, and one look-up after the other would wait for memory one after the other.
    pub(super) fn ahead(&self, tags: impl Iterator<Item = Tag>) {
        let first = |tag: Tag| {
            let bucket = &self.buckets[self.home(tag)];
            bucket.tags[0].load(Ordering::Relaxed) ^ bucket.sets[0].load(Ordering::Relaxed)
        };
        black_box(tags.map(first).fold(0, |all, one| all ^ one));
    }

    /// Where a tag is, for the writer.
    pub(super) fn find(&self, tag: Tag) -> Option<Place> {
        let mut bucket = self.home(tag);
        for _ in 0..self.buckets.len() {
            let tags = &self.buckets[bucket].tags;
            if let Some(entry) = tags.iter().position(|own| own.load(Ordering::Relaxed) == tag.0) {
                return Some(Place { bucket, entry });
            }
            if self.buckets[bucket].passed.load(Ordering::Relaxed) == 0 {
                return None;
            }
            bucket = self.next(bucket);
        }
        None
    }

    /// Puts a tag in that is not there yet. The caller keeps within [`Table::room`].
    pub(super) fn insert(&self, tag: Tag, set: Set) {
        let mut at = self.home(tag);
        for _ in 0..self.buckets.len() {
            let bucket = &self.buckets[at];
            let free = bucket.tags.iter().position(|own| own.load(Ordering::Relaxed) == 0);
            if let Some(entry) = free {
                bucket.sets[entry].store(set.0, Ordering::Release);
                bucket.tags[entry].store(tag.0, Ordering::Release);
                return;
            }
            bucket.passed.fetch_add(1, Ordering::AcqRel);
            at = self.next(at);
        }
    }

    pub(super) fn set(&self, place: Place) -> Set {
        Set(self.buckets[place.bucket].sets[place.entry].load(Ordering::Relaxed))
    }

    pub(super) fn replace(&self, place: Place, set: Set) {
        self.buckets[place.bucket].sets[place.entry].store(set.0, Ordering::Release);
    }

    pub(super) fn remove(&self, place: Place) {
        let tag = &self.buckets[place.bucket].tags[place.entry];
        let mut at = self.home(Tag(tag.load(Ordering::Relaxed)));
        tag.store(0, Ordering::Release);
        while at != place.bucket {
            self.buckets[at].passed.fetch_sub(1, Ordering::AcqRel);
            at = self.next(at);
        }
    }

    /// The entries of one bucket.
    pub(super) fn entries(&self, bucket: usize) -> impl Iterator<Item = (Place, Tag)> + '_ {
        let tags = self.buckets[bucket].tags.iter().enumerate();
        let tags = tags
            .map(move |(entry, tag)| (Place { bucket, entry }, Tag(tag.load(Ordering::Relaxed))));
        tags.filter(|(_, tag)| tag.0 != 0)
    }

    fn home(&self, tag: Tag) -> usize {
        tag.0 as usize & (self.buckets.len() - 1)
    }

    fn next(&self, bucket: usize) -> usize {
        (bucket + 1) & (self.buckets.len() - 1)
    }
}

/// Entries in a bucket.
const ENTRIES: usize = 7;
/// Tenths of all entries that are used before there is a larger table.
const FULL_TENTHS: usize = 8;
