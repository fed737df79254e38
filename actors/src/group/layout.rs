//! Which member hosts which ranks.
//!
//! Ranks are dealt out stage by stage, a stage's tensor ranks side by side, so that a stage is on
//! one host: its collectives are the most frequent traffic there is. Only who asks for it gets a
//! stage that is divided over hosts, and even then only if no host could take it whole.

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

/// How a group's ranks may be divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// The ranks.
    pub parallel: Parallel,
    /// What one member is.
    pub per: MemberPer,
    /// With one member per host: exactly so many members, with equally many ranks each.
    pub members: Option<u32>,
    /// Whether a stage may be divided over hosts.
    pub across_hosts: bool,
}

/// A member's place: on which of the hosts given, and which ranks.
pub type Place = (usize, Vec<Coordinate>);

// === impl Division ===

impl Division {
    /// The fewest devices that a host must have free to take part.
    pub fn unit(&self) -> u32 {
        match (self.per, self.members) {
            (MemberPer::Host, Some(members)) => self.parallel.devices() / members.max(1),
            _ if self.across_hosts => 1,
            _ => self.parallel.tensor,
        }
    }

    /// Whether one host may take all of it.
    pub fn fits_one_host(&self) -> bool {
        self.per != MemberPer::Host || self.members.is_none_or(|members| members == 1)
    }

    /// Deals the ranks out to hosts with `free` devices each, in the order given. The first place
    /// is the leader's. `None` if the devices do not suffice.
    pub fn deal(&self, free: &[u32]) -> Option<Vec<Place>> {
        match (self.per, self.members) {
            (MemberPer::Host, Some(members)) => self.deal_members(members, free),
            _ => {
                let whole = self.deal_units(self.parallel.tensor, free);
                if self.across_hosts { whole.or_else(|| self.deal_units(1, free)) } else { whole }
            }
        }
    }

    /// One member on each of the first hosts that can take one.
    fn deal_members(&self, members: u32, free: &[u32]) -> Option<Vec<Place>> {
        let each = self.unit();
        if each == 0 || each * members != self.parallel.devices() {
            return None;
        }
        let mut ranks = self.parallel.ranks();
        let able = free.iter().enumerate().filter(|(_, free)| **free >= each);
        let places: Vec<_> = able
            .take(members as usize)
            .map(|(host, _)| (host, ranks.by_ref().take(each as usize).collect()))
            .collect();
        (places.len() == members as usize).then_some(places)
    }

    /// As many times `unit` ranks on a host as it has devices for, in members of the size asked.
    fn deal_units(&self, unit: u32, free: &[u32]) -> Option<Vec<Place>> {
        let mut ranks = self.parallel.ranks();
        let mut left = self.parallel.devices();
        let mut places = Vec::new();
        for (host, &free) in free.iter().enumerate() {
            let mut here = (free / unit.max(1) * unit).min(left);
            left -= here;
            let member = match self.per {
                MemberPer::Host => here,
                MemberPer::Stage => self.parallel.tensor.min(here),
                MemberPer::Rank => 1,
            };
            while here > 0 {
                let count = member.min(here);
                places.push((host, ranks.by_ref().take(count as usize).collect()));
                here -= count;
            }
        }
        (left == 0 && self.stages_are_whole(&places)).then_some(places)
    }

    /// A member of `MemberPer::Stage` is a whole stage: with stages divided over hosts it cannot be
    /// had, and the devices do not suffice.
    fn stages_are_whole(&self, places: &[Place]) -> bool {
        self.per != MemberPer::Stage
            || places.iter().all(|(_, ranks)| ranks.len() == self.parallel.tensor as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn division(parallel: (u32, u32), per: MemberPer) -> Division {
        let (tensor, pipeline) = parallel;
        let parallel = Parallel { tensor, pipeline };
        Division { parallel, per, members: None, across_hosts: false }
    }

    fn counts(division: Division, free: &[u32]) -> Option<Vec<(usize, usize)>> {
        let places = division.deal(free)?;
        Some(places.iter().map(|(host, ranks)| (*host, ranks.len())).collect())
    }

    #[test]
    fn a_stage_stays_on_one_host() {
        let host = |parallel| division(parallel, MemberPer::Host);
        assert_eq!(counts(host((2, 2)), &[4]), Some(vec![(0, 4)]));
        assert_eq!(counts(host((2, 2)), &[3, 2]), Some(vec![(0, 2), (1, 2)]));
        assert_eq!(counts(host((1, 2)), &[1, 1, 1]), Some(vec![(0, 1), (1, 1)]));
        assert_eq!(counts(host((2, 1)), &[1, 1]), None);
    }

    #[test]
    fn who_asks_for_it_gets_a_stage_over_hosts_when_none_can_take_it_whole() {
        let across =
            |parallel| Division { across_hosts: true, ..division(parallel, MemberPer::Host) };
        assert_eq!(counts(across((2, 1)), &[1, 1]), Some(vec![(0, 1), (1, 1)]));
        assert_eq!(counts(across((2, 1)), &[1, 2]), Some(vec![(1, 2)]));
        assert_eq!(counts(across((2, 2)), &[2, 1, 1]), Some(vec![(0, 2), (1, 1), (2, 1)]));
        assert_eq!(counts(across((2, 2)), &[1, 1, 1]), None);
        let stages = Division { per: MemberPer::Stage, ..across((2, 1)) };
        assert_eq!(counts(stages, &[1, 1]), None, "a member per stage cannot be divided");
    }

    #[test]
    fn members_can_be_one_per_stage_or_per_rank() {
        let stages = |parallel| division(parallel, MemberPer::Stage);
        assert_eq!(counts(stages((2, 2)), &[4]), Some(vec![(0, 2), (0, 2)]));
        assert_eq!(counts(stages((2, 2)), &[3]), None);
        let ranks = |parallel| division(parallel, MemberPer::Rank);
        assert_eq!(counts(ranks((1, 2)), &[1, 1]), Some(vec![(0, 1), (1, 1)]));
        assert_eq!(counts(ranks((2, 1)), &[1, 2]), Some(vec![(1, 1), (1, 1)]));
    }

    #[test]
    fn a_number_of_members_means_as_many_hosts() {
        let of = |parallel, members| Division {
            members: Some(members),
            ..division(parallel, MemberPer::Host)
        };
        assert_eq!(counts(of((2, 2), 2), &[8, 1, 2]), Some(vec![(0, 2), (2, 2)]));
        assert_eq!(counts(of((2, 2), 2), &[8]), None, "distinct hosts");
        assert_eq!(counts(of((2, 2), 3), &[8, 8, 8]), None, "they cannot be equal");
        assert_eq!(counts(of((1, 4), 2), &[2, 2]), Some(vec![(0, 2), (1, 2)]));
    }
}
