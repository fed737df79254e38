//! The UUID that tells one life of a store from the next.
//!
//! Whoever opens a store first makes it, by compare-and-swap. Every writer remembers the one that
//! its knowledge of the store comes from and compares it in each write: a store that was wiped and
//! filled again by others, or restored from another life's backup, takes nothing from a writer that
//! has not noticed. Such a writer reads what is there now and begins anew.

use std::borrow::Cow;

use uuid::Uuid;

use super::{Compare, Entry, Op, RegistryError, Txn, store::Store};

/// Which life of a store something was read in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incarnation {
    pub(super) key: String,
    pub(super) value: Vec<u8>,
}

// === impl Incarnation ===

impl Incarnation {
    /// As a watch or a read found it.
    pub fn of(entry: Entry) -> Self {
        Self { key: entry.key, value: entry.value }
    }

    /// Holds as long as the store lives the same life; for the transaction of every write.
    pub fn compare(&self) -> Compare {
        Compare::Value(self.key.clone(), self.value.clone())
    }

    /// A write that is true of this life only: what reads as another is of another.
    pub fn mark(&self, key: String) -> Op {
        Op::Put(key, self.value.clone())
    }

    /// Whether [`Incarnation::mark`] of this very life wrote this.
    pub fn marked(&self, value: &[u8]) -> bool {
        self.value == value
    }

    /// The UUID as text, to be remembered beyond this process.
    pub fn id(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.value)
    }
}

/// Reads the incarnation under `key`, or makes one if there is none.
pub(super) async fn open<S: Store>(store: &S, key: &str) -> Result<Incarnation, RegistryError> {
    for _ in 0..RACES {
        if let Some(entry) = store.get(key).await? {
            return Ok(Incarnation::of(entry));
        }
        let value = Uuid::new_v4().to_string().into_bytes();
        let made = Incarnation { key: key.to_owned(), value };
        let txn = Txn {
            compare: vec![Compare::Absent(made.key.clone())],
            then: vec![Op::Put(made.key.clone(), made.value.clone())],
        };
        if store.commit(txn).await? {
            return Ok(made);
        }
        // Another was faster: theirs is read.
    }
    Err(RegistryError::Refused(format!("{key} comes and goes; nothing may delete it")))
}

/// How often it may be made by another and be gone again before we read it.
const RACES: usize = 5;
