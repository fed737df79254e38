//! Why moving bytes failed, in the words that every carrier shares.
//!
//! Carriers differ in what they notice and when; their users must not. So each carrier translates
//! into [`LinkError`], and what one side tells the other about a single conversation is one of four
//! [`Abort`]s, which travel as a number.

use std::time::Duration;

use super::{Class, Conversation, PeerAddr};
use crate::wire::WireError;

/// Why moving bytes failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// No answer in time.
    #[error("{what} took longer than {deadline:?}")]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// The limit.
        deadline: Duration,
    },
    /// Nobody is there, or it refused.
    #[error("cannot connect to {peer}: {why}")]
    Unreachable {
        /// Whom.
        peer: PeerAddr,
        /// What the carrier said.
        why: String,
    },
    /// The connection is over.
    #[error("the connection to {peer} is closed: {why}")]
    Closed {
        /// To whom.
        peer: String,
        /// The reason given, or what was noticed.
        why: String,
    },
    /// The peer dropped this conversation.
    #[error("the peer dropped the conversation")]
    Reset,
    /// The peer ended the conversation in order, though a frame was expected.
    #[error("the peer ended the conversation early")]
    Ended,
    /// This direction was finished or given up by ourselves; nothing more can be sent.
    #[error("this direction of the conversation is over: {0}")]
    Over(&'static str),
    /// What was received is no frame or no such message, or the peer says so of what we sent.
    #[error("malformed frame: {0}")]
    Malformed(String),
    /// The certificate does not allow this.
    #[error("not allowed: {0}")]
    Forbidden(String),
}

/// Why one side gives up a conversation before its end, as the other side is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abort {
    /// Its owner dropped it: the ordinary abort.
    Dropped,
    /// The role or the class of the connection may not hold this conversation.
    Forbidden,
    /// What came was no frame.
    Malformed,
    /// The first frame did not come in time.
    Silent,
}

// === impl LinkError ===

impl LinkError {
    /// A conversation was opened on a connection of another class than its own.
    pub(crate) fn wrong_class(what: &Conversation, class: Class) -> Self {
        let needed = what.class();
        Self::Forbidden(format!("{what:?} belongs on a {needed:?} connection, this is {class:?}"))
    }
}

// === impl Abort ===

impl Abort {
    /// As it travels.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Dropped => 0,
            Self::Forbidden => 1,
            Self::Malformed => 2,
            Self::Silent => 3,
        }
    }

    /// From a peer's number; one that a later version made up counts as dropped.
    pub(crate) fn from_code(code: u64) -> Self {
        match code {
            1 => Self::Forbidden,
            2 => Self::Malformed,
            3 => Self::Silent,
            _ => Self::Dropped,
        }
    }

    /// What the side that was told returns to its user.
    pub(crate) fn told(self) -> LinkError {
        match self {
            Self::Dropped | Self::Silent => LinkError::Reset,
            Self::Forbidden => {
                LinkError::Forbidden("the peer refuses this conversation to our role".into())
            }
            Self::Malformed => LinkError::Malformed("the peer could not read what we sent".into()),
        }
    }
}

impl From<WireError> for LinkError {
    fn from(error: WireError) -> Self {
        Self::Malformed(crate::error::chain(&error))
    }
}
