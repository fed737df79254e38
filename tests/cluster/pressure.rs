//! Sixty-four requests at once into a KV cache that is far too small for them: tokens are the
//! golden ones all the same, whatever is preempted, shared, chunked or drafted on the way.

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    golden,
    goldens::{ids, models, prompts},
    http,
    process::{Server, completion, tokens, until},
};

const REQUESTS: usize = 64;
/// Two of the longest sequences and a half: 150 tokens of prompt and 48 of output in blocks of 16.
const BLOCKS: &str = "32";
/// One of the longest and a bit: sequences give back what left their window, so fewer are enough
/// for most of them.
const BLOCKS_WITH_WINDOW: &str = "16";
const DRAFTS: &str = r#"{"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1}"#;

/// A way to run, and what has to be seen in it.
struct Setting {
    flags: &'static [&'static str],
    caches: bool,
    drafts: bool,
}

const SETTINGS: [Setting; 4] = [
    Setting { flags: &[], caches: true, drafts: false },
    Setting { flags: &["--no-enable-prefix-caching"], caches: false, drafts: false },
    Setting { flags: &["--speculative-config", DRAFTS], caches: true, drafts: true },
    Setting { flags: &["-pp", "2", "--scheduling-policy", "lpm"], caches: true, drafts: false },
];

#[test]
fn tokens_are_golden_under_pressure() {
    for model in models() {
        let requests = requests(&model);
        for setting in &SETTINGS {
            check(&model, &requests, setting);
        }
    }
}

/// Ten thousand requests where two run and eight may wait: what is too much is told so, and what
/// was let in is finished as if nobody else had asked.
#[test]
fn a_flood_is_turned_away_and_what_was_let_in_is_finished() {
    const CLIENTS: usize = 100;
    const EACH: usize = 100;
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    // Else the gateway would have them wait, and the leader's bound would not be met.
    let mut args = vec!["--flow-control", "off", "--dtype", "float32"];
    args.extend(["--max-num-seqs", "2", "--max-num-queued-reqs", "8"]);
    let server = Server::serve(&model, &args);
    let (prompt, wanted) = requests(&model).swap_remove(0);
    let ask = || {
        let body = completion(&prompt, wanted.len());
        let answer = http::post(server.address, "/v1/completions", &body).expect("an answer");
        if answer.status == 200 {
            assert_eq!(tokens(&answer.json()["choices"][0]), wanted);
            return true;
        }
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert!(answer.headers.contains("retry-after: 1\n"), "{}", answer.headers);
        let message = "The engine is currently busy and cannot accept new requests. Please try \
                       again later or on a different instance.";
        let error = json!({
            "message": message, "type": "Service Unavailable", "param": null, "code": 503,
        });
        assert_eq!(answer.json(), json!({ "error": error }));
        false
    };
    let client = || (0..EACH).filter(|_| ask()).count();
    let answered: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().expect("all are answered")).sum()
    });
    assert!(answered >= 10, "{answered}: two run and eight wait");
    let refused = (CLIENTS * EACH - answered) as f64;
    assert!(refused > 0.0, "none was too much");
    let metric = |name: &str| server.metric(name);
    assert_eq!(metric("vllm:admission_rejections_total"), refused);
    assert_eq!(metric("vllm:request_queue_time_seconds_count"), answered as f64);
    let empty =
        ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"];
    until("nothing runs, waits or holds a block", || empty.iter().all(|name| metric(name) == 0.0));
}

fn check(model: &Path, requests: &[(Vec<u32>, Vec<u32>)], setting: &Setting) {
    let what = format!("{} {:?}", model.display(), setting.flags);
    let mut args = vec!["--dtype", "float32", "--num-gpu-blocks-override", blocks(model)];
    args.extend(["--max-num-batched-tokens", "16", "--max-num-queued-reqs", "1024"]);
    args.extend(setting.flags);
    let server = Server::serve(model, &args);
    let cached: u64 = std::thread::scope(|scope| {
        let asked = requests.iter().map(|(prompt, wanted)| {
            let (server, what) = (&server, &what);
            scope.spawn(move || {
                let body = completion(prompt, wanted.len());
                let answer = http::post(server.address, "/v1/completions", &body);
                let answer = answer.expect("an answer").ok();
                assert_eq!(tokens(&answer["choices"][0]), *wanted, "{what}");
                let cached = answer.pointer("/usage/prompt_tokens_details/cached_tokens");
                cached.and_then(Value::as_u64).expect("it says how many")
            })
        });
        let asked: Vec<_> = asked.collect();
        asked.into_iter().map(|asked| asked.join().expect("an answer")).sum()
    });
    let metric = |name| server.metric(name);
    assert!(metric("vllm:num_preemptions_total") > 0.0, "{what}: nothing was preempted");
    assert_eq!(cached > 0, setting.caches, "{what}: {cached} tokens came out of the cache");
    let accepted = metric("vllm:spec_decode_num_accepted_tokens_total");
    assert_eq!(accepted > 0.0, setting.drafts, "{what}: {accepted} tokens of drafts were right");
    until("all blocks are free", || server.metric("vllm:kv_cache_usage_perc") == 0.0);
}

fn blocks(model: &Path) -> &'static str {
    let config = std::fs::read(model.join("config.json")).expect("a model has one");
    let config: Value = serde_json::from_slice(&config).expect("it is JSON");
    let window = config.get("sliding_window").is_some_and(Value::is_number);
    if window { BLOCKS_WITH_WINDOW } else { BLOCKS }
}

/// Golden prompts with as many of their golden tokens as the number of the request says; prompts
/// of the batch goldens too, where the model has them.
fn requests(model: &Path) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut known: Vec<(Vec<u32>, Vec<u32>)> = prompts(model)
        .iter()
        .map(|prompt| (ids(&prompt["ids"]), ids(&prompt["greedy_ids"])))
        .collect();
    let name = model.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let batch = golden::json(&format!("models/{name}/golden_batch.json"));
    let batch = batch.as_ref().and_then(|batch| batch["requests"].as_array());
    for request in batch.into_iter().flatten() {
        known.push((ids(&request["ids"]), ids(&request["greedy_ids"])));
    }
    let of = |number: usize| {
        let (prompt, greedy) = &known[number % known.len()];
        let most = greedy.len();
        (prompt.clone(), greedy[..most - number * 3 % (most / 2).max(1)].to_vec())
    };
    (0..REQUESTS).map(of).collect()
}
