//! What an encoder for pairs of texts has behind its layers: of the first state one number. It is a
//! few hundred products a pair, so it is done on the host, in `f32`.

use troupe_runtime::model::config::ScoreActivation;

use super::loader::Loader;
use crate::{
    backend::Backend, dtype::Dtype, error::DeviceError, tensor::DenseMatrix, weights::Held,
};

/// `activation(score . tanh(dense * state + bias) + bias)`.
#[derive(Debug)]
pub struct Classifier {
    /// `[hidden][hidden]`, then a bias for each.
    dense: (Vec<f32>, Vec<f32>),
    /// `[hidden]`, then a bias.
    score: (Vec<f32>, Vec<f32>),
    activation: ScoreActivation,
}

impl Classifier {
    /// Loads both products of a model of `hidden` width.
    ///
    /// # Errors
    /// As [`Loader::column_parallel`].
    pub fn load<B: Backend>(
        loader: &mut Loader<'_, B>,
        hidden: usize,
        activation: ScoreActivation,
    ) -> Result<Self, DeviceError> {
        let mut load = |name: &str, outputs: usize| -> Result<_, DeviceError> {
            let weight = loader.reader.matrix(&format!("{name}.weight"), (outputs, hidden))?;
            let bias = loader.reader.vector(&format!("{name}.bias"), outputs)?;
            let elements = outputs * (hidden + 1);
            loader.reader.note(name, Held::Replicated, (elements, Dtype::F32));
            Ok((values(&weight), values(&bias)))
        };
        Ok(Self { dense: load(DENSE, hidden)?, score: load(SCORE, 1)?, activation })
    }

    /// The score of a pair by its first state.
    pub fn score(&self, state: &[f32]) -> f32 {
        let (weight, bias) = &self.dense;
        let rows = weight.chunks_exact(state.len()).zip(bias);
        let dense: Vec<f32> = rows.map(|(row, bias)| (dot(row, state) + bias).tanh()).collect();
        let score = dot(&self.score.0, &dense) + self.score.1.iter().sum::<f32>();
        match self.activation {
            ScoreActivation::Identity => score,
            ScoreActivation::Sigmoid => 1.0 / (1.0 + (-score).exp()),
        }
    }
}

fn values(matrix: &DenseMatrix<'_>) -> Vec<f32> {
    let row = |row| (0..matrix.columns()).map(move |at| matrix.dtype().read(matrix.row(row), at));
    (0..matrix.rows()).flat_map(row).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

const DENSE: &str = "pooler.dense";
const SCORE: &str = "classifier";
