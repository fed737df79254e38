//! A product of this rank that adapters may add to, and this rank's share of what one adds there.

use std::{collections::BTreeMap, ops::Range};

use super::{
    adapter::Adapter,
    weights::{LoraUp, LoraWeights},
};
use crate::{
    backend::Backend,
    dtype::Dtype,
    error::DeviceError,
    tensor::{DenseMatrix, DensePart, LinearSource, WeightSource},
};

/// Which of a rank's sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteId(pub usize);

/// A product, as a rank has it.
#[derive(Clone, Debug)]
pub struct Site {
    /// Which inputs of its matrices the rank has.
    pub inputs: Range<usize>,
    /// The matrices that it stacks, in order.
    pub parts: Vec<SitePart>,
}

/// One matrix of a product.
#[derive(Clone, Debug)]
pub struct SitePart {
    /// Its name without prefix and without `.weight`.
    pub product: String,
    /// Which of its outputs the rank has.
    pub outputs: Range<usize>,
}

/// A rank's share of what an adapter adds at one site, on the host in `f32`.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// Rows of `down`.
    ranks: usize,
    /// `[ranks, inputs]`.
    down: Vec<f32>,
    up: Vec<UpShare>,
}

#[derive(Clone, Debug, PartialEq)]
struct UpShare {
    ranks: Range<usize>,
    columns: Range<usize>,
    /// `[columns, ranks]`, scaled.
    values: Vec<f32>,
}

impl Site {
    /// This rank's share of what `adapter` adds here, if it adds anything.
    ///
    /// # Errors
    /// As [`Adapter::factors`].
    pub fn share(&self, adapter: &Adapter) -> Result<Option<Share>, DeviceError> {
        let Some(config) = adapter.config() else { return Ok(None) };
        let (rank, scaling) = (config.rank, config.scaling);
        let (mut down, mut up) = (Vec::new(), Vec::new());
        // Several parts may be rows of one matrix.
        let mut stacked: BTreeMap<&str, (Range<usize>, Vec<f32>)> = BTreeMap::new();
        let (mut column, mut ranks) = (0, 0);
        for SitePart { product, outputs } in &self.parts {
            let columns = column..column + outputs.len();
            column = columns.end;
            if !stacked.contains_key(product.as_str()) {
                let Some([first, second]) = adapter.factors(product)? else { continue };
                let width = first.len() / rank;
                for row in first.chunks_exact(width) {
                    down.extend_from_slice(&row[self.inputs.clone()]);
                }
                stacked.insert(product, (ranks..ranks + rank, second));
                ranks += rank;
            }
            let (ranks, second) = &stacked[product.as_str()];
            let own = &second[outputs.start * rank..outputs.end * rank];
            let values = own.iter().map(|value| value * scaling).collect();
            up.push(UpShare { ranks: ranks.clone(), columns, values });
        }
        // A rank may have none of a part's outputs.
        up.retain(|up| !up.columns.is_empty());
        Ok((!up.is_empty() && !down.is_empty()).then_some(Share { ranks, down, up }))
    }
}

impl Share {
    /// Puts it onto the device.
    ///
    /// # Errors
    /// The backend's.
    pub fn prepare<B: Backend>(&self, backend: &mut B) -> Result<LoraWeights<B>, DeviceError> {
        let down = matrix(backend, &self.down, self.ranks)?;
        let up = self.up.iter().map(|up| {
            let weight = matrix(backend, &up.values, up.columns.len())?;
            Ok(LoraUp { ranks: up.ranks.clone(), columns: up.columns.clone(), weight })
        });
        Ok(LoraWeights { down, up: up.collect::<Result<_, DeviceError>>()? })
    }
}

/// `values` as a product of so many outputs.
fn matrix<B: Backend>(
    backend: &mut B,
    values: &[f32],
    rows: usize,
) -> Result<B::Linear, DeviceError> {
    let in_features = values.len() / rows.max(1);
    let mut bytes = Vec::with_capacity(size_of_val(values));
    values.iter().for_each(|value| Dtype::F32.write(&mut bytes, *value));
    let weight = DenseMatrix::new(bytes, Dtype::F32, (rows, in_features))?;
    let weights = WeightSource::Dense(vec![DensePart { weight, bias: None }]);
    let (storage, quantize) = (Dtype::F32, None);
    backend.prepare_linear(&LinearSource { in_features, weights, storage, quantize })
}
