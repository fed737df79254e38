//! Reading a document of somebody else's shape: all that is wrong with it at once, with paths.
//!
//! A field is asked for by name and type. What is wrong becomes a problem, what nobody asked for a
//! warning, so that a specification written for a newer version still loads and says what it lost.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use serde_json::{Map, Value};

use super::finding::Findings;

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

    /// Warns of fields that are taken but do nothing, in one line: there are many in every pod.
    pub(super) fn without_effect_together(&self, keys: &[&'static str], why: &str) {
        let there: Vec<&str> =
            keys.iter().copied().filter(|key| self.value(key).is_some()).collect();
        match there.as_slice() {
            [] => {}
            [key] => self.warn(key, format!("has no effect{why}")),
            [keys @ .., last] => {
                self.warn_whole(format!("{} and {last} have no effect{why}", keys.join(", ")));
            }
        }
    }

    /// Warns of the object itself.
    pub(super) fn warn_whole(&self, message: impl Into<String>) {
        self.findings.warn(self.path.clone(), message);
    }

    /// Where what is found is noted.
    pub(super) fn findings(&self) -> &'a Findings {
        self.findings
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
        let number = self.number(key, least.into())?;
        let count = u32::try_from(number).ok();
        if count.is_none() {
            self.problem(key, format!("must be at most {}, got {number}", u32::MAX));
        }
        count
    }

    /// A whole number of at least `least`.
    pub(super) fn number(&self, key: &'static str, least: u64) -> Option<u64> {
        let value = self.value(key)?;
        match value.as_u64() {
            Some(number) if number >= least => Some(number),
            _ => {
                self.problem(key, format!("must be at least {least}, got {}", shown(value)));
                None
            }
        }
    }

    /// A whole number within bounds.
    pub(super) fn count_within(&self, key: &'static str, bounds: (u32, u32)) -> Option<u32> {
        let (least, most) = bounds;
        let count = self.count(key, least)?;
        if count > most {
            self.problem(key, format!("must be at most {most}, got {count}"));
            return None;
        }
        Some(count)
    }

    /// A whole number of any sign.
    pub(super) fn integer(&self, key: &'static str) -> Option<i32> {
        let value = self.value(key)?;
        let integer = value.as_i64().and_then(|number| i32::try_from(number).ok());
        if integer.is_none() {
            let bounds = format!("from {} to {}", i32::MIN, i32::MAX);
            self.problem(key, format!("must be a whole number {bounds}, got {}", shown(value)));
        }
        integer
    }

    /// Text that is one of a table's words.
    pub(super) fn one_of<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(key).filter(|text| !self.findings.is_template(text))?;
        let known = words.iter().find(|(word, _)| *word == text);
        if known.is_none() {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.problem(key, format!("must be {}, got {text}", alternatives(&words)));
        }
        known.map(|(_, value)| *value)
    }

    /// A value that is written without brackets, as text.
    pub(super) fn scalar(&self, key: &'static str) -> Option<String> {
        let value = self.value(key)?;
        let text = scalar(value);
        if text.is_none() {
            self.problem(key, format!("must be text, is {}", kind_of(value)));
        }
        text
    }

    /// Warns of fields that are taken but do nothing.
    pub(super) fn without_effect(&self, keys: &[&'static str], why: &str) {
        for key in keys {
            if self.value(key).is_some() {
                self.warn(key, format!("has no effect{why}"));
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

    /// A list's objects; an absent list is empty.
    pub(super) fn objects(&self, key: &'static str) -> Vec<Self> {
        let list = self.list(key).into_iter();
        list.filter_map(|(path, value)| Fields::of(value, path, self.findings)).collect()
    }

    /// A list of texts; numbers are taken as text.
    pub(super) fn text_list(&self, key: &'static str) -> Vec<String> {
        let mut texts = Vec::new();
        for (path, value) in self.list(key) {
            match scalar(value) {
                Some(text) => texts.push(text),
                None => self.findings.problem(path, "must be text"),
            }
        }
        texts
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

/// Words as a sentence has them: `a`, `a or b`, `a, b or c`.
pub(super) fn alternatives(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [words @ .., last] => format!("{} or {last}", words.join(", ")),
    }
}

/// A value in an error: numbers and texts themselves, of anything else only what it is.
fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        other => kind_of(other).to_owned(),
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
