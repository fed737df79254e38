//! Who may come in ([`TokenRecord`]), who may no longer ([`RevokedRecord`]), and where one knocks
//! ([`ControlRecord`]).

use serde::{Deserialize, Serialize};

use crate::id::{Digest, NodeId};
pub use crate::wire::join::TokenKind;

/// A control host.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ControlRecord {
    /// Its identity.
    pub id: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Where its door is reached: `quic://host:port`.
    pub address: String,
    /// Version of the binary.
    pub version: String,
    /// The newest version of the wire that it speaks; it speaks the one before too.
    pub wire: u32,
}

/// A join token. What it says is stored without what makes it one: the secret.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    /// Its part that is no secret.
    pub id: String,
    /// What it brings.
    pub kind: TokenKind,
    /// Digest of the secret, which is long and random.
    pub hash: Digest,
    /// Whether who joins by it becomes an operator too.
    pub operator: bool,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// By whom: an identity.
    pub created_by: String,
    /// From when on it is void, in seconds since 1970.
    pub expires: u64,
    /// How many hosts may join by it.
    pub uses: u32,
    /// Who did.
    #[serde(default)]
    pub used: Vec<TokenUse>,
    /// When it was revoked, in seconds since 1970.
    #[serde(default)]
    pub revoked: Option<u64>,
}

/// A host that joined by a token.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TokenUse {
    /// The identity that it was given.
    pub id: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Digest of its key: asking again with the same key, because the answer was lost, is no
    /// second use.
    pub key: Digest,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// An identity that is no longer let in, whatever its certificate says.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RevokedRecord {
    /// Which.
    pub id: NodeId,
    /// Its name when it was revoked, for people.
    pub name: String,
    /// Why, for people.
    pub reason: String,
    /// When, in seconds since 1970.
    pub at: u64,
}

// === impl TokenRecord ===

impl TokenRecord {
    /// Whether nobody new can join by it any more, at a time in seconds since 1970.
    pub fn is_over(&self, now: u64) -> bool {
        self.revoked.is_some() || self.expires <= now || self.used.len() >= self.uses as usize
    }
}
