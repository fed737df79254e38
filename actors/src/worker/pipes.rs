//! What connects a rank to the others of its group.
//!
//! Hidden states go from tensor rank to the same tensor rank of the next stage. Sampled tokens go
//! from where they are sampled (rank 0 of the last stage) to every rank of the first stage, so that
//! a step that was planned before its tokens were known need not wait for the leader. Within a
//! process a line is a queue, between processes a QUIC stream of its own; the device thread sees
//! one blocking handle either way.

use troupe_runtime::transport::bulk::{BulkReceiver, BulkSender};

/// A rank's ends of its lines.
#[derive(Default)]
pub struct Pipes {
    /// Hidden states from the previous stage; none at the first.
    pub upstream: Option<BulkReceiver>,
    /// Hidden states to the next stage; none at the last.
    pub downstream: Option<BulkSender>,
    /// Sampled tokens, at the first stage's ranks that do not sample themselves.
    pub tokens_in: Option<BulkReceiver>,
    /// The same, where they are sampled: one for every rank that gets them.
    pub tokens_out: Vec<BulkSender>,
}
