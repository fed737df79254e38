//! What happened to an object, for people: `troupe events` and `troupe describe` show it.

use serde::{Deserialize, Serialize};

/// Something that happened once or several times in the same way.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EventRecord {
    /// To what.
    pub object: ObjectRef,
    /// Whether somebody should look.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// What, as one word: `Scheduled`, `FailedScheduling`, `GroupReady`, `MemberExited` and so on.
    pub reason: String,
    /// What, for people.
    pub message: String,
    /// How often.
    pub count: u32,
    /// First time, in seconds since 1970.
    pub first: u64,
    /// Last time.
    pub last: u64,
}

/// An object by name.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// `LLMInferenceService`, `Group`, `Node`.
    pub kind: String,
    /// Empty for what is in none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Whether somebody should look.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// No.
    Normal,
    /// Yes.
    Warning,
}
