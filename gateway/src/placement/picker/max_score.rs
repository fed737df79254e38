//! Takes the highest score. Among equals the dice decide, or every gateway would send its first
//! requests to the same endpoint.

use super::{Dice, Picker};

/// See the file.
#[derive(Debug)]
pub(crate) struct MaxScorePicker;

impl Picker for MaxScorePicker {
    fn pick(&self, totals: &[f32], dice: &mut Dice) -> Option<usize> {
        let best = totals.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let equals = totals.iter().filter(|total| **total >= best).count();
        let which = if equals > 1 { dice.below(equals) } else { 0 };
        let mut places = totals.iter().enumerate().filter(|(_, total)| **total >= best);
        places.nth(which).map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use troupe_runtime::id::RequestId;

    use super::*;

    #[test]
    fn the_best_is_taken_and_equals_share() {
        let pick = |totals: &[f32], n| {
            MaxScorePicker.pick(totals, &mut Dice::new(RequestId(uuid::Uuid::from_u128(n)), 0))
        };
        assert_eq!(pick(&[], 0), None);
        assert_eq!(pick(&[0.5, 2.0, 1.0], 0), Some(1));
        let picks: BTreeSet<_> = (0..64).map(|n| pick(&[1.0, 3.0, 3.0, 0.0, 3.0], n)).collect();
        assert_eq!(picks, BTreeSet::from([Some(1), Some(2), Some(4)]));
    }
}
