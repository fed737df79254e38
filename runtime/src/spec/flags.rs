//! The engine's settings as users write them: vLLM's flag names, all optional.
//!
//! The same flags come from the command line of `troupe serve` and from `args` of a service's
//! container, so they are parsed once, here, and resolved against the model where the engine starts.

use serde::{Deserialize, Serialize};

/// Engine settings; `None` is "not said", for which the engine has a default.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct EngineFlags {
    /// `--dtype`: `auto`, `float32`, `bfloat16`, `float16`.
    pub dtype: Option<String>,
    /// `--max-model-len`: most tokens of prompt and output together.
    pub max_model_len: Option<u32>,
    /// `--max-num-seqs`: most sequences in a step.
    pub max_num_seqs: Option<u32>,
    /// `--max-num-batched-tokens`: most tokens in a step.
    pub max_num_batched_tokens: Option<u32>,
    /// `--block-size`: tokens per KV block.
    pub block_size: Option<u32>,
    /// `--num-gpu-blocks-override`: KV blocks, whatever the memory.
    pub num_gpu_blocks_override: Option<u32>,
    /// `--kv-cache-memory-bytes`: bytes of KV memory per device.
    pub kv_cache_memory_bytes: Option<u64>,
    /// `--seed`: where requests without a seed draw theirs from.
    pub seed: Option<u64>,
    /// `--served-model-name`: names that requests use.
    pub served_model_name: Vec<String>,
    /// `--max-num-queued-reqs`: most waiting requests before refusing.
    pub max_num_queued_reqs: Option<u32>,
    /// Threads per device (CPU).
    pub threads: Option<u32>,
    /// `--stage-time-min-ms`: the least time that a stage takes for a step. A slow device for tests
    /// and for measuring pipelines; never set in production.
    pub stage_time_min_ms: Option<u32>,
}
