//! Activations on the device: rows one after the other without gaps, in the type that the device
//! was opened for, or in `f32`.

use std::{ops::Range, sync::Arc};

use super::{
    driver::{Driver, Region},
    memory::{Allocation, extent},
};
use crate::{backend::Activations, dtype::Dtype, error::DeviceError};

/// A buffer of activations.
#[derive(Debug)]
pub struct CudaBuffer<D: Driver> {
    memory: Allocation<D>,
    rows: usize,
    columns: usize,
    capacity: usize,
    dtype: Dtype,
}

impl<D: Driver> CudaBuffer<D> {
    /// Zeros, with no live rows.
    pub(super) fn zeroed(
        driver: &Arc<D>,
        (capacity, columns): (usize, usize),
        dtype: Dtype,
    ) -> Result<Self, DeviceError> {
        if columns == 0 || u32::try_from(columns).is_err() || u32::try_from(capacity).is_err() {
            let why = format!("a buffer of {capacity} rows of {columns} elements");
            return Err(DeviceError::Contract(why));
        }
        let bytes = extent(&[capacity, columns, dtype.size()])?;
        Ok(Self { memory: Allocation::zeroed(driver, bytes)?, rows: 0, columns, capacity, dtype })
    }

    /// The live rows.
    pub(super) fn live(&self) -> Result<Region, DeviceError> {
        self.first_rows(self.rows)
    }

    /// Room for `rows` rows from the first, live or not: what a padded step works on.
    pub(super) fn first_rows(&self, rows: usize) -> Result<Region, DeviceError> {
        self.memory.part(0, extent(&[rows, self.columns, self.dtype.size()])?)
    }

    /// Makes `rows` rows live, which hold anything.
    pub(super) fn set_rows(&mut self, rows: usize) -> Result<(), DeviceError> {
        if rows > self.capacity {
            let why = format!("{rows} rows in a buffer for {}", self.capacity);
            return Err(DeviceError::Contract(why));
        }
        self.rows = rows;
        Ok(())
    }

    /// Fails unless rows are `columns` wide.
    pub(super) fn expect_columns(&self, columns: usize) -> Result<(), DeviceError> {
        match self.columns == columns {
            true => Ok(()),
            false => {
                let why = format!("rows of {} elements, not {columns}", self.columns);
                Err(DeviceError::Contract(why))
            }
        }
    }

    /// Fails unless there is room for `rows` rows.
    pub(super) fn expect_room(&self, rows: usize) -> Result<(), DeviceError> {
        match rows <= self.capacity {
            true => Ok(()),
            false => {
                let why = format!("{rows} rows in a buffer for {}", self.capacity);
                Err(DeviceError::Contract(why))
            }
        }
    }

    /// Fails unless elements are of this type.
    pub(super) fn expect_dtype(&self, dtype: Dtype) -> Result<(), DeviceError> {
        match self.dtype == dtype {
            true => Ok(()),
            false => Err(DeviceError::Contract(format!("{} where {dtype} is meant", self.dtype))),
        }
    }

    /// Fails unless `other` has the same live rows, width and type.
    pub(super) fn expect_like(&self, other: &Self) -> Result<(), DeviceError> {
        self.expect_columns(other.columns)?;
        self.expect_dtype(other.dtype)?;
        match self.rows == other.rows {
            true => Ok(()),
            false => {
                Err(DeviceError::Contract(format!("{} live rows, not {}", self.rows, other.rows)))
            }
        }
    }

    /// Fails unless the columns are there.
    pub(super) fn expect_range(&self, columns: &Range<usize>) -> Result<(), DeviceError> {
        match columns.start < columns.end && columns.end <= self.columns {
            true => Ok(()),
            false => Err(DeviceError::Contract(format!("columns {columns:?} of {}", self.columns))),
        }
    }

    /// Where `columns` of a row are.
    pub(super) fn run(&self, row: usize, columns: &Range<usize>) -> Result<Region, DeviceError> {
        let size = self.dtype.size();
        let first = extent(&[row, self.columns, size])? + extent(&[columns.start, size])?;
        self.memory.part(first, extent(&[columns.len(), size])?)
    }
}

impl<D: Driver> Activations for CudaBuffer<D> {
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
        self.dtype
    }
}
