//! Draws two and takes the better: nearly as even as the best of all, and two gateways that see the
//! same do not run to the same endpoint.

use super::{Dice, Picker};

/// See the file.
#[derive(Debug)]
pub(crate) struct PowerOfTwoPicker;

impl Picker for PowerOfTwoPicker {
    fn pick(&self, totals: &[f32], dice: &mut Dice) -> Option<usize> {
        if totals.len() < 2 {
            return (!totals.is_empty()).then_some(0);
        }
        let first = dice.below(totals.len());
        // Another one: those behind the first move up by one.
        let second = dice.below(totals.len() - 1);
        let second = second + usize::from(second >= first);
        Some(if totals[second] > totals[first] { second } else { first })
    }
}

#[cfg(test)]
mod tests {
    use troupe_runtime::id::RequestId;

    use super::*;

    #[test]
    fn the_worst_is_never_taken_and_the_best_most() {
        let mut counts = [0_u32; 3];
        for n in 0..3000 {
            let mut dice = Dice::new(RequestId(uuid::Uuid::from_u128(n)), 0);
            counts[PowerOfTwoPicker.pick(&[0.0, 1.0, 2.0], &mut dice).expect("one")] += 1;
        }
        assert_eq!(counts[0], 0, "whoever it is drawn with is better");
        assert!((1850..2150).contains(&counts[2]), "two of three pairs: {counts:?}");
        let mut dice = Dice::new(RequestId(uuid::Uuid::nil()), 0);
        assert_eq!(PowerOfTwoPicker.pick(&[1.0], &mut dice), Some(0));
        assert_eq!(PowerOfTwoPicker.pick(&[], &mut dice), None);
    }
}
