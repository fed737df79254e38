//! `LLMInferenceServiceConfig`: what services start from. Its texts may be templates.

use serde_json::Value;

use super::{
    Finding, SpecError,
    finding::Findings,
    kind::Kind,
    metadata::{self, Metadata},
    reader::Fields,
    service::{self, Shape},
};

/// A configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceConfig {
    /// As it was written, for storing, showing and merging.
    pub document: Value,
    /// Who and what it is.
    pub metadata: Metadata,
    /// Names of the configurations that this one starts from, in order.
    pub base_refs: Vec<String>,
}

impl ServiceConfig {
    /// Reads one document.
    ///
    /// # Errors
    /// [`SpecError::Invalid`], with every problem.
    pub fn from_document(document: Value) -> Result<(Self, Vec<Finding>), SpecError> {
        let findings = Findings::of_templates();
        let config = read(document, &findings);
        findings.result(config)
    }

    /// What it says of a service.
    pub fn spec(&self) -> &Value {
        &self.document["spec"]
    }
}

/// `None` only together with a problem.
pub(super) fn read(document: Value, findings: &Findings) -> Option<ServiceConfig> {
    let (metadata, base_refs) = {
        let top = Fields::of(&document, String::new(), findings)?;
        let head = metadata::head(&document, &top, Kind::LlmInferenceServiceConfig, findings);
        if top.value("spec").is_none() {
            top.problem("spec", "is required");
        }
        let spec = top.object("spec")?;
        let metadata = head?.1;
        let part = service::service_spec(&spec, None, &metadata.annotations, Shape::Part);
        (metadata, part.base_refs)
    };
    Some(ServiceConfig { document, metadata, base_refs })
}
