//! What one decision costs: 10, 100 and 1,000 endpoints, prompts of 200, 10,000 and 100,000 tokens.
//!
//! ```text
//! cargo bench -p troupe-gateway --bench placement [-- NAME] [--batches N]
//! ```
//! Measured is all that happens between a prompt whose blocks have names and the endpoint's name:
//! looking at the endpoints, asking the index of prefixes, the profile, the record for `troupe
//! explain`, and counting the request there. Hashing a prompt is measured by the bench `prefix`.
//! `cold`: nobody knows the prompt. `warm`: all hold its first twentieth, each tenth endpoint a
//! part of the rest of its own length, and one all of it.
//!
//! The figures are the median and the least of batches of a few decisions each. A batch is shorter
//! than what a busy machine gives a thread at a time, so most of them are not interrupted.

#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

use std::{hint::black_box, sync::Arc};

use tokio::{runtime::Runtime, time::Instant};
use troupe_gateway::{PickerConfig, Trial, TrialPrompt};
use troupe_runtime::{
    discovery::directory::EndpointRecord,
    id::{EndpointId, Epoch, GroupId, NodeId},
    model::{
        card::ModelCard,
        source::{ModelAccess, ModelFiles, ModelSource},
    },
    transport::{Class, Connection, Link, LocalNetwork, PeerIdentity, PeerRole},
    wire::{
        cache::CacheBatch,
        status::{EndpointInfo, Fingerprint, Role},
    },
};
use uuid::Uuid;

#[allow(dead_code, reason = "tests read more of it")]
#[path = "../../tests/support/golden.rs"]
mod golden;

const ENDPOINTS: [u32; 3] = [10, 100, 1000];
const TOKENS: [u32; 3] = [200, 10_000, 100_000];

/// llm-d's guide of the day, and everything that is learned.
const PROFILES: [(&str, Option<&str>); 3] = [
    ("default", None),
    ("optimized-baseline", Some(include_str!("../../deploy/placement/optimized-baseline.yaml"))),
    (
        "random",
        Some(
            "
apiVersion: llm-d.ai/v1
kind: EndpointPickerConfig
plugins: [{type: queue-scorer}, {type: random-picker}]
schedulingProfiles:
- name: default
  plugins: [{pluginRef: random-picker}]
",
        ),
    ),
];

fn record() -> EndpointRecord {
    let folder = golden::model("tiny-chat").expect("both golden sets have tiny-chat");
    let uri = folder.to_string_lossy().into_owned();
    let source = ModelSource::resolve(&uri, &ModelAccess::offline("/nowhere")).expect("a folder");
    let card = ModelCard::load(&source).expect("a good model");
    let group = GroupId { namespace: "default".into(), service: "bench".into(), index: 0 };
    let info = EndpointInfo {
        endpoint: EndpointId { group, revision: 1, epoch: Epoch::default(), dp: 0 },
        role: Role::Unified,
        model_names: vec!["bench".into()],
        max_model_len: 131_072,
        block_size: 16,
        num_blocks: 1000,
        max_num_seqs: 256,
        embeds: None,
        fingerprint: Fingerprint {
            model: ModelFiles::find(&source.folder)
                .and_then(|files| files.model_digest())
                .expect("a whole model"),
            tokenizer: card.tokenizer_digest,
            adapter: None,
            dtype: "bfloat16".into(),
            quantization: "none".into(),
            kv_dtype: "bfloat16".into(),
            tensor_parallel: 1,
            expert_parallel: false,
            kernel_path: "none".into(),
            batch_invariant: true,
        },
    };
    let labels = [
        ("kubernetes.io/hostname", "host"),
        ("topology.kubernetes.io/zone", "zone"),
        ("troupe.dev/rack", "rack"),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    EndpointRecord { info, address: "none".into(), model_uri: uri, labels }
}

/// A connection to a link that says nothing; both, because it ends with either.
async fn connection() -> (Arc<dyn Link>, Arc<dyn Connection>) {
    let network = LocalNetwork::new();
    let identity = |role| {
        let node = NodeId(Uuid::now_v7());
        PeerIdentity { cluster: "bench".into(), role, node }
    };
    let there: Arc<dyn Link> = network.link(identity(PeerRole::Node));
    let here = network.link(identity(PeerRole::Gateway));
    let deadline = std::time::Duration::from_secs(5);
    let connected = here.connect(&there.address(), Class::Control, deadline).await;
    (there, connected.expect("it is in this process"))
}

/// The names of so many blocks: numbers with all bits mixed, as hashes have them.
fn blocks(count: usize) -> Arc<[u128]> {
    let mix = |number: u128| number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    (1..=count as u128).map(|number| mix(number) ^ mix(number) >> 64).collect()
}

/// Has endpoints tell that they hold parts of a prompt.
fn warm(trial: &Trial, endpoints: usize, prompt: &[u128]) {
    let shared = prompt.len().div_ceil(20);
    for endpoint in 0..endpoints {
        let own = match endpoint {
            0 => prompt.len(),
            _ if endpoint % 10 == 0 => shared + prompt.len() * endpoint / endpoints / 2,
            _ => shared,
        };
        let stored = prompt[..own.min(prompt.len())].to_vec();
        trial.tell(endpoint, &CacheBatch { stored, ..CacheBatch::default() });
    }
}

/// Microseconds of one decision: the median of batches, and the least.
fn measure(trial: &Trial, prompt: &TrialPrompt, batches: usize) -> (f64, f64) {
    let mut request = 0;
    let mut times: Vec<f64> = (0..batches + batches / 10)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..BATCH {
                request += 1;
                black_box(trial.place(request, prompt)).expect("somebody is ready");
            }
            began.elapsed().as_secs_f64() * 1e6 / f64::from(BATCH)
        })
        // The first ones find nothing in the processor's caches.
        .skip(batches / 10)
        .collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}

fn main() {
    let (mut name, mut batches) = (String::new(), 1000);
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--batches" => {
                let count = args.next().and_then(|count| count.parse().ok());
                batches = count.expect("--batches needs a number");
            }
            other => other.clone_into(&mut name),
        }
    }
    let runtime = Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let (_link, connection) = runtime.block_on(connection());
    println!("| profile, prompt | endpoints | tokens | median, us | least, us |");
    println!("|---|---|---|---|---|");
    for (profile, config) in PROFILES {
        let picker = config.map(|text| PickerConfig::read(text).expect("it is right"));
        for endpoints in ENDPOINTS {
            for (kind, is_warm) in [("cold", false), ("warm", true)] {
                let row = format!("{profile}, {kind}");
                if !row.contains(&name) {
                    continue;
                }
                for tokens in TOKENS {
                    let connection = Arc::clone(&connection);
                    let trial = Trial::new(endpoints, record(), connection, picker.as_ref());
                    let trial = runtime.block_on(trial).expect("a good model");
                    let blocks = blocks((tokens / record().info.block_size) as usize);
                    if is_warm {
                        warm(&trial, endpoints as usize, &blocks);
                    }
                    let prompt = trial.prompt(tokens, blocks);
                    let (median, least) = measure(&trial, &prompt, batches);
                    println!("| {row} | {endpoints} | {tokens} | {median:.1} | {least:.1} |");
                }
            }
        }
    }
}

/// Decisions in a batch.
const BATCH: u32 = 16;
