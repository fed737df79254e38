//! A tool call as a JSON object: `{"name": "f", "arguments": {...}}`, in any order of its fields.
//!
//! Arguments may also be called `parameters`, be missing or null if there are none, or be an
//! object written as a string, which is unwrapped.

use super::{
    draft::{Draft, Step},
    json::{JsonScanner, Scan},
};

/// One object on its way.
#[derive(Debug)]
pub(super) struct CallObject {
    strict: bool,
    at: At,
    /// The value or key that is being read, if it is needed as a whole.
    raw: String,
    has_name: bool,
    has_arguments: bool,
}

#[derive(Debug)]
enum At {
    Open,
    FirstKey,
    NextKey,
    Key(JsonScanner),
    Colon(Field),
    Value(Field, JsonScanner),
    Comma,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Arguments,
    /// Arguments that are told as they come.
    Flowing,
    Other,
}

impl CallObject {
    /// An object that is known to be a call by what stands around it.
    pub(super) fn marked() -> Self {
        Self::new(false, At::Open)
    }

    /// An object that is a call only if it looks like one: it has both fields, and no others but
    /// `type` and `id`. Its brace was read.
    pub(super) fn bare() -> Self {
        Self::new(true, At::FirstKey)
    }

    fn new(strict: bool, at: At) -> Self {
        Self { strict, at, raw: String::new(), has_name: false, has_arguments: false }
    }

    pub(super) fn read(&mut self, c: char, call: &mut Draft) -> Step {
        let space = c.is_ascii_whitespace();
        match &mut self.at {
            At::Key(scanner) => {
                let scan = scanner.push(c);
                self.raw.push(c);
                match scan {
                    Scan::Done => self.key(),
                    Scan::More => Step::More,
                    Scan::Before | Scan::Invalid => Step::Invalid,
                }
            }
            At::Value(..) => self.value(c, call),
            _ if space => Step::More,
            At::Open if c == '{' => self.go(At::FirstKey),
            At::FirstKey | At::NextKey if c == '"' => {
                let mut scanner = JsonScanner::default();
                scanner.push(c);
                self.raw = c.into();
                self.go(At::Key(scanner))
            }
            At::Colon(field) if c == ':' => {
                let field = *field;
                self.raw.clear();
                self.go(At::Value(field, JsonScanner::default()))
            }
            At::Comma if c == ',' => self.go(At::NextKey),
            At::Comma | At::FirstKey if c == '}' => self.close(call),
            _ => Step::Invalid,
        }
    }

    fn go(&mut self, at: At) -> Step {
        self.at = at;
        Step::More
    }

    fn key(&mut self) -> Step {
        let Ok(key) = serde_json::from_str::<String>(&self.raw) else { return Step::Invalid };
        let field = match key.as_str() {
            "name" if self.has_name => return Step::Invalid,
            "arguments" | "parameters" if self.has_arguments => return Step::Invalid,
            "name" => Field::Name,
            "arguments" | "parameters" => Field::Arguments,
            "id" | "type" => Field::Other,
            _ if self.strict => return Step::Invalid,
            _ => Field::Other,
        };
        self.has_name |= field == Field::Name;
        self.has_arguments |= field == Field::Arguments;
        self.go(At::Colon(field))
    }

    fn value(&mut self, c: char, call: &mut Draft) -> Step {
        let At::Value(field, scanner) = &mut self.at else { return Step::Invalid };
        let scan = scanner.push(c);
        if scan == Scan::Invalid {
            return Step::Invalid;
        }
        if *field == Field::Arguments && self.raw.is_empty() && matches!(c, '{' | '[') {
            *field = Field::Flowing;
        }
        let field = *field;
        if scan != Scan::Before {
            match field {
                Field::Flowing => call.arguments.push(c),
                Field::Name | Field::Arguments if !self.raw.is_empty() || !c.is_whitespace() => {
                    self.raw.push(c);
                }
                _ => {}
            }
        }
        if scan == Scan::More {
            return Step::More;
        }
        if !self.take_value(field, call) {
            return Step::Invalid;
        }
        self.at = At::Comma;
        if scan == Scan::Before { self.read(c, call) } else { Step::More }
    }

    /// A value that was read as a whole. Whether it can be used.
    fn take_value(&self, field: Field, call: &mut Draft) -> bool {
        match field {
            Field::Flowing | Field::Other => true,
            Field::Name => {
                let name = serde_json::from_str::<String>(&self.raw);
                call.name = name.ok().filter(|name| !name.is_empty());
                call.name.is_some()
            }
            Field::Arguments if self.raw == "null" => {
                call.arguments.push_str("{}");
                true
            }
            Field::Arguments => {
                let unwrapped = serde_json::from_str::<String>(&self.raw);
                let unwrapped = unwrapped.unwrap_or_else(|_| self.raw.clone());
                let none = unwrapped.trim().is_empty();
                call.arguments.push_str(if none { "{}" } else { unwrapped.trim() });
                true
            }
        }
    }

    fn close(&mut self, call: &mut Draft) -> Step {
        if call.name.is_none() || self.strict && !self.has_arguments {
            return Step::Invalid;
        }
        if !self.has_arguments {
            call.arguments.push_str("{}");
        }
        call.complete = true;
        Step::Over
    }
}
