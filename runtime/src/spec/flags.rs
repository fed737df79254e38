//! The engine's settings as users write them: vLLM's flag names, all optional.
//!
//! The same flags come from the command line of `troupe serve` and from `args` of a service's
//! container, so they are parsed once, here, and resolved against the model where the engine
//! starts.

use serde::{Deserialize, Serialize};

use super::lora::LoraFlags;

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
    /// `--quantization`: integers that weights are rounded to when they are loaded, `int8` or
    /// `int4`.
    pub quantization: Option<String>,
    /// `--kv-cache-dtype`: what keys and values are stored as: `auto`, `float32`, `bfloat16`,
    /// `float16`, `int8`.
    pub kv_cache_dtype: Option<String>,
    /// `--runner`: what the model is run for: `auto`, `generate`, `pooling` (embeddings).
    pub runner: Option<String>,
    /// `--task`, an older name of the same: `auto`, `generate`, `embed`.
    pub task: Option<String>,
    /// `--pooler-config`: how embeddings are made, if not as the model's files say, as JSON.
    pub pooler_config: Option<String>,
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
    /// `--kv-transfer-shm`: whether KV between groups goes through memory where both ends are on
    /// one host; `on` or `off`.
    pub kv_transfer_shm: Option<String>,
    /// `--kv-offloading-size`: the hosts' memory for KV blocks that devices give up, of the whole
    /// group, in bytes; the flag counts GiB.
    pub kv_offloading_bytes: Option<u64>,
    /// `--kv-offloading-backend`: who does that; `native` is this engine.
    pub kv_offloading_backend: Option<String>,
    /// `--kv-offloading-eviction-policy`: what makes room when it is full, `lru` or `arc`.
    pub kv_offloading_eviction_policy: Option<String>,
    /// `--kv-offloading-disk-size`: the hosts' disks for what leaves that memory, of the whole
    /// group, in bytes; the flag counts GiB.
    pub kv_offloading_disk_bytes: Option<u64>,
    /// `--kv-offloading-disk-path`: the folder of that on each host.
    pub kv_offloading_disk_path: Option<String>,
    /// Adapters.
    pub lora: LoraFlags,
    /// Threads per device (CPU).
    pub threads: Option<u32>,
    /// `--cpu-path`: which of the CPU's kernel paths to take, for tests and comparisons.
    pub cpu_path: Option<String>,
    /// `--device`: `auto`, `cpu`, `cuda`, or `cuda:N` for the one of this number.
    pub device: Option<String>,
    /// `--gpu-memory-utilization`: the share of a CUDA device's memory that a rank may use, in
    /// thousandths; the flag is a fraction.
    pub gpu_memory_utilization: Option<u32>,
    /// `--batch-invariant`: each row's bits are the same whatever else is in its step, on CUDA too.
    pub batch_invariant: bool,
    /// `--enforce-eager`: no CUDA graphs.
    pub enforce_eager: bool,
    /// `--allow-shared-device`: several ranks may have one CUDA device.
    pub allow_shared_device: bool,
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
            ("--quantization", &self.quantization),
            ("--kv-cache-dtype", &self.kv_cache_dtype),
            ("--runner", &self.runner),
            ("--task", &self.task),
            ("--pooler-config", &self.pooler_config),
            ("--scheduling-policy", &self.scheduling_policy),
            ("--cpu-path", &self.cpu_path),
            ("--device", &self.device),
            ("--kv-transfer-shm", &self.kv_transfer_shm),
            ("--kv-offloading-backend", &self.kv_offloading_backend),
            ("--kv-offloading-eviction-policy", &self.kv_offloading_eviction_policy),
            ("--kv-offloading-disk-path", &self.kv_offloading_disk_path),
            ("--speculative-config", &self.speculative_config),
        ];
        let texts = texts.into_iter().filter_map(|(flag, value)| Some((flag, value.as_ref()?)));
        args.extend(texts.map(|(flag, value)| format!("{flag}={value}")));
        let sizes = [
            ("--kv-offloading-size", self.kv_offloading_bytes),
            ("--kv-offloading-disk-size", self.kv_offloading_disk_bytes),
        ];
        let sizes = sizes.into_iter().filter_map(|(flag, bytes)| Some((flag, bytes?)));
        args.extend(sizes.map(|(flag, bytes)| format!("{flag}={}", bytes as f64 / GIB)));
        let share = self.gpu_memory_utilization;
        let share = share.map(|share| f64::from(share) / f64::from(WHOLE));
        args.extend(share.map(|share| format!("--gpu-memory-utilization={share}")));
        let switches = [
            ("--batch-invariant", self.batch_invariant),
            ("--enforce-eager", self.enforce_eager),
            ("--allow-shared-device", self.allow_shared_device),
        ];
        let said = switches.into_iter().filter(|(_, said)| *said);
        args.extend(said.map(|(flag, _)| flag.to_owned()));
        args.extend(self.enable_prefix_caching.map(|on| {
            if on { "--enable-prefix-caching" } else { "--no-enable-prefix-caching" }.to_owned()
        }));
        args.extend(self.lora.to_args());
        if !self.served_model_name.is_empty() {
            args.push("--served-model-name".to_owned());
            args.extend(self.served_model_name.iter().cloned());
        }
        args
    }
}

/// A number of GiB, with a fraction or without, in bytes.
///
/// # Errors
/// What would be right.
pub fn gib(text: &str) -> Result<u64, String> {
    let bytes = text.parse::<f64>().ok().map(|size| (size * GIB).round());
    // Up to here every whole number of bytes is told apart.
    let bytes = bytes.filter(|bytes| (0.0..=MOST_BYTES).contains(bytes));
    bytes.map(|bytes| bytes as u64).ok_or_else(|| {
        format!("must be a number of GiB from 0 to {}, got {text}", MOST_BYTES / GIB)
    })
}

/// A share of a device's memory, in thousandths.
///
/// # Errors
/// What would be right.
pub fn utilization(text: &str) -> Result<u32, String> {
    let share = text.parse::<f64>().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    // Between 0 and 1000, and at least the smallest share there is.
    share
        .map(|share| ((share * f64::from(WHOLE)).round() as u32).max(1))
        .ok_or_else(|| format!("must be a share between 0 and 1, such as 0.9, got {text}"))
}

/// A device that ranks can run on.
///
/// # Errors
/// What would be right.
pub(super) fn device(text: &str) -> Result<String, String> {
    let number = text.strip_prefix("cuda:").and_then(|number| number.parse::<u32>().ok());
    match number.is_some() || ["auto", "cpu", "cuda"].contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!("must be auto, cpu, cuda or cuda:N, got {text}")),
    }
}

/// A type that keys and values can be stored as. vLLM's names that begin with `fp8` are known and
/// refused.
///
/// # Errors
/// What would be right.
pub fn kv_cache_dtype(text: &str) -> Result<String, String> {
    match text {
        name if KV_CACHE_DTYPES.contains(&name) => Ok(name.to_owned()),
        name if name.starts_with("fp8") => Err(format!(
            "is {name}, for devices that compute in it, of which there is none here: int8 is as \
             small"
        )),
        name => Err(format!("must be one of {}, got {name}", KV_CACHE_DTYPES.join(", "))),
    }
}

const KV_CACHE_DTYPES: [&str; 7] =
    ["auto", "float32", "float", "bfloat16", "float16", "half", "int8"];
/// All of a device's memory, in thousandths.
const WHOLE: u32 = 1000;
const GIB: f64 = (1_u64 << 30) as f64;
const MOST_BYTES: f64 = (1_u64 << 52) as f64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kv_types_are_told_apart() {
        assert_eq!(kv_cache_dtype("int8"), Ok("int8".to_owned()));
        assert!(kv_cache_dtype("fp8_e4m3").is_err_and(|why| why.contains("int8 is as small")));
        assert!(kv_cache_dtype("int4").is_err_and(|why| why.contains("bfloat16")));
    }

    #[test]
    fn devices_and_shares_are_told_from_what_is_none() {
        assert_eq!(device("cuda:12"), Ok("cuda:12".to_owned()));
        assert!(device("cuda:").is_err_and(|why| why.contains("cuda:N")));
        assert!(device("gpu").is_err());
        assert_eq!(
            [utilization("0.9"), utilization("1"), utilization("0.0001")],
            [Ok(900), Ok(1000), Ok(1)]
        );
        for wrong in ["0", "1.01", "-1", "90%", "", "NaN"] {
            assert!(utilization(wrong).is_err_and(|why| why.contains("0.9")), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        assert_eq!(gib("2"), Ok(2 << 30));
        assert_eq!(gib("0.5"), Ok(1 << 29));
        for bytes in [1, 12_345, (1 << 30) + 1, 1 << 45] {
            let flags = EngineFlags { kv_offloading_bytes: Some(bytes), ..Default::default() };
            let args = flags.to_args();
            let written = args[0].strip_prefix("--kv-offloading-size=").expect("the flag");
            assert_eq!(gib(written), Ok(bytes), "{written}");
        }
        for bad in ["", "x", "-1", "NaN", "inf", "1e30"] {
            assert!(gib(bad).is_err_and(|why| why.contains("GiB")), "{bad}");
        }
    }
}
