//! Prefers endpoints whose cache has the prompt's beginning: by its share of the prompt and, with a
//! weight, by its length, squared as the work of attention is.

use super::{Query, Scene, Scorer};
use crate::placement::scene::Signal;

/// See the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PrefixCacheScorer {
    /// Of the length against the share, 0 to 1.
    pub(crate) length_weight: f32,
    /// From how many tokens on a length counts in full.
    pub(crate) length_scale: f32,
}

impl Scorer for PrefixCacheScorer {
    fn score(&self, query: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        if scene.is_cold() {
            return;
        }
        let rows = scene.rows().iter().zip(scene.column(Signal::Matched));
        for (score, (row, matched)) in scores.iter_mut().zip(rows) {
            // Nearly all have nothing of a prompt.
            if *matched <= 0.0 {
                *score = 0.0;
                continue;
            }
            // Blocks are compared, and a last one that is not full is never in a cache.
            let block = row.info.block_size.max(1);
            let full = (query.tokens / block * block) as f32;
            let share = if full > 0.0 { (matched / full).min(1.0) } else { 0.0 };
            let length = (matched / self.length_scale).min(1.0);
            *score = self.length_weight * length * length + (1.0 - self.length_weight) * share;
        }
    }
}

impl Default for PrefixCacheScorer {
    fn default() -> Self {
        Self { length_weight: 0.0, length_scale: 8192.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{
        Candidate,
        endpoint::tests::{candidate, info, query},
        scorer::tests::{assert_near, scores},
    };

    #[test]
    fn share_and_squared_length_are_weighed() {
        let infos = [info("a", 0), info("a", 1), info("a", 2)];
        let query = Query { tokens: 8192, ..query("a") };
        let of = |length_weight| {
            let candidates = infos
                .iter()
                .zip([0, 4096, 8192])
                .map(|(info, matched)| Candidate { matched, ..candidate(info) });
            let scorer = PrefixCacheScorer { length_weight, ..PrefixCacheScorer::default() };
            scores(&scorer, &query, candidates)
        };
        assert_near(&of(0.0), &[0.0, 0.5, 1.0]);
        assert_near(&of(1.0), &[0.0, 0.25, 1.0]);
        assert_near(&of(0.5), &[0.0, 0.375, 1.0]);
    }

    #[test]
    fn all_full_blocks_are_all_of_it() {
        let info = info("a", 0);
        let of = |tokens, matched| {
            let one = Candidate { matched, ..candidate(&info) };
            let query = Query { tokens, ..query("a") };
            scores(&PrefixCacheScorer::default(), &query, [one].into_iter())
        };
        assert_near(&of(17, 16), &[1.0]);
        assert_near(&of(15, 0), &[0.0]);
    }
}
