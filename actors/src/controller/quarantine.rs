//! Hosts that are left out for a while because a member hung or became slow on them.
//!
//! A host in quarantine is taken last: a group that fits nowhere else still gets it. It returns
//! when its time is over and it was reached again, at first after half a minute and each time it is
//! back within ten minutes after twice as long. What ends by itself (a crash) is no reason: that
//! may be the model's fault, and [`super::restart`] avoids such a host for the one group.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use troupe_runtime::id::NodeId;

/// All hosts that were ever suspected, as long as it matters.
#[derive(Clone, Debug, Default)]
pub(super) struct Quarantine {
    hosts: BTreeMap<NodeId, Suspect>,
}

#[derive(Clone, Copy, Debug)]
struct Suspect {
    /// How often in a row.
    times: u32,
    /// When it returns, or has.
    until: Duration,
    back: bool,
    /// When it was last tried, and whether it was reached since.
    probed: Option<Duration>,
    reached: bool,
}

// === impl Quarantine ===

impl Quarantine {
    /// A member was at fault there. Says for how long it is left out.
    pub(super) fn begin(&mut self, now: Duration, node: NodeId) -> Duration {
        let before = self.hosts.get(&node).map_or(0, |suspect| suspect.times);
        let time = (FIRST * 2_u32.saturating_pow(before)).min(LONGEST);
        let suspect = Suspect {
            times: before + 1,
            until: now + time,
            back: false,
            probed: None,
            reached: false,
        };
        self.hosts.insert(node, suspect);
        time
    }

    /// Which hosts are left out.
    pub(super) fn hosts(&self) -> BTreeSet<NodeId> {
        let out = self.hosts.iter().filter(|(_, suspect)| !suspect.back);
        out.map(|(node, _)| *node).collect()
    }

    /// Which hosts to try now, because their time is over.
    pub(super) fn due(&mut self, now: Duration, pause: Duration) -> Vec<NodeId> {
        let mut due = Vec::new();
        for (node, suspect) in &mut self.hosts {
            let waits = suspect.probed.is_some_and(|last| now.saturating_sub(last) < pause);
            if !suspect.back && now >= suspect.until && !waits {
                suspect.probed = Some(now);
                due.push(*node);
            }
        }
        due
    }

    /// A host was tried.
    pub(super) fn probed(&mut self, node: NodeId, reachable: bool) {
        if let Some(suspect) = self.hosts.get_mut(&node) {
            suspect.reached |= reachable && suspect.probed.is_some();
        }
    }

    /// Hosts that return. `can_be_tried` is whether anybody could reach one: one that nobody can
    /// is taken at its word.
    pub(super) fn returned(
        &mut self,
        now: Duration,
        can_be_tried: impl Fn(NodeId) -> bool,
    ) -> Vec<NodeId> {
        let mut returned = Vec::new();
        for (node, suspect) in &mut self.hosts {
            let reached = suspect.reached || !can_be_tried(*node);
            if !suspect.back && now >= suspect.until && reached {
                suspect.back = true;
                returned.push(*node);
            }
        }
        self.hosts.retain(|_, suspect| !suspect.back || now < suspect.until + FORGIVEN);
        returned
    }
}

/// The first time.
const FIRST: Duration = Duration::from_secs(30);
/// The longest.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// After so long without another fault a host is as good as any.
const FORGIVEN: Duration = Duration::from_secs(10 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_host_returns_when_its_time_is_over_and_it_was_reached() {
        let (node, mut quarantine) = (NodeId::default(), Quarantine::default());
        assert_eq!(quarantine.begin(at(100), node), at(30));
        assert_eq!(quarantine.hosts(), BTreeSet::from([node]));
        quarantine.probed(node, true);
        assert_eq!(quarantine.due(at(129), at(3)), []);
        assert_eq!(quarantine.due(at(130), at(3)), [node]);
        assert_eq!(quarantine.due(at(131), at(3)), [], "once in a while");
        assert_eq!(quarantine.returned(at(131), |_| true), [], "what was before does not count");
        quarantine.probed(node, false);
        assert_eq!(quarantine.returned(at(132), |_| true), []);
        assert_eq!(quarantine.due(at(133), at(3)), [node]);
        quarantine.probed(node, true);
        assert_eq!(quarantine.returned(at(134), |_| true), [node]);
        assert_eq!(quarantine.hosts(), BTreeSet::new());
    }

    #[test]
    fn who_is_at_fault_again_is_out_for_longer_and_in_the_end_forgiven() {
        let (node, mut quarantine) = (NodeId::default(), Quarantine::default());
        quarantine.begin(at(0), node);
        assert_eq!(quarantine.returned(at(30), |_| false), [node]);
        assert_eq!(quarantine.begin(at(100), node), at(60));
        assert_eq!(quarantine.returned(at(160), |_| false), [node]);
        assert_eq!(quarantine.returned(at(160 + 600), |_| false), []);
        assert_eq!(quarantine.begin(at(900), node), at(30));
    }
}
