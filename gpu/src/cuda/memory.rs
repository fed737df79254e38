//! Device memory that frees itself, and the checks that turn an offset and a length into a
//! [`Region`]: whoever has a region knows that it lies within one live allocation.

use std::sync::Arc;

use super::driver::{Address, Driver, Region};
use crate::error::DeviceError;

/// An allocation, given back when it is dropped.
#[derive(Debug)]
pub struct Allocation<D: Driver> {
    driver: Arc<D>,
    address: Address,
    bytes: u64,
}

impl<D: Driver> Allocation<D> {
    /// Reserves `bytes` and fills them with zeros. No bytes take no room.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    pub fn zeroed(driver: &Arc<D>, bytes: u64) -> Result<Self, DeviceError> {
        let new = Self::new(driver, bytes)?;
        if bytes > 0 {
            driver.fill(new.address, 0, bytes)?;
        }
        Ok(new)
    }

    /// Reserves `bytes`, which hold anything.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    pub fn new(driver: &Arc<D>, bytes: u64) -> Result<Self, DeviceError> {
        let address = match bytes {
            0 => Address(0),
            bytes => driver.allocate(bytes)?,
        };
        Ok(Self { driver: Arc::clone(driver), address, bytes })
    }

    /// Reserves as many bytes as `contents` has, and copies them there.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], or the driver's.
    pub fn holding(driver: &Arc<D>, contents: &[u8]) -> Result<Self, DeviceError> {
        let new = Self::new(driver, contents.len() as u64)?;
        if !contents.is_empty() {
            driver.upload(contents, new.address)?;
        }
        Ok(new)
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All of it.
    pub fn all(&self) -> Region {
        Region { address: self.address, bytes: self.bytes }
    }

    /// `bytes` from `first` on.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there are not so many.
    pub fn part(&self, first: u64, bytes: u64) -> Result<Region, DeviceError> {
        match first.checked_add(bytes) {
            Some(end) if end <= self.bytes => {
                Ok(Region { address: Address(self.address.0 + first), bytes })
            }
            _ => Err(DeviceError::Contract(format!(
                "bytes {first}..+{bytes} of {} on the device",
                self.bytes
            ))),
        }
    }
}

impl<D: Driver> Drop for Allocation<D> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.driver.free(self.address);
        }
    }
}

/// Memory that operations work in between their launches. It grows when a larger step comes, and
/// never while launches are captured: a captured step has run before.
#[derive(Debug)]
pub struct Scratch<D: Driver> {
    held: Allocation<D>,
}

impl<D: Driver> Scratch<D> {
    /// Nothing yet.
    ///
    /// # Errors
    /// None in practice: nothing is reserved.
    pub fn new(driver: &Arc<D>) -> Result<Self, DeviceError> {
        Ok(Self { held: Allocation::new(driver, 0)? })
    }

    /// `bytes` of it, which hold anything.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    pub fn reserve(&mut self, bytes: u64) -> Result<Region, DeviceError> {
        if bytes > self.held.bytes {
            let driver = Arc::clone(&self.held.driver);
            // What still runs may use what is there: the driver waits for it before it frees.
            driver.synchronize()?;
            self.held = Allocation::new(&driver, 0)?;
            self.held = Allocation::new(&driver, bytes.next_multiple_of(GRAIN))?;
        }
        self.held.part(0, bytes)
    }

    /// Bytes that it has by now.
    pub fn bytes(&self) -> u64 {
        self.held.bytes
    }
}

/// `rows * columns * size`, or a contract error.
///
/// # Errors
/// [`DeviceError::Contract`] if that is no number.
pub fn extent(factors: &[usize]) -> Result<u64, DeviceError> {
    let product =
        factors.iter().try_fold(1u64, |product, &factor| product.checked_mul(factor as u64));
    product.ok_or_else(|| DeviceError::Contract(format!("{factors:?} elements")))
}

/// Scratch memory grows in steps of so many bytes, so that it does not grow often.
const GRAIN: u64 = 1 << 20;
