//! `config.json` as a typed value: what the engine must know of a model before its weights.
//!
//! Two styles are in use, the classic one (`torch_dtype`, `rope_theta`, `rope_scaling`) and that of
//! transformers 5 (`dtype`, `rope_parameters`, `layer_types`); both become one [`ModelConfig`] with
//! every default resolved, so that no later code asks what a missing field means. What cannot be
//! computed faithfully is refused here: a wrong rope gives fluent nonsense, not an error.

mod encoder;
mod experts;
mod generation;
mod groups;
mod latent;
mod parse;
mod quantization;
mod rope;
#[cfg(test)]
mod tests;

use std::{fmt, path::Path};

pub use self::{
    encoder::{Encoder, ScoreActivation},
    experts::{Experts, GroupScore, RouterScore, Routing},
    generation::GenerationConfig,
    groups::{AttentionSpan, KvGroup},
    latent::Latent,
    quantization::{Quantization, QuantizedInputs, QuantizedWeights},
    rope::{Rope, RopeScaling},
};
use super::{
    error::ModelError,
    gguf::{self, Gguf},
    json,
};

/// A model's shape and wiring. Sizes are in elements, of the whole model (not of one rank).
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Which wiring, and so which weight names.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Elements per head, even; `num_heads * head_dim` need not be `hidden_size`. With latent
    /// attention those of a query head.
    pub head_dim: usize,
    /// Elements of a head that are rotated, even; 0 where positions are told otherwise.
    pub rotary_dim: usize,
    /// Rows of the embedding; may exceed what the tokenizer uses.
    pub vocab_size: usize,
    /// Epsilon of the norms.
    pub rms_norm_eps: f64,
    /// Rotary position embedding.
    pub rope: Rope,
    /// That of layers which look back over a window, where they have another one.
    pub window_rope: Option<Rope>,
    /// What gates the feed-forward layers, or stands between their products.
    pub activation: Activation,
    /// Whether norms multiply by one plus their weights, and not by those alone.
    pub norms_from_one: bool,
    /// What embeddings are multiplied by, if they are.
    pub embedding_scale: Option<f64>,
    /// What scores of attention are multiplied by before softmax.
    pub attention_scale: f64,
    /// Scores of attention `s` become `cap * tanh(s / cap)`.
    pub attention_cap: Option<f64>,
    /// So do logits.
    pub logit_cap: Option<f64>,
    /// Whether the files hold query, key and value, and gate and up, as one matrix each.
    pub fused_projections: bool,
    /// Feed-forward layers of experts, if some layers have them.
    pub experts: Option<Experts>,
    /// How keys and values are compressed, if they are.
    pub latent: Option<Latent>,
    /// Set where texts are read whole and none is written: layers see what follows as well, and are
    /// normed after their halves.
    pub encoder: Option<Encoder>,
    /// To which sizes the model's embeddings may be cut, if they may; empty is to any.
    pub matryoshka: Option<Vec<usize>>,
    /// Whether the files hold the bare layers, without an output head.
    pub is_headless: bool,
    /// Whether the output head is the embedding itself.
    pub tie_word_embeddings: bool,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention output projection has a bias.
    pub output_bias: bool,
    /// Whether the feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Whether queries and keys are RMS-normed per head before the rotary embedding.
    pub qk_norm: bool,
    /// How far each layer looks back; one entry per layer.
    pub attention: Vec<AttentionSpan>,
    /// The most positions that the model was made for.
    pub max_position_embeddings: usize,
    /// Element type that the weights were published in; float32 where the file does not say.
    pub dtype: ModelDtype,
    /// How quantized weights are to be understood, if there are any.
    pub quantization: Option<Quantization>,
    /// The token that begins a text, if there is one.
    pub bos_id: Option<u32>,
    /// The tokens that end an answer.
    pub eos_ids: Vec<u32>,
}

impl ModelConfig {
    /// Reads `config.json`, or the metadata of a GGUF file.
    ///
    /// # Errors
    /// [`ModelError`] naming file, field, what stands there and what could.
    pub fn load(file: &Path) -> Result<Self, ModelError> {
        if gguf::is_gguf(file) {
            let map = Gguf::open(file)?.config()?;
            return parse::model_config(&json::Fields::new(file, &map));
        }
        Self::parse(file, &json::read_bounded(file, MAX_CONFIG_BYTES)?)
    }

    /// Parses the bytes of a `config.json`; `file` is for errors only.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        let map = json::parse_object(file, bytes)?;
        parse::model_config(&json::Fields::new(file, &map))
    }

    /// The layers sorted into KV groups: those of one KV shape share block tables. Ordered by each
    /// group's first layer; every layer is in exactly one.
    pub fn kv_groups(&self) -> Vec<KvGroup> {
        groups::kv_groups(&self.attention)
    }

    /// Query heads that share one key and value head.
    pub fn heads_per_kv_head(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// The feed-forward layer of layer `layer` if it is one of experts.
    pub fn experts_of(&self, layer: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|experts| experts.layers.get(layer) == Some(&true))
    }

    /// Elements of the weight matrices of attention, in each layer.
    pub fn attention_elements(&self) -> usize {
        let hidden = self.hidden_size;
        match &self.latent {
            None => hidden * (2 * self.num_heads + 2 * self.num_kv_heads) * self.head_dim,
            Some(latent) => {
                let query = self.num_heads * self.head_dim;
                let query = match latent.query_rank {
                    Some(rank) => rank * (hidden + query),
                    None => hidden * query,
                };
                let values = self.num_heads * latent.value_dim;
                let expanded = self.num_heads * (latent.nope_dim + latent.value_dim);
                query + hidden * latent.width() + latent.rank * expanded + values * hidden
            }
        }
    }

    /// Elements of the weight matrices of layer `layer`'s feed-forward layer: all of them, and
    /// those that one token uses.
    pub fn feed_forward_elements(&self, layer: usize) -> (usize, usize) {
        // With a gate there are three products, without it two.
        let products = if self.encoder.is_some() { 2 } else { 3 };
        let of_width = |width: usize| products * self.hidden_size * width;
        match self.experts_of(layer) {
            None => (of_width(self.intermediate_size), of_width(self.intermediate_size)),
            Some(experts) => {
                let router = self.hidden_size * experts.count;
                let of = |count| {
                    let width = count * experts.intermediate_size;
                    router + of_width(width + experts.shared_intermediate_size)
                };
                (of(experts.count), of(experts.per_token))
            }
        }
    }

    /// Elements of keys and values that one position has in each layer.
    pub fn kv_elements(&self) -> usize {
        match &self.latent {
            Some(latent) => latent.width(),
            None => 2 * self.num_kv_heads * self.head_dim,
        }
    }
}

/// The wirings that are implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// `BertModel`: texts to vectors.
    Bert,
    /// `BertForSequenceClassification`: the same with a classifier, pairs of texts to scores.
    BertClassifier,
    /// `DeepseekV2ForCausalLM`: V2 and V2-Lite.
    DeepseekV2,
    /// `DeepseekV3ForCausalLM`: V3 and R1.
    DeepseekV3,
    /// `Gemma2ForCausalLM`.
    Gemma2,
    /// `Gemma3ForCausalLM`: the models for text alone.
    Gemma3,
    /// `LlamaForCausalLM`.
    Llama,
    /// `MistralForCausalLM`.
    Mistral,
    /// `MixtralForCausalLM`.
    Mixtral,
    /// `Phi3ForCausalLM`.
    Phi3,
    /// `Qwen2ForCausalLM`.
    Qwen2,
    /// `Qwen3ForCausalLM`.
    Qwen3,
    /// `Qwen3MoeForCausalLM`.
    Qwen3Moe,
}

impl Architecture {
    /// All of them, with the class name that `architectures` holds and the `model_type`.
    pub const TABLE: [(Self, &'static str, &'static str); 13] = [
        (Self::Bert, "BertModel", "bert"),
        (Self::BertClassifier, "BertForSequenceClassification", "bert"),
        (Self::DeepseekV2, "DeepseekV2ForCausalLM", "deepseek_v2"),
        (Self::DeepseekV3, "DeepseekV3ForCausalLM", "deepseek_v3"),
        (Self::Gemma2, "Gemma2ForCausalLM", "gemma2"),
        (Self::Gemma3, "Gemma3ForCausalLM", "gemma3_text"),
        (Self::Llama, "LlamaForCausalLM", "llama"),
        (Self::Mistral, "MistralForCausalLM", "mistral"),
        (Self::Mixtral, "MixtralForCausalLM", "mixtral"),
        (Self::Phi3, "Phi3ForCausalLM", "phi3"),
        (Self::Qwen2, "Qwen2ForCausalLM", "qwen2"),
        (Self::Qwen3, "Qwen3ForCausalLM", "qwen3"),
        (Self::Qwen3Moe, "Qwen3MoeForCausalLM", "qwen3_moe"),
    ];
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = Self::TABLE.iter().find(|(architecture, ..)| architecture == self);
        f.write_str(row.map_or("unknown", |(_, class, _)| class))
    }
}

/// What gates a feed-forward layer: `down(activation(gate(x)) * up(x))`; or, where there is no
/// gate, `down(activation(up(x)))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The Gaussian error linear unit, `x` times the share of a normal distribution below it.
    Gelu,
    /// The Gaussian error linear unit, approximated by a hyperbolic tangent.
    GeluTanh,
    /// `x * sigmoid(x)`.
    Silu,
}

/// Element type of the published weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModelDtype {
    /// `bfloat16`.
    Bf16,
    /// `float16`.
    F16,
    /// `float32`.
    F32,
}

/// Configs are a few KiB; those with a vocabulary of labels inside reach a few hundred.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
