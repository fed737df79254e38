//! A node and the member process that it started, over the child's standard input and output.
//!
//! Frames are a little-endian u32 length and an encoded message. The child's standard error is its
//! log. When its input ends, the node is gone and the child exits: a member never outlives its
//! node.

use rkyv::{Archive, Deserialize, Serialize};
use serde::{Deserialize as FromJson, Serialize as ToJson};

use super::Message;
use crate::id::{Epoch, GroupId, NodeId};

/// Node to member.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum NodeToMember {
    /// Who you are; exactly once, first.
    Launch(Box<MemberLaunch>),
    /// Where the leader listens.
    Leader(String),
    /// Tell the other members and end in order.
    Stop,
    /// The group takes nothing new, finishes what it has begun within so many seconds, and ends.
    Drain(u32),
    /// These identities, all that are revoked by now, are let in no more, each for this reason.
    TurnAway(Vec<(NodeId, String)>),
}

/// Member to node.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum MemberToNode {
    /// It listens here.
    Listening(String),
    /// The leader's group serves: the endpoint's record, as stored (JSON).
    Ready(Vec<u8>),
    /// It ends itself for this reason.
    Failed(String),
    /// Its group takes no new request any more: the endpoint's record is to go.
    Draining,
    /// It is alive: its process runs. Said again and again, because a frozen one says nothing.
    Alive,
    /// The leader's group is over, and this member of it is why. Said before the leader ends.
    Blames(Blame),
}

/// The member that a group's end is due to.
#[derive(Archive, Serialize, Deserialize, ToJson, FromJson, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Blame {
    /// Its index.
    pub member: u32,
    /// What was wrong with it.
    pub fault: Fault,
    /// The same for people, with the step and the rank.
    pub why: String,
}

/// What may be wrong with a member, as its leader sees it.
#[derive(Archive, Serialize, Deserialize, ToJson, FromJson, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// It ended, or its conversation did.
    Ended,
    /// Its part of a step does not go on.
    Hung,
    /// Its device has become much slower than it was.
    Slow,
}

/// Everything that a member process has to know.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MemberLaunch {
    /// Its group.
    pub group: GroupId,
    /// Its incarnation.
    pub epoch: Epoch,
    /// Its index; the leader is 0.
    pub member: u32,
    /// The group's record, as stored (JSON).
    pub record: Vec<u8>,
    /// Address to bind, port 0.
    pub bind: String,
    /// The node's data directory, which holds its certificate.
    pub data_dir: String,
    /// Where its ranks write down what they are at; nowhere if empty.
    pub records: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Processors of the host that are this member's share.
    pub cores: u32,
}

// === impl Message ===

impl Message for NodeToMember {
    const NAME: &'static str = "NodeToMember";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Message for MemberToNode {
    const NAME: &'static str = "MemberToNode";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}
