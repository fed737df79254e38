//! Prefers helpers that are near whoever answers, as the ways between them are wide: a host has its
//! own links, a rack one switch, and so on outwards.

use super::{Query, Scene, Scorer};
use crate::placement::topology::{Level, nearness};

/// See the file.
#[derive(Debug)]
pub(crate) struct TopologyScorer;

impl Scorer for TopologyScorer {
    fn score(&self, _: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        let Some(peer) = scene.peer() else { return };
        for (score, row) in scores.iter_mut().zip(scene.rows()) {
            *score = match nearness(peer, row) {
                Some(Level::Host) => 1.0,
                Some(Level::Rack) => 0.2,
                Some(Level::Zone) => 0.05,
                Some(Level::Region) => 0.02,
                None => 0.0,
            };
        }
    }
}
