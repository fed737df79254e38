//! Activations on the CPU: always `f32`, rows one after the other from a cache line on.

use std::ops::Range;

use crate::{backend::Activations, cpu::aligned::Aligned, dtype::Dtype, error::DeviceError};

/// A buffer of activations.
#[derive(Debug)]
pub struct CpuBuffer {
    data: Aligned<f32>,
    rows: usize,
    columns: usize,
    capacity: usize,
}

impl CpuBuffer {
    /// Zeros, with no live rows.
    pub(crate) fn zeroed(capacity: usize, columns: usize) -> Result<Self, DeviceError> {
        let len = capacity.checked_mul(columns).filter(|_| columns > 0).ok_or_else(|| {
            DeviceError::Contract(format!("a buffer of {capacity} rows of {columns} elements"))
        })?;
        Ok(Self { data: Aligned::zeroed(len)?, rows: 0, columns, capacity })
    }

    /// The live rows.
    pub fn values(&self) -> &[f32] {
        &self.data[..self.rows * self.columns]
    }

    /// The live rows, to be changed.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.rows * self.columns]
    }

    /// Makes `rows` rows live, which hold anything.
    pub(crate) fn set_rows(&mut self, rows: usize) -> Result<&mut [f32], DeviceError> {
        if rows > self.capacity {
            return Err(DeviceError::Contract(format!(
                "{rows} rows in a buffer for {}",
                self.capacity
            )));
        }
        self.rows = rows;
        Ok(self.values_mut())
    }

    /// Fails unless rows are `columns` wide.
    pub(crate) fn expect_columns(&self, columns: usize) -> Result<(), DeviceError> {
        if self.columns == columns {
            return Ok(());
        }
        Err(DeviceError::Contract(format!("rows of {} elements, not {columns}", self.columns)))
    }

    /// Fails unless `other` has the same live rows and width.
    pub(crate) fn expect_like(&self, other: &Self) -> Result<(), DeviceError> {
        self.expect_columns(other.columns)?;
        if self.rows == other.rows {
            return Ok(());
        }
        Err(DeviceError::Contract(format!("{} live rows, not {}", self.rows, other.rows)))
    }

    /// Fails unless the columns are there.
    pub(crate) fn expect_range(&self, columns: &Range<usize>) -> Result<(), DeviceError> {
        if columns.start < columns.end && columns.end <= self.columns {
            return Ok(());
        }
        Err(DeviceError::Contract(format!("columns {columns:?} of {}", self.columns)))
    }

    /// [`crate::backend::Backend::upload`].
    pub(crate) fn upload(
        &mut self,
        rows: usize,
        columns: Range<usize>,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        self.expect_range(&columns)?;
        let (values, _) = bytes.as_chunks::<4>();
        if Some(bytes.len()) != rows.checked_mul(columns.len() * 4) {
            return Err(DeviceError::Contract(format!(
                "{} bytes for {rows} rows of {} elements",
                bytes.len(),
                columns.len()
            )));
        }
        let width = self.columns;
        let live = self.set_rows(rows)?;
        for (row, values) in live.chunks_exact_mut(width).zip(values.chunks_exact(columns.len())) {
            for (to, from) in row[columns.clone()].iter_mut().zip(values) {
                *to = f32::from_le_bytes(*from);
            }
        }
        Ok(())
    }

    /// [`crate::backend::Backend::download`].
    pub(crate) fn download(
        &self,
        columns: Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), DeviceError> {
        self.expect_range(&columns)?;
        bytes.clear();
        bytes.reserve(self.rows * columns.len() * 4);
        for row in self.values().chunks_exact(self.columns) {
            bytes.extend(row[columns.clone()].iter().flat_map(|value| value.to_le_bytes()));
        }
        Ok(())
    }
}

impl Activations for CpuBuffer {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
}
