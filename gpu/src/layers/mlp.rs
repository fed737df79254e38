//! The gated feed-forward half of a decoder layer, divided over its inner width.

use troupe_runtime::model::config::{Activation, ModelConfig};

use super::{
    context::{Context, Gated, StepActivations},
    linear::{ColumnParallel, RowParallel},
    loader::{Loader, RowPart},
};
use crate::{backend::Backend, error::DeviceError, lora::Bank, weights::Held};

/// `down(activation(gate(x)) * up(x))`.
#[derive(Debug)]
pub struct GatedMlp<B: Backend> {
    gate_up: ColumnParallel<B>,
    activation: Activation,
    down: RowParallel<B>,
}

impl<B: Backend> GatedMlp<B> {
    /// Loads the feed-forward layer `name`, such as `layers.0.mlp`, of `inner` width.
    ///
    /// # Errors
    /// As [`Loader::column_parallel`].
    pub fn load(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
        name: &str,
        inner: usize,
    ) -> Result<Self, DeviceError> {
        let hidden = config.hidden_size;
        let own = loader.reader.shard().split(inner);
        let part = |part: &str, rows: usize, first: usize| RowPart {
            name: format!("{name}.{part}"),
            rows,
            own: first + own.start..first + own.end,
            held: Held::Sharded,
            bias: config.mlp_bias,
        };
        let parts = match config.fused_projections {
            false => [part("gate_proj", inner, 0), part("up_proj", inner, 0)],
            true => {
                let name = "gate_up_proj";
                [part(name, 2 * inner, 0), part(name, 2 * inner, inner)]
            }
        };
        let gate_up = ColumnParallel::load(loader, hidden, &parts)?;
        let down = format!("{name}.down_proj");
        let down = RowParallel::load(loader, &down, (hidden, inner), own, config.mlp_bias)?;
        Ok(Self { gate_up, activation: config.activation, down })
    }

    /// Adds the layer's output for the normed activations to the residual stream.
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Collective`].
    pub fn forward(&self, cx: &mut Context<B>) -> Result<(), DeviceError> {
        let Context { backend, group, activations, adapters } = cx;
        let adapters = &*adapters;
        let StepActivations { normed, gated, residual, .. } = activations;
        self.gate(backend, (&*normed, adapters), gated)?;
        self.down.add_to(backend, group, (&gated.gated, adapters), residual)
    }

    /// Puts the same into the branch.
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Collective`].
    pub fn forward_to_branch(&self, cx: &mut Context<B>) -> Result<(), DeviceError> {
        let Context { backend, group, activations, adapters } = cx;
        let adapters = &*adapters;
        let StepActivations { normed, gated, branch, .. } = activations;
        self.gate(backend, (&*normed, adapters), gated)?;
        self.down.store(backend, group, (&gated.gated, adapters), branch)
    }

    /// Everything but the last product.
    ///
    /// # Errors
    /// The backend's.
    pub fn gate(
        &self,
        backend: &mut B,
        (normed, adapters): (&B::Buffer, &Bank<B>),
        Gated { gate_up, gated }: &mut Gated<B>,
    ) -> Result<(), DeviceError> {
        self.gate_up.store(backend, adapters, normed, gate_up)?;
        match self.activation {
            Activation::Gelu => Err(DeviceError::Unsupported("gates of exact GELUs".to_owned())),
            Activation::GeluTanh => backend.gelu_mul(gate_up, gated),
            Activation::Silu => backend.silu_mul(gate_up, gated),
        }
    }

    /// The last product.
    pub fn down(&self) -> &RowParallel<B> {
        &self.down
    }
}
