//! Keeps endpoints that can produce output: prefill-only ones cannot.

use troupe_runtime::wire::status::Role;

use super::{Candidate, Filter, Query};

/// See the file.
#[derive(Debug)]
pub(crate) struct RoleFilter;

impl Filter for RoleFilter {
    fn keep(&self, _: &Query<'_>, candidate: &Candidate<'_>) -> bool {
        candidate.info.role != Role::Prefill
    }
}
