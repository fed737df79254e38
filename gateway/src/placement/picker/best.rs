//! Takes the highest score; among equals the first, so that the same state gives the same choice.

use super::Picker;

/// See the file.
#[derive(Debug)]
pub(crate) struct BestPicker;

impl Picker for BestPicker {
    fn name(&self) -> &'static str {
        "max-score-picker"
    }

    fn pick(&self, totals: &[f32]) -> Option<usize> {
        // `max_by` keeps the last of equals, hence the walk from the end.
        (0..totals.len()).rev().max_by(|a, b| totals[*a].total_cmp(&totals[*b]))
    }
}
