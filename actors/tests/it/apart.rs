//! Prefill and decode apart, in one process: whole groups, real devices' threads, real lines.

use std::sync::Arc;

use troupe_actors::{controller::desired::launch, member::checkpoint::Checkpoints};
use troupe_runtime::{
    discovery::directory::{EndpointRecord, Launch, MemberPer},
    id::NodeId,
    model::source::ModelAccess,
    spec::EngineFlags,
    wire::generate::KvSource,
};
use uuid::Uuid;

use super::{
    golden,
    support::{Cluster, Host, WAIT, expected},
};

/// (tensor ranks, stages) of the group that prefills, and of the one that decodes.
const UNEQUAL: [[(u32, u32); 2]; 6] = [
    [(4, 1), (1, 2)],
    [(1, 1), (2, 2)],
    [(2, 1), (1, 1)],
    [(1, 2), (4, 1)],
    [(2, 2), (1, 4)],
    [(1, 4), (2, 1)],
];

fn service(model: &str, (tensor, pipeline): (u32, u32), per: MemberPer) -> Launch {
    let flags = EngineFlags {
        block_size: Some(4),
        threads: Some(1),
        dtype: Some("float32".into()),
        num_gpu_blocks_override: Some(200),
        ..EngineFlags::default()
    };
    let mut launch = launch(model.to_owned(), "m".into(), flags);
    launch.tensor_parallel = tensor;
    launch.pipeline_parallel = pipeline;
    launch.member_per = per;
    launch
}

fn source(endpoint: &EndpointRecord) -> Option<KvSource> {
    let address = endpoint.address.clone();
    Some(KvSource { endpoint: endpoint.info.endpoint.clone(), address, cached: None })
}

/// A group that prefills and one that decodes, of one model, on a host each.
struct Apart {
    cluster: Cluster,
    prefill: EndpointRecord,
    decode: EndpointRecord,
    prefill_host: Option<Host>,
    _decode_host: Host,
}

impl Apart {
    async fn of_tensor_free([prefill, decode]: [(u32, u32); 2], per: MemberPer) -> Self {
        let cluster = Cluster::start().await;
        let devices = |(tensor, pipeline): (u32, u32)| tensor * pipeline;
        let first = cluster.host(id(1), devices(prefill)).await;
        cluster.declare("prefill", &service("fake:m", prefill, per)).await;
        let from = cluster.endpoint_of("prefill").await;
        let second = cluster.host(id(2), devices(decode)).await;
        cluster.declare("decode", &service("fake:m", decode, per)).await;
        let to = cluster.endpoint_of("decode").await;
        Self { cluster, prefill: from, decode: to, prefill_host: Some(first), _decode_host: second }
    }

    async fn of_model(model: &str, [prefill, decode]: [(u32, u32); 2]) -> Self {
        let cluster = Cluster::start().await;
        let folder = golden::model(model).expect("both sets have it");
        let folder = format!("file://{}", folder.display());
        let models = Checkpoints::on_cpu(ModelAccess::offline("nowhere"), 1);
        let models = Arc::new(models);
        let devices = |(tensor, pipeline): (u32, u32)| tensor * pipeline;
        let first = cluster.host_with(id(1), devices(prefill), models.clone()).await;
        cluster.declare("prefill", &service(&folder, prefill, MemberPer::Host)).await;
        let from = cluster.endpoint_of("prefill").await;
        let second = cluster.host_with(id(2), devices(decode), models).await;
        cluster.declare("decode", &service(&folder, decode, MemberPer::Host)).await;
        let to = cluster.endpoint_of("decode").await;
        Self { cluster, prefill: from, decode: to, prefill_host: Some(first), _decode_host: second }
    }

    /// The same, where only so many tokens are asked for, and only if they are cached.
    async fn tokens_from_cache(&self, prompt: &[u32], count: u32, cached: u32) -> Vec<u32> {
        let source = source(&self.prefill).map(|from| KvSource { cached: Some(cached), ..from });
        self.cluster.ask_with(&self.decode, prompt, count, source).await.tokens().await
    }

    async fn tokens(&self, prompt: &[u32], count: u32) -> Vec<u32> {
        let source = source(&self.prefill);
        self.cluster.ask_with(&self.decode, prompt, count, source).await.tokens().await
    }

    /// Transfers that had this end, and tokens that came.
    async fn transfers(&self, outcome: &str) -> f64 {
        let with = format!("outcome=\"{outcome}\"");
        self.cluster.counted(&self.decode, "troupe:kv_transfers_total", &with).await
    }

    async fn tokens_that_came(&self) -> f64 {
        self.cluster.counted(&self.decode, "troupe:kv_transfer_tokens_total", "").await
    }
}

fn id(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_group_has_cached_is_not_computed_twice_and_what_it_has_not_is_computed_here() {
    let apart = Apart::of_tensor_free([(2, 1), (1, 2)], MemberPer::Host).await;
    let steps = || apart.cluster.counted(&apart.prefill, "vllm:iteration_tokens_total_count", "");
    let prompt: Vec<u32> = (0..42).map(|at| (at * 5 + 3) % 97).collect();
    assert_eq!(apart.tokens_from_cache(&prompt, 20, 40).await, expected(&prompt, 20));
    assert_eq!(apart.transfers("nothing").await, 1.0, "nobody has it");
    let other: Vec<u32> = (0..42).map(|at| (at * 7 + 1) % 97).collect();
    apart.cluster.ask(&apart.prefill, &other, 1).await.tokens().await;
    let before = steps().await;
    assert_eq!(apart.tokens_from_cache(&other, 20, 32).await, expected(&other, 20));
    assert_eq!(apart.transfers("complete").await, 1.0);
    assert_eq!(apart.tokens_that_came().await, 32.0, "what was asked for, and no more");
    assert_eq!(steps().await, before, "it computed nothing for that");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_divisions_one_group_computes_and_another_answers() {
    for (pair, per) in
        UNEQUAL.into_iter().zip([MemberPer::Host, MemberPer::Rank].into_iter().cycle())
    {
        let apart = Apart::of_tensor_free(pair, per).await;
        let prompt: Vec<u32> = (0..42).map(|at| (at * 5 + 3) % 97).collect();
        assert_eq!(apart.tokens(&prompt, 20).await, expected(&prompt, 20), "{pair:?}");
        assert_eq!(apart.transfers("complete").await, 1.0, "{pair:?}");
        assert_eq!(apart.tokens_that_came().await, 40.0, "ten whole blocks before the last token");
        // What is here already does not come again, and what is there already is not computed.
        let longer: Vec<u32> = (0..63).map(|at| (at * 5 + 3) % 97).collect();
        apart.cluster.ask(&apart.prefill, &longer, 1).await.tokens().await;
        assert_eq!(apart.tokens(&longer, 10).await, expected(&longer, 10), "{pair:?}");
        assert_eq!(apart.tokens_that_came().await, 60.0, "{pair:?}");
        assert_eq!(apart.tokens(&longer, 10).await, expected(&longer, 10), "{pair:?}");
        assert_eq!(apart.transfers("complete").await, 2.0, "all of it is here: nobody is asked");
        // Several at a time.
        let mut asked = Vec::new();
        for number in 0..8 {
            let prompt: Vec<u32> = (0..30 + number).map(|at| (at * 7 + number) % 97).collect();
            let source = source(&apart.prefill);
            asked.push((
                prompt.clone(),
                apart.cluster.ask_with(&apart.decode, &prompt, 20, source).await,
            ));
        }
        for (prompt, asked) in asked {
            assert_eq!(asked.tokens().await, expected(&prompt, 20), "{pair:?}");
        }
        // Half of the blocks is reserved for what comes: three of these at a time at least.
        assert!(apart.transfers("complete").await >= 2.0 + 3.0, "{pair:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_tokens_come_out_of_kv_that_another_group_computed() {
    // Two KV heads, two KV groups, latent rows.
    let models = ["tiny-llama-tied", "tiny-gemma2", "tiny-deepseek-v2"];
    for (pair, model) in UNEQUAL.into_iter().zip(models.into_iter().cycle()) {
        let apart = Apart::of_model(model, pair).await;
        let golden = golden::json(&format!("models/{model}/golden.json")).expect("it has one");
        let ids = |of: &serde_json::Value| serde_json::from_value::<Vec<u32>>(of.clone()).unwrap();
        let mut long = 0;
        for prompt in golden["prompts"].as_array().expect("prompts") {
            let (tokens, wanted) = (ids(&prompt["ids"]), ids(&prompt["greedy_ids"]));
            let what = format!("{model} {pair:?} {}", prompt["id"]);
            long += u32::from(tokens.len() > 4);
            // The other group has the beginning already, or this one, or neither.
            if tokens.len() == 33 {
                apart.cluster.ask(&apart.prefill, &tokens[..20], 1).await.tokens().await;
            } else if tokens.len() > 100 {
                apart.cluster.ask(&apart.decode, &tokens[..50], 1).await.tokens().await;
            }
            let told = apart.tokens(&tokens, wanted.len() as u32).await;
            assert_eq!(told, wanted, "{what}");
        }
        assert_eq!(apart.transfers("complete").await, f64::from(long), "{model} {pair:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_there_or_refuses_costs_no_answer() {
    let mut apart = Apart::of_tensor_free([(1, 1), (1, 2)], MemberPer::Host).await;
    let prompt = |number: u32| (0..40).map(|at| (at * 3 + number) % 97).collect::<Vec<u32>>();
    // An incarnation that is no more.
    let mut old = source(&apart.prefill).unwrap();
    old.endpoint.epoch.number += 7;
    let asked = apart.cluster.ask_with(&apart.decode, &prompt(1), 10, Some(old)).await;
    assert_eq!(asked.tokens().await, expected(&prompt(1), 10));
    assert_eq!(apart.transfers("nothing").await, 1.0);
    // Nobody at all.
    let nobody = KvSource { address: "local://987654".into(), ..source(&apart.prefill).unwrap() };
    let asked = apart.cluster.ask_with(&apart.decode, &prompt(2), 10, Some(nobody)).await;
    assert_eq!(asked.tokens().await, expected(&prompt(2), 10));
    assert_eq!(apart.transfers("nothing").await, 2.0);
    // Alive for the first of many, gone for the last.
    let mut asked = Vec::new();
    for number in 10..30 {
        let source = source(&apart.prefill);
        asked.push((
            number,
            apart.cluster.ask_with(&apart.decode, &prompt(number), 30, source).await,
        ));
        if number == 20 {
            drop(apart.prefill_host.take());
        }
    }
    for (number, asked) in asked {
        let told = tokio::time::timeout(WAIT, asked.tokens()).await.expect("an answer");
        assert_eq!(told, expected(&prompt(number), 30));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_frees_both_sides() {
    let apart = Apart::of_tensor_free([(1, 2), (2, 1)], MemberPer::Host).await;
    for number in 0..30 {
        let prompt: Vec<u32> = (0..200).map(|at| (at * 3 + number) % 97).collect();
        let asked =
            apart.cluster.ask_with(&apart.decode, &prompt, 100, source(&apart.prefill)).await;
        drop(asked);
    }
    // Both still have all of their blocks: a prompt that needs nearly all of them is answered.
    let prompt: Vec<u32> = (0..220).map(|at| (at * 11 + 5) % 97).collect();
    assert_eq!(apart.tokens(&prompt, 20).await, expected(&prompt, 20));
    let asked = apart.cluster.ask(&apart.prefill, &prompt, 20).await;
    assert_eq!(asked.tokens().await, expected(&prompt, 20));
}
