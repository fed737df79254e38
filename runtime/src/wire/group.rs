//! One member's life in its group, between the worker side and the leader.
//!
//! ```text
//! member                                leader
//!   Hello(group, epoch, member, addr) -->
//!                                     <-- Form(layout, addresses)     when all have said hello
//!   Loaded(ranks, bytes, blocks)      -->
//!                                     <-- Start(blocks)               when all have loaded
//!                                     <-- Step(plan), Transfer(order) ...
//!   Progress(step) / Result(result)   -->
//!   Pulse(beats)                      -->
//!   Transfer(report)                  -->
//!                                     <-- Adapter(order)              one at a time
//!   Adapter(report)                   -->
//!   Failed(cause)                     -->                              the group is over
//!   Drain(seconds)                    -->                              its host is to be empty
//!                                     <-- Drain                        nothing new is taken
//!                                     <-- Stop                         an orderly end
//! ```
//! The leader's own ranks (it is member 0) speak the same words over an in-process link.

use rkyv::{Archive, Deserialize, Serialize};

use super::{
    Message,
    adapter::{AdapterOrder, AdapterReport},
    bounded,
    step::{StepPlan, StepResult},
    transfer::{KvShare, TransferOrder, TransferReport},
};
use crate::id::{Coordinate, Digest, Epoch, GroupId, StepId};

/// Most members of a group.
pub const MAX_MEMBERS: usize = 4096;
/// Most ranks of a member.
pub const MAX_RANKS: usize = 1024;

/// Member to leader.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum MemberUp {
    /// Opens the conversation; exactly once, first.
    Hello(Hello),
    /// Every rank of this member holds its weights.
    Loaded(Vec<RankReport>),
    /// A rank has finished its part of a step: liveness is progress.
    Progress(Progress),
    /// How far this member's ranks are within a step; said a few times a second if that changes.
    Pulse(Vec<RankPulse>),
    /// The step's result; from tensor rank 0 of the last stage only.
    Result(StepResult),
    /// A rank's part of a transfer of KV blocks.
    Transfer(TransferReport),
    /// What became of an adapter: one answer to each order.
    Adapter(AdapterReport),
    /// This member cannot go on. What it was and where, for people.
    Failed(String),
    /// The group takes nothing new, finishes what it has begun within so many seconds, and ends.
    Drain(u32),
}

/// Leader to member.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum MemberDown {
    /// Who is where. The member connects to its neighbours and loads its weights.
    Form(Formation),
    /// All have loaded: allocate this many KV blocks, one count per KV group (the least that any
    /// rank has room for).
    Start(Vec<u32>),
    /// Run this.
    Step(StepPlan),
    /// Begin or end a transfer of KV blocks, before whatever plan comes next.
    Transfer(TransferOrder),
    /// Read an adapter, or forget one.
    Adapter(AdapterOrder),
    /// End in order.
    Stop,
    /// The group drains: its end, when it comes, is no failure.
    Drain,
}

/// A member introduces itself.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its group.
    pub group: GroupId,
    /// The incarnation that it was started for.
    pub epoch: Epoch,
    /// Its index; the leader is 0.
    pub member: u32,
    /// Where its peers reach it, as [`crate::transport::PeerAddr`] writes it.
    pub address: String,
}

/// Who is where in a group.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Formation {
    /// The incarnation.
    pub epoch: Epoch,
    /// In member order.
    pub members: Vec<FormationMember>,
}

/// One member's place.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct FormationMember {
    /// Where its peers reach it.
    pub address: String,
    /// The ranks that it hosts, one device each.
    pub ranks: Vec<Coordinate>,
}

/// What a rank holds once loaded.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RankReport {
    /// Which rank.
    pub rank: Coordinate,
    /// Bytes of weights that are its share of something divided over ranks or stages.
    pub weight_bytes_sharded: u64,
    /// Bytes of weights that other ranks of its stage hold too.
    pub weight_bytes_replicated: u64,
    /// The names of those.
    pub replicated: Vec<String>,
    /// KV blocks that its memory has room for, one count per KV group.
    pub blocks: Vec<u32>,
    /// Bytes of one KV block there, per KV group.
    pub block_bytes: Vec<u64>,
    /// Backend and kernel path, for the execution fingerprint.
    pub kernel_path: String,
    /// What of the model's KV it holds.
    pub kv: Vec<KvShare>,
    /// The adapters that it began with, in order: their files.
    pub adapters: Vec<Digest>,
}

/// A rank has finished its part of a step.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which rank.
    pub rank: Coordinate,
    /// Which step.
    pub step: StepId,
    /// How long it computed, in microseconds.
    pub compute_us: u64,
    /// How long the rank waited before it computed: for the plan, for tokens, for the stage before
    /// it. In microseconds.
    pub idle_us: u64,
    /// How much of `compute_us` it waited for other ranks of its stage.
    pub waited_us: u64,
    /// The longest time in it without a beat ([`RankPulse`]), in microseconds.
    pub silence_us: u64,
}

/// A rank's sign of life from within a step.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankPulse {
    /// Which rank.
    pub rank: Coordinate,
    /// Layers and exchanges that it is through since it was started.
    pub beats: u64,
}

// === impl Message ===

impl Message for MemberUp {
    const NAME: &'static str = "MemberUp";

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Loaded(ranks) => bounded("ranks", ranks, MAX_RANKS),
            Self::Pulse(ranks) => bounded("ranks", ranks, MAX_RANKS),
            Self::Result(result) => {
                bounded("outcomes", &result.outcomes, super::step::MAX_SEQUENCES)
            }
            Self::Hello(_)
            | Self::Progress(_)
            | Self::Transfer(_)
            | Self::Adapter(_)
            | Self::Failed(_)
            | Self::Drain(_) => Ok(()),
        }
    }
}

impl Message for MemberDown {
    const NAME: &'static str = "MemberDown";

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Form(formation) => {
                bounded("members", &formation.members, MAX_MEMBERS)?;
                for member in &formation.members {
                    bounded("ranks", &member.ranks, MAX_RANKS)?;
                }
                Ok(())
            }
            Self::Step(plan) => plan.check(),
            Self::Transfer(order) => order.check(),
            Self::Start(_) | Self::Adapter(_) | Self::Stop | Self::Drain => Ok(()),
        }
    }
}
