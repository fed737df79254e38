//! Floor 0: what every other crate of Troupe stands on, and nothing of Troupe below it.
//!
//! # Layout
//! - [`id`], [`error`]: the names of things, and errors, their public text apart from inner detail
//! - [`config`], [`clock`], [`backoff`], [`shutdown`]: settings, time, retry spacing, ending
//! - [`disk`]: files that are written whole or not at all
//! - [`wire`]: every message that crosses a process border, grouped by conversation
//! - [`transport`]: `Link`, the contract for moving frames and tensors: in-process, QUIC, faulty
//! - [`discovery`]: `Registry`, the contract for finding each other: embedded, etcd
//! - [`actor`]: refs that look the same here and there
//! - [`spec`]: what users declare (`LLMInferenceService`)
//! - [`model`]: what a model is without its weights: config, tokenizer, chat template
//! - [`prefix`]: the chained block hash shared by leaders and gateways
//! - [`telemetry`]: logs, traces, metric names
//!
//! What is deliberately absent: any knowledge of HTTP, of devices, and of who plays which role.

pub mod actor;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod discovery;
pub mod disk;
pub mod error;
pub mod id;
pub mod model;
pub mod prefix;
pub mod shutdown;
pub mod spec;
pub mod telemetry;
pub mod transport;
pub mod wire;
