//! Model architectures: which file wires which, as one table.
//!
//! # Layout
//! - [`llama`]: Llama, Mistral, Qwen2, Qwen3, Phi-3, Mixtral, Qwen3-MoE: one wiring with small
//!   differences
//! - [`gemma`]: Gemma 2 and 3
//! - [`bert`]: BERT, which reads and does not write
//! - [`deepseek`]: DeepSeek V2, V2-Lite, V3, R1
//! - [`stack`]: layers of whichever, one after the other
//!
//! A model file is wiring plus weight names, generic over the device, and ignorant of how many
//! ranks and stages there are: layers know their rank, and a stage is given the range of its
//! layers.

pub mod bert;
pub mod deepseek;
pub mod gemma;
pub mod llama;
pub mod stack;

use std::ops::Range;

use troupe_runtime::model::config::{Architecture, ModelConfig};

use crate::{
    backend::Backend,
    error::DeviceError,
    layers::{
        context::{Context, Pass, Widths},
        loader::Loader,
    },
    shape::KvAt,
    weights::Shard,
};

/// The consecutive layers of one stage, as one rank has them.
pub trait Decoder<B: Backend>: Send {
    /// Takes the residual stream through the layers.
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Collective`].
    fn forward(&self, cx: &mut Context<B>, pass: &mut Pass<'_, B>) -> Result<(), DeviceError>;
}

/// What a model file offers for one architecture.
pub struct Family<B: Backend> {
    /// How wide a rank's activations are.
    pub widths: fn(&ModelConfig, Shard) -> Result<Widths, DeviceError>,
    /// Loads the layers of a stage.
    pub load: LoadLayers<B>,
}

/// Loads a stage's layers; reports each as a part done.
pub type LoadLayers<B> =
    fn(&mut Loader<'_, B>, &ModelConfig, &[LayerPlace]) -> Result<Box<dyn Decoder<B>>, DeviceError>;

/// A layer of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerPlace {
    /// Its index in the model.
    pub layer: usize,
    /// Its KV on this rank.
    pub at: KvAt,
}

/// The table.
pub fn family<B: Backend>(architecture: Architecture) -> Family<B> {
    match architecture {
        Architecture::Bert | Architecture::BertClassifier => {
            Family { widths: bert::widths, load: stack::load::<B, bert::Layer<B>> }
        }
        Architecture::DeepseekV2 | Architecture::DeepseekV3 => {
            Family { widths: deepseek::widths, load: stack::load::<B, deepseek::Layer<B>> }
        }
        Architecture::Gemma2 | Architecture::Gemma3 => {
            Family { widths: gemma::widths, load: stack::load::<B, gemma::Layer<B>> }
        }
        Architecture::Llama
        | Architecture::Mistral
        | Architecture::Mixtral
        | Architecture::Phi3
        | Architecture::Qwen2
        | Architecture::Qwen3
        | Architecture::Qwen3Moe => {
            Family { widths: llama::widths, load: stack::load::<B, llama::Layer<B>> }
        }
    }
}

/// Where the KV of each of a stage's layers is: groups are the model's, layers within a group are
/// counted on this stage.
pub fn places(config: &ModelConfig, layers: &Range<usize>) -> Vec<LayerPlace> {
    let mut places: Vec<_> = config
        .kv_groups()
        .iter()
        .enumerate()
        .flat_map(|(group, spec)| {
            let own = spec.layers.iter().copied().filter(|layer| layers.contains(layer));
            own.enumerate()
                .map(|(index, layer)| LayerPlace { layer, at: KvAt { group, layer: index } })
                .collect::<Vec<_>>()
        })
        .collect();
    places.sort_unstable_by_key(|place| place.layer);
    places
}
