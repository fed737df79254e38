//! Files that a process must not lose, each written whole or not at all.

use std::{fs, io, path::Path};

/// Reads a file; `None` if it was never written.
///
/// # Errors
/// A disk that cannot be read, with the file's name.
pub fn read(data_dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let file = data_dir.join(name);
    match fs::read(&file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(named(&file, &error)),
    }
}

/// Writes a file so that either all of it or what was there before is there afterwards.
///
/// # Errors
/// A disk that is full or read-only, with the file's name.
pub fn write(data_dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let (file, new) = (data_dir.join(name), data_dir.join(format!("{name}.new")));
    let write = || {
        fs::write(&new, bytes)?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, &file)
    };
    write().map_err(|error| named(&file, &error))
}

/// A file that is not what was written.
pub fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn named(file: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}
