//! How a host comes to an identity and keeps it: one question, one answer, at a control host's
//! door.
//!
//! The key never leaves its host: what travels is a signing request. [`JoinUp`] is the only message
//! that a peer without a certificate may send; what it says is believed for its token's sake alone.

use rkyv::{Archive, Deserialize, Serialize};

use super::{Message, bounded};

/// Newcomer to control host.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct JoinUp {
    /// The token's id.
    pub token: String,
    /// The token's secret.
    pub secret: String,
    /// What it wants to be.
    pub part: JoinPart,
    /// What to sign: a PKCS #10 request with the newcomer's own key.
    pub request: Vec<u8>,
    /// The same for the operator context of who joins.
    pub operator: Option<Vec<u8>>,
    /// The certificate that it had, which has expired: with the same key it keeps its id.
    pub former: Option<Vec<u8>>,
    /// Its name, for people.
    pub name: String,
    /// Its binary's version.
    pub version: String,
    /// The newest version of the wire that it speaks; it speaks the one before too.
    pub wire: u32,
    /// Its clock, in milliseconds since 1970.
    pub now_ms: u64,
}

/// What a join token brings.
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
)]
#[serde(rename_all = "camelCase")]
pub enum TokenKind {
    /// A node.
    #[default]
    Node,
    /// A control host: controller, gateway and the CA's key.
    Control,
}

/// What a newcomer wants to be.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinPart {
    /// A host: what kind of one, its token says.
    Host,
    /// A gateway, and nothing besides.
    Gateway,
}

/// Control host to newcomer.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum JoinDown {
    /// It is one of us now.
    Welcome(Box<Welcome>),
    /// It is not, and why.
    Refused(String),
}

/// What a newcomer needs to know.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Its certificate, PEM.
    pub certificate: String,
    /// The CA's, PEM.
    pub ca: String,
    /// The CA's key, PEM: a token of kind `control` brings it.
    pub ca_key: Option<String>,
    /// The operator's certificate, PEM, if one was asked for and the token allows it.
    pub operator: Option<String>,
    /// The cluster's name.
    pub cluster: String,
    /// etcd's client URLs.
    pub etcd: Vec<String>,
    /// Where control hosts are reached.
    pub control: Vec<String>,
    /// Whether a controller is in office.
    pub controller: bool,
    /// For how long this control host's CA has a certificate believed, in seconds.
    pub lifetime: u64,
}

/// A process whose certificate is still believed, to a control host.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RenewUp {
    /// What to sign: a request with its own key.
    pub request: Vec<u8>,
}

/// Control host to that process.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum RenewDown {
    /// Here it is.
    Renewed(Box<Renewed>),
    /// There is none, and why.
    Refused(String),
}

/// A new certificate.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// PEM.
    pub certificate: String,
    /// Where control hosts are reached by now.
    pub control: Vec<String>,
}

/// A signing request or certificate is a few hundred bytes.
const MAX_REQUEST_BYTES: usize = 16 << 10;
/// A token's parts, a host's name.
const MAX_WORD_BYTES: usize = 256;
/// etcd's members, control hosts.
const MAX_ADDRESSES: usize = 256;

// === impl TokenKind ===

impl std::fmt::Display for TokenKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Control => "control",
        })
    }
}

// === impl Message ===

impl Message for JoinUp {
    const NAME: &'static str = "JoinUp";

    fn check(&self) -> Result<(), String> {
        bounded("request", &self.request, MAX_REQUEST_BYTES)?;
        bounded("operator", self.operator.as_deref().unwrap_or_default(), MAX_REQUEST_BYTES)?;
        bounded("former", self.former.as_deref().unwrap_or_default(), MAX_REQUEST_BYTES)?;
        for (field, text) in [
            ("token", &self.token),
            ("secret", &self.secret),
            ("name", &self.name),
            ("version", &self.version),
        ] {
            bounded(field, text.as_bytes(), MAX_WORD_BYTES)?;
        }
        Ok(())
    }
}

impl Message for JoinDown {
    const NAME: &'static str = "JoinDown";

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Welcome(welcome) => {
                bounded("etcd", &welcome.etcd, MAX_ADDRESSES)?;
                bounded("control", &welcome.control, MAX_ADDRESSES)
            }
            Self::Refused(_) => Ok(()),
        }
    }
}

impl Message for RenewUp {
    const NAME: &'static str = "RenewUp";

    fn check(&self) -> Result<(), String> {
        bounded("request", &self.request, MAX_REQUEST_BYTES)
    }
}

impl Message for RenewDown {
    const NAME: &'static str = "RenewDown";

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Renewed(renewed) => bounded("control", &renewed.control, MAX_ADDRESSES),
            Self::Refused(_) => Ok(()),
        }
    }
}
