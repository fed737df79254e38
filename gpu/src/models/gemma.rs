//! Gemma 2 and 3: each half of a layer is normed before and after, and only then added.
//!
//! | architecture | differs by | config says |
//! |---|---|---|
//! | both | norms multiply by one plus their weights | `norms_from_one` |
//! | both | embeddings are scaled, gates are GELUs | `embedding_scale`, `activation` |
//! | both | some layers look back over a window: two KV groups | `attention` |
//! | Gemma 2 | scores and logits are capped | `attention_cap`, `logit_cap` |
//! | Gemma 3 | norms on query and key heads | `qk_norm` |
//! | Gemma 3 | windows have a rotation of their own | `window_rope` |

use troupe_runtime::model::config::ModelConfig;

use super::{LayerPlace, stack};
use crate::{
    backend::Backend,
    error::DeviceError,
    layers::{
        attention::{Attention, head_shape},
        context::{Context, Pass, Widths},
        loader::Loader,
        mlp::GatedMlp,
        norm::RmsNorm,
    },
    shape::KvAt,
    weights::Shard,
};

/// A layer of these models.
#[derive(Debug)]
pub struct Layer<B: Backend> {
    before_attention: RmsNorm<B>,
    attention: Attention<B>,
    after_attention: RmsNorm<B>,
    before_mlp: RmsNorm<B>,
    mlp: GatedMlp<B>,
    after_mlp: RmsNorm<B>,
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
        branch: config.hidden_size,
        ..Widths::default()
    })
}

impl<B: Backend> stack::Layer<B> for Layer<B> {
    fn load(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
        LayerPlace { layer, at }: LayerPlace,
    ) -> Result<Self, DeviceError> {
        let norm = |loader: &mut Loader<'_, B>, part: &str| {
            let name = format!("layers.{layer}.{part}_layernorm.weight");
            RmsNorm::load(loader, config, &name, config.hidden_size)
        };
        let (mlp, inner) = (format!("layers.{layer}.mlp"), config.intermediate_size);
        Ok(Self {
            before_attention: norm(loader, "input")?,
            attention: Attention::load(loader, config, layer, at)?,
            after_attention: norm(loader, "post_attention")?,
            before_mlp: norm(loader, "pre_feedforward")?,
            mlp: GatedMlp::load(loader, config, &mlp, inner)?,
            after_mlp: norm(loader, "post_feedforward")?,
            at,
        })
    }

    fn forward(&self, cx: &mut Context<B>, pass: &mut Pass<'_, B>) -> Result<(), DeviceError> {
        cx.norm_residual(&self.before_attention)?;
        self.attention.forward_to_branch(cx, pass)?;
        cx.add_normed_branch(&self.after_attention)?;
        cx.norm_residual(&self.before_mlp)?;
        self.mlp.forward_to_branch(cx)?;
        cx.add_normed_branch(&self.after_mlp)?;
        pass.layer_done(self.at, &mut cx.backend);
        Ok(())
    }
}
