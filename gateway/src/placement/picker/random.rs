//! Any of them, whatever their scores.

use super::{Dice, Picker};

/// See the file.
#[derive(Debug)]
pub(crate) struct RandomPicker;

impl Picker for RandomPicker {
    fn pick(&self, totals: &[f32], dice: &mut Dice) -> Option<usize> {
        (!totals.is_empty()).then(|| dice.below(totals.len()))
    }
}
