//! DeepSeek V2, V2-Lite, V3 and R1: latent attention, and experts in all layers but the first ones.
//!
//! | architecture | differs by | config says |
//! |---|---|---|
//! | V2-Lite | queries are one product | `latent.query_rank` |
//! | V2 | experts are chosen out of the best groups | `experts.routing` |
//! | V3, R1 | a router of sigmoids, whose choice a learned bias corrects | `experts.routing` |

use troupe_runtime::model::config::{Latent, ModelConfig};

use super::{LayerPlace, stack};
use crate::{
    backend::Backend,
    error::DeviceError,
    layers::{
        context::{Context, Pass, Widths},
        experts::{ExpertNames, FeedForward},
        latent_attention::{LatentAttention, latent_shape},
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
    attention: LatentAttention<B>,
    post_attention_norm: RmsNorm<B>,
    mlp: FeedForward<B>,
    at: KvAt,
}

/// How wide a rank's activations are.
///
/// # Errors
/// [`DeviceError::Unsupported`] if the model cannot be divided like this.
pub fn widths(config: &ModelConfig, shard: Shard) -> Result<Widths, DeviceError> {
    let latent = latent(config)?;
    let shape = latent_shape(config, latent, shard)?;
    let shared = config.experts.as_ref().map_or(0, |experts| experts.shared_intermediate_size);
    Ok(Widths {
        hidden: config.hidden_size,
        qkv: shape.heads * shape.query_dim(),
        attended: shape.heads * shape.value_dim,
        gated: shard.split(config.intermediate_size).len(),
        shared: shard.split(shared).len(),
        compressed: latent.query_rank.unwrap_or(0),
        latent: shape.width(),
        ..Widths::default()
    })
}

fn latent(config: &ModelConfig) -> Result<&Latent, DeviceError> {
    let why = || DeviceError::Contract("latent attention without its sizes".to_owned());
    config.latent.as_ref().ok_or_else(why)
}

impl<B: Backend> stack::Layer<B> for Layer<B> {
    fn load(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
        LayerPlace { layer, at }: LayerPlace,
    ) -> Result<Self, DeviceError> {
        let hidden = config.hidden_size;
        let input_norm = format!("layers.{layer}.input_layernorm.weight");
        let post_norm = format!("layers.{layer}.post_attention_layernorm.weight");
        Ok(Self {
            input_norm: RmsNorm::load(loader, config, &input_norm, hidden)?,
            attention: LatentAttention::load(loader, config, latent(config)?, (layer, at))?,
            post_attention_norm: RmsNorm::load(loader, config, &post_norm, hidden)?,
            mlp: FeedForward::load(loader, config, layer, ExpertNames::USUAL)?,
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
