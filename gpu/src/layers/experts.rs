//! A feed-forward half of experts, of which each token uses a few, and of a part that all use.
//!
//! Every rank has its share of every expert's inner width, so that all have the same work; or, with
//! expert parallelism, its share of the experts, each whole, so that products stay as wide as they
//! are. Either way each rank computes the same choice, and what experts and the shared part give is
//! summed over ranks together.

use troupe_runtime::model::config::{Experts, ModelConfig, Routing};

use super::{
    context::{Context, StepActivations},
    loader::{Loader, RowPart},
    mlp::GatedMlp,
};
use crate::{
    backend::{Backend, Epilogue, ExpertWeights},
    error::DeviceError,
    weights::Held,
};

/// How a family names the parts of a layer of experts.
#[derive(Clone, Copy, Debug)]
pub struct ExpertNames {
    /// The layer's part that holds them, such as `mlp`.
    pub block: &'static str,
    /// An expert's gate, up and down products.
    pub products: [&'static str; 3],
}

impl ExpertNames {
    /// How most families do.
    pub const USUAL: Self = Self { block: "mlp", products: ["gate_proj", "up_proj", "down_proj"] };
}

/// The feed-forward half of a layer: one for all tokens, or experts.
#[derive(Debug)]
pub enum FeedForward<B: Backend> {
    /// One for all tokens.
    Dense(GatedMlp<B>),
    /// Experts.
    Experts(Box<ExpertMlp<B>>),
}

/// Router, experts, and what all tokens use.
#[derive(Debug)]
pub struct ExpertMlp<B: Backend> {
    router: B::Linear,
    correction: Option<B::Vector>,
    routing: Routing,
    per_token: usize,
    /// The first of the experts that this rank has.
    first: usize,
    gate_up: Vec<B::Linear>,
    down: Vec<B::Linear>,
    shared: Option<GatedMlp<B>>,
}

impl<B: Backend> FeedForward<B> {
    /// Loads the feed-forward half of layer `layer`, whichever it is.
    ///
    /// # Errors
    /// As [`Loader::column_parallel`].
    pub fn load(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
        layer: usize,
        names: ExpertNames,
    ) -> Result<Self, DeviceError> {
        match config.experts_of(layer) {
            Some(experts) => {
                let experts = ExpertMlp::load(loader, config, (layer, experts), names)?;
                Ok(Self::Experts(Box::new(experts)))
            }
            None => {
                let name = format!("layers.{layer}.mlp");
                let inner = config.intermediate_size;
                Ok(Self::Dense(GatedMlp::load(loader, config, &name, inner)?))
            }
        }
    }

    /// Adds the layer's output for the normed activations to the residual stream.
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Collective`].
    pub fn forward(&self, cx: &mut Context<B>) -> Result<(), DeviceError> {
        match self {
            Self::Dense(mlp) => mlp.forward(cx),
            Self::Experts(experts) => experts.forward(cx),
        }
    }
}

impl<B: Backend> ExpertMlp<B> {
    fn load(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
        (layer, experts): (usize, &Experts),
        names: ExpertNames,
    ) -> Result<Self, DeviceError> {
        let block = format!("layers.{layer}.{}", names.block);
        let (hidden, count) = (config.hidden_size, experts.count);
        let router = loader.exact(&format!("{block}.gate"), (count, hidden))?;
        let correction = format!("{block}.gate.e_score_correction_bias");
        let correction = match experts.routing.correction_bias {
            true => Some(loader.exact_vector(&correction, count)?),
            false => None,
        };
        let inner = experts.intermediate_size;
        let shard = loader.reader.shard();
        let (here, own) = match loader.whole_experts {
            true => (shard.split(count), 0..inner),
            false => (0..count, shard.split(inner)),
        };
        let first = here.start;
        let [gate, up, down] = names.products;
        let (mut gate_up, mut downs) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for expert in here {
            let name = |part: &str| format!("{block}.experts.{expert}.{part}");
            let part = |part: &str| RowPart {
                name: name(part),
                rows: inner,
                own: own.clone(),
                held: Held::Sharded,
                bias: false,
            };
            gate_up.push(loader.column_parallel(hidden, &[part(gate), part(up)])?);
            downs.push(loader.row_parallel(&name(down), (hidden, inner), own.clone(), false)?);
        }
        let shared = match experts.shared_intermediate_size {
            0 => None,
            inner => {
                Some(GatedMlp::load(loader, config, &format!("{block}.shared_experts"), inner)?)
            }
        };
        let (routing, per_token) = (experts.routing, experts.per_token);
        Ok(Self { router, correction, routing, per_token, first, gate_up, down: downs, shared })
    }

    fn forward(&self, cx: &mut Context<B>) -> Result<(), DeviceError> {
        let Context { backend, group, activations, adapters } = cx;
        let adapters = &*adapters;
        let StepActivations { normed, shared: gated, residual, .. } = activations;
        if let Some(shared) = &self.shared {
            shared.gate(backend, (&*normed, adapters), gated)?;
        }
        let add_parts = |backend: &mut B, epilogue, out: &mut B::Buffer| {
            backend.moe(normed, &self.weights(), epilogue, out)?;
            match &self.shared {
                Some(shared) => shared.down().add_part(backend, (&gated.gated, adapters), out),
                None => Ok(()),
            }
        };
        if !group.shard().is_divided() {
            return add_parts(backend, Epilogue::AddTo, residual);
        }
        group.add_sum(backend, residual, |backend, partial| {
            add_parts(backend, Epilogue::Store, partial)
        })
    }

    fn weights(&self) -> ExpertWeights<'_, B> {
        ExpertWeights {
            router: &self.router,
            correction: self.correction.as_ref(),
            routing: &self.routing,
            per_token: self.per_token,
            first: self.first,
            gate_up: &self.gate_up,
            down: &self.down,
        }
    }
}
