//! Parameters by name and type. What is wrong is noted, and the default is taken meanwhile, so that
//! all that is wrong is told at once.

use std::{cell::RefCell, collections::BTreeSet, ops::RangeInclusive};

use serde_json::{Map, Value};

/// What is wrong, and what does nothing.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: RefCell<Vec<String>>,
    pub(super) warnings: RefCell<Vec<String>>,
}

/// The fields of one object, or of one that is not there. When it is dropped, fields that nobody
/// asked for are problems.
#[derive(Debug)]
pub(super) struct Parameters<'a> {
    path: String,
    object: Option<&'a Map<String, Value>>,
    asked: RefCell<BTreeSet<&'static str>>,
    opaque: bool,
    findings: &'a Findings,
}

// === impl Findings ===

impl Findings {
    pub(super) fn problem(&self, path: &str, message: impl AsRef<str>) {
        self.problems.borrow_mut().push(format!("{path}: {}", message.as_ref()));
    }

    pub(super) fn warn(&self, path: &str, message: impl AsRef<str>) {
        self.warnings.borrow_mut().push(format!("{path}: {}", message.as_ref()));
    }
}

// === impl Parameters ===

impl<'a> Parameters<'a> {
    /// Of a value that must be an object, if there is one.
    pub(super) fn of(path: String, value: Option<&'a Value>, findings: &'a Findings) -> Self {
        let value = value.filter(|value| !value.is_null());
        if value.is_some_and(|value| !value.is_object()) {
            findings.problem(&path, "must be an object");
        }
        let object = value.and_then(Value::as_object);
        Self { path, object, asked: RefCell::default(), opaque: false, findings }
    }

    /// What is in it is somebody else's.
    pub(super) fn ignore(mut self) {
        self.opaque = true;
    }

    /// A field's path.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn problem(&self, key: &str, message: impl AsRef<str>) {
        self.findings.problem(&self.path(key), message);
    }

    /// A field as it is; null is as if it were not there.
    pub(super) fn value(&self, key: &'static str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(key);
        self.object?.get(key).filter(|value| !value.is_null())
    }

    /// A number within bounds.
    pub(super) fn number(&self, key: &'static str, within: RangeInclusive<f64>) -> Option<f64> {
        let value = self.value(key)?;
        let number = value.as_f64().filter(|number| within.contains(number));
        if number.is_none() {
            let (least, most) = (within.start(), within.end());
            let bounds = match *most >= UNBOUNDED {
                true => format!("at least {least}"),
                false => format!("from {least} to {most}"),
            };
            self.problem(key, format!("must be a number, {bounds}, is {value}"));
        }
        number
    }

    /// A whole number, at least so large.
    pub(super) fn count(&self, key: &'static str, least: u32) -> Option<u32> {
        let value = self.value(key)?;
        let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
        let count = count.filter(|count| *count >= least);
        if count.is_none() {
            self.problem(key, format!("must be a whole number, at least {least}, is {value}"));
        }
        count
    }

    /// Text that is not empty.
    pub(super) fn text(&self, key: &'static str) -> Option<&'a str> {
        let value = self.value(key)?;
        let text = value.as_str().filter(|text| !text.is_empty());
        if text.is_none() {
            self.problem(key, format!("must be text, is {value}"));
        }
        text
    }

    /// Text that must be there.
    pub(super) fn required_text(&self, key: &'static str) -> Option<&'a str> {
        if self.value(key).is_none() {
            self.problem(key, "is required");
        }
        self.text(key)
    }

    /// True or false.
    pub(super) fn flag(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        if !value.is_boolean() {
            self.problem(key, format!("must be true or false, is {value}"));
        }
        value.as_bool()
    }

    /// One of some words.
    pub(super) fn one_of<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let known = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if known.is_none() {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.problem(key, format!("must be one of {}, is {text}", words.join(", ")));
        }
        known
    }

    /// Texts in a list.
    pub(super) fn texts(&self, key: &'static str) -> Vec<String> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let texts = value.as_array().map(|list| {
            list.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        texts.flatten().unwrap_or_else(|| {
            self.problem(key, format!("must be a list of texts, is {value}"));
            Vec::new()
        })
    }

    /// An object, or the fields of none.
    pub(super) fn object(&self, key: &'static str) -> Self {
        Parameters::of(self.path(key), self.value(key), self.findings)
    }

    /// Objects in a list.
    pub(super) fn objects(&self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(list) = value.as_array() else {
            self.problem(key, "must be a list");
            return Vec::new();
        };
        let numbered = list.iter().enumerate();
        let of = |(at, one)| {
            Parameters::of(format!("{}[{at}]", self.path(key)), Some(one), self.findings)
        };
        numbered.map(of).collect()
    }
}

impl Drop for Parameters<'_> {
    fn drop(&mut self) {
        let (Some(object), false) = (self.object, self.opaque) else { return };
        let asked = self.asked.borrow();
        for key in object.keys().filter(|key| !asked.contains(key.as_str())) {
            let known: Vec<&str> = asked.iter().copied().collect();
            let known = match known.as_slice() {
                [] => "there are none".to_owned(),
                known => format!("there are {}", known.join(", ")),
            };
            self.problem(key, format!("is not known; {known}"));
        }
    }
}

/// From here on a bound is not worth telling.
const UNBOUNDED: f64 = 1e18;
/// Any number that is not negative.
pub(super) const POSITIVE: RangeInclusive<f64> = 0.0..=UNBOUNDED;
/// A part of a whole.
pub(super) const SHARE: RangeInclusive<f64> = 0.0..=1.0;
