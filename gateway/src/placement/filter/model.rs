//! Keeps endpoints that serve the model under the name that the request uses, and whose tokens mean
//! what the prompt's tokens mean (during a rolling update one name may have two tokenizers).

use super::{Candidate, Filter, Query};

/// See the file.
#[derive(Debug)]
pub(crate) struct ModelFilter;

impl Filter for ModelFilter {
    fn keep(&self, query: &Query<'_>, candidate: &Candidate<'_>) -> bool {
        candidate.info.fingerprint.tokenizer == query.tokenizer
            && candidate.info.model_names.iter().any(|name| name == query.model)
    }
}
