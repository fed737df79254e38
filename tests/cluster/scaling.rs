//! A service that sleeps: it has no group until somebody asks, the first request waits for one and
//! is answered, and when nothing was asked for a while the group goes again. One process with a
//! real etcd, a real node whose members are processes, and the gateway.

use std::fs;

use serde_json::{Value, json};
use troupe_runtime::discovery::{
    Registry,
    directory::{self, EventRecord, GroupRecord, ServiceStatus},
    etcd::{EtcdConfig, EtcdRegistry},
    keys::Keys,
};

use crate::{
    etcd_process::EtcdProcess,
    golden, http,
    process::{Troupe, completion, tokens, until},
};

#[test]
fn a_service_sleeps_until_it_is_asked_and_again_when_it_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let etcd = EtcdProcess::start();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("service.yaml"), service()).expect("it can be written");
    let (endpoint, data, file) = (etcd.endpoint(), path("control"), path("service.yaml"));
    let mut args =
        vec!["up", "--etcd", &endpoint, "--data-dir", &data, "--name", "n1", "-f", &file];
    args.extend(["--listen", "127.0.0.1:0", "--host", "127.0.0.1", "--port", "0"]);
    args.extend(["--log-format", "json"]);
    let mut troupe = Troupe::start(&args);
    let gateway = troupe.address("gateway on ");
    let store = Store::open(&endpoint);

    until("it sleeps", || store.status().is_some_and(|status| is_asleep(&status)));
    assert_eq!(store.groups(), 0);
    let golden = golden::json("models/tiny-qwen2/golden.json").expect("it has goldens");
    let of = |name: &str| serde_json::from_value::<Vec<u32>>(golden["prompts"][1][name].clone());
    let (prompt, greedy) = (of("ids").expect("tokens"), of("greedy_ids").expect("tokens"));
    for round in 1..=2 {
        // It is woken by being asked, and answers who woke it.
        let body = completion(&prompt, greedy.len());
        let answer = http::post(gateway, "/v1/completions", &body).expect("an answer");
        let choice: Value = answer.ok()["choices"][0].clone();
        assert_eq!(tokens(&choice), greedy, "round {round}");
        until("its group goes", || store.groups() == 0);
        until("it sleeps", || store.status().is_some_and(|status| is_asleep(&status)));
    }
    let sizes: Vec<String> = store.rescales();
    let woken = "New size: 1; reason: requests wait";
    let asleep = "New size: 0; reason: nothing was asked for 1 s";
    assert!(sizes.iter().any(|size| size == woken), "{sizes:?}");
    assert!(sizes.iter().any(|size| size == asleep), "{sizes:?}");
}

#[test]
fn a_side_that_prefills_sleeps_until_a_prompt_is_for_it_and_nobody_waits_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let etcd = EtcdProcess::start();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("service.yaml"), apart().to_string()).expect("it can be written");
    let (endpoint, data, file) = (etcd.endpoint(), path("control"), path("service.yaml"));
    let mut args =
        vec!["up", "--etcd", &endpoint, "--data-dir", &data, "--name", "n1", "-f", &file];
    args.extend(["--listen", "127.0.0.1:0", "--host", "127.0.0.1", "--port", "0"]);
    args.extend(["--devices", "2", "--log-format", "json"]);
    let mut troupe = Troupe::start(&args);
    let gateway = troupe.address("gateway on ");
    let store = Store::open(&endpoint);
    let answers = || http::get(gateway, "/health").is_ok_and(|answer| answer.status == 200);
    until("somebody answers", answers);
    assert_eq!(store.groups(), 1, "the side that prefills sleeps");
    let golden = golden::json("models/tiny-qwen2/golden.json").expect("it has goldens");
    // One that fills blocks: what has less is always computed where it is answered.
    let prompts = golden["prompts"].as_array().expect("prompts").iter();
    let long = prompts.max_by_key(|prompt| prompt["ids"].as_array().map(Vec::len));
    let of = |name: &str| serde_json::from_value::<Vec<u32>>(long.expect("some")[name].clone());
    let (prompt, greedy) = (of("ids").expect("tokens"), of("greedy_ids").expect("tokens"));
    let body = completion(&prompt, greedy.len());
    let ask = || {
        let answer = http::post(gateway, "/v1/completions", &body).expect("an answer");
        assert_eq!(tokens(&answer.ok()["choices"][0]), greedy);
    };
    ask();
    until("it is woken", || store.groups() == 2);
    let woken = "New size: 1; reason: requests wait";
    assert!(store.rescales().iter().any(|size| size == woken), "{:?}", store.rescales());
    let came = || {
        ask();
        let metrics = http::get(gateway, "/metrics").expect("an answer").text;
        let counted = |line: &&str| line.starts_with("troupe:kv_transfers_total");
        metrics
            .lines()
            .filter(counted)
            .any(|line| line.contains("complete") && !line.ends_with(" 0"))
    };
    until("it computes prompts", came);
}

/// A service whose prompts are always for the side that prefills, which sleeps.
fn apart() -> Value {
    let model = golden::model("tiny-qwen2").expect("the model");
    let template = json!({"containers": [{
        "name": "main",
        // Whole prompts are asked for each time.
        "args": ["--max-model-len=256", "--kv-cache-memory-bytes=67108864",
            "--no-enable-prefix-caching", "--dtype=float32"],
    }]});
    let profile = |name: &str| {
        let plugins = [format!("{name}-filter"), "active-request-scorer".into()];
        json!({"name": name, "plugins": plugins.map(|plugin| json!({"pluginRef": plugin}))})
    };
    let decider = "always-disagg-pd-decider";
    let picker = json!({
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [
            {"type": decider},
            {"type": "disagg-profile-handler", "parameters": {"deciders": {"prefill": decider}}},
            {"type": "prefill-filter"},
            {"type": "decode-filter"},
            {"type": "active-request-scorer"},
        ],
        "schedulingProfiles": [profile("prefill"), profile("decode")],
    });
    json!({
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {"name": "s"},
        "spec": {
            "model": {"uri": format!("file://{}", model.display()), "name": "m"},
            "template": template,
            "prefill": {
                "scaling": {"minReplicas": 0, "maxReplicas": 1, "cooldownPeriod": 60},
                "template": template,
            },
            "router": {"scheduler": {"config": {"inline": picker}}},
        },
    })
}

fn service() -> String {
    let model = golden::model("tiny-qwen2").expect("the model");
    format!(
        "apiVersion: serving.kserve.io/v1alpha1\nkind: LLMInferenceService\nmetadata: {{name: s}}\n\
         spec:\n  model: {{uri: \"file://{}\", name: m}}\n  \
         scaling: {{minReplicas: 0, maxReplicas: 1, cooldownPeriod: 1}}\n  \
         template:\n    containers:\n    - name: main\n      \
         args: [\"--max-model-len\", \"256\", \"--kv-cache-memory-bytes\", \"67108864\"]\n",
        model.display()
    )
}

fn is_asleep(status: &ServiceStatus) -> bool {
    let main = status.conditions.iter().find(|condition| condition.kind == "MainWorkloadReady");
    status.replicas == 0 && main.is_some_and(|condition| condition.reason == "ScaledToZero")
}

/// A look at the store, as an operator would have it.
struct Store {
    runtime: tokio::runtime::Runtime,
    registry: EtcdRegistry,
    keys: Keys,
}

impl Store {
    fn open(endpoint: &str) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let config = EtcdConfig::new([endpoint.to_owned()]);
        let registry = runtime.block_on(EtcdRegistry::new(config)).expect("etcd answers");
        Self { runtime, registry, keys: Keys::new("troupe") }
    }

    fn records<T: serde::de::DeserializeOwned>(&self, prefix: &str) -> Vec<T> {
        let entries = self.runtime.block_on(self.registry.list(prefix)).expect("etcd answers");
        let read = |entry: &troupe_runtime::discovery::Entry| {
            directory::from_bytes(&entry.key, &entry.value).expect("a record")
        };
        entries.iter().map(read).collect()
    }

    fn groups(&self) -> usize {
        self.records::<GroupRecord>(&self.keys.groups()).len()
    }

    fn status(&self) -> Option<ServiceStatus> {
        self.records(&self.keys.service_status("default", "s")).pop()
    }

    fn rescales(&self) -> Vec<String> {
        let events: Vec<EventRecord> = self.records(&self.keys.events());
        let rescales = events.into_iter().filter(|event| event.reason == "SuccessfulRescale");
        rescales.map(|event| event.message).collect()
    }
}
