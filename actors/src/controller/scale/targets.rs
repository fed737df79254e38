//! What a target asks for, from what groups told of their load: the ratio of what is to what should
//! be, times the groups that there are, unless it is near enough to one. A group that does not serve
//! yet counts as one without load where more are asked for, for it will take some of it.

use std::time::Duration;

use troupe_runtime::{
    spec::service::ScalingTarget,
    wire::{latency::Latencies, status::Load},
};

/// The groups of a service.
#[derive(Clone, Debug)]
pub(super) struct Groups {
    /// How many are wanted now.
    pub(super) wanted: u32,
    /// How many serve.
    pub(super) serving: u32,
    /// Requests that wait at gateways.
    pub(super) held: u32,
    /// What those that serve tell.
    pub(super) loads: Vec<Load>,
    /// How long things took of late, all together.
    pub(super) first_token: Latencies,
    pub(super) next_token: Latencies,
}

/// What a target asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The target, as specifications call it.
    pub(super) of: &'static str,
    /// So many groups; none if nothing is known.
    pub(super) groups: Option<u32>,
}

// === impl Groups ===

impl Groups {
    /// What a target asks for.
    pub(super) fn ask(&self, target: &ScalingTarget) -> Asked {
        match *target {
            ScalingTarget::QueueDepth { average } => {
                Asked { of: "QueueDepth", groups: Some(self.for_queue(average)) }
            }
            ScalingTarget::KvCacheUtilization { percent } => {
                Asked { of: "KVCacheUtilization", groups: self.for_blocks(percent) }
            }
            ScalingTarget::TimeToFirstToken { limit, percentile } => {
                let took = self.first_token.percentile(percentile);
                Asked { of: "TimeToFirstToken", groups: self.for_time(took, limit) }
            }
            ScalingTarget::InterTokenLatency { limit, percentile } => {
                let took = self.next_token.percentile(percentile);
                Asked { of: "InterTokenLatency", groups: self.for_time(took, limit) }
            }
        }
    }

    /// What waits is divided over all groups, also those that are still coming.
    fn for_queue(&self, average: u32) -> u32 {
        let waiting = self.held + self.loads.iter().map(|load| load.waiting).sum::<u32>();
        let right = f64::from(average) * f64::from(self.wanted);
        if right > 0.0 && near(f64::from(waiting) / right) {
            return self.wanted;
        }
        waiting.div_ceil(average.max(1))
    }

    /// The mean share of the blocks in use.
    fn for_blocks(&self, percent: u32) -> Option<u32> {
        let share =
            |load: &Load| 100.0 * f64::from(load.blocks_used) / f64::from(load.blocks_total.max(1));
        let sum: f64 = self.loads.iter().map(share).sum();
        let known = self.loads.len() as u32;
        if known == 0 {
            return None;
        }
        let ratio = |groups: u32| sum / f64::from(groups) / f64::from(percent.max(1));
        let now = ratio(known);
        if near(now) {
            return Some(self.wanted);
        }
        if now < 1.0 {
            return Some(ceil(now * f64::from(known)));
        }
        let all = self.wanted.max(known);
        let then = ratio(all);
        Some(if near(then) || then < 1.0 { self.wanted } else { ceil(then * f64::from(all)) })
    }

    /// A time that grows with the load of each group.
    fn for_time(&self, took: Option<Duration>, limit: Duration) -> Option<u32> {
        let Some(took) = took else {
            // Nothing was done of late: that says something only where nothing is to be done.
            let works = self.loads.iter().any(|load| load.running + load.waiting > 0);
            let all_told = self.loads.len() as u32 == self.serving && self.serving > 0;
            return (!works && self.held == 0 && all_told).then_some(0);
        };
        let ratio = took.as_secs_f64() / limit.as_secs_f64();
        if near(ratio) || (ratio > 1.0 && self.serving < self.wanted) {
            return Some(self.wanted);
        }
        Some(ceil(ratio * f64::from(self.serving)))
    }
}

/// Whether a ratio is one, as far as anybody cares.
fn near(ratio: f64) -> bool {
    (ratio - 1.0).abs() <= TOLERANCE
}

/// Up to what division leaves.
fn ceil(groups: f64) -> u32 {
    (groups - 1e-9).ceil().max(0.0) as u32
}

/// Kubernetes' own.
const TOLERANCE: f64 = 0.1;
