//! Errors that cross a floor: what the user is told and what the operator needs are separate.
//!
//! Each module has its own small `thiserror` enum. Where an error leaves for a client it becomes a
//! [`PublicError`]: a kind (which decides the status code) and a message that is safe to show; the
//! cause stays in the log. A source is never repeated in `Display`; log the chain with [`chain`].

use std::{error::Error, fmt};

use rkyv::{Archive, Deserialize, Serialize};

/// What sort of failure a client sees. The gateway maps each to one HTTP status.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request itself is wrong; repeating it will not help.
    BadRequest,
    /// It names something that is not there.
    NotFound,
    /// There is no room now; the same request may succeed here later or elsewhere at once.
    Overloaded,
    /// Whoever was to answer is gone or not ready.
    Unavailable,
    /// The time that the request was given has passed.
    DeadlineExceeded,
    /// A fault of ours.
    Internal,
}

/// A failure as a client may see it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PublicError {
    /// Decides the status code.
    pub kind: ErrorKind,
    /// Safe to show: names what was wrong and what would be right, never an inner detail.
    pub message: String,
    /// The request field at fault, if one is.
    pub param: Option<String>,
}

impl PublicError {
    /// An error without a field at fault.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: None }
    }

    /// A bad request that names the field at fault.
    pub fn bad_request(message: impl Into<String>, param: impl Into<String>) -> Self {
        Self { kind: ErrorKind::BadRequest, message: message.into(), param: Some(param.into()) }
    }
}

impl fmt::Display for PublicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for PublicError {}

/// An error with all its causes in one line, outermost first, for logs and for a terminal.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
