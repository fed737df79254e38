//! What an encoder does with the embeddings of its tokens before the first layer: where each token
//! stands and which text of a pair it is of are rows to be added, and the sum is normed.
//!
//! Every rank has these tables whole: they are a few hundred rows. Both become one, of sums, with
//! the positions of a first text and, where the model reads pairs, those of a second one behind
//! them.

use troupe_runtime::model::config::ModelConfig;

use super::{
    context::{Context, StepActivations},
    loader::Loader,
    norm::LayerNorm,
};
use crate::{
    backend::Backend, dtype::Dtype, error::DeviceError, executor::StepBatch, tensor::DenseMatrix,
    weights::Held,
};

/// The tables behind the embedding, and the norm.
#[derive(Debug)]
pub struct Opening<B: Backend> {
    /// `[texts of a pair][positions]`, each the row of its position and that of its text.
    table: B::Linear,
    positions: u32,
    /// Behind this token the second text of a pair begins, if the model reads pairs.
    separator: Option<u32>,
    norm: LayerNorm<B>,
    rows: Vec<u32>,
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
    /// Loads the tables of a model whose texts are pairs if there is a `separator`; `types` is how
    /// many texts the files tell apart.
    ///
    /// # Errors
    /// As [`Loader::column_parallel`].
    pub fn load(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
        names: OpeningNames,
        (types, separator): (usize, Option<u32>),
    ) -> Result<Self, DeviceError> {
        let (positions, hidden) = (config.max_position_embeddings, config.hidden_size);
        let by_position = loader.reader.matrix(names.positions, (positions, hidden))?;
        let by_text = loader.reader.matrix(names.types, (types, hidden))?;
        let norm = LayerNorm::load(loader, names.norm, hidden, config.rms_norm_eps)?;
        let texts = if separator.is_some() { types.min(2) } else { 1 };
        // A survey looks for tensors and needs none of their sums.
        let (texts, rows) = if loader.reader.is_surveying() { (1, 1) } else { (texts, positions) };
        let mut bytes = Vec::with_capacity(texts * rows * hidden * Dtype::F32.size());
        for (text, position) in (0..texts).flat_map(|text| (0..rows).map(move |row| (text, row))) {
            let (row, more) = (by_position.row(position), by_text.row(text));
            (0..hidden).for_each(|at| {
                let sum = by_position.dtype().read(row, at) + by_text.dtype().read(more, at);
                Dtype::F32.write(&mut bytes, sum);
            });
        }
        let elements = texts * rows * hidden;
        loader.reader.note(names.positions, Held::Replicated, (elements, Dtype::F32));
        let sums = DenseMatrix::new(bytes, Dtype::F32, (texts * rows, hidden))?;
        let table = loader.exact_table(sums)?;
        let separator = separator.filter(|_| texts > 1);
        // A table of positions has far fewer rows than a u32 counts.
        Ok(Self { table, positions: positions as u32, separator, norm, rows: Vec::new() })
    }

    /// From embeddings to what enters the first layer.
    ///
    /// # Errors
    /// The backend's.
    pub fn apply(&mut self, cx: &mut Context<B>, batch: &StepBatch) -> Result<(), DeviceError> {
        self.rows.clear();
        for text in &batch.sequences {
            let own = text.row as usize..(text.row + text.count) as usize;
            let mut first = 0;
            for (token, position) in batch.tokens[own.clone()].iter().zip(&batch.positions[own]) {
                self.rows.push(first + position);
                if self.separator == Some(*token) {
                    first = self.positions;
                }
            }
        }
        let StepActivations { residual, normed, .. } = &mut cx.activations;
        cx.backend.embed_rows(&self.rows, &self.table, normed)?;
        cx.backend.add(residual, normed)?;
        cx.backend.layer_norm(normed, self.norm.call(), residual)
    }
}
