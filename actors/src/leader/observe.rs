//! Counts what a leader does, for `/metrics`. The names are in `runtime::telemetry`.

use troupe_runtime::wire::status::Load;

use super::engine::Observation;

/// Counts; cheap to clone, and empty where nobody asks.
#[derive(Clone, Default)]
pub struct Observer {}

impl Observer {
    /// The load as it is now.
    pub fn load(&self, _load: &Load, _preemptions: u64) {}

    /// Something worth counting happened.
    pub fn observe(&self, _observation: &Observation) {}
}
