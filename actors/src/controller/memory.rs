//! What a rank needs of its device's memory, computed before anything loads.
//!
//! The weights are divided over all ranks; the first and the last stage also hold the embedding and
//! the head. KV memory is what the engine is told to take, or else the least that is of use: one
//! sequence of the longest length, and no more than the engine takes by itself. The workspace is
//! what a full step holds at once. A service waits a moment for its model's facts before it is
//! planned; where nobody knows them nothing is checked, and ranks find out when they load.

use troupe_runtime::discovery::directory::Launch;

/// What is known of a model without loading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// Bytes of all weights, as they are stored.
    pub weight_bytes: u64,
    /// Bytes of the embedding and of the head, together, within those.
    pub ends_bytes: u64,
    /// Decoder layers.
    pub layers: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Bytes of keys and values of one token, over all layers and heads.
    pub kv_bytes_per_token: u64,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width of the feed-forward layer.
    pub intermediate_size: u32,
    /// Rows of the head.
    pub vocab_size: u32,
    /// The longest sequence that the model was made for.
    pub max_model_len: u32,
}

/// Bytes of one device's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// For weights.
    pub weights: u64,
    /// For keys and values.
    pub kv: u64,
    /// For what a step holds.
    pub workspace: u64,
    /// For blocks that the device gives up. It is the host's memory, which is the device's as long
    /// as devices are CPUs.
    pub kept: u64,
}

// === impl Need ===

impl Need {
    /// What the fullest rank of a group needs.
    pub fn new(facts: &ModelFacts, launch: &Launch) -> Self {
        let tensor = u64::from(launch.tensor_parallel.max(1));
        let stages = u64::from(launch.pipeline_parallel.clamp(1, facts.layers.max(1)));
        let layers = u64::from(facts.layers.max(1));
        let fullest = layers.div_ceil(stages);
        let body = facts.weight_bytes.saturating_sub(facts.ends_bytes);
        // With one stage both ends are on it; with more the fuller of the two.
        let ends = if stages == 1 { facts.ends_bytes } else { facts.ends_bytes.div_ceil(2) };
        let weights = (body / layers * fullest + ends).div_ceil(tensor);
        // Heads are divided, and replicated where there are fewer than ranks.
        let heads = tensor.min(u64::from(facts.kv_heads.max(1)));
        let per_token = (facts.kv_bytes_per_token / layers * fullest).div_ceil(heads);
        let flags = &launch.flags;
        let longest = flags.max_model_len.unwrap_or(facts.max_model_len);
        let one_sequence = per_token * u64::from(longest);
        let kv = flags.kv_cache_memory_bytes.unwrap_or(one_sequence.min(ENGINE_KV));
        let tokens = u64::from(flags.max_num_batched_tokens.unwrap_or(BATCHED_TOKENS));
        let sequences = u64::from(flags.max_num_seqs.unwrap_or(SEQUENCES));
        let (hidden, inner) =
            (u64::from(facts.hidden_size), u64::from(facts.intermediate_size).div_ceil(tensor));
        // The residual stream, its norm, queries and the attention's output, and both halves of the
        // gated feed-forward layer, at 4 bytes each; logits of every sequence once.
        let activations = tokens * (4 * hidden + 2 * inner) * 4;
        let logits = sequences * u64::from(facts.vocab_size).div_ceil(tensor) * 4;
        let kept = flags.kv_offloading_bytes.unwrap_or(0).div_ceil(tensor * stages);
        Self { weights, kv, workspace: activations + logits, kept }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.kv + self.workspace + self.kept
    }

    /// For people.
    pub fn told(&self) -> String {
        let (weights, kv, workspace) = (human(self.weights), human(self.kv), human(self.workspace));
        let total = human(self.total());
        let told = format!("{total} per device: {weights} weights, {kv} KV, {workspace} workspace");
        match self.kept {
            0 => told,
            kept => format!("{told}, {} of KV that is kept", human(kept)),
        }
    }
}

/// Bytes for people.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut tenths = bytes.saturating_mul(10);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths = tenths.div_ceil(1024);
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
    }
}

/// KV memory that the engine takes at most if nothing is said.
const ENGINE_KV: u64 = 4 << 30;
/// Tokens of a step if nothing is said.
const BATCHED_TOKENS: u32 = 2048;
/// Sequences of a step if nothing is said.
const SEQUENCES: u32 = 256;

#[cfg(test)]
mod tests {
    use troupe_runtime::spec::EngineFlags;

    use super::*;
    use crate::controller::desired::launch;

    /// Llama 3.1 8B in bfloat16.
    fn llama() -> ModelFacts {
        ModelFacts {
            weight_bytes: 16_060_522_496,
            ends_bytes: 2 * 128_256 * 4096 * 2,
            layers: 32,
            kv_heads: 8,
            kv_bytes_per_token: 32 * 2 * 8 * 128 * 2,
            hidden_size: 4096,
            intermediate_size: 14_336,
            vocab_size: 128_256,
            max_model_len: 131_072,
        }
    }

    fn need(tensor: u32, pipeline: u32, flags: EngineFlags) -> Need {
        let mut launch = launch("m".into(), "m".into(), flags);
        (launch.tensor_parallel, launch.pipeline_parallel) = (tensor, pipeline);
        Need::new(&llama(), &launch)
    }

    #[test]
    fn one_device_holds_everything() {
        let need = need(1, 1, EngineFlags::default());
        // Up to what integer division by layers leaves.
        assert!(need.weights.abs_diff(16_060_522_496) < 64, "{need:?}");
        assert_eq!(need.kv, ENGINE_KV, "a sequence of 16 GiB, and the engine takes 4");
        assert!(need.told().contains("15.0 GiB weights, 4.0 GiB KV, "), "{}", need.told());
    }

    #[test]
    fn ranks_and_stages_share() {
        let flags = EngineFlags { max_model_len: Some(8192), ..EngineFlags::default() };
        let (one, four) = (need(1, 1, flags.clone()), need(2, 2, flags.clone()));
        assert!(four.weights.abs_diff(one.weights / 4) < 64, "{four:?}");
        assert_eq!(four.kv, one.kv / 4);
        // Eight heads over sixteen ranks: each holds one of them.
        assert_eq!(need(16, 1, flags.clone()).kv, need(8, 1, flags).kv);
    }

    #[test]
    fn what_the_engine_is_told_counts() {
        let flags = EngineFlags { kv_cache_memory_bytes: Some(1 << 30), ..EngineFlags::default() };
        assert_eq!(need(4, 2, flags).kv, 1 << 30);
    }

    #[test]
    fn what_is_kept_of_blocks_is_divided_over_all_ranks() {
        let flags = EngineFlags { kv_offloading_bytes: Some(8 << 30), ..EngineFlags::default() };
        let need = need(2, 2, flags);
        assert_eq!(need.kept, 2 << 30);
        assert!(need.told().ends_with(", 2.0 GiB of KV that is kept"), "{}", need.told());
    }

    #[test]
    fn bytes_are_readable() {
        assert_eq!(human(1023), "1023 B");
        assert_eq!(human(1024), "1.0 KiB");
        assert_eq!(human(16 << 30), "16.0 GiB");
        assert_eq!(human(5 << 40), "5.0 TiB");
    }
}
