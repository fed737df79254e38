//! Who cannot take a request.
//!
//! Which ones there are by name: [`super::config::table`].

mod attribute;
mod label;
mod prefix_affinity;
mod role;
mod session;
mod slo_headroom;
mod subset;
mod topology;
mod utilization;

use std::fmt::Debug;

pub(crate) use attribute::{AttributeFilter, Comparison};
pub(crate) use label::{LabelFilter, Requirement};
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

    /// The request goes to this row. For those that remember.
    fn chosen(&self, _query: &Query<'_>, _scene: &Scene<'_>, _row: usize) {}
}

/// Who is left. There is no way to bring somebody back.
#[derive(Clone, Debug)]
pub(crate) struct Mask {
    /// Which filter dropped it, counted from 1; 0 for whoever is left.
    dropped_by: Vec<u8>,
    left: usize,
    filter: u8,
}

// === impl Mask ===

impl Mask {
    /// Everybody.
    pub(crate) fn all(rows: usize) -> Self {
        Self { dropped_by: vec![0; rows], left: rows, filter: 1 }
    }

    /// The next filter begins.
    pub(crate) fn next(&mut self) {
        self.filter = self.filter.saturating_add(1);
    }

    /// How many are left.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// Whether a row is left.
    pub(crate) fn has(&self, row: usize) -> bool {
        self.dropped_by[row] == 0
    }

    /// Who dropped a row, counted from 1; 0 if it is left.
    pub(crate) fn dropped_by(&self, row: usize) -> u8 {
        self.dropped_by[row]
    }

    /// Those that are left.
    pub(crate) fn rows(&self) -> impl Iterator<Item = usize> {
        self.dropped_by.iter().enumerate().filter(|(_, by)| **by == 0).map(|(row, _)| row)
    }

    /// Drops those of which `keep` does not say yes.
    pub(crate) fn retain(&mut self, keep: impl Fn(usize) -> bool) {
        for (row, by) in self.dropped_by.iter_mut().enumerate() {
            if *by == 0 && !keep(row) {
                *by = self.filter;
                self.left -= 1;
            }
        }
    }

    /// The same, unless nobody would be left: a wish must not make a request homeless.
    pub(crate) fn prefer(&mut self, keep: impl Fn(usize) -> bool) {
        if self.rows().any(&keep) {
            self.retain(keep);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::placement::{
        Candidate,
        endpoint::tests::{candidate, info, query},
    };

    /// Who a filter leaves of these, by their places.
    pub(crate) fn left<'a>(
        filter: &dyn Filter,
        query: &Query<'_>,
        candidates: impl Iterator<Item = Candidate<'a>>,
    ) -> Vec<usize> {
        let scene = Scene::of(candidates);
        let mut mask = Mask::all(scene.len());
        filter.filter(query, &scene, &mut mask);
        mask.rows().collect()
    }

    #[test]
    fn a_wish_that_nobody_meets_drops_nobody() {
        let mut mask = Mask::all(3);
        mask.prefer(|row| row > 5);
        assert_eq!(mask.left(), 3);
        mask.prefer(|row| row > 1);
        assert_eq!(mask.rows().collect::<Vec<_>>(), [2]);
        assert_eq!((mask.dropped_by(0), mask.dropped_by(2)), (1, 0));
        let infos = [info("a", 0)];
        let nobody = left(&SubsetFilter, &query("a"), infos.iter().map(candidate));
        assert_eq!(nobody, [0], "no subset is asked for");
    }
}
