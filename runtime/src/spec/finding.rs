//! What is wrong or odd in a document, each with its place, all of it at once.

use std::{cell::RefCell, fmt};

use super::document::DocumentError;

/// Something to say about a place in a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where, as `spec.parallelism.tensor`; in a file of several documents after `document 2: `.
    pub path: String,
    /// What is there and what would be right.
    pub message: String,
}

/// Why a file or document is no specification.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// It is no list of documents.
    #[error("not a specification")]
    Document(#[from] DocumentError),
    /// Everything that is wrong in it, one per line.
    #[error("{}", lines(.0))]
    Invalid(Vec<Finding>),
    /// Configurations that it starts from are not there; with what else is wrong with those that
    /// it names, one per line.
    #[error("{}", lines(.0))]
    ConfigNotFound(Vec<Finding>),
}

/// Everything found in a document.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
    templates: bool,
}

// === impl Finding ===

impl Finding {
    pub(super) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }

    /// The same, of one document of several.
    pub(super) fn inside(self, document: &str) -> Self {
        Self { path: format!("{document}: {}", self.path), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

// === impl Findings ===

impl Findings {
    /// Findings of a configuration: its texts may be templates, which say nothing yet.
    pub(super) fn of_templates() -> Self {
        Self { templates: true, ..Self::default() }
    }

    pub(super) fn problem(&self, path: impl Into<String>, message: impl Into<String>) {
        self.problems.borrow_mut().push(Finding::new(path, message));
    }

    pub(super) fn warn(&self, path: impl Into<String>, message: impl Into<String>) {
        self.warnings.borrow_mut().push(Finding::new(path, message));
    }

    /// Whether a text is only known once its templates are filled in.
    pub(super) fn is_template(&self, text: &str) -> bool {
        self.templates && text.contains("{{")
    }

    /// Problems and warnings.
    pub(super) fn into_parts(self) -> (Vec<Finding>, Vec<Finding>) {
        (self.problems.into_inner(), self.warnings.into_inner())
    }

    /// What was read and its warnings, unless something is wrong.
    pub(super) fn result<T>(self, value: Option<T>) -> Result<(T, Vec<Finding>), SpecError> {
        let (problems, warnings) = self.into_parts();
        match value {
            Some(value) if problems.is_empty() => Ok((value, warnings)),
            _ => Err(SpecError::Invalid(problems)),
        }
    }
}

fn lines(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
