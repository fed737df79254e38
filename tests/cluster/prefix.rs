//! Two groups and some conversations: each goes on where the beginning of it was computed, because
//! the gateway knows from the leaders what they hold. One process, real engines.

use std::{fs, net::SocketAddr};

use serde_json::Value;

use crate::{
    golden, http,
    process::{Troupe, completion, tokens, until},
};

const CONVERSATIONS: u32 = 8;
const TURNS: usize = 3;
/// Tokens of the first question, of an answer, and of each further question.
const LENGTHS: (u32, usize, u32) = (64, 17, 23);
const BLOCK_SIZE: usize = 16;

#[test]
fn a_conversation_goes_on_where_its_beginning_was_computed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("service.yaml"), service().to_string()).expect("it can be written");
    let (data, file) = (path("control"), path("service.yaml"));
    let mut args = vec!["up", "--data-dir", &data, "--name", "n1", "--devices", "2", "-f", &file];
    args.extend(["--listen", "127.0.0.1:0", "--host", "127.0.0.1", "--port", "0"]);
    args.extend(["--log-format", "json"]);
    let mut troupe = Troupe::start(&args);
    let gateway = troupe.address("gateway on ");
    until("both groups serve", || computed(gateway).len() == 2);

    // All begin at once, so that both groups get some.
    let mut conversations: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let begin = |number| scope.spawn(move || turn(gateway, &question(number, LENGTHS.0)).0);
        let begun: Vec<_> = (0..CONVERSATIONS).map(begin).collect();
        begun.into_iter().map(|turn| turn.join().expect("an answer")).collect()
    });
    let begun = computed(gateway);
    assert!(begun.iter().all(|tokens| *tokens > 0.0), "both have something to do: {begun:?}");
    for _ in 1..TURNS {
        for (number, conversation) in (0..).zip(&mut conversations) {
            // What was computed before: all but the last token of the answer, in full blocks.
            let before = (conversation.len() - 1) / BLOCK_SIZE * BLOCK_SIZE;
            conversation.extend(question(100 + number, LENGTHS.2));
            let (all, cached) = turn(gateway, conversation);
            assert!(cached >= before, "conversation {number}: {cached} of {before} were found");
            *conversation = all;
        }
    }
}

/// Asks, and returns question and answer, and how much of it was found.
fn turn(gateway: SocketAddr, prompt: &[u32]) -> (Vec<u32>, usize) {
    let body = completion(prompt, LENGTHS.1);
    let answer = http::post(gateway, "/v1/completions", &body).expect("an answer").ok();
    let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    let said = tokens(&answer["choices"][0]);
    ([prompt, &said].concat(), cached.unwrap_or(0) as usize)
}

/// Tokens that no other question of another number has in this order.
fn question(number: u32, len: u32) -> Vec<u32> {
    (0..len).map(|at| 10 + (at * 37 + number * 101 + at * number) % 200).collect()
}

/// Tokens that each group has looked for in its cache.
fn computed(gateway: SocketAddr) -> Vec<f64> {
    let Ok(answer) = http::get(gateway, "/metrics") else { return Vec::new() };
    let of = |line: &str| -> Option<f64> {
        let is_it = line.starts_with("vllm:prefix_cache_queries_total{");
        is_it.then(|| line.rsplit(' ').next()?.parse().ok()).flatten()
    };
    answer.text.lines().filter_map(of).collect()
}

fn service() -> Value {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    serde_json::json!({
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {"name": "s"},
        "spec": {
            "model": {"uri": format!("file://{}", model.display()), "name": "m"},
            "replicas": 2,
            "template": {"containers": [{
                "name": "main",
                "args": ["--max-model-len=256", "--stage-time-min-ms=10"],
            }]},
        },
    })
}
