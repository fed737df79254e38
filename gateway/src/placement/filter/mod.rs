//! Who cannot take a request.
//!
//! Which ones there are by name: [`super::config::table`].

mod attribute;
mod free_place;
mod label;
mod mask;
mod prefix_affinity;
mod role;
mod session;
mod slo_headroom;
mod subset;
mod topology;
mod utilization;

use std::fmt::Debug;

pub(crate) use attribute::{AttributeFilter, Comparison};
pub(crate) use free_place::FreePlaceFilter;
pub(crate) use label::{LabelFilter, Requirement};
pub(crate) use mask::Mask;
pub(crate) use prefix_affinity::{PrefixAffinityFilter, TtftSource};
pub(crate) use role::RoleFilter;
pub(crate) use session::SessionFilter;
pub(crate) use slo_headroom::SloHeadroomFilter;
pub(crate) use subset::SubsetFilter;
pub(crate) use topology::TopologyFilter;
pub(crate) use utilization::UtilizationFilter;

use super::{Query, scene::Scene};

/// Says who cannot. It is asked once for all candidates, and can only take away.
pub(crate) trait Filter: Send + Sync + Debug {
    /// Drops candidates from the mask, which has the scene's rows in their order; some may have
    /// been dropped before.
    fn filter(&self, query: &Query<'_>, scene: &Scene<'_>, mask: &mut Mask);

    /// Whether it is what says who computes prompts for others: then roles alone do not.
    fn says_who_helps(&self) -> bool {
        false
    }

    /// The request goes to this row. For those that remember.
    fn chosen(&self, _query: &Query<'_>, _scene: &Scene<'_>, _row: usize) {}
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::placement::Candidate;

    /// Who a filter leaves of these, by their places.
    pub(crate) fn left<'a>(
        filter: &dyn Filter,
        query: &Query<'_>,
        candidates: impl ExactSizeIterator<Item = Candidate<'a>>,
    ) -> Vec<usize> {
        let scene = Scene::of(candidates);
        let mut mask = Mask::all(scene.len());
        filter.filter(query, &scene, &mut mask);
        mask.rows().collect()
    }
}
