//! From a leader's chunks to what the client reads.
//!
//! - [`stream`]: the core of one prompt's stream: positions, text, stop strings, ends, retries
//! - [`stop`]: stop strings
//! - [`execution`]: carries out what the core says: places, opens attempts, reads, tells finishes
//! - [`shape`]: what an endpoint's answer looks like: [`completions`], [`chat`], [`vectors`]
//! - [`logprobs`]: log-probabilities in both styles
//! - [`pace`]: how often a stream speaks
//! - [`answer`]: many prompts' executions as one answer: a JSON body or server-sent events
//!
//! Both forms of an answer are folded from the same deltas, so a stream's parts always join to the
//! text of the whole.

pub(crate) mod answer;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod execution;
pub(crate) mod logprobs;
pub(crate) mod message;
pub(crate) mod pace;
pub(crate) mod parse;
pub(crate) mod shape;
pub(crate) mod stop;
pub(crate) mod stream;
pub(crate) mod vectors;
