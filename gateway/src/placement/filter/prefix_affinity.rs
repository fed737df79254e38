//! Keeps endpoints whose cache has nearly all of the prompt, unless they are so busy that the
//! prompt would be computed sooner elsewhere.

use super::{Filter, Mask, Query, Scene};
use crate::placement::{dice::Dice, scene::Signal};

/// See the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PrefixAffinityFilter {
    /// Share of the prompt that must be there.
    pub(crate) threshold: f32,
    /// Share of requests that go anywhere.
    pub(crate) explore: f64,
    /// How much later the first token may be there than elsewhere, in milliseconds; 0 is any time.
    pub(crate) most_penalty_ms: f32,
    pub(crate) source: TtftSource,
}

/// What says when the first token will be there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TtftSource {
    /// The tokens that are to be computed before, at so many a second.
    Throughput(f32),
    /// What is expected from what was measured.
    Predictor,
}

/// Of the dice.
const SALT: u64 = 0xaff;

impl Filter for PrefixAffinityFilter {
    fn filter(&self, query: &Query<'_>, scene: &Scene<'_>, mask: &mut Mask) {
        let (matched, tokens) = (scene.column(Signal::Matched), query.tokens.max(1) as f32);
        let sticky = |row: usize| matched[row] / tokens >= self.threshold;
        let sticks = mask.rows().filter(|row| sticky(*row)).count();
        if sticks == 0 || sticks == mask.left() {
            return;
        }
        if self.explore > 0.0 && Dice::new(query.request, SALT).share() <= self.explore {
            return;
        }
        let soonest = |which: bool| {
            let rows = mask.rows().filter(|row| sticky(*row) == which);
            rows.filter_map(|row| self.ttft_ms(scene, row)).reduce(f32::min)
        };
        if self.most_penalty_ms > 0.0
            && let (Some(stay), Some(leave)) = (soonest(true), soonest(false))
            && stay - leave > self.most_penalty_ms
        {
            return;
        }
        mask.retain(sticky);
    }
}

impl PrefixAffinityFilter {
    fn ttft_ms(&self, scene: &Scene<'_>, row: usize) -> Option<f32> {
        match self.source {
            TtftSource::Throughput(peak) => {
                Some(scene.column(Signal::InFlightTokens)[row] / peak.max(1.0) * 1000.0)
            }
            TtftSource::Predictor => Some(scene.predicted()?[row].ttft * 1000.0),
        }
    }
}

impl Default for PrefixAffinityFilter {
    fn default() -> Self {
        Self {
            threshold: 0.8,
            explore: 0.0,
            most_penalty_ms: 18_000.0,
            source: TtftSource::Throughput(15_928.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{
        Candidate,
        endpoint::tests::{candidate, info, query},
        filter::tests::left,
    };

    #[test]
    fn the_warm_are_kept_until_they_are_too_busy() {
        let infos = [info("a", 0), info("a", 1), info("a", 2)];
        // 18 seconds at 15,928 tokens a second are 286,704 tokens.
        for (matched, in_flight, expected) in [
            ([80, 79, 0], [0, 0, 0], vec![0]),
            ([79, 79, 0], [0, 0, 0], vec![0, 1, 2]),
            ([80, 80, 0], [286_704, 286_704, 0], vec![0, 1]),
            ([80, 80, 0], [286_720, 286_720, 0], vec![0, 1, 2]),
            ([80, 80, 0], [286_720, 0, 0], vec![0, 1]),
        ] {
            let candidates = infos.iter().zip(matched).zip(in_flight).map(
                |((info, matched), uncached_in_flight)| Candidate {
                    matched,
                    uncached_in_flight,
                    ..candidate(info)
                },
            );
            let kept = left(&PrefixAffinityFilter::default(), &query("a"), candidates);
            assert_eq!(kept, expected, "{matched:?} {in_flight:?}");
        }
    }
}
