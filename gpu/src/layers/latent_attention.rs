//! Latent attention of this rank's heads: queries, perhaps by way of a shorter row; the row that
//! each position leaves behind for all heads; and the output product that is summed over ranks.
//!
//! Heads are divided over ranks, rows are not: every rank computes and keeps all of each row.

use troupe_runtime::model::config::{Latent, ModelConfig};

use super::{
    context::{Context, Pass},
    linear::RowParallel,
    loader::{Loader, RowPart},
    norm::RmsNorm,
};
use crate::{
    backend::{Backend, KvStep, LatentCall, LinearCall, PreparedLinear},
    error::DeviceError,
    shape::{KvAt, LatentShape},
    weights::{Held, Shard},
};

/// One layer's latent attention.
#[derive(Debug)]
pub struct LatentAttention<B: Backend> {
    queries: Queries<B>,
    row: B::Linear,
    row_norm: RmsNorm<B>,
    absorb: Vec<B::Linear>,
    expand: Vec<B::Linear>,
    output: RowParallel<B>,
    shape: LatentShape,
    scale: f32,
    at: KvAt,
}

#[derive(Debug)]
enum Queries<B: Backend> {
    /// One product.
    Whole(B::Linear),
    /// A product to a shorter row, a norm, a product to heads.
    Compressed(B::Linear, RmsNorm<B>, B::Linear),
}

/// This rank's heads.
///
/// # Errors
/// [`DeviceError::Unsupported`] if the model's heads cannot be divided like this.
pub fn latent_shape(
    config: &ModelConfig,
    latent: &Latent,
    shard: Shard,
) -> Result<LatentShape, DeviceError> {
    Ok(LatentShape {
        heads: shard.heads(config.num_heads, config.num_kv_heads)?.query.len(),
        rank: latent.rank,
        nope_dim: latent.nope_dim,
        rope_dim: latent.rope_dim,
        value_dim: latent.value_dim,
        interleaved: latent.interleaved,
    })
}

impl<B: Backend> LatentAttention<B> {
    /// Loads the attention of layer `layer`, whose KV is at `at`.
    ///
    /// # Errors
    /// As [`Loader::column_parallel`].
    pub fn load(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
        latent: &Latent,
        (layer, at): (usize, KvAt),
    ) -> Result<Self, DeviceError> {
        let name = |part: &str| format!("layers.{layer}.self_attn.{part}");
        let hidden = config.hidden_size;
        let shape = latent_shape(config, latent, loader.reader.shard())?;
        let heads = loader.reader.shard().heads(config.num_heads, config.num_kv_heads)?.query;
        let whole = |part: &str, rows: usize| RowPart {
            name: name(part),
            rows,
            own: 0..rows,
            held: Held::Replicated,
            bias: false,
        };
        let query = |part: &str| RowPart {
            name: name(part),
            rows: config.num_heads * shape.query_dim(),
            own: heads.start * shape.query_dim()..heads.end * shape.query_dim(),
            held: Held::Sharded,
            bias: false,
        };
        let norm = |loader: &mut Loader<'_, B>, part: &str, size| {
            let norm = RmsNorm::load(loader, config, &name(part), size)?;
            Ok::<_, DeviceError>(norm.with_epsilon(LATENT_EPSILON))
        };
        let queries = match latent.query_rank {
            None => Queries::Whole(loader.column_parallel(hidden, &[query("q_proj")])?),
            Some(rank) => Queries::Compressed(
                loader.column_parallel(hidden, &[whole("q_a_proj", rank)])?,
                norm(loader, "q_a_layernorm.weight", rank)?,
                loader.column_parallel(rank, &[query("q_b_proj")])?,
            ),
        };
        let row = [whole("kv_a_proj_with_mqa", shape.width())];
        let row = loader.column_parallel(hidden, &row)?;
        let row_norm = norm(loader, "kv_a_layernorm.weight", shape.rank)?;
        // Of each head the rows that make keys, then those that make values.
        let (keys, values) = (shape.nope_dim, shape.value_dim);
        let all = config.num_heads * (keys + values);
        let (mut absorb, mut expand) = (Vec::new(), Vec::new());
        for head in heads.clone() {
            let first = head * (keys + values);
            let (name, shape) = (name("kv_b_proj"), (all, shape.rank));
            absorb.push(loader.transposed(&name, shape, first..first + keys)?);
            let own = first + keys..first + keys + values;
            let part = RowPart { name, rows: all, own, held: Held::Sharded, bias: false };
            expand.push(loader.column_parallel(latent.rank, &[part])?);
        }
        let output = (hidden, config.num_heads * values);
        let columns = heads.start * values..heads.end * values;
        Ok(Self {
            queries,
            row,
            row_norm,
            absorb,
            expand,
            output: RowParallel::load(loader, &name("o_proj"), output, columns, false)?,
            shape,
            scale: config.attention_scale as f32,
            at,
        })
    }

    /// Adds attention over the normed activations to the residual stream.
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Collective`].
    pub fn forward(&self, cx: &mut Context<B>, pass: &mut Pass<'_, B>) -> Result<(), DeviceError> {
        let Context { backend, group, activations, adapters } = cx;
        let (normed, query) = (&activations.normed, &mut activations.qkv);
        match &self.queries {
            Queries::Whole(product) => {
                backend.linear(normed, product, LinearCall::STORE, query)?;
            }
            Queries::Compressed(shorten, norm, lengthen) => {
                let short = &mut activations.compressed;
                let columns = 0..lengthen.in_features();
                backend.linear(normed, shorten, LinearCall::STORE, short)?;
                backend.head_rms_norm(short, columns, norm.call())?;
                backend.linear(short, lengthen, LinearCall::STORE, query)?;
            }
        }
        let rows = &mut activations.latent;
        backend.linear(normed, &self.row, LinearCall::STORE, rows)?;
        backend.head_rms_norm(rows, 0..self.shape.rank, self.row_norm.call())?;
        let step = KvStep { meta: pass.meta, at: self.at };
        let kv = &mut pass.kv[self.at.group];
        let call = LatentCall {
            shape: self.shape,
            scale: self.scale,
            rope: pass.rotary.tables(false),
            absorb: &self.absorb,
            expand: &self.expand,
        };
        backend.write_latent(step, query, rows, call, kv)?;
        backend.latent_attention(step, query, call, kv, &mut activations.attended)?;
        let input = (&activations.attended, &*adapters);
        self.output.add_to(backend, group, input, &mut activations.residual)
    }
}

/// Of the norms of shorter rows, whatever the model's other norms have.
const LATENT_EPSILON: f32 = 1e-6;
