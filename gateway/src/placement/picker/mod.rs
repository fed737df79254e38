//! Who will take a request.

mod best;

use std::fmt::Debug;

pub(crate) use best::BestPicker;

/// Chooses one of the scored.
pub(crate) trait Picker: Send + Sync + Debug {
    /// As in a profile's configuration.
    fn name(&self) -> &'static str;

    /// The index of the chosen; `None` only if there are none.
    fn pick(&self, totals: &[f32]) -> Option<usize>;
}
