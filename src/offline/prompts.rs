//! What a line of `troupe run`'s input asks for, and what its result looks like.
//!
//! A line is a prompt, or a JSON object: `prompt` (text or tokens) for a completion, or `messages`
//! for a chat completion, and beside it any field of the API's request.

use serde_json::{Map, Value, json};

use super::drive::{Asked, Problem, Told};
use crate::client::answer::Answer;

/// How lines are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Every line is a prompt.
    Text,
    /// Every line is a JSON object, or a prompt as a JSON string.
    Jsonl,
}

/// What holds for every line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Defaults {
    /// Prompts are what a user says in a conversation.
    pub(crate) chat: bool,
    /// Fields of every request; a line's own win.
    pub(crate) fields: Map<String, Value>,
    /// A line without a seed gets this and its number.
    pub(crate) seed: Option<u64>,
}

/// What of a line is told again with its result.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Origin {
    pub(crate) number: usize,
    /// `prompt` or `messages`, if the line could be read.
    pub(crate) asked: Option<(&'static str, Value)>,
}

/// What line `number` asks for, or what is wrong with it.
pub(crate) fn parse(
    number: usize,
    line: Result<String, String>,
    format: Format,
    defaults: &Defaults,
) -> (Origin, Result<Asked, Problem>) {
    let mut origin = Origin { number, asked: None };
    let asked = line
        .and_then(|line| fields(line, format))
        .and_then(|fields| request(fields, &mut origin, defaults));
    (origin, asked.map_err(|why| Problem::line(number, &why)))
}

fn fields(line: String, format: Format) -> Result<Map<String, Value>, String> {
    if format == Format::Text {
        return Ok(Map::from_iter([("prompt".to_owned(), line.into())]));
    }
    match serde_json::from_str(&line) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(prompt @ Value::String(_)) => Ok(Map::from_iter([("prompt".to_owned(), prompt)])),
        Ok(_) => Err("it is neither an object such as {\"prompt\": ...} nor a text".to_owned()),
        Err(error) => Err(format!("it is no JSON ({error}); --format text takes lines as prompts")),
    }
}

fn request(
    mut fields: Map<String, Value>,
    origin: &mut Origin,
    defaults: &Defaults,
) -> Result<Asked, String> {
    if fields.get("stream").is_some_and(|stream| *stream != Value::Bool(false)) {
        return Err("`stream` has no meaning here: every result is one line".into());
    }
    let (field, path) = match (fields.remove("prompt"), fields.remove("messages")) {
        (Some(prompt), None) => {
            origin.asked = Some(("prompt", prompt.clone()));
            match (defaults.chat, prompt) {
                (false, prompt) => (("prompt", prompt), COMPLETIONS),
                (true, Value::String(text)) => {
                    (("messages", json!([{"role": "user", "content": text}])), CHAT)
                }
                (true, _) => {
                    return Err("with --chat a `prompt` has to be a text; give `messages`".into());
                }
            }
        }
        (None, Some(messages)) => {
            origin.asked = Some(("messages", messages.clone()));
            (("messages", messages), CHAT)
        }
        (Some(_), Some(_)) => return Err("it has both `prompt` and `messages`".into()),
        (None, None) => return Err("it has neither `prompt` nor `messages`".into()),
    };
    let mut body = defaults.fields.clone();
    if let Some(seed) = defaults.seed {
        // The API's seeds are signed.
        let seed = seed.wrapping_add(origin.number as u64) & i64::MAX as u64;
        body.insert("seed".into(), seed.into());
    }
    body.extend(fields);
    body.insert(field.0.into(), field.1);
    Ok(Asked { path: path.into(), body: Value::Object(body).to_string() })
}

/// The result of a line.
pub(crate) fn tell(origin: Origin, answer: Result<Answer, Problem>) -> Told {
    let mut line = Map::from_iter([("line".to_owned(), origin.number.into())]);
    line.extend(origin.asked.map(|(field, value)| (field.to_owned(), value)));
    let error = match answer {
        Ok(answer) if answer.status == 200 => {
            let mut body = answer.json();
            let usage = body.get_mut("usage").map(Value::take).unwrap_or_default();
            let tokens = usage.get("completion_tokens").and_then(Value::as_u64).unwrap_or(0);
            let mut outputs = body.get_mut("choices").map(Value::take).unwrap_or_default();
            for choice in outputs.as_array_mut().into_iter().flatten() {
                // A chat's text stands where a completion's does too.
                let text = choice.pointer("/message/content").cloned();
                if let (Some(text), Some(choice)) = (text, choice.as_object_mut()) {
                    choice.insert("text".into(), text);
                }
            }
            line.extend([("outputs".to_owned(), outputs), ("usage".to_owned(), usage)]);
            return Told { line: Value::Object(line), tokens, failed: false };
        }
        Ok(answer) => match answer.json().get("error") {
            Some(Value::Object(error)) => Value::Object(error.clone()),
            _ => json!({"message": answer.complaint(), "code": answer.status}),
        },
        Err(problem) => json!({"message": problem.message, "type": problem.kind}),
    };
    line.insert("error".to_owned(), error);
    Told { line: Value::Object(line), tokens: 0, failed: true }
}

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str, format: Format, defaults: &Defaults) -> Result<(String, Value), String> {
        let (_, asked) = parse(3, Ok(line.into()), format, defaults);
        let asked = asked.map_err(|problem| problem.message)?;
        Ok((asked.path, serde_json::from_str(&asked.body).expect("JSON")))
    }

    #[test]
    fn a_lines_own_fields_win() {
        let defaults = Defaults {
            fields: Map::from_iter([("max_tokens".into(), 7.into()), ("top_p".into(), 1.into())]),
            seed: Some(40),
            ..Defaults::default()
        };
        let (path, body) = parsed("Hello", Format::Text, &defaults).expect("a prompt");
        assert_eq!(path, COMPLETIONS);
        assert_eq!(body, json!({"max_tokens": 7, "top_p": 1, "seed": 43, "prompt": "Hello"}));
        let line = r#"{"prompt": [1, 2], "max_tokens": 9, "seed": 5}"#;
        let (_, body) = parsed(line, Format::Jsonl, &defaults).expect("a prompt");
        assert_eq!(body, json!({"max_tokens": 9, "top_p": 1, "seed": 5, "prompt": [1, 2]}));
    }

    #[test]
    fn prompts_become_conversations_if_asked() {
        let chat = Defaults { chat: true, ..Defaults::default() };
        let (path, body) = parsed("Hello", Format::Text, &chat).expect("a prompt");
        assert_eq!((path.as_str(), &body["messages"][0]["content"]), (CHAT, &json!("Hello")));
        let line = r#"{"messages": [{"role": "user", "content": "x"}]}"#;
        let (path, _) = parsed(line, Format::Jsonl, &Defaults::default()).expect("messages");
        assert_eq!(path, CHAT);
        let error = parsed(r#"{"prompt": [1]}"#, Format::Jsonl, &chat).expect_err("tokens");
        assert!(error.contains("--chat"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let cases = [
            ("{", "no JSON"),
            ("7", "neither an object"),
            ("{}", "neither `prompt` nor `messages`"),
            (r#"{"prompt": "a", "messages": []}"#, "both"),
            (r#"{"prompt": "a", "stream": true}"#, "`stream`"),
        ];
        for (line, words) in cases {
            let error = parsed(line, Format::Jsonl, &Defaults::default()).expect_err(line);
            assert!(error.contains(words) && error.contains("line 3"), "{line}: {error}");
        }
    }
}
