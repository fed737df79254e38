//! The end of a model: the final norm and the logits, for the rows that asked for them.
//!
//! Each rank computes the logits of its part of the vocabulary; rank 0 gets them all. Usually one
//! row per sequence is asked for, and the logits buffer has room for just that. Prompt
//! log-probabilities ask for every row; those are computed in pieces of the same buffer, because a
//! buffer for a whole chunk of prompt times the vocabulary would be larger than many models.

use troupe_runtime::model::config::ModelConfig;

use super::{context::Context, embedding::VocabularyTable, loader::Loader, norm::RmsNorm};
use crate::{
    backend::{Activations, Backend, LinearCall, StepRows},
    dtype::Dtype,
    error::DeviceError,
    weights::rename,
};

/// What follows a model's last layer.
pub struct Head<B: Backend> {
    norm: RmsNorm<B>,
    /// `None` if the head is the embedding that this rank has anyway.
    own_table: Option<VocabularyTable<B>>,
    /// Within which logits are kept.
    cap: Option<f32>,
    /// Columns of the logits of each rank.
    widths: Vec<usize>,
    normed: B::Buffer,
    logits: B::Buffer,
    values: Vec<f32>,
    rows: Vec<u8>,
}

impl<B: Backend> Head<B> {
    /// Loads norm and head, with room for the logits of `rows` rows at a time. `has_embedding` says
    /// that this rank holds the embedding, so that a tied head needs no copy.
    ///
    /// # Errors
    /// As [`Loader::column_parallel`].
    pub fn load(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
        rows: usize,
        has_embedding: bool,
    ) -> Result<Self, DeviceError> {
        let norm = RmsNorm::load(loader, config, NORM, config.hidden_size)?;
        // Some checkpoints say that they are tied and store the head all the same: the config
        // rules.
        let own_table = match (config.tie_word_embeddings, has_embedding) {
            (true, true) => None,
            (true, false) => Some(VocabularyTable::load_embedding(loader, config)?),
            (false, _)
                if loader.reader.contains_layer(HEAD_LAYER) || loader.reader.is_surveying() =>
            {
                Some(VocabularyTable::load_head(loader, config)?)
            }
            (false, _) => {
                return Err(DeviceError::Weights {
                    path: loader.reader.folder().to_owned(),
                    why: format!(
                        "tensor `{}` is missing, and the config does not tie it to the embedding",
                        rename::HEAD
                    ),
                });
            }
        };
        let shard = loader.reader.shard();
        let rows = loader.backend.pad_rows(rows);
        let dtype = loader.backend.activation_dtype();
        Ok(Self {
            norm,
            own_table,
            cap: config.logit_cap.map(|cap| cap as f32),
            widths: shard.split_all(config.vocab_size).map(|run| run.len()).collect(),
            normed: loader.backend.alloc(rows, config.hidden_size, dtype)?,
            logits: loader.backend.alloc(rows, shard.split(config.vocab_size).len(), Dtype::F32)?,
            values: Vec::new(),
            rows: Vec::new(),
        })
    }

    /// Appends the logits that the step asks for to `logits` (at rank 0 of the stage; other ranks
    /// append nothing). `embedding` is this rank's, if it has one.
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Collective`].
    pub fn forward(
        &mut self,
        cx: &mut Context<B>,
        meta: &B::StepMeta,
        embedding: Option<&VocabularyTable<B>>,
        logits: &mut Vec<f32>,
    ) -> Result<(), DeviceError> {
        let (total, at_once) = (meta.logit_rows(), self.normed.capacity());
        if total == 0 {
            return Ok(());
        }
        let Context { backend, activations, .. } = cx;
        backend.gather_logit_rows(meta, &activations.residual, &mut activations.normed)?;
        if total <= at_once {
            return self.project(cx, embedding, logits);
        }
        let (dtype, columns) = (activations.normed.dtype(), activations.normed.columns());
        let mut rows = std::mem::take(&mut self.rows);
        backend.download(&activations.normed, 0..columns, &mut rows)?;
        for piece in rows.chunks(at_once * columns * dtype.size()) {
            let count = piece.len() / (columns * dtype.size());
            let normed = &mut cx.activations.normed;
            cx.backend.upload(normed, count, 0..columns, piece)?;
            self.project(cx, embedding, logits)?;
        }
        self.rows = rows;
        Ok(())
    }

    /// Norm, product and gathering of the rows that were put aside.
    fn project(
        &mut self,
        cx: &mut Context<B>,
        embedding: Option<&VocabularyTable<B>>,
        logits: &mut Vec<f32>,
    ) -> Result<(), DeviceError> {
        let Some(table) = self.own_table.as_ref().or(embedding) else {
            return Err(DeviceError::Contract("a tied head without its embedding".to_owned()));
        };
        let Context { backend, group, activations, .. } = cx;
        backend.rms_norm(&activations.normed, self.norm.call(), &mut self.normed)?;
        backend.linear(&self.normed, &table.weight, LinearCall::STORE, &mut self.logits)?;
        if let Some(cap) = self.cap {
            backend.soft_cap(&mut self.logits, cap)?;
        }
        backend.download_f32(&self.logits, &mut self.values)?;
        group.gather_columns(&self.values, &self.widths, logits)
    }
}

/// The norm behind a decoder's last layer.
pub const NORM: &str = "norm.weight";
const HEAD_LAYER: &str = "lm_head";
