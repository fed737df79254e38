//! Zeroed memory that starts on a cache line, without `unsafe`: a vector with room to skip to one.
//!
//! A zeroed vector costs nothing until it is touched, which matters for KV pools of many gigabytes.

use crate::error::DeviceError;

/// A fixed number of elements, the first of which lies on a 64-byte boundary.
#[derive(Debug)]
pub(crate) struct Aligned<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Result<Self, DeviceError> {
        let slack = LINE / size_of::<T>();
        let too_much = || DeviceError::OutOfMemory(format!("no room for {len} elements"));
        let room = len.checked_add(slack).ok_or_else(too_much)?;
        // Asking first, because a zeroed vector aborts the process when there is no memory.
        Vec::<T>::new().try_reserve_exact(room).map_err(|_| too_much())?;
        let data = vec![T::default(); room];
        let start = data.as_ptr().align_offset(LINE).min(slack);
        Ok(Self { data, start, len })
    }

    /// Makes room for at least `len` elements; what it held is lost if it grows.
    pub(crate) fn reserve(&mut self, len: usize) -> Result<(), DeviceError> {
        if len > self.len {
            *self = Self::zeroed(len.next_multiple_of(1024))?;
        }
        Ok(())
    }
}

impl<T> std::ops::Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.data[self.start..self.start + self.len]
    }
}

impl<T> std::ops::DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.len]
    }
}

const LINE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_on_a_line_and_is_zero() {
        for len in [0, 1, 17, 4097] {
            let memory = Aligned::<u16>::zeroed(len).unwrap();
            assert_eq!(memory.as_ptr() as usize % LINE, 0);
            assert_eq!(memory.len(), len);
            assert!(memory.iter().all(|&element| element == 0));
        }
        assert!(Aligned::<f32>::zeroed(usize::MAX / 2).is_err());
    }
}
