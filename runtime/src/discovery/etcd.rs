//! The registry of many processes: an etcd that somebody else keeps (3.4 or newer).
//!
//! Each endpoint has a client of its own, tried in turn from the one that answered last, so that
//! one dead member costs one attempt and its reason is not lost. Every request has a deadline and
//! says `require-leader`: a member that is cut off from its quorum refuses instead of answering
//! with what it remembers. What makes the traps of etcd harmless (lists instead of resumed watches,
//! leases that are put again) is in `watcher` and `keeper`.

mod changes;
mod error;
mod lease;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use etcd_client as etcd;
use tokio::{task::JoinSet, time::Instant};

use self::{changes::EtcdChanges, error::Failure, lease::EtcdRenewal};
use super::{
    Compare, Entry, Incarnation, Op, RegistryError, Txn,
    backed::Backed,
    store::{self, Held, Hold, LeaseId, Released, Renewed, Stand, Store},
};

/// How etcd is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `host:port` or URLs of its members.
    pub endpoints: Vec<String>,
    /// The longest that one request takes, all members tried.
    pub request_timeout: Duration,
}

/// A client of etcd.
#[derive(Debug)]
pub struct EtcdRegistry {
    store: EtcdStore,
    watches: Mutex<JoinSet<()>>,
}

/// etcd's single requests.
#[derive(Clone, Debug)]
pub(super) struct EtcdStore {
    shared: Arc<Shared>,
}

struct Shared {
    members: Vec<Member>,
    /// Which member answered last.
    current: AtomicUsize,
    request_timeout: Duration,
}

/// One endpoint.
#[derive(Clone)]
struct Member {
    endpoint: String,
    client: etcd::Client,
}

/// The most bytes in one answer: a list of some ten thousand records, where gRPC's usual 4 MiB
/// would end at a few hundred.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// Whether a request may be sent to a second member though the first may have done it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeatable {
    Yes,
    No,
}

// === impl EtcdConfig ===

impl EtcdConfig {
    /// These members, with a request timeout of 3 s.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        Self { endpoints, request_timeout: Duration::from_secs(3) }
    }
}

// === impl EtcdRegistry ===

impl EtcdRegistry {
    /// A client; connects at the first request, so that a process can start while etcd is away.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] if there is no endpoint or one is no address.
    pub async fn new(config: EtcdConfig) -> Result<Self, RegistryError> {
        let options = etcd::ConnectOptions::new()
            .with_require_leader(true)
            .with_connect_timeout(config.request_timeout);
        let mut members = Vec::new();
        for endpoint in config.endpoints {
            // It would be passed over, and be repeated wherever this endpoint is named.
            if endpoint.contains('@') {
                let why = "an etcd endpoint holds a user or a password, with which etcd is not \
                           asked; give `host:port`";
                return Err(RegistryError::Refused(why.into()));
            }
            let client = etcd::Client::connect([&endpoint], Some(options.clone())).await;
            let client = client.map_err(|error| {
                RegistryError::Refused(format!("`{endpoint}` is no etcd endpoint: {error}"))
            })?;
            members.push(Member { endpoint, client });
        }
        if members.is_empty() {
            return Err(RegistryError::Refused("no etcd endpoint is given".into()));
        }
        let shared = Shared {
            members,
            current: AtomicUsize::new(0),
            request_timeout: config.request_timeout,
        };
        let store = EtcdStore { shared: Arc::new(shared) };
        Ok(Self { store, watches: Mutex::default() })
    }
}

impl Backed for EtcdRegistry {
    type Store = EtcdStore;

    fn store(&self) -> &EtcdStore {
        &self.store
    }

    fn watches(&self) -> &Mutex<JoinSet<()>> {
        &self.watches
    }
}

// === impl EtcdStore ===

impl EtcdStore {
    /// One request, at the member that answered last and then at the others, within the timeout.
    async fn request<T, F>(
        &self,
        repeatable: Repeatable,
        ask: impl Fn(Member) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let Shared { members, current, request_timeout } = &*self.shared;
        let deadline = Instant::now() + *request_timeout;
        let first = current.load(Ordering::Relaxed);
        let mut failures = Vec::new();
        for attempt in 0..members.len() {
            let index = (first + attempt) % members.len();
            let member = &members[index];
            // A member that hangs may not use up the time of those after it.
            let left = u32::try_from(members.len() - attempt).unwrap_or(u32::MAX);
            let patience = deadline.saturating_duration_since(Instant::now()) / left;
            let mut outcome = within(patience, ask(member.clone())).await;
            // A member that was restarted shows it by the old connection's end only.
            if repeatable == Repeatable::Yes
                && outcome.as_ref().is_err_and(Failure::is_broken_connection)
            {
                outcome = within(patience, ask(member.clone())).await;
            }
            let failure = match outcome {
                Ok(answer) => {
                    current.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            let go_on = failure.surely_not_done()
                || (repeatable == Repeatable::Yes && failure.another_may_answer());
            failures.push((member.endpoint.clone(), failure));
            if !go_on {
                break;
            }
            current.store((index + 1) % members.len(), Ordering::Relaxed);
        }
        Err(error::registry_error(&self.shared.endpoints(), failures))
    }
}

/// One attempt at one member.
async fn within<T>(
    patience: Duration,
    asking: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let outcome = tokio::time::timeout(patience, asking).await;
    outcome.unwrap_or(Err(Failure::Silent(patience)))
}

#[async_trait]
impl Store for EtcdStore {
    type Changes = EtcdChanges;
    type Renewal = EtcdRenewal;

    fn request_timeout(&self) -> Duration {
        self.shared.request_timeout
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, RegistryError> {
        self.request(Repeatable::Yes, async |member: Member| {
            let answer = member.kv().get(key, None).await?;
            Ok(answer.kvs().first().map(entry))
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, RegistryError> {
        self.request(Repeatable::Yes, async |member: Member| Ok(member.list(prefix).await?.0)).await
    }

    async fn commit(&self, txn: Txn) -> Result<bool, RegistryError> {
        store::check(&txn)?;
        let txn = etcd::Txn::new()
            .when(txn.compare.into_iter().map(comparison).collect::<Vec<_>>())
            .and_then(txn.then.into_iter().map(operation).collect::<Vec<_>>());
        self.request(Repeatable::No, async |member: Member| {
            Ok(member.kv().txn(txn.clone()).await?.succeeded())
        })
        .await
    }

    async fn open(&self, prefix: &str) -> Result<(Vec<Entry>, EtcdChanges), RegistryError> {
        let timeout = self.shared.request_timeout;
        self.request(Repeatable::Yes, async |member: Member| {
            changes::open(member, prefix, timeout).await
        })
        .await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, RegistryError> {
        // etcd counts whole seconds; a ttl rounded up is kept too long, never too short.
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = i64::try_from(seconds.max(1)).unwrap_or(i64::MAX);
        self.request(Repeatable::Yes, async |member: Member| {
            Ok(member.client.lease_client().grant(seconds, None).await?.id())
        })
        .await
    }

    async fn renew(
        &self,
        renewal: &mut EtcdRenewal,
        lease: LeaseId,
    ) -> Result<Renewed, RegistryError> {
        lease::renew(self, renewal, lease).await
    }

    async fn ensure(
        &self,
        lease: LeaseId,
        hold: &Hold,
        life: &Incarnation,
    ) -> Result<Held, RegistryError> {
        self.request(Repeatable::Yes, async |member: Member| {
            lease::ensure(&member, lease, hold, life).await
        })
        .await
    }

    async fn release(
        &self,
        lease: LeaseId,
        key: &str,
        life: &Incarnation,
    ) -> Result<Released, RegistryError> {
        self.request(Repeatable::Yes, async |member: Member| {
            lease::release(&member, lease, key, life).await
        })
        .await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.request(Repeatable::Yes, async |member: Member| {
            match member.client.lease_client().revoke(lease).await.map_err(Failure::from) {
                Err(failure) if failure.is_lease_not_found() => Ok(()),
                other => other.map(|_| ()),
            }
        })
        .await
    }
}

// === impl Shared, Member ===

impl Shared {
    fn endpoints(&self) -> String {
        let endpoints: Vec<&str> = self.members.iter().map(|m| m.endpoint.as_str()).collect();
        endpoints.join(", ")
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("endpoints", &self.endpoints()).finish_non_exhaustive()
    }
}

impl Member {
    fn kv(&self) -> etcd::KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_ANSWER)
    }

    /// Everything under a prefix, and where the answer stands.
    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Stand), Failure> {
        // etcd's own order is that of the keys.
        let options = etcd::GetOptions::new().with_prefix();
        let answer = self.kv().get(prefix, Some(options)).await?;
        Ok((answer.kvs().iter().map(entry).collect(), stand(answer.header())))
    }
}

fn stand(header: Option<&etcd::ResponseHeader>) -> Stand {
    header.map_or_else(Stand::default, |header| Stand {
        store: header.cluster_id(),
        revision: header.revision().unsigned_abs(),
    })
}

fn entry(kv: &etcd::KeyValue) -> Entry {
    Entry {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        value: kv.value().to_vec(),
        version: kv.version(),
    }
}

fn comparison(compare: Compare) -> etcd::Compare {
    let equal = etcd::CompareOp::Equal;
    match compare {
        Compare::Absent(key) => etcd::Compare::version(key, equal, 0),
        Compare::Value(key, value) => etcd::Compare::value(key, equal, value),
        Compare::Version(key, version) => etcd::Compare::version(key, equal, version),
    }
}

fn operation(op: Op) -> etcd::TxnOp {
    match op {
        Op::Put(key, value) => etcd::TxnOp::put(key, value, None),
        Op::Delete(key) => etcd::TxnOp::delete(key, None),
    }
}
