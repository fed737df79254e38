//! Norms with their weights, which every rank has whole.

use troupe_runtime::model::config::ModelConfig;

use super::loader::Loader;
use crate::{
    backend::{self, Backend, Norm},
    error::DeviceError,
};

/// Root-mean-square norm.
#[derive(Debug)]
pub struct RmsNorm<B: Backend> {
    weight: B::Vector,
    epsilon: f32,
}

impl<B: Backend> RmsNorm<B> {
    /// Loads the `size` weights `name` as the model has its norms.
    ///
    /// # Errors
    /// As [`Loader::vector`].
    pub fn load(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
        name: &str,
        size: usize,
    ) -> Result<Self, DeviceError> {
        let weight = match config.norms_from_one {
            true => loader.vector_from_one(name, size)?,
            false => loader.vector(name, size)?,
        };
        Ok(Self { weight, epsilon: config.rms_norm_eps as f32 })
    }

    /// The same with another epsilon.
    #[must_use]
    pub fn with_epsilon(self, epsilon: f32) -> Self {
        Self { epsilon, ..self }
    }

    /// As the backend wants it.
    pub fn call(&self) -> Norm<'_, B> {
        Norm { weight: &self.weight, epsilon: self.epsilon }
    }
}

/// Layer norm: without the row's mean, and with a bias.
#[derive(Debug)]
pub struct LayerNorm<B: Backend> {
    weight: B::Vector,
    bias: B::Vector,
    epsilon: f32,
}

impl<B: Backend> LayerNorm<B> {
    /// Loads the norm `name` of `size` elements. What was converted from TensorFlow says gamma and
    /// beta for weight and bias.
    ///
    /// # Errors
    /// As [`Loader::vector`].
    pub fn load(
        loader: &mut Loader<'_, B>,
        name: &str,
        size: usize,
        epsilon: f64,
    ) -> Result<Self, DeviceError> {
        let (weight, bias) = match loader.reader.contains(&format!("{name}.gamma")) {
            true => ("gamma", "beta"),
            false => ("weight", "bias"),
        };
        Ok(Self {
            weight: loader.vector(&format!("{name}.{weight}"), size)?,
            bias: loader.vector(&format!("{name}.{bias}"), size)?,
            epsilon: epsilon as f32,
        })
    }

    /// As the backend wants it.
    pub fn call(&self) -> backend::LayerNorm<'_, B> {
        backend::LayerNorm { weight: &self.weight, bias: &self.bias, epsilon: self.epsilon }
    }
}
