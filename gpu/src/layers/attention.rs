//! Attention of this rank's heads: fused query, key and value product, rotary embedding, KV, and
//! the output product that is summed over ranks.

use std::ops::Range;

use troupe_runtime::model::config::{AttentionSpan, ModelConfig};

use super::{
    context::{Context, Pass},
    linear::RowParallel,
    loader::{Loader, RowPart},
    norm::RmsNorm,
};
use crate::{
    backend::{Backend, KvStep, LinearCall},
    error::DeviceError,
    shape::{AttentionMask, AttentionSpec, HeadShape, KvAt},
    weights::{Held, Shard},
};

/// One layer's attention.
#[derive(Debug)]
pub struct Attention<B: Backend> {
    qkv: B::Linear,
    query_norm: Option<RmsNorm<B>>,
    key_norm: Option<RmsNorm<B>>,
    output: RowParallel<B>,
    spec: AttentionSpec,
    at: KvAt,
}

/// This rank's heads.
///
/// # Errors
/// [`DeviceError::Unsupported`] if the model's heads cannot be divided like this.
pub fn head_shape(config: &ModelConfig, shard: Shard) -> Result<HeadShape, DeviceError> {
    let share = shard.heads(config.num_heads, config.num_kv_heads)?;
    Ok(HeadShape {
        query_heads: share.query.len(),
        kv_heads: share.kv.len(),
        head_dim: config.head_dim,
    })
}

/// A config's word for how far a layer looks back, as backends say it.
pub fn mask(span: AttentionSpan) -> AttentionMask {
    match span {
        AttentionSpan::Full => AttentionMask::Causal,
        AttentionSpan::Window(width) => AttentionMask::Window(width),
    }
}

impl<B: Backend> Attention<B> {
    /// Loads the attention of layer `layer`, whose KV is at `at`.
    ///
    /// # Errors
    /// As [`Loader::column_parallel`].
    pub fn load(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
        layer: usize,
        at: KvAt,
    ) -> Result<Self, DeviceError> {
        let name = |part: &str| format!("layers.{layer}.self_attn.{part}");
        let (hidden, dim) = (config.hidden_size, config.head_dim);
        let shard = loader.reader.shard();
        let share = shard.heads(config.num_heads, config.num_kv_heads)?;
        let elements = |heads: &Range<usize>| heads.start * dim..heads.end * dim;
        let kv_held = if share.kv_replicated { Held::Replicated } else { Held::Sharded };
        let part = |part: &str, heads: usize, own: &Range<usize>, held: Held| RowPart {
            name: name(part),
            rows: heads * dim,
            own: elements(own),
            held,
            bias: config.qkv_bias,
        };
        let parts = [
            part("q_proj", config.num_heads, &share.query, Held::Sharded),
            part("k_proj", config.num_kv_heads, &share.kv, kv_held),
            part("v_proj", config.num_kv_heads, &share.kv, kv_held),
        ];
        let qkv = loader.column_parallel(hidden, &parts)?;
        let mut head_norm = |part: &str| {
            let load = || RmsNorm::load(loader, &name(part), dim, config.rms_norm_eps);
            config.qk_norm.then(load).transpose()
        };
        let (query_norm, key_norm) = (head_norm("q_norm.weight")?, head_norm("k_norm.weight")?);
        let (output, shape) = (name("o_proj"), (hidden, config.num_heads * dim));
        let columns = elements(&share.query);
        Ok(Self {
            qkv,
            query_norm,
            key_norm,
            output: RowParallel::load(loader, &output, shape, columns, config.output_bias)?,
            spec: AttentionSpec {
                heads: head_shape(config, shard)?,
                scale: (1.0 / (dim as f64).sqrt()) as f32,
                mask: mask(config.attention[layer]),
                soft_cap: None,
            },
            at,
        })
    }

    /// Adds attention over the normed activations to the residual stream.
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Collective`].
    pub fn forward(&self, cx: &mut Context<B>, pass: &mut Pass<'_, B>) -> Result<(), DeviceError> {
        let Context { backend, group, activations } = cx;
        let qkv = &mut activations.qkv;
        backend.linear(&activations.normed, &self.qkv, LinearCall::STORE, qkv)?;
        let heads = self.spec.heads;
        let (keys, values) = (heads.query_columns(), heads.query_columns() + heads.kv_columns());
        if let Some(norm) = &self.query_norm {
            backend.head_rms_norm(qkv, 0..keys, norm.call())?;
        }
        if let Some(norm) = &self.key_norm {
            backend.head_rms_norm(qkv, keys..values, norm.call())?;
        }
        let step = KvStep { meta: pass.meta, at: self.at };
        let kv = &mut pass.kv[self.at.group];
        backend.rope_write_kv(step, qkv, heads, Some(pass.rotary.tables()), kv)?;
        backend.attention(step, qkv, &self.spec, kv, &mut activations.attended)?;
        self.output.add_to(backend, group, &activations.attended, &mut activations.residual)
    }
}
