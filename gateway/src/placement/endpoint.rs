//! One ready endpoint, as this gateway sees it.
//!
//! What never changes within an epoch is plain; what does (load, requests in flight) are small
//! cells that placement reads when it looks and that nobody has to publish.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, atomic::Ordering},
    time::Duration,
};

use troupe_runtime::{
    prefix::Parameters,
    transport::{Connection, Conversation, LinkError, Stream},
    wire::{
        adapter::{AdapterRef, AdapterStatus},
        status::{EndpointInfo, Load, StatusDown, StatusUp},
    },
};

use super::{
    Affinity, Candidate, Duty,
    breaker::Breaker,
    cells::{Cells, Line},
    others::Others,
    prefix::{
        cached::Cached,
        namings::{Naming, Prefixes},
    },
};
use crate::model::ServedModel;

/// Microseconds in which nothing grows old that a leader told.
const JUST_NOW: u64 = 1_000_000;

/// A scraper waits for the slowest leader; one that takes longer is left out.
const METRICS_DEADLINE: Duration = Duration::from_secs(1);

/// Connected, its model known, and so able to take requests.
pub(crate) struct Endpoint {
    /// What it is.
    pub(crate) info: EndpointInfo,
    /// Its model's text side; none where prompts come as tokens and answers stay such.
    pub(crate) model: Option<Arc<ServedModel>>,
    /// What it may be selected by.
    pub(crate) labels: BTreeMap<String, String>,
    /// Where its leader is reached.
    pub(crate) address: String,
    /// Its leader.
    pub(crate) connection: Arc<dyn Connection>,
    /// What it holds already.
    pub(crate) cached: Arc<Cached>,
    /// Its name, as people are told it.
    pub(crate) name: Arc<str>,
    // A std mutex: held for a copy of 200 bytes, never across an await.
    load: Mutex<Told>,
    known: Known,
    /// Whether it keeps failing. Its line says what placement needs to know of it.
    breaker: Mutex<Breaker>,
    /// What its leader last said that it has counted.
    metrics: Mutex<Arc<str>>,
    /// What its leader last said of adapters. A std lock: held to copy a pointer.
    adapters: RwLock<Arc<AdapterStatus>>,
}

/// What its leader said last.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    load: Load,
    others: Others,
}

/// What a decision has of each endpoint at hand, without looking for the endpoint itself.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// What changes. It is this endpoint's for as long as there is one.
    pub(super) line: Line,
    /// How it names the blocks of its cache.
    pub(super) naming: Naming,
    number: u32,
    /// The most sequences that it runs at a time; 0 if it does not say.
    max_sequences: u32,
    duty: Duty,
}

/// Counts one request at an endpoint for as long as it lives.
pub(crate) struct InFlight {
    endpoint: Arc<Endpoint>,
    /// What of it is still counted.
    owed: Owed,
}

/// Tokens that a request leaves to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owed {
    /// Of its prompt, until its first token is there.
    pub(crate) prompt: u32,
    /// That its output is expected to have, until it ends.
    pub(crate) output: u32,
}

// === impl Endpoint ===

impl Endpoint {
    pub(crate) fn new(
        info: EndpointInfo,
        model: Option<Arc<ServedModel>>,
        labels: BTreeMap<String, String>,
        address: String,
        connection: Arc<dyn Connection>,
        prefixes: &Arc<Prefixes>,
    ) -> Self {
        let cached = Arc::new(Cached::new(Arc::clone(prefixes), &Parameters::of(&info)));
        let name = info.endpoint.to_string().into();
        let known = Known {
            line: cached.line().clone(),
            naming: cached.naming(),
            number: prefixes.number(),
            max_sequences: info.max_num_seqs,
            duty: Duty::of(info.role, &labels),
        };
        Self {
            info,
            model,
            labels,
            address,
            connection,
            cached,
            name,
            load: Mutex::default(),
            known,
            breaker: Mutex::default(),
            metrics: Mutex::new(Arc::from("")),
            adapters: RwLock::default(),
        }
    }

    /// Keeps what the leader says of adapters now; says whether it serves other names than before.
    pub(crate) fn set_adapters(&self, status: AdapterStatus) -> bool {
        let mut adapters = self.adapters.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *adapters, Arc::new(status));
        before.served != adapters.served
    }

    /// What its leader last said of adapters.
    pub(crate) fn adapters(&self) -> Arc<AdapterStatus> {
        Arc::clone(&self.adapters.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The adapter that it serves by a name that is not its model's.
    pub(crate) fn adapter(&self, name: &str) -> Option<AdapterRef> {
        if self.info.model_names.iter().any(|own| own == name) {
            return None;
        }
        let adapters = self.adapters();
        let own = adapters.served.iter().find(|own| own.name == name)?;
        Some(AdapterRef { name: own.name.clone(), digest: own.digest })
    }

    /// Whether requests may use a name here, its model's or an adapter's.
    pub(crate) fn serves(&self, name: &str) -> bool {
        let own = || self.adapters().served.iter().any(|own| own.name == name);
        self.info.model_names.iter().any(|own| own == name) || own()
    }

    /// All names that requests may use here.
    pub(crate) fn names(&self) -> Vec<String> {
        let adapters = self.adapters();
        let served = adapters.served.iter().map(|own| &own.name);
        self.info.model_names.iter().chain(served).cloned().collect()
    }

    /// How busy its leader last said it is.
    pub(crate) fn load(&self) -> Load {
        self.told().load
    }

    /// Tokens whose KV comes to it from other groups in a second; 0 if none came yet.
    pub(crate) fn fetch_rate(&self) -> u32 {
        self.known.line.fetch_rate()
    }

    /// What a decision has of it at hand.
    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    /// A request is sent there.
    pub(crate) fn sent(&self, now: Duration) {
        self.change(|breaker| breaker.begin(now));
    }

    /// It answered one.
    pub(crate) fn answered(&self) {
        self.change(Breaker::success);
    }

    /// An attempt broke by its doing.
    pub(crate) fn broke(&self, now: Duration) {
        self.change(|breaker| breaker.failure(now));
    }

    fn change(&self, change: impl FnOnce(&mut Breaker)) {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut breaker);
        // Half a million years fit.
        self.known.line.rest(breaker.rests_until().as_micros() as u64);
    }

    /// Keeps what the leader says now.
    pub(crate) fn set_load(&self, now: Duration, load: Load) {
        let mut told = self.told();
        let all = load.running.saturating_add(load.waiting);
        let others = told.others.told(now, all, self.in_flight());
        self.known.line.others.store(others, Ordering::Relaxed);
        self.known.line.tell(now, &load);
        told.load = load;
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests of this gateway that are there.
    pub(crate) fn in_flight(&self) -> u32 {
        self.known.line.in_flight.load(Ordering::Relaxed)
    }

    /// Sequences there that are not this gateway's.
    pub(crate) fn others(&self) -> u32 {
        self.known.line.others.load(Ordering::Relaxed)
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
    pub(crate) fn begin(self: &Arc<Self>, owed: Owed) -> InFlight {
        self.known.line.in_flight.fetch_add(1, Ordering::Relaxed);
        self.known.line.uncached.fetch_add(owed.all(), Ordering::Relaxed);
        InFlight { endpoint: Arc::clone(self), owed }
    }

    /// As placement looks at it now, in microseconds of the gateway's time, where so much of the
    /// prompt's beginning is in its cache; by what is at hand of it, so that the endpoint itself
    /// need not be looked for in memory.
    // See where scenes are filled.
    #[inline(always)]
    pub(super) fn candidate(&self, known: &Known, now: u64, matched: u32) -> Candidate<'_> {
        let Known { line, number, max_sequences, duty, .. } = known;
        let cells: &Cells = line;
        let age = cells.age(now);
        Candidate {
            info: &self.info,
            number: *number,
            load: cells.busy(),
            in_flight: cells.in_flight.load(Ordering::Relaxed),
            uncached_in_flight: cells.uncached.load(Ordering::Relaxed),
            matched,
            labels: &self.labels,
            duty: *duty,
            adapter: Affinity::Room,
            has_place: *max_sequences == 0 || cells.taken() < *max_sequences,
            // A second or less is the rule: then nothing is divided.
            load_age: if age <= JUST_NOW { Duration::ZERO } else { Duration::from_micros(age) },
        }
    }
}

// === impl Owed ===

impl Owed {
    fn all(self) -> u64 {
        u64::from(self.prompt) + u64::from(self.output)
    }
}

// === impl InFlight ===

impl InFlight {
    /// Its first token is there: its prompt is computed.
    pub(crate) fn computed(&mut self) {
        let prompt = u64::from(std::mem::take(&mut self.owed.prompt));
        self.endpoint.known.line.uncached.fetch_sub(prompt, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let cells = &self.endpoint.known.line;
        cells.in_flight.fetch_sub(1, Ordering::Relaxed);
        cells.uncached.fetch_sub(self.owed.all(), Ordering::Relaxed);
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
        wire::status::{EndpointInfo, Fingerprint, Role},
    };

    use crate::{
        ingress::hints::Hints,
        placement::{Affinity, Busy, Candidate, Duty, Query, prefix::namings::Hashes},
    };

    static NOBODY: BTreeSet<EndpointId> = BTreeSet::new();
    static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();
    static NO_HASHES: Hashes = Hashes::NONE;
    static NO_HINTS: Hints = Hints::NONE;

    /// A first try of a prompt of a hundred tokens.
    pub(crate) fn query(model: &str) -> Query<'_> {
        Query {
            model,
            tokenizer: Digest::default(),
            exclude: &NOBODY,
            goes_on: None,
            name: "r",
            request: RequestId(uuid::Uuid::nil()),
            tokens: 100,
            hashes: &NO_HASHES,
            hints: &NO_HINTS,
            scope: None,
            at_once: false,
            now: Duration::ZERO,
        }
    }

    /// It has nothing to do, and its leader said so just now.
    pub(crate) fn candidate(info: &EndpointInfo) -> Candidate<'_> {
        Candidate {
            info,
            number: info.endpoint.group.index,
            load: Busy::default(),
            in_flight: 0,
            uncached_in_flight: 0,
            matched: 0,
            labels: &NO_LABELS,
            duty: Duty::of(info.role, &NO_LABELS),
            adapter: Affinity::Room,
            has_place: true,
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
            embeds: None,
            fingerprint: Fingerprint {
                model: Digest::default(),
                tokenizer: Digest::default(),
                adapter: None,
                dtype: "float32".into(),
                quantization: "none".into(),
                kv_dtype: "float32".into(),
                tensor_parallel: 1,
                expert_parallel: false,
                kernel_path: "test".into(),
                batch_invariant: true,
            },
        }
    }
}
