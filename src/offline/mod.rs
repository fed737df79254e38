//! Work without anybody waiting for it: a file of requests in, a file of results out.
//!
//! - [`files`]: lines in, lines out
//! - [`prompts`]: what a line of `troupe run`'s input asks for, and what its result looks like
//! - [`batch`]: the same for OpenAI's batch files
//! - [`drive`]: asks for every line, so many at a time, and writes the results in order
//!
//! Requests go to a gateway over HTTP, also where that gateway is in this process. All that makes a
//! request out of a body (checks, chat template, tokens, retries, text) is behind its routes, so
//! this is the same flow as for any client, and a line fails with the words that a client gets.
//! What HTTP costs on loopback is tens of microseconds per line.

pub(crate) mod batch;
pub(crate) mod drive;
pub(crate) mod files;
pub(crate) mod prompts;
