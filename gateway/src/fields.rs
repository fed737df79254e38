//! Which fields a request type reads, asked of its derived `Deserialize`.
//!
//! Fields that nobody reads are accepted, because clients are newer than servers; but whoever asks
//! why a field has no effect finds it in the debug log.

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, Deserializer, Error as _, IgnoredAny, Visitor};

/// The names of a struct's fields.
pub(crate) fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut found: &'static [&'static str] = &[];
    // The deserializer below always fails: it only listens to what it is asked for.
    let _ = T::deserialize(Listener(&mut found));
    found
}

/// A JSON object's names that are in none of the lists.
pub(crate) fn unread(object: &[u8], known: &[&[&str]]) -> Vec<String> {
    let names: BTreeMap<String, IgnoredAny> = serde_json::from_slice(object).unwrap_or_default();
    let read = |name: &String| known.iter().any(|fields| fields.contains(&name.as_str()));
    names.into_keys().filter(|name| !read(name)).collect()
}

struct Listener<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Listener<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(Self::Error::custom("there is nothing to read"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("only a struct has fields"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::{common::Sampling, completions::CompletionRequest};

    #[test]
    fn what_nobody_reads_is_found() {
        let known = [fields_of::<Sampling>(), fields_of::<CompletionRequest>()];
        let body = br#"{"prompt": "x", "top_p": 1, "novelty": {"a": 1}, "suffix": null}"#;
        assert_eq!(unread(body, &known), ["novelty"]);
        assert!(unread(b"not json", &known).is_empty());
    }
}
