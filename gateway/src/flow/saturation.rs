//! Whether a model's endpoints have room for more.
//!
//! llm-d's utilization detector: of each endpoint the larger of its queue and its KV use, over what
//! is too much of each, and the mean of that over all. At 1 they are saturated. Loads are up to 50
//! ms old, so what this gateway has let in since counts too: what is more than all endpoints can
//! run at a time must be in their queues by now.
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
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { queue_depth: 5.0, kv_cache_util: None }
    }
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
        let queued = self.told.max(admitted as f64) - self.capacity;
        told.max(queued / (thresholds.queue_depth * self.endpoints))
    }

    /// Whether one more may go in.
    pub(crate) fn has_room(&self, thresholds: &Thresholds, admitted: usize) -> bool {
        self.saturation(thresholds, admitted) < 1.0
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
        let llmd = Thresholds { queue_depth: 5.0, kv_cache_util: Some(0.8) };
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
        assert!(pool.has_room(&thresholds, 25) && !pool.has_room(&thresholds, 26));
    }
}
