//! The token embedding, divided over the vocabulary: a rank has the rows of its tokens and gives
//! zeros for others, so the sum over ranks is the row itself, to the bit.

use troupe_runtime::model::config::ModelConfig;

use super::{
    context::Context,
    loader::{Loader, RowPart},
};
use crate::{
    backend::Backend,
    error::DeviceError,
    tensor::Quantize,
    weights::{Held, rename},
};

/// This rank's part of a table with a row for each token.
#[derive(Debug)]
pub struct VocabularyTable<B: Backend> {
    /// The rows, usable as a product's weights too.
    pub weight: B::Linear,
    /// The token of the first row.
    pub first_token: u32,
    /// What embeddings are multiplied by.
    scale: Option<f32>,
}

impl<B: Backend> VocabularyTable<B> {
    /// Loads the embedding.
    ///
    /// # Errors
    /// As [`Loader::column_parallel`].
    pub fn load_embedding(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
    ) -> Result<Self, DeviceError> {
        let name = match config.encoder {
            Some(_) => rename::WORDS,
            None => rename::EMBEDDING,
        };
        Self::load(loader, config, name)
    }

    /// Loads the output head of a model that has one of its own.
    ///
    /// # Errors
    /// As [`Loader::column_parallel`].
    pub fn load_head(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
    ) -> Result<Self, DeviceError> {
        Self::load(loader, config, rename::HEAD)
    }

    fn load(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
        name: &str,
    ) -> Result<Self, DeviceError> {
        let own = loader.reader.shard().split(config.vocab_size);
        let first_token = u32::try_from(own.start).map_err(|_| {
            DeviceError::Unsupported(format!("a vocabulary of {}", config.vocab_size))
        })?;
        let part = RowPart {
            name: name.trim_end_matches(".weight").to_owned(),
            rows: config.vocab_size,
            own,
            held: Held::Sharded,
            bias: false,
        };
        // What a token is and which comes next suffers most from four bits, and is a small part of
        // all bytes.
        let quantize = loader.quantize;
        loader.quantize = quantize.map(|_| Quantize::Int8);
        let weight = loader.column_parallel(config.hidden_size, &[part]);
        loader.quantize = quantize;
        let scale = config.embedding_scale.map(|scale| scale as f32);
        Ok(Self { weight: weight?, first_token, scale })
    }

    /// Makes the residual stream the embeddings of the step's tokens.
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Collective`].
    pub fn embed(&self, cx: &mut Context<B>, meta: &B::StepMeta) -> Result<(), DeviceError> {
        let residual = &mut cx.activations.residual;
        cx.backend.embed(meta, &self.weight, self.first_token, residual)?;
        cx.group.all_reduce(&mut cx.backend, residual)?;
        self.scale.map_or(Ok(()), |scale| cx.backend.scale(residual, scale))
    }
}
