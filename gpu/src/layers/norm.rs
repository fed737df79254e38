//! Norms with their weights, which every rank has whole.

use troupe_runtime::model::config::ModelConfig;

use super::loader::Loader;
use crate::{
    backend::{Backend, Norm},
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
