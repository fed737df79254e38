//! From a typed request to [`prepared::Prepared`], after which nothing is checked again.
//!
//! - [`prepared`]: what the rest of the gateway works with
//! - [`options`]: sampling options: defaults, ranges, the texts of mistakes
//! - [`limits`]: how long prompt and output may be
//! - [`completions`], [`chat`]: the two endpoints' own fields
//! - [`texts`]: whole texts, for models that make vectors of them
//! - [`grammar`]: what the output must match
//! - [`seeds`]: for requests without one
//! - [`sizing`]: a prompt with its room
//! - [`messages`]: a conversation, made fit for a chat template
//! - [`tools`]: which tools may or must be called; [`reply`]: how answers are to be read
//! - [`thinking`]: whether they begin with reasoning, and a grammar behind it
//! - [`context`]: what the HTTP request says beside its body; [`hints`]: to placement

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod context;
pub(crate) mod grammar;
pub(crate) mod hints;
pub(crate) mod limits;
pub(crate) mod messages;
pub(crate) mod options;
pub(crate) mod prepared;
pub(crate) mod reply;
pub(crate) mod seeds;
pub(crate) mod sizing;
pub(crate) mod texts;
pub(crate) mod thinking;
pub(crate) mod tools;
