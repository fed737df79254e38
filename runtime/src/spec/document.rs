//! A file of YAML or JSON documents as plain values, within bounds.
//!
//! YAML's aliases let a small file stand for a huge value, and nesting costs stack; so the value is
//! counted while it is built and refused before it is large.

use std::{cell::Cell, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// The most bytes in one file.
pub const MAX_FILE: usize = 1 << 20;
/// The most bytes of text, plus 16 for each value, that a file may stand for.
const MAX_VALUE: usize = 8 << 20;
/// The deepest nesting: Kubernetes' own objects stay below 20.
const MAX_DEPTH: usize = 64;

/// Why a file is no list of documents.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is larger than any specification.
    #[error("{0} bytes, at most {MAX_FILE} are read")]
    TooLarge(usize),
    /// It is not YAML or JSON, or stands for too much.
    #[error("document {number} cannot be read")]
    Malformed {
        /// Which document of the file, from 1.
        number: usize,
        /// Why and where.
        #[source]
        source: serde_norway::Error,
    },
}

/// All documents of a file, without those that are empty.
pub fn read(text: &str) -> Result<Vec<Value>, DocumentError> {
    if text.len() > MAX_FILE {
        return Err(DocumentError::TooLarge(text.len()));
    }
    // The parser takes a file of comments only for one that ends too early.
    if text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#')) {
        return Ok(Vec::new());
    }
    let left = Cell::new(MAX_VALUE);
    let mut documents = Vec::new();
    for (index, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let bounded = Bounded { left: &left, depth: MAX_DEPTH };
        let value = bounded
            .deserialize(document)
            .map_err(|source| DocumentError::Malformed { number: index + 1, source })?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}

/// Builds a value while there is room.
#[derive(Clone, Copy)]
struct Bounded<'a> {
    left: &'a Cell<usize>,
    depth: usize,
}

impl Bounded<'_> {
    fn take<E: Error>(&self, bytes: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(bytes + 16);
        let left = left.ok_or_else(|| E::custom("the documents stand for too much data"))?;
        self.left.set(left);
        Ok(())
    }

    fn deeper<E: Error>(&self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        let depth = depth.ok_or_else(|| E::custom(format!("nested more than {MAX_DEPTH} deep")))?;
        Ok(Self { left: self.left, depth })
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has too")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.take(0)?;
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Value, E> {
        self.take(0)?;
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        self.take(0)?;
        Ok(number.into())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        self.take(0)?;
        Ok(number.into())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        self.take(0)?;
        let number = Number::from_f64(number);
        number.map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.take(text.len())?;
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        self.take(0)?;
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.take(0)?;
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(Key(key)) = entries.next_key()? {
            self.take(key.len())?;
            let value = entries.next_value_seed(inner)?;
            if map.contains_key(&key) {
                return Err(Error::custom(format!("the field `{key}` is there twice")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A field's name; YAML's numbers and flags are names too.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

/// Takes nothing that an alias could make large.
struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text as a field's name")
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Key, E> {
        Ok(Key(flag.to_string()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Key, E> {
        Ok(Key(number.to_string()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Key, E> {
        Ok(Key(number.to_string()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Key, E> {
        Ok(Key(format!("{number:?}")))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Key, E> {
        Ok(Key(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error;

    #[test]
    fn several_documents_and_json_are_read() {
        let read = read("a: 1\n---\n---\n{\"b\": [true, null, 1.5, \"x\"]}\n").expect("documents");
        assert_eq!(
            read,
            [serde_json::json!({"a": 1}), serde_json::json!({"b": [true, null, 1.5, "x"]})]
        );
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_built() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let inner = vec![format!("*a{}", n - 1); 9].join(", ");
            bomb.push_str(&format!("a{n}: &a{n} [{inner}]\n"));
        }
        assert!(matches!(read(&bomb), Err(DocumentError::Malformed { number: 1, .. })));
        let as_name = format!("{bomb}? *a11\n: x\n");
        assert!(matches!(read(&as_name), Err(DocumentError::Malformed { number: 1, .. })));
        let alone = "a: &a [x]\n? *a\n: y\n";
        let error = error::chain(&read(alone).expect_err("a list is no name"));
        assert!(error.contains("a field's name"), "{error}");
        assert_eq!(read("1: a\ntrue: b\n1.5: c\n").expect("names")[0]["1.5"], "c");
        let text = "x".repeat(500_000);
        let repeated = format!("a: &a {text}\nb: [{}]\n", vec!["*a"; 50].join(", "));
        assert!(matches!(read(&repeated), Err(DocumentError::Malformed { .. })));
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(&deep(MAX_DEPTH)).is_ok());
        assert!(read(&deep(MAX_DEPTH + 1)).is_err());
        assert!(read(&deep(100_000)).is_err());
        let large = format!("a: {}", "x".repeat(MAX_FILE));
        assert!(matches!(read(&large), Err(DocumentError::TooLarge(_))));
    }

    #[test]
    fn a_file_without_a_document_holds_none() {
        for text in ["", "\n", "# nothing\n  # more\n", "---\n", "null"] {
            assert!(read(text).expect("it is no error").is_empty(), "{text}");
        }
    }

    #[test]
    fn a_field_that_is_there_twice_is_an_error() {
        assert!(read("a: 1\na: 2\n").is_err());
    }
}
