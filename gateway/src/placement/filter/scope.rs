//! Keeps endpoints of the services that the request's route leads to.

use super::{Candidate, Filter, Query};

/// See the file.
#[derive(Debug)]
pub(crate) struct ScopeFilter;

impl Filter for ScopeFilter {
    fn keep(&self, query: &Query<'_>, candidate: &Candidate<'_>) -> bool {
        query.scope.is_none_or(|scope| scope.has(&candidate.info.endpoint.group))
    }
}
