//! Reading JSON files that others wrote: bounded in size, and field by field with errors that name
//! file and field. Depth is bounded by serde_json itself (128 levels).

use std::{
    fs::File,
    io::Read,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::error::ModelError;

/// Reads a whole file, unless it is larger than `limit`; never allocates more than that.
pub(super) fn read_bounded(file: &Path, limit: u64) -> Result<Vec<u8>, ModelError> {
    let failed = |source| ModelError::Read { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(failed)?;
    opened.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(ModelError::TooLarge { file: file.to_owned(), limit });
    }
    Ok(bytes)
}

/// Parses a JSON object.
pub(super) fn parse_object(file: &Path, bytes: &[u8]) -> Result<Map<String, Value>, ModelError> {
    serde_json::from_slice(bytes)
        .map_err(|source| ModelError::Json { file: file.to_owned(), source })
}

/// The fields of one JSON object in a file, read with checks. `null` counts as absent.
pub(super) struct Fields<'a> {
    file: &'a Path,
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The top of a file.
    pub(super) fn new(file: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self { file, prefix: "", map }
    }

    /// An object that stands in field `name`, if it does.
    pub(super) fn object(&self, name: &'a str) -> Result<Option<Self>, ModelError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { file: self.file, prefix: name, map })),
            Some(_) => Err(self.wrong(name, "it must be an object")),
        }
    }

    /// An object that stands somewhere below field `name`; errors name that field.
    pub(super) fn within(&self, name: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { file: self.file, prefix: name, map }
    }

    /// The value, unless absent or null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Whether the field is written at all, be it as null.
    pub(super) fn is_written(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// How many fields there are.
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// A whole number in a range, if there.
    pub(super) fn integer(
        &self,
        name: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ModelError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(
                name,
                format!("it must be a whole number from {} to {}", range.start(), range.end()),
            )),
        }
    }

    /// A whole number in a range that must be there, as a size.
    pub(super) fn size(&self, name: &str, range: RangeInclusive<u64>) -> Result<usize, ModelError> {
        let expected =
            format!("it must be a whole number from {} to {}", range.start(), range.end());
        let number = self.integer(name, range)?.ok_or_else(|| self.wrong(name, expected))?;
        Ok(number as usize)
    }

    /// A finite number in a range, if there.
    pub(super) fn number(
        &self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(
                name,
                format!("it must be a number from {} to {}", range.start(), range.end()),
            )),
        }
    }

    /// A finite number in a range that must be there.
    pub(super) fn required_number(
        &self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<f64, ModelError> {
        let expected = format!("it must be a number from {} to {}", range.start(), range.end());
        self.number(name, range)?.ok_or_else(|| self.wrong(name, expected))
    }

    /// True or false, if there.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ModelError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(name, "it must be true or false")),
        }
    }

    /// A text, if there.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "it must be a text")),
        }
    }

    /// A list of texts, if there.
    pub(super) fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>, ModelError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let texts = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        texts.map(Some).ok_or_else(|| self.wrong(name, "it must be a list of texts"))
    }

    /// A list of numbers of this range, if there.
    pub(super) fn numbers(
        &self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<Vec<f64>>, ModelError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let one = |value: &Value| value.as_f64().filter(|number| range.contains(number));
        let all = value.as_array().and_then(|list| list.iter().map(one).collect());
        let (from, to) = (range.start(), range.end());
        let expected = || format!("it must be a list of numbers from {from} to {to}");
        all.map(Some).ok_or_else(|| self.wrong(name, expected()))
    }

    /// A list of whole numbers below `end`, if there.
    pub(super) fn integers(
        &self,
        name: &str,
        end: usize,
    ) -> Result<Option<Vec<usize>>, ModelError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let one = |value: &Value| {
            value.as_u64().and_then(|number| usize::try_from(number).ok()).filter(|at| *at < end)
        };
        let all = value.as_array().and_then(|list| list.iter().map(one).collect());
        let expected = || format!("it must be a list of whole numbers below {end}");
        all.map(Some).ok_or_else(|| self.wrong(name, expected()))
    }

    /// One token id or a list of them; empty if absent. Each must be below `vocab_size`.
    pub(super) fn token_ids(&self, name: &str, vocab_size: usize) -> Result<Vec<u32>, ModelError> {
        let one =
            |value: &Value| value.as_u64().filter(|id| *id < vocab_size as u64).map(|id| id as u32);
        let ids = match self.get(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) if list.len() <= MAX_LISTED_IDS => {
                list.iter().map(one).collect::<Option<Vec<_>>>()
            }
            Some(value) => one(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| {
            self.wrong(
                name,
                format!(
                    "it must be a token id below the vocabulary's {vocab_size}, or a short list"
                ),
            )
        })
    }

    /// An error about a field: what stands there is taken from the file.
    pub(super) fn wrong(&self, name: &str, expected: impl Into<String>) -> ModelError {
        let found = match self.map.get(name) {
            None => "missing".to_owned(),
            Some(value) => shorten(&value.to_string()),
        };
        let field = match self.prefix {
            "" => name.to_owned(),
            prefix => format!("{prefix}.{name}"),
        };
        ModelError::Field {
            file: PathBuf::from(self.file),
            field,
            found,
            expected: expected.into(),
        }
    }
}

/// Cuts what is quoted from a file, which may be as long as the file.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// A model has a handful of end tokens; a longer list is not one.
const MAX_LISTED_IDS: usize = 256;
