//! What the endpoints of a run are like: all alike, of one model that nobody has.

use std::time::Duration;

use troupe_actors::{
    leader::settings::{EngineLimits, EngineSettings, Offload},
    scheduler::Policy,
};
use troupe_runtime::{
    id::{Digest, EndpointId, Epoch, GroupId},
    prefix::Parameters,
    wire::status::{EndpointInfo, Fingerprint, Role},
};

use super::{cost::CostModel, load::VOCABULARY};

/// What all endpoints are like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cluster {
    pub(crate) endpoints: u32,
    /// KV blocks of each.
    pub(crate) blocks: u32,
    /// Tokens per block.
    pub(crate) block_size: u32,
    /// Most sequences that run at a time.
    pub(crate) max_num_seqs: u32,
    /// Most tokens in a step.
    pub(crate) max_num_batched_tokens: u32,
    pub(crate) cost: CostModel,
}

// === impl Cluster ===

impl Cluster {
    /// Most tokens of one request.
    pub(crate) fn longest(&self) -> u32 {
        self.blocks.saturating_mul(self.block_size)
    }

    /// What the world is told of one of them.
    pub(super) fn info(&self, index: u32) -> EndpointInfo {
        let group = GroupId { namespace: "default".into(), service: "sim".into(), index };
        let epoch = Epoch { number: 1, nonce: u64::from(index) };
        EndpointInfo {
            endpoint: EndpointId { group, revision: 1, epoch, dp: 0 },
            role: Role::Unified,
            model_names: vec!["sim".into()],
            max_model_len: self.longest(),
            block_size: self.block_size,
            num_blocks: self.blocks,
            max_num_seqs: self.max_num_seqs,
            embeds: None,
            fingerprint: Fingerprint {
                model: Digest::of(b"a model that is played"),
                tokenizer: Digest::of(b"a tokenizer that nobody needs"),
                adapter: None,
                dtype: "bfloat16".into(),
                quantization: "none".into(),
                kv_dtype: "bfloat16".into(),
                tensor_parallel: 1,
                expert_parallel: false,
                kernel_path: "sim".into(),
                batch_invariant: true,
            },
        }
    }

    /// Its engine's settings.
    pub(super) fn settings(&self, info: &EndpointInfo) -> EngineSettings {
        EngineSettings {
            endpoint: info.endpoint.clone(),
            model: info.fingerprint.model,
            tokenizer: info.fingerprint.tokenizer,
            vocab_size: VOCABULARY,
            limits: EngineLimits {
                max_model_len: info.max_model_len,
                block_size: self.block_size,
                max_num_batched_tokens: self.max_num_batched_tokens,
                max_num_seqs: self.max_num_seqs,
                max_num_queued: MOST_QUEUED,
                num_blocks: Some(self.blocks),
                long_prefill_token_threshold: 0,
                policy: Policy::Fcfs,
                prefix_caching: true,
                kv_transfer_timeout: Duration::ZERO,
                offload: Offload::default(),
                speculation: None,
                lora: None,
                whole_prompts: false,
            },
            stages: 1,
            windows: vec![None],
            embeds: None,
            kv_dtype: info.fingerprint.kv_dtype.clone(),
            prefix_key: Parameters::of(info).key,
        }
    }
}

/// Requests that may wait at an endpoint: as many as an engine can have at all, because a request
/// that is refused would have to wait elsewhere, and how a gateway does that is not played.
const MOST_QUEUED: u32 = 1 << 19;
