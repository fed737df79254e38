//! Whether a model's endpoints have room for more.
//!
//! llm-d's utilization detector: of each endpoint the larger of its queue and its KV use, over what
//! is too much of each, and the mean of that over all. At 1 they are saturated. Loads are up to 50
//! ms old, so what this gateway has let in counts as it is now, and only what others have as it
//! was told: what is more than all endpoints can run at a time must be in their queues.
//!
//! Who is let in is not worth the same to all ([`Rank`]). Whoever has somebody more important
//! beside him begins at once or waits here, where he can be overtaken, never in an endpoint's
//! queue, and leaves some places free; so the important find a place and need not wait for one.
//!
//! An endpoint that has not told its load for a while is counted with what it told last. That may
//! be wrong; to take silence for saturation stops a whole pool when one scrape fails.

use troupe_runtime::wire::status::Load;

/// What is too much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Thresholds {
    /// Requests in an endpoint's queue.
    pub(crate) queue_depth: f64,
    /// The share of KV blocks in use; not looked at if not given. An engine that tells its queue
    /// needs no such mark: one that is full of KV has a queue, or nobody waits.
    pub(crate) kv_cache_util: Option<f64>,
    /// The share of the places that is kept free for whoever matters more.
    pub(crate) holdback: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { queue_depth: 5.0, kv_cache_util: None, holdback: 0.0 }
    }
}

/// How important a request is, beside the others of these seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rank {
    /// Others matter more.
    pub(crate) behind: bool,
    /// It may be shed.
    pub(crate) sheddable: bool,
}

/// One endpoint, as far as this matters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) load: Load,
    /// The most sequences that it runs at a time; 0 if it does not say.
    pub(crate) max_sequences: u32,
}

/// All endpoints of a model at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Pool {
    endpoints: f64,
    /// Sum over endpoints of the detector's value.
    values: f64,
    /// Requests that leaders told of.
    told: f64,
    /// Those of them that are not this gateway's.
    others: f64,
    /// Sequences that all endpoints can run at a time, if all say so.
    capacity: f64,
    unknown: bool,
}

// === impl Pool ===

impl Pool {
    /// As loads are now.
    pub(crate) fn new(thresholds: &Thresholds, rooms: impl Iterator<Item = Room>) -> Self {
        let mut pool = Self::default();
        for Room { load, max_sequences } in rooms {
            let queue = f64::from(load.waiting) / thresholds.queue_depth;
            let kv = f64::from(load.blocks_used) / f64::from(load.blocks_total.max(1));
            let kv = thresholds.kv_cache_util.map_or(0.0, |most| kv / most);
            pool.endpoints += 1.0;
            pool.values += queue.max(kv);
            pool.told += f64::from(load.running) + f64::from(load.waiting);
            pool.capacity += f64::from(max_sequences);
            pool.unknown |= max_sequences == 0;
        }
        pool
    }

    /// Requests that leaders told of beyond so many of this gateway's.
    pub(crate) fn beyond(&self, admitted: usize) -> f64 {
        (self.told - admitted as f64).max(0.0)
    }

    /// The same, where so many of what leaders told of are others'.
    pub(crate) fn with_others(self, others: f64) -> Self {
        Self { others, ..self }
    }

    /// How full they are with so many of this gateway's requests let in; at 1 they are saturated.
    /// Without an endpoint nothing is: who waits for one waits elsewhere.
    pub(crate) fn saturation(&self, thresholds: &Thresholds, admitted: usize) -> f64 {
        if self.endpoints == 0.0 {
            return 0.0;
        }
        let told = self.values / self.endpoints;
        if self.unknown {
            return told;
        }
        let queued = self.others + admitted as f64 - self.capacity;
        told.max(queued / (thresholds.queue_depth * self.endpoints))
    }

    /// Whether one more of this rank may go in beside so many.
    pub(crate) fn has_room(&self, thresholds: &Thresholds, admitted: usize, rank: Rank) -> bool {
        if self.endpoints == 0.0 {
            return true;
        }
        if self.values / self.endpoints >= 1.0 {
            return false;
        }
        let kept = if rank.behind { (self.capacity * thresholds.holdback).ceil() } else { 0.0 };
        let waits = match rank {
            Rank { behind: false, sheddable: false } => thresholds.queue_depth * self.endpoints,
            _ => 0.0,
        };
        // A pool of one place has it for all.
        let most = (self.capacity - kept).max(1.0) + waits;
        self.unknown || self.others + admitted as f64 + 1.0 <= most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(running: u32, waiting: u32, used: u32, max_sequences: u32) -> Room {
        let load =
            Load { running, waiting, blocks_used: used, blocks_total: 100, ..Load::default() };
        Room { load, max_sequences }
    }

    fn saturation(thresholds: &Thresholds, rooms: &[Room], admitted: usize) -> f64 {
        Pool::new(thresholds, rooms.iter().copied()).saturation(thresholds, admitted)
    }

    #[test]
    fn it_is_the_mean_of_the_larger_of_queue_and_kv() {
        let llmd = Thresholds { queue_depth: 5.0, kv_cache_util: Some(0.8), holdback: 0.0 };
        let cases = [
            (&[room(9, 5, 0, 0)][..], 1.0),
            (&[room(9, 0, 80, 0)], 1.0),
            (&[room(9, 1, 40, 0)], 0.5),
            (&[room(9, 5, 0, 0), room(0, 0, 40, 0)], 0.75),
            (&[room(0, 10, 0, 0), room(0, 0, 0, 0)], 1.0),
            (&[], 0.0),
        ];
        for (rooms, wanted) in cases {
            let got = saturation(&llmd, rooms, 0);
            assert!((got - wanted).abs() < 1e-9, "{rooms:?}: {got}");
        }
        assert_eq!(saturation(&Thresholds::default(), &[room(9, 0, 100, 0)], 0), 0.0);
    }

    #[test]
    fn what_was_let_in_since_counts() {
        let rooms = [room(0, 0, 0, 8), room(0, 0, 0, 8)];
        let thresholds = Thresholds::default();
        let at = |admitted| saturation(&thresholds, &rooms, admitted);
        assert!(at(16) <= 0.0 && at(21) < 1.0);
        assert!(at(26) >= 1.0, "sixteen run, ten wait");
        let pool = Pool::new(&thresholds, rooms.into_iter());
        let room = |pool: Pool, at| pool.has_room(&thresholds, at, Rank::default());
        assert!(room(pool, 25) && !room(pool, 26));
        let shared = pool.with_others(3.0);
        assert!(room(shared, 22) && !room(shared, 23), "three of them are another gateway's");
        assert_eq!((pool.beyond(0), Pool { told: 9.0, ..pool }.beyond(7)), (0.0, 2.0));
    }

    #[test]
    fn who_is_less_important_leaves_places_free_and_waits_in_no_endpoint() {
        let rooms = [room(0, 0, 0, 16), room(0, 0, 0, 16)];
        let thresholds = Thresholds { holdback: 0.05, ..Thresholds::default() };
        let pool = Pool::new(&thresholds, rooms.into_iter());
        let most = |behind, sheddable| {
            let rank = Rank { behind, sheddable };
            (0..100).find(|at| !pool.has_room(&thresholds, *at, rank)).expect("a bound")
        };
        assert_eq!((most(false, false), most(false, true)), (42, 32));
        assert_eq!((most(true, false), most(true, true)), (30, 30), "a twentieth, rounded up");
        let whole = Thresholds { holdback: 1.0, ..thresholds };
        let rank = Rank { behind: true, sheddable: false };
        assert!(pool.has_room(&whole, 0, rank) && !pool.has_room(&whole, 1, rank));
        let shallow = Thresholds { queue_depth: 0.25, ..thresholds };
        let first = |at| pool.has_room(&shallow, at, Rank::default());
        assert!(first(31) && !first(32), "half a request that waits is none");
    }
}
