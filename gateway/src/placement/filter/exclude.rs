//! Drops endpoints that this very request has tried already.

use super::{Candidate, Filter, Query};

/// See the file.
#[derive(Debug)]
pub(crate) struct ExcludeFilter;

impl Filter for ExcludeFilter {
    fn keep(&self, query: &Query<'_>, candidate: &Candidate<'_>) -> bool {
        !query.exclude.contains(&candidate.info.endpoint)
    }
}
