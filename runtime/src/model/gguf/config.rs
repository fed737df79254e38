//! Metadata as `config.json` would say it.

use serde_json::{Map, Value as Json, json};

use super::{
    Gguf, TensorKind,
    header::{ROPE_FACTORS, Value},
    wrong,
};
use crate::model::error::ModelError;

/// What llama.cpp calls architectures whose wiring is here, and whether it has the elements of
/// query and key heads in another order: those of a rotated pair side by side.
const ARCHITECTURES: [(&str, &str, bool); 3] = [
    ("llama", "LlamaForCausalLM", true),
    ("qwen2", "Qwen2ForCausalLM", false),
    ("qwen3", "Qwen3ForCausalLM", false),
];

impl Gguf {
    /// The model's config, to be parsed as if it stood in a `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Gguf`] for what this form cannot say or we cannot compute.
    pub(in crate::model) fn config(&self) -> Result<Map<String, Json>, ModelError> {
        let name = self.text("general.architecture")?.unwrap_or_default();
        let found = ARCHITECTURES.iter().find(|(known, ..)| *known == name);
        let Some((_, class, is_paired)) = found else {
            let known = ARCHITECTURES.map(|(known, ..)| known).join(", ");
            let why = format!("`general.architecture` is `{name}`; {known} are read");
            return Err(wrong(&self.path, why));
        };
        let key = |rest: &str| format!("{name}.{rest}");
        let field = |rest: &str| self.value(&key(rest)).map_or(Json::Null, scalar);
        let heads = field("attention.head_count");
        let head_dim = match (field("attention.key_length"), field("embedding_length")) {
            (Json::Null, hidden) => match (hidden.as_u64(), heads.as_u64()) {
                (Some(hidden), Some(heads)) if heads > 0 => json!(hidden / heads),
                _ => Json::Null,
            },
            (given, _) => given,
        };
        let rotated = field("rope.dimension_count");
        if !rotated.is_null() && rotated != head_dim {
            let key = key("rope.dimension_count");
            let why =
                format!("`{key}` is {rotated}; all {head_dim} elements of a head, or no such");
            return Err(wrong(&self.path, why));
        }
        let vocabulary = self.texts("tokenizer.ggml.tokens")?.len();
        let has = |tensor: &str| self.tensors.contains_key(tensor);
        let attention_bias = has("model.layers.0.self_attn.q_proj.bias");
        let kind = self.tensors.get("model.embed_tokens.weight").map(|tensor| tensor.kind);
        let dtype = match kind {
            Some(TensorKind::F16) => "float16",
            Some(TensorKind::Bf16) => "bfloat16",
            _ => "float32",
        };
        let mut quantization = json!({"quant_method": "gguf"});
        if *is_paired {
            quantization["paired_head_dim"] = head_dim.clone();
        }
        let config = json!({
            "architectures": [class],
            "hidden_size": field("embedding_length"),
            "intermediate_size": field("feed_forward_length"),
            "num_hidden_layers": field("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": match field("attention.head_count_kv") {
                Json::Null => heads.clone(),
                heads => heads,
            },
            "head_dim": head_dim,
            "vocab_size": vocabulary,
            "max_position_embeddings": field("context_length"),
            "rms_norm_eps": field("attention.layer_norm_rms_epsilon"),
            "rope_theta": match field("rope.freq_base") {
                Json::Null => json!(10_000.0),
                base => base,
            },
            "rope_scaling": self.scaling(&key)?,
            "tie_word_embeddings": !has("lm_head.weight"),
            "attention_bias": *class == "LlamaForCausalLM" && attention_bias,
            "torch_dtype": dtype,
            "bos_token_id": self.token_id("bos_token_id"),
            "eos_token_id": self.end_ids(),
            "quantization_config": quantization,
        });
        match config {
            Json::Object(map) => Ok(map),
            _ => Err(wrong(&self.path, "it has no metadata")),
        }
    }

    fn scaling(&self, key: &impl Fn(&str) -> String) -> Result<Json, ModelError> {
        match self.text(&key("rope.scaling.type"))? {
            None | Some("none") if self.rope_factors.is_empty() => Ok(Json::Null),
            None | Some("none") => {
                let factors = json!(self.rope_factors);
                Ok(json!({"rope_type": "longrope", "attention_factor": 1.0,
                    "short_factor": factors, "long_factor": factors}))
            }
            Some(kind) if !self.rope_factors.is_empty() => {
                let why = format!("it has `{ROPE_FACTORS}` and scales by `{kind}` as well");
                Err(wrong(&self.path, why))
            }
            Some(kind) => {
                let factor = self.value(&key("rope.scaling.factor")).map_or(Json::Null, scalar);
                Ok(json!({"rope_type": kind, "factor": factor}))
            }
        }
    }

    /// The id of a special token.
    pub(super) fn token_id(&self, name: &str) -> Json {
        self.value(&format!("tokenizer.ggml.{name}")).map_or(Json::Null, scalar)
    }

    /// Tokens that end an answer: of the text, and of a turn of a chat.
    fn end_ids(&self) -> Json {
        let ids = ["eos_token_id", "eot_token_id"].map(|name| self.token_id(name));
        let mut ids: Vec<Json> = ids.into_iter().filter(|id| !id.is_null()).collect();
        ids.dedup();
        Json::Array(ids)
    }
}

/// A number, text or flag; lists are none that a config has.
fn scalar(value: &Value) -> Json {
    match value {
        Value::Flag(flag) => json!(flag),
        Value::Float(number) => json!(number),
        Value::Integer(number) => json!(number),
        Value::Numbers(numbers) => json!(numbers),
        Value::Text(text) => json!(text),
        Value::Texts(texts) => json!(texts),
    }
}
