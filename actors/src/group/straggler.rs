//! Finds the rank whose device has become slow: ten times, say, because its processors were taken
//! away or its clock was turned down.
//!
//! A step with more tokens takes longer on every rank, so a rank is measured by the others: what it
//! computed in a step, waiting left out, over what the others computed in the same step on average.
//! That ratio is a habit of the group (stages differ); a rank whose ratio is several times its
//! habit for a while, and by an amount that matters, is a straggler. A group of one rank has nobody
//! to compare with: there placement sees the time per token and sends requests elsewhere.

use std::{collections::BTreeMap, time::Duration};

use troupe_runtime::{
    id::{Coordinate, StepId},
    wire::group::Progress,
};

/// What is known of all ranks.
#[derive(Clone, Debug, Default)]
pub(super) struct Stragglers {
    /// What ranks took for steps that not all are through.
    steps: BTreeMap<StepId, BTreeMap<Coordinate, f64>>,
    habits: BTreeMap<Coordinate, Habit>,
}

/// A rank that has become slow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Straggler {
    pub(super) rank: Coordinate,
    /// How many times slower than it used to be, compared with the others.
    pub(super) times: f64,
    /// What it takes for a step.
    pub(super) took: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Habit {
    /// Its usual ratio.
    usual: f64,
    /// Steps that it was learned from.
    learned: u32,
    /// Since when it is suspected, and in how many steps.
    suspected: Option<(Duration, u32)>,
}

// === impl Stragglers ===

impl Stragglers {
    /// A rank of `ranks` is through a step.
    pub(super) fn progress(
        &mut self,
        now: Duration,
        progress: &Progress,
        ranks: usize,
    ) -> Option<Straggler> {
        let own = progress.compute_us.saturating_sub(progress.waited_us);
        let step = self.steps.entry(progress.step).or_default();
        step.insert(progress.rank, own as f64);
        if step.len() < ranks {
            // More are never in flight; what a rank never got through is of no use.
            while self.steps.len() > MOST_STEPS {
                self.steps.pop_first();
            }
            return None;
        }
        let step = self.steps.remove(&progress.step)?;
        if ranks < 2 {
            return None;
        }
        let all: f64 = step.values().sum();
        let others = (ranks - 1) as f64;
        let judged = step.iter().map(|(rank, own)| {
            let habit = self.habits.entry(*rank).or_default();
            let slow = habit.judge(now, *own, (all - own) / others);
            slow.map(|times| Straggler {
                rank: *rank,
                times,
                took: Duration::from_micros(*own as u64),
            })
        });
        // All of them learn, whoever is found.
        judged.fold(None, Option::or)
    }
}

// === impl Habit ===

impl Habit {
    /// Says how many times slower it is than it used to be, once that has lasted.
    fn judge(&mut self, now: Duration, own: f64, others: f64) -> Option<f64> {
        let ratio = (own + NOISE_US) / (others + NOISE_US);
        let times = ratio / self.usual.max(f64::MIN_POSITIVE);
        let usual = self.usual * others;
        let slow = self.learned >= LEARNED && times >= SLOW && own - usual >= MATTERS_US;
        if !slow {
            self.learned = (self.learned + 1).min(MEMORY);
            self.usual += (ratio - self.usual) / f64::from(self.learned);
            self.suspected = None;
            return None;
        }
        let (since, steps) = self.suspected.map_or((now, 1), |(since, steps)| (since, steps + 1));
        self.suspected = Some((since, steps));
        (now.saturating_sub(since) >= LASTS && steps >= STEPS).then_some(times)
    }
}

/// Steps that are remembered at most.
const MOST_STEPS: usize = 64;
/// What a step's time varies by, in microseconds, whatever it does.
const NOISE_US: f64 = 1000.0;
/// So many times slower than usual is no chance.
const SLOW: f64 = 5.0;
/// What a step must take longer than usual for anybody to care, in microseconds.
const MATTERS_US: f64 = 20_000.0;
/// How long it must last.
const LASTS: Duration = Duration::from_millis(1000);
/// And in how many steps.
const STEPS: u32 = 3;
/// Steps after which a habit is known.
const LEARNED: u32 = 32;
/// Steps that a habit is the mean of.
const MEMORY: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(stage: u32) -> Coordinate {
        Coordinate { dp: 0, stage, tp: 0 }
    }

    /// Steps of two ranks, one after the other: when the first straggler is found, and which.
    fn run(steps: impl Iterator<Item = [u64; 2]>) -> Option<(Duration, Straggler)> {
        let mut stragglers = Stragglers::default();
        let mut now = Duration::ZERO;
        for (step, took) in (1..).zip(steps) {
            for (stage, compute_us) in (0..).zip(took) {
                now += Duration::from_micros(compute_us);
                let (rank, step) = (rank(stage), StepId(step));
                let progress =
                    Progress { rank, step, compute_us, idle_us: 0, waited_us: 0, silence_us: 0 };
                if let Some(found) = stragglers.progress(now, &progress, 2) {
                    return Some((now, found));
                }
            }
        }
        None
    }

    #[test]
    fn a_rank_that_becomes_ten_times_slower_is_found_within_two_seconds() {
        let well = (0..100).map(|_| [10_000, 20_000]);
        let slow = (0..100).map(|_| [10_000, 200_000]);
        let (at, found) = run(well.chain(slow)).expect("it is slow");
        assert_eq!(found.rank, rank(1));
        assert!((9.0..11.0).contains(&found.times), "{found:?}");
        let after = at - Duration::from_micros(100 * 30_000);
        assert!(after < Duration::from_secs(2), "{after:?}");
    }

    #[test]
    fn longer_steps_other_stages_and_hiccups_are_no_stragglers() {
        let ordinary = || (0..100).map(|_| [10_000, 60_000]);
        let long = (0..100).map(|_| [1_000_000, 6_000_000]);
        assert_eq!(run(ordinary().chain(long)), None, "all take longer");
        let hiccups = (0..400).map(|n| [10_000, if n % 40 == 39 { 5_000_000 } else { 60_000 }]);
        assert_eq!(run(hiccups), None, "it does not last");
        let tiny = (0..20_000).map(|n| [50, if n < 100 { 50 } else { 5_000 }]);
        assert_eq!(run(tiny), None, "nobody would notice");
        let never_fast = (0..100).map(|_| [10_000, 500_000]);
        assert_eq!(run(never_fast), None, "it was never faster");
    }

    #[test]
    fn what_a_rank_waits_for_others_is_not_held_against_it() {
        let mut stragglers = Stragglers::default();
        for step in 1..500 {
            for (stage, own) in [(0, 10_000), (1, if step < 100 { 10_000 } else { 200_000 })] {
                let (rank, step) = (rank(stage), StepId(step));
                let compute_us = 200_000;
                let waited_us = compute_us - own;
                let progress =
                    Progress { rank, step, compute_us, idle_us: 0, waited_us, silence_us: 0 };
                let now = Duration::from_millis(200) * step.0 as u32;
                let found = stragglers.progress(now, &progress, 2);
                if let Some(found) = found {
                    assert_eq!(found.rank, Coordinate { stage: 1, ..rank });
                    return;
                }
            }
        }
        panic!("it is slow");
    }
}
