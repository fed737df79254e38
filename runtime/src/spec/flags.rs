//! The engine's settings as users write them: vLLM's flag names, all optional.
//!
//! The same flags come from the command line of `troupe serve` and from `args` of a service's
//! container, so they are parsed once, here, and resolved against the model where the engine
//! starts.

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
    /// `--long-prefill-token-threshold`: most tokens of one prompt in a step while others are
    /// there.
    pub long_prefill_token_threshold: Option<u32>,
    /// `--scheduling-policy`: `fcfs`, `priority` or `lpm`.
    pub scheduling_policy: Option<String>,
    /// `--enable-prefix-caching`, `--no-enable-prefix-caching`.
    pub enable_prefix_caching: Option<bool>,
    /// `--speculative-config`: drafts, as JSON.
    pub speculative_config: Option<String>,
    /// `--kv-transfer-timeout-ms`: how long KV of another group is waited for, beside the time that
    /// its tokens are given.
    pub kv_transfer_timeout_ms: Option<u32>,
    /// Threads per device (CPU).
    pub threads: Option<u32>,
    /// `--cpu-path`: which of the CPU's kernel paths to take, for tests and comparisons.
    pub cpu_path: Option<String>,
    /// `--stage-time-min-ms`: the least time that a stage takes for a step. A slow device for tests
    /// and for measuring pipelines; never set in production.
    pub stage_time_min_ms: Option<u32>,
}

impl EngineFlags {
    /// The flags as they stand in a container's `args`, so that what a command line said can be
    /// declared as a service.
    pub fn to_args(&self) -> Vec<String> {
        let numbers = [
            ("--max-model-len", self.max_model_len.map(u64::from)),
            ("--max-num-seqs", self.max_num_seqs.map(u64::from)),
            ("--max-num-batched-tokens", self.max_num_batched_tokens.map(u64::from)),
            ("--block-size", self.block_size.map(u64::from)),
            ("--num-gpu-blocks-override", self.num_gpu_blocks_override.map(u64::from)),
            ("--kv-cache-memory-bytes", self.kv_cache_memory_bytes),
            ("--seed", self.seed),
            ("--max-num-queued-reqs", self.max_num_queued_reqs.map(u64::from)),
            ("--long-prefill-token-threshold", self.long_prefill_token_threshold.map(u64::from)),
            ("--kv-transfer-timeout-ms", self.kv_transfer_timeout_ms.map(u64::from)),
            ("--threads", self.threads.map(u64::from)),
            ("--stage-time-min-ms", self.stage_time_min_ms.map(u64::from)),
        ];
        let mut args: Vec<_> = numbers
            .into_iter()
            .filter_map(|(flag, value)| Some(format!("{flag}={}", value?)))
            .collect();
        let texts = [
            ("--dtype", &self.dtype),
            ("--scheduling-policy", &self.scheduling_policy),
            ("--cpu-path", &self.cpu_path),
            ("--speculative-config", &self.speculative_config),
        ];
        let texts = texts.into_iter().filter_map(|(flag, value)| Some((flag, value.as_ref()?)));
        args.extend(texts.map(|(flag, value)| format!("{flag}={value}")));
        args.extend(self.enable_prefix_caching.map(|on| {
            if on { "--enable-prefix-caching" } else { "--no-enable-prefix-caching" }.to_owned()
        }));
        if !self.served_model_name.is_empty() {
            args.push("--served-model-name".to_owned());
            args.extend(self.served_model_name.iter().cloned());
        }
        args
    }
}
