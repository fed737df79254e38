//! What users declare: services and their engine's settings.

pub mod flags;

pub use flags::EngineFlags;
