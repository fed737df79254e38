//! Follows one endpoint's cache: a conversation, and the core that says what to make of it.
//!
//! - [`core`]: what of a leader's word is believed, and what is asked for again (pure)
//! - [`task`]: carries the conversation, and enters what it brings into the index

pub(crate) mod core;
pub(crate) mod task;
