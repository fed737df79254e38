//! The shapes of OpenAI's API, as serde types and nothing else.
//!
//! A request is read in two passes over the same bytes: [`common::Sampling`] holds what completions
//! and chat share, the endpoint's own type the rest. Two passes instead of `serde(flatten)`,
//! because flattening loses the place of a mistake, and a client is told where it went wrong.
//!
//! | file | endpoint |
//! |---|---|
//! | [`common`] | sampling options, usage, errors |
//! | [`completions`] | `/v1/completions` |
//! | [`chat`] | `/v1/chat/completions` |
//! | [`embeddings`] | `/v1/embeddings` |
//! | [`score`] | `/score`, `/rerank` |
//! | [`pooling`] | what these share |
//! | [`structured`] | what an output must match, for both |
//! | [`models`] | `/v1/models`, `/version`, `/load` |
//! | [`tools`] | tool calls in chat's answers |
//! | [`tokenize`] | `/tokenize`, `/detokenize` |
//! | [`adapters`] | `/v1/load_lora_adapter`, `/v1/unload_lora_adapter` |
//!
//! Every request field is optional here; what must be there is decided in `ingress`. Unknown fields
//! are accepted, because clients are newer than servers.

pub mod adapters;
pub mod chat;
pub mod common;
pub mod completions;
pub mod embeddings;
pub mod models;
pub mod pooling;
pub mod score;
pub mod structured;
pub mod tokenize;
pub mod tools;
