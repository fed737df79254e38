//! Golden tokens over HTTP, for every model of the set and every way of dividing it.
//!
//! The goldens were computed in float32 and checked in float64; their smallest margin is far above
//! float32's error, so the tokens have to be equal whatever the division. Models that are stored in
//! bfloat16 are therefore computed in float32 here.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{
    golden, http,
    process::{Server, Troupe, completion, tokens},
};

/// What this version can serve; the full set holds other families and formats too.
const ARCHITECTURES: [&str; 11] = [
    "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
];
/// Tensor-parallel ranks and stages.
const DIVISIONS: [(u32, u32); 6] = [(1, 1), (2, 1), (4, 1), (1, 2), (1, 4), (2, 2)];
/// The goldens' numbers were computed in another order of additions.
const LOGPROB_TOLERANCE: f64 = 1e-3;

#[test]
fn every_model_gives_its_golden_tokens_on_two_stages_of_two_ranks() {
    let models = models();
    assert!(models.len() >= 5, "the set holds only {models:?}");
    for model in &models {
        check_tokens(&Server::serve(model, &flags(2, 2)), model);
    }
}

#[test]
fn every_division_gives_the_golden_tokens() {
    // Two KV heads, so that four ranks hold copies; two KV groups; experts, and rows for all heads.
    for name in ["tiny-llama-tied", "tiny-gemma2", "tiny-deepseek-v2"] {
        let model = golden::model(name).expect("both sets have it");
        for (tensor, pipeline) in DIVISIONS {
            check_tokens(&Server::serve(&model, &flags(tensor, pipeline)), &model);
        }
    }
}

#[test]
fn processes_give_the_golden_tokens() {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    let divisions = [
        (1, 2, "--stage-processes", 2),
        (1, 4, "--stage-processes", 4),
        (2, 2, "--stage-processes", 2),
        (2, 1, "--rank-processes", 2),
        (2, 2, "--rank-processes", 4),
    ];
    for (tensor, pipeline, how, members) in divisions {
        let mut args = flags(tensor, pipeline);
        args.push(how);
        let server = Server::serve(&model, &args);
        assert_eq!(server.troupe.members().len(), members, "{how} {tensor} {pipeline}");
        check_tokens(&server, &model);
    }
}

#[test]
fn ranks_that_divide_experts_give_the_golden_tokens() {
    let model = golden::model("tiny-deepseek-v2").expect("both sets have it");
    for (tensor, pipeline, how) in [(2, 1, "--rank-processes"), (2, 2, "--stage-processes")] {
        let mut args = flags(tensor, pipeline);
        args.extend([how, "--enable-expert-parallel"]);
        check_tokens(&Server::serve(&model, &args), &model);
    }
}

#[test]
fn logprobs_are_the_golden_ones() {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    let server = Server::serve(&model, &flags(2, 2));
    for prompt in prompts(&model) {
        let mut body = completion(&ids(&prompt["ids"]), 48);
        body["logprobs"] = json!(5);
        body["return_tokens_as_token_ids"] = json!(true);
        let answer = http::post(server.address, "/v1/completions", &body).expect("an answer").ok();
        let told = answer.pointer("/choices/0/logprobs/top_logprobs").and_then(Value::as_array);
        let told = told.expect("logprobs were asked for");
        assert_eq!(told.len(), 48);
        for (step, told) in told.iter().enumerate() {
            let golden = ids(&prompt["top5_ids"][step]);
            for (rank, token) in golden.into_iter().enumerate() {
                let golden = prompt["top5_logprobs"][step][rank].as_f64().expect("a number");
                let told = &told[&format!("token_id:{token}")];
                let close =
                    told.as_f64().is_some_and(|told| (told - golden).abs() < LOGPROB_TOLERANCE);
                assert!(close, "{} step {step} token {token}: {told} not {golden}", prompt["id"]);
            }
        }
    }
}

/// Hundreds of tokens one after the other, as they are and with drafts, where text repeats itself.
#[test]
fn long_answers_are_golden_with_and_without_drafts() {
    // Only the full set has it.
    let Some(model) = golden::model("stories260k") else { return };
    let golden = golden::json("models/stories260k/golden_long.json").expect("it has one");
    let drafts = r#"{"method": "ngram", "num_speculative_tokens": 4}"#;
    for args in [&[][..], &["-pp", "2"], &["--speculative-config", drafts]] {
        let server = Server::serve(&model, args);
        for run in golden["runs"].as_array().expect("runs") {
            let wanted = ids(&run["greedy_ids"]);
            let told = tokens(&server.complete(&ids(&run["ids"]), wanted.len()));
            assert_eq!(told, wanted, "{args:?} after {}", run["text"]);
        }
        let accepted = server.metric("vllm:spec_decode_num_accepted_tokens_total");
        assert_eq!(accepted > 0.0, args.len() == 2 && args[0] != "-pp", "{args:?}: {accepted}");
    }
}

/// A rank holds its part of the weights, not all of them with most unused.
#[test]
fn every_rank_holds_its_share_of_the_weights() {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    let stored = std::fs::metadata(model.join("model.safetensors")).expect("its size").len();
    for (tensor, pipeline) in [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)] {
        let mut args = flags(tensor, pipeline);
        if pipeline > 1 {
            args.push("--stage-processes");
        }
        let server = Server::serve(&model, &args);
        let loaded = server.troupe.said("rank loaded");
        assert_eq!(loaded.len(), (tensor * pipeline) as usize, "every rank says so once");
        // The one large table is used at both ends, so two stages hold it twice.
        let copies = if pipeline > 1 { TIED_TABLE_BYTES } else { 0 };
        let share = (stored + copies) as f64 / f64::from(tensor * pipeline);
        for rank in loaded {
            let fields = &rank["fields"];
            let count = |name: &str| fields[name].as_f64().expect("a number of bytes");
            let of_share = count("weight_bytes_sharded") / share;
            assert!((0.95..=1.05).contains(&of_share), "{of_share} of {share}: {fields}");
            // What is replicated is norms and, where ranks outnumber KV heads, those.
            assert!(count("weight_bytes_replicated") < 0.05 * share, "of {share}: {fields}");
        }
    }
}

/// 512 tokens of 128 numbers in float32, in tiny-qwen2.
const TIED_TABLE_BYTES: u64 = 512 * 128 * 4;

#[test]
fn keys_and_values_are_stored_as_asked() {
    let model = golden::model("tiny-chat").expect("both sets have it");
    for dtype in ["float32", "bfloat16", "int8"] {
        let server = Server::serve(&model, &["--kv-cache-dtype", dtype]);
        let text = http::get(server.address, "/metrics").expect("metrics").text;
        assert!(text.contains(&format!("cache_dtype=\"{dtype}\"")), "{dtype}: {text}");
        for prompt in prompts(&model) {
            let answer = || tokens(&server.complete(&ids(&prompt["ids"]), 48));
            let told = answer();
            if dtype != "int8" {
                assert_eq!(told, ids(&prompt["greedy_ids"]), "{dtype} {}", prompt["id"]);
            }
            assert_eq!(told, answer(), "{dtype} {}, from the cache", prompt["id"]);
        }
    }
    let model = model.display().to_string();
    let refused = Troupe::run(&["serve", &model, "--kv-cache-dtype", "fp8"]);
    assert_eq!(refused.code, Some(2), "{}", refused.log);
    assert!(refused.log.contains("int8 is as small"), "{}", refused.log);
}

fn check_tokens(server: &Server, model: &Path) {
    for prompt in prompts(model) {
        let told = tokens(&server.complete(&ids(&prompt["ids"]), 48));
        assert_eq!(told, ids(&prompt["greedy_ids"]), "{} {}", model.display(), prompt["id"]);
    }
}

fn flags(tensor: u32, pipeline: u32) -> Vec<&'static str> {
    let number = |number| match number {
        1 => "1",
        2 => "2",
        4 => "4",
        _ => unreachable!("tests divide by 1, 2 and 4"),
    };
    vec!["-tp", number(tensor), "-pp", number(pipeline), "--dtype", "float32"]
}

/// The set's models that this version can serve.
pub(crate) fn models() -> Vec<PathBuf> {
    let folders = std::fs::read_dir(golden::dir().join("models")).expect("the set is a folder");
    let mut models: Vec<PathBuf> = folders
        .map(|entry| entry.expect("the set can be listed").path())
        .filter(|folder| {
            let Ok(text) = std::fs::read(folder.join("config.json")) else { return false };
            let config: Value = serde_json::from_slice(&text).expect("a config is JSON");
            let architecture = config["architectures"][0].as_str().unwrap_or_default();
            ARCHITECTURES.contains(&architecture) && config.get("quantization_config").is_none()
        })
        .collect();
    models.sort();
    models
}

pub(crate) fn prompts(model: &Path) -> Vec<Value> {
    let golden = std::fs::read(model.join("golden.json")).expect("it has goldens");
    let golden: Value = serde_json::from_slice(&golden).expect("a golden file is JSON");
    let prompts = golden["prompts"].as_array().expect("it has prompts").clone();
    assert_eq!(prompts.len(), 4);
    prompts
}

pub(crate) fn ids(of: &Value) -> Vec<u32> {
    serde_json::from_value(of.clone()).unwrap_or_else(|error| panic!("{error}: tokens in {of}"))
}
