//! Who is at the other end, and where it is reached. What it may ask for is decided in
//! [`super::permits`].

use std::{fmt, net::SocketAddr, str::FromStr};

/// Where a process is reached, written `quic://host:port` or `local://number`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerAddr {
    /// In this process, by its number in a [`super::LocalNetwork`].
    Local(u64),
    /// Over QUIC.
    Quic(SocketAddr),
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Which cluster's CA vouches for it.
    pub cluster: String,
    /// What it may do.
    pub role: PeerRole,
    /// Which host.
    pub node: crate::id::NodeId,
}

/// What a certificate allows its holder to do. A role may open only its own conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerRole {
    /// Controller and gateway.
    Control,
    /// Gateway only.
    Gateway,
    /// A host that runs members.
    Node,
    /// A person's command line.
    Operator,
    /// Whoever has a join token and no certificate yet: no certificate says this.
    Newcomer,
}

// === impl PeerAddr ===

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(number) => write!(f, "local://{number}"),
            Self::Quic(address) => write!(f, "quic://{address}"),
        }
    }
}

impl FromStr for PeerAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is no address, quic://HOST:PORT is right");
        if let Some(number) = text.strip_prefix("local://") {
            return number.parse().map(Self::Local).map_err(|_| wrong());
        }
        let address = text.strip_prefix("quic://").ok_or_else(wrong)?;
        address.parse().map(Self::Quic).map_err(|_| wrong())
    }
}

// === impl PeerIdentity ===

/// As certificates name it: `troupe://<cluster>/<role>/<uuid>`.
impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "troupe://{}/{}/{}", self.cluster, self.role, self.node)
    }
}

impl FromStr for PeerIdentity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is no identity, troupe://CLUSTER/ROLE/UUID is right");
        let mut parts = text.strip_prefix("troupe://").ok_or_else(wrong)?.split('/');
        let (Some(cluster), Some(role), Some(node), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        if cluster.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            cluster: cluster.to_owned(),
            role: role.parse().map_err(|_| wrong())?,
            node: crate::id::NodeId(node.parse().map_err(|_| wrong())?),
        })
    }
}

// === impl PeerRole ===

impl fmt::Display for PeerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "control",
            Self::Gateway => "gateway",
            Self::Node => "node",
            Self::Operator => "operator",
            Self::Newcomer => "newcomer",
        })
    }
}

impl FromStr for PeerRole {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "control" => Ok(Self::Control),
            "gateway" => Ok(Self::Gateway),
            "node" => Ok(Self::Node),
            "operator" => Ok(Self::Operator),
            _ => Err(format!("`{text}` is no role; control, gateway, node and operator are")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_identities_read_back_as_written() {
        for text in ["quic://127.0.0.1:7400", "quic://[::1]:7400", "local://3"] {
            assert_eq!(text.parse::<PeerAddr>().unwrap().to_string(), text);
        }
        let text = "troupe://demo/gateway/018f2b1e-0000-7000-8000-000000000001";
        assert_eq!(text.parse::<PeerIdentity>().unwrap().to_string(), text);
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        let uuid = "018f2b1e-0000-7000-8000-000000000001";
        for text in [
            format!("troupe://demo/king/{uuid}"),
            format!("troupe://demo/newcomer/{uuid}"),
            format!("troupe:///node/{uuid}"),
            format!("troupe://demo/node/{uuid}/more"),
            format!("http://demo/node/{uuid}"),
            "troupe://demo/node/none".to_owned(),
        ] {
            assert!(text.parse::<PeerIdentity>().is_err(), "{text}");
        }
        assert!("127.0.0.1:7400".parse::<PeerAddr>().is_err());
    }
}
