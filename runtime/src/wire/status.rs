//! What an endpoint is ([`EndpointInfo`], [`Fingerprint`]) and how busy it is ([`Load`]).
//!
//! A gateway opens one such conversation per endpoint and keeps it, and so does the controller
//! where load decides how many groups there are. The leader answers [`StatusUp::Watch`] with its
//! [`EndpointInfo`] and then pushes [`Load`] at change. For what it has counted it is asked in a
//! conversation of its own, when somebody asks the gateway.

use rkyv::{Archive, Deserialize, Serialize};

use super::{Message, adapter::AdapterStatus, latency::Latencies};
use crate::id::{Digest, EndpointId};

/// Gateway to leader.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusUp {
    /// Tell me now, and then whenever it changes.
    Watch,
    /// Tell me once what you have counted.
    Metrics,
}

/// Leader to gateway.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum StatusDown {
    /// First, once.
    Info(Box<EndpointInfo>),
    /// Whenever it changes, at most every 50 ms.
    Load(Load),
    /// Second, and whenever it changes.
    Adapters(AdapterStatus),
    /// What was counted, as Prometheus' text; the conversation is over.
    Metrics(String),
}

/// What an endpoint is, for as long as its epoch lasts.
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
)]
pub struct EndpointInfo {
    /// Its name.
    pub endpoint: EndpointId,
    /// What it may be asked to do.
    pub role: Role,
    /// Names that requests may use for its model.
    pub model_names: Vec<String>,
    /// Most tokens of prompt and output together.
    pub max_model_len: u32,
    /// Tokens per KV block.
    pub block_size: u32,
    /// KV blocks in all.
    pub num_blocks: u32,
    /// The most sequences that run at a time; 0 if it does not say.
    #[serde(default)]
    pub max_num_seqs: u32,
    /// Set if it makes vectors of texts, and no texts.
    #[serde(default)]
    pub embeds: Option<Embeds>,
    /// What decides whether another endpoint would produce the same tokens.
    pub fingerprint: Fingerprint,
}

/// The vectors that an endpoint makes of texts, as its clients are to get them. It sends them whole
/// and of whatever length they are; a gateway makes of them what is asked for.
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
)]
pub struct Embeds {
    /// Elements.
    pub size: u32,
    /// Whether they are divided by their length.
    pub normalize: bool,
    /// To which sizes they may be cut, if they may; empty is to any.
    pub dimensions: Option<Vec<u32>>,
    /// Whether a text is a pair, and its one number is how much both have to do with each other.
    #[serde(default)]
    pub scores: bool,
}

/// What an endpoint may be asked to do.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Default,
    PartialOrd,
    Ord,
    Hash,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Prefill and decode.
    #[default]
    Unified,
    /// Prefill only.
    Prefill,
    /// Decode only.
    Decode,
}

/// A stream is continued elsewhere only on an equal model digest; an equal fingerprint guarantees
/// the same tokens.
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
)]
pub struct Fingerprint {
    /// Config and weights.
    pub model: Digest,
    /// The tokenizer's file.
    pub tokenizer: Digest,
    /// LoRA adapter, if the endpoint has one fixed.
    pub adapter: Option<Digest>,
    /// Arithmetic type of the weights.
    pub dtype: String,
    /// Quantisation of the weights, `none` if they have none.
    pub quantization: String,
    /// Type of the KV cache.
    pub kv_dtype: String,
    /// Ranks that a product is summed over.
    pub tensor_parallel: u32,
    /// Whether those ranks divide experts and not each expert's width: sums have another order.
    pub expert_parallel: bool,
    /// Backend and kernel path.
    pub kernel_path: String,
    /// Whether a row's bits depend only on the row.
    pub batch_invariant: bool,
}

/// How busy an endpoint is.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Sequences in steps, or with a place in the next one.
    pub running: u32,
    /// Sequences waiting for room.
    pub waiting: u32,
    /// KV blocks in use.
    pub blocks_used: u32,
    /// KV blocks in all.
    pub blocks_total: u32,
    /// Steps completed since the epoch began.
    pub steps: u64,
    /// Tokens computed since the epoch began.
    pub tokens: u64,
    /// From a request to its first token, of choices that have ended since the epoch began.
    pub first_token: Latencies,
    /// From one token to the next: of each of those choices the mean, for each of its tokens.
    pub next_token: Latencies,
    /// Tokens whose KV came from other groups in a second, at the best of late; 0 if none came.
    pub fetch_rate: u32,
}

// === impl Message ===

impl Message for StatusUp {
    const NAME: &'static str = "StatusUp";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Message for StatusDown {
    const NAME: &'static str = "StatusDown";

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Info(info) if info.block_size == 0 => Err("block_size is 0".into()),
            Self::Adapters(adapters) => adapters.check(),
            Self::Info(_) | Self::Load(_) | Self::Metrics(_) => Ok(()),
        }
    }
}
