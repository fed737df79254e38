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

    /// All bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
