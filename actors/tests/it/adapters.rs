//! Adapters of a whole group: declared, loaded and unloaded while it serves, on members that are
//! apart.

use troupe_actors::{controller::desired::launch, worker::fake::FakeExecutor};
use troupe_runtime::{
    discovery::directory::{EndpointRecord, Launch, MemberPer},
    error::ErrorKind,
    id::{Digest, NodeId},
    spec::{EngineFlags, LoraFlags, LoraModule},
    transport::Conversation,
    wire::{
        adapter::{AdaptDown, AdaptLoad, AdaptUp, AdapterRef, AdapterStatus},
        generate::{GenerateDown, KvSource},
        status::{StatusDown, StatusUp},
    },
};
use uuid::Uuid;

use super::support::{Cluster, VOCABULARY, WAIT, expected};

fn service(per: MemberPer, modules: &[&str]) -> Launch {
    let module = |name: &&str| LoraModule { name: (*name).into(), path: format!("/{name}") };
    let lora = LoraFlags {
        modules: modules.iter().map(module).collect(),
        max_loras: Some(2),
        ..LoraFlags::default()
    };
    let flags = EngineFlags { block_size: Some(4), lora, ..EngineFlags::default() };
    let mut launch = launch("fake:model".into(), "m".into(), flags);
    (launch.tensor_parallel, launch.pipeline_parallel, launch.member_per) = (2, 2, per);
    launch
}

fn id(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

/// The adapter that the tensor-free models have at a path.
fn named(name: &str, path: &str) -> AdapterRef {
    AdapterRef { name: name.into(), digest: Digest::of(path.as_bytes()) }
}

fn expected_with(adapter: &AdapterRef, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        tokens.push(FakeExecutor::next_token_with(adapter.digest, &tokens, VOCABULARY));
    }
    tokens.split_off(prompt.len())
}

async fn adapt(cluster: &Cluster, endpoint: &EndpointRecord, up: AdaptUp) -> AdaptDown {
    let connection = cluster.connect(endpoint).await;
    let mut stream = connection.open(Conversation::Adapt, WAIT).await.unwrap();
    stream.sender.send(&up, WAIT).await.unwrap();
    stream.receiver.expect(WAIT).await.unwrap()
}

fn load(name: &str, path: &str) -> AdaptUp {
    AdaptUp::Load(AdaptLoad { name: name.into(), path: path.into(), replace: false })
}

/// What the leader tells of its adapters, once that is as it should be.
async fn status(
    cluster: &Cluster,
    endpoint: &EndpointRecord,
    is_it: impl Fn(&AdapterStatus) -> bool,
) {
    let connection = cluster.connect(endpoint).await;
    let mut stream = connection.open(Conversation::Status, WAIT).await.unwrap();
    stream.sender.send(&StatusUp::Watch, WAIT).await.unwrap();
    let told = async {
        loop {
            if let StatusDown::Adapters(told) = stream.receiver.expect(WAIT).await.unwrap()
                && is_it(&told)
            {
                return;
            }
        }
    };
    tokio::time::timeout(WAIT, told).await.expect("within the wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_adapters_and_the_base_answer_side_by_side() {
    for per in [MemberPer::Host, MemberPer::Stage, MemberPer::Rank] {
        let cluster = Cluster::start().await;
        let _hosts = (cluster.host(id(1), 2).await, cluster.host(id(2), 2).await);
        cluster.declare("s", &service(per, &["a", "b", "c"])).await;
        let endpoint = cluster.endpoint(1).await;
        let adapters = ["a", "b", "c"].map(|name| named(name, &format!("/{name}")));
        let who = |number: u32| adapters.get(number as usize % 4);
        let mut all = Vec::new();
        for number in 0..32 {
            // The same prompt for all, which must not be found under another's name.
            all.push(cluster.ask_as(&endpoint, &[1, 2, 3, 4, 5], 20, who(number).cloned()).await);
        }
        for (number, asked) in (0..).zip(all) {
            let prompt = [1, 2, 3, 4, 5];
            let wanted = match who(number) {
                Some(adapter) => expected_with(adapter, &prompt, 20),
                None => expected(&prompt, 20),
            };
            assert_eq!(asked.tokens().await, wanted, "{number} {per:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_comes_and_goes_while_others_run() {
    let cluster = Cluster::start().await;
    let _hosts = (cluster.host(id(1), 2).await, cluster.host(id(2), 2).await);
    let mut launch = service(MemberPer::Rank, &["a"]);
    launch.flags.stage_time_min_ms = Some(2);
    cluster.declare("s", &launch).await;
    let endpoint = cluster.endpoint(1).await;
    let (a, b) = (named("a", "/a"), named("b", "/new"));
    let running = cluster.ask_as(&endpoint, &[1], 200, Some(a.clone())).await;

    let mut early = cluster.ask_as(&endpoint, &[2], 9, Some(b.clone())).await;
    let GenerateDown::Refused(error) = early.next().await else { panic!("it is not there yet") };
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert_eq!(adapt(&cluster, &endpoint, load("b", "/new")).await, AdaptDown::Done);
    let mut late = cluster.ask_as(&endpoint, &[2], 100, Some(b.clone())).await;
    let first = late.chunk().await.tokens.to_vec();
    status(&cluster, &endpoint, |told| told.running == ["a", "b"]).await;

    // It is served no more at once, and goes on for who has it.
    let unload = || AdaptUp::Unload("b".into());
    assert_eq!(adapt(&cluster, &endpoint, unload()).await, AdaptDown::Done);
    let mut gone = cluster.ask_as(&endpoint, &[2], 9, Some(b.clone())).await;
    assert!(matches!(gone.next().await, GenerateDown::Refused(_)));
    let AdaptDown::Refused(error) = adapt(&cluster, &endpoint, unload()).await else {
        panic!("it is gone")
    };
    assert_eq!(error.kind, ErrorKind::NotFound);

    // Other files under the same name are another adapter, also for blocks that are cached.
    assert_eq!(adapt(&cluster, &endpoint, load("b", "/newer")).await, AdaptDown::Done);
    let newer = named("b", "/newer");
    let other = cluster.ask_as(&endpoint, &[2], 30, Some(newer.clone())).await;
    assert_eq!(other.tokens().await, expected_with(&newer, &[2], 30));
    assert_eq!(late.rest(first).await, expected_with(&b, &[2], 100));
    let mut old = cluster.ask_as(&endpoint, &[2], 9, Some(b)).await;
    let GenerateDown::Refused(error) = old.next().await else { panic!("those files are gone") };
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(running.tokens().await, expected_with(&a, &[1], 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_adapter_is_refused_and_the_group_goes_on() {
    let cluster = Cluster::start().await;
    let _hosts = (cluster.host(id(1), 2).await, cluster.host(id(2), 2).await);
    cluster.declare("s", &service(MemberPer::Stage, &["a"])).await;
    let endpoint = cluster.endpoint(1).await;
    for (name, path, said) in [
        ("b", "/bad", "/bad is a bad adapter"),
        ("a", "/other", "has already been loaded"),
        ("m", "/other", "name of the model"),
    ] {
        let AdaptDown::Refused(error) = adapt(&cluster, &endpoint, load(name, path)).await else {
            panic!("{name} at {path} cannot be loaded")
        };
        assert_eq!(error.kind, ErrorKind::BadRequest);
        assert!(error.message.contains(said), "{error}");
    }
    let a = named("a", "/a");
    let asked = cluster.ask_as(&endpoint, &[7], 10, Some(a.clone())).await;
    assert_eq!(asked.tokens().await, expected_with(&a, &[7], 10));
    let info = cluster.counted(&endpoint, "vllm:lora_requests_info", "max_lora=\"2\"").await;
    assert!(info > 1e9, "when it changed, as Unix time: {info}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kv_that_an_adapter_made_comes_from_another_group() {
    let cluster = Cluster::start().await;
    let _first = cluster.host(id(1), 4).await;
    cluster.declare("prefill", &service(MemberPer::Host, &["a"])).await;
    let from = cluster.endpoint_of("prefill").await;
    let _second = cluster.host(id(2), 4).await;
    cluster.declare("decode", &service(MemberPer::Host, &["b", "a"])).await;
    let to = cluster.endpoint_of("decode").await;
    let (a, prompt) = (named("a", "/a"), [5; 18]);
    let ask = async |adapter: Option<AdapterRef>| {
        let (endpoint, address) = (from.info.endpoint.clone(), from.address.clone());
        let source = Some(KvSource { endpoint, address, cached: None });
        cluster.open(&to, (&prompt, 12), source, adapter).await.tokens().await
    };
    assert_eq!(ask(Some(a.clone())).await, expected_with(&a, &prompt, 12));
    let transfers = "troupe:kv_transfers_total";
    assert_eq!(cluster.counted(&to, transfers, "outcome=\"complete\"").await, 1.0);
    // Of one that the other group has not, nothing comes.
    let b = named("b", "/b");
    assert_eq!(ask(Some(b.clone())).await, expected_with(&b, &prompt, 12));
    assert_eq!(cluster.counted(&to, transfers, "outcome=\"nothing\"").await, 1.0);
    assert_eq!(ask(None).await, expected(&prompt, 12));
}
