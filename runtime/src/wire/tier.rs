//! KV blocks between a rank's device and what is beside it: the host's memory, and its disk.
//!
//! The leader says which block goes where; every rank of its group does the same with its own share
//! of the block, so that a slot holds the same block at all of them. Orders travel in the stream of
//! the plans: a block's bytes are kept before the plan that uses the block for something else.
//!
//! With every slot goes the name of what is to be in it. A rank that has something else there, or
//! nothing, says so, and what it lacks is computed.

use rkyv::{Archive, Deserialize, Serialize};

use super::{
    bounded,
    generate::MAX_TOKENS,
    transfer::{MAX_GROUPS, Run},
};
use crate::id::{BlockId, TransferId};

/// Where bytes are kept that are on no device.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub enum Tier {
    /// The host's memory.
    Host,
    /// The host's disk.
    Disk,
}

/// A place for one block of a KV group, and the name of what is in it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierPlace {
    /// Where.
    pub tier: Tier,
    /// Which of the places there; each KV group counts its own.
    pub slot: u32,
    /// Names the block's contents.
    pub key: u128,
}

/// A block's bytes that change places, before whatever comes next.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierMove {
    /// KV group.
    pub group: u32,
    /// Names the block's contents.
    pub key: u128,
    /// Where they are.
    pub from: TierFrom,
    /// Where they go: one tier further.
    pub slot: u32,
}

/// Where a block's bytes are until the next move or plan.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierFrom {
    /// On the device: they go into the host's memory.
    Device(BlockId),
    /// In this slot of the host's memory: they go to its disk.
    Host(u32),
}

/// Which blocks are to be filled from where.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LoadOrder {
    /// Names it: ranks report it as a transfer, and it is closed as one.
    pub transfer: TransferId,
    /// Blocks that the sequence has already.
    pub first: u32,
    /// Blocks that are wanted of each KV group, by their place in the sequence.
    pub wants: Vec<Run>,
    /// Where each of those is to be, per KV group.
    pub blocks: Vec<Vec<BlockId>>,
    /// Where each of those is kept, per KV group.
    pub places: Vec<Vec<TierPlace>>,
}

impl LoadOrder {
    /// Refuses impossible lengths.
    pub(super) fn check(&self) -> Result<(), String> {
        bounded("wants", &self.wants, MAX_GROUPS)?;
        bounded("blocks", &self.blocks, MAX_GROUPS)?;
        bounded("places", &self.places, MAX_GROUPS)?;
        self.blocks.iter().try_for_each(|blocks| bounded("blocks", blocks, MAX_TOKENS))?;
        self.places.iter().try_for_each(|places| bounded("places", places, MAX_TOKENS))
    }
}

/// Refuses impossible lengths: what one plan gives out is at most a block for each token, and
/// keeping one may send another to the disk.
pub(super) fn check_moves(moves: &[TierMove]) -> Result<(), String> {
    bounded("moves", moves, 2 * MAX_TOKENS)
}
