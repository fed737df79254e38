//! What users declare: services and what belongs to them, out of Kubernetes' own documents.
//!
//! [`objects::parse`] is the front door: text in, typed [`Object`]s out, or every problem at once,
//! each with its path. [`resolve::resolve`] makes of a [`ServiceSpec`] that starts from
//! configurations, and every one starts from presets, one that is whole. Everything here is pure:
//! no clock, no store, no network.
//!
//! | kind | type | what it gives |
//! |---|---|---|
//! | `LLMInferenceService` | [`ServiceSpec`] | `workload`, `prefill`: [`WorkloadSpec`](service::WorkloadSpec) with [`Scaling`](service::Scaling), [`Parallelism`](service::Parallelism), [`PodSpec`] (flags, devices, `refusal` of a node) |
//! | `LLMInferenceServiceConfig` | [`ServiceConfig`] | what services start from (`baseRefs`); `resolve` merges it |
//! | `LeaderWorkerSet` | [`LeaderWorkerSet`] | [`GroupPolicy`] of the service of its name: `service.workload.group_policy(set)` |
//! | `InferencePool` | [`InferencePool`] | `selects(&service.pool_labels())` |
//! | `InferenceModel` | [`InferenceModel`] | a name for models, weights, criticality |
//! | `InferenceObjective` | [`InferenceObjective`] | a priority |
//! | `HTTPRoute` | [`HttpRoute`] | matches, rewrite, weighted backends |
//!
//! # Layout
//! - [`objects`]: files of any kinds; [`kind`]: their names, versions and short forms
//! - [`service`], [`config`], [`lws`], [`pool`], [`objective`], [`route`]: one kind each
//! - [`resolve`]: presets, `baseRefs` and the service's own, merged; templates filled in
//! - [`lora`]: what is said of adapters, by flags or by a service
//! - [`policy`]: how groups live, from annotations, `rolloutStrategy` and `LeaderWorkerSet`
//! - [`pod`]: pods, and which nodes they may be on; `args` reads [`flags`] from a container
//! - [`quantity`]: amounts, durations, counts or percentages
//! - [`document`]: YAML or JSON within bounds; `reader`: fields by name and type, with paths

mod args;
pub mod config;
pub mod document;
mod finding;
pub mod flags;
pub mod kind;
pub mod lora;
pub mod lws;
pub mod metadata;
mod names;
pub mod objective;
pub mod objects;
pub mod pod;
pub mod policy;
pub mod pool;
pub mod quantity;
mod reader;
pub mod resolve;
pub mod route;
pub mod service;

pub use config::ServiceConfig;
pub use finding::{Finding, SpecError};
pub use flags::{EngineFlags, gib, kv_cache_dtype, utilization};
pub use kind::Kind;
pub use lora::{LoraFlags, LoraModule, LoraRoom};
pub use lws::LeaderWorkerSet;
pub use metadata::Metadata;
pub use objective::{InferenceModel, InferenceObjective};
pub use objects::{Object, Objects};
pub use pod::PodSpec;
pub use policy::GroupPolicy;
pub use pool::InferencePool;
pub use resolve::{AppliedConfig, Resolved, resolve};
pub use route::HttpRoute;
pub use service::{ServiceSpec, Services};

#[cfg(test)]
mod tests;
