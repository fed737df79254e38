//! Prefers endpoints that are meant for prompts of this length: a label of theirs says from how
//! many tokens to how many. Whoever is meant for it has more than 0.3, the narrower his range and
//! the more room is left in it the more; whoever is not has less, by how far off it is. Without the
//! label it is a half.

use super::{Query, Scene, Scorer};
use crate::placement::filter::{Filter, Mask};

/// See the file. As a filter it drops those that are not meant for it.
#[derive(Clone, Debug)]
pub(crate) struct ContextLengthScorer {
    pub(crate) label: String,
}

/// Between those that are meant for it and those that are not.
const LINE: f32 = 0.3;

impl Scorer for ContextLengthScorer {
    fn score(&self, query: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        for (score, row) in scores.iter_mut().zip(scene.rows()) {
            *score = match row.label(&self.label) {
                None => 0.5,
                Some(text) => range(text).map_or(0.0, |range| score_in(query.tokens, range)),
            };
        }
    }
}

impl Filter for ContextLengthScorer {
    fn filter(&self, query: &Query<'_>, scene: &Scene<'_>, mask: &mut Mask) {
        let rows = scene.rows();
        mask.retain(|row| {
            let range = rows[row].label(&self.label).and_then(range);
            range.is_none_or(|(least, most)| (least..=most).contains(&query.tokens))
        });
    }
}

fn range(text: &str) -> Option<(u32, u32)> {
    let (least, most) = text.split_once('-')?;
    let (least, most) = (least.trim().parse().ok()?, most.trim().parse().ok()?);
    (least <= most).then_some((least, most))
}

fn score_in(tokens: u32, (least, most): (u32, u32)) -> f32 {
    if (least..=most).contains(&tokens) {
        let width = (most - least) as f32;
        if width <= 0.0 {
            return 1.0;
        }
        let narrow = 1.0 / (1.0 + width / 10_000.0);
        let room = (most - tokens) as f32 / width;
        return LINE + (0.7 * narrow + 0.3 * room) * (1.0 - LINE);
    }
    let off = if tokens > most { tokens - most } else { least - tokens };
    LINE / (1.0 + off as f32 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::scorer::tests::assert_near;

    #[test]
    fn narrow_ranges_with_room_are_best_and_near_ones_better_than_far_ones() {
        for (tokens, range, expected) in [
            (0, (0, 10_000), 0.3 + (0.7 * 0.5 + 0.3) * 0.7),
            (10_000, (0, 10_000), 0.3 + 0.7 * 0.5 * 0.7),
            (5, (5, 5), 1.0),
            (9192, (0, 8192), 0.15),
            (500, (1500, 2000), 0.15),
            (5192, (0, 2192), 0.075),
        ] {
            assert_near(&[score_in(tokens, range)], &[expected]);
        }
    }

    #[test]
    fn a_label_is_a_range_or_nothing() {
        assert_eq!(range("0-2048"), Some((0, 2048)));
        assert_eq!(range(" 1 - 2 "), Some((1, 2)));
        for bad in ["", "-", "5-1", "a-b", "1", "1-2-3"] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }
}
