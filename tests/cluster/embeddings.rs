//! Models that make vectors of texts, over HTTP: golden vectors in every division, real weights
//! where somebody has them, batches, decoders, and what is refused at once.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{
    golden, http,
    process::{Server, Troupe},
    skip::skipped,
};

/// Tensor-parallel ranks and stages.
const DIVISIONS: [(u32, u32); 5] = [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)];
/// Where somebody has the files of `sentence-transformers/all-MiniLM-L6-v2`.
const MINILM: &str = "TROUPE_MINILM_DIR";

#[test]
fn every_division_gives_the_golden_vectors() {
    let Some(model) = bert() else { return };
    let golden = golden::json("models/tiny-bert/golden.json").expect("it is there");
    for (tensor, pipeline) in DIVISIONS {
        let (tensor, pipeline) = (tensor.to_string(), pipeline.to_string());
        let server = Server::serve(&model, &["-tp", &tensor, "-pp", &pipeline]);
        check(&server, &golden);
    }
    check(&Server::serve(&model, &["-tp", "2", "-pp", "2", "--stage-processes"]), &golden);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "whoever has the weights says where they are")]
fn real_weights_give_the_golden_vectors() {
    let golden = golden::json("minilm_golden.json");
    let (Some(model), Some(golden)) = (std::env::var_os(MINILM), golden) else {
        return skipped(&format!("{MINILM} and TROUPE_GOLDEN_DIR say where model and golden are"));
    };
    let model = PathBuf::from(model);
    check(&Server::serve(&model, &[]), &golden);
    check(&Server::serve(&model, &["-tp", "2", "-pp", "2"]), &golden);
}

#[test]
fn many_texts_at_once_are_each_as_alone() {
    let Some(bert) = bert() else { return };
    let server = Server::serve(&bert, &["--max-num-seqs", "32"]);
    let words = ["boat", "harbour", "small", "the", "license", "a", "of", "software"];
    let text = |seed: usize| {
        let words = (0..1 + seed % 40).map(|at| words[(seed * 7 + at * at) % words.len()]);
        words.collect::<Vec<_>>().join(" ")
    };
    let texts: Vec<_> = (0..700).map(text).collect();
    let all = embed(&server, &json!({"model": "m", "input": texts}));
    for seed in [0, 1, 39, 333, 699] {
        let alone = embed(&server, &json!({"model": "m", "input": texts[seed]}));
        assert_eq!(alone["data"][0]["embedding"], all["data"][seed]["embedding"], "{seed}");
    }
    // Others that come meanwhile are answered too.
    let address = server.address;
    std::thread::scope(|scope| {
        let ask = |text: &String| {
            let body = json!({"model": "m", "input": text, "encoding_format": "base64"});
            http::post(address, "/v1/embeddings", &body).expect("an answer").ok()
        };
        let threads: Vec<_> =
            texts[..64].iter().map(|text| scope.spawn(move || ask(text))).collect();
        for thread in threads {
            let answer = thread.join().expect("it is answered");
            assert!(answer["data"][0]["embedding"].is_string(), "{answer}");
        }
    });
    assert_eq!(server.metric("vllm:num_requests_running"), 0.0);
    assert!(server.metric("vllm:prompt_tokens_total") > 1000.0);
}

#[test]
fn scores_and_ranks_follow_from_the_vectors() {
    let Some(bert) = bert() else { return };
    let server = Server::serve(&bert, &[]);
    let golden = golden::json("models/tiny-bert/golden.json").expect("it is there");
    let texts: Vec<_> = golden["sentences"].as_array().expect("texts")[..4].to_vec();
    let text = |at: usize| texts[at]["text"].clone();
    let with_first = |at: usize| cosine(&texts[0]["embedding"], &texts[at]["embedding"]);
    let cosines: Vec<_> = (1..4).map(with_first).collect();
    let body = json!({"model": "m", "text_1": text(0), "text_2": [text(1), text(2), text(3)]});
    let scores = http::post(server.address, "/score", &body).expect("an answer").ok();
    for (at, expected) in cosines.iter().enumerate() {
        let score = scores["data"][at]["score"].as_f64().expect("a score");
        assert!((score - expected).abs() < 1e-5, "{score} {expected}");
    }
    let body = json!({"model": "m", "query": text(0), "documents": [text(1), text(2), text(3)]});
    let ranked = http::post(server.address, "/v1/rerank", &body).expect("an answer").ok();
    let best = ranked["results"][0]["index"].as_u64().expect("an index") as usize;
    assert!(cosines.iter().all(|other| *other <= cosines[best]), "{ranked} of {cosines:?}");
}

#[test]
fn a_cross_encoder_scores_pairs() {
    // Only the committed set has it.
    let Some(model) = golden::model("tiny-bert-cross") else { return };
    let golden = golden::json("models/tiny-bert-cross/golden.json").expect("it has one");
    let pairs = golden["pairs"].as_array().expect("pairs");
    let side = |name: &str| -> Vec<_> { pairs.iter().map(|pair| pair[name].clone()).collect() };
    for args in [&[][..], &["-tp", "2", "-pp", "2"]] {
        let server = Server::serve(&model, args);
        let ask = |path: &str, body: Value| http::post(server.address, path, &body);
        let body = json!({"model": "m", "text_1": side("text_1"), "text_2": side("text_2")});
        let answer = ask("/v1/score", body).expect("an answer").ok();
        for (pair, found) in pairs.iter().zip(answer["data"].as_array().expect("scores")) {
            let (score, found) = (pair["score"].as_f64(), found["score"].as_f64());
            let (score, found) = (score.expect("a score"), found.expect("a score"));
            assert!((score - found).abs() < 1e-5, "{found} is not {score}");
        }
        // As long a document as fits beside the query.
        let long = "boat ".repeat(300);
        let body = json!({"model": "m", "query": "small", "documents": ["boat", long]});
        let refused = ask("/rerank", body.clone()).expect("an answer");
        assert!(refused.status == 400 && refused.text.contains("context length is 96"));
        let mut cut = body;
        cut["truncate_prompt_tokens"] = json!(-1);
        let ranked = ask("/rerank", cut).expect("an answer").ok();
        assert_eq!(ranked["results"].as_array().map(Vec::len), Some(2), "{ranked}");
        assert_eq!(ranked["usage"]["prompt_tokens"], 8 + 96);
        let refused = ask("/v1/embeddings", json!({"model": "m", "input": "x"}));
        assert_eq!(refused.expect("an answer").status, 400);
    }
}

#[test]
fn a_decoder_can_be_run_for_vectors() {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    let golden = golden::json("models/tiny-qwen2/golden.json").expect("it is there");
    let ids = &golden["prompts"][2]["ids"];
    let vector = |args: &[&str]| {
        let server = Server::serve(&model, args);
        let ask = || embed(&server, &json!({"model": "m", "input": ids}));
        let answer = ask();
        assert_eq!(answer["usage"]["prompt_tokens"], 33);
        // Again, when the prefix cache has it.
        assert_eq!(answer["data"], ask()["data"]);
        answer["data"][0]["embedding"].clone()
    };
    let whole = vector(&["--runner", "pooling"]);
    let length: f64 = numbers(&whole).iter().map(|x| x * x).sum();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
    // In parts: what the last token has seen is the same.
    assert_eq!(vector(&["--task", "embed", "--max-num-batched-tokens", "16"]), whole);
    let mean = r#"{"pooling_type": "MEAN", "normalize": false}"#;
    let mean = vector(&["--task", "embed", "--pooler-config", mean, "-tp", "2"]);
    assert!(cosine(&mean, &whole) < 0.9999, "another vector");
}

#[test]
fn models_are_asked_only_for_what_they_do() {
    let refused = |server: &Server, path: &str, body: &Value, words: &str| {
        let answer = http::post(server.address, path, body).expect("an answer");
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(answer.text.contains(words), "{}", answer.text);
    };
    let Some(bert) = bert() else { return };
    let server = Server::serve(&bert, &[]);
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    refused(&server, "/v1/chat/completions", &chat, "does not support Chat Completions API");
    let complete = json!({"model": "m", "prompt": "x"});
    refused(&server, "/v1/completions", &complete, "does not support Completions API");
    let long = json!({"model": "m", "input": "boat ".repeat(200)});
    refused(&server, "/v1/embeddings", &long, "maximum context length is 128 tokens");
    let cut = json!({"model": "m", "input": "x", "dimensions": 8});
    refused(&server, "/v1/embeddings", &cut, "does not support matryoshka representation");
    let server = Server::serve(&golden::model("tiny-chat").expect("both sets have it"), &[]);
    let embed = json!({"model": "m", "input": "x"});
    refused(&server, "/v1/embeddings", &embed, "does not support Embeddings API");
}

#[test]
fn what_cannot_be_run_for_vectors_is_said_at_once() {
    let refused = |model: &Path, args: &[&str], words: &[&str]| {
        let model = model.to_str().expect("a path that can be written");
        let mut all = vec!["serve", model, "--host", "127.0.0.1", "--port", "0"];
        all.extend(args);
        let ended = Troupe::run(&all);
        assert_eq!(ended.code, Some(2), "{}", ended.log);
        for word in words {
            assert!(ended.log.contains(word), "`{word}` is not said:\n{}", ended.log);
        }
    };
    let Some(bert) = bert() else { return };
    let chat = golden::model("tiny-chat").expect("both sets have it");
    refused(&bert, &["--runner", "generate"], &["BertModel", "pooling is possible"]);
    refused(&bert, &["--max-num-batched-tokens", "64"], &["is 64", "128"]);
    refused(&bert, &["--max-model-len", "200"], &["--max-model-len is 200", "1 to 128"]);
    refused(&bert, &["--enable-prefix-caching"], &["--enable-prefix-caching"]);
    refused(&bert, &["-tp", "3"], &["1, 2, 4"]);
    refused(&bert, &["--runner", "generate", "--task", "embed"], &["--runner", "--task"]);
    refused(&chat, &["--task", "embed", "--pooler-config", "{}x"], &["--pooler-config", "{}x"]);
}

/// A model that makes vectors; only the full set has one.
fn bert() -> Option<PathBuf> {
    let bert = golden::model("tiny-bert");
    if bert.is_none() {
        skipped("tiny-bert is only in the full set of golden models (TROUPE_GOLDEN_DIR)");
    }
    bert
}

/// Every golden text, as text and as tokens, cut to what the model takes.
fn check(server: &Server, golden: &Value) {
    let sentences = golden["sentences"].as_array().expect("texts");
    let texts: Vec<_> = sentences.iter().map(|sentence| &sentence["text"]).collect();
    let ids: Vec<_> = sentences.iter().map(|sentence| &sentence["ids"]).collect();
    let body = json!({"model": "m", "input": texts, "truncate_prompt_tokens": -1});
    let of_texts = embed(server, &body);
    let of_ids = embed(server, &json!({"model": "m", "input": ids}));
    assert_eq!(of_texts["data"], of_ids["data"], "texts become other tokens");
    let tokens: usize = ids.iter().map(|ids| ids.as_array().map_or(0, Vec::len)).sum();
    assert_eq!(of_texts["usage"]["prompt_tokens"], tokens);
    for (sentence, found) in sentences.iter().zip(of_texts["data"].as_array().expect("vectors")) {
        let cosine = cosine(&found["embedding"], &sentence["embedding"]);
        assert!(cosine > 0.9999, "{cosine} of {}", sentence["text"]);
        let length: f64 = numbers(&found["embedding"]).iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }
}

fn embed(server: &Server, body: &Value) -> Value {
    http::post(server.address, "/v1/embeddings", body).expect("an answer").ok()
}

fn numbers(vector: &Value) -> Vec<f64> {
    let list = vector.as_array().unwrap_or_else(|| panic!("a vector: {vector}")).iter();
    list.map(|number| number.as_f64().expect("a number")).collect()
}

fn cosine(a: &Value, b: &Value) -> f64 {
    let (a, b) = (numbers(a), numbers(b));
    assert_eq!(a.len(), b.len());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
}
