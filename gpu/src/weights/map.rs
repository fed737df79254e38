//! A file as bytes, without reading it: bytes come in when a rank first touches them, so that what
//! only other ranks hold is never read here.

use std::{fs::File, path::Path};

use memmap2::Mmap;

use crate::error::DeviceError;

/// A read-only mapping of a whole file.
#[derive(Debug)]
pub(super) struct FileMap(Mmap);

impl FileMap {
    /// Maps `path`.
    pub(super) fn open(path: &Path) -> Result<Self, DeviceError> {
        let failed = |error: std::io::Error| DeviceError::Weights {
            path: path.to_owned(),
            why: format!("cannot be read: {error}"),
        };
        let file = File::open(path).map_err(failed)?;
        // SAFETY: the mapping is private to reading and lives as long as every slice that is lent
        // out of it. What it cannot guard against is another process that rewrites or truncates the
        // file meanwhile; weight files are written once and replaced by rename, never in place, and
        // no value in them is trusted for memory safety: lengths were checked against the mapping.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(Self(map))
    }

    /// Gives the memory back that bytes came into; they come in again if they are touched again.
    /// While weights are loaded this keeps a process from holding them twice, packed and as the
    /// file has them.
    pub(super) fn release(&self) {
        // SAFETY: the mapping is of a file, shared and never written to, so that pages which are
        // dropped hold what the file still has, and come back as the same bytes.
        #[cfg(unix)]
        let done = unsafe { self.0.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        // A system that does not heed it holds more memory for some seconds, that is all.
        #[cfg(unix)]
        let _ = done;
    }

    /// All bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_released_comes_back_as_it_was() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(file.path(), &bytes).unwrap();
        let map = FileMap::open(file.path()).unwrap();
        assert_eq!(map.bytes(), bytes);
        map.release();
        assert_eq!(map.bytes(), bytes);
    }
}
