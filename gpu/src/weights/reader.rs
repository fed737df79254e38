//! A checkpoint as one rank reads it: by names without prefix, with the shape that the config
//! implies, counting what the rank comes to hold.
//!
//! Reading gives whole tensors as borrowed bytes; nothing is touched until a layer takes its slice.
//! The layer then says what it took, and whether other ranks of the stage hold the same.

use std::{cell::RefCell, path::Path};

use troupe_runtime::model::config::{Quantization, QuantizedWeights};

use super::{checkpoint::Checkpoint, rename, safetensors::RawTensor, shard::Shard, survey::Survey};
use crate::{
    dtype::Dtype,
    error::DeviceError,
    executor::LoadProgress,
    quant::{
        gguf::{is_paired, paired_row},
        tensors::LayerTensors,
    },
    tensor::DenseMatrix,
};

/// Reads tensors for one rank.
pub struct WeightReader<'a> {
    checkpoint: &'a Checkpoint,
    prefix: &'static str,
    shard: Shard,
    /// How weights are stored on the device.
    storage: Dtype,
    quantization: Option<&'a Quantization>,
    held: Holding,
    progress: Option<Progress>,
    /// Only where nothing is to be loaded.
    survey: Option<RefCell<Survey>>,
}

/// What a rank came to hold, in bytes as stored on the device (without a kernel's padding).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Its share of what is divided over the stage's ranks; with one rank, everything.
    pub sharded: u64,
    /// What other ranks of its stage hold too.
    pub replicated: u64,
    /// The names of those, without prefix.
    pub replicated_names: Vec<String>,
}

/// Whether other ranks of the stage hold the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Others hold it too.
    Replicated,
    /// Each rank holds its own part.
    Sharded,
}

/// So many rows in the order that checkpoints have, of a file with pairs side by side.
fn unpaired(bytes: &[u8], rows: usize, size: usize) -> Vec<u8> {
    let width = bytes.len() / rows.max(1);
    let row = |row| &bytes[paired_row(row, size) * width..][..width];
    (0..rows).flat_map(|output| row(output).iter().copied()).collect()
}

struct Progress {
    report: LoadProgress,
    parts_done: usize,
    parts_total: usize,
}

impl<'a> WeightReader<'a> {
    /// A reader for `shard`, whose device stores weights as `storage`.
    pub fn new(checkpoint: &'a Checkpoint, shard: Shard, storage: Dtype) -> Self {
        let prefix = rename::prefix(checkpoint);
        Self {
            checkpoint,
            prefix,
            shard,
            storage,
            quantization: None,
            held: Holding::default(),
            progress: None,
            survey: None,
        }
    }

    /// Says how the checkpoint's quantized layers are to be understood.
    #[must_use]
    pub fn with_quantization(mut self, quantization: Option<&'a Quantization>) -> Self {
        self.quantization = quantization;
        self
    }

    /// Reports to `report` as each of `parts_total` parts (a layer, the embedding, the head) is
    /// done.
    #[must_use]
    pub fn with_progress(mut self, report: LoadProgress, parts_total: usize) -> Self {
        report(0.0);
        self.progress = Some(Progress { report, parts_done: 0, parts_total: parts_total.max(1) });
        self
    }

    /// A reader that goes on when a tensor is missing or wrong, so as to find all of them. What it
    /// gives is not to be loaded.
    #[must_use]
    pub fn surveying(mut self) -> Self {
        self.survey = Some(RefCell::default());
        self
    }

    /// Whether it only looks.
    pub fn is_surveying(&self) -> bool {
        self.survey.is_some()
    }

    /// What a surveying reader has found; `layers` is how many the model has.
    ///
    /// # Errors
    /// [`DeviceError::Weights`] that lists what is wrong.
    pub fn findings(self, layers: usize) -> Result<(), DeviceError> {
        let survey = self.survey.map(RefCell::into_inner).unwrap_or_default();
        survey.verdict(self.checkpoint, (self.prefix, layers))
    }

    /// Where the checkpoint is.
    pub fn folder(&self) -> &Path {
        self.checkpoint.folder()
    }

    /// Which rank reads.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// How weights are stored on the device.
    pub fn storage(&self) -> Dtype {
        self.storage
    }

    /// How quantized layers are to be understood, if there are any.
    pub fn quantization(&self) -> Option<&'a Quantization> {
        self.quantization
    }

    /// Whether the checkpoint has a tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.checkpoint.contains(&rename::full_name(self.prefix, name))
    }

    /// Whether the checkpoint has a layer's weights, quantized or not.
    pub fn contains_layer(&self, name: &str) -> bool {
        let suffixes = ["weight", "qweight", "weight_packed"];
        suffixes.iter().any(|suffix| self.contains(&format!("{name}.{suffix}")))
    }

    /// A whole `[rows, columns]` tensor.
    ///
    /// # Errors
    /// [`DeviceError::Weights`] if it is missing or of another shape.
    pub fn matrix(
        &self,
        name: &str,
        shape: (usize, usize),
    ) -> Result<DenseMatrix<'a>, DeviceError> {
        self.read(name, &[shape.0, shape.1], shape)
    }

    /// A whole vector, as a matrix of one row.
    ///
    /// # Errors
    /// As [`Self::matrix`].
    pub fn vector(&self, name: &str, size: usize) -> Result<DenseMatrix<'a>, DeviceError> {
        self.read(name, &[size], (1, size))
    }

    /// A tensor of any type and shape.
    ///
    /// # Errors
    /// [`DeviceError::Weights`] if it is missing.
    pub fn raw(&self, name: &str) -> Result<RawTensor<'a>, DeviceError> {
        Ok(self.checkpoint.raw(&rename::full_name(self.prefix, name))?.1)
    }

    fn read(
        &self,
        name: &str,
        expected: &[usize],
        shape: (usize, usize),
    ) -> Result<DenseMatrix<'a>, DeviceError> {
        let full = rename::full_name(self.prefix, name);
        let found = self.find((name, &full), expected, shape);
        match (&self.survey, found) {
            (None, found) => found,
            (Some(survey), found) => survey.borrow_mut().note(full, found).unwrap_or_else(|| {
                // It is of no matter what of.
                DenseMatrix::absent(Dtype::F32, shape)
            }),
        }
    }

    /// By the name without prefix and the one in the files.
    fn find(
        &self,
        (name, full): (&str, &str),
        expected: &[usize],
        shape: (usize, usize),
    ) -> Result<DenseMatrix<'a>, DeviceError> {
        let (path, tensor) = self.checkpoint.tensor(full)?;
        if tensor.shape != expected {
            return Err(DeviceError::Weights {
                path: path.to_owned(),
                why: format!(
                    "tensor `{full}` has shape {:?}, the config implies {expected:?}",
                    tensor.shape
                ),
            });
        }
        let paired = self.paired_head(name).filter(|size| is_paired(expected[0], *size));
        match paired {
            Some(size) => {
                DenseMatrix::new(unpaired(tensor.bytes, expected[0], size), tensor.dtype, shape)
            }
            None => Ok(DenseMatrix::new(tensor.bytes, tensor.dtype, shape)?.of_file(tensor.map)),
        }
    }

    /// The size of a head, if `name` has outputs of rotated heads and the file has them in pairs.
    fn paired_head(&self, name: &str) -> Option<usize> {
        let layer = name.rsplit_once('.').map_or(name, |(layer, _)| layer);
        match self.quantization?.weights {
            QuantizedWeights::Gguf { paired } if LayerTensors::new(self, layer).is_rotated() => {
                paired
            }
            _ => None,
        }
    }

    /// Notes that the rank holds `elements` of `name`, stored as `dtype`.
    pub fn note(&mut self, name: &str, held: Held, (elements, dtype): (usize, Dtype)) {
        self.note_bytes(name, held, elements * dtype.size());
    }

    /// Notes that the rank holds so many bytes of `name`.
    pub fn note_bytes(&mut self, name: &str, held: Held, bytes: usize) {
        let bytes = bytes as u64;
        if held == Held::Sharded || !self.shard.is_divided() {
            self.held.sharded += bytes;
        } else {
            self.held.replicated += bytes;
            self.held.replicated_names.push(name.to_owned());
        }
    }

    /// Notes that a part is loaded, and gives back the memory that its bytes came into.
    pub fn part_done(&mut self) {
        self.checkpoint.release();
        if let Some(progress) = &mut self.progress {
            progress.parts_done += 1;
            let share = progress.parts_done as f32 / progress.parts_total as f32;
            (progress.report)(share.min(1.0));
        }
    }

    /// What the rank holds by now.
    pub fn into_holding(self) -> Holding {
        self.held
    }
}
