//! The layers of a stage, one after the other: the same for every family, which says only what a
//! layer is.

use troupe_runtime::model::config::ModelConfig;

use super::{Decoder, LayerPlace};
use crate::{
    backend::Backend,
    error::DeviceError,
    layers::{
        context::{Context, Pass},
        loader::Loader,
    },
};

/// One layer of a family.
pub trait Layer<B: Backend>: Send + Sized + 'static {
    /// Loads the layer at `place`.
    ///
    /// # Errors
    /// [`DeviceError::Weights`] if a tensor is missing or of another shape; the backend's errors.
    fn load(
        loader: &mut Loader<'_, B>,
        config: &ModelConfig,
        place: LayerPlace,
    ) -> Result<Self, DeviceError>;

    /// Takes the residual stream through it; ends with [`Pass::layer_done`].
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Collective`].
    fn forward(&self, cx: &mut Context<B>, pass: &mut Pass<'_, B>) -> Result<(), DeviceError>;
}

struct Stack<L>(Vec<L>);

/// Loads the layers at `places`; reports each as a part done.
///
/// # Errors
/// As [`Layer::load`].
pub fn load<B: Backend, L: Layer<B>>(
    loader: &mut Loader<'_, B>,
    config: &ModelConfig,
    places: &[LayerPlace],
) -> Result<Box<dyn Decoder<B>>, DeviceError> {
    let layers = places.iter().map(|&place| {
        let layer = L::load(loader, config, place)?;
        loader.reader.part_done();
        Ok(layer)
    });
    Ok(Box::new(Stack(layers.collect::<Result<Vec<_>, DeviceError>>()?)))
}

impl<B: Backend, L: Layer<B>> Decoder<B> for Stack<L> {
    fn forward(&self, cx: &mut Context<B>, pass: &mut Pass<'_, B>) -> Result<(), DeviceError> {
        self.0.iter().try_for_each(|layer| layer.forward(cx, pass))
    }
}
