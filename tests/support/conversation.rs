//! Conversations over two groups: what is asked, what is said, and what of it was found in a cache.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::{
    golden, http,
    process::{completion, tokens},
};

/// Tokens of an answer.
pub(crate) const ANSWER: usize = 17;
/// Tokens of a KV block.
pub(crate) const BLOCK_SIZE: usize = 16;

/// Asks, and returns question and answer, and how much of it was found; nothing if the gateway is
/// gone.
pub(crate) fn ask(gateway: SocketAddr, prompt: &[u32]) -> Option<(Vec<u32>, usize)> {
    let answer = http::post(gateway, "/v1/completions", &completion(prompt, ANSWER)).ok()?.ok();
    let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    let said = tokens(&answer["choices"][0]);
    Some(([prompt, &said].concat(), cached.unwrap_or(0) as usize))
}

/// Goes on with a conversation; everything that was computed before has to be found.
pub(crate) fn go_on(gateway: SocketAddr, conversation: &mut Vec<u32>, question: Vec<u32>) {
    // All but the last token of the answer, in full blocks.
    let before = (conversation.len() - 1) / BLOCK_SIZE * BLOCK_SIZE;
    conversation.extend(question);
    let (all, cached) = ask(gateway, conversation).expect("the gateway is there");
    assert!(cached >= before, "{cached} of {before} tokens were found");
    *conversation = all;
}

/// Tokens that no other question of another number has in this order.
pub(crate) fn question(number: u32, len: u32) -> Vec<u32> {
    (0..len).map(|at| 10 + (at * 37 + number * 101 + at * number) % 200).collect()
}

/// What a gateway has counted under a name; one for each line.
pub(crate) fn counted(gateway: SocketAddr, name: &str) -> Vec<f64> {
    let Ok(answer) = http::get(gateway, "/metrics") else { return Vec::new() };
    let lines = answer.text.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
}

/// A service of two groups that take some time for a step.
pub(crate) fn two_groups() -> Value {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    json!({
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
