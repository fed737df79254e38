//! A gateway on a stage: real HTTP in front, scripted leaders on an in-process network behind.

pub(crate) mod http;
pub(crate) mod leader;

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use troupe_gateway::{GatewayConfig, GatewayHandle, PickerConfig, Surroundings, serve};
use troupe_runtime::{
    discovery::{
        Op, Registry, Txn,
        directory::{EndpointRecord, to_bytes},
        embedded::EmbeddedRegistry,
        keys::Keys,
    },
    id::{EndpointId, Epoch, GroupId, NodeId},
    model::{
        card::ModelCard,
        source::{ModelAccess, ModelFiles, ModelSource},
    },
    shutdown::{ShutdownOwner, shutdown},
    transport::{Link, LocalNetwork, PeerIdentity, PeerRole},
    wire::status::{Embeds, EndpointInfo, Fingerprint, Role},
};

pub(crate) use self::{
    http::Reply,
    leader::{Leader, Script, Seen},
};
use crate::golden;

/// Longest that a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Of what a gateway says in the store.
const LEASE: Duration = Duration::from_secs(3);

/// The name that tests use for the model.
pub(crate) const MODEL: &str = "tiny";
/// Most tokens of prompt and output that leaders say.
pub(crate) const MAX_MODEL_LEN: u32 = 64;

/// A gateway with leaders.
pub(crate) struct Stage {
    pub(crate) gateway: GatewayHandle,
    pub(crate) leaders: Vec<Leader>,
    pub(crate) registry: Arc<EmbeddedRegistry>,
    pub(crate) keys: Keys,
    pub(crate) shutdown: ShutdownOwner,
    network: LocalNetwork,
    client: http::Client,
}

/// The model that the leaders serve.
pub(crate) fn card() -> ModelCard {
    let folder = golden::model("tiny-chat").expect("both golden sets have tiny-chat");
    let source = ModelSource::resolve(&folder.to_string_lossy(), &ModelAccess::offline("/nowhere"));
    ModelCard::load(&source.expect("a folder")).expect("a good model")
}

/// One leader.
pub(crate) async fn stage(script: Script) -> Stage {
    stage_with(vec![script], |_| {}).await
}

/// Several, and other settings. Returns once all are ready.
pub(crate) async fn stage_with(
    scripts: Vec<Script>,
    adjust: impl FnOnce(&mut GatewayConfig),
) -> Stage {
    stage_of(scripts, MAX_MODEL_LEN, adjust).await
}

/// The same, with leaders that take longer conversations.
pub(crate) async fn stage_of(
    scripts: Vec<Script>,
    max_model_len: u32,
    adjust: impl FnOnce(&mut GatewayConfig),
) -> Stage {
    stage_as(scripts, adjust, |info| EndpointInfo { max_model_len, ..info }).await
}

/// Leaders that make vectors.
pub(crate) async fn stage_for_embeddings(scripts: Vec<Script>, embeds: Embeds) -> Stage {
    stage_as(scripts, |_| {}, |info| EndpointInfo { embeds: Some(embeds.clone()), ..info }).await
}

async fn stage_as(
    scripts: Vec<Script>,
    adjust: impl FnOnce(&mut GatewayConfig),
    what: impl Fn(EndpointInfo) -> EndpointInfo,
) -> Stage {
    let network = LocalNetwork::new();
    let registry = Arc::new(EmbeddedRegistry::new());
    let keys = Keys::new("test");
    let mut config = GatewayConfig::new(([127, 0, 0, 1], 0).into());
    config.picker = Some(first_of_equals());
    adjust(&mut config);
    let (owner, listener) = shutdown();
    let around = surroundings(&network, &registry, &registry).await;
    let gateway = serve(config, around, listener).expect("a free port");
    let mut leaders = Vec::new();
    for (index, script) in (0..).zip(scripts) {
        let info = what(info(index));
        let leader = Leader::start(network.link(identity(PeerRole::Node)), info, script);
        leaders.push(leader);
    }
    let client = http::Client::new(gateway.address());
    let stage = Stage { gateway, leaders, registry, keys, shutdown: owner, network, client };
    for leader in &stage.leaders {
        stage.publish(leader).await;
    }
    let count = stage.leaders.len();
    stage.until(|metrics| metrics.matches("vllm:num_requests_running{").count() == count).await;
    stage
}

/// The least busy leader is asked, of equals the first: a script is one leader's.
fn first_of_equals() -> PickerConfig {
    let text = "
apiVersion: llm-d.ai/v1
kind: EndpointPickerConfig
plugins: [{type: active-request-scorer}, {type: context-length-aware}]
schedulingProfiles:
- name: first
  plugins: [{pluginRef: active-request-scorer, weight: 9}, {pluginRef: context-length-aware}]
";
    PickerConfig::read(text).expect("it is right")
}

/// For a gateway that reaches the store through `store`, and tells what it waits for through
/// `lease`.
pub(crate) async fn surroundings(
    network: &LocalNetwork,
    store: &EmbeddedRegistry,
    lease: &EmbeddedRegistry,
) -> Surroundings {
    let keys = Keys::new("test");
    let link: Arc<dyn Link> = network.link(identity(PeerRole::Gateway));
    let lease = lease.lease(LEASE, &keys.incarnation()).await.expect("it is granted");
    let (registry, id) = (Arc::new(store.connect()), NodeId(uuid::Uuid::now_v7()));
    Surroundings { link, registry, keys, lease, id }
}

fn identity(role: PeerRole) -> PeerIdentity {
    PeerIdentity { cluster: "test".into(), role, node: NodeId(uuid::Uuid::now_v7()) }
}

/// What leader `index` is.
fn info(index: u32) -> EndpointInfo {
    let card = card();
    let group = GroupId { namespace: "default".into(), service: "tiny".into(), index };
    EndpointInfo {
        endpoint: EndpointId { group, revision: 1, epoch: Epoch::default(), dp: 0 },
        role: Role::Unified,
        model_names: vec![MODEL.into()],
        max_model_len: MAX_MODEL_LEN,
        block_size: 16,
        num_blocks: 64,
        max_num_seqs: 8,
        embeds: None,
        fingerprint: Fingerprint {
            model: model_digest(&card),
            tokenizer: card.tokenizer_digest,
            adapter: None,
            dtype: "float32".into(),
            quantization: "none".into(),
            kv_dtype: "float32".into(),
            tensor_parallel: 1,
            expert_parallel: false,
            kernel_path: "script".into(),
            batch_invariant: true,
        },
    }
}

impl Stage {
    /// A leader that is not in the registry yet.
    pub(crate) fn leader(&self, index: u32, script: Script) -> Leader {
        Leader::start(self.network.link(identity(PeerRole::Node)), info(index), script)
    }

    /// The first leader of another service.
    pub(crate) fn leader_of(&self, service: &str, script: Script) -> Leader {
        let mut info = info(0);
        info.endpoint.group.service = service.into();
        Leader::start(self.network.link(identity(PeerRole::Node)), info, script)
    }

    /// A further gateway over the same leaders; it is asked from now on.
    pub(crate) async fn restart(&mut self, config: GatewayConfig, around: Surroundings) {
        let (owner, listener) = shutdown();
        self.gateway = serve(config, around, listener).expect("a free port");
        self.shutdown = owner;
        self.client = http::Client::new(self.gateway.address());
    }

    /// Where its gateways and leaders meet.
    pub(crate) fn network(&self) -> &LocalNetwork {
        &self.network
    }

    /// Writes to the registry.
    pub(crate) async fn write(&self, op: Op) {
        let done = self.registry.commit(Txn { compare: vec![], then: vec![op] }).await;
        assert!(done.expect("the store is there"));
    }

    /// Enters a leader into the registry.
    pub(crate) async fn publish(&self, leader: &Leader) {
        self.publish_epoch(leader, leader.info.endpoint.epoch.number).await;
    }

    /// The same, as another incarnation of its group.
    pub(crate) async fn publish_epoch(&self, leader: &Leader, number: u64) {
        let mut info = leader.info.clone();
        info.endpoint.epoch.number = number;
        let key = self.keys.endpoint(&info.endpoint.group, info.endpoint.epoch);
        // The narrower its range, the better the scorer finds it.
        let range = format!("0-{}", 10_000 * (info.endpoint.group.index + 1));
        let labels = [("llm-d.ai/context-length-range".to_owned(), range)];
        let record = EndpointRecord {
            info,
            address: leader.address.to_string(),
            model_uri: golden::model("tiny-chat").expect("it is there").to_string_lossy().into(),
            labels: labels.into(),
        };
        let then = vec![Op::Put(key, to_bytes(record))];
        let done = self.registry.commit(Txn { compare: vec![], then }).await;
        assert!(done.expect("the store is there"));
    }

    /// Waits until `/metrics` says so.
    pub(crate) async fn until(&self, holds: impl Fn(&str) -> bool) {
        let poll = async {
            while !holds(&self.get("/metrics").await.text) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, poll).await.expect("it comes to hold");
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.client.send("GET", path, &[], String::new()).await
    }

    /// The status alone, whatever the body is.
    pub(crate) async fn status(&self, path: &str) -> u16 {
        self.client.status(path).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.raw(path, &body.to_string()).await
    }

    pub(crate) async fn raw(&self, path: &str, body: &str) -> Reply {
        let json = [("content-type", "application/json")];
        self.client.send("POST", path, &json, body.to_owned()).await
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        self.client.send(method, path, headers, body.to_owned()).await
    }

    /// The events of a stream, after a check that it ended as streams do.
    pub(crate) async fn events(&self, path: &str, mut body: Value) -> Vec<Value> {
        body["stream"] = true.into();
        let reply = self.post(path, body).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert!(reply.header("content-type").starts_with("text/event-stream"));
        reply.events()
    }
}

/// The digest of the model whose card this is.
pub(crate) fn model_digest(card: &ModelCard) -> troupe_runtime::id::Digest {
    let files = ModelFiles::find(&card.files.folder).unwrap();
    files.model_digest().unwrap()
}
