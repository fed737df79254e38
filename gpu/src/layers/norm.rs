//! Norms with their weights, which every rank has whole.

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
    /// Loads the `size` weights `name`.
    ///
    /// # Errors
    /// As [`Loader::vector`].
    pub fn load(
        loader: &mut Loader<'_, B>,
        name: &str,
        size: usize,
        epsilon: f64,
    ) -> Result<Self, DeviceError> {
        Ok(Self { weight: loader.vector(name, size)?, epsilon: epsilon as f32 })
    }

    /// As the backend wants it.
    pub fn call(&self) -> Norm<'_, B> {
        Norm { weight: &self.weight, epsilon: self.epsilon }
    }
}
