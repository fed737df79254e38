//! What stands under a spec's key: an object as somebody declared it, or that it was deleted.
//!
//! A deleted object leaves a tombstone with the next generation. Without it a host that was away
//! could not tell an object that is gone from one that the store lost, and would bring it back.

use serde_json::{Value, json};

use super::directory::API_VERSION;

/// How far an object's history has come. The higher generation is the newer word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Counts changes, deletions too, from 1.
    pub generation: u64,
    /// It was deleted.
    pub deleted: bool,
}

// === impl Declared ===

impl Declared {
    /// Reads it off a stored value; `None` if that is no object. One that says no generation has 0.
    pub fn of(value: &[u8]) -> Option<Self> {
        let document: Value = serde_json::from_slice(value).ok()?;
        let kind = document.get("kind")?.as_str()?;
        let generation = document.pointer("/metadata/generation").and_then(Value::as_u64);
        Some(Self { generation: generation.unwrap_or(0), deleted: kind == TOMBSTONE })
    }
}

/// What is stored of an object that was deleted.
pub fn tombstone(generation: u64) -> Vec<u8> {
    let metadata = json!({"generation": generation});
    json!({"apiVersion": API_VERSION, "kind": TOMBSTONE, "metadata": metadata})
        .to_string()
        .into_bytes()
}

const TOMBSTONE: &str = "Tombstone";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_and_its_tombstone_are_told_apart() {
        let object = json!({"kind": "LLMInferenceService", "metadata": {"generation": 4}});
        let read = |document: Value| Declared::of(document.to_string().as_bytes());
        assert_eq!(read(object), Some(Declared { generation: 4, deleted: false }));
        let young = json!({"kind": "LLMInferenceService"});
        assert_eq!(read(young), Some(Declared { generation: 0, deleted: false }));
        assert_eq!(Declared::of(&tombstone(5)), Some(Declared { generation: 5, deleted: true }));
        assert_eq!(Declared::of(b"{}"), None);
        assert_eq!(Declared::of(b"nonsense"), None);
    }
}
