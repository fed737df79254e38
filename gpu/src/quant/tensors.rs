//! A quantized layer's tensors: found by the layer's name and a suffix, and checked against the
//! shape that the config implies, so that formats only say what they expect.

use crate::{
    dtype::Dtype,
    error::DeviceError,
    weights::{RawTensor, WeightReader},
};

/// The tensors of one layer.
pub struct LayerTensors<'r, 'a> {
    reader: &'r WeightReader<'a>,
    name: &'r str,
}

impl<'r, 'a> LayerTensors<'r, 'a> {
    /// Those of layer `name`, which has no prefix and no suffix.
    pub fn new(reader: &'r WeightReader<'a>, name: &'r str) -> Self {
        Self { reader, name }
    }

    /// Whether the layer is quantized: if it is not, its `weight` is there in floats.
    ///
    /// # Errors
    /// [`DeviceError::Weights`].
    pub fn is_quantized(&self) -> Result<bool, DeviceError> {
        if !self.contains("weight") {
            return Ok(true);
        }
        let tensor = self.reader.raw(&self.full("weight"))?;
        Ok(Dtype::from_safetensors(tensor.dtype).is_none())
    }

    /// Whether the layer makes queries or keys, whose heads are rotated.
    pub fn is_rotated(&self) -> bool {
        ["q_proj", "k_proj"].iter().any(|end| self.name.ends_with(end))
    }

    /// Whether the layer has such a tensor.
    pub fn contains(&self, suffix: &str) -> bool {
        self.reader.contains(&self.full(suffix))
    }

    /// A tensor of one of `dtypes` and of shape `shape`.
    ///
    /// # Errors
    /// [`DeviceError::Weights`] saying which it has instead.
    pub fn tensor(
        &self,
        suffix: &str,
        dtypes: &[&str],
        shape: &[usize],
    ) -> Result<RawTensor<'a>, DeviceError> {
        let tensor = self.of_type(suffix, dtypes)?;
        if tensor.shape != shape {
            return Err(self.wrong(
                suffix,
                &format!("has shape {:?}, the config implies {shape:?}", tensor.shape),
            ));
        }
        Ok(tensor)
    }

    /// Floats, widened.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn floats(&self, suffix: &str, shape: &[usize]) -> Result<Floats<'a>, DeviceError> {
        let tensor = self.tensor(suffix, &FLOATS, shape)?;
        Ok(Floats::new(&tensor))
    }

    /// The scales of outputs: one for each, or one for all.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn output_scales(&self, suffix: &str, outputs: usize) -> Result<Floats<'a>, DeviceError> {
        let tensor = self.of_type(suffix, &FLOATS)?;
        match tensor.shape {
            [] | [1] | [1, 1] => {}
            [n] | [n, 1] if *n == outputs => {}
            found => {
                let expected = format!("[{outputs}, 1] or [1]");
                let why = format!("has shape {found:?}, the config implies {expected}");
                return Err(self.wrong(suffix, &why));
            }
        }
        Ok(Floats::new(&tensor))
    }

    /// The one scale of the layer's input.
    ///
    /// # Errors
    /// [`DeviceError::Weights`] if there is none, or it is no positive number.
    pub fn input_scale(&self) -> Result<f32, DeviceError> {
        const SUFFIX: &str = "input_scale";
        let tensor = self.of_type(SUFFIX, &FLOATS)?;
        if tensor.shape.iter().product::<usize>() != 1 {
            return Err(self.wrong(SUFFIX, "has several elements, one is expected"));
        }
        match Floats::new(&tensor).at(0) {
            scale if scale > 0.0 && scale.is_finite() => Ok(scale),
            scale => Err(self.wrong(SUFFIX, &format!("is {scale}, which is no scale"))),
        }
    }

    /// Whole numbers of 32 bits.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn integers(&self, suffix: &str, shape: &[usize]) -> Result<&'a [u8], DeviceError> {
        Ok(self.tensor(suffix, &["I32", "U32"], shape)?.bytes)
    }

    /// Fails unless `size` things fill words of `per_word` of them.
    ///
    /// # Errors
    /// [`DeviceError::Weights`].
    pub fn check_words(
        &self,
        suffix: &str,
        size: usize,
        per_word: usize,
    ) -> Result<(), DeviceError> {
        match size.is_multiple_of(per_word) {
            true => Ok(()),
            false => {
                let why = format!("packs {per_word} of {size} to a word, which leaves a rest");
                Err(self.wrong(suffix, &why))
            }
        }
    }

    /// The group of each of `inputs` inputs as `suffix` lists them, each below `groups`.
    ///
    /// # Errors
    /// [`DeviceError::Weights`].
    pub fn group_indices(
        &self,
        suffix: &str,
        inputs: usize,
        groups: usize,
    ) -> Result<Vec<usize>, DeviceError> {
        let words = self.integers(suffix, &[inputs])?.as_chunks::<4>().0;
        let indices = words.iter().map(|bytes| u32::from_le_bytes(*bytes) as usize);
        let indices: Vec<usize> = indices.collect();
        match indices.iter().find(|index| **index >= groups) {
            None => Ok(indices),
            Some(index) => {
                let why = format!("names group {index} where there are {groups}");
                Err(self.wrong(suffix, &why))
            }
        }
    }

    fn of_type(&self, suffix: &str, dtypes: &[&str]) -> Result<RawTensor<'a>, DeviceError> {
        let tensor = self.reader.raw(&self.full(suffix))?;
        if !dtypes.contains(&tensor.dtype) {
            let why = format!("is of type {}, {} is expected", tensor.dtype, dtypes.join(" or "));
            return Err(self.wrong(suffix, &why));
        }
        Ok(tensor)
    }

    fn full(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.name)
    }

    fn wrong(&self, suffix: &str, why: &str) -> DeviceError {
        let name = self.full(suffix);
        DeviceError::Weights {
            path: self.reader.folder().to_owned(),
            why: format!("tensor `{name}` {why}"),
        }
    }
}

/// Floats of a file, widened as they are read.
#[derive(Clone, Copy, Debug)]
pub struct Floats<'a> {
    bytes: &'a [u8],
    dtype: Dtype,
    len: usize,
}

impl<'a> Floats<'a> {
    fn new(tensor: &RawTensor<'a>) -> Self {
        // What asks for them has checked that they are.
        let dtype = Dtype::from_safetensors(tensor.dtype).unwrap_or(Dtype::F32);
        Self { bytes: tensor.bytes, dtype, len: tensor.bytes.len() / dtype.size() }
    }

    /// Number `index`; a single one is that of every index.
    ///
    /// # Panics
    /// If there is none.
    pub fn at(&self, index: usize) -> f32 {
        self.dtype.read(self.bytes, if self.len == 1 { 0 } else { index })
    }
}

/// Types of scales.
const FLOATS: [&str; 3] = ["F16", "BF16", "F32"];
