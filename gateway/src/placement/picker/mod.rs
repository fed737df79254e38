//! Who will take a request.

mod max_score;
mod power_of_two;
mod random;
mod weighted_random;

use std::fmt::Debug;

pub(crate) use max_score::MaxScorePicker;
pub(crate) use power_of_two::PowerOfTwoPicker;
pub(crate) use random::RandomPicker;
pub(crate) use weighted_random::WeightedRandomPicker;

use super::dice::Dice;

/// Chooses one of the scored.
pub(crate) trait Picker: Send + Sync + Debug {
    /// The index of the chosen; `None` only if there are none. Totals are finite and not negative.
    fn pick(&self, totals: &[f32], dice: &mut Dice) -> Option<usize>;
}
