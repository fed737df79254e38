//! How fast a number of groups may change: stabilisation windows and policies, as Kubernetes'
//! autoscaler has them.

use std::{collections::VecDeque, time::Duration};

use troupe_runtime::spec::service::{
    Scaling, ScalingPolicy, ScalingRules, ScalingStep, SelectPolicy,
};

use super::Limit;

/// What was asked for and what came of it.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// Numbers that load asked for, the oldest first.
    asked: VecDeque<(Duration, u32)>,
    /// By how much the number changed.
    changes: VecDeque<(Duration, i64)>,
}

/// What may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) to: u32,
    /// What keeps it from what is asked for.
    pub(super) limit: Option<Limit>,
}

// === impl History ===

impl History {
    /// It begins with this number, as if load had asked for it.
    pub(super) fn begin(&mut self, now: Duration, replicas: u32) {
        self.asked.push_back((now, replicas));
    }

    /// The number changed.
    pub(super) fn changed(&mut self, now: Duration, from: u32, to: u32) {
        self.changes.push_back((now, i64::from(to) - i64::from(from)));
    }

    /// What may be of what is asked for.
    pub(super) fn next(
        &mut self,
        now: Duration,
        (from, asked): (u32, u32),
        scaling: &Scaling,
    ) -> Change {
        let (up, down) = (&scaling.scale_up, &scaling.scale_down);
        self.asked.push_back((now, asked));
        self.forget(now, scaling);
        let within = |window: Duration| {
            self.asked.iter().filter(move |(at, _)| now.saturating_sub(*at) <= window)
        };
        let least = within(up.stabilization).map(|(_, asked)| *asked).min().unwrap_or(asked);
        let most = within(down.stabilization).map(|(_, asked)| *asked).max().unwrap_or(asked);
        // The most cautious of its direction: no higher than all that was asked for lately, no
        // lower than any.
        let stable = from.clamp(least, most);
        let to = if stable > from {
            stable.min(self.ceiling(now, from, up))
        } else {
            stable.max(self.floor(now, from, down))
        };
        let limit = match stable {
            more if more > to => Some(Limit::Up),
            fewer if fewer < to => Some(Limit::Down),
            _ => None,
        };
        Change { to, limit }
    }

    /// The highest that the rules allow.
    fn ceiling(&self, now: Duration, from: u32, rules: &ScalingRules) -> u32 {
        let allowed = |policy: &ScalingPolicy| {
            let start = self.start(now, from, policy.period);
            match policy.by {
                ScalingStep::Groups(groups) => start.saturating_add(groups),
                ScalingStep::Percent(percent) => percent_of(start, 100 + u64::from(percent), true),
            }
        };
        let allowed = rules.policies.iter().map(allowed);
        let ceiling = match rules.select {
            SelectPolicy::Max => allowed.max(),
            SelectPolicy::Min => allowed.min(),
            SelectPolicy::Disabled => Some(from),
        };
        ceiling.map_or(u32::MAX, |ceiling| ceiling.max(from))
    }

    /// The lowest that the rules allow.
    fn floor(&self, now: Duration, from: u32, rules: &ScalingRules) -> u32 {
        let allowed = |policy: &ScalingPolicy| {
            let start = self.start(now, from, policy.period);
            match policy.by {
                ScalingStep::Groups(groups) => start.saturating_sub(groups),
                ScalingStep::Percent(percent) => {
                    percent_of(start, 100_u64.saturating_sub(percent.into()), false)
                }
            }
        };
        let allowed = rules.policies.iter().map(allowed);
        let floor = match rules.select {
            SelectPolicy::Max => allowed.min(),
            SelectPolicy::Min => allowed.max(),
            SelectPolicy::Disabled => Some(from),
        };
        floor.map_or(0, |floor| floor.min(from))
    }

    /// How many there were at the start of a period.
    fn start(&self, now: Duration, from: u32, period: Duration) -> u32 {
        let within = self.changes.iter().filter(|(at, _)| now.saturating_sub(*at) < period);
        let start = i64::from(from) - within.map(|(_, by)| by).sum::<i64>();
        u32::try_from(start.max(0)).unwrap_or(u32::MAX)
    }

    /// What no window reaches back to.
    fn forget(&mut self, now: Duration, scaling: &Scaling) {
        let both = [&scaling.scale_up, &scaling.scale_down];
        let windows = both.map(|rules| rules.stabilization);
        let window = windows.into_iter().max().unwrap_or_default();
        let policies = both.iter().flat_map(|rules| &rules.policies);
        let period = policies.map(|policy| policy.period).max().unwrap_or_default();
        let old = |at: Duration, reach: Duration| now.saturating_sub(at) > reach;
        while self.asked.front().is_some_and(|(at, _)| old(*at, window)) {
            self.asked.pop_front();
        }
        while self.changes.front().is_some_and(|(at, _)| old(*at, period)) {
            self.changes.pop_front();
        }
    }
}

fn percent_of(groups: u32, percent: u64, up: bool) -> u32 {
    let hundredfold = u64::from(groups) * percent;
    let groups = if up { hundredfold.div_ceil(100) } else { hundredfold / 100 };
    u32::try_from(groups).unwrap_or(u32::MAX)
}
