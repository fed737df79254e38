//! How a device's memory is shared out, decided before anything is loaded and told to whoever
//! reads the log: weights, activations, what operations work in, graphs, and KV blocks with the
//! rest.
//!
//! `--gpu-memory-utilization` is a share of all memory, as vLLM means it: what others use counts
//! against it, so two engines that share a device are given shares that add up. Everything but the
//! KV is an estimate from the model's config; what it is short of is met by a reserve.

use std::fmt;

use troupe_runtime::model::config::ModelConfig;

use super::{driver::DeviceMemory, ladder, launch::attention::PARTIAL_BYTES, step::Shape};
use crate::{
    error::DeviceError, layers::context::Widths, load::ParallelSizes, memory::Limits,
    pipeline::PartCosts, tensor::Quantize,
};

/// What is to be held by one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Bytes of this rank's weights.
    pub weights: u64,
    /// Bytes of activations and logits.
    pub activations: u64,
    /// Bytes that operations work in.
    pub workspace: u64,
    /// Bytes of captured graphs.
    pub graphs: u64,
    /// Bytes of one KV block of every group.
    pub block: u64,
    /// Bytes for KV, if somebody said how many.
    pub kv: Option<u64>,
}

/// How a device's memory is shared out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// All of the device.
    pub total: u64,
    /// That others use, the driver's own included.
    pub taken: u64,
    /// What this process may use, by `--gpu-memory-utilization`.
    pub budget: u64,
    /// What is needed beside KV.
    pub needs: Needs,
    /// For KV.
    pub kv: u64,
}

/// Where a rank stands, for estimates.
#[derive(Clone, Copy, Debug)]
pub struct Rank {
    /// Over how many the model is divided.
    pub parallel: ParallelSizes,
    /// Which stage.
    pub stage: usize,
    /// Bytes of an element of weights that are numbers.
    pub element: u64,
    /// What weights are rounded to, if they are.
    pub quantize: Option<Quantize>,
}

impl MemoryPlan {
    /// Shares memory out; `utilization` is in thousandths.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], which says what takes how much and what helps.
    pub fn new(memory: DeviceMemory, utilization: u32, needs: Needs) -> Result<Self, DeviceError> {
        let DeviceMemory { free, total } = memory;
        let taken = total.saturating_sub(free);
        // In this order, because a total times a thousand still fits.
        let allowed = total / 1000 * u64::from(utilization);
        let budget = allowed.saturating_sub(taken);
        let fixed = needs.weights + needs.activations + needs.workspace + needs.graphs;
        let rest = budget.checked_sub(fixed);
        let kv = match (needs.kv, rest) {
            (Some(kv), Some(rest)) if kv <= rest => Some(kv),
            (None, rest) => rest,
            (Some(_), _) => None,
        };
        let plan = Self { total, taken, budget, kv: kv.unwrap_or(0), needs };
        match plan.kv >= plan.needs.block.max(1) {
            true => Ok(plan),
            false => Err(DeviceError::OutOfMemory(plan.shortage(utilization))),
        }
    }

    /// What does not fit, and what helps.
    fn shortage(&self, utilization: u32) -> String {
        let Needs { weights, activations, kv, block, .. } = self.needs;
        let wanted = kv.unwrap_or(block);
        let mut helps = Vec::new();
        if self.taken > self.total / 10 {
            helps.push("ending what else uses the device (`nvidia-smi` lists it)");
        }
        if utilization < 900 {
            helps.push("a higher --gpu-memory-utilization");
        }
        if weights > self.budget / 2 {
            helps.push("--quantization int8, or more ranks (--tensor-parallel-size)");
        }
        if activations > self.budget / 4 {
            helps.push("a smaller --max-num-batched-tokens or --max-num-seqs");
        }
        if kv.is_some() {
            helps.push("a smaller --kv-cache-memory-bytes");
        }
        if helps.is_empty() {
            helps.push("a device with more memory");
        }
        format!(
            "the model does not fit: {self}; KV blocks need {} and have {}. What helps: {}",
            Size(wanted),
            Size(self.budget.saturating_sub(self.fixed())),
            helps.join("; ")
        )
    }

    fn fixed(&self) -> u64 {
        let Needs { weights, activations, workspace, graphs, .. } = self.needs;
        weights + activations + workspace + graphs
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Needs { weights, activations, workspace, graphs, .. } = self.needs;
        write!(
            f,
            "of {} on the device others have {}, and this rank may use {}: weights {}, activations \
             {}, workspace {}, graphs {}, KV {}",
            Size(self.total),
            Size(self.taken),
            Size(self.budget),
            Size(weights),
            Size(activations),
            Size(workspace),
            Size(graphs),
            Size(self.kv)
        )
    }
}

/// Bytes of one rank's weights, by the model's config. Norms and biases are in the reserve.
///
/// # Errors
/// [`DeviceError::Unsupported`] if the model cannot be divided like that.
pub fn weights(config: &ModelConfig, rank: Rank) -> Result<u64, DeviceError> {
    let stages = rank.parallel.divide(config)?;
    let layers = stages.get(rank.stage).cloned().unwrap_or(0..0);
    let hidden = config.hidden_size as u64;
    let attention = config.attention_elements() as u64;
    let layer = |layer: usize| attention + config.feed_forward_elements(layer).0 as u64;
    let layers: u64 = layers.map(layer).sum();
    let tables = match (rank.stage == 0, rank.stage + 1 == stages.len()) {
        (true, true) if !config.tie_word_embeddings => 2,
        (false, false) => 0,
        _ => 1,
    };
    let table = PartCosts::of(config).head.max(hidden * config.vocab_size as u64);
    let tensor = rank.parallel.tensor as u64;
    let bits = |quantize: Option<Quantize>| match quantize {
        None => rank.element * 8,
        // With a scale for each output, or each output and 64 inputs.
        Some(Quantize::Int8) => 8,
        Some(Quantize::Int4) => 5,
    };
    let coded = config.quantization.as_ref().map(|_| 8);
    let of_layers = layers * coded.unwrap_or_else(|| bits(rank.quantize)) / 8;
    let of_tables = tables * table * bits(rank.quantize.map(|_| Quantize::Int8)) / 8;
    let sum = (of_layers + of_tables) / tensor;
    Ok(sum + sum / 50)
}

/// Bytes of activations, of the logits of `logit_rows` rows, and of a step's numbers.
pub fn activations(
    (widths, logit_rows): (Widths, usize),
    (limits, block_size): (&Limits, usize),
    element: u64,
) -> u64 {
    let columns = 2 * widths.hidden
        + widths.qkv
        + widths.attended
        + 3 * (widths.gated + widths.shared)
        + widths.branch
        + widths.compressed
        + widths.latent;
    let rows = ladder::rows(limits.max_batched_tokens) as u64;
    let of_layers = rows * columns as u64 * element;
    let of_head = ladder::rows(logit_rows) as u64
        * (widths.hidden as u64 * element + limits.vocab_size as u64 * 4);
    let of_step = Shape::largest(limits, block_size).bytes().unwrap_or(0);
    of_layers + of_head + of_step
}

/// Bytes that operations work in: parts of split attention, the library's products, and rows of
/// experts on their way.
pub fn workspace(config: &ModelConfig, limits: &Limits, element: u64) -> u64 {
    let experts = (0..config.num_layers).find_map(|layer| config.experts_of(layer));
    let of_experts = experts.map_or(0, |experts| {
        let places = limits.max_batched_tokens.min(2048) * experts.per_token;
        let columns = 2 * config.hidden_size + 3 * experts.intermediate_size;
        places as u64 * columns as u64 * element
    });
    let rounded = ladder::rows(limits.max_batched_tokens) as u64
        * config.intermediate_size.max(config.hidden_size) as u64
        * element;
    let coded = config.quantization.as_ref().map_or(0, |_| {
        // The largest matrix of a layer, as numbers.
        config.hidden_size as u64 * 2 * config.intermediate_size as u64 * element
    });
    RESERVE + PARTIAL_BYTES + LIBRARY_BYTES + of_experts + rounded + coded
}

/// Bytes of the graphs of decode steps of up to `sequences` sequences.
pub fn graphs(config: &ModelConfig, sequences: usize) -> u64 {
    let launches = config.num_layers as u64 * LAUNCHES_OF_LAYER;
    ladder::decode_sizes(sequences).len() as u64 * launches * BYTES_OF_LAUNCH
}

/// A number of bytes as people read it.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.0 as f64 / f64::from(1 << 20);
        if mib >= 1024.0 { write!(f, "{:.1} GiB", mib / 1024.0) } else { write!(f, "{mib:.0} MiB") }
    }
}

/// For what an estimate is short of: modules, alignment, the driver's own tables.
const RESERVE: u64 = 256 << 20;
/// What the vendor's library of products works in.
const LIBRARY_BYTES: u64 = 32 << 20;
/// Launches of a decoder layer, at most.
const LAUNCHES_OF_LAYER: u64 = 16;
/// Memory of one captured launch, on the device.
const BYTES_OF_LAUNCH: u64 = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn needs(weights: u64) -> Needs {
        Needs {
            weights,
            activations: GIB,
            workspace: GIB,
            graphs: GIB / 2,
            block: 2 << 20,
            kv: None,
        }
    }

    #[test]
    fn kv_has_what_is_left_of_the_share() {
        let memory = DeviceMemory { free: 79 * GIB, total: 80 * GIB };
        let plan = MemoryPlan::new(memory, 900, needs(16 * GIB)).unwrap();
        assert_eq!(plan.budget, 80 * GIB / 1000 * 900 - GIB);
        assert_eq!(plan.kv, plan.budget - 18 * GIB - GIB / 2);
        let said = plan.to_string();
        assert!(said.contains("weights 16.0 GiB") && said.contains("graphs 512 MiB"), "{said}");
        let asked = Needs { kv: Some(GIB), ..needs(16 * GIB) };
        assert_eq!(MemoryPlan::new(memory, 900, asked).unwrap().kv, GIB);
    }

    #[test]
    fn a_model_that_is_too_large_says_what_helps() {
        let memory = DeviceMemory { free: 79 * GIB, total: 80 * GIB };
        let error = MemoryPlan::new(memory, 900, needs(140 * GIB)).unwrap_err().to_string();
        for part in ["weights 140.0 GiB", "of 80.0 GiB", "--tensor-parallel-size", "--quantization"]
        {
            assert!(error.contains(part), "{error}");
        }
        let full = DeviceMemory { free: 10 * GIB, total: 80 * GIB };
        let error = MemoryPlan::new(full, 900, needs(16 * GIB)).unwrap_err().to_string();
        assert!(error.contains("others have 70.0 GiB") && error.contains("nvidia-smi"), "{error}");
        let small = MemoryPlan::new(memory, 200, needs(16 * GIB)).unwrap_err().to_string();
        assert!(small.contains("a higher --gpu-memory-utilization"), "{small}");
        let asked = Needs { kv: Some(200 * GIB), ..needs(16 * GIB) };
        let error = MemoryPlan::new(memory, 900, asked).unwrap_err().to_string();
        assert!(error.contains("--kv-cache-memory-bytes"), "{error}");
    }
}
