//! Whether a model's endpoints have room for more.
//!
//! llm-d's utilization detector: of each endpoint the larger of its queue and its KV use, over what
//! is too much of each, and the mean of that over all. At 1 they are saturated. Loads are up to 50
//! ms old, so what this gateway has let in counts as it is now, and only what others have as it
//! was told: what is more than all endpoints can run at a time must be in their queues.
//!
//! A mean hides who is idle. What was told keeps nobody out while some endpoint has a place, only
//! the number of those that were let in does; and a request that is let in for a place is said to
//! begin at once ([`Begins`]), so that placement sends it where the place is.
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

/// When a request begins that is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begins {
    /// At once, if it is placed where a place is.
    AtOnce,
    /// When its endpoint has a place for it, or nobody knows.
    InTurn,
}

/// One endpoint, as far as this matters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    pub(crate) load: Load,
    /// The most sequences that it runs at a time; 0 if it does not say.
    pub(crate) max_sequences: u32,
    /// Requests of this gateway that are there now.
    pub(crate) own: u32,
    /// Sequences there that are not this gateway's, as was told.
    pub(crate) others: u32,
}

/// All endpoints of a model at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Pool {
    endpoints: f64,
    /// Sum over endpoints of the detector's value.
    values: f64,
    /// Requests that were let in and are at an endpoint.
    placed: f64,
    /// Sequences there that are not theirs: of others, or more of one that was let in.
    others: f64,
    /// Places where one more would begin at once.
    free: f64,
    /// Sequences that all endpoints can run at a time, if all say so.
    capacity: f64,
    unknown: bool,
}

// === impl Pool ===

impl Pool {
    /// As loads are now, and so many are let in.
    pub(crate) fn new(
        thresholds: &Thresholds,
        admitted: usize,
        rooms: impl Iterator<Item = Room>,
    ) -> Self {
        let (mut pool, mut all_own) = (Self::default(), 0.0);
        for Room { load, max_sequences, own, others } in rooms {
            let queue = f64::from(load.waiting) / thresholds.queue_depth;
            let kv = f64::from(load.blocks_used) / f64::from(load.blocks_total.max(1));
            let kv = thresholds.kv_cache_util.map_or(0.0, |most| kv / most);
            pool.endpoints += 1.0;
            pool.values += queue.max(kv);
            all_own += f64::from(own);
            pool.others += f64::from(others);
            if queue.max(kv) < 1.0 {
                let taken = own.saturating_add(others);
                pool.free += f64::from(max_sequences.saturating_sub(taken));
            }
            pool.capacity += f64::from(max_sequences);
            pool.unknown |= max_sequences == 0;
        }
        // A request of several prompts is several there.
        pool.placed = f64::min(all_own, admitted as f64);
        pool.others += all_own - pool.placed;
        pool
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

    /// Whether one more of this rank may go in beside so many, and when it begins then.
    pub(crate) fn room(
        &self,
        thresholds: &Thresholds,
        admitted: usize,
        rank: Rank,
    ) -> Option<Begins> {
        if self.endpoints == 0.0 {
            return Some(Begins::InTurn);
        }
        let full = self.values / self.endpoints >= 1.0;
        if self.unknown {
            return (!full).then_some(Begins::InTurn);
        }
        // Who was let in and is at no endpoint yet takes a place in a moment.
        let coming = (admitted as f64 - self.placed).max(0.0);
        let finds_place = coming + 1.0 <= self.free;
        if full && !finds_place {
            return None;
        }
        let kept = if rank.behind { (self.capacity * thresholds.holdback).ceil() } else { 0.0 };
        let waits = match rank {
            Rank { behind: false, sheddable: false } => thresholds.queue_depth * self.endpoints,
            _ => 0.0,
        };
        // A pool of one place has it for all.
        let most = (self.capacity - kept).max(1.0);
        let all = self.others + admitted as f64 + 1.0;
        let begins = if finds_place || all <= most { Begins::AtOnce } else { Begins::InTurn };
        (all <= most + waits).then_some(begins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(running: u32, waiting: u32, used: u32, max_sequences: u32) -> Room {
        let load =
            Load { running, waiting, blocks_used: used, blocks_total: 100, ..Load::default() };
        Room { load, max_sequences, ..Room::default() }
    }

    fn saturation(thresholds: &Thresholds, rooms: &[Room], admitted: usize) -> f64 {
        Pool::new(thresholds, admitted, rooms.iter().copied()).saturation(thresholds, admitted)
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
        let pool = Pool::new(&thresholds, 0, rooms.into_iter());
        let room = |pool: Pool, at| pool.room(&thresholds, at, Rank::default());
        assert_eq!((room(pool, 15), room(pool, 16)), (Some(Begins::AtOnce), Some(Begins::InTurn)));
        assert_eq!((room(pool, 25), room(pool, 26)), (Some(Begins::InTurn), None));
        let shared =
            Pool::new(&thresholds, 0, rooms.map(|room| Room { others: 2, ..room }).into_iter());
        assert_eq!(
            (room(shared, 11), room(shared, 21)),
            (Some(Begins::AtOnce), Some(Begins::InTurn))
        );
        assert_eq!(room(shared, 22), None, "four of them are another gateway's");
        let batch =
            Pool::new(&thresholds, 1, rooms.map(|room| Room { own: 2, ..room }).into_iter());
        assert_eq!(
            (room(batch, 12), room(batch, 22)),
            (Some(Begins::AtOnce), Some(Begins::InTurn))
        );
        assert_eq!(room(batch, 23), None, "one request had four prompts");
    }

    #[test]
    fn a_queue_elsewhere_keeps_nobody_out_while_there_is_a_place() {
        let thresholds = Thresholds { queue_depth: 0.5, ..Thresholds::default() };
        // Two run at one of them and one waits there; at the other one has just left.
        let waits = Room { own: 3, ..room(2, 1, 0, 2) };
        let left = Room { own: 1, ..room(2, 0, 0, 2) };
        let pool = Pool::new(&thresholds, 4, [left, waits].into_iter());
        assert!(pool.saturation(&thresholds, 4) >= 1.0);
        let at = |admitted| pool.room(&thresholds, admitted, Rank::default());
        assert_eq!(at(4), Some(Begins::AtOnce));
        assert_eq!(at(5), None, "one is on its way to that place");
        let behind = Rank { behind: true, sheddable: false };
        assert_eq!(pool.room(&thresholds, 4, behind), None, "all places together are taken");
        // Neither a full one nor one whose queue is long although it has places has one.
        let stuck = Room { own: 1, ..room(1, 1, 0, 2) };
        let full = Room { own: 2, ..room(2, 1, 0, 2) };
        let pool = Pool::new(&thresholds, 3, [full, stuck].into_iter());
        assert_eq!(pool.room(&thresholds, 3, Rank::default()), None);
        let silent = Room { max_sequences: 0, ..left };
        let pool = Pool::new(&thresholds, 4, [silent, waits].into_iter());
        assert_eq!(pool.room(&thresholds, 4, Rank::default()), None, "nobody knows of a place");
    }

    #[test]
    fn who_is_less_important_leaves_places_free_and_waits_in_no_endpoint() {
        let rooms = [room(0, 0, 0, 16), room(0, 0, 0, 16)];
        let thresholds = Thresholds { holdback: 0.05, ..Thresholds::default() };
        let pool = Pool::new(&thresholds, 0, rooms.into_iter());
        let most = |behind, sheddable| {
            let rank = Rank { behind, sheddable };
            (0..100).find(|at| pool.room(&thresholds, *at, rank).is_none()).expect("a bound")
        };
        assert_eq!((most(false, false), most(false, true)), (42, 32));
        assert_eq!((most(true, false), most(true, true)), (30, 30), "a twentieth, rounded up");
        let whole = Thresholds { holdback: 1.0, ..thresholds };
        let rank = Rank { behind: true, sheddable: false };
        assert_eq!(pool.room(&whole, 0, rank), Some(Begins::AtOnce));
        assert_eq!(pool.room(&whole, 1, rank), None);
        let shallow = Thresholds { queue_depth: 0.25, ..thresholds };
        let first = |at| pool.room(&shallow, at, Rank::default());
        assert_eq!(first(31), Some(Begins::AtOnce));
        assert_eq!(first(32), None, "half a request that waits is none");
    }
}
