//! Zeroed memory that starts on a cache line, without `unsafe`.
//!
//! What is large is mapped: it costs nothing until it is touched, which matters for KV pools of
//! many gigabytes, and comes in huge pages where the system allows that.

use bytemuck::Pod;
use memmap2::{Advice, MmapMut};

use crate::error::DeviceError;

/// A fixed number of elements, the first of which lies on a 64-byte boundary.
#[derive(Debug)]
pub(crate) struct Aligned<T> {
    data: Data<T>,
    len: usize,
}

#[derive(Debug)]
enum Data<T> {
    /// With room to skip to a boundary, which is at this element.
    Vec(Vec<T>, usize),
    Map(MmapMut),
}

impl<T: Pod> Aligned<T> {
    /// `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Result<Self, DeviceError> {
        let too_much = || DeviceError::OutOfMemory(format!("no room for {len} elements"));
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(too_much)?;
        if bytes >= MAPPED {
            let map = MmapMut::map_anon(bytes).map_err(|_| too_much())?;
            // Ordinary pages do as well, only slower.
            let _ = map.advise(Advice::HugePage);
            return Ok(Self { data: Data::Map(map), len });
        }
        Ok(Self::on_heap(len))
    }

    /// `len` zeros that are few enough for the allocator.
    pub(crate) fn on_heap(len: usize) -> Self {
        let slack = LINE / size_of::<T>();
        let data = vec![T::zeroed(); len + slack];
        let start = data.as_ptr().align_offset(LINE).min(slack);
        Self { data: Data::Vec(data, start), len }
    }

    /// Makes room for at least `len` elements; what it held is lost if it grows.
    pub(crate) fn reserve(&mut self, len: usize) -> Result<(), DeviceError> {
        if len > self.len {
            *self = Self::zeroed(len.next_multiple_of(1024))?;
        }
        Ok(())
    }
}

impl<T: Pod> std::ops::Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.data {
            Data::Vec(data, start) => &data[*start..start + self.len],
            // A mapping begins with a page, and was made for this many.
            Data::Map(map) => bytemuck::cast_slice(map),
        }
    }
}

impl<T: Pod> std::ops::DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.data {
            Data::Vec(data, start) => &mut data[*start..*start + self.len],
            Data::Map(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

const LINE: usize = 64;
/// Bytes from which memory is mapped: some huge pages.
const MAPPED: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_on_a_line_and_is_zero() {
        for len in [0, 1, 17, 4097, MAPPED / 2 + 1] {
            let memory = Aligned::<u16>::zeroed(len).unwrap();
            assert_eq!(memory.as_ptr() as usize % LINE, 0);
            assert_eq!(memory.len(), len);
            assert!(memory.iter().all(|&element| element == 0));
        }
        assert!(Aligned::<f32>::zeroed(usize::MAX / 2).is_err());
    }
}
