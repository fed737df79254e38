//! What users declare: services and their engine's settings.
//!
//! # Layout
//! - [`service`]: `LLMInferenceService`, from text to a typed value with every problem at once
//! - [`flags`]: the engine's settings under vLLM's names; `args` reads them from a container
//! - [`document`]: files of YAML or JSON within bounds
//! - `reader`: fields by name and type, with paths

mod args;
pub mod document;
pub mod flags;
mod reader;
pub mod service;

pub use flags::EngineFlags;
pub use reader::Finding;
pub use service::{ServiceSpec, Services, SpecError};
