//! From the fields of `config.json` to a [`ModelConfig`]: defaults as transformers resolves them
//! per architecture, and every number checked before anything is computed from it.

use super::{
    Activation, Architecture, AttentionSpan, Encoder, Experts, Latent, ModelConfig, ModelDtype,
    quantization, rope,
};
use crate::model::{error::ModelError, json::Fields};

/// Parses a whole config.
pub(super) fn model_config(config: &Fields<'_>) -> Result<ModelConfig, ModelError> {
    let (architecture, is_headless) = architecture(config)?;
    let parse_encoder = || Encoder::parse(config, architecture);
    let encoder = is_bert(architecture).then(parse_encoder).transpose()?;
    let hidden_size = config.size("hidden_size", 1..=MAX_WIDTH)?;
    let num_layers = config.size("num_hidden_layers", 1..=MAX_LAYERS)?;
    let num_heads = config.size("num_attention_heads", 1..=MAX_HEADS)?;
    let vocab_size = config.size("vocab_size", 1..=MAX_VOCABULARY)?;
    let (qkv_bias, output_bias) = attention_biases(config, architecture)?;
    let latent = is_deepseek(architecture).then(|| Latent::parse(config)).transpose()?;
    let head_dim = match &latent {
        Some(latent) => latent.query_dim(),
        None => head_dim(config, architecture, hidden_size, num_heads)?,
    };
    let is_gemma = matches!(architecture, Architecture::Gemma2 | Architecture::Gemma3);
    if is_gemma && config.flag("use_bidirectional_attention")?.unwrap_or(false) {
        let expected =
            "models that see what follows give embeddings, not text: only false is known";
        return Err(config.wrong("use_bidirectional_attention", expected));
    }
    let (rope, window_rope) = match architecture {
        Architecture::Gemma3 => {
            let (full, window) = rope::parse_two(config)?;
            (full, Some(window))
        }
        Architecture::Mixtral => (rope::parse(config, rope::LONG_THETA)?, None),
        _ => (rope::parse(config, rope::DEFAULT_THETA)?, None),
    };
    let rotary_dim = match &latent {
        Some(latent) => latent.rope_dim,
        None if encoder.is_some() => 0,
        None => rotary_dim(config, architecture, head_dim)?,
    };
    if !rope.fits(rotary_dim) {
        let pairs = rotary_dim / 2;
        return Err(config.wrong("rope_scaling", format!("it needs {pairs} factors in a list")));
    }
    let cap = |name, default| cap(config, architecture, (name, default));
    let (eps_name, norm_eps) = match architecture {
        Architecture::Bert | Architecture::BertClassifier => ("layer_norm_eps", 1e-12),
        Architecture::Phi3 => ("rms_norm_eps", 1e-5),
        _ => ("rms_norm_eps", 1e-6),
    };
    Ok(ModelConfig {
        architecture,
        hidden_size,
        intermediate_size: config.size("intermediate_size", 1..=MAX_WIDTH)?,
        num_layers,
        num_heads,
        num_kv_heads: match latent {
            // Every head has its own keys and values; what is kept of them all have in common.
            Some(_) => num_heads,
            None => num_kv_heads(config, architecture, num_heads)?,
        },
        head_dim,
        rotary_dim,
        vocab_size,
        rms_norm_eps: config.number(eps_name, 1e-12..=0.1)?.unwrap_or(norm_eps),
        rope,
        window_rope,
        activation: activation(config, architecture)?,
        norms_from_one: is_gemma,
        embedding_scale: is_gemma.then(|| (hidden_size as f64).sqrt()),
        attention_scale: attention_scale(config, latent.is_some(), is_gemma, head_dim)?,
        attention_cap: cap("attn_logit_softcapping", 50.0)?,
        logit_cap: cap("final_logit_softcapping", 30.0)?,
        fused_projections: architecture == Architecture::Phi3,
        experts: Experts::parse(config, architecture, num_layers)?,
        latent,
        encoder,
        matryoshka: matryoshka(config, hidden_size)?,
        is_headless,
        tie_word_embeddings: config.flag("tie_word_embeddings")?.unwrap_or(is_gemma),
        qkv_bias,
        output_bias,
        mlp_bias: match architecture {
            Architecture::Bert | Architecture::BertClassifier => true,
            Architecture::Llama => config.flag("mlp_bias")?.unwrap_or(false),
            _ => false,
        },
        qk_norm: matches!(
            architecture,
            Architecture::Gemma3 | Architecture::Qwen3 | Architecture::Qwen3Moe
        ),
        attention: attention_spans(config, architecture, num_layers)?,
        max_position_embeddings: config.size("max_position_embeddings", 1..=MAX_POSITIONS)?,
        dtype: dtype(config)?,
        quantization: quantization::parse(config)?,
        bos_id: config.token_ids("bos_token_id", vocab_size)?.first().copied(),
        eos_ids: config.token_ids("eos_token_id", vocab_size)?,
    })
}

/// To which sizes embeddings may be cut: whoever trained the model to bear that says so.
fn matryoshka(config: &Fields<'_>, hidden_size: usize) -> Result<Option<Vec<usize>>, ModelError> {
    let sizes = config.integers("matryoshka_dimensions", hidden_size + 1)?;
    let sizes = sizes.filter(|sizes| !sizes.is_empty());
    let may = config.flag("is_matryoshka")?.unwrap_or(false);
    Ok(sizes.or_else(|| may.then(Vec::new)))
}

fn is_bert(architecture: Architecture) -> bool {
    matches!(architecture, Architecture::Bert | Architecture::BertClassifier)
}

fn is_deepseek(architecture: Architecture) -> bool {
    matches!(architecture, Architecture::DeepseekV2 | Architecture::DeepseekV3)
}

/// Whether query, key and value products have biases, and the output product. Which of them a flag
/// switches is a matter of the wiring: Qwen2's are fixed, Mistral has none.
fn attention_biases(
    config: &Fields<'_>,
    architecture: Architecture,
) -> Result<(bool, bool), ModelError> {
    let written = config.flag("attention_bias")?.unwrap_or(false);
    match architecture {
        Architecture::Gemma2
        | Architecture::Gemma3
        | Architecture::Llama
        | Architecture::Qwen3
        | Architecture::Qwen3Moe => Ok((written, written)),
        Architecture::Bert | Architecture::BertClassifier => Ok((true, true)),
        Architecture::Mistral | Architecture::Mixtral | Architecture::Phi3 => Ok((false, false)),
        Architecture::Qwen2 => Ok((true, false)),
        Architecture::DeepseekV2 | Architecture::DeepseekV3 if written => {
            Err(config.wrong("attention_bias", "latent attention is known without biases"))
        }
        Architecture::DeepseekV2 | Architecture::DeepseekV3 => Ok((false, false)),
    }
}

/// What scores are multiplied by before softmax.
fn attention_scale(
    config: &Fields<'_>,
    is_latent: bool,
    is_gemma: bool,
    head_dim: usize,
) -> Result<f64, ModelError> {
    let scalar = match is_gemma {
        true => config.number("query_pre_attn_scalar", 1e-3..=1e6)?.unwrap_or(256.0),
        false => head_dim as f64,
    };
    let factor = if is_latent { rope::score_factor(config)? } else { 1.0 };
    Ok(factor / scalar.sqrt())
}

/// A soft cap: what the file says, none if it says null, the family's if it is silent.
fn cap(
    config: &Fields<'_>,
    architecture: Architecture,
    (name, default): (&str, f64),
) -> Result<Option<f64>, ModelError> {
    match architecture {
        Architecture::Gemma2 if !config.is_written(name) => Ok(Some(default)),
        Architecture::Gemma2 | Architecture::Gemma3 => config.number(name, 1e-3..=1e6),
        _ => Ok(None),
    }
}

/// Elements of a head that are rotated.
fn rotary_dim(
    config: &Fields<'_>,
    architecture: Architecture,
    head_dim: usize,
) -> Result<usize, ModelError> {
    let share = rope::rotated_share(config)?;
    if share < 1.0 && architecture != Architecture::Phi3 {
        let expected = "only 1.0, the whole head, is known for this family";
        return Err(config.wrong("partial_rotary_factor", expected));
    }
    // Rounded towards zero, as transformers does.
    let dim = (head_dim as f64 * share) as usize;
    match dim >= 2 && dim.is_multiple_of(2) {
        true => Ok(dim),
        false => {
            let expected = format!("{dim} of {head_dim} elements follow, no even number above 0");
            Err(config.wrong("partial_rotary_factor", expected))
        }
    }
}

/// The wiring, and whether the files hold it without the output head that others of it have:
/// `Qwen3Model` is `Qwen3ForCausalLM` without.
fn architecture(config: &Fields<'_>) -> Result<(Architecture, bool), ModelError> {
    let classes = config.texts("architectures")?.unwrap_or_default();
    let model_type = config.text("model_type")?;
    let find = |fits: &dyn Fn(&str, &str) -> bool| {
        let row = Architecture::TABLE.iter().find(|(_, class, name)| fits(class, name));
        row.map(|(architecture, ..)| *architecture)
    };
    let Some(first) = classes.first() else {
        return match find(&|_, name| model_type == Some(name)) {
            Some(architecture) => Ok((architecture, false)),
            None => Err(unknown(config, "model_type")),
        };
    };
    if let Some(architecture) = find(&|class, _| class == *first) {
        return Ok((architecture, false));
    }
    let bare = first.strip_suffix("Model").filter(|stem| !stem.is_empty());
    let headless = find(&|class, _| bare.is_some() && class.strip_suffix("ForCausalLM") == bare);
    headless.map(|found| (found, true)).ok_or_else(|| unknown(config, "architectures"))
}

fn unknown(config: &Fields<'_>, field: &str) -> ModelError {
    let known = Architecture::TABLE.map(|(_, class, _)| class).join(", ");
    config.wrong(field, format!("the architectures that are known are {known}"))
}

fn activation(config: &Fields<'_>, architecture: Architecture) -> Result<Activation, ModelError> {
    let is_gemma = matches!(architecture, Architecture::Gemma2 | Architecture::Gemma3);
    if is_bert(architecture) {
        return match config.text("hidden_act")? {
            None | Some("gelu") => Ok(Activation::Gelu),
            Some(_) => Err(config.wrong("hidden_act", "this family is known with `gelu`")),
        };
    }
    // Gemma's older files have a name of another function under the usual key, which nobody reads.
    let name = if is_gemma { "hidden_activation" } else { "hidden_act" };
    match (config.text(name)?, is_gemma) {
        // `swish` is another name of the same function.
        (None | Some("silu" | "swish"), false) => Ok(Activation::Silu),
        (None | Some("gelu_pytorch_tanh"), true) => Ok(Activation::GeluTanh),
        (Some(_), false) => Err(config.wrong(name, "this family is known with `silu`")),
        (Some(_), true) => Err(config.wrong(name, "this family is known with `gelu_pytorch_tanh`")),
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
        let has_default = is_bert(architecture)
            || matches!(architecture, Architecture::Llama | Architecture::Phi3)
            || config.is_written(NAME);
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
        None if matches!(architecture, Architecture::Gemma2 | Architecture::Gemma3) => 256,
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
        Architecture::Bert | Architecture::BertClassifier => {
            return Ok(vec![AttentionSpan::Both; num_layers]);
        }
        Architecture::Llama | Architecture::DeepseekV2 | Architecture::DeepseekV3 => {
            return Ok(vec![AttentionSpan::Full; num_layers]);
        }
        Architecture::Gemma2 | Architecture::Gemma3 | Architecture::Mistral => window(config)?,
        // Silent means none.
        Architecture::Mixtral | Architecture::Phi3 => written_window(config)?,
        Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Qwen3Moe => {
            match config.flag("use_sliding_window")?.unwrap_or(false) {
                true => window(config)?,
                false => None,
            }
        }
    };
    if let Some(types) = config.texts("layer_types")? {
        return spans_by_type(config, &types, window, num_layers);
    }
    // The last layer of every so many sees all.
    let pattern = match architecture {
        Architecture::Gemma2 => Some(2),
        Architecture::Gemma3 => {
            let written = config.integer("sliding_window_pattern", 1..=MAX_LAYERS)?;
            let older = config.integer("_sliding_window_pattern", 1..=MAX_LAYERS)?;
            Some(written.or(older).unwrap_or(6) as usize)
        }
        _ => None,
    };
    let first_windowed = match architecture {
        Architecture::Qwen2 | Architecture::Qwen3 => {
            config.integer("max_window_layers", 0..=MAX_LAYERS)?.unwrap_or(28) as usize
        }
        _ => 0,
    };
    let sees_all = |layer: usize| {
        layer < first_windowed || pattern.is_some_and(|every| (layer + 1).is_multiple_of(every))
    };
    let span = |layer| match window {
        Some(window) if !sees_all(layer) => AttentionSpan::Window(window),
        _ => AttentionSpan::Full,
    };
    Ok((0..num_layers).map(span).collect())
}

/// The window's width: what the file says, none if it says null, 4096 if it is silent.
fn window(config: &Fields<'_>) -> Result<Option<u32>, ModelError> {
    let written = written_window(config)?;
    Ok(if config.is_written("sliding_window") { written } else { Some(4096) })
}

fn written_window(config: &Fields<'_>) -> Result<Option<u32>, ModelError> {
    Ok(config.integer("sliding_window", 1..=MAX_POSITIONS)?.map(|window| window as u32))
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
pub(super) const MAX_HEAD_DIM: u64 = 8192;
pub(super) const MAX_LAYERS: u64 = 4096;
pub(super) const MAX_POSITIONS: u64 = 1 << 28;
const MAX_VOCABULARY: u64 = 1 << 24;
pub(super) const MAX_WIDTH: u64 = 1 << 20;
