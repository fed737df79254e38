//! The gated feed-forward half of a decoder layer, divided over its inner width.

use troupe_runtime::model::config::ModelConfig;

use super::{
    context::Context,
    linear::RowParallel,
    loader::{Loader, RowPart},
};
use crate::{
    backend::{Backend, LinearCall},
    error::DeviceError,
    weights::Held,
};

/// `down(silu(gate(x)) * up(x))`.
#[derive(Debug)]
pub struct GatedMlp<B: Backend> {
    gate_up: B::Linear,
    down: RowParallel<B>,
}

impl<B: Backend> GatedMlp<B> {
    /// Loads the feed-forward layer of layer `layer`.
    ///
    /// # Errors
    /// As [`Loader::column_parallel`].
    pub fn load(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
        layer: usize,
    ) -> Result<Self, DeviceError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let own = loader.reader.shard().split(inner);
        let part = |part: &str| RowPart {
            name: format!("layers.{layer}.mlp.{part}"),
            rows: inner,
            own: own.clone(),
            held: Held::Sharded,
            bias: config.mlp_bias,
        };
        let gate_up = loader.column_parallel(hidden, &[part("gate_proj"), part("up_proj")])?;
        let down = format!("layers.{layer}.mlp.down_proj");
        let down = RowParallel::load(loader, &down, (hidden, inner), own, config.mlp_bias)?;
        Ok(Self { gate_up, down })
    }

    /// Adds the layer's output for the normed activations to the residual stream.
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Collective`].
    pub fn forward(&self, cx: &mut Context<B>) -> Result<(), DeviceError> {
        let Context { backend, group, activations } = cx;
        let gate_up = &mut activations.gate_up;
        backend.linear(&activations.normed, &self.gate_up, LinearCall::STORE, gate_up)?;
        backend.silu_mul(gate_up, &mut activations.gated)?;
        self.down.add_to(backend, group, &activations.gated, &mut activations.residual)
    }
}
