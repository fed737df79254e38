//! From the fields of `config.json` to a [`ModelConfig`]: defaults as transformers resolves them
//! per architecture, and every number checked before anything is computed from it.

use super::{Architecture, AttentionSpan, ModelConfig, ModelDtype, quantization, rope};
use crate::model::{error::ModelError, json::Fields};

/// Parses a whole config.
pub(super) fn model_config(config: &Fields<'_>) -> Result<ModelConfig, ModelError> {
    let architecture = architecture(config)?;
    check_activation(config)?;
    let hidden_size = config.size("hidden_size", 1..=MAX_WIDTH)?;
    let num_layers = config.size("num_hidden_layers", 1..=MAX_LAYERS)?;
    let num_heads = config.size("num_attention_heads", 1..=MAX_HEADS)?;
    let vocab_size = config.size("vocab_size", 1..=MAX_VOCABULARY)?;
    let attention_bias = config.flag("attention_bias")?.unwrap_or(false);
    // Which biases a flag switches is a matter of the wiring: Qwen2's are fixed, Mistral has none.
    let (qkv_bias, output_bias) = match architecture {
        Architecture::Llama | Architecture::Qwen3 => (attention_bias, attention_bias),
        Architecture::Mistral => (false, false),
        Architecture::Qwen2 => (true, false),
    };
    Ok(ModelConfig {
        architecture,
        hidden_size,
        intermediate_size: config.size("intermediate_size", 1..=MAX_WIDTH)?,
        num_layers,
        num_heads,
        num_kv_heads: num_kv_heads(config, architecture, num_heads)?,
        head_dim: head_dim(config, architecture, hidden_size, num_heads)?,
        vocab_size,
        rms_norm_eps: config.number("rms_norm_eps", 1e-12..=0.1)?.unwrap_or(1e-6),
        rope: rope::parse(config)?,
        tie_word_embeddings: config.flag("tie_word_embeddings")?.unwrap_or(false),
        qkv_bias,
        output_bias,
        mlp_bias: architecture == Architecture::Llama && config.flag("mlp_bias")?.unwrap_or(false),
        qk_norm: architecture == Architecture::Qwen3,
        attention: attention_spans(config, architecture, num_layers)?,
        max_position_embeddings: config.size("max_position_embeddings", 1..=MAX_POSITIONS)?,
        dtype: dtype(config)?,
        quantization: quantization::parse(config)?,
        bos_id: config.token_ids("bos_token_id", vocab_size)?.first().copied(),
        eos_ids: config.token_ids("eos_token_id", vocab_size)?,
    })
}

fn architecture(config: &Fields<'_>) -> Result<Architecture, ModelError> {
    let classes = config.texts("architectures")?.unwrap_or_default();
    let model_type = config.text("model_type")?;
    let found = Architecture::TABLE.iter().find(|(_, class, name)| match classes.first() {
        Some(first) => first == class,
        None => model_type == Some(name),
    });
    if let Some((architecture, ..)) = found {
        return Ok(*architecture);
    }
    let known = Architecture::TABLE.map(|(_, class, _)| class).join(", ");
    let field = if classes.is_empty() { "model_type" } else { "architectures" };
    Err(config.wrong(field, format!("the architectures that are known are {known}")))
}

fn check_activation(config: &Fields<'_>) -> Result<(), ModelError> {
    // `swish` is another name of the same function.
    match config.text("hidden_act")? {
        None | Some("silu" | "swish") => Ok(()),
        Some(_) => Err(config.wrong("hidden_act", "the one activation that is known is `silu`")),
    }
}

fn num_kv_heads(
    config: &Fields<'_>,
    architecture: Architecture,
    num_heads: usize,
) -> Result<usize, ModelError> {
    const NAME: &str = "num_key_value_heads";
    let Some(heads) = config.integer(NAME, 1..=MAX_HEADS)? else {
        // Before grouped queries there was no such field: one key and value head per query head.
        // Families that were born with it have other defaults, which no published file relies on.
        let has_default = architecture == Architecture::Llama || config.is_written(NAME);
        return match has_default {
            true => Ok(num_heads),
            false => Err(config.wrong(NAME, format!("it must be a divisor of {num_heads}"))),
        };
    };
    if !num_heads.is_multiple_of(heads as usize) {
        let expected = format!("it must divide `num_attention_heads`, which is {num_heads}");
        return Err(config.wrong(NAME, expected));
    }
    Ok(heads as usize)
}

fn head_dim(
    config: &Fields<'_>,
    architecture: Architecture,
    hidden_size: usize,
    num_heads: usize,
) -> Result<usize, ModelError> {
    let head_dim = match config.integer("head_dim", 2..=MAX_HEAD_DIM)? {
        Some(head_dim) => head_dim as usize,
        None if architecture == Architecture::Qwen3 => 128,
        None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            let expected =
                format!("without `head_dim` it must divide `hidden_size`, which is {hidden_size}");
            return Err(config.wrong("num_attention_heads", expected));
        }
    };
    match head_dim % 2 {
        0 => Ok(head_dim),
        _ => Err(config.wrong(
            "head_dim",
            format!(
                "{head_dim} elements per head follow, and rotary embedding needs an even count"
            ),
        )),
    }
}

/// Which layers look how far back.
fn attention_spans(
    config: &Fields<'_>,
    architecture: Architecture,
    num_layers: usize,
) -> Result<Vec<AttentionSpan>, ModelError> {
    let window = match architecture {
        Architecture::Llama => return Ok(vec![AttentionSpan::Full; num_layers]),
        Architecture::Mistral => window(config)?,
        Architecture::Qwen2 | Architecture::Qwen3 => {
            match config.flag("use_sliding_window")?.unwrap_or(false) {
                true => window(config)?,
                false => None,
            }
        }
    };
    if let Some(types) = config.texts("layer_types")? {
        return spans_by_type(config, &types, window, num_layers);
    }
    let first_windowed = match architecture {
        Architecture::Qwen2 | Architecture::Qwen3 => {
            config.integer("max_window_layers", 0..=MAX_LAYERS)?.unwrap_or(28) as usize
        }
        Architecture::Llama | Architecture::Mistral => 0,
    };
    let span = |layer| match window {
        Some(window) if layer >= first_windowed => AttentionSpan::Window(window),
        _ => AttentionSpan::Full,
    };
    Ok((0..num_layers).map(span).collect())
}

/// The window's width: what the file says, none if it says null, 4096 if it is silent.
fn window(config: &Fields<'_>) -> Result<Option<u32>, ModelError> {
    let written = config.integer("sliding_window", 1..=MAX_POSITIONS)?.map(|window| window as u32);
    Ok(if config.is_written("sliding_window") { written } else { Some(4096) })
}

fn spans_by_type(
    config: &Fields<'_>,
    types: &[&str],
    window: Option<u32>,
    num_layers: usize,
) -> Result<Vec<AttentionSpan>, ModelError> {
    if types.len() != num_layers {
        let expected = format!("it must have {num_layers} entries, one per layer");
        return Err(config.wrong("layer_types", expected));
    }
    let span = |name: &&str| match (*name, window) {
        ("full_attention", _) => Ok(AttentionSpan::Full),
        ("sliding_attention", Some(window)) => Ok(AttentionSpan::Window(window)),
        ("sliding_attention", None) => Err(config.wrong(
            "sliding_window",
            "it must be the width of the window, because `layer_types` has `sliding_attention` \
             (and `use_sliding_window`, where the family has it, must be true)",
        )),
        _ => Err(config.wrong(
            "layer_types",
            "the types that are known are `full_attention` and `sliding_attention`",
        )),
    };
    types.iter().map(span).collect()
}

fn dtype(config: &Fields<'_>) -> Result<ModelDtype, ModelError> {
    let name = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    let Some(text) = config.text(name)? else {
        return Ok(ModelDtype::F32);
    };
    match text.strip_prefix("torch.").unwrap_or(text) {
        "bfloat16" => Ok(ModelDtype::Bf16),
        "float16" => Ok(ModelDtype::F16),
        "float32" => Ok(ModelDtype::F32),
        _ => Err(config.wrong(name, "the types that are known are float32, float16 and bfloat16")),
    }
}

// Each bound is several times the largest published model's, so that what exceeds it is a mistake,
// and small enough that no product of two of them overflows 64 bits.
const MAX_HEADS: u64 = 4096;
const MAX_HEAD_DIM: u64 = 8192;
const MAX_LAYERS: u64 = 4096;
pub(super) const MAX_POSITIONS: u64 = 1 << 28;
const MAX_VOCABULARY: u64 = 1 << 24;
const MAX_WIDTH: u64 = 1 << 20;
