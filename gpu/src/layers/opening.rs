//! What an encoder does with the embeddings of its tokens before the first layer: where each token
//! stands and which text of a pair it is of are rows to be added, and the sum is normed.
//!
//! Every rank has these tables whole: they are a few hundred rows.

use troupe_runtime::model::config::Encoder;

use super::{
    context::{Context, StepActivations},
    loader::Loader,
    norm::LayerNorm,
};
use crate::{
    backend::Backend, dtype::Dtype, error::DeviceError, tensor::DenseMatrix, weights::Held,
};

/// The tables behind the embedding, and the norm.
#[derive(Debug)]
pub struct Opening<B: Backend> {
    /// A row for each position, with that of the first text's type in it: there is no second text.
    positions: B::Linear,
    norm: LayerNorm<B>,
}

/// What the tables of a family are called.
#[derive(Clone, Copy, Debug)]
pub struct OpeningNames {
    /// Rows by position.
    pub positions: &'static str,
    /// Rows by the text of a pair.
    pub types: &'static str,
    /// The norm.
    pub norm: &'static str,
}

impl<B: Backend> Opening<B> {
    /// Loads tables of `(positions, hidden)` elements.
    ///
    /// # Errors
    /// As [`Loader::column_parallel`].
    pub fn load(
        loader: &mut Loader<'_, B>,
        names: OpeningNames,
        (positions, hidden): (usize, usize),
        encoder: Encoder,
        epsilon: f64,
    ) -> Result<Self, DeviceError> {
        let table = loader.reader.matrix(names.positions, (positions, hidden))?;
        let types = loader.reader.matrix(names.types, (encoder.token_types, hidden))?;
        let norm = LayerNorm::load(loader, names.norm, hidden, epsilon)?;
        let mut bytes = Vec::with_capacity(positions * hidden * Dtype::F32.size());
        let first = types.row(0);
        // A survey looks for tensors and needs none of their sums.
        let rows = if loader.reader.is_surveying() { 1 } else { positions };
        for position in 0..rows {
            let row = table.row(position);
            (0..hidden).for_each(|at| {
                let sum = table.dtype().read(row, at) + types.dtype().read(first, at);
                Dtype::F32.write(&mut bytes, sum);
            });
        }
        let elements = positions * hidden;
        loader.reader.note(names.positions, Held::Replicated, (elements, Dtype::F32));
        let sums = DenseMatrix::new(bytes, Dtype::F32, (rows, hidden))?;
        Ok(Self { positions: loader.exact_table(sums)?, norm })
    }

    /// From embeddings to what enters the first layer.
    ///
    /// # Errors
    /// The backend's.
    pub fn apply(&self, cx: &mut Context<B>, meta: &B::StepMeta) -> Result<(), DeviceError> {
        let StepActivations { residual, normed, .. } = &mut cx.activations;
        cx.backend.embed_positions(meta, &self.positions, normed)?;
        cx.backend.add(residual, normed)?;
        cx.backend.layer_norm(normed, self.norm.call(), residual)
    }
}
