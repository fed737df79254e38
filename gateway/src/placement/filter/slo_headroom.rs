//! Keeps endpoints that are expected to be fast enough, if there are any; of a hundred requests one
//! goes to the others, so that one that has recovered is found out.

use super::{Filter, Mask, Query, Scene};
use crate::placement::dice::Dice;

/// See the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SloHeadroomFilter {
    /// Share of requests that goes to those that are expected to be too slow.
    pub(crate) explore: f64,
}

/// Of the dice.
const SALT: u64 = 0x510;

impl Filter for SloHeadroomFilter {
    fn filter(&self, query: &Query<'_>, scene: &Scene<'_>, mask: &mut Mask) {
        let Some(predicted) = scene.predicted() else { return };
        let meets = |row: usize| predicted[row].headroom(query.hints).meets();
        let met = mask.rows().filter(|row| meets(*row)).count();
        if met == 0 || met == mask.left() {
            return;
        }
        let explores = Dice::new(query.request, SALT).share() <= self.explore;
        mask.retain(|row| meets(row) != explores);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use troupe_runtime::id::RequestId;

    use super::*;
    use crate::{
        ingress::hints::Hints,
        placement::{
            endpoint::tests::{candidate, info, query},
            latency::Predicted,
        },
    };

    #[test]
    fn the_fast_enough_are_kept_but_for_one_request_in_a_hundred() {
        let infos = [info("a", 0), info("a", 1)];
        let mut scene = Scene::of(infos.iter().map(candidate));
        scene.predict(vec![
            Predicted { ttft: 0.1, tpot: 0.01 },
            Predicted { ttft: 9.0, tpot: 0.01 },
        ]);
        let second = Some(Duration::from_secs(1));
        let hints = Hints { ttft: second, tpot: second, ..Hints::NONE };
        let filter = SloHeadroomFilter { explore: 0.01 };
        let mut explored = 0;
        for n in 0..10_000 {
            let request = RequestId(uuid::Uuid::from_u128(n));
            let query = Query { hints: &hints, request, ..query("a") };
            let mut mask = Mask::all(2);
            filter.filter(&query, &scene, &mut mask);
            assert_eq!(mask.left(), 1);
            explored += u32::from(mask.has(1));
        }
        assert!((60..140).contains(&explored), "{explored}");
        let mut mask = Mask::all(2);
        filter.filter(&query("a"), &scene, &mut mask);
        assert_eq!(mask.left(), 2, "without an objective nobody is fast enough");
    }
}
