//! Between hosts, at their doors: what a host is asked ([`HostUp`]), and how far away it is
//! ([`ProbeUp`]).
//!
//! A control host asks; a host answers each question with one or more [`HostDown`]s and ends the
//! conversation. Probes are between any two processes of the cluster.

use rkyv::{Archive, Deserialize, Serialize};

use super::{Message, at_most, bounded};
use crate::id::{Digest, GroupId, NodeId};

/// Control host to host: one question.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum HostUp {
    /// Its members' logs, as [`HostDown::Lines`].
    Logs(LogsAsk),
    /// What it is and has, as one [`HostDown::Facts`].
    Facts(FactsAsk),
    /// How far away another host is from there, as one [`HostDown::Way`].
    Measure(MeasureAsk),
}

/// Host to control host.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum HostDown {
    /// Log lines, oldest first.
    Lines(Vec<String>),
    /// It cannot, and why.
    Refused(String),
    /// What it is and has.
    Facts(Box<HostFacts>),
    /// What it measured.
    Way(Way),
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

/// What a host is to look for beside what it knows of itself.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct FactsAsk {
    /// A model, named as in a specification.
    pub model: Option<String>,
}

/// What a host is and has, as its process sees it. What the system does not say is none.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Version of the binary.
    pub version: String,
    /// The newest version of the wire that it speaks; it speaks the one before too.
    pub wire: u32,
    /// How many devices it offers.
    pub devices: u32,
    /// Which kind: `cpu` or `cuda`.
    pub device_kind: String,
    /// Bytes of memory of each; 0 if unknown.
    pub device_memory: u64,
    /// How many files and sockets its process may have open; `u64::MAX` for any number.
    pub open_files: Option<u64>,
    /// Bytes that its process may lock in memory; `u64::MAX` for any number.
    pub locked_memory: Option<u64>,
    /// Bytes that the kernel allows a socket for what it receives.
    pub socket_receive: Option<u64>,
    /// The same for what it sends.
    pub socket_send: Option<u64>,
    /// Where it writes.
    pub disks: Vec<Disk>,
    /// The model that was asked for.
    pub model: Option<ModelFound>,
}

/// A folder that a process writes to.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What for.
    pub what: DiskUse,
    /// Where.
    pub path: String,
    /// Bytes that may still be written there.
    pub free: Option<u64>,
}

/// What a folder is for.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskUse {
    /// What the process must not forget.
    Data,
    /// What can be made again.
    Cache,
}

/// A model as a host finds it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ModelFound {
    /// It is there.
    Here(ModelDigests),
    /// It is not, or cannot be read, and why.
    Missing(String),
}

/// What tells one model from another of the same name.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelDigests {
    /// Equal for models that give equal logits.
    pub model: Digest,
    /// Equal for tokenizers that give equal tokens.
    pub tokenizer: Digest,
}

/// Where a host is to measure its way to.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MeasureAsk {
    /// A door: `quic://host:port`.
    pub door: String,
    /// Who has to answer there; anybody of the cluster if none.
    pub node: Option<NodeId>,
}

/// The way from one host to another. Times are in microseconds.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The shortest round trip of a ping.
    pub rtt_min_us: u64,
    /// The one that half of them were shorter than.
    pub rtt_median_us: u64,
    /// The other's clock less the host's own, as the shortest ping saw it: not wrong by more than
    /// half of `rtt_min_us`.
    pub clock_ahead_us: i64,
    /// Bytes that were sent on a connection for bulk and came.
    pub bytes: u64,
    /// In this time.
    pub bytes_us: u64,
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
/// Folders that a process writes to: far more than there are uses.
const MAX_DISKS: usize = 16;
/// The longest name of a version, of a kind of device.
const MAX_WORD: usize = 253;
/// The longest path, model and reason.
const MAX_TEXT: usize = 4 << 10;

// === impl Way ===

impl Way {
    /// Bytes per second.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 * 1e6 / self.bytes_us.max(1) as f64
    }
}

// === impl HostDown ===

impl HostDown {
    /// That it cannot, for a reason of any length.
    pub fn refused(why: impl Into<String>) -> Self {
        Self::Refused(shortened(why.into()))
    }
}

// === impl ModelFound ===

impl ModelFound {
    /// That it is missing, for a reason of any length.
    pub fn missing(why: impl Into<String>) -> Self {
        Self::Missing(shortened(why.into()))
    }
}

/// No longer than the other side takes.
fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

// === impl Message ===

impl Message for HostUp {
    const NAME: &'static str = "HostUp";

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Logs(_) => Ok(()),
            Self::Facts(ask) => at_most("model", ask.model.as_deref().unwrap_or(""), MAX_TEXT),
            Self::Measure(ask) => at_most("door", &ask.door, MAX_WORD),
        }
    }
}

impl Message for HostDown {
    const NAME: &'static str = "HostDown";

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Lines(lines) => bounded("lines", lines, MAX_LINES),
            Self::Refused(why) => at_most("refused", why, MAX_TEXT),
            Self::Facts(facts) => facts.check(),
            Self::Way(_) => Ok(()),
        }
    }
}

impl HostFacts {
    fn check(&self) -> Result<(), String> {
        at_most("version", &self.version, MAX_WORD)?;
        at_most("device_kind", &self.device_kind, MAX_WORD)?;
        bounded("disks", &self.disks, MAX_DISKS)?;
        for disk in &self.disks {
            at_most("disk.path", &disk.path, MAX_TEXT)?;
        }
        match &self.model {
            Some(ModelFound::Missing(why)) => at_most("model.missing", why, MAX_TEXT),
            Some(ModelFound::Here(_)) | None => Ok(()),
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
