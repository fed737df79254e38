//! OpenAI's batch files: what a line asks for, and its line of output.
//! (<https://platform.openai.com/docs/api-reference/batch>, "request input" and "request output".)
//!
//! What the server refuses is a `response` with its status and its body. `error` is for what never
//! came to an answer: a line that is no request, a server that went away.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::drive::{Asked, Problem, Told};
use crate::client::answer::Answer;

/// The paths that a line may ask for.
const URLS: [&str; 3] = ["/v1/completions", "/v1/chat/completions", "/v1/embeddings"];

/// A line as it should be; what is missing is said by name below.
#[derive(Deserialize)]
struct Line {
    custom_id: Option<Value>,
    method: Option<Value>,
    url: Option<Value>,
    body: Option<Value>,
}

/// What line `number` asks for, or what is wrong with it; and its `custom_id`, if it has one.
/// `seen` holds those of the lines before.
pub(crate) fn parse(
    number: usize,
    line: Result<String, String>,
    seen: &mut BTreeSet<String>,
) -> (Value, Result<Asked, Problem>) {
    let mut id = Value::Null;
    let asked = line
        .and_then(|line| {
            serde_json::from_str::<Line>(&line)
                .map_err(|error| format!("it is no JSON object of a request: {error}"))
        })
        .and_then(|mut line| {
            id = line.custom_id.take().unwrap_or_default();
            request(&id, line, seen)
        });
    (id, asked.map_err(|why| Problem::line(number, &why)))
}

fn request(id: &Value, line: Line, seen: &mut BTreeSet<String>) -> Result<Asked, String> {
    let Value::String(id) = id else {
        return Err("`custom_id` has to be a text that names the request".into());
    };
    if !seen.insert(id.clone()) {
        return Err(format!("`custom_id` {id:?} was used by a line before"));
    }
    match &line.method {
        Some(Value::String(method)) if method == "POST" => {}
        method => return Err(format!("`method` has to be \"POST\"{}", instead_of(method))),
    }
    let url = line.url.as_ref().and_then(Value::as_str);
    let Some(url) = url.filter(|url| URLS.contains(url)) else {
        let urls = URLS.join(", ");
        return Err(format!("`url` has to be one of {urls}{}", instead_of(&line.url)));
    };
    let Some(Value::Object(body)) = line.body else {
        return Err("`body` has to be an object: what would be sent to the `url`".into());
    };
    if body.get("stream").is_some_and(|stream| *stream != Value::Bool(false)) {
        return Err("`body.stream` has no meaning in a batch: every answer is one line".into());
    }
    Ok(Asked { path: url.to_owned(), body: Value::Object(body).to_string() })
}

fn instead_of(found: &Option<Value>) -> String {
    found.as_ref().map_or_else(|| "; there is none".into(), |found| format!(", not {found}"))
}

/// The line of output.
pub(crate) fn tell(custom_id: Value, answer: Result<Answer, Problem>) -> Told {
    let (response, error, tokens, failed) = match answer {
        Ok(answer) => {
            let body = answer.json();
            let tokens = body.pointer("/usage/completion_tokens").and_then(Value::as_u64);
            let request_id = answer.request_id.unwrap_or_default();
            let response =
                json!({"status_code": answer.status, "request_id": request_id, "body": body});
            (response, Value::Null, tokens.unwrap_or(0), answer.status != 200)
        }
        Err(problem) => {
            let error = json!({"code": problem.kind, "message": problem.message});
            (Value::Null, error, 0, true)
        }
    };
    let id = format!("batch_req_{}", Uuid::now_v7().simple());
    let line = json!({"id": id, "custom_id": custom_id, "response": response, "error": error});
    Told { line, tokens, failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_line_is_what_would_be_sent() {
        let line = r#"{"custom_id": "a", "method": "POST", "url": "/v1/completions",
                       "body": {"model": "m", "prompt": "x", "max_tokens": 3}}"#;
        let (id, asked) = parse(1, Ok(line.replace('\n', "")), &mut BTreeSet::new());
        let asked = asked.expect("a request");
        assert_eq!((id, asked.path.as_str()), (json!("a"), "/v1/completions"));
        assert_eq!(asked.body, r#"{"model":"m","prompt":"x","max_tokens":3}"#);
    }

    #[test]
    fn a_bad_line_is_told_by_its_name() {
        let cases = [
            ("nonsense", "no JSON"),
            (r#"{"method": "POST"}"#, "`custom_id`"),
            (r#"{"custom_id": 7}"#, "`custom_id`"),
            (r#"{"custom_id": "twice"}"#, "used by a line before"),
            (r#"{"custom_id": "a", "method": "GET"}"#, "not \"GET\""),
            (r#"{"custom_id": "a", "method": "POST"}"#, "there is none"),
            (r#"{"custom_id": "a", "method": "POST", "url": "/health"}"#, "/v1/embeddings"),
            (r#"{"custom_id": "a", "method": "POST", "url": "/v1/completions"}"#, "`body`"),
            (
                r#"{"custom_id": "a", "method": "POST", "url": "/v1/completions",
                   "body": {"stream": true}}"#,
                "`body.stream`",
            ),
        ];
        for (line, words) in cases {
            let mut seen = BTreeSet::from(["twice".to_owned()]);
            let (_, asked) = parse(5, Ok(line.into()), &mut seen);
            let message = asked.expect_err(line).message;
            assert!(message.contains(words) && message.contains("line 5"), "{line}: {message}");
        }
    }
}
