//! Blocks that a small device gives up and its host keeps, in one process: whole groups, real
//! devices' threads, a real disk.

use std::{path::Path, sync::Arc};

use troupe_actors::{controller::desired::launch, member::checkpoint::Checkpoints};
use troupe_runtime::{
    discovery::directory::{EndpointRecord, Launch, MemberPer},
    id::NodeId,
    model::source::ModelAccess,
    spec::EngineFlags,
};
use uuid::Uuid;

use super::{
    golden,
    support::{Cluster, Host, expected},
};

fn service(model: &str, (tensor, pipeline): (u32, u32), kept: (u64, u64), disk: &Path) -> Launch {
    let flags = EngineFlags {
        block_size: Some(4),
        threads: Some(1),
        dtype: Some("float32".into()),
        num_gpu_blocks_override: Some(BLOCKS),
        kv_offloading_bytes: Some(kept.0),
        kv_offloading_disk_bytes: Some(kept.1),
        kv_offloading_disk_path: Some(disk.display().to_string()),
        ..EngineFlags::default()
    };
    let mut launch = launch(model.to_owned(), "m".into(), flags);
    launch.tensor_parallel = tensor;
    launch.pipeline_parallel = pipeline;
    launch.member_per = MemberPer::Rank;
    launch
}

struct Serving {
    cluster: Cluster,
    endpoint: EndpointRecord,
    _host: Host,
}

impl Serving {
    async fn tensor_free(kept: (u64, u64), disk: &Path) -> Self {
        let cluster = Cluster::start().await;
        let host = cluster.host(id(), 4).await;
        cluster.declare("s", &service("fake:m", (2, 2), kept, disk)).await;
        let endpoint = cluster.endpoint_of("s").await;
        Self { cluster, endpoint, _host: host }
    }

    async fn of_model(name: &str, size: (u32, u32), kept: (u64, u64), disk: &Path) -> Self {
        let cluster = Cluster::start().await;
        let folder = golden::model(name).expect("both sets have it");
        let folder = format!("file://{}", folder.display());
        let models = Checkpoints::on_cpu(ModelAccess::offline("nowhere"), 1);
        let host = cluster.host_with(id(), size.0 * size.1, Arc::new(models)).await;
        cluster.declare("s", &service(&folder, size, kept, disk)).await;
        let endpoint = cluster.endpoint_of("s").await;
        Self { cluster, endpoint, _host: host }
    }

    async fn tokens(&self, prompt: &[u32], count: u32) -> Vec<u32> {
        self.cluster.ask(&self.endpoint, prompt, count).await.tokens().await
    }

    async fn counted(&self, name: &str, with: &str) -> f64 {
        self.cluster.counted(&self.endpoint, name, with).await
    }

    async fn loaded(&self, tier: &str) -> f64 {
        let with = format!("tier=\"{tier}\"");
        self.counted("troupe:kv_offload_loaded_blocks_total", &with).await
    }
}

fn id() -> NodeId {
    NodeId(Uuid::from_u128(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_tokens_come_out_of_kv_that_the_host_kept() {
    let folder = tempfile::tempdir().unwrap();
    let memory = (64 << 20, 0);
    let both = (96 << 10, 64 << 20);
    for (model, size, kept) in [
        ("tiny-llama-tied", (2, 1), memory),
        ("tiny-gemma2", (1, 2), memory),
        ("tiny-deepseek-v2", (2, 2), both),
        ("tiny-llama-tied", (1, 2), both),
    ] {
        let serving = Serving::of_model(model, size, kept, folder.path()).await;
        let golden = golden::json(&format!("models/{model}/golden.json")).expect("it has one");
        let ids = |of: &serde_json::Value| serde_json::from_value::<Vec<u32>>(of.clone()).unwrap();
        for round in 0..3 {
            for prompt in golden["prompts"].as_array().expect("prompts") {
                let (tokens, wanted) = (ids(&prompt["ids"]), ids(&prompt["greedy_ids"]));
                let what = format!("{model} {size:?}, round {round}, {}", prompt["id"]);
                assert_eq!(serving.tokens(&tokens, wanted.len() as u32).await, wanted, "{what}");
                // Somebody else takes the device's blocks meanwhile.
                let other: Vec<u32> = (0..BLOCKS * 4 - 8).map(|at| (at * 7 + 3) % 97).collect();
                serving.tokens(&other[..other.len() - 8 * round as usize], 1).await;
            }
        }
        let tokens = serving.counted("troupe:kv_offload_loaded_tokens_total", "").await;
        assert!(tokens > 0.0, "{model} {size:?}");
        if kept.1 > 0 {
            assert!(serving.loaded("disk").await > 0.0, "{model} {size:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_back_counts_as_cached() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Serving::tensor_free((1 << 20, 0), folder.path()).await;
    let prompt = |number: u32| (0..62).map(|at| (at * 5 + number * 11) % 97).collect::<Vec<u32>>();
    for number in 0..8 {
        serving.tokens(&prompt(number), 2).await;
    }
    let chunk = serving.cluster.ask(&serving.endpoint, &prompt(0), 2).await.chunk().await;
    assert_eq!(chunk.cached_tokens, 60, "fifteen whole blocks");
    assert!(serving.loaded("host").await > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_be_written_costs_no_answer() {
    // No folder can be made there.
    let serving = Serving::tensor_free((32 << 10, 1 << 20), Path::new("/dev/null/kv")).await;
    let prompt = |number: u32| (0..60).map(|at| (at * 3 + number * 11) % 97).collect::<Vec<u32>>();
    for number in (0..12).chain(0..12) {
        let prompt = prompt(number);
        assert_eq!(serving.tokens(&prompt, 8).await, expected(&prompt, 8));
    }
    let stored = serving.counted("troupe:kv_offload_stored_blocks_total", "tier=\"host\"").await;
    assert!(stored > 0.0, "memory is used all the same");
}

/// A device's blocks: enough for the longest of the prompts, and for nothing beside.
const BLOCKS: u32 = 60;
