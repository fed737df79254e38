//! Keeps endpoints that are not busier than they may be, by any of several numbers.

use super::{Filter, Mask, Query, Scene};
use crate::placement::scene::Signal;

/// See the file.
#[derive(Clone, Debug)]
pub(crate) struct UtilizationFilter {
    /// The most that each number may be.
    pub(crate) most: Vec<(Signal, f32)>,
    /// Everybody is kept if nobody would be.
    pub(crate) fallback: bool,
}

impl Filter for UtilizationFilter {
    fn filter(&self, _: &Query<'_>, scene: &Scene<'_>, mask: &mut Mask) {
        let within =
            |row: usize| self.most.iter().all(|(signal, most)| scene.column(*signal)[row] <= *most);
        if self.fallback { mask.prefer(within) } else { mask.retain(within) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{
        Busy, Candidate,
        endpoint::tests::{candidate, info, query},
        filter::tests::left,
    };

    #[test]
    fn too_much_of_one_thing_is_enough() {
        let infos = [info("a", 0), info("a", 1), info("a", 2)];
        let loads = [(40, 0), (41, 0), (0, 1)];
        let of = |most: &[(Signal, f32)], fallback| {
            let candidates = infos.iter().zip(loads).map(|(info, (running, waiting))| {
                let load = Busy { running, waiting, ..Busy::default() };
                Candidate { load, ..candidate(info) }
            });
            let filter = UtilizationFilter { most: most.to_vec(), fallback };
            left(&filter, &query("a"), candidates)
        };
        assert_eq!(of(&[(Signal::Running, 40.0), (Signal::Waiting, 0.0)], false), [0]);
        assert_eq!(of(&[(Signal::Running, 40.0)], false), [0, 2]);
        let nobody = [(Signal::Running, 1.0), (Signal::Waiting, 0.0)];
        assert_eq!(of(&nobody, false), [] as [usize; 0]);
        assert_eq!(of(&nobody, true), [0, 1, 2]);
    }
}
