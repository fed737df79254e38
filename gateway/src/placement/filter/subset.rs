//! Keeps the endpoints that `x-gateway-destination-endpoint-subset` names, if it names any.
//!
//! It names them as a proxy in front of the gateway knows them: by their address label, or by
//! `namespace/service/index`.

use super::{Filter, Mask, Query, Scene};
use crate::placement::session;

/// See the file.
#[derive(Debug)]
pub(crate) struct SubsetFilter;

/// The label that has an endpoint's `host:port`, if it is known by one.
const ADDRESS_LABEL: &str = "troupe.dev/address";

impl Filter for SubsetFilter {
    fn filter(&self, query: &Query<'_>, scene: &Scene<'_>, mask: &mut Mask) {
        let subset = &query.hints.subset;
        if subset.is_empty() {
            return;
        }
        let rows = scene.rows();
        mask.retain(|row| {
            let row = &rows[row];
            let name = session::name_of(&row.info.endpoint);
            let address = row.label(ADDRESS_LABEL);
            subset.iter().any(|one| *one == name || Some(one.as_str()) == address)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ingress::hints::Hints,
        placement::{
            endpoint::tests::{candidate, info, query},
            filter::tests::left,
        },
    };

    #[test]
    fn nobody_but_those_that_are_named() {
        let infos = [info("a", 0), info("a", 1)];
        let of = |subset: &[&str]| {
            let subset = subset.iter().map(|one| (*one).to_owned()).collect();
            let hints = Hints { subset, ..Hints::NONE };
            let query = Query { hints: &hints, ..query("a") };
            left(&SubsetFilter, &query, infos.iter().map(candidate))
        };
        assert_eq!(of(&["default/s/1", "default/s/7"]), [1]);
        assert_eq!(of(&[]), [0, 1], "no subset is asked for");
        assert_eq!(of(&["10.0.0.1:80"]), [] as [usize; 0], "nobody is known by that address");
    }
}
