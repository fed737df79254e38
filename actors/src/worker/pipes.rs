//! What connects a rank to its neighbours in the pipeline.
//!
//! Hidden states go from tensor rank to the same tensor rank of the next stage: within a process
//! through a queue, between processes over a QUIC stream of its own. The device thread sees one
//! blocking handle either way.

use troupe_runtime::transport::bulk::{BulkReceiver, BulkSender};

/// A rank's ends of its pipes.
#[derive(Default)]
pub struct Pipes {
    /// From the previous stage; none at the first.
    pub upstream: Option<BulkReceiver>,
    /// To the next stage; none at the last.
    pub downstream: Option<BulkSender>,
}
