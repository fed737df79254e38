//! The description is true: every method that it names is there and no other, and answers are what
//! it says.

use serde_json::{Value, json};

use crate::support::{MODEL, leader::says, stage, stage_with};

const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

#[tokio::test]
async fn what_is_described_is_there_and_nothing_else() {
    let stage = stage_with(vec![says("ok")], |config| config.lora_updates = true).await;
    let document = stage.get("/openapi.json").await.ok();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for (path, item) in document["paths"].as_object().unwrap() {
        let place = path.replace("{id}", MODEL);
        for method in METHODS {
            let status = stage.send(&method.to_uppercase(), &place, &[], "").await.status;
            let there = item.get(method).is_some();
            assert_eq!(status != 405, there, "{method} {path} answers {status}");
            assert_ne!(status, 404, "{method} {path}");
        }
        for (method, operation) in item.as_object().unwrap() {
            let about = operation["summary"].as_str();
            assert!(about.is_some_and(|about| !about.is_empty()), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn answers_are_as_described() {
    let stage = stage(says("Hello there")).await;
    let document = stage.get("/openapi.json").await.ok();
    let check = |path: &str, method: &str, answer: &Value, kind: &str| {
        let response = &document["paths"][path][method]["responses"];
        let schema = &response["200"]["content"][kind]["schema"];
        assert!(!schema.is_null(), "{method} {path} has no answer of {kind}");
        fits(&document, schema, answer, path);
    };
    let (whole, events) = ("application/json", "text/event-stream");
    let rich = json!({
        "model": MODEL, "max_tokens": 8, "return_token_ids": true, "n": 2, "temperature": 1,
    });
    let with = |more: Value| {
        let mut body = rich.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let path = "/v1/completions";
    let body = with(json!({"prompt": "x", "logprobs": 2, "stop": "there"}));
    check(path, "post", &stage.post(path, body.clone()).await.ok(), whole);
    for event in stage.events(path, body).await {
        check(path, "post", &event, events);
    }
    let body = with(json!({"prompt": [5, 6], "prompt_logprobs": 1, "echo": true}));
    check(path, "post", &stage.post(path, body).await.ok(), whole);

    let path = "/v1/chat/completions";
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let usage = json!({"include_usage": true, "continuous_usage_stats": true});
    let body = with(json!({"messages": messages, "logprobs": true, "top_logprobs": 2}));
    check(path, "post", &stage.post(path, body.clone()).await.ok(), whole);
    let mut body = body;
    body["stream_options"] = usage;
    for event in stage.events(path, body).await {
        check(path, "post", &event, events);
    }

    for path in ["/v1/models", "/version", "/load"] {
        check(path, "get", &stage.get(path).await.ok(), whole);
    }
    check("/v1/models/{id}", "get", &stage.get("/v1/models/tiny").await.ok(), whole);
    for body in [json!({"prompt": "x", "return_token_strs": true}), json!({"messages": messages})] {
        check("/tokenize", "post", &stage.post("/tokenize", body).await.ok(), whole);
    }
    let answer = stage.post("/detokenize", json!({"tokens": [5]})).await.ok();
    check("/detokenize", "post", &answer, whole);

    let failure = stage.post("/v1/completions", json!({})).await;
    let schema = &document["paths"]["/v1/completions"]["post"]["responses"]["400"];
    fits(&document, &schema["content"]["application/json"]["schema"], &failure.json(), "400");
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let stage = stage(says("ok")).await;
    let page = stage.get("/docs").await;
    assert_eq!((page.status, page.header("location")), (303, "/docs/"));
    for file in ["", "swagger-ui.css", "swagger-ui-bundle.js", "swagger-initializer.js"] {
        let reply = stage.status(&format!("/docs/{file}")).await;
        assert_eq!(reply, 200, "{file}");
    }
    let start = stage.get("/docs/swagger-initializer.js").await.text;
    assert!(start.contains("/openapi.json"), "{start}");
    assert_eq!(stage.get("/docs/nothing.js").await.status, 404);
}

/// Panics where a value is not what a schema says; what a schema does not name is a mistake too.
fn fits(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Err(why) = check(document, schema, value) {
        panic!("{place}: {why}\n{value}");
    }
}

fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').expect("a place in the document");
        let schema = document.pointer(pointer).unwrap_or_else(|| panic!("{reference} is there"));
        return check(document, schema, value);
    }
    if let Some(forms) = schema["oneOf"].as_array() {
        let results: Vec<_> = forms.iter().map(|form| check(document, form, value)).collect();
        if results.iter().any(Result::is_ok) {
            return Ok(());
        }
        return Err(format!("none fits: {results:?}"));
    }
    let kinds = match &schema["type"] {
        Value::Null => return Ok(()),
        Value::String(kind) => vec![kind.as_str()],
        kinds => kinds.as_array().unwrap().iter().filter_map(Value::as_str).collect(),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) if kinds.contains(&"number") => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !kinds.contains(&kind) {
        return Err(format!("{value} is no {kinds:?}"));
    }
    match value {
        Value::Array(items) => items.iter().try_for_each(|v| check(document, &schema["items"], v)),
        Value::Object(fields) if schema["properties"].is_object() => {
            let known = schema["properties"].as_object().unwrap();
            for name in schema["required"].as_array().into_iter().flatten() {
                if !fields.contains_key(name.as_str().unwrap()) {
                    return Err(format!("{name} is missing"));
                }
            }
            fields.iter().try_for_each(|(name, value)| {
                let schema = known.get(name).ok_or(format!("{name} is not described"))?;
                check(document, schema, value).map_err(|why| format!("{name}: {why}"))
            })
        }
        _ => Ok(()),
    }
}
