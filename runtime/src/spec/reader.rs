//! Reading a document of somebody else's shape: all that is wrong with it at once, with paths.
//!
//! A field is asked for by name and type. What is wrong becomes a problem, what nobody asked for a
//! warning, so that a specification written for a newer version still loads and says what it lost.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::{Map, Value};

/// Something to say about a place in a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where, as `spec.parallelism.tensor`.
    pub path: String,
    /// What is there and what would be right.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Everything found in a document.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
}

impl Findings {
    pub(super) fn problem(&self, path: impl Into<String>, message: impl Into<String>) {
        let finding = Finding { path: path.into(), message: message.into() };
        self.problems.borrow_mut().push(finding);
    }

    pub(super) fn warn(&self, path: impl Into<String>, message: impl Into<String>) {
        let finding = Finding { path: path.into(), message: message.into() };
        self.warnings.borrow_mut().push(finding);
    }

    /// Problems and warnings.
    pub(super) fn into_parts(self) -> (Vec<Finding>, Vec<Finding>) {
        (self.problems.into_inner(), self.warnings.into_inner())
    }
}

/// One object of a document. When it is dropped, fields that nobody asked for become warnings.
pub(super) struct Fields<'a> {
    path: String,
    object: &'a Map<String, Value>,
    known: RefCell<BTreeSet<&'static str>>,
    findings: &'a Findings,
}

impl<'a> Fields<'a> {
    /// The fields of a value, which must be an object.
    pub(super) fn of(value: &'a Value, path: String, findings: &'a Findings) -> Option<Self> {
        let Some(object) = value.as_object() else {
            findings.problem(path, format!("must be an object, is {}", kind_of(value)));
            return None;
        };
        Some(Self { path, object, known: RefCell::default(), findings })
    }

    /// A field's path.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        self.findings.problem(self.path(key), message);
    }

    pub(super) fn warn(&self, key: &str, message: impl Into<String>) {
        self.findings.warn(self.path(key), message);
    }

    /// Any value; `null` is absent.
    pub(super) fn value(&self, key: &'static str) -> Option<&'a Value> {
        self.known.borrow_mut().insert(key);
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, key: &'static str) -> Option<&'a str> {
        let value = self.value(key)?;
        let text = value.as_str();
        if text.is_none() {
            self.problem(key, format!("must be text, is {}", kind_of(value)));
        }
        text
    }

    pub(super) fn required_text(&self, key: &'static str) -> Option<&'a str> {
        if self.value(key).is_none() {
            self.problem(key, "is required");
        }
        let text = self.text(key)?;
        if text.is_empty() {
            self.problem(key, "must not be empty");
        }
        Some(text)
    }

    /// A whole number of at least `least`.
    pub(super) fn count(&self, key: &'static str, least: u32) -> Option<u32> {
        let value = self.value(key)?;
        let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
        match count {
            Some(count) if count >= least => Some(count),
            _ => {
                let got = match value {
                    Value::Number(number) => number.to_string(),
                    other => kind_of(other).to_owned(),
                };
                self.problem(key, format!("must be at least {least}, got {got}"));
                None
            }
        }
    }

    pub(super) fn flag(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        let flag = value.as_bool();
        if flag.is_none() {
            self.problem(key, format!("must be true or false, is {}", kind_of(value)));
        }
        flag
    }

    pub(super) fn object(&self, key: &'static str) -> Option<Self> {
        Fields::of(self.value(key)?, self.path(key), self.findings)
    }

    /// A list's values with their paths; an absent list is empty.
    pub(super) fn list(&self, key: &'static str) -> Vec<(String, &'a Value)> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let Some(list) = value.as_array() else {
            self.problem(key, format!("must be a list, is {}", kind_of(value)));
            return Vec::new();
        };
        let path = self.path(key);
        list.iter().enumerate().map(|(n, value)| (format!("{path}[{n}]"), value)).collect()
    }

    /// An object inside this one's lists.
    pub(super) fn at(&self, path: String, value: &'a Value) -> Option<Self> {
        Fields::of(value, path, self.findings)
    }

    /// All of it, as it is.
    pub(super) fn document(&self) -> Value {
        Value::Object(self.object.clone())
    }

    /// An object whose values are text: labels, resource quantities. Numbers are taken as text.
    pub(super) fn texts(&self, key: &'static str) -> BTreeMap<String, String> {
        let Some(value) = self.value(key) else {
            return BTreeMap::new();
        };
        let Some(object) = value.as_object() else {
            self.problem(key, format!("must be an object, is {}", kind_of(value)));
            return BTreeMap::new();
        };
        let mut texts = BTreeMap::new();
        for (name, value) in object {
            match scalar(value) {
                Some(text) => {
                    texts.insert(name.clone(), text);
                }
                None => self.problem(key, format!("{name} must be text, is {}", kind_of(value))),
            }
        }
        texts
    }

    /// Takes the object as it is: nothing in it is unknown.
    pub(super) fn opaque(self) {
        *self.known.borrow_mut() = BTreeSet::from([EVERYTHING]);
    }
}

/// Stands for all fields of an object that is not looked into.
const EVERYTHING: &str = "*";

impl Drop for Fields<'_> {
    fn drop(&mut self) {
        let known = self.known.borrow();
        if known.contains(EVERYTHING) {
            return;
        }
        for key in self.object.keys().filter(|key| !known.contains(key.as_str())) {
            self.warn(key, "is not known and has no effect");
        }
    }
}

/// A value that is written without brackets, as text.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
