//! The end of a model that is run for embeddings: of the states of each text's tokens, one vector
//! for the text, or of a pair of texts one number. It stands where others have their head.
//!
//! States leave the device and are pooled on the host, in `f32`, a text's rows in their order, so
//! that no other text of the step and no division of the model has a part in the sum. What is left
//! to do with a vector (cut it, divide it by its length) depends on who asked, and is done where
//! that is known.

use troupe_runtime::model::{config::ModelConfig, pooling::PoolingKind};

use super::{classifier::Classifier, context::Context, head, loader::Loader, norm::RmsNorm};
use crate::{
    backend::{Activations, Backend},
    error::DeviceError,
    executor::{LogitRows, StepBatch},
};

/// What follows a model's last layer, if it is run for embeddings.
#[derive(Debug)]
pub struct Pooler<B: Backend> {
    /// Of decoders; an encoder's layers end with one.
    norm: Option<RmsNorm<B>>,
    kind: PoolingKind,
    classifier: Option<Classifier>,
    width: usize,
    /// Whether every state has seen the whole text, which then must be in one step.
    sees_all: bool,
    states: Vec<u8>,
}

impl<B: Backend> Pooler<B> {
    /// Loads what there is to load.
    ///
    /// # Errors
    /// As [`Loader::vector`].
    pub fn load(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
        kind: PoolingKind,
    ) -> Result<Self, DeviceError> {
        let sees_all = config.encoder.is_some();
        let load = || RmsNorm::load(loader, config, head::NORM, config.hidden_size);
        let norm = (!sees_all).then(load).transpose()?;
        let activation = config.encoder.and_then(|encoder| encoder.classifier);
        let classifier = match (kind, activation) {
            (PoolingKind::Score, Some(activation)) => {
                Some(Classifier::load(loader, config.hidden_size, activation)?)
            }
            (PoolingKind::Score, None) => {
                let why = format!("scores of {}, which has no classifier", config.architecture);
                return Err(DeviceError::Unsupported(why));
            }
            _ => None,
        };
        let width = if classifier.is_some() { 1 } else { config.hidden_size };
        Ok(Self { norm, kind, classifier, width, sees_all, states: Vec::new() })
    }

    /// Elements of what comes of a text.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Appends a vector for each text whose logits the batch asks for, and says how many these are.
    /// Only rank 0 of a stage does so; others have the same states and are asked by nobody.
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Contract`] if a text that must be whole is not.
    pub fn forward(
        &mut self,
        cx: &mut Context<B>,
        batch: &StepBatch,
        vectors: &mut Vec<f32>,
    ) -> Result<usize, DeviceError> {
        let asked = || batch.sequences.iter().filter(|text| text.logits != LogitRows::None);
        let whole = self.sees_all || self.kind.needs_all();
        if let Some(cut) = asked().find(|text| whole && text.computed > 0) {
            let why = format!("sequence {} is pooled from position {}", cut.sequence, cut.computed);
            return Err(DeviceError::Contract(why));
        }
        let count = asked().count();
        if count == 0 || !cx.group.shard().is_first() {
            return Ok(count);
        }
        let Context { backend, activations, .. } = cx;
        let states = match &self.norm {
            None => &activations.residual,
            Some(norm) => {
                backend.rms_norm(&activations.residual, norm.call(), &mut activations.normed)?;
                &activations.normed
            }
        };
        let (columns, dtype) = (states.columns(), states.dtype());
        backend.download(states, 0..columns, &mut self.states)?;
        vectors.reserve(count * self.width);
        for text in asked() {
            let (first, rows) = (text.row as usize, text.count as usize);
            let taken = match self.kind {
                PoolingKind::Cls | PoolingKind::Score => first..first + 1,
                PoolingKind::Last => first + rows - 1..first + rows,
                PoolingKind::Mean => first..first + rows,
            };
            let bytes = taken.start * columns * dtype.size()..taken.end * columns * dtype.size();
            let Some(bytes) = self.states.get(bytes) else {
                let why = format!("sequence {} has rows that the step has not", text.sequence);
                return Err(DeviceError::Contract(why));
            };
            let divisor = taken.len() as f32;
            let pooled = (0..columns).map(|column| {
                let states = (0..taken.len()).map(|row| dtype.read(bytes, row * columns + column));
                states.sum::<f32>() / divisor
            });
            match &self.classifier {
                None => vectors.extend(pooled),
                Some(classifier) => {
                    let state: Vec<f32> = pooled.collect();
                    vectors.push(classifier.score(&state));
                }
            }
        }
        Ok(count)
    }
}
