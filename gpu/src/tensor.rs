//! Weights on the host, on their way to a device: borrowed bytes of a file, cut to this rank's
//! share.
//!
//! A [`DenseMatrix`] has a row stride, so that a rank's column slice of a memory-mapped weight (a
//! row-parallel layer) needs no copy. What a device makes of it is its own affair.

use std::{borrow::Cow, ops::Range};

use crate::{dtype::Dtype, error::DeviceError, quant::QuantizedSource, weights::map::FileMap};

/// What [`crate::backend::Backend::prepare_linear`] turns into an opaque linear layer.
#[derive(Clone, Debug)]
pub struct LinearSource<'a> {
    /// Elements of an input row (K).
    pub in_features: usize,
    /// The weights.
    pub weights: WeightSource<'a>,
    /// How dense weights are stored on the device: `--dtype`. Elements are converted if need be.
    pub storage: Dtype,
    /// Integers to turn dense weights into: `--quantization`.
    pub quantize: Option<Quantize>,
}

/// What weights are rounded to when they are loaded; activations then are, row by row, as they
/// come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantize {
    /// Eight bits, with a scale for each output.
    Int8,
    /// Four bits, with a scale for each output and 64 inputs.
    Int4,
}

/// The weights of a linear layer by format.
#[derive(Clone, Debug)]
pub enum WeightSource<'a> {
    /// `[out, in]` matrices stacked along `out` in this order: several make a fused qkv or gate-up.
    /// Either all parts have a bias or missing ones count as zero; if none has, none is added.
    Dense(Vec<DensePart<'a>>),
    /// Codes with scales, as a quantized checkpoint has them.
    Quantized(QuantizedSource<'a>),
}

/// One of the matrices that a linear layer stacks.
#[derive(Clone, Debug)]
pub struct DensePart<'a> {
    /// `[out, in]`.
    pub weight: DenseMatrix<'a>,
    /// `[1, out]`.
    pub bias: Option<DenseMatrix<'a>>,
}

/// A row-major matrix on the host, possibly a column slice of a wider one.
#[derive(Clone, Debug)]
pub struct DenseMatrix<'a> {
    bytes: Cow<'a, [u8]>,
    dtype: Dtype,
    rows: usize,
    columns: usize,
    row_stride: usize,
    /// The file that the bytes are borrowed from, if they are one's.
    file: Option<&'a FileMap>,
}

/// A matrix of a mapped file, to be read where it lies for as long as somebody wants it.
#[derive(Clone, Debug)]
pub(crate) struct FileMatrix {
    map: FileMap,
    /// Where the first row is.
    first: usize,
    rows: usize,
    row_bytes: usize,
    row_stride: usize,
}

impl<'a> DenseMatrix<'a> {
    /// A matrix whose rows follow each other without gaps.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if `bytes` is not exactly `rows * columns` elements.
    pub fn new(
        bytes: impl Into<Cow<'a, [u8]>>,
        dtype: Dtype,
        (rows, columns): (usize, usize),
    ) -> Result<Self, DeviceError> {
        let bytes = bytes.into();
        if Some(bytes.len()) != rows.checked_mul(columns).and_then(|n| n.checked_mul(dtype.size()))
        {
            return Err(DeviceError::Contract(format!(
                "{} bytes are no {rows} x {columns} matrix of {dtype}",
                bytes.len()
            )));
        }
        Ok(Self { bytes, dtype, rows, columns, row_stride: columns * dtype.size(), file: None })
    }

    /// The same, whose bytes are borrowed from `map`.
    pub(crate) fn of_file(self, map: &'a FileMap) -> Self {
        Self { file: Some(map), ..self }
    }

    /// The same to be kept, if its bytes are a file's.
    pub(crate) fn to_file(&self) -> Option<FileMatrix> {
        let map = self.file?;
        let first = self.bytes.as_ptr().addr().checked_sub(map.bytes().as_ptr().addr())?;
        let (rows, row_bytes) = (self.rows, self.columns * self.dtype.size());
        let found =
            FileMatrix { map: map.clone(), first, rows, row_bytes, row_stride: self.row_stride };
        (found.span(0..rows).end <= map.bytes().len()).then_some(found)
    }

    /// A matrix of zeros that takes the room of one row: it stands for a tensor that is not there.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] on an impossible size.
    pub(crate) fn absent(
        dtype: Dtype,
        (rows, columns): (usize, usize),
    ) -> Result<Self, DeviceError> {
        let whole = Self::new(vec![0; columns * dtype.size()], dtype, (1, columns))?;
        Ok(Self { rows, row_stride: 0, ..whole })
    }

    /// The columns `start..start + columns` of every row, still borrowing the same bytes.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there are not so many.
    pub fn slice_columns(&'a self, start: usize, columns: usize) -> Result<Self, DeviceError> {
        if start.checked_add(columns).is_none_or(|end| end > self.columns) {
            return Err(DeviceError::Contract(format!(
                "columns {start}..+{columns} of a matrix with {}",
                self.columns
            )));
        }
        let first = (start * self.dtype.size()).min(self.bytes.len());
        Ok(Self { bytes: Cow::Borrowed(&self.bytes[first..]), columns, ..*self })
    }

    /// The rows `start..start + rows`, still borrowing the same bytes.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there are not so many.
    pub fn slice_rows(&'a self, start: usize, rows: usize) -> Result<Self, DeviceError> {
        if start.checked_add(rows).is_none_or(|end| end > self.rows) {
            return Err(DeviceError::Contract(format!(
                "rows {start}..+{rows} of a matrix with {}",
                self.rows
            )));
        }
        let first = (start * self.row_stride).min(self.bytes.len());
        Ok(Self { bytes: Cow::Borrowed(&self.bytes[first..]), rows, ..*self })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The bytes of one row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[u8] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        &self.bytes[row * self.row_stride..][..self.columns * self.dtype.size()]
    }
}

impl FileMatrix {
    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The bytes of one row.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &[u8] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        &self.map.bytes()[self.first + row * self.row_stride..][..self.row_bytes]
    }

    /// Whether its rows follow each other without gaps.
    pub(crate) fn is_whole(&self) -> bool {
        self.row_stride == self.row_bytes
    }

    /// Where some rows are in the file, with what lies between them.
    pub(crate) fn span(&self, rows: Range<usize>) -> Range<usize> {
        if rows.is_empty() {
            return self.first..self.first;
        }
        let last = self.first + (rows.end - 1) * self.row_stride;
        self.first + rows.start * self.row_stride..last + self.row_bytes
    }

    /// The file.
    pub(crate) fn map(&self) -> &FileMap {
        &self.map
    }
}

impl LinearSource<'_> {
    /// Elements of an output row (N): the sum over the stacked parts.
    pub fn out_features(&self) -> usize {
        match &self.weights {
            WeightSource::Dense(parts) => parts.iter().map(|part| part.weight.rows()).sum(),
            WeightSource::Quantized(source) => {
                source.parts.iter().map(|part| part.codes.outputs()).sum()
            }
        }
    }
}
