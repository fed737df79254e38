//! The numbers of an endpoint that every decision looks at: one line of the processor's cache for
//! each, and the lines of all endpoints side by side.
//!
//! A decision reads a thousand of them. Where each endpoint has its own somewhere in memory, that
//! is a thousand pages to find; side by side they are sixteen, and the processor fetches the next
//! line before it is asked for. Writers are the leaders' words and requests that come and go; each
//! writes to its endpoint's line only, without a lock.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use troupe_runtime::wire::status::Load;

use super::Busy;

/// What changes of an endpoint and placement looks at.
#[repr(align(64))]
#[derive(Debug, Default)]
pub(crate) struct Cells {
    /// Running and waiting sequences, 32 bits each, so that they are of one moment.
    sequences: AtomicU64,
    /// KV blocks in use and in all.
    blocks: AtomicU64,
    /// When that was told, in microseconds of the gateway's time.
    told: AtomicU64,
    /// Tokens of this gateway's requests there that are not computed yet.
    pub(super) uncached: AtomicU64,
    /// Until when others are taken before it, in microseconds of the gateway's time.
    rests: AtomicU64,
    fetch_rate: AtomicU32,
    /// Requests of this gateway that are there.
    pub(super) in_flight: AtomicU32,
    /// Sequences there that are not this gateway's.
    pub(super) others: AtomicU32,
    /// Its number in the index of prefixes.
    owner: AtomicU32,
}

/// Where one endpoint's are.
#[derive(Clone)]
pub(crate) struct Line {
    segment: Arc<Segment>,
    at: usize,
}

/// A line that is one endpoint's until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim(Line);

/// All lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    segments: Mutex<Vec<Arc<Segment>>>,
    shared: Arc<Shared>,
}

struct Segment {
    cells: [Cells; SEGMENT],
    /// Lines that nobody has.
    free: Mutex<Vec<usize>>,
    shared: Arc<Shared>,
}

/// What is of all of them.
#[derive(Debug, Default)]
struct Shared {
    /// Until when anybody rests: mostly nobody does, and a decision need not look at each.
    rests: AtomicU64,
}

/// Lines in a segment: 16 KiB.
const SEGMENT: usize = 256;

// === impl Lines ===

impl Lines {
    /// A line for somebody of whom nothing is known.
    pub(super) fn claim(&self) -> Claim {
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let free = segments.iter().find_map(|segment| Some((segment, segment.free().pop()?)));
        let (segment, at) = match free {
            Some((segment, at)) => (Arc::clone(segment), at),
            None => {
                let segment = Arc::new(Segment::new(&self.shared));
                segments.push(Arc::clone(&segment));
                // A new one has all of them.
                let at = segment.free().pop().unwrap_or_default();
                (segment, at)
            }
        };
        let line = Line { segment, at };
        line.reset();
        Claim(line)
    }
}

// === impl Segment ===

impl Segment {
    fn new(shared: &Arc<Shared>) -> Self {
        let cells = std::array::from_fn(|_| Cells::default());
        let free = Mutex::new((0..SEGMENT).rev().collect());
        Self { cells, free, shared: Arc::clone(shared) }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({} free)", self.free().len())
    }
}

// === impl Claim ===

impl Claim {
    /// Where it is. Whoever keeps that keeps the endpoint too, or the line may become another's.
    pub(crate) fn line(&self) -> &Line {
        &self.0
    }
}

impl Deref for Claim {
    type Target = Line;

    fn deref(&self) -> &Line {
        &self.0
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.segment.free().push(self.0.at);
    }
}

// === impl Line ===

impl Line {
    /// Others are taken before it until then, in microseconds of the gateway's time.
    pub(super) fn rest(&self, until: u64) {
        self.rests.store(until, Ordering::Relaxed);
        self.segment.shared.rests.fetch_max(until, Ordering::Relaxed);
    }

    /// Whether any endpoint rests at a moment.
    pub(super) fn anybody_rests(&self, now: u64) -> bool {
        self.segment.shared.rests.load(Ordering::Relaxed) > now
    }
}

impl Deref for Line {
    type Target = Cells;

    fn deref(&self) -> &Cells {
        &self.segment.cells[self.at]
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({})", self.at)
    }
}

// === impl Cells ===

impl Cells {
    fn reset(&self) {
        for cell in [&self.sequences, &self.blocks, &self.told, &self.uncached, &self.rests] {
            cell.store(0, Ordering::Relaxed);
        }
        for cell in [&self.fetch_rate, &self.in_flight, &self.others] {
            cell.store(0, Ordering::Relaxed);
        }
        self.owner.store(NOBODY, Ordering::Relaxed);
    }

    /// Its leader says how busy it is.
    pub(super) fn tell(&self, now: Duration, load: &Load) {
        let both = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let told = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        self.sequences.store(both(load.running, load.waiting), Ordering::Relaxed);
        self.blocks.store(both(load.blocks_used, load.blocks_total), Ordering::Relaxed);
        self.fetch_rate.store(load.fetch_rate, Ordering::Relaxed);
        self.told.store(told, Ordering::Relaxed);
    }

    /// How busy it was said to be.
    pub(super) fn busy(&self) -> Busy {
        let (running, waiting) = halves(self.sequences.load(Ordering::Relaxed));
        let (blocks_used, blocks_total) = halves(self.blocks.load(Ordering::Relaxed));
        let fetch_rate = self.fetch_rate();
        Busy { running, waiting, blocks_used, blocks_total, fetch_rate }
    }

    /// Microseconds since then.
    pub(super) fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.told.load(Ordering::Relaxed))
    }

    /// Tokens whose KV comes to it from other groups in a second; 0 if none came yet.
    pub(super) fn fetch_rate(&self) -> u32 {
        self.fetch_rate.load(Ordering::Relaxed)
    }

    /// Its number in the index of prefixes; [`NOBODY`] if there was none left.
    pub(super) fn owner(&self) -> u32 {
        self.owner.load(Ordering::Acquire)
    }

    /// It has this number there from now on.
    pub(super) fn own(&self, number: u32) {
        self.owner.store(number, Ordering::Release);
    }

    /// Whether others should be taken before it at a moment, because it keeps failing.
    pub(super) fn rests(&self, now: u64) -> bool {
        self.rests.load(Ordering::Relaxed) > now
    }

    /// Sequences there, as far as is known: others', and this gateway's requests as they are now.
    pub(super) fn taken(&self) -> u32 {
        let own = self.in_flight.load(Ordering::Relaxed);
        self.others.load(Ordering::Relaxed).saturating_add(own)
    }
}

fn halves(both: u64) -> (u32, u32) {
    ((both >> 32) as u32, both as u32)
}

/// No number in the index.
pub(super) const NOBODY: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_endpoints_until_it_is_dropped_and_then_as_new() {
        let lines = Lines::default();
        let claims: Vec<Claim> = (0..2 * SEGMENT + 1).map(|_| lines.claim()).collect();
        for (number, claim) in claims.iter().enumerate() {
            claim.in_flight.store(number as u32, Ordering::Relaxed);
        }
        for (number, claim) in claims.iter().enumerate() {
            assert_eq!(claim.taken(), number as u32, "nobody else wrote there");
        }
        drop(claims);
        let again: Vec<Claim> = (0..2 * SEGMENT + 1).map(|_| lines.claim()).collect();
        assert!(again.iter().all(|claim| claim.taken() == 0 && !claim.rests(0)));
        let segments = lines.segments.lock().expect("nobody panicked").len();
        assert_eq!(segments, 3, "no more than are needed");
    }

    #[test]
    fn somebody_rests_as_long_as_the_last() {
        let lines = Lines::default();
        let (one, other) = (lines.claim(), lines.claim());
        one.rest(50);
        one.rest(0);
        assert!(!one.rests(10) && other.anybody_rests(10), "it costs a look at each");
        assert!(!other.anybody_rests(50));
    }
}
