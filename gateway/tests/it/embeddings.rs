//! `/v1/embeddings`, `/score` and `/rerank`, in front of leaders that make a vector of a text's
//! length and its first token.

use std::sync::Arc;

use serde_json::{Value, json};
use troupe_runtime::wire::{
    generate::{FinishReason, Finished, Generate, GenerateDown, OutputKind, Usage},
    status::Embeds,
};

use crate::support::{
    MAX_MODEL_LEN, MODEL, Stage,
    leader::{Act, Script, chunk, refuses, says},
    stage_for_embeddings,
};

const PATH: &str = "/v1/embeddings";
/// By every name that it has.
const SCORES: [&str; 2] = ["/score", "/v1/score"];
const RERANKS: [&str; 3] = ["/rerank", "/v1/rerank", "/v2/rerank"];

/// A vector of a text: its tokens, what it begins with, a third element.
fn vector(generate: &Generate) -> Vec<f32> {
    vec![generate.prompt.len() as f32, generate.prompt[0] as f32, 2.0]
}

fn embeds(vector: fn(&Generate) -> Vec<f32>) -> Script {
    Arc::new(move |generate| {
        assert_eq!((generate.output, generate.choices.len()), (OutputKind::Embedding, 1));
        let mut only = chunk(generate, 0, 0, vec![]);
        only.embedding = vector(generate);
        let usage = Usage { prompt_tokens: generate.prompt.len() as u32, ..Usage::default() };
        let reason = FinishReason::Stop;
        only.finish = Some(Finished { reason, stop_token: None, usage });
        vec![Act::Say(GenerateDown::Chunk(only))]
    })
}

pub(crate) async fn embedding(normalize: bool, dimensions: Option<Vec<u32>>) -> Stage {
    let embeds_as = Embeds { size: 3, normalize, dimensions, scores: false };
    stage_for_embeddings(vec![embeds(vector)], embeds_as).await
}

fn floats(value: &Value) -> Vec<f32> {
    let list = value.as_array().expect("a list").iter();
    list.map(|number| number.as_f64().expect("a number") as f32).collect()
}

#[tokio::test]
async fn every_form_of_input_is_answered_in_its_order() {
    let stage = embedding(false, None).await;
    let answer = stage.post(PATH, json!({"model": MODEL, "input": [[7, 8], [9]]})).await.ok();
    assert!(answer["id"].as_str().unwrap().starts_with("embd-"));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!(MODEL)));
    let data = answer["data"].as_array().unwrap();
    assert_eq!((&data[0]["index"], &data[1]["index"]), (&json!(0), &json!(1)));
    assert_eq!(data[0]["object"], "embedding");
    assert_eq!(floats(&data[0]["embedding"]), [2.0, 7.0, 2.0]);
    assert_eq!(floats(&data[1]["embedding"]), [1.0, 9.0, 2.0]);
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    assert_eq!(answer["usage"]["total_tokens"], 3);

    let one = stage.post(PATH, json!({"input": [7, 8]})).await.ok();
    assert_eq!(one["data"][0]["embedding"], data[0]["embedding"]);
    assert_eq!(one["data"].as_array().unwrap().len(), 1);
    let texts = stage.post(PATH, json!({"input": ["Hello", "Hello there"]})).await.ok();
    let text = stage.post(PATH, json!({"input": "Hello there"})).await.ok();
    assert_eq!(texts["data"][1]["embedding"], text["data"][0]["embedding"]);
    assert_ne!(texts["data"][0]["embedding"], text["data"][0]["embedding"]);
    stage.until(|metrics| metrics.contains("vllm:prompt_tokens_total{")).await;
}

#[tokio::test]
async fn hundreds_of_texts_are_one_answer() {
    let stage = embedding(false, None).await;
    let texts: Vec<_> = (0..600).map(|at| vec![at % 100; 1 + at % 7]).collect();
    let answer = stage.post(PATH, json!({"input": texts})).await.ok();
    let data = answer["data"].as_array().unwrap();
    for (text, found) in texts.iter().zip(data) {
        let expected = [text.len() as f32, text[0] as f32, 2.0];
        assert_eq!(floats(&found["embedding"]), expected);
    }
    let many = stage.post(PATH, json!({"input": vec!["a"; 2049]})).await.error();
    assert!(many.0 == 400 && many.2.contains("at most 2048"), "{many:?}");
}

#[tokio::test]
async fn vectors_are_written_and_finished_as_asked() {
    let stage = embedding(true, Some(vec![2])).await;
    let ask = |more: Value| {
        let mut body = json!({"input": [3, 1, 1, 1]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        stage.post(PATH, body)
    };
    let length = (16.0f32 + 9.0 + 4.0).sqrt();
    let whole = floats(&ask(json!({})).await.ok()["data"][0]["embedding"]);
    let expected = [4.0 / length, 3.0 / length, 2.0 / length];
    assert!(whole.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{whole:?}");
    let cut = ask(json!({"dimensions": 2})).await.ok();
    assert_eq!(floats(&cut["data"][0]["embedding"]), [0.8, 0.6]);
    let bare = ask(json!({"normalize": false})).await.ok();
    assert_eq!(floats(&bare["data"][0]["embedding"]), [4.0, 3.0, 2.0]);
    let coded = ask(json!({"encoding_format": "base64", "normalize": false})).await.ok();
    // 4, 3 and 2 as little-endian floats.
    assert_eq!(coded["data"][0]["embedding"], "AACAQAAAQEAAAABA");
}

#[tokio::test]
async fn dimensions_are_those_of_the_model() {
    let refused = async |dimensions: Option<Vec<u32>>, asked: i64| {
        let stage = embedding(true, dimensions).await;
        let error = stage.post(PATH, json!({"input": "x", "dimensions": asked})).await.error();
        assert_eq!((error.0, error.3.as_deref()), (400, Some("dimensions")), "{error:?}");
        error.2
    };
    let message = refused(None, 2).await;
    assert!(message.contains("does not support matryoshka representation"), "{message}");
    let message = refused(Some(vec![1, 2]), 3).await;
    assert!(message.contains("only supports [1, 2] matryoshka dimensions"), "{message}");
    assert!(refused(Some(vec![]), 4).await.contains("at most 3"));
    assert!(refused(Some(vec![]), 0).await.contains("greater than 0"));
    let stage = embedding(true, Some(vec![])).await;
    let any = stage.post(PATH, json!({"input": "x", "dimensions": 1})).await.ok();
    assert_eq!(any["data"][0]["embedding"], json!([1.0]));
}

#[tokio::test]
async fn texts_are_cut_if_that_is_asked_for_and_refused_else() {
    let stage = embedding(false, None).await;
    let longest = MAX_MODEL_LEN as usize;
    let tokens = |count: usize| (0..count).collect::<Vec<_>>();
    // As long as the model takes: nothing has to follow.
    stage.post(PATH, json!({"input": tokens(longest)})).await.ok();
    assert_eq!(stage.leaders[0].started().await.prompt.len(), longest);
    let error = stage.post(PATH, json!({"input": tokens(longest + 1)})).await.error();
    let expected = format!(
        "This model's maximum context length is {longest} tokens. However, you requested {} tokens \
         in the input for embedding generation. Please reduce the length of the input.",
        longest + 1
    );
    assert_eq!((error.0, error.2, error.3.as_deref()), (400, expected, Some("input")));

    let cut = |side: Value, keep: i64| {
        let input = tokens(longest + 9);
        json!({"input": input, "truncate_prompt_tokens": keep, "truncation_side": side})
    };
    stage.post(PATH, cut(Value::Null, -1)).await.ok();
    assert_eq!(*stage.leaders[0].started().await.prompt, (0..longest as u32).collect::<Vec<_>>());
    stage.post(PATH, cut(json!("left"), 3)).await.ok();
    let last = longest as u32 + 9;
    assert_eq!(*stage.leaders[0].started().await.prompt, (last - 3..last).collect::<Vec<_>>());
    let error = stage.post(PATH, cut(Value::Null, longest as i64 + 1)).await.error();
    assert_eq!(error.3.as_deref(), Some("truncate_prompt_tokens"), "{error:?}");
    let long = "word ".repeat(10_000);
    let text = json!({"input": long, "truncate_prompt_tokens": 5});
    stage.post(PATH, text).await.ok();
    assert_eq!(stage.leaders[0].started().await.prompt.len(), 5);
}

#[tokio::test]
async fn mistakes_are_told() {
    let stage = embedding(false, None).await;
    let told = async |body: Value| {
        let error = stage.post(PATH, body).await.error();
        assert_eq!(error.0, 400, "{error:?}");
        error.2
    };
    assert!(told(json!({})).await.contains("body.input: field required"));
    assert!(told(json!({"input": {"a": 1}})).await.contains("a string, a list of strings"));
    assert!(told(json!({"input": [[]]})).await.contains("without tokens"));
    assert!(told(json!({"input": []})).await.contains("without tokens"));
    assert!(told(json!({"input": [99_999]})).await.contains("Token id 99999 is out of vocabulary"));
    assert!(told(json!({"input": "x", "encoding_format": "hex"})).await.contains("hex"));
    let unknown = stage.post(PATH, json!({"model": "other", "input": "x"})).await.error();
    assert_eq!((unknown.0, unknown.3.as_deref()), (404, Some("model")));
    assert_eq!(stage.get(PATH).await.status, 405);
}

#[tokio::test]
async fn models_are_asked_only_for_what_they_do() {
    let stage = embedding(true, None).await;
    let chat = json!({"messages": [{"role": "user", "content": "x"}]});
    let asked = [
        ("/v1/chat/completions", chat, "The model does not support Chat Completions API"),
        ("/v1/completions", json!({"prompt": "x"}), "The model does not support Completions API"),
    ];
    for (path, body, words) in asked {
        let error = stage.post(path, body).await.error();
        assert_eq!((error.0, error.3.as_deref()), (400, Some("model")));
        assert!(error.2.contains(words) && error.2.contains("/v1/embeddings"), "{error:?}");
    }
    stage.get("/v1/models").await.ok();
    stage.post("/tokenize", json!({"prompt": "x"})).await.ok();

    let stage = crate::support::stage(says("ok")).await;
    let both =
        json!({"input": "x", "text_1": "x", "text_2": "x", "query": "x", "documents": ["x"]});
    for path in [PATH].iter().chain(&SCORES).chain(&RERANKS) {
        let error = stage.post(path, both.clone()).await.error();
        assert_eq!((error.0, error.3.as_deref()), (400, Some("model")), "{path}");
        assert!(error.2.starts_with("The model does not support "), "{error:?}");
        assert!(error.2.contains("--runner pooling"), "{error:?}");
    }
}

#[tokio::test]
async fn what_an_endpoint_cannot_do_another_does() {
    let says = Embeds { size: 3, normalize: false, dimensions: None, scores: false };
    let kind = troupe_runtime::error::ErrorKind::Unavailable;
    let crash: Script = Arc::new(|_| vec![Act::Reset]);
    for first in [refuses(kind), crash] {
        let stage = stage_for_embeddings(vec![first, embeds(vector)], says.clone()).await;
        let answer = stage.post(PATH, json!({"input": [7, 8]})).await.ok();
        assert_eq!(floats(&answer["data"][0]["embedding"]), [2.0, 7.0, 2.0]);
        assert_eq!(stage.leaders[1].started().await.attempt, 1);
    }
}

/// Directions by the first token alone.
fn direction(generate: &Generate) -> Vec<f32> {
    match generate.prompt[0] {
        10 => vec![1.0, 0.0],
        11 => vec![0.0, 3.0],
        12 => vec![-2.0, 0.0],
        _ => vec![5.0, 5.0],
    }
}

async fn directions() -> (Stage, [String; 4]) {
    let says = Embeds { size: 2, normalize: true, dimensions: None, scores: false };
    let stage = stage_for_embeddings(vec![embeds(direction)], says).await;
    let card = crate::support::card();
    let text = |id: u32| {
        let special = troupe_runtime::model::tokenizer::SpecialTokens::Exclude;
        let text = card.tokenizer.decode(&[id], special).expect("a token");
        let ids = card.tokenizer.encode(&text, special).expect("a text");
        assert_eq!(ids, [id], "a token that stands for itself");
        text
    };
    (stage, [text(10), text(11), text(12), text(13)])
}

#[tokio::test]
async fn scores_are_cosines_of_pairs() {
    let (stage, [east, north, west, between]) = directions().await;
    for path in SCORES {
        let body = json!({"model": MODEL, "text_1": east, "text_2": [east, north, west, between]});
        let answer = stage.post(path, body).await.ok();
        assert_eq!(answer["object"], "list");
        let scores: Vec<_> = answer["data"].as_array().unwrap().iter().collect();
        assert_eq!((&scores[2]["index"], &scores[2]["object"]), (&json!(2), &json!("score")));
        let scores: Vec<f64> = scores.iter().map(|s| s["score"].as_f64().unwrap()).collect();
        assert_eq!(&scores[..3], [1.0, 0.0, -1.0]);
        assert!((scores[3] - 0.5f64.sqrt()).abs() < 1e-6, "{scores:?}");
        assert_eq!(answer["usage"]["prompt_tokens"], 5, "each text is read once");
    }
    let body = json!({"queries": [east, north], "documents": [west, north]});
    let answer = stage.post("/score", body).await.ok();
    assert_eq!(
        (&answer["data"][0]["score"], &answer["data"][1]["score"]),
        (&json!(-1.0), &json!(1.0))
    );
    for (body, words) in [
        (json!({"text_1": [east, east], "text_2": [east, east, east]}), "1:1, 1:N or N:N"),
        (json!({"text_1": east}), "At least one text_2"),
        (json!({"text_1": [], "text_2": east}), "At least one text_1"),
    ] {
        let error = stage.post("/score", body).await.error();
        assert!(error.0 == 400 && error.2.contains(words), "{error:?}");
    }
}

#[tokio::test]
async fn documents_come_in_the_order_in_which_they_fit() {
    let (stage, [east, north, west, between]) = directions().await;
    for path in RERANKS {
        let documents = json!([west, north, {"text": between}, east]);
        let body = json!({"model": MODEL, "query": east, "documents": documents});
        let answer = stage.post(path, body.clone()).await.ok();
        assert!(answer["id"].as_str().unwrap().starts_with("rerank-"));
        let results = answer["results"].as_array().unwrap();
        let order: Vec<_> = results.iter().map(|r| r["index"].as_u64().unwrap()).collect();
        assert_eq!(order, [3, 2, 1, 0]);
        assert_eq!(results[0]["document"]["text"], json!(east));
        assert_eq!(results[0]["relevance_score"], 1.0);
        let mut best = body;
        best["top_n"] = json!(2);
        assert_eq!(stage.post(path, best).await.ok()["results"].as_array().unwrap().len(), 2);
    }
    for (body, words) in [
        (json!({"documents": ["a"]}), "body.query: field required"),
        (json!({"query": "a", "documents": []}), "At least one document"),
        (json!({"query": "a", "documents": ["a"], "top_n": -1}), "top_n must be at least 0"),
        (json!({"query": "a", "documents": [3]}), "an object with a `text`"),
    ] {
        let error = stage.post("/rerank", body).await.error();
        assert!(error.0 == 400 && error.2.contains(words), "{error:?}");
    }
}

#[tokio::test]
async fn a_model_that_scores_is_asked_for_pairs() {
    let says = Embeds { size: 1, normalize: false, dimensions: None, scores: true };
    let length = |generate: &Generate| vec![generate.prompt.len() as f32 / 4.0];
    let stage = stage_for_embeddings(vec![embeds(length)], says).await;
    let body = json!({"text_1": "Hello", "text_2": ["Hello", "Hello there, all of you"]});
    let answer = stage.post("/score", body).await.ok();
    let scores: Vec<_> =
        answer["data"].as_array().unwrap().iter().map(|s| s["score"].as_f64().unwrap()).collect();
    assert!(scores.len() == 2 && scores[0] < scores[1], "{scores:?}");
    let tokens = (scores[0] + scores[1]) * 4.0;
    assert_eq!(answer["usage"]["prompt_tokens"], tokens as u64, "each pair is read by itself");
    let body =
        json!({"query": "Hello", "documents": ["Hi", "Hello there, all of you", "Hello all"]});
    let answer = stage.post("/rerank", body).await.ok();
    assert_eq!(answer["results"][0]["index"], 1);
    assert_eq!(answer["results"].as_array().unwrap().len(), 3);

    let long = "word ".repeat(500);
    let body = json!({"text_1": "Hello", "text_2": long});
    let error = stage.post("/score", body.clone()).await.error();
    assert!(error.0 == 400 && error.2.contains("maximum context length"), "{error:?}");
    let mut cut = body;
    cut["truncate_prompt_tokens"] = json!(12);
    assert_eq!(stage.post("/score", cut).await.ok()["data"][0]["score"], 3.0);
    let error = stage.post(PATH, json!({"input": "x"})).await.error();
    assert!(error.2.contains("does not support Embeddings API"), "{error:?}");
    assert!(error.2.contains("/rerank"), "{error:?}");
}
