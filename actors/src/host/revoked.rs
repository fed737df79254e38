//! Identities that are let in no more: which one a person means, and what is written then.
//!
//! A host that is off has no record among the hosts; the join tokens remember who used them, so it
//! is found all the same.

use std::collections::BTreeMap;

use troupe_runtime::{
    discovery::{
        Compare, Entry, Op, Registry, RegistryError, Txn,
        directory::{self, ControlRecord, NodeRecord, RevokedRecord, TokenRecord},
        keys::Keys,
    },
    id::NodeId,
};

/// An identity that a person means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    /// Which.
    pub id: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Whether it is a control host, and so has the CA's key.
    pub control: bool,
}

/// Why nobody is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NobodyMeant {
    /// There is none, and never was as far as is known.
    Unknown,
    /// There were several of that name, none of which is here now.
    Several(Vec<NodeId>),
}

/// Who there is and was.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Hosts that are here.
    pub nodes: Vec<NodeRecord>,
    /// Control hosts that are here.
    pub control: Vec<ControlRecord>,
    /// Join tokens, with who used them.
    pub tokens: Vec<TokenRecord>,
}

// === impl Known ===

impl Known {
    /// What the store knows.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn read(registry: &dyn Registry, keys: &Keys) -> Result<Self, RegistryError> {
        Ok(Self {
            nodes: records(&registry.list(&keys.nodes()).await?),
            control: records(&registry.list(&keys.all_control()).await?),
            tokens: records(&registry.list(&keys.tokens()).await?),
        })
    }

    /// Whom a name or an id means: one that is here before one that is not.
    ///
    /// # Errors
    /// [`NobodyMeant`].
    pub fn find(&self, whom: &str) -> Result<Meant, NobodyMeant> {
        let nodes = self.nodes.iter().map(|node| (node.id, &node.name));
        let control = self.control.iter().map(|control| (control.id, &control.name));
        let here: BTreeMap<NodeId, &String> = nodes.chain(control).collect();
        let uses = self.tokens.iter().flat_map(|token| &token.used);
        let were: BTreeMap<NodeId, &String> = uses.map(|used| (used.id, &used.name)).collect();
        if let Ok(id) = whom.parse().map(NodeId) {
            let name = here.get(&id).or_else(|| were.get(&id));
            return Ok(self.meant(id, name.map_or(whom, |name| name)));
        }
        for among in [&here, &were] {
            let named = among.iter().filter(|(_, name)| name.as_str() == whom);
            let found: Vec<NodeId> = named.map(|(id, _)| *id).collect();
            match found[..] {
                [] => {}
                [id] => return Ok(self.meant(id, whom)),
                _ => return Err(NobodyMeant::Several(found)),
            }
        }
        Err(NobodyMeant::Unknown)
    }

    fn meant(&self, id: NodeId, name: &str) -> Meant {
        let control = self.control.iter().any(|control| control.id == id);
        Meant { id, name: name.to_owned(), control }
    }
}

/// Writes that an identity is let in no more and takes away what stands under its name. Says
/// whether that is new.
///
/// # Errors
/// [`RegistryError`].
pub async fn revoke(
    registry: &dyn Registry,
    keys: &Keys,
    record: RevokedRecord,
) -> Result<bool, RegistryError> {
    let (id, key) = (record.id, keys.revoked(record.id));
    let life = registry.incarnation(&keys.incarnation()).await?;
    let gone = [keys.node(id), keys.cordon(id), keys.node_labels(id), keys.control(id)];
    let txn = Txn {
        compare: vec![life.compare(), Compare::Absent(key.clone())],
        then: std::iter::once(Op::Put(key, directory::to_bytes(record)))
            .chain(gone.map(Op::Delete))
            .collect(),
    };
    registry.commit(txn).await
}

/// Writes again what a store that was wiped has lost of this.
///
/// # Errors
/// [`RegistryError`].
pub async fn restore(
    registry: &dyn Registry,
    keys: &Keys,
    known: &BTreeMap<NodeId, RevokedRecord>,
) -> Result<(), RegistryError> {
    for record in known.values() {
        revoke(registry, keys, record.clone()).await?;
    }
    Ok(())
}

fn records<T: serde::de::DeserializeOwned>(entries: &[Entry]) -> Vec<T> {
    entries
        .iter()
        .filter_map(|entry| directory::from_bytes(&entry.key, &entry.value).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use troupe_runtime::{
        discovery::{
            directory::{TokenKind, TokenUse},
            embedded::EmbeddedRegistry,
        },
        id::Digest,
    };
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> NodeId {
        NodeId(Uuid::from_u128(number))
    }

    fn control(number: u128, name: &str) -> ControlRecord {
        ControlRecord {
            id: id(number),
            name: name.into(),
            address: "quic://10.0.0.1:7443".into(),
            version: "0".into(),
            wire: 1,
        }
    }

    fn used_by(hosts: &[(u128, &str)]) -> TokenRecord {
        let used = |(number, name): &(u128, &str)| TokenUse {
            id: id(*number),
            name: (*name).into(),
            key: Digest::of(name.as_bytes()),
            at: 1,
        };
        TokenRecord {
            id: "t".into(),
            kind: TokenKind::Node,
            hash: Digest::of(b"s"),
            operator: false,
            created: 1,
            created_by: "me".into(),
            expires: 2,
            uses: 9,
            used: hosts.iter().map(used).collect(),
            revoked: None,
        }
    }

    #[test]
    fn a_name_means_who_is_here_and_else_who_was() {
        let known = Known {
            nodes: Vec::new(),
            control: vec![control(1, "a")],
            tokens: vec![used_by(&[(2, "a"), (3, "b"), (4, "c"), (5, "c")])],
        };
        let meant = |id, name: &str, control| Meant { id, name: name.into(), control };
        assert_eq!(known.find("a"), Ok(meant(id(1), "a", true)), "not the one before");
        assert_eq!(known.find("b"), Ok(meant(id(3), "b", false)), "it is off");
        assert_eq!(known.find("c"), Err(NobodyMeant::Several(vec![id(4), id(5)])));
        assert_eq!(known.find("d"), Err(NobodyMeant::Unknown));
        let by_id = known.find(&id(5).to_string());
        assert_eq!(by_id, Ok(meant(id(5), "c", false)));
        let stranger = id(9).to_string();
        assert_eq!(known.find(&stranger), Ok(meant(id(9), &stranger, false)));
    }

    #[tokio::test]
    async fn what_is_revoked_stays_so_and_its_records_go() {
        let (registry, keys) = (EmbeddedRegistry::new(), Keys::new("test"));
        let put = Op::Put(keys.node(id(1)), b"{}".to_vec());
        registry.commit(Txn { compare: vec![], then: vec![put] }).await.expect("a write");
        let record = RevokedRecord { id: id(1), name: "a".into(), reason: "sold".into(), at: 1 };
        assert!(revoke(&registry, &keys, record.clone()).await.expect("a write"));
        assert!(!revoke(&registry, &keys, record.clone()).await.expect("it was"), "once");
        assert_eq!(registry.get(&keys.node(id(1))).await.expect("a read"), None);
        assert!(registry.get(&keys.revoked(id(1))).await.expect("a read").is_some());

        let wiped = EmbeddedRegistry::new();
        let known = BTreeMap::from([(id(1), record)]);
        restore(&wiped, &keys, &known).await.expect("writes");
        assert!(wiped.get(&keys.revoked(id(1))).await.expect("a read").is_some());
    }
}
