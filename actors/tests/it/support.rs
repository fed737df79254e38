//! A whole cluster in one process: an embedded store, a controller, hosts whose members live
//! inside, and the tensor-free executor, whose tokens show when one is lost, repeated or reordered.

use std::{sync::Arc, time::Duration};

use ractor::Actor;
use tokio::time::timeout;
use troupe_actors::{
    controller::{
        actor::{Controller, ControllerArgs, ControllerMsg},
        desired,
        plan::Timing,
    },
    member::load::{FakeModels, Models},
    node::{
        actor::{Node, NodeArgs, NodeMsg},
        inside::Inside,
    },
    worker::fake::FakeExecutor,
};
use troupe_runtime::{
    actor::Owned,
    discovery::{
        Compare, Op, Registry, Txn, WatchEvent,
        directory::{self, AfterDrain, Drain, EndpointRecord, GroupRecord, Launch, NodeRecord},
        embedded::EmbeddedRegistry,
        keys::Keys,
    },
    id::{GroupId, NodeId, RequestId},
    model::source::ModelAccess,
    transport::{
        Class, Connection, Conversation, Faults, Link, LocalNetwork, PeerIdentity, PeerRole, Stream,
    },
    wire::{
        adapter::AdapterRef,
        generate::{
            Choice, Chunk, Generate, GenerateDown, GenerateUp, KvSource, OutputKind,
            SamplingOptions,
        },
        status::{StatusDown, StatusUp},
    },
};
use uuid::Uuid;

pub(crate) const VOCABULARY: u32 = 97;
pub(crate) const WAIT: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_millis(500);

/// A cluster; dropping it ends everything.
pub(crate) struct Cluster {
    pub(crate) registry: Arc<EmbeddedRegistry>,
    pub(crate) keys: Keys,
    network: LocalNetwork,
    link: Arc<dyn Link>,
    _controller: Owned<ControllerMsg>,
}

/// A host; dropping it is a crash.
pub(crate) struct Host {
    pub(crate) id: NodeId,
    pub(crate) node: Owned<NodeMsg>,
    /// Its own way to the store, which can be cut.
    pub(crate) registry: Arc<EmbeddedRegistry>,
}

fn identity(role: PeerRole, node: NodeId) -> PeerIdentity {
    PeerIdentity { cluster: "test".into(), role, node }
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let registry = Arc::new(EmbeddedRegistry::new());
        Self::start_with(registry.clone(), registry).await
    }

    /// The same, with a controller that gives hosts the time to report before it plans.
    pub(crate) async fn start_patient() -> Self {
        let registry = Arc::new(EmbeddedRegistry::new());
        Self::start_after(registry.clone(), registry, LEASE).await
    }

    /// The same, with a controller that reaches the store in its own way.
    pub(crate) async fn start_with(
        registry: Arc<EmbeddedRegistry>,
        controllers: Arc<dyn Registry>,
    ) -> Self {
        Self::start_after(registry, controllers, Duration::ZERO).await
    }

    async fn start_after(
        registry: Arc<EmbeddedRegistry>,
        controllers: Arc<dyn Registry>,
        settle: Duration,
    ) -> Self {
        let network = LocalNetwork::new();
        let keys = Keys::new("test");
        let lease = registry.lease(LEASE, &keys.incarnation()).await.unwrap();
        let args = ControllerArgs {
            registry: controllers,
            keys: keys.clone(),
            lease,
            timing: Timing { lease: LEASE, settle },
            link: Some(network.link(identity(PeerRole::Control, NodeId(Uuid::now_v7())))),
            hub: ModelAccess::offline("nowhere"),
        };
        let controller = Owned::new(Actor::spawn(None, Controller, args).await.unwrap());
        let link = network.link(identity(PeerRole::Control, NodeId(Uuid::now_v7())));
        Self { registry, keys, network, link, _controller: controller }
    }

    pub(crate) async fn host(&self, id: NodeId, devices: u32) -> Host {
        let models = FakeModels { vocab_size: VOCABULARY, model_len: 512, blocks: 64 };
        self.host_with(id, devices, Arc::new(models)).await
    }

    /// The same with models from elsewhere.
    pub(crate) async fn host_with(
        &self,
        id: NodeId,
        devices: u32,
        models: Arc<dyn Models>,
    ) -> Host {
        let registry = Arc::new(self.registry.connect());
        let args = NodeArgs {
            record: NodeRecord {
                id,
                name: id.to_string(),
                process: Uuid::now_v7(),
                devices,
                device_kind: "cpu".into(),
                version: "0".into(),
                wire: 1,
                labels: Default::default(),
                device_memory: 0,
                address: None,
                leaving: false,
            },
            registry: registry.clone(),
            keys: self.keys.clone(),
            lease: registry.lease(LEASE, &self.keys.incarnation()).await.unwrap(),
            spawn: Arc::new(Inside {
                network: self.network.clone(),
                identity: identity(PeerRole::Node, id),
                models,
            }),
            data_dir: None,
        };
        let node = Owned::new(Actor::spawn(None, Node, args).await.unwrap());
        Host { id, node, registry }
    }

    /// Declares a service.
    pub(crate) async fn declare(&self, name: &str, launch: &Launch) {
        let document = desired::declare(name, 1, launch).to_string().into_bytes();
        let put = Op::Put(self.keys.spec(desired::KIND, "default", name), document);
        let txn = Txn { compare: vec![], then: vec![put] };
        assert!(self.registry.commit(txn).await.unwrap());
    }

    /// Has a group drained, as a controller does.
    pub(crate) async fn drain(&self, group: &GroupId, seconds: u32) {
        let key = self.keys.group(group);
        let entry = self.registry.get(&key).await.unwrap().expect("it is planned");
        let mut record: GroupRecord = directory::from_bytes(&key, &entry.value).unwrap();
        record.drain = Some(Drain { seconds, then: AfterDrain::Leave });
        let put = Op::Put(key.clone(), directory::to_bytes(record));
        let txn = Txn { compare: vec![Compare::Version(key, entry.version)], then: vec![put] };
        assert!(self.registry.commit(txn).await.unwrap());
    }

    /// Waits until the store does not have this key.
    pub(crate) async fn until_gone(&self, key: &str) {
        let mut watch = self.registry.watch(key).await.unwrap();
        let gone = async {
            let mut there = false;
            loop {
                match watch.next().await.expect("a store") {
                    WatchEvent::Put(_) => there = true,
                    WatchEvent::Synced if there => {}
                    _ => return,
                }
            }
        };
        timeout(WAIT, gone).await.expect("within the wait");
    }

    /// The host of an endpoint's leader.
    pub(crate) async fn leader_host(&self, endpoint: &EndpointRecord) -> NodeId {
        let key = self.keys.group(&endpoint.info.endpoint.group);
        let entry = self.registry.get(&key).await.unwrap().expect("it is planned");
        let record: GroupRecord = directory::from_bytes(&key, &entry.value).unwrap();
        record.members[0].node
    }

    /// Waits until something under a prefix is as it should be, from what is there now on.
    pub(crate) async fn until(&self, prefix: &str, holds: impl Fn(&WatchEvent) -> bool) {
        let mut watch = self.registry.watch(prefix).await.unwrap();
        let held = async { while !holds(&watch.next().await.expect("a store")) {} };
        timeout(WAIT, held).await.expect("within the wait");
    }

    /// Waits for an endpoint whose epoch is at least this.
    pub(crate) async fn endpoint(&self, epoch: u64) -> EndpointRecord {
        self.find(|record| record.info.endpoint.epoch.number >= epoch).await
    }

    /// Waits for an endpoint of a service.
    pub(crate) async fn endpoint_of(&self, service: &str) -> EndpointRecord {
        self.find(|record| record.info.endpoint.group.service == service).await
    }

    async fn find(&self, is_it: impl Fn(&EndpointRecord) -> bool) -> EndpointRecord {
        let mut watch = self.registry.watch(&self.keys.endpoints()).await.unwrap();
        let found = async {
            loop {
                let Some(WatchEvent::Put(entry)) = watch.next().await else { continue };
                let record: EndpointRecord =
                    directory::from_bytes(&entry.key, &entry.value).unwrap();
                if is_it(&record) {
                    return record;
                }
            }
        };
        timeout(WAIT, found).await.expect("an endpoint within the wait")
    }

    /// A way to leaders on which what they say fails as a [`Faults`] says.
    pub(crate) fn faulty(&self, faults: &Faults) -> Arc<dyn Link> {
        let node = NodeId(Uuid::from_u128(99));
        faults.wrap(self.network.link(identity(PeerRole::Control, node)), node)
    }

    /// A connection with an endpoint's leader.
    pub(crate) async fn connect(&self, endpoint: &EndpointRecord) -> Arc<dyn Connection> {
        let peer = endpoint.address.parse().unwrap();
        self.link.connect(&peer, Class::Control, WAIT).await.unwrap()
    }

    /// What an endpoint's leader has counted under a name with these labels; 0 if nothing.
    pub(crate) async fn counted(&self, endpoint: &EndpointRecord, name: &str, with: &str) -> f64 {
        let peer = endpoint.address.parse().unwrap();
        let connection = self.link.connect(&peer, Class::Control, WAIT).await.unwrap();
        let mut stream = connection.open(Conversation::Status, WAIT).await.unwrap();
        stream.sender.send(&StatusUp::Metrics, WAIT).await.unwrap();
        let StatusDown::Metrics(text) = stream.receiver.expect(WAIT).await.unwrap() else {
            panic!("what was counted was asked for")
        };
        let line = text.lines().find(|line| line.starts_with(name) && line.contains(with));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Opens a request.
    pub(crate) async fn ask(&self, endpoint: &EndpointRecord, prompt: &[u32], max: u32) -> Asked {
        self.ask_with(endpoint, prompt, max, None).await
    }

    /// Opens a request whose prompt another endpoint may compute.
    pub(crate) async fn ask_with(
        &self,
        endpoint: &EndpointRecord,
        prompt: &[u32],
        max: u32,
        kv_source: Option<KvSource>,
    ) -> Asked {
        self.open(endpoint, (prompt, max), kv_source, None).await
    }

    /// Opens a request that uses an adapter.
    pub(crate) async fn ask_as(
        &self,
        endpoint: &EndpointRecord,
        prompt: &[u32],
        max: u32,
        adapter: Option<AdapterRef>,
    ) -> Asked {
        self.open(endpoint, (prompt, max), None, adapter).await
    }

    /// Opens a request in all that can be said of it.
    pub(crate) async fn open(
        &self,
        endpoint: &EndpointRecord,
        (prompt, max): (&[u32], u32),
        kv_source: Option<KvSource>,
        adapter: Option<AdapterRef>,
    ) -> Asked {
        let generate = Generate {
            request: RequestId::new(),
            attempt: 0,
            alone: false,
            endpoint: endpoint.info.endpoint.clone(),
            tenant: String::new(),
            priority: 0,
            time_left_ms: 60_000,
            prompt: prompt.to_vec(),
            block_hashes: vec![],
            hash_block_size: 0,
            hash_seed: 0,
            adapter,
            cache_salt: None,
            output: OutputKind::Tokens,
            // Greedy, for models whose tokens are known.
            options: SamplingOptions {
                max_tokens: max,
                temperature: 0.0,
                ..SamplingOptions::default()
            },
            seed: 1,
            choices: vec![Choice::default()],
            kv_source,
            traceparent: None,
            model: endpoint.info.fingerprint.model,
            tokenizer: endpoint.info.fingerprint.tokenizer,
        };
        let connection = self.connect(endpoint).await;
        let mut stream = connection.open(Conversation::Generate, WAIT).await.unwrap();
        stream.sender.send(&GenerateUp::Start(Box::new(generate)), WAIT).await.unwrap();
        Asked { stream, _connection: connection }
    }
}

/// A request under way; dropping it is the abort.
pub(crate) struct Asked {
    stream: Stream,
    _connection: Arc<dyn Connection>,
}

impl Asked {
    /// What the leader says next.
    pub(crate) async fn next(&mut self) -> GenerateDown {
        self.stream.receiver.expect(WAIT).await.unwrap()
    }

    /// What the leader says next, or how the conversation broke.
    pub(crate) async fn broke(&mut self) -> Option<String> {
        match self.stream.receiver.expect::<GenerateDown>(WAIT).await {
            Ok(GenerateDown::Chunk(_)) => None,
            Ok(other) => Some(format!("{other:?}")),
            Err(error) => Some(error.to_string()),
        }
    }

    pub(crate) async fn chunk(&mut self) -> Chunk {
        match self.next().await {
            GenerateDown::Chunk(chunk) => chunk,
            other => panic!("{other:?}"),
        }
    }

    /// All tokens to the end.
    pub(crate) async fn tokens(self) -> Vec<u32> {
        self.rest(Vec::new()).await
    }

    /// All tokens to the end, after those that were taken already.
    pub(crate) async fn rest(mut self, mut tokens: Vec<u32>) -> Vec<u32> {
        loop {
            let chunk = self.chunk().await;
            assert_eq!(chunk.position as usize, tokens.len(), "the next position exactly");
            tokens.extend(chunk.tokens);
            if chunk.finish.is_some() {
                return tokens;
            }
        }
    }
}

/// What the tensor-free model answers.
pub(crate) fn expected(prompt: &[u32], count: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        tokens.push(FakeExecutor::next_token(&tokens, VOCABULARY));
    }
    tokens.split_off(prompt.len())
}
