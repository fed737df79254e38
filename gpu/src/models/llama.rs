//! Llama and its relatives: one wiring, whose differences the config states.
//!
//! | architecture | differs by | config says |
//! |---|---|---|
//! | Llama | nothing; 3.1 and later stretch their rotary frequencies | `rope.scaling` |
//! | Mistral | looks back over a window | `attention` |
//! | Qwen2 | biases on query, key and value products | `qkv_bias` |
//! | Qwen3 | norms on query and key heads, no biases | `qk_norm` |
//! | Phi-3 | one matrix for query, key and value, one for gate and up | `fused_projections` |
//! | Mixtral | experts in every layer, under names of their own | `experts` |
//! | Qwen3-MoE | Qwen3 with experts in some layers | `experts` |
//!
//! A layer is `x += attention(norm(x))`, then `x += mlp(norm(x))`, with the residual stream `x` in
//! the context. At a stage's end `x` is complete, so where stages meet changes no bit.

use troupe_runtime::model::config::{Architecture, ModelConfig};

use super::{LayerPlace, stack};
use crate::{
    backend::Backend,
    error::DeviceError,
    layers::{
        attention::{Attention, head_shape},
        context::{Context, Pass, Widths},
        experts::{ExpertNames, FeedForward},
        loader::Loader,
        norm::RmsNorm,
    },
    shape::KvAt,
    weights::Shard,
};

/// A layer of these models.
#[derive(Debug)]
pub struct Layer<B: Backend> {
    input_norm: RmsNorm<B>,
    attention: Attention<B>,
    post_attention_norm: RmsNorm<B>,
    mlp: FeedForward<B>,
    at: KvAt,
}

/// How wide a rank's activations are.
///
/// # Errors
/// [`DeviceError::Unsupported`] if the model cannot be divided like this.
pub fn widths(config: &ModelConfig, shard: Shard) -> Result<Widths, DeviceError> {
    let heads = head_shape(config, shard)?;
    Ok(Widths {
        hidden: config.hidden_size,
        qkv: heads.fused_columns(),
        attended: heads.query_columns(),
        gated: shard.split(config.intermediate_size).len(),
        ..Widths::default()
    })
}

impl<B: Backend> stack::Layer<B> for Layer<B> {
    fn load(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
        LayerPlace { layer, at }: LayerPlace,
    ) -> Result<Self, DeviceError> {
        let hidden = config.hidden_size;
        let names = match config.architecture {
            Architecture::Mixtral => MIXTRAL,
            _ => ExpertNames::USUAL,
        };
        let input_norm = format!("layers.{layer}.input_layernorm.weight");
        let post_norm = format!("layers.{layer}.post_attention_layernorm.weight");
        Ok(Self {
            input_norm: RmsNorm::load(loader, config, &input_norm, hidden)?,
            attention: Attention::load(loader, config, layer, at)?,
            post_attention_norm: RmsNorm::load(loader, config, &post_norm, hidden)?,
            mlp: FeedForward::load(loader, config, layer, names)?,
            at,
        })
    }

    fn forward(&self, cx: &mut Context<B>, pass: &mut Pass<'_, B>) -> Result<(), DeviceError> {
        cx.norm_residual(&self.input_norm)?;
        self.attention.forward(cx, pass)?;
        cx.norm_residual(&self.post_attention_norm)?;
        self.mlp.forward(cx)?;
        pass.layer_done(self.at, &mut cx.backend);
        Ok(())
    }
}

const MIXTRAL: ExpertNames =
    ExpertNames { block: "block_sparse_moe", products: ["w1", "w3", "w2"] };
