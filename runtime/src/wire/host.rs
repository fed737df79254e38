//! Between hosts, at their doors: what a host is asked ([`HostUp`]), and how far away it is
//! ([`ProbeUp`]).
//!
//! A control host asks; a host answers each question with one or more [`HostDown`]s and ends the
//! conversation. Probes are between any two processes of the cluster.

use rkyv::{Archive, Deserialize, Serialize};

use super::{Message, bounded};
use crate::id::GroupId;

/// Control host to host: one question.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum HostUp {
    /// Its members' logs, as [`HostDown::Lines`].
    Logs(LogsAsk),
}

/// Host to control host.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum HostDown {
    /// Log lines, oldest first.
    Lines(Vec<String>),
    /// It cannot, and why.
    Refused(String),
}

/// Which lines of which members' logs.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LogsAsk {
    /// Of which group.
    pub group: GroupId,
    /// Of which member; all that the host has if none.
    pub member: Option<u32>,
    /// At most this many of the last lines.
    pub tail: u32,
    /// Go on with what is logged from then on, until the asker drops the conversation.
    pub follow: bool,
}

/// Any process to another: how far away are you, and how wide is the way.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeUp {
    /// Answer at once.
    Ping,
    /// Bytes behind it, to be counted and thrown away.
    Load,
    /// That was all of them: say how many came.
    Taken,
}

/// The answer.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeDown {
    /// To a ping: the host's clock, in microseconds since 1970.
    Pong(u64),
    /// Bytes that came in this conversation.
    Taken(u64),
}

/// Lines in one message.
const MAX_LINES: usize = 1 << 16;

// === impl Message ===

impl Message for HostUp {
    const NAME: &'static str = "HostUp";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Message for HostDown {
    const NAME: &'static str = "HostDown";

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Lines(lines) => bounded("lines", lines, MAX_LINES),
            Self::Refused(_) => Ok(()),
        }
    }
}

impl Message for ProbeUp {
    const NAME: &'static str = "ProbeUp";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Message for ProbeDown {
    const NAME: &'static str = "ProbeDown";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}
