//! Keeps endpoints that serve the model under the name that the request uses, and whose tokens mean
//! what the prompt's tokens mean (during a rolling update one name may have two tokenizers). An
//! output that another endpoint began is only for those that go on with it as they should.

use super::{Candidate, Filter, Query};

/// See the file.
#[derive(Debug)]
pub(crate) struct ModelFilter;

impl Filter for ModelFilter {
    fn keep(&self, query: &Query<'_>, candidate: &Candidate<'_>) -> bool {
        let fingerprint = &candidate.info.fingerprint;
        fingerprint.tokenizer == query.tokenizer
            && query.goes_on.is_none_or(|goes_on| goes_on.at(fingerprint))
            && candidate.info.model_names.iter().any(|name| name == query.model)
    }
}
