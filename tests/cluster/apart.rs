//! Prefill apart from decode, with the real binary: a service whose prompts are computed by groups
//! of their own, of another division, in processes on another node. Tokens are the golden ones, KV
//! comes from the other side, and when that side is killed while it is asked nothing is lost.

use std::{fs, net::SocketAddr, thread};

use serde_json::{Value, json};

use crate::{
    conversation::BLOCK_SIZE,
    etcd_process::EtcdProcess,
    golden,
    goldens::{ids, prompts},
    http, picker,
    process::{Server, Troupe, completion, is_running, kill, tokens, until},
};

/// (tensor ranks, stages) of the side that prefills, and of the one that decodes.
const PAIRS: [[(u32, u32); 2]; 5] =
    [[(4, 1), (1, 2)], [(2, 1), (1, 1)], [(1, 2), (2, 1)], [(2, 2), (1, 4)], [(1, 1), (2, 2)]];
/// Clients at a time, and requests of each.
const LOAD: (u32, u32) = (4, 6);

/// A cluster of two nodes, of which one has just the devices of each side.
struct Apart {
    prefill: Troupe,
    decode: Troupe,
    control: Server,
    _etcd: EtcdProcess,
    _folder: tempfile::TempDir,
}

impl Apart {
    /// `shm` is what both sides say of memory that they could share.
    fn start(model: &str, [prefill, decode]: [(u32, u32); 2], shm: &str) -> Self {
        let etcd = EtcdProcess::start();
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let document = service(model, (prefill, decode), shm).to_string();
        fs::write(path("service.yaml"), document).expect("it can be written");
        let endpoint = etcd.endpoint();
        let (data, service) = (path("control"), path("service.yaml"));
        let mut args = vec!["up", "--roles", "controller,gateway", "--etcd", &endpoint];
        args.extend(["-f", &service, "--data-dir", &data, "--listen", "127.0.0.1:0"]);
        args.extend(["--host", "127.0.0.1", "--port", "0", "--log-format", "json"]);
        let mut troupe = Troupe::start(&args);
        let address = troupe.address("gateway on ");
        let control = Server { troupe, address };
        // The sides tell their nodes apart by a label.
        let node = |name: &str, (tensor, pipeline): (u32, u32)| {
            let (data, ca) = (path(name), path("control/ca"));
            let (devices, label) = ((tensor * pipeline).to_string(), format!("side={name}"));
            let mut args = vec!["node", "--etcd", &endpoint, "--name", name, "--data-dir", &data];
            args.extend(["--ca", &ca, "--devices", &devices, "--label", &label]);
            args.extend(["--listen", "127.0.0.1:0", "--log-format", "json"]);
            args.extend(["--log", "troupe_runtime::transport::shm=debug,info"]);
            Troupe::start(&args)
        };
        let (one, other) = (node("prefill", prefill), node("decode", decode));
        let apart = Self { prefill: one, decode: other, control, _etcd: etcd, _folder: folder };
        until("both sides serve", || counted(address, "vllm:cache_config_info", "").len() == 2);
        apart
    }

    /// How many transfers had this end.
    fn transfers(&self, outcome: &str) -> f64 {
        let with = format!("outcome=\"{outcome}\"");
        counted(self.control.address, "troupe:kv_transfers_total", &with).iter().sum()
    }
}

#[test]
fn processes_of_unequal_sides_give_the_golden_tokens() {
    let models = ["tiny-gemma2", "tiny-llama-tied", "tiny-deepseek-v2"];
    let shm = ["on", "on", "off"].into_iter().cycle();
    for ((pair, model), shm) in PAIRS.into_iter().zip(models.into_iter().cycle()).zip(shm) {
        let folder = golden::model(model).expect("both sets have it");
        let apart = Apart::start(&folder.display().to_string(), pair, shm);
        let mut long = 0;
        for prompt in prompts(&folder) {
            let (tokens_of, wanted) = (ids(&prompt["ids"]), ids(&prompt["greedy_ids"]));
            let told = tokens(&apart.control.complete(&tokens_of, wanted.len()));
            assert_eq!(told, wanted, "{model} {pair:?} {}", prompt["id"]);
            long += u32::from(tokens_of.len() > BLOCK_SIZE);
        }
        let ends = ["complete", "partial", "nothing"].map(|outcome| apart.transfers(outcome));
        assert_eq!(ends, [f64::from(long), 0.0, 0.0], "{model} {pair:?}");
        // They are on one host, and see each other.
        let shared = !apart.decode.said("tensors come through shared memory").is_empty();
        assert_eq!(shared, shm == "on", "{model} {pair:?}");
    }
}

#[test]
fn a_side_that_prefills_is_killed_under_load_and_no_request_is_lost() {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    let apart = Apart::start(&model.display().to_string(), [(2, 1), (1, 2)], "on");
    let address = apart.control.address;
    let expected = |prompt: &[u32]| {
        // What it says when nobody is killed, from a prompt that is computed where it is answered.
        tokens(&apart.control.complete(prompt, 20))
    };
    let question = |client: u32, round: u32| -> Vec<u32> {
        (0..90).map(|at| 10 + (at * 37 + client * 101 + round * 17 + at * round) % 200).collect()
    };
    let members = apart.prefill.members();
    let answers: Vec<Vec<(Vec<u32>, Vec<u32>)>> = thread::scope(|scope| {
        let client = |client: u32| {
            scope.spawn(move || {
                let mut answers = Vec::new();
                for round in 0..LOAD.1 {
                    let prompt = question(client, round);
                    let body = completion(&prompt, 20);
                    let answer = http::post(address, "/v1/completions", &body).expect("an answer");
                    answers.push((prompt, tokens(&answer.ok()["choices"][0])));
                }
                answers
            })
        };
        let clients: Vec<_> = (0..LOAD.0).map(client).collect();
        until("KV has come", || apart.transfers("complete") > 2.0);
        members.iter().copied().for_each(kill);
        clients
            .into_iter()
            .map(|client| client.join().expect("every request is answered"))
            .collect()
    });
    until("its members are gone", || !members.iter().copied().any(is_running));
    for (prompt, told) in answers.into_iter().flatten() {
        assert_eq!(told, expected(&prompt), "after {prompt:?}");
    }
}

/// The values of all series of a metric with these labels.
fn counted(gateway: SocketAddr, name: &str, with: &str) -> Vec<f64> {
    let Ok(answer) = http::get(gateway, "/metrics") else { return Vec::new() };
    let lines = answer.text.lines().filter(|line| line.starts_with(name) && line.contains(with));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
}

fn service(model: &str, (prefill, decode): ((u32, u32), (u32, u32)), shm: &str) -> Value {
    let side = |(tensor, pipeline): (u32, u32), name: &str| {
        json!({
            "parallelism": {"tensor": tensor, "pipeline": pipeline},
            "template": {
                "nodeSelector": {"side": name},
                "containers": [{
                    "name": "main",
                    "args": ["--max-model-len=256", "--dtype=float32", "--stage-time-min-ms=5",
                        "--kv-cache-memory-bytes=67108864", "--kv-transfer-timeout-ms=60000",
                        format!("--kv-transfer-shm={shm}")],
                }],
            },
        })
    };
    let mut spec = side(decode, "decode");
    spec["model"] = json!({"uri": format!("file://{model}"), "name": "m"});
    spec["prefill"] = side(prefill, "prefill");
    spec["router"] = json!({"scheduler": {"config": {"inline": picker::always_apart()}}});
    json!({
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {"name": "s"},
        "spec": spec,
    })
}
