//! Which member hosts which ranks.
//!
//! Ranks are dealt out stage by stage, a stage's tensor ranks side by side, so that a stage is on
//! one host whenever it fits: its collectives are the most frequent traffic there is.

use troupe_runtime::{discovery::directory::MemberPer, id::Coordinate};

/// How many ranks a model is divided into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parallel {
    /// Ranks per stage.
    pub tensor: u32,
    /// Stages.
    pub pipeline: u32,
}

impl Parallel {
    /// Devices that a group needs.
    pub fn devices(self) -> u32 {
        self.tensor.saturating_mul(self.pipeline)
    }

    /// Every rank, stage by stage.
    pub fn ranks(self) -> impl Iterator<Item = Coordinate> {
        (0..self.pipeline)
            .flat_map(move |stage| (0..self.tensor).map(move |tp| Coordinate { dp: 0, stage, tp }))
    }
}

/// A member's place: on which of the hosts given, and which ranks.
pub type Place = (usize, Vec<Coordinate>);

/// Deals a group's ranks out to hosts with `free` devices each, in the order given. The first place
/// is the leader's. `None` if the devices do not suffice.
///
/// With one member per host, a host takes whole stages first; a stage is divided only if no host
/// could take it whole.
pub fn deal(parallel: Parallel, per: MemberPer, free: &[u32]) -> Option<Vec<Place>> {
    match per {
        MemberPer::Host => deal_hosts(parallel, free),
        MemberPer::Stage => deal_units(parallel, parallel.tensor, free),
        MemberPer::Rank => deal_units(parallel, 1, free),
    }
}

fn deal_hosts(parallel: Parallel, free: &[u32]) -> Option<Vec<Place>> {
    let unit = if free.iter().any(|free| *free >= parallel.tensor) { parallel.tensor } else { 1 };
    let mut ranks = parallel.ranks();
    let mut left = parallel.devices();
    let mut places = Vec::new();
    for (host, &free) in free.iter().enumerate() {
        let count = (free / unit * unit).min(left);
        if count > 0 {
            places.push((host, ranks.by_ref().take(count as usize).collect()));
        }
        left -= count;
    }
    (left == 0).then_some(places)
}

/// Members of `unit` ranks each, as many on a host as it has devices for.
fn deal_units(parallel: Parallel, unit: u32, free: &[u32]) -> Option<Vec<Place>> {
    let mut ranks = parallel.ranks();
    let mut left = parallel.devices();
    let mut places = Vec::new();
    for (host, &free) in free.iter().enumerate() {
        for _ in 0..(free.min(left) / unit) {
            places.push((host, ranks.by_ref().take(unit as usize).collect()));
            left -= unit;
        }
    }
    (left == 0).then_some(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(parallel: (u32, u32), per: MemberPer, free: &[u32]) -> Option<Vec<(usize, usize)>> {
        let (tensor, pipeline) = parallel;
        let places = deal(Parallel { tensor, pipeline }, per, free)?;
        Some(places.iter().map(|(host, ranks)| (*host, ranks.len())).collect())
    }

    #[test]
    fn whole_stages_stay_on_a_host_when_one_can_take_them() {
        assert_eq!(counts((2, 2), MemberPer::Host, &[4]), Some(vec![(0, 4)]));
        assert_eq!(counts((2, 2), MemberPer::Host, &[3, 2]), Some(vec![(0, 2), (1, 2)]));
        assert_eq!(counts((1, 2), MemberPer::Host, &[1, 1, 1]), Some(vec![(0, 1), (1, 1)]));
    }

    #[test]
    fn a_stage_is_divided_over_hosts_when_none_can_take_it() {
        assert_eq!(counts((2, 1), MemberPer::Host, &[1, 1]), Some(vec![(0, 1), (1, 1)]));
        assert_eq!(counts((2, 2), MemberPer::Host, &[1, 1, 1]), None);
    }

    #[test]
    fn members_can_be_one_per_stage_or_per_rank() {
        assert_eq!(counts((2, 2), MemberPer::Stage, &[4]), Some(vec![(0, 2), (0, 2)]));
        assert_eq!(counts((2, 1), MemberPer::Rank, &[1, 1]), Some(vec![(0, 1), (1, 1)]));
        assert_eq!(counts((2, 2), MemberPer::Stage, &[3]), None);
    }
}
