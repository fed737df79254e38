//! Load on a server, and what its clients see of it: `troupe bench`.
//!
//! The flags, formulas and keys are those of `vllm bench serve`, so that figures of several servers
//! can be put side by side, whichever of the two tools made them:
//!
//! - TTFT: from the request's first byte sent to its first chunk with a choice
//! - ITL: between two chunks of a request; a chunk may hold several tokens
//! - TPOT: (E2EL - TTFT) / (output tokens - 1), once per request of two or more tokens
//! - E2EL: from the request's first byte sent to its last chunk with a choice
//!
//! Input and output tokens are counted as the server does, by the usage that it reports.
//!
//! - [`target`]: which server, which model
//! - [`vocabulary`]: which tokens prompts are made of
//! - [`dataset`]: what is asked for; [`random_prompts`], [`file_prompts`] make it
//! - [`arrivals`]: when it is asked for
//! - [`request`]: one request, measured
//! - [`load`]: all of them
//! - [`measure`]: outcomes to figures
//! - [`report`]: figures to text and JSON
//! - [`checkpoint`]: a Llama of random weights, for a server to serve
//! - [`device`]: what this machine can do at most
//! - [`random`]: numbers that are the same on every machine

pub(crate) mod arrivals;
pub(crate) mod checkpoint;
pub(crate) mod dataset;
pub(crate) mod device;
mod file_prompts;
pub(crate) mod load;
pub(crate) mod measure;
pub(crate) mod random;
mod random_prompts;
pub(crate) mod report;
pub(crate) mod request;
pub(crate) mod target;
pub(crate) mod vocabulary;
