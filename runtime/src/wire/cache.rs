//! Which KV blocks an endpoint holds: what gateways place by.
//!
//! A gateway opens one such conversation per endpoint and keeps it. It says with
//! [`CacheUp::Follow`] what it knows; the leader answers with what it is
//! ([`CacheDown::Params`]), then with every change since, or with all that it holds if it no longer
//! remembers the changes, and goes on as things change. Batches count up by one within an epoch, so
//! whoever misses one notices and says `Follow` again, in the same conversation.
//!
//! Blocks go by the chained hash of [`crate::prefix`]. Told is only what can be *found*: a block
//! whose KV is computed, together with that of every block before it. So what is held is closed
//! towards the beginning: with a block all before it. Within a batch what is removed comes last
//! block first, and what is stored first block first, so that this is true after every single one.

use rkyv::{Archive, Deserialize, Serialize};

use super::{Message, bounded};
use crate::id::{Digest, EndpointId, Epoch};

/// Most hashes in one message: a megabyte, so that no frame is long on its way.
pub const MAX_HASHES: usize = 1 << 16;

/// Gateway to leader.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheUp {
    /// Tell me what has changed, and go on telling.
    Follow(CacheFollow),
}

/// From where to tell.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheFollow {
    /// The incarnation that is meant; a leader of another one says who it is and ends.
    pub epoch: Epoch,
    /// The last batch that is known, if any is: without one, everything is told.
    pub since: Option<u64>,
}

/// Leader to gateway.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum CacheDown {
    /// First.
    Params(CacheParams),
    /// What has changed.
    Batch(CacheBatch),
    /// A part of all that is held.
    Snapshot(CacheSnapshot),
    /// Nothing has changed for a while.
    Still(CacheStill),
}

/// Whose cache it is, and how its blocks are named.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CacheParams {
    /// The endpoint, with its epoch.
    pub endpoint: EndpointId,
    /// Tokens per block.
    pub block_size: u32,
    /// Most blocks that it can hold.
    pub blocks: u32,
    /// Of its [`crate::prefix::Parameters`]: who computes another names blocks otherwise.
    pub hashing: Digest,
}

/// One batch of changes.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheBatch {
    /// Of which incarnation.
    pub epoch: Epoch,
    /// Its number: one more than that of the batch before.
    pub seq: u64,
    /// Before anything else, all that was held is no longer.
    pub cleared: bool,
    /// No longer held.
    pub removed: Vec<u128>,
    /// Held from now on.
    pub stored: Vec<u128>,
}

/// A part of all that is held after one batch.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheSnapshot {
    /// Of which incarnation.
    pub epoch: Epoch,
    /// The number of the last batch that is in it; the next one follows.
    pub seq: u64,
    /// Which part, from 0.
    pub part: u32,
    /// Whether it is the last.
    pub last: bool,
    /// What is held.
    pub held: Vec<u128>,
}

/// Where the leader is: who knows less has missed something.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStill {
    /// Of which incarnation.
    pub epoch: Epoch,
    /// The number of the last batch.
    pub seq: u64,
}

// === impl Message ===

impl Message for CacheUp {
    const NAME: &'static str = "CacheUp";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Message for CacheDown {
    const NAME: &'static str = "CacheDown";

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Params(params) if params.block_size == 0 => Err("block_size is 0".into()),
            Self::Params(_) | Self::Still(_) => Ok(()),
            Self::Batch(batch) => {
                bounded("removed", &batch.removed, MAX_HASHES)?;
                bounded("stored", &batch.stored, MAX_HASHES)
            }
            Self::Snapshot(snapshot) => bounded("held", &snapshot.held, MAX_HASHES),
        }
    }
}
