//! What two processes talk about: the kinds of conversation, the class of connection that carries
//! each, and the one table that says who may open which.

use rkyv::{Archive, Deserialize, Serialize};

use super::PeerRole;
use crate::wire::{Message, kv::BulkOpen, transfer::KvOpen};

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
    /// [`crate::wire::transfer`]: what a decode leader asks of a prefill leader.
    Prefill,
    /// [`crate::wire::transfer`]: KV blocks one way, between ranks of two groups.
    Kv(KvOpen),
    /// [`crate::wire::join`]: a token for an identity.
    Join,
    /// [`crate::wire::join`]: a new certificate for one that is still believed.
    Renew,
    /// What the command line asks of a control host.
    Operate,
    /// [`crate::wire::host`]: what a control host asks of a host.
    Host,
    /// [`crate::wire::host`]: how far away a host is, and how wide the way, on connections of this
    /// class.
    Probe(Class),
    /// [`crate::wire::host`]: whether the cluster is fit, asked of a control host.
    Preflight,
    /// [`crate::wire::guest`].
    Guest,
    /// [`crate::wire::cache`]: which KV blocks an endpoint holds.
    Cache,
    /// [`crate::wire::adapter`]: a LoRA adapter comes or goes.
    Adapt,
}

/// Whether a peer of this role may open this conversation. Asked by the side that *accepts*, about
/// the certificate of the side that opened.
///
/// | role | may open | because |
/// |---|---|---|
/// | control | everything but `Join` | it holds the cluster's key anyway |
/// | node | what members of groups share; `Guest`, `Probe`, `Renew` | it asks nothing else of other hosts |
/// | gateway | `Generate`, `Status`, `Adapt`, `Cache`, `Probe`, `Renew` | tensors are not its own |
/// | operator | `Operate`, `Preflight`, `Renew` | control hosts do for it what it may want |
/// | newcomer | `Join` | it has shown no certificate |
pub fn permits(role: PeerRole, conversation: &Conversation) -> bool {
    use Conversation::{
        Adapt, Bulk, Cache, Generate, Group, Guest, Join, Kv, Operate, Prefill, Preflight, Probe,
        Renew, Status,
    };
    match role {
        PeerRole::Control => !matches!(conversation, Join),
        PeerRole::Node => {
            let of_members = matches!(conversation, Generate | Group | Status | Cache | Bulk(_));
            let of_groups = matches!(conversation, Adapt | Prefill | Kv(_));
            of_members || of_groups || matches!(conversation, Guest | Probe(_) | Renew)
        }
        PeerRole::Gateway => {
            matches!(conversation, Generate | Status | Adapt | Cache | Probe(_) | Renew)
        }
        PeerRole::Operator => matches!(conversation, Operate | Preflight | Renew),
        PeerRole::Newcomer => matches!(conversation, Join),
    }
}

impl Conversation {
    /// The class of connection that carries it; no other does.
    pub fn class(&self) -> Class {
        match self {
            Self::Generate
            | Self::Group
            | Self::Status
            | Self::Join
            | Self::Renew
            | Self::Operate
            | Self::Host
            | Self::Preflight
            | Self::Guest
            | Self::Prefill
            | Self::Cache
            | Self::Adapt => Class::Control,
            Self::Probe(class) => *class,
            // Tokens are few, and a step waits for them.
            Self::Bulk(_) => Class::Activations,
            Self::Kv(_) => Class::Kv,
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
    use crate::{
        id::{Coordinate, Epoch, TransferId},
        wire::kv::BulkChannel,
    };

    /// Who may open what, as one table.
    const TABLE: &str = "
        Generate   control node gateway
        Group      control node
        Status     control node gateway
        Bulk       control node
        Prefill    control node
        Kv         control node
        Join       newcomer
        Renew      control node gateway operator
        Operate    control operator
        Host       control
        Probe      control node gateway
        Preflight  control operator
        Guest      control node
        Cache      control node gateway
        Adapt      control node gateway
    ";

    #[test]
    fn a_role_opens_its_conversations_and_no_other() {
        let roles = [
            PeerRole::Control,
            PeerRole::Node,
            PeerRole::Gateway,
            PeerRole::Operator,
            PeerRole::Newcomer,
        ];
        let end = Coordinate::default();
        let channel = BulkChannel::Tokens;
        let bulk = BulkOpen { epoch: Epoch::default(), from: end, to: end, channel };
        let (epoch, transfer) = (Epoch::default(), TransferId(1));
        let kv = KvOpen { epoch, transfer, from: end, to: end };
        let all = [
            Conversation::Generate,
            Conversation::Group,
            Conversation::Status,
            Conversation::Bulk(bulk),
            Conversation::Prefill,
            Conversation::Kv(kv),
            Conversation::Join,
            Conversation::Renew,
            Conversation::Operate,
            Conversation::Host,
            Conversation::Probe(Class::Kv),
            Conversation::Preflight,
            Conversation::Guest,
            Conversation::Cache,
            Conversation::Adapt,
        ];
        let lines: Vec<&str> = TABLE.lines().filter(|line| !line.trim().is_empty()).collect();
        assert_eq!(lines.len(), all.len());
        for (line, what) in lines.into_iter().zip(all) {
            let mut words = line.split_whitespace();
            assert!(format!("{what:?}").starts_with(words.next().unwrap()), "{line}");
            let allowed: Vec<&str> = words.collect();
            for role in roles {
                let may = allowed.contains(&role.to_string().as_str());
                assert_eq!(permits(role, &what), may, "{role} {what:?}");
            }
        }
    }
}
