//! BERT (Devlin et al., 2018): texts to vectors. Every token sees the whole text, so a text is
//! computed in one step or not at all.
//!
//! A layer is `h = norm(x + attention(x))`, then `x = norm(h + down(gelu(up(h))))`, with the
//! residual stream `x` in the context. Where tokens stand is in their embeddings
//! ([`Opening`](crate::layers::opening)), so that nothing is rotated. Keys and values go through
//! the KV as everywhere; they are of use to this one step.

use troupe_runtime::model::config::ModelConfig;

use super::{LayerPlace, stack};
use crate::{
    backend::{Backend, KvStep, LinearCall},
    error::DeviceError,
    layers::{
        attention::{head_shape, mask},
        context::{Context, Pass, StepActivations, Widths},
        linear::RowParallel,
        loader::{Loader, RowPart},
        norm::LayerNorm,
        opening::OpeningNames,
    },
    shape::AttentionSpec,
    weights::{Held, Shard},
};

/// A layer.
#[derive(Debug)]
pub struct Layer<B: Backend> {
    qkv: B::Linear,
    output: RowParallel<B>,
    after_attention: LayerNorm<B>,
    up: B::Linear,
    down: RowParallel<B>,
    after_mlp: LayerNorm<B>,
    spec: AttentionSpec,
    place: LayerPlace,
}

/// What stands before the first layer.
pub const OPENING: OpeningNames = OpeningNames {
    positions: "embeddings.position_embeddings.weight",
    types: "embeddings.token_type_embeddings.weight",
    norm: "embeddings.LayerNorm",
};

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
        inner: shard.split(config.intermediate_size).len(),
        ..Widths::default()
    })
}

impl<B: Backend> stack::Layer<B> for Layer<B> {
    fn load(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
        place: LayerPlace,
    ) -> Result<Self, DeviceError> {
        let name = |part: &str| format!("encoder.layer.{}.{part}", place.layer);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let epsilon = config.rms_norm_eps;
        let shard = loader.reader.shard();
        let heads = shard.heads(config.num_heads, config.num_kv_heads)?.query;
        let heads = heads.start * config.head_dim..heads.end * config.head_dim;
        let rows = |part: &str, rows: usize, own| RowPart {
            name: name(part),
            rows,
            own,
            held: Held::Sharded,
            bias: true,
        };
        let parts = ["attention.self.query", "attention.self.key", "attention.self.value"];
        let parts = parts.map(|part| rows(part, hidden, heads.clone()));
        let qkv = loader.column_parallel(hidden, &parts)?;
        let output = name("attention.output.dense");
        let output = RowParallel::load(loader, &output, (hidden, hidden), heads, true)?;
        let after_attention = name("attention.output.LayerNorm");
        let after_attention = LayerNorm::load(loader, &after_attention, hidden, epsilon)?;
        let own = shard.split(inner);
        let up = rows("intermediate.dense", inner, own.clone());
        let up = loader.column_parallel(hidden, &[up])?;
        let down = name("output.dense");
        let down = RowParallel::load(loader, &down, (hidden, inner), own, true)?;
        let after_mlp = LayerNorm::load(loader, &name("output.LayerNorm"), hidden, epsilon)?;
        let spec = AttentionSpec {
            heads: head_shape(config, shard)?,
            scale: config.attention_scale as f32,
            mask: mask(config.attention[place.layer]),
            soft_cap: None,
        };
        Ok(Self { qkv, output, after_attention, up, down, after_mlp, spec, place })
    }

    fn forward(&self, cx: &mut Context<B>, pass: &mut Pass<'_, B>) -> Result<(), DeviceError> {
        let Context { backend, group, activations, adapters } = cx;
        let adapters = &*adapters;
        let StepActivations { residual, normed, qkv, attended, inner, .. } = activations;
        let at = self.place.at;
        let (step, kv) = (KvStep { meta: pass.meta, at }, &mut pass.kv[at.group]);
        backend.linear(residual, &self.qkv, LinearCall::STORE, qkv)?;
        backend.rope_write_kv(step, qkv, self.spec.heads, None, kv)?;
        backend.attention(step, qkv, &self.spec, kv, attended)?;
        self.output.add_to(backend, group, (&*attended, adapters), residual)?;
        backend.layer_norm(residual, self.after_attention.call(), normed)?;
        backend.linear(normed, &self.up, LinearCall::STORE, inner)?;
        backend.gelu(inner)?;
        self.down.add_to(backend, group, (&*inner, adapters), normed)?;
        backend.layer_norm(normed, self.after_mlp.call(), residual)?;
        pass.layer_done(at, &mut cx.backend);
        Ok(())
    }
}
