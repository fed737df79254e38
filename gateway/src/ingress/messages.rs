//! A conversation, made fit for a chat template.
//!
//! Templates expect more order than the API promises: content as one text rather than a list of
//! parts, a tool call's arguments as an object rather than as JSON in a string. Everything else is
//! passed on as it came, because templates read fields that no schema foresees.

use serde_json::{Map, Value};

use crate::error::ApiError;

/// Checks and orders the messages.
pub(crate) fn normalize(messages: Vec<Map<String, Value>>) -> Result<Vec<Value>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::validation("body.messages", "at least one message is needed"));
    }
    let each = messages.into_iter().enumerate();
    each.map(|(at, message)| one(&format!("body.messages.{at}"), message)).collect()
}

fn one(place: &str, mut message: Map<String, Value>) -> Result<Value, ApiError> {
    match message.get("role") {
        Some(Value::String(_)) => {}
        Some(_) => {
            return Err(ApiError::validation(&format!("{place}.role"), "a string is needed"));
        }
        None => return Err(ApiError::validation(&format!("{place}.role"), "field required")),
    }
    if let Some(content) = message.get_mut("content") {
        *content = text_content(&format!("{place}.content"), content.take())?;
    } else {
        message.insert("content".into(), Value::Null);
    }
    if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
        calls.iter_mut().for_each(open_arguments);
    }
    Ok(Value::Object(message))
}

/// Content as one text; parts are joined by line breaks.
fn text_content(place: &str, content: Value) -> Result<Value, ApiError> {
    let parts = match content {
        Value::String(_) | Value::Null => return Ok(content),
        Value::Array(parts) => parts,
        _ => {
            let what = "a string or a list of content parts is needed";
            return Err(ApiError::validation(place, what));
        }
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (at, part) in parts.into_iter().enumerate() {
        match part {
            Value::String(text) => texts.push(text),
            Value::Object(part) => texts.push(part_text(&format!("{place}.{at}"), &part)?),
            _ => {
                let what = "an object with `type` and `text` is needed";
                return Err(ApiError::validation(&format!("{place}.{at}"), what));
            }
        }
    }
    Ok(Value::String(texts.join("\n")))
}

fn part_text(place: &str, part: &Map<String, Value>) -> Result<String, ApiError> {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or("text");
    let field = match kind {
        "text" | "input_text" | "output_text" => "text",
        "refusal" => "refusal",
        "thinking" => "thinking",
        other => {
            let message = format!("Content of type `{other}` is not supported by this model.");
            return Err(ApiError::bad_request(message).at(place));
        }
    };
    match part.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        _ => Err(ApiError::validation(&format!("{place}.{field}"), "a string is needed")),
    }
}

/// `"{\"city\": \"Paris\"}"` becomes `{"city": "Paris"}`; what is no JSON stays as it is.
fn open_arguments(call: &mut Value) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else { return };
    if let Value::String(text) = arguments
        && let Ok(object @ Value::Object(_)) = serde_json::from_str(text)
    {
        *arguments = object;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn normal(message: Value) -> Result<Value, ApiError> {
        let Value::Object(message) = message else { panic!("a message is an object") };
        normalize(vec![message]).map(|mut messages| messages.remove(0))
    }

    #[test]
    fn parts_become_one_text() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let message = normal(json!({"role": "user", "content": parts, "name": "x"}));
        assert_eq!(message, Ok(json!({"role": "user", "content": "a\nb", "name": "x"})));
    }

    #[test]
    fn arguments_become_an_object() {
        let message = normal(json!({"role": "assistant", "tool_calls": [
            {"function": {"name": "f", "arguments": "{\"a\": 1}"}},
            {"function": {"name": "g", "arguments": "not json"}},
        ]}));
        let message = message.expect("a good message");
        assert_eq!(message.pointer("/tool_calls/0/function/arguments"), Some(&json!({"a": 1})));
        assert_eq!(message.pointer("/tool_calls/1/function/arguments"), Some(&json!("not json")));
        assert_eq!(message.get("content"), Some(&Value::Null));
    }

    #[test]
    fn mistakes_are_placed() {
        let place = |message| normal(message).expect_err("a mistake").body().error.param;
        assert_eq!(place(json!({})).as_deref(), Some("body.messages.0.role"));
        assert_eq!(place(json!({"role": 1})).as_deref(), Some("body.messages.0.role"));
        let content = |content: Value| place(json!({"role": "user", "content": content}));
        assert_eq!(content(json!(3)).as_deref(), Some("body.messages.0.content"));
        assert_eq!(content(json!([3])).as_deref(), Some("body.messages.0.content.0"));
        let image = json!([{"type": "image_url", "image_url": {}}]);
        assert_eq!(content(image).as_deref(), Some("body.messages.0.content.0"));
        let text = json!([{"type": "text"}]);
        assert_eq!(content(text).as_deref(), Some("body.messages.0.content.0.text"));
        assert!(normalize(Vec::new()).is_err());
    }
}
