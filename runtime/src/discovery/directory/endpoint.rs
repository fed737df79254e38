//! Endpoints, which placement picks from, and gateways, which pick.

use serde::{Deserialize, Serialize};

use crate::{id::NodeId, wire::status::EndpointInfo};

/// What placement picks from.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EndpointRecord {
    /// What it is.
    pub info: EndpointInfo,
    /// Where its leader is reached.
    pub address: String,
    /// The model's URI, from which a gateway loads tokenizer and template.
    pub model_uri: String,
}

/// A gateway.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRecord {
    /// Its identity.
    pub id: NodeId,
    /// `host:port` of its HTTP API, as other hosts reach it.
    pub address: String,
    /// Version of the binary.
    pub version: String,
}
