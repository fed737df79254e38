//! How far a gateway's table of endpoints is behind: 2,000 endpoints in a real etcd, ten thousand
//! changes a second. `cargo bench -p troupe-gateway --bench directory`
//!
//! Some changes are incarnations: a put and, a little later, the delete of the one before, both in
//! etcd, each of which the gateway follows with a connection to the leader, its first word and its
//! load. The others are loads that leaders push on the conversations that are there, as real ones
//! do. Leaders live in this process, on the in-process carrier, and share the machine with etcd and
//! the gateway.
//!
//! A change has come when a look at the table shows it, and looks come every millisecond. A load is
//! dropped if it never shows: each carries its number, and a number that is passed over is counted.

#![expect(clippy::print_stdout, reason = "its report is what it is run for")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use troupe_gateway::Endpoints;
use troupe_runtime::{
    discovery::{
        Op, Registry, Txn,
        directory::{EndpointRecord, to_bytes},
        etcd::{EtcdConfig, EtcdRegistry},
        keys::Keys,
    },
    id::{Digest, EndpointId, Epoch, GroupId, NodeId},
    model::{
        card::ModelCard,
        source::{ModelAccess, ModelFiles, ModelSource},
    },
    transport::{
        Connection, Conversation, Link, LinkError, LocalLink, LocalNetwork, PeerAddr, PeerIdentity,
        PeerRole, Stream,
    },
    wire::{
        adapter::AdapterStatus,
        status::{EndpointInfo, Fingerprint, Load, Role, StatusDown, StatusUp},
    },
};
use uuid::Uuid;

use crate::etcd_process::EtcdProcess;

#[allow(dead_code, reason = "tests kill and freeze it, too")]
#[path = "../../tests/support/etcd.rs"]
mod etcd_process;

const ENDPOINTS: usize = 2_000;
/// Changes a second, of both kinds.
const RATE: usize = 10_000;
/// Incarnations a second; each is two changes, a put and a delete.
const INCARNATIONS: usize = 200;
/// What is done at once: loads, incarnations.
const LOAD_TICK: Duration = Duration::from_millis(10);
const STORE_TICK: Duration = Duration::from_millis(100);
const LASTS: Duration = Duration::from_secs(20);
/// Between looks at the table.
const LOOK: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(60);
/// What one transaction of etcd may hold.
const OPS: usize = 100;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("threads").block_on(measure());
}

async fn measure() {
    let etcd = EtcdProcess::start();
    let registry = EtcdRegistry::new(EtcdConfig::new([etcd.endpoint()])).await.expect("etcd");
    let registry: Arc<dyn Registry> = Arc::new(registry);
    let keys = Keys::new("bench");
    registry.incarnation(&keys.incarnation()).await.expect("the store's incarnation");
    let network = LocalNetwork::new();
    let field = Arc::new(Field::new(&network, registry.clone(), keys.clone()));
    let link: Arc<dyn Link> = network.link(identity(PeerRole::Gateway));
    let endpoints = Endpoints::follow(registry, keys, link, ModelAccess::offline("/nowhere"));

    let began = Instant::now();
    for first in (0..ENDPOINTS).step_by(OPS) {
        let some = first..ENDPOINTS.min(first + OPS);
        field.commit(some.map(|index| field.put(index, 1)).collect()).await;
    }
    let all = async {
        while endpoints.count() < ENDPOINTS {
            sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, all).await.expect("all endpoints become ready");
    println!("{ENDPOINTS} endpoints are ready after {:.1} s", began.elapsed().as_secs_f64());

    let mut eye = Eye::new(field.clone());
    let began = Instant::now();
    let mut work = JoinSet::new();
    work.spawn(field.clone().push(began + LASTS));
    work.spawn(field.clone().renew(began + LASTS));
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut took = None;
    while took.is_none() || (!eye.has_seen_all() && began.elapsed() < LASTS + PATIENCE) {
        looks.tick().await;
        eye.look(&endpoints);
        while let Some(ended) = work.try_join_next() {
            ended.expect("it goes on to its end");
        }
        if work.is_empty() {
            took.get_or_insert_with(|| began.elapsed());
        }
    }
    eye.report(took.unwrap_or(LASTS));
}

/// Leaders, and the store in which they are named.
struct Field {
    origin: Instant,
    registry: Arc<dyn Registry>,
    keys: Keys,
    model: String,
    info: EndpointInfo,
    leaders: Vec<Arc<Leader>>,
    /// What was written, by endpoint and incarnation, and has not been seen yet.
    puts: Mutex<BTreeMap<Key, Instant>>,
    deletes: Mutex<BTreeMap<Key, Instant>>,
    _tasks: JoinSet<()>,
}

/// An endpoint's index, and its incarnation.
type Key = (usize, u64);

struct Leader {
    info: EndpointInfo,
    address: PeerAddr,
    incarnation: AtomicU64,
    load: watch::Sender<Load>,
}

// === impl Field ===

impl Field {
    fn new(network: &LocalNetwork, registry: Arc<dyn Registry>, keys: Keys) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/models/tiny-chat");
        let source =
            ModelSource::resolve(folder, &ModelAccess::offline("/nowhere")).expect("a folder");
        let card = ModelCard::load(&source).expect("a model");
        let info = info(
            ModelFiles::find(&card.files.folder)
                .and_then(|files| files.model_digest())
                .expect("a whole model"),
            card.tokenizer_digest,
        );
        let mut tasks = JoinSet::new();
        let leaders = (0..ENDPOINTS).map(|index| {
            let link = network.link(identity(PeerRole::Node));
            let mut info = info.clone();
            info.endpoint.group.index = index as u32;
            let leader = Arc::new(Leader {
                info,
                address: link.address(),
                incarnation: AtomicU64::new(1),
                load: watch::Sender::new(Load::default()),
            });
            tasks.spawn(leader.clone().serve(link));
            leader
        });
        let leaders = leaders.collect();
        let (puts, deletes) = (Mutex::default(), Mutex::default());
        let (origin, model) = (Instant::now(), folder.to_owned());
        Self { origin, registry, keys, model, info, leaders, puts, deletes, _tasks: tasks }
    }

    fn key(&self, index: usize, incarnation: u64) -> String {
        let mut group = self.info.endpoint.group.clone();
        group.index = index as u32;
        self.keys.endpoint(&group, Epoch { number: incarnation, nonce: 0 })
    }

    fn put(&self, index: usize, incarnation: u64) -> Op {
        let leader = &self.leaders[index];
        leader.incarnation.store(incarnation, Ordering::Relaxed);
        let record = EndpointRecord {
            info: leader.info(),
            address: leader.address.to_string(),
            model_uri: self.model.clone(),
            labels: BTreeMap::new(),
        };
        Op::Put(self.key(index, incarnation), to_bytes(record))
    }

    async fn commit(&self, then: Vec<Op>) {
        let done = self.registry.commit(Txn { compare: Vec::new(), then }).await;
        assert!(done.expect("etcd answers"), "nothing is compared");
    }

    /// Pushes loads, one leader after the other.
    async fn push(self: Arc<Self>, until: Instant) {
        let mut ticks = interval(LOAD_TICK);
        let each = (RATE - 2 * INCARNATIONS) * LOAD_TICK.as_millis() as usize / 1000;
        let mut leaders = self.leaders.iter().cycle();
        while ticks.tick().await < until {
            for leader in leaders.by_ref().take(each) {
                let sent = self.origin.elapsed().as_micros() as u64;
                leader.load.send_modify(|load| (load.steps, load.tokens) = (load.steps + 1, sent));
            }
        }
    }

    /// Gives endpoints another incarnation, some at a time, and deletes the one before at the next
    /// turn.
    async fn renew(self: Arc<Self>, until: Instant) {
        let mut ticks = interval(STORE_TICK);
        let each = INCARNATIONS * STORE_TICK.as_millis() as usize / 1000;
        let mut order = (2..).flat_map(|incarnation| (0..ENDPOINTS).map(move |i| (i, incarnation)));
        let mut old: Vec<Key> = Vec::new();
        loop {
            let over = ticks.tick().await >= until;
            let new: Vec<Key> = order.by_ref().take(if over { 0 } else { each }).collect();
            let puts = new.iter().map(|(index, incarnation)| self.put(*index, *incarnation));
            let deletes = old.iter().map(|(index, old)| Op::Delete(self.key(*index, *old)));
            let ops = puts.chain(deletes).collect();
            let now = Instant::now();
            lock(&self.puts).extend(new.iter().map(|key| (*key, now)));
            lock(&self.deletes).extend(old.iter().map(|key| (*key, now)));
            self.commit(ops).await;
            old = new.iter().map(|(index, incarnation)| (*index, incarnation - 1)).collect();
            if over {
                return;
            }
        }
    }
}

// === impl Leader ===

impl Leader {
    fn info(&self) -> EndpointInfo {
        let mut info = self.info.clone();
        info.endpoint.epoch.number = self.incarnation.load(Ordering::Relaxed);
        info
    }

    async fn serve(self: Arc<Self>, link: Arc<LocalLink>) {
        let mut connections = JoinSet::new();
        while let Some(connection) = link.accept().await {
            while connections.try_join_next().is_some() {}
            connections.spawn(self.clone().answer(connection));
        }
    }

    async fn answer(self: Arc<Self>, connection: Arc<dyn Connection>) {
        let mut conversations = JoinSet::new();
        while let Ok((what, stream)) = connection.accept().await {
            assert_eq!(what, Conversation::Status, "a table asks for nothing else");
            conversations.spawn(self.clone().tell(stream));
        }
    }

    async fn tell(self: Arc<Self>, mut stream: Stream) -> Result<(), LinkError> {
        if stream.receiver.expect::<StatusUp>(PATIENCE).await? == StatusUp::Metrics {
            stream.sender.send(&StatusDown::Metrics(String::new()), PATIENCE).await?;
            return stream.sender.finish();
        }
        let mut loads = self.load.subscribe();
        stream.sender.send(&StatusDown::Info(Box::new(self.info())), PATIENCE).await?;
        stream.sender.send(&StatusDown::Adapters(AdapterStatus::default()), PATIENCE).await?;
        loop {
            let load = *loads.borrow_and_update();
            stream.sender.send(&StatusDown::Load(load), PATIENCE).await?;
            tokio::select! {
                changed = loads.changed() => if changed.is_err() { return Ok(()) },
                () = stream.sender.stopped() => return Ok(()),
            }
        }
    }
}

/// Looks at the table, and notes when what comes.
struct Eye {
    field: Arc<Field>,
    /// By endpoint, the number of its newest load that was seen.
    loads: Vec<u64>,
    passed_over: u64,
    load_lags: Vec<Duration>,
    store_lags: Vec<Duration>,
}

// === impl Eye ===

impl Eye {
    fn new(field: Arc<Field>) -> Self {
        let (load_lags, store_lags) = (Vec::new(), Vec::new());
        Self { field, loads: vec![0; ENDPOINTS], passed_over: 0, load_lags, store_lags }
    }

    fn look(&mut self, endpoints: &Endpoints) {
        let mut there: Vec<Key> = Vec::with_capacity(ENDPOINTS);
        let origin = self.field.origin;
        endpoints.look(|id, load| {
            let index = id.group.index as usize;
            there.push((index, id.epoch.number));
            let seen = &mut self.loads[index];
            if load.steps > *seen {
                self.passed_over += load.steps - *seen - 1;
                *seen = load.steps;
                let sent = Duration::from_micros(load.tokens);
                self.load_lags.push(origin.elapsed().saturating_sub(sent));
            }
        });
        there.sort_unstable();
        let store_lags = &mut self.store_lags;
        let mut come = |awaited: &Mutex<BTreeMap<Key, Instant>>, is_there: bool| {
            lock(awaited).retain(|key, written| {
                let come = there.binary_search(key).is_ok() == is_there;
                if come {
                    store_lags.push(written.elapsed());
                }
                !come
            });
        };
        come(&self.field.puts, true);
        come(&self.field.deletes, false);
    }

    /// Changes that were made and are not to be seen.
    fn missing(&self) -> u64 {
        let leaders = self.field.leaders.iter().zip(&self.loads);
        let loads = leaders.map(|(leader, seen)| leader.load.borrow().steps - seen);
        let store = lock(&self.field.puts).len() + lock(&self.field.deletes).len();
        loads.sum::<u64>() + store as u64
    }

    fn has_seen_all(&self) -> bool {
        self.missing() == 0
    }

    fn report(mut self, took: Duration) {
        let (loads, store) = (self.load_lags.len(), self.store_lags.len());
        let rate = (loads + store) as f64 / took.as_secs_f64();
        println!("{loads} loads and {store} events in {:.1} s: {rate:.0}/s", took.as_secs_f64());
        for (what, lags) in [("loads", &mut self.load_lags), ("etcd", &mut self.store_lags)] {
            lags.sort_unstable();
            let at = |share: f64| {
                let index = (lags.len().saturating_sub(1)) as f64 * share;
                lags.get(index as usize).map_or(f64::NAN, |lag| lag.as_secs_f64() * 1e3)
            };
            let (p50, p99, most) = (at(0.5), at(0.99), at(1.0));
            println!("{what:<6} lag ms: p50 {p50:.1}, p99 {p99:.1}, max {most:.1}");
        }
        let (passed_over, missing) = (self.passed_over, self.missing());
        println!(
            "dropped: {} ({passed_over} passed over, {missing} missing)",
            passed_over + missing
        );
        assert_eq!(passed_over + missing, 0, "nothing is dropped");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn identity(role: PeerRole) -> PeerIdentity {
    PeerIdentity { cluster: "bench".into(), role, node: NodeId(Uuid::now_v7()) }
}

fn info(model: Digest, tokenizer: Digest) -> EndpointInfo {
    let group = GroupId { namespace: "default".into(), service: "s".into(), index: 0 };
    EndpointInfo {
        endpoint: EndpointId { group, revision: 1, epoch: Epoch::default(), dp: 0 },
        role: Role::Unified,
        model_names: vec!["m".into()],
        max_model_len: 1024,
        block_size: 16,
        num_blocks: 64,
        max_num_seqs: 8,
        embeds: None,
        fingerprint: Fingerprint {
            model,
            tokenizer,
            adapter: None,
            dtype: "float32".into(),
            quantization: "none".into(),
            kv_dtype: "float32".into(),
            tensor_parallel: 1,
            expert_parallel: false,
            kernel_path: "none".into(),
            batch_invariant: true,
        },
    }
}
