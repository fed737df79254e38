//! Files of keys and certificates: replaced as a whole or not at all, and private ones never
//! readable by others.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::TlsError;

/// Who may read a file.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    /// Everybody on the host.
    Everyone,
    /// Its owner only.
    Owner,
}

/// Reads a file of text.
///
/// # Errors
/// [`TlsError::File`].
pub fn read(path: &Path) -> Result<String, TlsError> {
    fs::read_to_string(path).map_err(|source| error(path, source))
}

/// Writes beside the file and renames over it, so that no reader ever sees half of one.
///
/// # Errors
/// [`TlsError::File`].
pub fn write(path: &Path, text: &str, access: Access) -> Result<(), TlsError> {
    let mode = match access {
        Access::Everyone => 0o644,
        Access::Owner => 0o600,
    };
    let temporary = path.with_extension("new");
    let written = || -> std::io::Result<()> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        // One that a crash left behind may have another mode.
        if temporary.exists() {
            fs::remove_file(&temporary)?;
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    written().map_err(|source| error(path, source))
}

fn error(path: &Path, source: std::io::Error) -> TlsError {
    TlsError::File { path: path.display().to_string(), source }
}
