//! Whether the cluster is fit: what an operator asks a control host, and what is found.
//!
//! One question per conversation. The control host asks every host what it is and has, lets each
//! measure its way to each other ([`super::host`]), tells every part as soon as it is known, and
//! ends with what it makes of them. As in [`super::operate`], what people read travels as JSON: one
//! more fact is no new version of the wire.

use rkyv::{Archive, Deserialize, Serialize};

use super::{Message, at_most, bounded, operate::Refusal};

/// Operator to control host: the one question of a conversation.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct PreflightUp {
    /// Only these hosts, by name; all of them if empty.
    pub hosts: Vec<String>,
    /// Whether they have this model, named as in a specification.
    pub model: Option<String>,
}

/// Control host to operator. Each text is a JSON object.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum PreflightDown {
    /// A host, and what it is and has.
    Host(String),
    /// The way from one host to another.
    Way(String),
    /// What comes of it all: one thing that is right, doubtful or impossible.
    Finding(String),
    /// It cannot be said, and why.
    Refused(Refusal),
}

/// The most hosts that are named.
pub const MAX_HOSTS: usize = 1024;
/// The longest name of a host.
const MAX_NAME: usize = 253;
/// The longest name of a model.
const MAX_MODEL: usize = 4 << 10;

// === impl Message ===

impl Message for PreflightUp {
    const NAME: &'static str = "PreflightUp";

    fn check(&self) -> Result<(), String> {
        bounded("hosts", &self.hosts, MAX_HOSTS)?;
        for host in &self.hosts {
            at_most("hosts", host, MAX_NAME)?;
        }
        at_most("model", self.model.as_deref().unwrap_or_default(), MAX_MODEL)
    }
}

impl Message for PreflightDown {
    const NAME: &'static str = "PreflightDown";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}
