//! Prefers endpoints that have the request's adapter, then those that can take it.
//!
//! Leaders serve an adapter under its name and do not load any besides, so one that has the name
//! has it active, and one that has not has no room for it. A request without an adapter can go
//! anywhere.

use super::{Query, Scene, Scorer};
use crate::placement::scene::Row;

/// See the file.
#[derive(Debug)]
pub(crate) struct LoraAffinityScorer;

/// How an endpoint and an adapter are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adapter {
    Active,
    Room,
    NoRoom,
}

impl Scorer for LoraAffinityScorer {
    fn score(&self, query: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        let adapter = query.hints.adapter.as_deref();
        for (score, row) in scores.iter_mut().zip(scene.rows()) {
            *score = match state(row, adapter) {
                Adapter::Active => 1.0,
                Adapter::Room => 0.8,
                Adapter::NoRoom => 0.0,
            };
        }
    }
}

fn state(row: &Row<'_>, adapter: Option<&str>) -> Adapter {
    let Some(adapter) = adapter else { return Adapter::Room };
    let serves = row.info.model_names.iter().any(|name| name == adapter);
    if serves { Adapter::Active } else { Adapter::NoRoom }
}
