//! The names of things. Each is a type of its own, so that a block can never be passed for a step.
//!
//! A device's coordinate is (dp, stage, tp); an endpoint is (service, revision, group, epoch, dp).
//! Every message between members carries the group's [`Epoch`], and one of an old epoch is refused:
//! that comparison is the whole of our fencing, so it lives here and nowhere else.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};
use uuid::Uuid;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize,
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// One KV block's position in its pool. The same id means the same block on every stage.
    BlockId, u32
);
number_id!(
    /// One forward pass of a batch, counted from 1 within an epoch.
    StepId, u64
);
number_id!(
    /// One sequence at its leader, counted from 1 within an epoch: a choice of a request.
    SequenceId, u64
);
number_id!(
    /// A request as the gateway named it (UUIDv7).
    RequestId, Uuid
);
number_id!(
    /// One LoRA adapter at its leader, counted from 1 within an epoch: a name that is loaded anew
    /// gets another.
    AdapterId, u32
);
number_id!(
    /// One transfer of KV blocks between groups: drawn so that nobody else can guess it.
    TransferId, u128
);
number_id!(
    /// A host's identity: minted once, kept in its data directory.
    NodeId, Uuid
);

impl RequestId {
    /// A new id, ordered by time.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

/// A group's incarnation. A higher number always wins; the nonce tells apart two incarnations that
/// were given the same number by controllers that could not see each other.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
)]
pub struct Epoch {
    /// One more than the highest that its maker had heard of.
    pub number: u64,
    /// Drawn anew for each incarnation.
    pub nonce: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:x}", self.number, self.nonce)
    }
}

/// A group of a service: `<namespace>/<service>-<index>`.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
    Clone,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
)]
pub struct GroupId {
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service.
    pub service: String,
    /// Which replica, from 0.
    pub index: u32,
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", self.namespace, self.service, self.index)
    }
}

/// Where a device stands in its group.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
)]
pub struct Coordinate {
    /// Data-parallel rank; 0 until data-parallel ranks exist.
    pub dp: u32,
    /// Pipeline stage, from 0.
    pub stage: u32,
    /// Tensor-parallel rank in its stage, from 0.
    pub tp: u32,
}

impl fmt::Display for Coordinate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dp{}.stage{}.tp{}", self.dp, self.stage, self.tp)
    }
}

/// What placement picks: one data-parallel rank of one incarnation of one group.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
    Clone,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
)]
pub struct EndpointId {
    /// The group.
    pub group: GroupId,
    /// The service's revision that the group runs.
    pub revision: u64,
    /// The group's incarnation.
    pub epoch: Epoch,
    /// Data-parallel rank.
    pub dp: u32,
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.group, self.epoch)
    }
}

/// A 256-bit digest of content (model, tokenizer, adapter), written as hexadecimal.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hash = blake3::Hash::from_hex(&text).map_err(serde::de::Error::custom)?;
        Ok(Self(*hash.as_bytes()))
    }
}
