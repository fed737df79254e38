//! A file as bytes, without reading it: bytes come in when a rank first touches them, so that what
//! only other ranks hold is never read here.
//!
//! A device may go on reading weights where they lie after loading ([`crate::tensor::FileMatrix`]);
//! it then holds the mapping, and gives pages back as it takes weights elsewhere.

use std::{
    fs::File,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use memmap2::{Advice, Mmap};

use crate::error::DeviceError;

/// A read-only mapping of a whole file, for as long as anybody holds it.
#[derive(Clone, Debug)]
pub(crate) struct FileMap(Arc<Mapped>);

#[derive(Debug)]
struct Mapped {
    map: Mmap,
    /// What somebody goes on reading where it lies.
    kept: Mutex<Vec<Range<usize>>>,
}

impl FileMap {
    /// Maps `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, DeviceError> {
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
        Ok(Self(Arc::new(Mapped { map, kept: Mutex::default() })))
    }

    /// Gives the memory back that bytes came into; they come in again if they are touched again.
    /// While weights are loaded this keeps a process from holding them twice, packed and as the
    /// file has them. What is kept stays.
    pub(super) fn release(&self) {
        // Whole at every unlock.
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.sort_unstable_by_key(|span| span.start);
        let mut start = 0;
        for span in &*kept {
            self.release_span(start..span.start);
            start = start.max(span.end);
        }
        self.release_span(start..self.0.map.len());
    }

    /// Says that some bytes will be read where they lie.
    pub(crate) fn keep(&self, span: Range<usize>) {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }

    /// Gives back the pages that lie wholly within some bytes, kept or not.
    pub(crate) fn release_span(&self, span: Range<usize>) {
        let length = self.0.map.len();
        let (first, end) = (span.start.next_multiple_of(PAGE), span.end.min(length));
        let end = if end == length { end } else { end / PAGE * PAGE };
        if first >= end {
            return;
        }
        let advice = memmap2::UncheckedAdvice::DontNeed;
        // SAFETY: the mapping is of a file, shared and never written to, so that pages which are
        // dropped hold what the file still has, and come back as the same bytes.
        #[cfg(unix)]
        let done = unsafe { self.0.map.unchecked_advise_range(advice, first, end - first) };
        // A system that does not heed it holds more memory for some seconds, that is all.
        #[cfg(unix)]
        let _ = done;
    }

    /// Has the system begin to read some bytes from the disk, if they are not in memory.
    pub(crate) fn ask_for(&self, span: Range<usize>) {
        // What is not heeded is read when it is touched.
        #[cfg(unix)]
        let _ = self.0.map.advise_range(Advice::WillNeed, span.start, span.len());
    }

    /// Brings some bytes in, as if each page had been touched.
    pub(crate) fn bring_in(&self, span: Range<usize>) {
        #[cfg(target_os = "linux")]
        let _ = self.0.map.advise_range(Advice::PopulateRead, span.start, span.len());
        // Other systems bring them in when they are touched.
        #[cfg(not(target_os = "linux"))]
        let _ = span;
    }

    /// All bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0.map
    }
}

/// The least that pages have; larger ones are released by halves, or not.
const PAGE: usize = 4096;

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
        for span in [0..100_000, 0..10, 5000..5001, 4096..8192, 4095..20_000, 90_000..100_000] {
            map.ask_for(span.clone());
            map.bring_in(span.clone());
            map.release_span(span.clone());
            assert_eq!(map.bytes(), bytes);
            map.keep(span);
            map.release();
            assert_eq!(map.bytes(), bytes);
        }
    }
}
