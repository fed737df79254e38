//! Keeps helpers that are near whoever answers; everybody if that is not known or nobody is.

use super::{Filter, Mask, Query, Scene};
use crate::placement::topology::{Level, nearness};

/// See the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TopologyFilter {
    /// The farthest that is near enough.
    pub(crate) least: Level,
}

impl Filter for TopologyFilter {
    fn filter(&self, _: &Query<'_>, scene: &Scene<'_>, mask: &mut Mask) {
        if let Some(peer) = scene.peer() {
            let rows = scene.rows();
            mask.prefer(|row| nearness(peer, &rows[row]).is_some_and(|level| level >= self.least));
        }
    }
}
