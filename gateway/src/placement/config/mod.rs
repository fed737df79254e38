//! `EndpointPickerConfig`: which plug-ins place requests, as llm-d and the Gateway API Inference
//! Extension write it.
//!
//! A plug-in, parameter or profile that does not exist is refused, with what there is: a placement
//! that silently does something else is found out by its bill.
//!
//! - [`table`]: every plug-in by name
//! - [`parameters`]: reading their parameters
//! - [`read`]: the document

mod parameters;
mod read;
mod table;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use serde_json::Value;
use troupe_runtime::spec::document;

use super::handler::Placer;

/// What places requests, read and checked.
#[derive(Clone)]
pub struct PickerConfig {
    pub(crate) placer: Arc<Placer>,
    /// What is taken and does nothing.
    pub warnings: Vec<String>,
}

/// All that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct PickerError(pub Vec<String>);

impl PickerConfig {
    /// Reads YAML or JSON.
    ///
    /// # Errors
    /// [`PickerError`], with every problem.
    pub fn read(text: &str) -> Result<Self, PickerError> {
        let documents =
            document::read(text).map_err(|error| PickerError(vec![error.to_string()]))?;
        match <[Value; 1]>::try_from(documents) {
            Ok([document]) => Self::from_document(&document),
            Err(documents) => {
                let count = documents.len();
                Err(PickerError(vec![format!("must be one document, is {count}")]))
            }
        }
    }

    /// From what was read.
    ///
    /// # Errors
    /// [`PickerError`], with every problem.
    pub fn from_document(document: &Value) -> Result<Self, PickerError> {
        read::config(document)
    }
}

impl fmt::Debug for PickerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PickerConfig").field("handler", &self.placer.handler).finish()
    }
}
