//! Random use of tiers: what they say they hold is where they say it is, whatever came before.

use std::collections::BTreeMap;

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, RngSeed},
};

use super::*;

/// What ranks would have, by doing what they are told: the bytes of a block are its name.
#[derive(Default)]
struct Ranks {
    host: BTreeMap<(u32, u32), BlockKey>,
    disk: BTreeMap<(u32, u32), BlockKey>,
}

impl Ranks {
    fn take(&mut self, step: TierMove) {
        let to = (step.group, step.slot);
        match step.from {
            TierFrom::Device(_) => drop(self.host.insert(to, step.key)),
            TierFrom::Host(from) => {
                assert_eq!(self.host.get(&(step.group, from)), Some(&step.key), "what is spilled");
                self.disk.insert(to, step.key);
            }
        }
    }

    fn has(&self, group: u32, place: TierPlace) -> bool {
        let slots = match place.tier {
            Tier::Host => &self.host,
            Tier::Disk => &self.disk,
        };
        slots.get(&(group, place.slot)) == Some(&place.key)
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Keep(BlockKey),
    Pin(BlockKey),
    Unpin(usize),
    Forget(BlockKey),
}

fn acts() -> impl Strategy<Value = Vec<(usize, Act)>> {
    let key = || (0_u32..12).prop_map(BlockKey::from);
    let act = prop_oneof![
        6 => key().prop_map(Act::Keep),
        3 => key().prop_map(Act::Pin),
        3 => (0_usize..8).prop_map(Act::Unpin),
        1 => key().prop_map(Act::Forget),
    ];
    vec((0_usize..2, act), 1..120)
}

proptest! {
    #![proptest_config(Config {
        rng_seed: RngSeed::Fixed(7), failure_persistence: None, ..Config::with_cases(512)
    })]

    #[test]
    fn what_is_held_can_be_read(
        sizes in (0_u32..5, 0_u32..5),
        eviction in prop_oneof![Just(Eviction::Lru), Just(Eviction::Arc)],
        acts in acts(),
    ) {
        let (host, disk) = sizes;
        let mut tiers = Tiers::new(2, sizes, eviction);
        let mut ranks = Ranks::default();
        let mut pinned: Vec<(usize, TierPlace)> = Vec::new();
        let mut told = [const { Vec::<BlockKey>::new() }; 2];
        for (group, act) in acts {
            match act {
                Act::Keep(key) => {
                    tiers.keep(group, BlockId(9), key);
                    let kept = tiers.holds(group, key);
                    prop_assert!(kept || pinned.len() >= host as usize, "room, and not kept");
                    if kept && !told[group].contains(&key) {
                        told[group].push(key);
                    }
                }
                Act::Pin(key) => {
                    let holds = tiers.holds(group, key);
                    let place = tiers.pin(group, key);
                    prop_assert_eq!(place.is_some(), holds);
                    pinned.extend(place.map(|place| (group, place)));
                }
                Act::Unpin(at) if at < pinned.len() => {
                    let (group, place) = pinned.swap_remove(at);
                    tiers.unpin(group, place);
                }
                Act::Unpin(_) => {}
                Act::Forget(key) => {
                    tiers.forget(group, key);
                    prop_assert!(!tiers.holds(group, key));
                }
            }
            tiers.moves().into_iter().for_each(|step| ranks.take(step));
            for (group, told) in told.iter_mut().enumerate() {
                let gone: Vec<_> = tiers.gone(group).collect();
                told.retain(|key| !gone.contains(key) || tiers.holds(group, *key));
                for key in &*told {
                    prop_assert!(tiers.holds(group, *key), "{key} went without a word");
                }
                let held: Vec<_> = tiers.keys(group).collect();
                for key in held {
                    prop_assert!(told.contains(&key), "{key} came back without being kept");
                    let place = tiers.pin(group, key).expect("it is held");
                    prop_assert!(ranks.has(group as u32, place), "{place:?} is something else");
                    tiers.unpin(group, place);
                }
            }
            for (group, place) in &pinned {
                prop_assert!(ranks.has(*group as u32, *place), "{place:?} was used meanwhile");
            }
            tiers.check_integrity().map_err(TestCaseError::fail)?;
            for (tier, most) in [(Tier::Host, host), (Tier::Disk, disk)] {
                let (used, all) = tiers.usage(tier);
                prop_assert!(used <= all && all == most);
            }
        }
        pinned.into_iter().for_each(|(group, place)| tiers.unpin(group, place));
        prop_assert_eq!(tiers.pinned(), 0);
    }
}

#[test]
fn what_was_used_last_stays_longest_and_goes_through_memory_to_the_disk() {
    let mut tiers = Tiers::new(1, (2, 1), Eviction::Lru);
    for key in [1, 2, 3] {
        tiers.keep(0, BlockId(7), key);
    }
    let spilled = TierMove { group: 0, key: 1, from: TierFrom::Host(0), slot: 0 };
    assert_eq!(tiers.moves()[2], spilled, "before its slot is used again");
    tiers.keep(0, BlockId(7), 2);
    assert_eq!(tiers.moves(), [], "it is there already");
    tiers.keep(0, BlockId(7), 4);
    assert!(tiers.holds(0, 2) && tiers.holds(0, 3) && tiers.holds(0, 4) && !tiers.holds(0, 1));
    assert_eq!(tiers.gone(0).collect::<Vec<_>>(), [1]);
    let place = TierPlace { tier: Tier::Disk, slot: 0, key: 3 };
    assert_eq!(tiers.pin(0, 3), Some(place));
    tiers.keep(0, BlockId(7), 5);
    assert!(tiers.holds(0, 3), "what is being read stays");
    assert!(!tiers.holds(0, 2), "and what would have taken its place is dropped");
    let counts = TierCounts { stored: 5, loaded: 0, dropped: 3 };
    assert_eq!(tiers.counts(Tier::Host), TierCounts { stored: 5, ..counts });
    assert_eq!(tiers.counts(Tier::Disk), TierCounts { stored: 2, loaded: 1, dropped: 1 });
}
