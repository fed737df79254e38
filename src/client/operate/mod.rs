//! What the operator's commands share: asking a control host, and showing what it says as people
//! know it from `kubectl`.
//!
//! - [`session`]: a connection, and one question per conversation
//! - [`target`]: which objects a command line names
//! - [`print`]: objects as a table, YAML, JSON or names; [`columns`], [`table`], [`age`] for it
//! - [`describe`]: one object, for reading
//! - [`files`]: documents from files, folders and standard input
//! - [`rollout`]: how far a rollout is
//! - [`preflight`]: what was found of a cluster, as tables and as one document

pub(crate) mod age;
pub(crate) mod columns;
pub(crate) mod describe;
pub(crate) mod files;
pub(crate) mod preflight;
pub(crate) mod print;
pub(crate) mod rollout;
pub(crate) mod session;
pub(crate) mod table;
pub(crate) mod target;

use std::time::{SystemTime, UNIX_EPOCH};

/// The time of day in seconds since 1970, for ages.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
