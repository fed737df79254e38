//! The endpoints, one family per file. Each reads its request, has it prepared, and says what its
//! answer looks like; everything between is shared.

pub(crate) mod adapters;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod generation;
pub(crate) mod models;
pub(crate) mod placement;
pub(crate) mod probes;
pub(crate) mod score;
pub(crate) mod tokenize;
