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
    // What a message thought has two names; a template knows one of them.
    for (name, other) in [("reasoning", "reasoning_content"), ("reasoning_content", "reasoning")] {
        let thought = message.get(name).filter(|thought| thought.is_string()).cloned();
        if let Some(thought) = thought
            && message.get(other).is_none_or(Value::is_null)
        {
            message.insert(other.into(), thought);
        }
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
    let Value::String(text) = &*arguments else { return };
    // A call without arguments may say so with an empty text.
    let text = if text.trim().is_empty() { "{}" } else { text };
    if let Ok(object @ Value::Object(_)) = serde_json::from_str(text) {
        *arguments = object;
    }
}

/// The reverse for a whole conversation, for templates that put arguments together as text. Written
/// as models write JSON, so that what a model said is found in the prefix cache.
pub(crate) fn close_arguments(messages: &mut [Value]) {
    let calls = messages.iter_mut().filter_map(|message| message.get_mut("tool_calls"));
    for call in calls.filter_map(Value::as_array_mut).flatten() {
        if let Some(arguments) = call.pointer_mut("/function/arguments")
            && arguments.is_object()
        {
            *arguments = spaced(arguments).into();
        }
    }
}

/// JSON with a space behind each comma and colon.
fn spaced(value: &Value) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    match value {
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(spaced).collect();
            format!("[{}]", values.join(", "))
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, of)| format!("{}: {}", quoted(key), spaced(of)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
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
    fn arguments_become_a_text_again() {
        let text = "{\"a\": [1, {\"b\": \"c,d\"}], \"e\": {}}";
        let call = json!({"function": {"name": "f", "arguments": text}});
        let Ok(message) = normal(json!({"role": "assistant", "tool_calls": [call]})) else {
            panic!("a good message")
        };
        let mut messages = [message];
        close_arguments(&mut messages);
        assert_eq!(messages[0].pointer("/tool_calls/0/function/arguments"), Some(&json!(text)));
    }

    #[test]
    fn thought_has_both_names() {
        let message = json!({"role": "assistant", "content": "a", "reasoning": "b"});
        let message = normal(message).expect("a good message");
        assert_eq!(message.get("reasoning_content"), Some(&json!("b")));
        let message = json!({"role": "assistant", "content": "a", "reasoning_content": "b"});
        assert_eq!(normal(message).expect("a good message").get("reasoning"), Some(&json!("b")));
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
