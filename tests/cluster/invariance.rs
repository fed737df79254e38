//! Batch invariance, as bytes of JSON: a request's answer with its log-probabilities is the same
//! whatever it is computed with and however its computation is cut.
//!
//! Promise 1 (a moved or preempted stream goes on token for token) stands on this, because what was
//! computed by decode is then computed again by prefill.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{
    checkpoint, golden, http,
    process::{Server, completion},
};

const TOKENS: usize = 40;

/// What is compared: everything of the choice but its finish, as text, for bytes are the claim.
fn answer(server: &Server, prompt: &[u32], tokens: usize) -> Value {
    http::post(server.address, "/v1/completions", &body(prompt, tokens)).expect("an answer").ok()
}

fn body(prompt: &[u32], tokens: usize) -> Value {
    let mut body = completion(prompt, tokens);
    body["logprobs"] = json!(5);
    body["return_tokens_as_token_ids"] = json!(true);
    body
}

fn logprobs(answer: &Value) -> String {
    answer["choices"][0]["logprobs"].to_string()
}

fn token_ids(answer: &Value) -> Vec<u32> {
    let tokens = answer.pointer("/choices/0/logprobs/tokens").and_then(Value::as_array);
    let id = |token: &Value| token.as_str()?.strip_prefix("token_id:")?.parse().ok();
    tokens.expect("tokens").iter().map(|token| id(token).expect("an id")).collect()
}

#[test]
fn bytes_do_not_depend_on_anything_but_the_request() {
    for (model, prompt, tokens) in models() {
        check(&model, prompt, tokens, &[]);
    }
    let chat = golden::model("tiny-chat").expect("both sets have it");
    for bits in ["int8", "int4"] {
        check(&chat, 150, TOKENS, &["--quantization", bits]);
    }
}

fn check(model: &Path, prompt_len: u32, tokens: usize, format: &[&str]) {
    let serve = |flags: &[&str]| Server::serve(model, &[format, flags].concat());
    let prompt: Vec<u32> = (0..prompt_len).map(|at| 5 + at * 7 % 200).collect();
    let name = model.display();
    let server = serve(&["--threads", "2"]);
    let alone = answer(&server, &prompt, tokens);
    let expected = logprobs(&alone);
    let expect =
        |what: &str, answer: &Value| assert_eq!(logprobs(answer), expected, "{name}: {what}");

    let again = answer(&server, &prompt, tokens);
    let cached = again.pointer("/usage/prompt_tokens_details/cached_tokens");
    assert_eq!(cached, Some(&json!(prompt_len - 1)), "{name}: all but the last token");
    expect("after a prefix hit", &again);
    let others = (0..26).map(|n| (0..10 + 5 * n).map(|at| 9 + at * 3 % 190).collect());
    for together in among(&server, &prompt, tokens, others.collect()) {
        expect("among 32", &together);
    }
    check_recomputed(&server, &prompt, &alone);
    drop(server);

    let settings: [&[&str]; 9] = [
        &["--threads", "1", "--no-enable-prefix-caching"],
        &["--threads", "2", "--max-num-batched-tokens", "16"],
        &["--threads", "2", "--no-enable-prefix-caching", "--max-num-batched-tokens", "16"],
        &["--cpu-path", "portable"],
        &["--cpu-path", "avx2"],
        &["--cpu-path", "avx512"],
        &["--cpu-path", "avx512-vnni"],
        &["--cpu-path", "avx512-bf16"],
        &["--speculative-config", r#"{"method": "ngram", "num_speculative_tokens": 4}"#],
    ];
    for flags in settings {
        if !is_available(flags) {
            continue;
        }
        let server = serve(flags);
        expect(&flags.join(" "), &answer(&server, &prompt, tokens));
    }

    // Room for two prompts and one block more: the younger one is preempted when both have grown.
    let blocks = (2 * prompt_len.div_ceil(16) + 1).to_string();
    let server = serve(&["--num-gpu-blocks-override", &blocks]);
    let others =
        (1..4).map(|number| (0..prompt_len).map(|at| 9 + (at * 3 + number) % 190).collect());
    for preempted in among(&server, &prompt, tokens, others.collect()) {
        expect("preempted", &preempted);
    }
    assert!(
        server.metric("vllm:num_preemptions_total") > 0.0,
        "{name}: there was to be too little"
    );
}

/// The prompt and some of its own answer, computed by prefill, go on with the rest of the answer.
fn check_recomputed(server: &Server, prompt: &[u32], alone: &Value) {
    let told = token_ids(alone);
    let all = &alone["choices"][0]["logprobs"];
    for from in (1..told.len()).step_by(5) {
        let moved: Vec<u32> = prompt.iter().chain(&told[..from]).copied().collect();
        let rest = answer(server, &moved, told.len() - from);
        let own = &rest["choices"][0]["logprobs"];
        for part in ["tokens", "token_logprobs", "top_logprobs"] {
            let expected = &all[part].as_array().expect("one per token")[from..];
            assert_eq!(own[part].to_string(), json!(expected).to_string(), "{part} from {from}");
        }
    }
}

/// The request at once with these others, before, between and after them.
fn among(server: &Server, prompt: &[u32], tokens: usize, others: Vec<Vec<u32>>) -> Vec<Value> {
    std::thread::scope(|scope| {
        let mut own = Vec::new();
        let mut running = Vec::new();
        for (index, other) in others.into_iter().enumerate() {
            if index % 4 == 1 {
                own.push(scope.spawn(|| answer(server, prompt, tokens)));
            }
            running.push(scope.spawn(move || answer(server, &other, tokens)));
        }
        running.into_iter().for_each(|other| drop(other.join().expect("an answer")));
        own.into_iter().map(|own| own.join().expect("an answer")).collect()
    })
}

/// A path that this machine has not cannot be forced.
fn is_available(flags: &[&str]) -> bool {
    #[cfg(target_arch = "x86_64")]
    match flags {
        ["--cpu-path", "avx2"] => return is_x86_feature_detected!("avx2"),
        ["--cpu-path", "avx512"] => return is_x86_feature_detected!("avx512bw"),
        ["--cpu-path", "avx512-vnni"] => return is_x86_feature_detected!("avx512vnni"),
        ["--cpu-path", "avx512-bf16"] => {
            return is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("avx512bf16");
        }
        _ => {}
    }
    #[cfg(not(target_arch = "x86_64"))]
    if let ["--cpu-path", path] = flags {
        return *path == "portable";
    }
    true
}

/// A trained model, one that was made to answer, and one of 125 million random numbers; stored in
/// bfloat16 where the set has them so.
fn models() -> Vec<(PathBuf, u32, usize)> {
    let chat = golden::model("tiny-chat").expect("both sets have it");
    let mut models = vec![(chat, 150, TOKENS)];
    // Only the full set has it.
    models.extend(golden::model("stories260k-bf16").map(|model| (model, 150, TOKENS)));
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("random-125m");
    checkpoint::write(&checkpoint::Shape::M125, &folder).expect("the model is written");
    // Small enough for the slowest path on a busy machine, and for a second chunk and block.
    models.push((folder, 30, 12));
    models
}
