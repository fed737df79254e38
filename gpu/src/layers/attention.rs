//! Attention of this rank's heads: fused query, key and value product, rotary embedding, KV, and
//! the output product that is summed over ranks.

use std::ops::Range;

use troupe_runtime::model::config::{AttentionSpan, ModelConfig};

use super::{
    context::{Context, Pass},
    linear::{ColumnParallel, RowParallel},
    loader::{Loader, RowPart},
    norm::RmsNorm,
};
use crate::{
    backend::{Backend, KvStep},
    error::DeviceError,
    shape::{AttentionMask, AttentionSpec, HeadShape, KvAt},
    weights::{Held, Shard},
};

/// One layer's attention.
#[derive(Debug)]
pub struct Attention<B: Backend> {
    qkv: ColumnParallel<B>,
    query_norm: Option<RmsNorm<B>>,
    key_norm: Option<RmsNorm<B>>,
    output: RowParallel<B>,
    spec: AttentionSpec,
    /// Whether the layer looks back over a window, and so which rotation it has.
    windowed: bool,
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
        AttentionSpan::Both => AttentionMask::Bidirectional,
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
        let (queries, values) = (config.num_heads, config.num_kv_heads);
        let fused = queries + 2 * values;
        // With one matrix for all, where the heads of each kind begin in it.
        let part = |part: &str, heads: usize, before: usize, own: &Range<usize>, held: Held| {
            let (part, heads, first) = match config.fused_projections {
                true => ("qkv_proj", fused, before * dim),
                false => (part, heads, 0),
            };
            let own = elements(own);
            let own = first + own.start..first + own.end;
            RowPart { name: name(part), rows: heads * dim, own, held, bias: config.qkv_bias }
        };
        let parts = [
            part("q_proj", queries, 0, &share.query, Held::Sharded),
            part("k_proj", values, queries, &share.kv, kv_held),
            part("v_proj", values, queries + values, &share.kv, kv_held),
        ];
        let qkv = ColumnParallel::load(loader, hidden, &parts)?;
        let mut head_norm = |part: &str| {
            let load = || RmsNorm::load(loader, config, &name(part), dim);
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
                scale: config.attention_scale as f32,
                mask: mask(config.attention[layer]),
                soft_cap: config.attention_cap.map(|cap| cap as f32),
            },
            windowed: config.attention[layer] != AttentionSpan::Full,
            at,
        })
    }

    /// Adds attention over the normed activations to the residual stream.
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Collective`].
    pub fn forward(&self, cx: &mut Context<B>, pass: &mut Pass<'_, B>) -> Result<(), DeviceError> {
        self.attend(cx, pass)?;
        let Context { backend, group, activations, adapters } = cx;
        let input = (&activations.attended, &*adapters);
        self.output.add_to(backend, group, input, &mut activations.residual)
    }

    /// Puts the same into the branch.
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Collective`].
    pub fn forward_to_branch(
        &self,
        cx: &mut Context<B>,
        pass: &mut Pass<'_, B>,
    ) -> Result<(), DeviceError> {
        self.attend(cx, pass)?;
        let Context { backend, group, activations, adapters } = cx;
        let input = (&activations.attended, &*adapters);
        self.output.store(backend, group, input, &mut activations.branch)
    }

    /// Everything but the output product.
    fn attend(&self, cx: &mut Context<B>, pass: &mut Pass<'_, B>) -> Result<(), DeviceError> {
        let Context { backend, activations, adapters, .. } = cx;
        let qkv = &mut activations.qkv;
        self.qkv.store(backend, adapters, &activations.normed, qkv)?;
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
        let rope = pass.rotary.tables(self.windowed);
        backend.rope_write_kv(step, qkv, heads, Some(rope), kv)?;
        backend.attention(step, qkv, &self.spec, kv, &mut activations.attended)
    }
}
