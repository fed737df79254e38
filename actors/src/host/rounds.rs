//! Who measures with whom, when: every host with every other, in rounds in which each has one
//! partner at most, as teams of a league play. So no measurement takes anything from another.

/// Pairs of `0..hosts`, round by round. The first of a pair is the smaller one.
pub(super) fn rounds(hosts: usize) -> Vec<Vec<(usize, usize)>> {
    // One host stays, the others go round a table; of an odd number one sits opposite an empty
    // chair.
    let chairs = hosts.next_multiple_of(2);
    let turning = chairs.saturating_sub(1);
    let round = |round: usize| {
        let sits = |chair: usize| match chair {
            0 => 0,
            chair => 1 + (chair - 1 + round) % turning,
        };
        let pairs = (0..chairs / 2).map(|chair| (sits(chair), sits(chairs - 1 - chair)));
        let pairs = pairs.map(|(one, other)| (one.min(other), one.max(other)));
        pairs.filter(|(_, larger)| *larger < hosts).collect()
    };
    (0..turning).map(round).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_pair_meets_once_and_nobody_is_in_two_at_a_time() {
        assert!(rounds(0).is_empty());
        for hosts in 1..20 {
            let mut met = BTreeSet::new();
            for round in rounds(hosts) {
                let mut busy = BTreeSet::new();
                for (one, other) in round {
                    assert!(one < other && other < hosts);
                    assert!(busy.insert(one) && busy.insert(other), "{hosts}");
                    assert!(met.insert((one, other)), "{hosts}");
                }
            }
            assert_eq!(met.len(), hosts * (hosts - 1) / 2);
        }
    }
}
