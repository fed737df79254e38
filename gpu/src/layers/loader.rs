//! Weights onto the device, cut to this rank's share, with what was taken noted.
//!
//! Column-parallel layers take rows of their weights (outputs), several of them fused into one
//! product; row-parallel layers take columns (inputs). Biases go with the outputs; where the
//! outputs are summed over ranks, only rank 0 has them.

use std::ops::Range;

use crate::{
    backend::Backend,
    dtype::Dtype,
    error::DeviceError,
    lora::site::{Site, SiteId},
    quant::{self, Cut},
    tensor::{DenseMatrix, DensePart, LinearSource, Quantize, WeightSource},
    weights::{Held, WeightReader},
};

/// Puts one rank's weights onto its device.
pub struct Loader<'a, B: Backend> {
    /// The device.
    pub backend: &'a mut B,
    /// The checkpoint, as this rank reads it.
    pub reader: WeightReader<'a>,
    /// Integers to turn the matrices into.
    pub quantize: Option<Quantize>,
    /// The products by now that adapters may add to.
    pub sites: Vec<Site>,
    /// Whether ranks divide experts and not each one's inner width.
    pub whole_experts: bool,
}

/// Rows of one weight matrix on their way into a fused product.
#[derive(Clone, Debug)]
pub struct RowPart {
    /// Name without prefix and without `.weight`.
    pub name: String,
    /// Rows of the whole matrix.
    pub rows: usize,
    /// Which of them this rank takes.
    pub own: Range<usize>,
    /// Whether other ranks take the same.
    pub held: Held,
    /// Whether there is a bias.
    pub bias: bool,
}

impl<'a, B: Backend> Loader<'a, B> {
    /// Notes a product that adapters may add to.
    pub fn site(&mut self, site: Site) -> SiteId {
        self.sites.push(site);
        SiteId(self.sites.len() - 1)
    }

    /// A product whose outputs are divided over ranks, of several matrices stacked in this order.
    ///
    /// # Errors
    /// [`DeviceError::Weights`] if a tensor is not as described; the backend's errors.
    pub fn column_parallel(
        &mut self,
        in_features: usize,
        parts: &[RowPart],
    ) -> Result<B::Linear, DeviceError> {
        if let Some(quantized) = self.quantized_columns(in_features, parts)? {
            return Ok(quantized);
        }
        let mut whole = Vec::with_capacity(parts.len());
        for part in parts {
            let weight = self.reader.matrix(&weight_of(&part.name), (part.rows, in_features))?;
            let bias = part.bias.then(|| self.stored_vector(&bias_of(&part.name), part.rows));
            whole.push((weight, bias.transpose()?));
            let biases = if part.bias { part.own.len() } else { 0 };
            let elements = part.own.len() * in_features + biases;
            self.reader.note(&part.name, part.held, (elements, self.reader.storage()));
        }
        let mut dense = Vec::with_capacity(parts.len());
        for (part, (weight, bias)) in parts.iter().zip(&whole) {
            let (start, rows) = (part.own.start, part.own.len());
            let bias = bias.as_ref().map(|bias| bias.slice_columns(start, rows)).transpose()?;
            dense.push(DensePart { weight: weight.slice_rows(start, rows)?, bias });
        }
        self.prepare(in_features, dense)
    }

    /// A product whose inputs are divided over ranks; `columns` are this rank's. Its outputs are
    /// partial sums, to which rank 0 alone adds the bias.
    ///
    /// # Errors
    /// As [`Self::column_parallel`].
    pub fn row_parallel(
        &mut self,
        name: &str,
        shape: (usize, usize),
        columns: Range<usize>,
        bias: bool,
    ) -> Result<B::Linear, DeviceError> {
        if let Some(quantized) = self.quantized_rows(name, shape, columns.clone(), bias)? {
            return Ok(quantized);
        }
        let weight = self.reader.matrix(&weight_of(name), shape)?;
        let weight = weight.slice_columns(columns.start, columns.len())?;
        // A survey asks for it on every rank: it is about the whole model.
        let is_first = self.reader.shard().is_first() || self.reader.is_surveying();
        let adds_bias = bias && is_first;
        let bias = adds_bias.then(|| self.stored_vector(&bias_of(name), shape.0)).transpose()?;
        let biases = if adds_bias { shape.0 } else { 0 };
        let elements = shape.0 * columns.len() + biases;
        self.reader.note(name, Held::Sharded, (elements, self.reader.storage()));
        self.prepare(columns.len(), vec![DensePart { weight, bias }])
    }

    /// A short vector that every rank has.
    ///
    /// # Errors
    /// As [`Self::column_parallel`].
    pub fn vector(&mut self, name: &str, size: usize) -> Result<B::Vector, DeviceError> {
        let source = self.stored_vector(name, size)?;
        self.reader.note(name, Held::Replicated, (size, Dtype::F32));
        self.backend.prepare_vector(&source)
    }

    /// The same, each element one more than the files say: how some models keep what norms multiply
    /// by.
    ///
    /// # Errors
    /// As [`Self::column_parallel`].
    pub fn vector_from_one(&mut self, name: &str, size: usize) -> Result<B::Vector, DeviceError> {
        let source = self.stored_vector(name, size)?;
        self.reader.note(name, Held::Replicated, (size, Dtype::F32));
        let mut bytes = Vec::with_capacity(size * Dtype::F32.size());
        let row = source.row(0);
        (0..size).for_each(|at| Dtype::F32.write(&mut bytes, 1.0 + source.dtype().read(row, at)));
        self.backend.prepare_vector(&DenseMatrix::new(bytes, Dtype::F32, (1, size))?)
    }

    /// A short vector that every rank has, as the files have it to the bit: what decides a choice.
    ///
    /// # Errors
    /// As [`Self::column_parallel`].
    pub fn exact_vector(&mut self, name: &str, size: usize) -> Result<B::Vector, DeviceError> {
        let source = self.reader.vector(name, size)?;
        self.reader.note(name, Held::Replicated, (size, Dtype::F32));
        self.backend.prepare_vector(&source)
    }

    /// A small product that every rank has whole and that is stored in `f32` whatever others are
    /// stored in: what decides a choice.
    ///
    /// # Errors
    /// As [`Self::column_parallel`].
    pub fn exact(&mut self, name: &str, shape: (usize, usize)) -> Result<B::Linear, DeviceError> {
        let weight = self.reader.matrix(&weight_of(name), shape)?;
        if self.reader.is_surveying() {
            return self.nothing();
        }
        self.reader.note(name, Held::Replicated, (shape.0 * shape.1, Dtype::F32));
        self.exact_table(weight)
    }

    /// A matrix of whatever origin, stored in `f32`.
    ///
    /// # Errors
    /// The backend's.
    pub fn exact_table(&mut self, weight: DenseMatrix<'_>) -> Result<B::Linear, DeviceError> {
        let in_features = weight.columns();
        let weights = WeightSource::Dense(vec![DensePart { weight, bias: None }]);
        let (storage, quantize) = (Dtype::F32, None);
        self.backend.prepare_linear(&LinearSource { in_features, weights, storage, quantize })
    }

    /// The product with the transpose of some rows of the `[out, in]` matrix `name`: their number
    /// are its inputs, `in` its outputs.
    ///
    /// # Errors
    /// As [`Self::column_parallel`].
    pub fn transposed(
        &mut self,
        name: &str,
        shape: (usize, usize),
        rows: Range<usize>,
    ) -> Result<B::Linear, DeviceError> {
        let cut = Cut { shape, outputs: rows.clone(), inputs: 0..shape.1 };
        if let Some(part) = quant::part(&self.reader, name, &cut)? {
            // Codes have their scales by groups of inputs, which are outputs here.
            let mut bytes = Vec::with_capacity(shape.1 * rows.len() * Dtype::F32.size());
            part.by_input().into_iter().for_each(|weight| Dtype::F32.write(&mut bytes, weight));
            let weight = DenseMatrix::new(bytes, Dtype::F32, (shape.1, rows.len()))?;
            let elements = shape.1 * rows.len();
            self.reader.note(name, Held::Sharded, (elements, self.reader.storage()));
            return self.prepare(rows.len(), vec![DensePart { weight, bias: None }]);
        }
        let whole = self.reader.matrix(&weight_of(name), shape)?;
        if self.reader.is_surveying() {
            return self.nothing();
        }
        let source = whole.slice_rows(rows.start, rows.len())?;
        let (dtype, columns) = (source.dtype(), source.columns());
        let mut bytes = Vec::with_capacity(rows.len() * columns * dtype.size());
        for column in 0..columns {
            for row in 0..rows.len() {
                dtype.write(&mut bytes, dtype.read(source.row(row), column));
            }
        }
        let weight = DenseMatrix::new(bytes, dtype, (columns, rows.len()))?;
        self.reader.note(name, Held::Sharded, (columns * rows.len(), self.reader.storage()));
        self.prepare(rows.len(), vec![DensePart { weight, bias: None }])
    }

    /// A vector rounded as if it were stored like the matrices, though devices keep it in `f32`: so
    /// a float32 checkpoint run as bfloat16 gives what a converted checkpoint gives.
    pub(super) fn stored_vector(
        &self,
        name: &str,
        size: usize,
    ) -> Result<DenseMatrix<'a>, DeviceError> {
        let (source, storage) = (self.reader.vector(name, size)?, self.reader.storage());
        if source.dtype() == storage {
            return Ok(source);
        }
        let mut bytes = Vec::with_capacity(size * storage.size());
        let row = source.row(0);
        (0..size).for_each(|at| storage.write(&mut bytes, source.dtype().read(row, at)));
        DenseMatrix::new(bytes, storage, (1, size))
    }

    /// A product of one zero: what a survey gives, so that nothing is read or packed for it.
    fn nothing(&mut self) -> Result<B::Linear, DeviceError> {
        let weight = DenseMatrix::absent(Dtype::F32, (1, 1))?;
        let weights = WeightSource::Dense(vec![DensePart { weight, bias: None }]);
        let (storage, quantize) = (Dtype::F32, None);
        self.backend.prepare_linear(&LinearSource { in_features: 1, weights, storage, quantize })
    }

    fn prepare(
        &mut self,
        in_features: usize,
        parts: Vec<DensePart<'_>>,
    ) -> Result<B::Linear, DeviceError> {
        if self.reader.is_surveying() {
            return self.nothing();
        }
        let (storage, quantize) = (self.reader.storage(), self.quantize);
        let weights = WeightSource::Dense(parts);
        self.backend.prepare_linear(&LinearSource { in_features, weights, storage, quantize })
    }
}

fn weight_of(name: &str) -> String {
    format!("{name}.weight")
}

pub(super) fn bias_of(name: &str) -> String {
    format!("{name}.bias")
}
