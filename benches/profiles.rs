//! Conversations over several real engines on this machine's processors, placed in different
//! ways: how much of the prompts was found in a cache, and how long the first token took.
//!
//! ```text
//! cargo bench --bench profiles -- --random-125m DIR [--endpoints N] [--conversations N]
//! ```
//! Conversations begin with one of a few system prompts and have some turns, four at a time,
//! each of a client that asks again as soon as it has its answer. Engines have blocks for a
//! part of them only. Every way of placing gets engines that know nothing, and the same
//! conversations. etcd has to be installed.

#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

#[allow(dead_code)]
#[path = "../src/bench/checkpoint.rs"]
mod checkpoint;
#[allow(dead_code)]
#[path = "../tests/support/etcd.rs"]
mod etcd;
#[allow(dead_code)]
#[path = "../tests/support/http.rs"]
mod http;
#[allow(dead_code)]
#[path = "../tests/support/process.rs"]
mod process;
#[allow(dead_code, unused_imports)]
#[path = "../src/bench/random.rs"]
mod random;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::time::Instant;

use etcd::EtcdProcess;
use process::{Troupe, completion, tokens, until};

const SYSTEM_PROMPTS: u32 = 16;
const SYSTEM_TOKENS: u32 = 512;
const TURNS: u32 = 3;
const TURN_TOKENS: u32 = 48;
const OUTPUT: usize = 16;
const CLIENTS: usize = 4;
/// KV blocks of an engine: four conversations or so.
const BLOCKS: u32 = 200;

/// Ways of placing, as plug-ins with weights; none is the default. With [`ROUND_ROBIN`], clients
/// name one endpoint after the other, and the gateway has nobody else to place them at.
const PROFILES: [(&str, &[(&str, u32)]); 5] = [
    ("default", &[]),
    (ROUND_ROBIN, &[]),
    ("random", &[("random-picker", 1)]),
    ("least-loaded", &[("queue-scorer", 1), ("running-requests-size-scorer", 1)]),
    (
        "llm-d",
        &[
            ("prefix-cache-scorer", 3),
            ("queue-scorer", 2),
            ("kv-cache-utilization-scorer", 2),
            ("no-hit-lru-scorer", 2),
        ],
    ),
];

const ROUND_ROBIN: &str = "round-robin";

/// One answer.
struct Answered {
    prompt: usize,
    cached: u64,
    first: f64,
}

fn main() {
    let (mut model, mut endpoints, mut conversations) = (None, 8, 40);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--bench" => {}
            "--random-125m" => model = Some(PathBuf::from(value())),
            "--endpoints" => endpoints = value().parse().expect("--endpoints takes a number"),
            "--conversations" => {
                conversations = value().parse().expect("--conversations takes a number");
            }
            other => panic!("{other} is not known; see the top of benches/profiles.rs"),
        }
    }
    let model = model.expect("--random-125m DIR is needed; see the top of benches/profiles.rs");
    checkpoint::write(&checkpoint::Shape::M125, &model).expect("the model can be written");
    println!(
        "{endpoints} endpoints, {conversations} conversations of {TURNS} turns\n\n{:<16}{:>8}{:>10}\
         {:>10}{:>10}{:>10}{:>10}",
        "", "hits", "mean, ms", "p50", "p90", "p99", "seconds"
    );
    for (name, plugins) in PROFILES {
        measure(name, plugins, &model, (endpoints, conversations));
    }
}

fn measure(name: &str, plugins: &[(&str, u32)], model: &Path, (endpoints, all): (usize, u32)) {
    let (folder, etcd) = (tempfile::tempdir().expect("a folder"), EtcdProcess::start());
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("service.json"), service(model, endpoints).to_string()).expect("it is written");
    fs::write(path("picker.json"), picker(plugins).to_string()).expect("it is written");
    let (endpoint, data, devices) = (etcd.endpoint(), path("control"), endpoints.to_string());
    let (service, picker) = (path("service.json"), path("picker.json"));
    let mut args = vec!["up", "--etcd", &endpoint, "--roles", "controller,gateway,node"];
    args.extend(["--devices", &devices, "--data-dir", &data, "-f", &service]);
    args.extend(["--listen", "127.0.0.1:0", "--host", "127.0.0.1", "--port", "0"]);
    if !plugins.is_empty() {
        args.extend(["--endpoint-picker-config", &picker]);
    }
    let mut troupe = Troupe::start(&args);
    let address = troupe.address("gateway on ");
    let ready = || {
        let text = http::get(address, "/metrics").map(|answer| answer.text).unwrap_or_default();
        text.matches("\nvllm:cache_config_info{").count() == endpoints
    };
    until("all endpoints serve", ready);

    let (next, answered) = (Mutex::new(0), Mutex::new(Vec::new()));
    let turn = (name == ROUND_ROBIN).then(|| (AtomicUsize::new(0), endpoints));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let number = {
                        let mut next = next.lock().expect("nobody panics with it");
                        *next += 1;
                        *next - 1
                    };
                    if number >= all {
                        return;
                    }
                    let told = converse(address, number, turn.as_ref());
                    answered.lock().expect("nobody panics with it").extend(told);
                }
            });
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    let answered = answered.into_inner().expect("nobody panics with it");
    let (prompt, cached) = answered
        .iter()
        .fold((0, 0), |(prompt, cached), one| (prompt + one.prompt as u64, cached + one.cached));
    let mut first: Vec<f64> = answered.iter().map(|one| one.first * 1000.0).collect();
    first.sort_by(f64::total_cmp);
    let mean = first.iter().sum::<f64>() / first.len() as f64;
    let at = |share: f64| first[((first.len() - 1) as f64 * share) as usize];
    println!(
        "{name:<16}{:>7.1}%{mean:>10.0}{:>10.0}{:>10.0}{:>10.0}{seconds:>10.1}",
        cached as f64 / prompt as f64 * 100.0,
        at(0.5),
        at(0.9),
        at(0.99)
    );
}

/// A whole conversation; where endpoints take turns, with each request at the next of so many.
fn converse(
    address: SocketAddr,
    number: u32,
    turns: Option<&(AtomicUsize, usize)>,
) -> Vec<Answered> {
    let mut prompt = text(number % SYSTEM_PROMPTS, SYSTEM_TOKENS);
    let mut answered = Vec::new();
    for turn in 0..TURNS {
        prompt.extend(text(1000 + number * TURNS + turn, TURN_TOKENS));
        let mut body = completion(&prompt, OUTPUT);
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let began = Instant::now();
        let endpoint = turns.map(|(next, all)| next.fetch_add(1, Ordering::Relaxed) % all);
        let header = endpoint.map(|index| format!("{SUBSET}: default/s/{index}\r\n"));
        let header = header.unwrap_or_default();
        let stream = http::stream_with(address, "/v1/completions", &header, &body);
        let stream = stream.expect("an answer");
        let (mut first, mut cached, mut said) = (None, 0, Vec::new());
        for event in stream {
            match event {
                http::Event::Data(data) => {
                    if let Some(told) =
                        data["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64()
                    {
                        cached = told;
                    }
                    if data["choices"].as_array().is_some_and(|choices| !choices.is_empty()) {
                        first.get_or_insert_with(|| began.elapsed().as_secs_f64());
                        said.extend(tokens(&data["choices"][0]));
                    }
                }
                http::Event::Done => {}
                http::Event::Broken(why) => panic!("the stream broke: {why}"),
            }
        }
        let first = first.expect("an answer has a token");
        answered.push(Answered { prompt: prompt.len(), cached, first });
        prompt.extend(said);
    }
    answered
}

/// Names the only endpoints that may answer.
const SUBSET: &str = "x-gateway-destination-endpoint-subset";

/// Tokens that no text of another number has in this order.
fn text(number: u32, len: u32) -> Vec<u32> {
    (0..len).map(|at| 100 + (at * 37 + number * 101 + at * number * 7) % 30_000).collect()
}

fn picker(plugins: &[(&str, u32)]) -> Value {
    let types: Vec<Value> = plugins.iter().map(|(name, _)| json!({"type": name})).collect();
    let refs: Vec<Value> = plugins
        .iter()
        .map(|(name, weight)| match name.ends_with("-picker") {
            true => json!({"pluginRef": name}),
            false => json!({"pluginRef": name, "weight": weight}),
        })
        .collect();
    json!({
        "apiVersion": "llm-d.ai/v1",
        "kind": "EndpointPickerConfig",
        "plugins": types,
        "schedulingProfiles": [{"name": "default", "plugins": refs}],
    })
}

fn service(model: &Path, replicas: usize) -> Value {
    let args = [
        "--max-model-len=1024".to_owned(),
        "--max-num-seqs=8".to_owned(),
        "--threads=1".to_owned(),
        format!("--num-gpu-blocks-override={BLOCKS}"),
    ];
    json!({
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {"name": "s"},
        "spec": {
            "model": {"uri": format!("file://{}", model.display()), "name": "m"},
            "replicas": replicas,
            "template": {"containers": [{"name": "main", "args": args}]},
        },
    })
}
