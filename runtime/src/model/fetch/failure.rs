//! What can go wrong between here and a model, said so that the reader knows what to do.

use std::{io, path::PathBuf, time::Duration};

/// Why a file or a list of files did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The other side answered, and not with what was asked for.
    #[error("{url} answers {status}{}", hint(*status))]
    Status {
        /// What was asked for, without anything secret.
        url: String,
        /// The HTTP status.
        status: u16,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The connection failed, was cut, or stood still.
    #[error("{url}: {reason}")]
    Broken {
        /// What was asked for.
        url: String,
        /// Why, as a chain of causes.
        reason: String,
    },
    /// It came to its end before all of it was there.
    #[error("{url} sent {got} of {wanted} bytes")]
    Short {
        /// What was asked for.
        url: String,
        /// Bytes that came.
        got: u64,
        /// Bytes that were asked for.
        wanted: u64,
    },
    /// Every byte came, and they are others than the source says.
    #[error("{url} is not the file that it should be: its {kind} is {found}, not {wanted}")]
    Checksum {
        /// What was asked for.
        url: String,
        /// Which sum.
        kind: &'static str,
        /// Of what came.
        found: String,
        /// What was promised.
        wanted: String,
    },
    /// What was answered cannot be understood.
    #[error("{url} answers what cannot be read: {reason}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file here could not be written or read.
    #[error("{}", file.display())]
    Disk {
        /// Which.
        file: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The disk is too small.
    #[error(
        "{} more bytes are needed for {}, and its disk has {free} left: make room, or name another \
         folder by HF_HOME (the hub's cache) or XDG_CACHE_HOME (all else)",
        needed, folder.display()
    )]
    Full {
        /// Where it was to go.
        folder: PathBuf,
        /// What is missing of the model.
        needed: u64,
        /// What the disk has.
        free: u64,
    },
    /// A setting makes no sense.
    #[error("{0}")]
    Setting(String),
}

impl Failure {
    /// Whether asking again may help, and after how long at the least.
    pub(crate) fn retry(&self) -> Option<Duration> {
        match self {
            Self::Status { status: 408 | 425 | 429 | 500..=599, retry_after, .. } => {
                Some(retry_after.unwrap_or_default())
            }
            Self::Broken { .. } | Self::Short { .. } => Some(Duration::ZERO),
            _ => None,
        }
    }

    pub(crate) fn disk(file: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| Self::Disk { file, source }
    }
}

/// What a status of these means, for whoever does not know them by heart.
fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => " (not allowed)",
        404 | 410 => " (not there)",
        429 => " (too many requests)",
        500..=599 => " (its own fault)",
        _ => "",
    }
}
