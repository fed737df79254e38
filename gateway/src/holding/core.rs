//! How many requests are held for which service, and what the controller is told of it.
//!
//! Bounded in number and in bytes, all services together: what is beyond is refused as it was
//! before there was a hold. A service's demand is told at most once a second, because it is written
//! to a store; when nobody waits any more, the word is taken back.
//!
//! The side of a service that computes prompts is wanted without anybody waiting for it: that
//! counts as one who waits, until it was not wanted for a while.

use std::{collections::BTreeMap, time::Duration};

use super::catalog::ServiceName;

/// The most that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) requests: usize,
    pub(crate) bytes: usize,
}

/// What happens.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A request of so many bytes wants to be held.
    Ask(ServiceName, usize),
    /// One that was held is held no longer.
    Leave(ServiceName, usize),
    /// A request that goes on without it would be better off with it.
    Want(ServiceName),
    /// Somebody is there to tell what there is to be told.
    Look,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It is held.
    Hold,
    /// There is no room for it.
    Refuse,
    /// Tell that so many wait for this service; none any more is told by taking the word back.
    Tell(ServiceName, u32),
    /// Look again then.
    LookAt(Duration),
}

/// Everything that is held.
#[derive(Debug)]
pub(crate) struct Core {
    limits: Limits,
    requests: usize,
    bytes: usize,
    demands: BTreeMap<ServiceName, Demand>,
}

#[derive(Debug, Default)]
struct Demand {
    held: u32,
    told: u32,
    /// Until when it is wanted, though nobody waits.
    wanted: Option<Duration>,
    /// When it was told last.
    at: Option<Duration>,
}

/// The least time between two words on one service.
const INTERVAL: Duration = Duration::from_secs(1);
/// So long after a request would have been better off with it a service is wanted: longer than
/// whoever decides takes to look.
const WANTED: Duration = Duration::from_secs(10);

// === impl Core ===

impl Core {
    /// Nothing is held.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, requests: 0, bytes: 0, demands: BTreeMap::new() }
    }

    /// Requests that are held for a service.
    pub(crate) fn held(&self, service: &ServiceName) -> u32 {
        self.demands.get(service).map_or(0, |demand| demand.held)
    }

    /// Takes one event and says what to do about it.
    pub(crate) fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        match event {
            Event::Ask(service, bytes) => vec![self.ask(service, bytes)],
            Event::Leave(service, bytes) => {
                self.leave(&service, bytes);
                Vec::new()
            }
            Event::Want(service) => {
                self.demands.entry(service).or_default().wanted = Some(now + WANTED);
                Vec::new()
            }
            Event::Look => self.look(now),
        }
    }

    fn ask(&mut self, service: ServiceName, bytes: usize) -> Effect {
        let room = self.requests < self.limits.requests
            && bytes <= self.limits.bytes.saturating_sub(self.bytes);
        if !room {
            return Effect::Refuse;
        }
        self.requests += 1;
        self.bytes += bytes;
        self.demands.entry(service).or_default().held += 1;
        Effect::Hold
    }

    /// Each request leaves as it came, so no count can fall below zero.
    fn leave(&mut self, service: &ServiceName, bytes: usize) {
        self.requests -= 1;
        self.bytes -= bytes;
        if let Some(demand) = self.demands.get_mut(service) {
            demand.held -= 1;
        }
    }

    fn look(&mut self, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut next: Option<Duration> = None;
        for (service, demand) in &mut self.demands {
            let due = demand.at.map_or(now, |at| at + INTERVAL);
            if due > now {
                next = Some(next.map_or(due, |next| next.min(due)));
            } else if demand.now(now) != demand.told {
                demand.told = demand.now(now);
                demand.at = Some(now);
                effects.push(Effect::Tell(service.clone(), demand.told));
                next = Some(next.map_or(now + INTERVAL, |next| next.min(now + INTERVAL)));
            }
            if let Some(until) = demand.wanted.filter(|until| *until > now) {
                next = Some(next.map_or(until, |next| next.min(until)));
            }
        }
        // Those that have nothing more to be told, and may be told of again at once.
        self.demands.retain(|_, demand| {
            let is_told_of = demand.at.is_some_and(|at| at + INTERVAL > now);
            demand.now(now) > 0 || demand.told > 0 || is_told_of
        });
        effects.extend(next.map(Effect::LookAt));
        effects
    }
}

// === impl Demand ===

impl Demand {
    /// How many want the service.
    fn now(&self, now: Duration) -> u32 {
        self.held.max(u32::from(self.wanted.is_some_and(|until| until > now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Duration = Duration::from_millis;

    fn name(name: &str) -> ServiceName {
        ServiceName { namespace: "default".into(), name: name.into() }
    }

    fn core() -> Core {
        Core::new(Limits { requests: 3, bytes: 100 })
    }

    fn ask(core: &mut Core, service: &str, bytes: usize) -> Effect {
        core.handle(AT(0), Event::Ask(name(service), bytes)).remove(0)
    }

    #[test]
    fn as_many_are_held_as_there_is_room_for() {
        let mut core = core();
        assert_eq!(ask(&mut core, "a", 60), Effect::Hold);
        assert_eq!(ask(&mut core, "b", 41), Effect::Refuse, "too many bytes");
        assert_eq!(ask(&mut core, "b", 40), Effect::Hold);
        assert_eq!(ask(&mut core, "b", 0), Effect::Hold);
        assert_eq!(ask(&mut core, "b", 0), Effect::Refuse, "too many");
        core.handle(AT(0), Event::Leave(name("a"), 60));
        assert_eq!(ask(&mut core, "b", 60), Effect::Hold);
        assert_eq!((core.held(&name("a")), core.held(&name("b"))), (0, 3));
    }

    #[test]
    fn demand_is_told_once_a_second_and_taken_back_at_the_end() {
        let mut core = core();
        assert_eq!(core.handle(AT(0), Event::Look), []);
        ask(&mut core, "a", 1);
        let tell = |count| Effect::Tell(name("a"), count);
        let next = |at| Effect::LookAt(AT(at));
        assert_eq!(core.handle(AT(0), Event::Look), [tell(1), next(1000)]);
        ask(&mut core, "a", 1);
        assert_eq!(core.handle(AT(400), Event::Look), [next(1000)], "not before a second");
        assert_eq!(core.handle(AT(1000), Event::Look), [tell(2), next(2000)]);
        assert_eq!(core.handle(AT(2000), Event::Look), [], "nothing is new");
        core.handle(AT(2100), Event::Leave(name("a"), 1));
        core.handle(AT(2100), Event::Leave(name("a"), 1));
        assert_eq!(core.handle(AT(2100), Event::Look), [tell(0), next(3100)]);
        ask(&mut core, "a", 1);
        core.handle(AT(2200), Event::Leave(name("a"), 1));
        assert_eq!(core.handle(AT(2200), Event::Look), [next(3100)], "it came and went");
        assert_eq!(core.handle(AT(3100), Event::Look), []);
        assert!(core.demands.is_empty(), "nothing is remembered of who left");
    }

    #[test]
    fn what_is_wanted_is_told_until_it_was_not_wanted_for_a_while() {
        let mut core = core();
        let want = |core: &mut Core, at| core.handle(AT(at), Event::Want(name("a.prefill")));
        let tell = |count| Effect::Tell(name("a.prefill"), count);
        let next = |at| Effect::LookAt(AT(at));
        assert_eq!(want(&mut core, 0), [], "nobody waits for it");
        assert_eq!(core.held(&name("a.prefill")), 0);
        assert_eq!(core.handle(AT(0), Event::Look), [tell(1), next(1000)]);
        want(&mut core, 500);
        want(&mut core, 4000);
        assert_eq!(core.handle(AT(4000), Event::Look), [next(14_000)], "it is told already");
        assert_eq!(core.handle(AT(14_000), Event::Look), [tell(0), next(15_000)]);
        assert_eq!(core.handle(AT(15_000), Event::Look), []);
        assert!(core.demands.is_empty(), "nothing is remembered of it");
    }
}
