//! What a file must hash to: the hub names large files by their SHA-256, and small ones as git
//! does.

use std::{fs::File, io::Read, path::Path};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::failure::Failure;

/// A promise about a file's content, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// SHA-256 of the content.
    Sha256(String),
    /// SHA-1 of git's header and the content: the name of a blob.
    GitBlob(String),
}

impl Checksum {
    /// What the hub's name of a blob promises, by its length.
    pub(crate) fn of_blob(name: &str) -> Option<Self> {
        let is_hex = name.bytes().all(|byte| byte.is_ascii_hexdigit());
        match name.len() {
            40 if is_hex => Some(Self::GitBlob(name.to_ascii_lowercase())),
            64 if is_hex => Some(Self::Sha256(name.to_ascii_lowercase())),
            _ => None,
        }
    }

    /// Reads a whole file and compares; blocks.
    pub(crate) fn check(&self, file: &Path, url: &str) -> Result<(), Failure> {
        let (kind, wanted, mut context) = match self {
            Self::Sha256(wanted) => ("SHA-256", wanted, Context::new(&SHA256)),
            Self::GitBlob(wanted) => ("git id", wanted, Context::new(&SHA1_FOR_LEGACY_USE_ONLY)),
        };
        let mut reader = File::open(file).map_err(Failure::disk(file))?;
        if let Self::GitBlob(_) = self {
            let size = reader.metadata().map_err(Failure::disk(file))?.len();
            context.update(format!("blob {size}\0").as_bytes());
        }
        let mut part = vec![0; PART];
        loop {
            match reader.read(&mut part).map_err(Failure::disk(file))? {
                0 => break,
                read => context.update(&part[..read]),
            }
        }
        let digest = context.finish();
        let found: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        if found == *wanted {
            return Ok(());
        }
        Err(Failure::Checksum { url: url.to_owned(), kind, found, wanted: wanted.clone() })
    }
}

const PART: usize = 1 << 20;
