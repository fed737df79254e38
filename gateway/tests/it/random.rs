//! Whatever JSON comes in, what goes out is an answer or the client's mistake, never a fault of
//! ours.

use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Map, Value, json};

use crate::{
    embeddings,
    support::{MODEL, Reply, Stage, leader::says, stage},
};

/// Requests per run; each takes about a millisecond.
const CASES: u32 = 1500;

const PATHS: [&str; 7] = [
    "/v1/completions",
    "/v1/chat/completions",
    "/tokenize",
    "/detokenize",
    "/v1/embeddings",
    "/score",
    "/rerank",
];
/// From here on they are for models that make vectors.
const OF_VECTORS: usize = 4;

/// Any JSON, with a liking for what breaks servers.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-5_i64..70).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3.0_f64..3.0).prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[\u{0}-\u{1f}/@\\\\é🦊]{0,6}".prop_map(Value::from),
        Just(json!(MODEL)),
        Just(json!("user")),
        Just(json!("assistant")),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(("[a-z_]{1,8}", inner), 0..5)
                .prop_map(|fields| fields.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

/// A request that is good but for some fields, which hold anything.
fn request(fields: Vec<String>) -> impl Strategy<Value = (usize, Value)> {
    let change = (prop::sample::select(fields), any_json());
    (0..PATHS.len(), prop::collection::vec(change, 0..4)).prop_map(|(path, changes)| {
        let mut body = match path {
            0 => json!({"prompt": "x", "max_tokens": 3}),
            1 => json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 3}),
            2 => json!({"prompt": "x"}),
            4 => json!({"input": "x"}),
            5 => json!({"text_1": "x", "text_2": ["x", "y"]}),
            6 => json!({"query": "x", "documents": ["x", {"text": "y"}]}),
            _ => json!({"tokens": [5, 6]}),
        };
        body.as_object_mut().expect("an object").extend(changes);
        (path, body)
    })
}

/// Every field that the description names.
async fn fields(stage: &Stage) -> Vec<String> {
    let document = stage.get("/openapi.json").await.ok();
    let schemas = document["components"]["schemas"].as_object().expect("schemas").clone();
    let requests = [
        "Sampling",
        "CompletionRequest",
        "ChatRequest",
        "TokenizeRequest",
        "DetokenizeRequest",
        "PoolingParams",
        "EmbeddingRequest",
        "ScoreRequest",
        "RerankRequest",
    ];
    let names = requests.iter().flat_map(|name| schemas[*name]["properties"].as_object());
    names.flat_map(Map::keys).cloned().collect()
}

fn judge(reply: &Reply) -> Result<(), TestCaseError> {
    prop_assert!(reply.status < 500, "a fault: {} {}", reply.status, reply.text);
    if reply.status == 200 {
        prop_assert!(!reply.text.contains("\"error\":{"), "{}", reply.text);
        return Ok(());
    }
    prop_assert_eq!(reply.header("content-type"), "application/json");
    let (_, kind, message, _) = reply.error();
    prop_assert!(!kind.is_empty() && !message.is_empty(), "{}", reply.text);
    Ok(())
}

fn run<S: Strategy>(strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..Default::default() };
    TestRunner::new(config).run(&strategy, test).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn whatever_is_asked_the_answer_has_a_known_shape() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stage = runtime.block_on(stage(says("some words to say")));
    let fields = runtime.block_on(fields(&stage));
    assert!(fields.len() > 50, "{fields:?}");
    let vectors = runtime.block_on(embeddings::embedding(true, Some(vec![2])));
    run(request(fields), |(path, body)| {
        let stage = if path < OF_VECTORS { &stage } else { &vectors };
        let reply = runtime.block_on(stage.post(PATHS[path], body));
        judge(&reply)
    });
    let health = runtime.block_on(stage.get("/health")).status;
    assert_eq!(health, 200, "and it still serves");
}

#[test]
fn whatever_is_sent_the_answer_has_a_known_shape() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stage = runtime.block_on(stage(says("some words to say")));
    let text = prop_oneof![
        any_json().prop_map(|value| value.to_string()),
        "\\PC{0,40}",
        "[{}\\[\\]\",:0-9a-z]{0,40}",
    ];
    run((0..PATHS.len(), text), |(path, text)| {
        let reply = runtime.block_on(stage.raw(PATHS[path], &text));
        prop_assert_ne!(reply.status, 200, "nothing that was asked for is there");
        judge(&reply)
    });
}
