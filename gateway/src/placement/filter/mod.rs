//! Who cannot take a request.

mod exclude;
mod model;
mod role;
mod scope;

use std::fmt::Debug;

pub(crate) use exclude::ExcludeFilter;
pub(crate) use model::ModelFilter;
pub(crate) use role::RoleFilter;
pub(crate) use scope::ScopeFilter;

use super::{Candidate, Query};

/// Says yes or no to one candidate, knowing nothing of the others.
pub(crate) trait Filter: Send + Sync + Debug {
    /// Whether the candidate can take the request.
    fn keep(&self, query: &Query<'_>, candidate: &Candidate<'_>) -> bool;
}
