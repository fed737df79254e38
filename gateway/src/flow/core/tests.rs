//! Who is next, as a table of small stories, and what must hold in all of them.

use std::{cell::Cell, collections::BTreeSet};

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { requests: 4, bytes: 1000, ttl: Some(Duration::from_secs(60)) };

/// Endpoints with so many places.
struct World {
    core: Core,
    places: Cell<usize>,
    /// Whether one of them is kept for whoever matters more.
    keeps: bool,
    now: Duration,
}

impl World {
    fn new(limits: Limits, places: usize) -> Self {
        let now = Duration::from_secs(1);
        Self { core: Core::new(limits), places: Cell::new(places), keeps: false, now }
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        let places = self.places.get();
        self.core.handle(self.now, event, &|admitted, rank: Rank| {
            let free = admitted + usize::from(rank.behind && self.keeps) < places;
            free.then_some(Begins::AtOnce)
        })
    }

    fn ask(&mut self, tenant: &str, priority: i32, tokens: u64) -> Vec<Effect> {
        let deadline = self.now + Duration::from_secs(600);
        let ask = Ask {
            priority,
            tenant: tenant.into(),
            weight: if tenant == "heavy" { 3 } else { 1 },
            tokens,
            bytes: tokens as usize,
            deadline,
        };
        self.handle(Event::Ask(ask))
    }

    /// Lets everybody in one after another, and says whose they were, in order.
    fn drain(&mut self, owners: &BTreeMap<Ticket, String>, mut last: Ticket) -> Vec<String> {
        let mut order = Vec::new();
        loop {
            let effects = self.handle(Event::Done(last, 0));
            let Some(Effect::Admit(ticket, _)) = effects.first() else { return order };
            order.push(owners[ticket].clone());
            last = *ticket;
        }
    }
}

fn admit(ticket: u64) -> Effect {
    Effect::Admit(Ticket(ticket), Begins::AtOnce)
}

fn refuse(ticket: u64, why: Why) -> Effect {
    Effect::Refuse(Ticket(ticket), Refusal { why, retry_after: 1 })
}

#[test]
fn with_room_everybody_passes_at_once() {
    let mut world = World::new(LIMITS, 2);
    assert_eq!(world.ask("a", 0, 10), [admit(0)]);
    assert_eq!(world.ask("a", -1, 10), [admit(1)]);
    assert_eq!(world.ask("a", -1, 10), [refuse(2, Why::Shed)], "it may be shed");
    assert_eq!(world.ask("a", 0, 10), [Effect::Wait(Ticket(3))]);
    assert_eq!(world.handle(Event::Done(Ticket(0), 5)), [admit(3)]);
    world.places.set(3);
    assert_eq!(world.ask("a", 0, 10), [admit(4)]);
}

#[test]
fn a_higher_priority_goes_first_and_nobody_else_overtakes() {
    let mut world = World::new(LIMITS, 1);
    world.ask("a", 0, 1);
    let mut owners = BTreeMap::new();
    for (tenant, priority) in [("first", 0), ("second", 0), ("urgent", 5), ("between", 1)] {
        let effects = world.ask(tenant, priority, 1);
        let [Effect::Wait(ticket)] = effects[..] else { panic!("{effects:?}") };
        owners.insert(ticket, tenant.to_owned());
    }
    assert_eq!(world.drain(&owners, Ticket(0)), ["urgent", "between", "first", "second"]);
    assert!(world.core.is_idle() && world.core.given.is_empty(), "nothing is remembered");
}

#[test]
fn tenants_get_their_share_of_tokens_whoever_asks_more() {
    let limits = Limits { requests: 100, bytes: 1 << 20, ..LIMITS };
    let mut world = World::new(limits, 1);
    world.ask("light", 0, 10);
    let mut owners = BTreeMap::new();
    for (tenant, count, tokens) in [("light", 40, 10), ("heavy", 40, 10)] {
        for _ in 0..count {
            let effects = world.ask(tenant, 0, tokens);
            let [Effect::Wait(ticket)] = effects[..] else { panic!("{effects:?}") };
            owners.insert(ticket, tenant.to_owned());
        }
    }
    let order = world.drain(&owners, Ticket(0));
    let heavy = order[..40].iter().filter(|tenant| *tenant == "heavy").count();
    assert!((28..=32).contains(&heavy), "three of four by weight, got {heavy} of 40");
}

#[test]
fn what_is_written_counts_when_it_is_over() {
    let mut world = World::new(LIMITS, 1);
    world.ask("writer", 0, 10);
    let waits = |world: &mut World, tenant: &str| {
        let effects = world.ask(tenant, 0, 10);
        let [Effect::Wait(ticket)] = effects[..] else { panic!("{effects:?}") };
        ticket
    };
    let writer = waits(&mut world, "writer");
    let reader = waits(&mut world, "reader");
    let again = waits(&mut world, "reader");
    // Ten tokens read and a hundred written are 210, so two small requests go before.
    assert_eq!(world.handle(Event::Done(Ticket(0), 100)), [admit(reader.0)]);
    assert_eq!(world.handle(Event::Done(reader, 0)), [admit(again.0)]);
    assert_eq!(world.handle(Event::Done(again, 0)), [admit(writer.0)]);
}

#[test]
fn a_full_band_gives_the_place_of_who_has_most_to_who_has_less() {
    let mut world = World::new(LIMITS, 0);
    for _ in 0..4 {
        world.ask("greedy", 0, 10);
    }
    assert_eq!(world.ask("greedy", 0, 10), [refuse(4, Why::Full)]);
    let effects = world.ask("modest", 0, 10);
    assert_eq!(effects, [refuse(3, Why::Displaced), Effect::Wait(Ticket(5))]);
    assert_eq!(world.ask("large", 0, 1001), [refuse(6, Why::Full)], "it could never fit");
    assert_eq!(world.ask("other", 1, 10), [Effect::Wait(Ticket(7))], "another band has room");
}

#[test]
fn nobody_loses_his_place_if_that_would_not_be_enough() {
    let mut world = World::new(LIMITS, 0);
    for _ in 0..3 {
        world.ask("greedy", 0, 300);
    }
    // One of them would not make room for it, and after two its tenant would have more.
    assert_eq!(world.ask("modest", 0, 700), [refuse(3, Why::Full)]);
    assert_eq!(world.core.waiting(), 3);
    let effects = world.ask("modest", 0, 500);
    let gone = [refuse(2, Why::Displaced), refuse(1, Why::Displaced)];
    assert_eq!(effects, [gone[0].clone(), gone[1].clone(), Effect::Wait(Ticket(4))]);
}

#[test]
fn nobody_waits_longer_than_he_may() {
    let mut world = World::new(LIMITS, 0);
    world.ask("a", 0, 1);
    world.now += Duration::from_secs(30);
    world.ask("a", 0, 1);
    assert_eq!(world.handle(Event::Look), []);
    world.now += Duration::from_secs(30);
    assert_eq!(world.handle(Event::Look), [refuse(0, Why::Late)]);
    world.handle(Event::Leave(Ticket(1)));
    assert!(world.core.is_idle() && world.core.bands.is_empty());
    // What is over twice, or was never there, says nothing.
    assert_eq!(world.handle(Event::Done(Ticket(1), 1)), []);
    assert_eq!(world.handle(Event::Leave(Ticket(9))), []);
}

#[test]
fn while_others_matter_more_a_place_is_left_to_them() {
    let mut world = World { keeps: true, ..World::new(LIMITS, 2) };
    assert_eq!(world.ask("a", 0, 1), [admit(0)]);
    assert_eq!(world.ask("a", 0, 1), [admit(1)], "nobody matters more");
    assert_eq!(world.ask("a", 1, 1), [Effect::Wait(Ticket(2))]);
    assert_eq!(world.ask("a", 0, 1), [Effect::Wait(Ticket(3))]);
    assert_eq!(world.handle(Event::Done(Ticket(0), 1)), [admit(2)]);
    assert_eq!(world.handle(Event::Done(Ticket(2), 1)), [], "it is kept");
    assert_eq!(world.ask("a", 1, 1), [admit(4)], "for this one");
    assert_eq!(world.handle(Event::Done(Ticket(4), 1)), []);
    // Until nobody of them came for a while.
    world.now += OF_LATE;
    assert_eq!(world.handle(Event::Look), [admit(3)]);
}

#[test]
fn who_would_wait_too_long_is_told_so_when_he_comes() {
    let limits = Limits { requests: 100, ttl: Some(Duration::from_secs(3)), ..LIMITS };
    let mut world = World::new(limits, 2);
    let hopeless = |effects: Vec<Effect>| match effects[..] {
        [Effect::Refuse(_, Refusal { why, .. })] => why == Why::Hopeless,
        _ => false,
    };
    world.ask("a", 0, 1);
    world.ask("a", 0, 1);
    world.now += Duration::from_secs(4);
    world.handle(Event::Done(Ticket(0), 1));
    world.ask("a", 0, 1);
    // Two places, each held for four seconds: one comes free every two.
    assert_eq!(world.ask("a", 0, 1), [Effect::Wait(Ticket(3))]);
    assert!(hopeless(world.ask("a", 0, 1)));
    // Not behind all that another one has waiting: each has every second place.
    assert!(hopeless(world.ask("b", 0, 1)), "four seconds");
    assert_eq!(world.ask("b", 1, 1), [Effect::Wait(Ticket(6))], "before all others");
    world.core.limits.ttl = Some(Duration::from_secs(20));
    (7..12).for_each(|at| assert_eq!(world.ask("a", 0, 1), [Effect::Wait(Ticket(at))]));
    assert_eq!(world.ask("a", 0, 1), [Effect::Wait(Ticket(12))]);
    world.core.limits.ttl = Some(Duration::from_secs(8));
    assert!(hopeless(world.ask("a", 0, 1)));
    assert_eq!(world.ask("b", 0, 1), [Effect::Wait(Ticket(14))], "one urgent, one of the other");
}

proptest! {
    #[test]
    fn everybody_is_answered_once_and_bounds_hold(
        steps in prop::collection::vec((0_u8..6, 0_usize..4, -1_i32..3, 1_u64..400), 1..200),
    ) {
        let mut world = World::new(LIMITS, 2);
        let tenants = ["a", "b", "c", "heavy"];
        let (mut asked, mut waiting) = (0, BTreeSet::new());
        let (mut admitted, mut refused) = (BTreeSet::new(), BTreeSet::new());
        for (what, tenant, priority, tokens) in steps {
            world.now += Duration::from_secs(1);
            let effects = match what {
                0..=2 => {
                    asked += 1;
                    world.ask(tenants[tenant], priority, tokens)
                }
                3 => match admitted.pop_first() {
                    Some(ticket) => world.handle(Event::Done(ticket, tokens)),
                    None => Vec::new(),
                },
                4 => match waiting.pop_last() {
                    Some(ticket) => {
                        refused.insert(ticket);
                        world.handle(Event::Leave(ticket))
                    }
                    None => Vec::new(),
                },
                _ => world.handle(Event::Look),
            };
            for effect in effects {
                match effect {
                    Effect::Wait(ticket) => prop_assert!(waiting.insert(ticket)),
                    Effect::Admit(ticket, _) => {
                        waiting.remove(&ticket);
                        prop_assert!(admitted.insert(ticket) && !refused.contains(&ticket));
                    }
                    Effect::Refuse(ticket, refusal) => {
                        waiting.remove(&ticket);
                        prop_assert!(refused.insert(ticket) && !admitted.contains(&ticket));
                        prop_assert!(refusal.retry_after >= 1);
                    }
                }
            }
            prop_assert!(admitted.len() <= 2);
            prop_assert_eq!(world.core.waiting(), waiting.len());
            prop_assert_eq!(world.core.admitted(), admitted.len());
            for band in world.core.bands.values() {
                let all = || band.queues.values().flatten().map(|(_, ask)| ask);
                prop_assert!(band.requests <= LIMITS.requests && band.bytes <= LIMITS.bytes);
                prop_assert_eq!(band.requests, all().count());
                prop_assert_eq!(band.bytes, all().map(|ask| ask.bytes).sum::<usize>());
                prop_assert_eq!(band.tokens, all().map(|ask| ask.tokens).sum::<u64>());
            }
            prop_assert!(waiting.is_empty() || admitted.len() == 2, "nobody waits beside room");
        }
        // Those whose time is over at last are answered too.
        world.now += Duration::from_secs(1000);
        for effect in world.handle(Event::Look) {
            if let Effect::Admit(ticket, _) | Effect::Refuse(ticket, _) = effect {
                waiting.remove(&ticket);
            }
        }
        prop_assert!(waiting.is_empty(), "asked {}", asked);
    }
}
