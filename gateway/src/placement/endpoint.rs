//! One ready endpoint, as this gateway sees it.
//!
//! What never changes within an epoch is plain; what does (load, requests in flight) are small
//! cells that placement reads when it looks and that nobody has to publish.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use troupe_runtime::{
    transport::{Connection, Conversation, Stream},
    wire::status::{EndpointInfo, Load, StatusDown, StatusUp},
};

use super::Candidate;
use crate::model::ServedModel;

/// A scraper waits for the slowest leader; one that takes longer is left out.
const METRICS_DEADLINE: Duration = Duration::from_secs(1);

/// Connected, its model known, and so able to take requests.
pub(crate) struct Endpoint {
    /// What it is.
    pub(crate) info: EndpointInfo,
    /// Its model's text side.
    pub(crate) model: Arc<ServedModel>,
    /// Its leader.
    pub(crate) connection: Arc<dyn Connection>,
    // A std mutex: held for a copy of 32 bytes, never across an await.
    load: Mutex<Load>,
    in_flight: AtomicU32,
}

/// Counts one request at an endpoint for as long as it lives.
pub(crate) struct InFlight(Arc<Endpoint>);

// === impl Endpoint ===

impl Endpoint {
    pub(crate) fn new(
        info: EndpointInfo,
        model: Arc<ServedModel>,
        connection: Arc<dyn Connection>,
    ) -> Self {
        let load = Mutex::new(Load::default());
        Self { info, model, connection, load, in_flight: AtomicU32::new(0) }
    }

    /// How busy its leader last said it is.
    pub(crate) fn load(&self) -> Load {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what the leader says.
    pub(crate) fn set_load(&self, load: Load) {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner) = load;
    }

    /// What its leader has counted, as Prometheus' text; none if it does not say in time.
    pub(crate) async fn metrics(&self) -> Option<String> {
        let ask = async {
            let stream = self.connection.open(Conversation::Status, METRICS_DEADLINE).await;
            let Stream { mut sender, mut receiver } = stream.ok()?;
            sender.send(&StatusUp::Metrics, METRICS_DEADLINE).await.ok()?;
            match receiver.expect::<StatusDown>(METRICS_DEADLINE).await.ok()? {
                StatusDown::Metrics(text) => Some(text),
                StatusDown::Info(_) | StatusDown::Load(_) => None,
            }
        };
        tokio::time::timeout(METRICS_DEADLINE, ask).await.ok().flatten()
    }

    /// Counts one more request, until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// As placement looks at it now.
    pub(crate) fn candidate(&self) -> Candidate<'_> {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        Candidate { info: &self.info, load: self.load(), in_flight }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.info.endpoint)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use troupe_runtime::{
        id::{Digest, EndpointId, Epoch, GroupId},
        wire::status::{EndpointInfo, Fingerprint, Role},
    };

    /// An endpoint of group `index` that serves `model`.
    pub(crate) fn info(model: &str, index: u32) -> EndpointInfo {
        let group = GroupId { namespace: "default".into(), service: "s".into(), index };
        EndpointInfo {
            endpoint: EndpointId { group, revision: 1, epoch: Epoch::default(), dp: 0 },
            role: Role::Unified,
            model_names: vec![model.into()],
            max_model_len: 1024,
            block_size: 16,
            num_blocks: 64,
            fingerprint: Fingerprint {
                model: Digest::default(),
                tokenizer: Digest::default(),
                adapter: None,
                dtype: "float32".into(),
                quantization: "none".into(),
                kv_dtype: "float32".into(),
                tensor_parallel: 1,
                kernel_path: "test".into(),
                batch_invariant: true,
            },
        }
    }
}
