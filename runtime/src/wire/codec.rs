//! Messages as bytes and back: validated before anything is read, bounded before anything is kept.

use rkyv::{
    Archive, Deserialize, Serialize,
    api::high::{HighDeserializer, HighSerializer, HighValidator},
    bytecheck::CheckBytes,
    rancor,
    ser::allocator::ArenaHandle,
    util::AlignedVec,
};

use super::MAX_MESSAGE_BYTES;

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Longer than [`MAX_MESSAGE_BYTES`].
    #[error("a {what} message of {bytes} bytes is over the limit of {MAX_MESSAGE_BYTES}")]
    TooLong {
        /// The type's name.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// The bytes are no archive of this type.
    #[error("not a valid {what} message")]
    Invalid {
        /// The type's name.
        what: &'static str,
        /// What bytecheck found.
        #[source]
        source: rancor::Error,
    },
    /// A well-formed archive that says something impossible.
    #[error("a {what} message is impossible: {why}")]
    Impossible {
        /// The type's name.
        what: &'static str,
        /// Which field, and what would be right.
        why: String,
    },
    /// It could not be written.
    #[error("cannot encode a {what} message")]
    Encode {
        /// The type's name.
        what: &'static str,
        /// Why.
        #[source]
        source: rancor::Error,
    },
}

/// What may be sent between processes: the conversations' enums implement it and nothing else.
pub trait Message: Sized {
    /// For errors and logs.
    const NAME: &'static str;

    /// Refuses what the layout cannot: returns the field and what would be right.
    ///
    /// # Errors
    /// A sentence that names the field.
    fn check(&self) -> Result<(), String>;
}

/// Turns a message into bytes.
///
/// # Errors
/// [`WireError::TooLong`] if no receiver would take it.
pub fn encode<T>(message: &T) -> Result<AlignedVec, WireError>
where
    T: Message + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    let bytes = rkyv::to_bytes::<rancor::Error>(message)
        .map_err(|source| WireError::Encode { what: T::NAME, source })?;
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(WireError::TooLong { what: T::NAME, bytes: bytes.len() });
    }
    Ok(bytes)
}

/// Turns received bytes into a message, or says why they are none. Never panics.
///
/// # Errors
/// [`WireError`], for any input.
pub fn decode<T>(bytes: &[u8]) -> Result<T, WireError>
where
    T: Message + Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>>
        + Deserialize<T, HighDeserializer<rancor::Error>>,
{
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(WireError::TooLong { what: T::NAME, bytes: bytes.len() });
    }
    let mut aligned = AlignedVec::<16>::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    let message: T = rkyv::from_bytes::<T, rancor::Error>(&aligned)
        .map_err(|source| WireError::Invalid { what: T::NAME, source })?;
    message.check().map_err(|why| WireError::Impossible { what: T::NAME, why })?;
    Ok(message)
}

/// Refuses a list that is longer than it can honestly be.
pub(super) fn bounded<T>(field: &str, list: &[T], limit: usize) -> Result<(), String> {
    if list.len() <= limit {
        return Ok(());
    }
    Err(format!("{field} has {} entries, at most {limit} are possible", list.len()))
}

/// Refuses a text that is longer than it can honestly be.
pub(super) fn at_most(field: &str, text: &str, limit: usize) -> Result<(), String> {
    if text.len() <= limit {
        return Ok(());
    }
    Err(format!("{field} has {} bytes, at most {limit} are possible", text.len()))
}
