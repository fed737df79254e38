//! What two processes talk about: the kinds of conversation, the class of connection that carries
//! each, and the one table that says who may open which.

use rkyv::{Archive, Deserialize, Serialize};

use super::PeerRole;
use crate::wire::{
    Message,
    kv::{BulkChannel, BulkOpen},
};

/// Which traffic a connection carries; classes never share one, so that a bulk transfer cannot hold
/// up a heartbeat.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub enum Class {
    /// Requests, plans, results, heartbeats.
    Control,
    /// Hidden states and collectives.
    Activations,
    /// KV blocks.
    Kv,
}

/// What a stream is about; its first frame.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Conversation {
    /// [`crate::wire::generate`].
    Generate,
    /// [`crate::wire::group`].
    Group,
    /// [`crate::wire::status`].
    Status,
    /// [`crate::wire::kv`]: tensors one way.
    Bulk(BulkOpen),
}

/// Whether a peer of this role may open this conversation. Asked by the side that *accepts*, about
/// the certificate of the side that opened.
///
/// | role | may open | because |
/// |---|---|---|
/// | control | everything | it holds the cluster's key anyway |
/// | gateway | `Generate`, `Status` | it sends requests and watches load; tensors are not its own |
/// | node | everything | members of a group share steps and tensors; draining moves requests |
pub fn permits(role: PeerRole, conversation: &Conversation) -> bool {
    match (role, conversation) {
        (PeerRole::Control | PeerRole::Node, _) => true,
        (PeerRole::Gateway, Conversation::Generate | Conversation::Status) => true,
        (PeerRole::Gateway, Conversation::Group | Conversation::Bulk(_)) => false,
    }
}

impl Conversation {
    /// The class of connection that carries it; no other does.
    pub fn class(&self) -> Class {
        match self {
            Self::Generate | Self::Group | Self::Status => Class::Control,
            Self::Bulk(open) => match open.channel {
                // Tokens are few, and a step waits for them.
                BulkChannel::Activation | BulkChannel::Collective | BulkChannel::Tokens => {
                    Class::Activations
                }
                BulkChannel::Kv => Class::Kv,
            },
        }
    }
}

impl Message for Conversation {
    const NAME: &'static str = "Conversation";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_never_opens_what_members_share() {
        assert!(permits(PeerRole::Gateway, &Conversation::Generate));
        assert!(permits(PeerRole::Gateway, &Conversation::Status));
        assert!(!permits(PeerRole::Gateway, &Conversation::Group));
        assert!(permits(PeerRole::Node, &Conversation::Group));
        assert!(permits(PeerRole::Control, &Conversation::Group));
    }
}
