//! Qwen 3 Coder: calls in tags, each argument a tag with its value as plain text:
//! `<tool_call><function=f><parameter=city>Paris</parameter></function></tool_call>`.
//!
//! What a value is, a text or JSON, only the tool's schema says.

use std::sync::Arc;

use super::{
    draft::{Draft, Reader, Step},
    family::ToolTypes,
    json::quoted,
    marker::Partial,
};

pub(super) const OPEN: &str = "<tool_call>";
/// Some answers leave the outer tag out.
pub(super) const FUNCTION: &str = "<function=";
const PARAMETER: &str = "<parameter=";
const END_PARAMETER: &str = "</parameter>";
const END_FUNCTION: &str = "</function>";
const CLOSE: &str = "</tool_call>";

/// One block.
pub(super) struct Qwen3Coder {
    types: Arc<ToolTypes>,
    at: At,
    /// Arguments of the call that is being read.
    arguments: u32,
}

enum At {
    /// One of these tags is to come, behind white space.
    Tag(&'static [&'static str], String),
    /// In the attribute of an opening tag.
    Name(String),
    Key(String),
    Value(Value),
}

/// The value of one argument on its way.
struct Value {
    is_text: bool,
    /// What has been read of a value that may be JSON.
    raw: String,
    begun: bool,
    /// A line break that may be the one before the closing tag.
    line_break: bool,
    close: Partial,
}

impl Qwen3Coder {
    /// Behind the outer tag.
    pub(super) fn new(types: Arc<ToolTypes>) -> Self {
        Self { types, at: At::Tag(&[FUNCTION], String::new()), arguments: 0 }
    }

    /// Behind the beginning of the inner one.
    pub(super) fn function(types: Arc<ToolTypes>) -> Self {
        Self { types, at: At::Name(String::new()), arguments: 0 }
    }

    fn go(&mut self, at: At) -> Step {
        self.at = at;
        Step::More
    }

    fn tag(&mut self, tag: &'static str, call: &mut Draft) -> Step {
        match tag {
            FUNCTION => self.go(At::Name(String::new())),
            PARAMETER => self.go(At::Key(String::new())),
            END_FUNCTION => {
                call.arguments.push_str(if self.arguments == 0 { "{}" } else { "}" });
                call.complete = true;
                self.arguments = 0;
                self.go(At::Tag(&[CLOSE, FUNCTION], String::new()))
            }
            _ => Step::Over,
        }
    }

    fn named(&mut self, name: &str, call: &mut Draft) -> Step {
        call.name = Some(name.to_owned());
        self.go(At::Tag(&[PARAMETER, END_FUNCTION], String::new()))
    }

    fn keyed(&mut self, key: &str, call: &mut Draft) -> Step {
        call.arguments.push_str(if self.arguments == 0 { "{" } else { ", " });
        call.arguments.push_str(&quoted(key));
        call.arguments.push_str(": ");
        self.arguments += 1;
        let is_text = self.types.is_text(call.name.as_deref().unwrap_or_default(), key);
        self.go(At::Value(Value::new(is_text, &mut call.arguments)))
    }
}

impl Reader for Qwen3Coder {
    fn read(&mut self, c: char, call: &mut Draft) -> Step {
        match &mut self.at {
            At::Tag(_, mark) if mark.is_empty() && c.is_whitespace() => Step::More,
            At::Tag(tags, mark) => {
                mark.push(c);
                let found = tags.iter().find(|tag| tag.starts_with(mark.as_str()));
                match found {
                    Some(tag) if tag.len() == mark.len() => {
                        let tag = *tag;
                        self.tag(tag, call)
                    }
                    Some(_) => Step::More,
                    None => Step::Invalid,
                }
            }
            At::Name(text) | At::Key(text) if c != '>' => {
                text.push(c);
                if matches!(c, '<' | '\n') { Step::Invalid } else { Step::More }
            }
            At::Name(text) | At::Key(text) if text.is_empty() => Step::Invalid,
            At::Name(name) => {
                let name = std::mem::take(name);
                self.named(&name, call)
            }
            At::Key(key) => {
                let key = std::mem::take(key);
                self.keyed(&key, call)
            }
            At::Value(value) => {
                if value.push(c, &mut call.arguments) {
                    self.at = At::Tag(&[PARAMETER, END_FUNCTION], String::new());
                }
                Step::More
            }
        }
    }

    fn finish(&mut self, _: &mut Draft) -> bool {
        matches!(self.at, At::Tag(tags, _) if tags.contains(&CLOSE))
    }

    fn closer(&self) -> Option<&'static str> {
        Some(CLOSE)
    }
}

impl Value {
    fn new(is_text: bool, out: &mut String) -> Self {
        out.push_str(if is_text { "\"" } else { "" });
        let (raw, close) = (String::new(), Partial::default());
        Self { is_text, raw, begun: false, line_break: false, close }
    }

    /// Takes a character, writes what is known of the value as JSON. Whether it has ended.
    fn push(&mut self, c: char, out: &mut String) -> bool {
        let told = self.close.push(c, |text| END_PARAMETER.starts_with(text));
        for c in told.chars() {
            if std::mem::take(&mut self.line_break) {
                self.add('\n', out);
            }
            // The line breaks behind the opening tag and before the closing one are layout.
            match c {
                '\n' if !self.begun => {}
                '\n' => self.line_break = true,
                c => self.add(c, out),
            }
            self.begun = true;
        }
        let ended = self.close.text() == END_PARAMETER;
        if ended {
            self.end(out);
        }
        ended
    }

    fn add(&mut self, c: char, out: &mut String) {
        if !self.is_text {
            self.raw.push(c);
            if self.raw.len() > VALUE_MAX {
                self.is_text = true;
                out.push_str(quoted(&self.raw).trim_end_matches('"'));
            }
            return;
        }
        let text = quoted(c.encode_utf8(&mut [0; 4]));
        out.push_str(&text[1..text.len() - 1]);
    }

    fn end(&mut self, out: &mut String) {
        let raw = self.raw.trim();
        if self.is_text {
            out.push('"');
        } else if serde_json::from_str::<serde::de::IgnoredAny>(raw).is_ok() {
            out.push_str(raw);
        } else {
            out.push_str(&match raw {
                "True" => "true".to_owned(),
                "False" => "false".to_owned(),
                "None" => "null".to_owned(),
                _ => quoted(&self.raw),
            });
        }
    }
}

/// Bytes of a value that may be JSON; what is longer is told as a text, as it comes.
const VALUE_MAX: usize = 64 << 10;
