//! One ready endpoint, as this gateway sees it.
//!
//! What never changes within an epoch is plain; what does (load, requests in flight) are small
//! cells that placement reads when it looks and that nobody has to publish.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use troupe_runtime::{
    transport::{Connection, Conversation, LinkError, Stream},
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
    /// What it may be selected by.
    pub(crate) labels: BTreeMap<String, String>,
    /// Where its leader is reached.
    pub(crate) address: String,
    /// Its leader.
    pub(crate) connection: Arc<dyn Connection>,
    // A std mutex: held for a copy of 200 bytes, never across an await.
    load: Mutex<(Load, Instant)>,
    in_flight: AtomicU32,
    uncached: AtomicU64,
    /// What its leader last said that it has counted.
    metrics: Mutex<Arc<str>>,
}

/// Counts one request at an endpoint for as long as it lives.
pub(crate) struct InFlight(Arc<Endpoint>);

// === impl Endpoint ===

impl Endpoint {
    pub(crate) fn new(
        info: EndpointInfo,
        model: Arc<ServedModel>,
        labels: BTreeMap<String, String>,
        address: String,
        connection: Arc<dyn Connection>,
    ) -> Self {
        Self {
            info,
            model,
            labels,
            address,
            connection,
            load: Mutex::new((Load::default(), Instant::now())),
            in_flight: AtomicU32::new(0),
            uncached: AtomicU64::new(0),
            metrics: Mutex::new(Arc::from("")),
        }
    }

    /// How busy its leader last said it is.
    pub(crate) fn load(&self) -> Load {
        self.load.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Keeps what the leader says.
    pub(crate) fn set_load(&self, load: Load) {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner) = (load, Instant::now());
    }

    /// What its leader has counted, as Prometheus' text. If it does not say in time, what it said
    /// last: a family that is there in one scrape and gone in the next looks like a restart.
    pub(crate) async fn metrics(&self) -> Arc<str> {
        let told = tokio::time::timeout(METRICS_DEADLINE, self.ask_metrics()).await;
        let told = told.unwrap_or(Err(LinkError::Deadline {
            what: "asking for metrics",
            deadline: METRICS_DEADLINE,
        }));
        let mut last = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        match told {
            Ok(text) => *last = text.into(),
            Err(error) => {
                let endpoint = &self.info.endpoint;
                tracing::debug!(%endpoint, %error, "its metrics are those of an earlier time");
            }
        }
        Arc::clone(&last)
    }

    async fn ask_metrics(&self) -> Result<String, LinkError> {
        let stream = self.connection.open(Conversation::Status, METRICS_DEADLINE).await?;
        let Stream { mut sender, mut receiver } = stream;
        sender.send(&StatusUp::Metrics, METRICS_DEADLINE).await?;
        loop {
            if let StatusDown::Metrics(text) = receiver.expect(METRICS_DEADLINE).await? {
                return Ok(text);
            }
        }
    }

    /// Counts one more request, until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// As placement looks at it now, where so much of the prompt's beginning is in its cache.
    pub(crate) fn candidate(&self, now: Instant, matched: u32) -> Candidate<'_> {
        let (load, told) = *self.load.lock().unwrap_or_else(PoisonError::into_inner);
        Candidate {
            info: &self.info,
            load,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            uncached_in_flight: self.uncached.load(Ordering::Relaxed),
            matched,
            labels: &self.labels,
            load_age: now.saturating_duration_since(told),
        }
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
    use std::{
        collections::{BTreeMap, BTreeSet},
        time::Duration,
    };

    use troupe_runtime::{
        id::{Digest, EndpointId, Epoch, GroupId, RequestId},
        wire::status::{EndpointInfo, Fingerprint, Load, Role},
    };

    use crate::{
        ingress::hints::Hints,
        placement::{Candidate, Query},
    };

    static NOBODY: BTreeSet<EndpointId> = BTreeSet::new();
    static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();
    static NO_HINTS: Hints = Hints::NONE;

    /// A first try of a prompt of a hundred tokens.
    pub(crate) fn query(model: &str) -> Query<'_> {
        Query {
            model,
            tokenizer: Digest::default(),
            exclude: &NOBODY,
            goes_on: None,
            request: RequestId(uuid::Uuid::nil()),
            tokens: 100,
            hints: &NO_HINTS,
            scope: None,
        }
    }

    /// It has nothing to do, and its leader said so just now.
    pub(crate) fn candidate(info: &EndpointInfo) -> Candidate<'_> {
        Candidate {
            info,
            load: Load::default(),
            in_flight: 0,
            uncached_in_flight: 0,
            matched: 0,
            labels: &NO_LABELS,
            load_age: Duration::ZERO,
        }
    }

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
            max_num_seqs: 8,
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
