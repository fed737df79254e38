//! Keeps endpoints that have a place, for a request that flow control let in because there is one.
//!
//! Sent to a full endpoint that has its beginning cached, such a request would wait there, and that
//! queue would keep others out. It is the last filter of every profile that answers, so that what a
//! profile says itself comes first; where nobody has a place, or flow control does not know how
//! many places there are, it keeps everybody.

use super::{Filter, Mask, Query, Scene};

/// See the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FreePlaceFilter;

impl Filter for FreePlaceFilter {
    fn filter(&self, query: &Query<'_>, scene: &Scene<'_>, mask: &mut Mask) {
        if query.at_once {
            let rows = scene.rows();
            mask.prefer(|row| rows[row].has_place());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{
        Candidate,
        endpoint::tests::{candidate, info, query},
        filter::tests::left,
    };

    #[test]
    fn who_is_to_begin_at_once_goes_where_a_place_is_if_there_is_one() {
        let infos = [info("a", 0), info("a", 1), info("a", 2)];
        let of = |at_once, places: [bool; 3]| {
            let query = Query { at_once, ..query("a") };
            let candidates = infos.iter().zip(places);
            let candidates =
                candidates.map(|(info, has_place)| Candidate { has_place, ..candidate(info) });
            left(&FreePlaceFilter, &query, candidates)
        };
        assert_eq!(of(true, [false, true, true]), [1, 2]);
        assert_eq!(of(true, [false; 3]), [0, 1, 2], "better to wait than to be nowhere");
        assert_eq!(of(false, [false, true, true]), [0, 1, 2], "it may wait");
    }
}
