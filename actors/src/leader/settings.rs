//! An engine's settings: what the user said, resolved against the model and the group.
//!
//! Every member of a group resolves the same flags against the same model, so all agree without
//! telling each other.

use std::time::Duration;

use troupe_runtime::{
    id::{Digest, EndpointId},
    prefix::Parameters,
    spec::{EngineFlags, LoraRoom, service::Eviction},
    wire::status::Embeds,
};

use super::speculate;
use crate::scheduler::{Limits, NgramSettings, Policy, arena::MAX_LIVE};

/// Resolved settings, without options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// The endpoint that the engine answers for.
    pub endpoint: EndpointId,
    /// The model it runs.
    pub model: Digest,
    /// The tokenizer it expects its gateways to use.
    pub tokenizer: Digest,
    /// Token ids are below this.
    pub vocab_size: u32,
    /// Bounds of a step and of a sequence.
    pub limits: EngineLimits,
    /// Pipeline stages.
    pub stages: u32,
    /// What is made of texts, if no texts are.
    pub embeds: Option<Embeds>,
    /// For each KV group, how many positions its layers see, if not all.
    pub windows: Vec<Option<u32>>,
    /// Type of the KV cache: part of what names a block's contents.
    pub kv_dtype: String,
    /// Keys the names of blocks' contents.
    pub prefix_key: [u8; 32],
}

impl EngineSettings {
    /// How the engine names the contents of its blocks.
    pub fn hashing(&self) -> Parameters {
        let (key, kv_dtype) = (self.prefix_key, self.kv_dtype.clone());
        Parameters { key, model: self.model, kv_dtype, block_size: self.limits.block_size }
    }

    /// The scheduler's bounds and rules, with these many blocks per KV group.
    pub fn scheduling(&self, blocks: &[u32]) -> Limits {
        let limits = &self.limits;
        Limits {
            max_batched_tokens: limits.max_num_batched_tokens,
            max_sequences: limits.max_num_seqs,
            long_prefill_threshold: limits.long_prefill_token_threshold,
            stages: self.stages,
            depth: steps_in_flight(self.stages),
            policy: limits.policy,
            prefix_caching: limits.prefix_caching,
            watermark: blocks.iter().min().copied().unwrap_or(0) / WATERMARK_SHARE,
            max_loras: limits.lora.map_or(0, |room| room.max_loras),
            speculation: limits.speculation,
            whole_prompts: limits.whole_prompts,
        }
    }
}

/// Steps that a group of so many stages has in flight: one at each stage, and one more that is
/// ready when the first stage is.
pub fn steps_in_flight(stages: u32) -> u32 {
    stages + 1
}

/// Bounds that flags set and the model caps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// Most tokens of prompt and output together.
    pub max_model_len: u32,
    /// Tokens per KV block.
    pub block_size: u32,
    /// Most tokens in a step.
    pub max_num_batched_tokens: u32,
    /// Most sequences that run at a time.
    pub max_num_seqs: u32,
    /// Most sequences that wait; beyond it requests are refused.
    pub max_num_queued: u32,
    /// KV blocks per group whatever the memory, if that was said.
    pub num_blocks: Option<u32>,
    /// Most tokens of one prompt in a step while others are there too; 0 is no limit.
    pub long_prefill_token_threshold: u32,
    /// Order of admission.
    pub policy: Policy,
    /// Whether KV blocks stay findable once no sequence holds them.
    pub prefix_caching: bool,
    /// How long KV of another group is waited for, beside the time that its tokens are given.
    pub kv_transfer_timeout: Duration,
    /// What is kept of blocks that the device gives up.
    pub offload: Offload,
    /// Drafts, if any.
    pub speculation: Option<NgramSettings>,
    /// Room for adapters, if there is any.
    pub lora: Option<LoraRoom>,
    /// Whether each prompt is computed in one step.
    pub whole_prompts: bool,
}

/// How much is kept beside the devices of a group, all of them together; nothing, where it is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Bytes of the hosts' memory.
    pub host_bytes: u64,
    /// Bytes of their disks.
    pub disk_bytes: u64,
    /// What makes room when they are full.
    pub eviction: Eviction,
}

impl Offload {
    /// Resolves flags.
    ///
    /// # Errors
    /// A sentence that names the flag, what was said, and what would be right.
    fn resolve(flags: &EngineFlags) -> Result<Self, String> {
        if let Some(name) = flags.kv_offloading_backend.as_deref().filter(|name| *name != "native")
        {
            return Err(format!("--kv-offloading-backend is {name}, native is possible"));
        }
        let host_bytes = flags.kv_offloading_bytes.unwrap_or(0);
        let disk_bytes = flags.kv_offloading_disk_bytes.unwrap_or(0);
        if disk_bytes > 0 && host_bytes == 0 {
            let why = "is where blocks go that leave the host's memory: --kv-offloading-size says \
                       how much of that there is";
            return Err(format!("--kv-offloading-disk-size {why}"));
        }
        if host_bytes > 0 && flags.enable_prefix_caching == Some(false) {
            let why = "keeps what the prefix cache gives up, and --no-enable-prefix-caching is set";
            return Err(format!("--kv-offloading-size {why}"));
        }
        let eviction = match flags.kv_offloading_eviction_policy.as_deref() {
            None | Some("lru") => Eviction::Lru,
            Some("arc") => Eviction::Arc,
            Some(other) => {
                let flag = "--kv-offloading-eviction-policy";
                return Err(format!("{flag} is {other}, lru or arc are possible"));
            }
        };
        Ok(Self { host_bytes, disk_bytes, eviction })
    }
}

impl EngineLimits {
    /// Resolves flags for a model that was made for `model_len` positions.
    ///
    /// # Errors
    /// A sentence that names the flag, what was said, and what would be right.
    pub fn resolve(flags: &EngineFlags, model_len: u32) -> Result<Self, String> {
        let max_model_len = flags.max_model_len.unwrap_or(model_len);
        if max_model_len == 0 || max_model_len > model_len {
            return Err(format!(
                "--max-model-len is {max_model_len}, the model takes 1 to {model_len}"
            ));
        }
        let block_size = flags.block_size.unwrap_or(DEFAULT_BLOCK_SIZE);
        if !(1..=256).contains(&block_size) {
            return Err(format!("--block-size is {block_size}, 1 to 256 are possible"));
        }
        let limits = Self {
            max_model_len,
            block_size,
            max_num_batched_tokens: flags.max_num_batched_tokens.unwrap_or(DEFAULT_BATCHED_TOKENS),
            max_num_seqs: flags.max_num_seqs.unwrap_or(DEFAULT_SEQUENCES),
            max_num_queued: flags.max_num_queued_reqs.unwrap_or(DEFAULT_QUEUED),
            num_blocks: flags.num_gpu_blocks_override,
            long_prefill_token_threshold: flags.long_prefill_token_threshold.unwrap_or(0),
            policy: policy(flags.scheduling_policy.as_deref())?,
            prefix_caching: flags.enable_prefix_caching.unwrap_or(true),
            kv_transfer_timeout: flags
                .kv_transfer_timeout_ms
                .map_or(DEFAULT_TRANSFER, |millis| Duration::from_millis(millis.into())),
            offload: Offload::resolve(flags)?,
            speculation: flags.speculative_config.as_deref().map(speculate::parse).transpose()?,
            lora: flags.lora.room()?,
            whole_prompts: false,
        };
        let least_one = [
            ("--max-num-batched-tokens", limits.max_num_batched_tokens),
            ("--max-num-seqs", limits.max_num_seqs),
            ("--max-num-queued-reqs", limits.max_num_queued),
        ];
        for (flag, value) in least_one {
            if value == 0 {
                return Err(format!("{flag} is 0, at least 1 is needed"));
            }
        }
        if limits.max_num_queued > MOST_QUEUED {
            return Err(format!(
                "--max-num-queued-reqs is {}, at most {MOST_QUEUED} can wait",
                limits.max_num_queued
            ));
        }
        Ok(limits)
    }

    /// The same for a model that makes vectors of texts; `whole` says that each text must be in one
    /// step, where every state sees all of it or all are needed at once.
    ///
    /// # Errors
    /// A sentence that names the flag, what was said, and what would be right.
    pub fn for_embeddings(self, flags: &EngineFlags, whole: bool) -> Result<Self, String> {
        if flags.speculative_config.is_some() {
            let why = "is about tokens that are guessed, and a model for embeddings makes none";
            return Err(format!("--speculative-config {why}"));
        }
        if !whole {
            return Ok(self);
        }
        let longest = self.max_model_len;
        match flags.max_num_batched_tokens {
            Some(tokens) if tokens < longest => {
                return Err(format!(
                    "--max-num-batched-tokens is {tokens}, and a text of up to {longest} tokens \
                     (--max-model-len) is computed in one step: at least {longest} are needed"
                ));
            }
            _ => {}
        }
        if flags.enable_prefix_caching == Some(true) || flags.kv_offloading_bytes.is_some() {
            let why = "keeps what prompts have in common, and what this model computes of a text \
                       depends on all of it: it must not be set";
            let caching = flags.enable_prefix_caching == Some(true);
            let flag = if caching { "--enable-prefix-caching" } else { "--kv-offloading-size" };
            return Err(format!("{flag} {why}"));
        }
        let max_num_batched_tokens = self.max_num_batched_tokens.max(longest);
        Ok(Self { max_num_batched_tokens, prefix_caching: false, whole_prompts: true, ..self })
    }

    /// KV blocks of one group to allocate where there is room for `room`: what was asked for, else
    /// no more than all sequences together could ever use.
    pub fn blocks(&self, room: u32) -> u32 {
        let useful = self.max_model_len.div_ceil(self.block_size).saturating_mul(self.max_num_seqs);
        self.num_blocks.unwrap_or(useful).min(room)
    }
}

fn policy(name: Option<&str>) -> Result<Policy, String> {
    match name {
        None | Some("fcfs") => Ok(Policy::Fcfs),
        Some("priority") => Ok(Policy::Priority),
        Some("lpm") => Ok(Policy::Lpm),
        Some(other) => {
            Err(format!("--scheduling-policy is {other}, fcfs, priority or lpm are possible"))
        }
    }
}

/// The share of the blocks that admission leaves free while others run, so that these can grow for
/// a while before anything must be preempted: one in a hundred.
const WATERMARK_SHARE: u32 = 100;
/// Half of what the arena of sequences holds: the other half is for those that run.
const MOST_QUEUED: u32 = MAX_LIVE as u32 / 2;
/// Tokens per KV block, as in vLLM on devices.
const DEFAULT_BLOCK_SIZE: u32 = 16;
/// Tokens in a step: long enough for products to be efficient, short enough for decodes to go on.
const DEFAULT_BATCHED_TOKENS: u32 = 2048;
/// Sequences at a time, as in vLLM on the CPU.
const DEFAULT_SEQUENCES: u32 = 128;
/// Eight full batches: what waits longer than that is better placed elsewhere.
const DEFAULT_QUEUED: u32 = 8 * DEFAULT_SEQUENCES;
/// A group that is busy needs some time to begin; computing here needs none.
const DEFAULT_TRANSFER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_capped_by_the_model_and_named_when_wrong() {
        let limits = EngineLimits::resolve(&EngineFlags::default(), 1024).expect("defaults");
        assert_eq!((limits.max_model_len, limits.block_size), (1024, 16));
        let flags = EngineFlags { max_model_len: Some(2048), ..EngineFlags::default() };
        let error = EngineLimits::resolve(&flags, 1024).expect_err("too long");
        assert!(error.contains("--max-model-len") && error.contains("1024"), "{error}");
        let flags = EngineFlags { max_num_seqs: Some(0), ..EngineFlags::default() };
        assert!(EngineLimits::resolve(&flags, 1024).is_err());
        let flags = EngineFlags { kv_offloading_disk_bytes: Some(1), ..EngineFlags::default() };
        let error = EngineLimits::resolve(&flags, 1024).expect_err("no memory to go through");
        assert!(error.contains("--kv-offloading-size"), "{error}");
        let backend = Some("lmcache".to_owned());
        let flags = EngineFlags { kv_offloading_backend: backend, ..EngineFlags::default() };
        let error = EngineLimits::resolve(&flags, 1024).expect_err("not ours");
        assert!(error.contains("lmcache, native is possible"), "{error}");
        let policy = Some("lifo".to_owned());
        let flags = EngineFlags { scheduling_policy: policy, ..EngineFlags::default() };
        let error = EngineLimits::resolve(&flags, 1024).expect_err("no such policy");
        assert!(error.contains("fcfs, priority or lpm"), "{error}");
    }

    #[test]
    fn texts_that_must_be_whole_fit_into_a_step() {
        let of = |flags: &EngineFlags| {
            let limits = EngineLimits::resolve(flags, 4096).expect("they are right otherwise");
            limits.for_embeddings(flags, true)
        };
        let limits = of(&EngineFlags::default()).expect("defaults");
        assert_eq!(limits.max_num_batched_tokens, 4096);
        assert!(limits.whole_prompts && !limits.prefix_caching);
        let short = EngineFlags { max_num_batched_tokens: Some(512), ..EngineFlags::default() };
        assert!(of(&short).is_err_and(|why| why.contains("is 512") && why.contains("4096")));
        let cached = EngineFlags { enable_prefix_caching: Some(true), ..EngineFlags::default() };
        assert!(of(&cached).is_err_and(|why| why.contains("--enable-prefix-caching")));
        let limits = EngineLimits::resolve(&short, 4096).expect("they are right");
        assert_eq!(limits.for_embeddings(&short, false), Ok(limits));
    }
}
