//! What one decision costs: 10, 100 and 1,000 endpoints, prompts of 200, 10,000 and 100,000 tokens.
//! `cargo bench -p troupe-gateway --bench placement`
//!
//! Measured is all that happens between a prompt that is tokens and the endpoint's name: looking
//! at the endpoints, the profile, the record for `troupe explain`, and counting the request there.
//! Hashing a prompt and asking the index of prefixes are measured by the bench `prefix`.

use std::{hint::black_box, sync::Arc};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use troupe_gateway::{PickerConfig, Trial};
use troupe_runtime::{
    discovery::directory::EndpointRecord,
    id::{EndpointId, Epoch, GroupId, NodeId},
    model::{
        card::ModelCard,
        source::{ModelAccess, ModelFiles, ModelSource},
    },
    transport::{Class, Connection, Link, LocalNetwork, PeerIdentity, PeerRole},
    wire::status::{EndpointInfo, Fingerprint, Role},
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

fn decisions(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let (_link, connection) = runtime.block_on(connection());
    for (name, config) in PROFILES {
        let picker = config.map(|text| PickerConfig::read(text).expect("it is right"));
        let mut group = c.benchmark_group(format!("place/{name}"));
        for endpoints in ENDPOINTS {
            let trial = Trial::new(endpoints, record(), Arc::clone(&connection), picker.as_ref());
            let trial = runtime.block_on(trial).expect("a good model");
            for tokens in TOKENS {
                let id = BenchmarkId::new(format!("{endpoints} endpoints"), tokens);
                let mut request = 0;
                group.bench_function(id, |b| {
                    b.iter(|| {
                        request += 1;
                        black_box(trial.place(request, tokens)).expect("somebody is ready")
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
