//! Prefers endpoints of which a label is what a header of the request says.

use super::{Query, Scene, Scorer};

/// See the file.
#[derive(Clone, Debug)]
pub(crate) struct HeaderLabelScorer {
    pub(crate) header: String,
    pub(crate) label: String,
}

impl Scorer for HeaderLabelScorer {
    fn score(&self, query: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        let Some(wanted) = query.hints.header(&self.header) else { return };
        for (score, row) in scores.iter_mut().zip(scene.rows()) {
            *score = f32::from(u8::from(row.label(&self.label) == Some(wanted)));
        }
    }
}
