//! Deaths, and the requests that may be why.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use troupe_runtime::{
    discovery::directory::DeathsRecord,
    id::{EndpointId, Epoch, GroupId, RequestId},
};

/// What is known of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Suspects {
    /// Incarnations that died with each request in their step.
    deaths: BTreeMap<RequestId, BTreeSet<Incarnation>>,
    /// All incarnations that were told of, the oldest first.
    told: VecDeque<(Incarnation, Vec<RequestId>)>,
}

/// Of a group: however many of its members die, it is one death.
type Incarnation = (GroupId, Epoch);

/// What is to become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is one like others.
    Innocent,
    /// It goes on, but alone.
    Suspect,
    /// It was alone when a process died of it.
    Guilty,
}

// === impl Suspects ===

impl Suspects {
    /// A node tells how its members died. It tells the same again with each further death.
    pub(crate) fn note(&mut self, record: DeathsRecord) {
        for death in record.deaths {
            let incarnation = (death.group, death.epoch);
            let known = self.told.iter_mut().find(|(known, _)| *known == incarnation);
            let requests = match known {
                Some((_, requests)) => requests,
                None => {
                    self.told.push_back((incarnation.clone(), Vec::new()));
                    let Some((_, requests)) = self.told.back_mut() else { continue };
                    requests
                }
            };
            for request in death.suspects {
                if self.deaths.entry(request).or_default().insert(incarnation.clone()) {
                    requests.push(request);
                }
            }
        }
        while self.told.len() > MOST_TOLD {
            let Some((incarnation, requests)) = self.told.pop_front() else { break };
            for request in requests {
                if let Some(deaths) = self.deaths.get_mut(&request) {
                    deaths.remove(&incarnation);
                    if deaths.is_empty() {
                        self.deaths.remove(&request);
                    }
                }
            }
        }
    }

    /// Whether it was told how an endpoint's incarnation ended.
    pub(crate) fn knows(&self, endpoint: &EndpointId) -> bool {
        let ended =
            |(group, epoch): &Incarnation| *group == endpoint.group && *epoch == endpoint.epoch;
        self.told.iter().any(|(incarnation, _)| ended(incarnation))
    }

    /// What is to become of a request that went to some endpoints alone. However many died of it
    /// before it was alone: any of them may have died of another request in the same step.
    pub(crate) fn verdict(&self, request: RequestId, alone_at: &[EndpointId]) -> Verdict {
        let Some(deaths) = self.deaths.get(&request) else { return Verdict::Innocent };
        let died_alone = |(group, epoch): &Incarnation| {
            alone_at.iter().any(|alone| alone.group == *group && alone.epoch == *epoch)
        };
        match deaths.len() {
            _ if deaths.iter().any(died_alone) => Verdict::Guilty,
            0 | 1 => Verdict::Innocent,
            _ => Verdict::Suspect,
        }
    }
}

/// Incarnations that are remembered: more than end while a request lasts.
const MOST_TOLD: usize = 1024;

#[cfg(test)]
mod tests {
    use troupe_runtime::discovery::directory::Death;
    use uuid::Uuid;

    use super::*;

    fn group(index: u32) -> GroupId {
        GroupId { namespace: "n".into(), service: "s".into(), index }
    }

    fn request(number: u128) -> RequestId {
        RequestId(Uuid::from_u128(number))
    }

    fn death(index: u32, epoch: u64, requests: &[u128]) -> Death {
        Death {
            group: group(index),
            epoch: Epoch { number: epoch, nonce: 0 },
            member: 0,
            suspects: requests.iter().map(|number| request(*number)).collect(),
        }
    }

    fn endpoint(index: u32, epoch: u64) -> EndpointId {
        let epoch = Epoch { number: epoch, nonce: 0 };
        EndpointId { group: group(index), revision: 1, epoch, dp: 0 }
    }

    #[test]
    fn two_deaths_make_a_suspect() {
        let mut suspects = Suspects::default();
        let first = death(0, 1, &[1, 2]);
        suspects.note(DeathsRecord { deaths: vec![first.clone()] });
        assert_eq!(suspects.verdict(request(1), &[]), Verdict::Innocent);
        // The same again, another member of the same incarnation, and one that accuses nobody.
        let again = Death { member: 1, ..first.clone() };
        let outside = death(1, 1, &[]);
        suspects.note(DeathsRecord { deaths: vec![first.clone(), again, outside] });
        assert_eq!(suspects.verdict(request(1), &[]), Verdict::Innocent);
        suspects.note(DeathsRecord { deaths: vec![first, death(1, 2, &[1, 2, 3])] });
        let verdicts = [1, 2, 3].map(|number| suspects.verdict(request(number), &[]));
        assert_eq!(verdicts, [Verdict::Suspect, Verdict::Suspect, Verdict::Innocent]);
    }

    #[test]
    fn only_a_death_while_it_was_alone_tells_that_it_was_it() {
        let mut suspects = Suspects::default();
        let alone_at = [endpoint(0, 4)];
        // Word of the third comes late: it was not alone there either.
        let deaths = (1..=3).map(|epoch| death(0, epoch, &[7, 8])).collect();
        suspects.note(DeathsRecord { deaths });
        assert_eq!(suspects.verdict(request(7), &[]), Verdict::Suspect);
        assert_eq!(suspects.verdict(request(7), &alone_at), Verdict::Suspect);
        suspects.note(DeathsRecord { deaths: vec![death(1, 4, &[7]), death(0, 4, &[7])] });
        assert_eq!(suspects.verdict(request(7), &alone_at), Verdict::Guilty);
        assert_eq!(suspects.verdict(request(8), &alone_at), Verdict::Suspect);
    }

    #[test]
    fn it_is_known_of_whom_there_was_word_and_old_deaths_are_forgotten() {
        let mut suspects = Suspects::default();
        suspects.note(DeathsRecord { deaths: vec![death(0, 1, &[7]), death(0, 2, &[7])] });
        assert!(suspects.knows(&endpoint(0, 1)) && !suspects.knows(&endpoint(0, 3)));
        for epoch in 3..=MOST_TOLD as u64 + 2 {
            suspects.note(DeathsRecord { deaths: vec![death(0, epoch, &[u128::from(epoch)])] });
        }
        assert!(!suspects.knows(&endpoint(0, 1)));
        assert_eq!(suspects.verdict(request(7), &[]), Verdict::Innocent);
        assert_eq!(suspects.deaths.len(), MOST_TOLD);
    }
}
