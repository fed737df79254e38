//! Takes the highest score. Among equals the dice decide, or every gateway would send its first
//! requests to the same endpoint.

use super::{Dice, Picker};

/// See the file.
#[derive(Debug)]
pub(crate) struct MaxScorePicker;

impl Picker for MaxScorePicker {
    fn pick(&self, totals: &[f32], dice: &mut Dice) -> Option<usize> {
        let best = highest(totals);
        let equals = totals.iter().map(|total| u32::from(*total >= best)).sum::<u32>() as usize;
        let which = if equals > 1 { dice.below(equals) } else { 0 };
        let mut places = totals.iter().enumerate().filter(|(_, total)| **total >= best);
        places.nth(which).map(|(at, _)| at)
    }
}

/// Several are kept at a time, or each would wait for the one before.
fn highest(totals: &[f32]) -> f32 {
    let mut highest = [f32::NEG_INFINITY; 16];
    let mut raise = |some: &[f32]| {
        for (highest, total) in highest.iter_mut().zip(some) {
            *highest = if *total > *highest { *total } else { *highest };
        }
    };
    let (whole, rest) = totals.as_chunks::<16>();
    whole.iter().for_each(|some| raise(some));
    raise(rest);
    highest.into_iter().fold(f32::NEG_INFINITY, f32::max)
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
        for at in 0..50 {
            let mut totals = [0.25; 50];
            totals[at] = 0.5;
            assert_eq!(pick(&totals, at as u128), Some(at));
        }
        let picks: BTreeSet<_> = (0..64).map(|n| pick(&[1.0, 3.0, 3.0, 0.0, 3.0], n)).collect();
        assert_eq!(picks, BTreeSet::from([Some(1), Some(2), Some(4)]));
    }
}
