//! Mistral: `[TOOL_CALLS]`, then `[{"name": "f", "arguments": {...}}, ...]`, or since tokenizer
//! version 11 `f{...}` or `f[CALL_ID]id[ARGS]{...}`, with a marker before each call.

use super::{
    array::CallArray,
    draft::{Draft, Reader, Step},
    json::{JsonScanner, Scan},
    object::CallObject,
};

pub(super) const TAG: &str = "[TOOL_CALLS]";

/// What follows one marker.
pub(super) struct Mistral(At);

enum At {
    Start,
    Array(CallArray),
    /// A single object, as some fine-tuned models write it.
    Object(CallObject),
    Name(String),
    /// Behind a name.
    Named,
    /// Between brackets behind a name.
    Tag(String),
    /// Behind `[CALL_ID]`; our own ids are told.
    Id,
    /// Before the arguments' brace.
    Begin,
    Arguments(JsonScanner),
    Over,
}

impl Mistral {
    /// Behind the marker.
    pub(super) fn new() -> Self {
        Self(At::Start)
    }

    fn go(&mut self, at: At) -> Step {
        self.0 = at;
        Step::More
    }

    fn start(&mut self, c: char, call: &mut Draft) -> Step {
        match c {
            c if c.is_whitespace() => Step::More,
            '[' => {
                let mut array = CallArray::new();
                array.read(c, call);
                self.go(At::Array(array))
            }
            '{' => {
                let mut object = CallObject::marked();
                object.read(c, call);
                self.go(At::Object(object))
            }
            c if in_name(c) => self.go(At::Name(c.into())),
            _ => Step::Invalid,
        }
    }

    /// Behind a name.
    fn named(&mut self, c: char, call: &mut Draft) -> Step {
        match c {
            c if c.is_whitespace() => Step::More,
            '[' => self.go(At::Tag(String::new())),
            _ => {
                self.0 = At::Begin;
                self.read(c, call)
            }
        }
    }
}

impl Reader for Mistral {
    fn read(&mut self, c: char, call: &mut Draft) -> Step {
        match &mut self.0 {
            At::Start => self.start(c, call),
            At::Array(array) => array.read(c, call),
            At::Object(object) => object.read(c, call),
            At::Name(name) if in_name(c) => {
                name.push(c);
                Step::More
            }
            At::Name(name) => {
                call.name = Some(std::mem::take(name));
                self.0 = At::Named;
                self.named(c, call)
            }
            At::Named => self.named(c, call),
            At::Tag(tag) if c == ']' => match tag.as_str() {
                "CALL_ID" => self.go(At::Id),
                "ARGS" => self.go(At::Begin),
                _ => Step::Invalid,
            },
            At::Tag(tag) => {
                tag.push(c);
                Step::More
            }
            At::Id if c == '[' => self.go(At::Tag(String::new())),
            At::Id => Step::More,
            At::Begin if c.is_whitespace() => Step::More,
            At::Begin if c != '{' => Step::Invalid,
            At::Begin => {
                self.0 = At::Arguments(JsonScanner::default());
                self.read(c, call)
            }
            At::Arguments(scanner) => {
                call.arguments.push(c);
                match scanner.push(c) {
                    Scan::More => Step::More,
                    Scan::Done => {
                        call.complete = true;
                        self.0 = At::Over;
                        Step::Over
                    }
                    Scan::Before | Scan::Invalid => Step::Invalid,
                }
            }
            At::Over => Step::Invalid,
        }
    }

    fn finish(&mut self, _: &mut Draft) -> bool {
        matches!(&self.0, At::Array(array) if array.between())
    }
}

fn in_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}
