//! What every place that models come from can do: name the files that it has, and read a part of
//! one.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::{checksum::Checksum, failure::Failure};

/// The files of one model at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Names this state of the files: equal for equal files. Safe as the name of a folder.
    pub(crate) version: String,
    /// Every file, by path.
    pub(crate) files: Vec<RemoteFile>,
}

/// A file that has not come yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    /// Below the model's folder, with slashes.
    pub(crate) path: String,
    /// In bytes.
    pub(crate) size: u64,
    /// Changes when the file does; safe as the name of a file.
    pub(crate) tag: String,
    /// What it must hash to, where the source says so.
    pub(crate) checksum: Option<Checksum>,
}

/// Bytes as they come.
pub(crate) type Body = BoxStream<'static, Result<Bytes, Failure>>;

/// A place that has a model's files.
#[async_trait]
pub(crate) trait Origin: Send + Sync {
    /// What it has.
    async fn list(&self) -> Result<Listing, Failure>;

    /// Exactly the bytes of a range that is within the file and not empty.
    async fn read(&self, file: &RemoteFile, range: Range<u64>) -> Result<Body, Failure>;
}
