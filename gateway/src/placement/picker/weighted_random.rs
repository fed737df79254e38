//! Any of them, in proportion to their scores: each draws u^(1/score), and the highest wins
//! (Efraimidis and Spirakis' A-Res). If nobody has a score, all are equal.

use super::{Dice, Picker, RandomPicker};

/// See the file.
#[derive(Debug)]
pub(crate) struct WeightedRandomPicker;

impl Picker for WeightedRandomPicker {
    fn pick(&self, totals: &[f32], dice: &mut Dice) -> Option<usize> {
        if totals.iter().all(|total| *total <= 0.0) {
            return RandomPicker.pick(totals, dice);
        }
        // The logarithm of the draw has the same order, and does not run into zero.
        let draws = totals.iter().map(|total| dice.share().ln() / f64::from(*total));
        let scored = draws.enumerate().filter(|(at, _)| totals[*at] > 0.0);
        scored.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use troupe_runtime::id::RequestId;

    use super::*;

    #[test]
    fn picks_are_in_proportion_to_scores() {
        let totals = [1.0, 0.0, 3.0];
        let mut counts = [0_u32; 3];
        for n in 0..4000 {
            let mut dice = Dice::new(RequestId(uuid::Uuid::from_u128(n)), 0);
            counts[WeightedRandomPicker.pick(&totals, &mut dice).expect("one")] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((850..1150).contains(&counts[0]), "a quarter: {counts:?}");
        let mut dice = Dice::new(RequestId(uuid::Uuid::nil()), 0);
        assert!(WeightedRandomPicker.pick(&[0.0, 0.0], &mut dice).is_some());
        assert_eq!(WeightedRandomPicker.pick(&[], &mut dice), None);
    }
}
