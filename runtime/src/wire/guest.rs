//! A host without a way to the store, as the guest of a process that has one: what a group says
//! that LeaderWorkerSet started and that shares no etcd.
//!
//! ```text
//! guest                              host
//!   Arrive(index, size, launch)  -->
//!                                <-- Later(why) / Refused(why)   and that was all
//!   Put(record) / Delete(key)    -->                             what it writes of itself
//!                                <-- Put(record) / Delete(key)   what all hosts read
//!                                <-- Synced                      all that was there is told
//! ```
//! Records and keys are those of the store, so that a guest's node does what any node does.

use rkyv::{Archive, Deserialize, Serialize};

use super::Message;
use crate::id::NodeId;

/// Longest key of the store that is carried.
pub const MAX_KEY_BYTES: usize = 4096;

/// Guest to host.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum GuestUp {
    /// Opens the conversation; exactly once, first.
    Arrive(Arrival),
    /// One of its own records is this now.
    Put(Record),
    /// One of its own records is gone.
    Delete(String),
}

/// Host to guest.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum GuestDown {
    /// A record that concerns every host is this now.
    Put(Record),
    /// It is gone.
    Delete(String),
    /// Everything that was there when the guest arrived has been told.
    Synced,
    /// Not now: another of its index is still here. Why, for people.
    Later(String),
    /// Never: it was started for another group than this one. Why, for people.
    Refused(String),
}

/// Who comes, and what it was started for.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its index among the group's pods; the host is 0.
    pub index: u32,
    /// How many pods it was told there are.
    pub size: u32,
    /// Under which identity its node registers.
    pub node: NodeId,
    /// What it would serve, as stored (JSON).
    pub launch: Vec<u8>,
}

/// A record of the store.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its key.
    pub key: String,
    /// As stored (JSON).
    pub value: Vec<u8>,
}

// === impl Message ===

impl Message for GuestUp {
    const NAME: &'static str = "GuestUp";

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Arrive(Arrival { index, size, .. }) if index >= size => {
                Err(format!("index must be below the size {size}, got {index}"))
            }
            Self::Arrive(_) => Ok(()),
            Self::Put(Record { key, .. }) | Self::Delete(key) => check_key(key),
        }
    }
}

impl Message for GuestDown {
    const NAME: &'static str = "GuestDown";

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Put(Record { key, .. }) | Self::Delete(key) => check_key(key),
            Self::Synced | Self::Later(_) | Self::Refused(_) => Ok(()),
        }
    }
}

fn check_key(key: &str) -> Result<(), String> {
    match key.len() {
        0..=MAX_KEY_BYTES => Ok(()),
        bytes => Err(format!("key must have at most {MAX_KEY_BYTES} bytes, has {bytes}")),
    }
}
