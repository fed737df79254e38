//! Endpoints, which placement picks from, and gateways, which pick.

use std::collections::BTreeMap;

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
    /// What filters and scorers may select by: labels of its service and of its leader's host.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
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
