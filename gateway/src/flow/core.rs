//! Who waits for one model, who is next, and who is turned away.
//!
//! Requests wait in bands by priority, the highest first. In a band the tenant goes first that was
//! given the least so far for its weight, counted in tokens: what is read when it is let in, and
//! what was written once it is over, which costs twice as much (the virtual token counter of Sheng
//! et al., OSDI 2024). A tenant that was away comes back with what the least served of those that
//! wait has, so nobody saves up. Within a tenant who came first goes first.
//!
//! Everything is bounded: requests and bytes in each band, and the time that a request waits. One
//! that would wait longer than it may, as fast as places come free ([`expected`](super::expected)),
//! is told so when it comes: those that wait get their turn in time. Where a band is full, its
//! tenant with the most bytes loses its latest request to one of a tenant with less; so one tenant
//! cannot keep the others out by filling the queue.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    drain::DrainRate,
    expected::Pace,
    saturation::{Begins, Rank},
};

/// A request, by its number at this core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// Bounds of what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Requests in one band.
    pub(crate) requests: usize,
    /// What they take in memory.
    pub(crate) bytes: usize,
    /// The longest wait of a request, if not its own time.
    pub(crate) ttl: Option<Duration>,
}

/// What a request is to a queue.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// Higher goes first; below zero does not wait.
    pub(crate) priority: i32,
    /// Whose it is.
    pub(crate) tenant: Arc<str>,
    /// The tenant's share, relative to others'.
    pub(crate) weight: u32,
    /// Tokens of its prompts.
    pub(crate) tokens: u64,
    /// What it takes in memory.
    pub(crate) bytes: usize,
    /// When its answer is worthless.
    pub(crate) deadline: Duration,
}

/// What happens.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A request wants in.
    Ask(Ask),
    /// One that waits does so no longer: its client is gone.
    Leave(Ticket),
    /// One that was let in is over, and has brought so many tokens.
    Done(Ticket, u64),
    /// Time has passed, or load has changed.
    Look,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It waits, under this number.
    Wait(Ticket),
    /// It is let in, and begins then.
    Admit(Ticket, Begins),
    /// It is turned away.
    Refuse(Ticket, Refusal),
}

/// Why a request is turned away, and when it may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) why: Why,
    /// In seconds.
    pub(crate) retry_after: u32,
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It may be shed, and endpoints are saturated.
    Shed,
    /// Too many wait.
    Full,
    /// It would have to wait longer than it may.
    Hopeless,
    /// It had to make room for one of a tenant that has less.
    Displaced,
    /// It has waited as long as it may.
    Late,
}

/// One model's queue.
#[derive(Debug)]
pub(crate) struct Core {
    limits: Limits,
    next: u64,
    /// By priority, the lowest first.
    bands: BTreeMap<i32, Band>,
    /// Those that wait: where each stands.
    waiting: BTreeMap<Ticket, (i32, Arc<str>)>,
    /// Those that were let in and are not over.
    admitted: BTreeMap<Ticket, Admitted>,
    /// What each tenant was given for its weight, of those that wait or are let in.
    given: BTreeMap<Arc<str>, Given>,
    rate: DrainRate,
    pace: Pace,
    /// The highest priority that asked of late, and when it did last.
    highest: (i32, Duration),
}

#[derive(Debug, Default)]
struct Band {
    /// By tenant.
    queues: BTreeMap<Arc<str>, VecDeque<(Ticket, Ask)>>,
    requests: usize,
    bytes: usize,
    tokens: u64,
}

#[derive(Debug)]
struct Admitted {
    since: Duration,
    tenant: Arc<str>,
    weight: u32,
    tokens: u64,
}

/// What a tenant was given, in tokens over weight.
#[derive(Debug, Default)]
struct Given {
    cost: f64,
    /// Requests of it that wait or are let in.
    open: usize,
}

/// A token that is written takes about as much of a device as two that are read.
const OUTPUT_COST: u64 = 2;
/// Whoever was important so long ago is forgotten.
const OF_LATE: Duration = Duration::from_secs(10);

// === impl Core ===

impl Core {
    /// Nobody waits.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            next: 0,
            bands: BTreeMap::new(),
            waiting: BTreeMap::new(),
            admitted: BTreeMap::new(),
            given: BTreeMap::new(),
            rate: DrainRate::default(),
            pace: Pace::default(),
            highest: (i32::MIN, Duration::ZERO),
        }
    }

    /// Whether nobody waits or is let in.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.admitted.is_empty()
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many were let in and are not over.
    pub(crate) fn admitted(&self) -> usize {
        self.admitted.len()
    }

    /// The number of the request that asked last.
    pub(crate) fn latest(&self) -> Ticket {
        Ticket(self.next.saturating_sub(1))
    }

    /// Takes one event and says what to do about it. `room` says whether endpoints have room for
    /// one of a rank when so many requests are let in, and when it begins then.
    pub(crate) fn handle(
        &mut self,
        now: Duration,
        event: Event,
        room: &dyn Fn(usize, Rank) -> Option<Begins>,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Ask(ask) => self.ask(now, ask, room, &mut effects),
            Event::Leave(ticket) => drop(self.take(ticket)),
            Event::Done(ticket, output) => self.done(now, ticket, output),
            Event::Look => self.expire(now, &mut effects),
        }
        while let Some((&priority, _)) = self.bands.iter().next_back()
            && let Some(begins) = room(self.admitted.len(), self.rank(now, priority))
        {
            let Some((ticket, ask)) = self.pop() else { break };
            self.admit(now, ticket, &ask);
            effects.push(Effect::Admit(ticket, begins));
        }
        effects
    }

    fn ask(
        &mut self,
        now: Duration,
        mut ask: Ask,
        room: &dyn Fn(usize, Rank) -> Option<Begins>,
        effects: &mut Vec<Effect>,
    ) {
        let ticket = Ticket(self.next);
        self.next += 1;
        if ask.priority >= self.highest.0 || now.saturating_sub(self.highest.1) >= OF_LATE {
            self.highest = (ask.priority, now);
        }
        // Who comes later than somebody who waits does not go before him for that.
        let first = self.bands.range(ask.priority..).all(|(_, band)| band.requests == 0);
        let free = room(self.admitted.len(), self.rank(now, ask.priority));
        if first && let Some(begins) = free {
            self.open(&ask);
            self.admit(now, ticket, &ask);
            return effects.push(Effect::Admit(ticket, begins));
        }
        if ask.priority < 0 && free.is_none() {
            let retry_after = self.retry_after(now, ask.priority);
            return effects.push(Effect::Refuse(ticket, Refusal { why: Why::Shed, retry_after }));
        }
        if let Some(ttl) = self.limits.ttl {
            ask.deadline = ask.deadline.min(now + ttl);
        }
        let retry_after = self.retry_after(now, ask.priority);
        if self.expected(&ask).is_some_and(|wait| now.saturating_add(wait) > ask.deadline) {
            let refusal = Refusal { why: Why::Hopeless, retry_after };
            return effects.push(Effect::Refuse(ticket, refusal));
        }
        let Some(displaced) = self.make_room(&ask) else {
            return effects.push(Effect::Refuse(ticket, Refusal { why: Why::Full, retry_after }));
        };
        let displaced = displaced.into_iter();
        effects.extend(
            displaced.map(|t| Effect::Refuse(t, Refusal { why: Why::Displaced, retry_after })),
        );
        self.open(&ask);
        self.waiting.insert(ticket, (ask.priority, Arc::clone(&ask.tenant)));
        let band = self.bands.entry(ask.priority).or_default();
        band.requests += 1;
        band.bytes += ask.bytes;
        band.tokens += ask.tokens;
        band.queues.entry(Arc::clone(&ask.tenant)).or_default().push_back((ticket, ask));
        effects.push(Effect::Wait(ticket));
    }

    /// Makes room in a request's band and says who loses his place for it; nothing, and nobody
    /// does, if there would not be enough.
    fn make_room(&mut self, ask: &Ask) -> Option<Vec<Ticket>> {
        let Limits { requests: most_requests, bytes: most_bytes, .. } = self.limits;
        if ask.bytes > most_bytes || most_requests == 0 {
            return None;
        }
        let Some(band) = self.bands.get(&ask.priority) else { return Some(Vec::new()) };
        let (mut requests, mut bytes) = (band.requests, band.bytes);
        // What each tenant would have left: bytes, and requests.
        let mut left: BTreeMap<&Arc<str>, (usize, usize)> = BTreeMap::new();
        for (tenant, queue) in &band.queues {
            let all = queue.iter().map(|(_, ask)| ask.bytes.max(1)).sum();
            left.insert(tenant, (all, queue.len()));
        }
        let own = left.get(&ask.tenant).map_or(0, |(bytes, _)| *bytes);
        let mut displaced = Vec::new();
        while requests >= most_requests || bytes + ask.bytes > most_bytes {
            let most = left.iter_mut().max_by_key(|(_, (bytes, _))| *bytes);
            // Only who has more, the new request included, gives way.
            let (tenant, (all, count)) = most.filter(|(tenant, (bytes, _))| {
                ***tenant != ask.tenant && *bytes > own + ask.bytes.max(1)
            })?;
            *count = count.checked_sub(1)?;
            let (ticket, latest) = band.queues.get(*tenant)?.get(*count)?;
            *all -= latest.bytes.max(1);
            requests -= 1;
            bytes -= latest.bytes;
            displaced.push(*ticket);
        }
        for ticket in &displaced {
            self.take(*ticket);
        }
        Some(displaced)
    }

    /// A tenant has one more request.
    fn open(&mut self, ask: &Ask) {
        let known = self.given.contains_key(&ask.tenant);
        if !known {
            let waiting = self.bands.values().flat_map(|band| band.queues.keys());
            let least = waiting
                .filter_map(|tenant| self.given.get(tenant))
                .map(|given| given.cost)
                .min_by(f64::total_cmp);
            let least = least
                .or_else(|| self.given.values().map(|given| given.cost).min_by(f64::total_cmp));
            let given = Given { cost: least.unwrap_or(0.0), open: 0 };
            self.given.insert(Arc::clone(&ask.tenant), given);
        }
        if let Some(given) = self.given.get_mut(&ask.tenant) {
            given.open += 1;
        }
    }

    /// A tenant has one request less.
    fn close(&mut self, tenant: &Arc<str>) {
        let Some(given) = self.given.get_mut(tenant) else { return };
        given.open -= 1;
        if given.open == 0 {
            self.given.remove(tenant);
        }
    }

    fn charge(&mut self, tenant: &Arc<str>, weight: u32, tokens: u64) {
        if let Some(given) = self.given.get_mut(tenant) {
            given.cost += tokens as f64 / f64::from(weight.max(1));
        }
    }

    /// How important a priority is beside the others of late.
    fn rank(&self, now: Duration, priority: i32) -> Rank {
        let (highest, asked) = self.highest;
        let behind = priority < highest && now.saturating_sub(asked) < OF_LATE;
        Rank { behind, sheddable: priority < 0 }
    }

    /// How long a request would wait that asks now; nothing is known before one has ended.
    fn expected(&self, ask: &Ask) -> Option<Duration> {
        let higher = self.bands.range(ask.priority..).filter(|(own, _)| **own > ask.priority);
        let mut ahead: usize = higher.map(|(_, band)| band.requests).sum();
        if let Some(band) = self.bands.get(&ask.priority) {
            // By fair shares the next one of a tenant goes after so many of all, whatever others
            // have waiting beside those.
            let own = band.queues.get(&ask.tenant);
            let weights = band.queues.values().filter_map(VecDeque::front);
            let all: u64 = weights.map(|(_, first)| u64::from(first.weight.max(1))).sum();
            let weight = u64::from(ask.weight.max(1));
            let all = if own.is_some() { all } else { all + weight };
            let turn = own.map_or(0, VecDeque::len) as u64 + 1;
            ahead += band.requests.min((turn * all).div_ceil(weight) as usize - 1);
        }
        self.pace.wait(self.admitted.len(), ahead, ask.priority)
    }

    fn admit(&mut self, now: Duration, ticket: Ticket, ask: &Ask) {
        self.charge(&ask.tenant, ask.weight, ask.tokens);
        self.pace.admitted(ask.priority);
        let tenant = Arc::clone(&ask.tenant);
        let admitted = Admitted { since: now, tenant, weight: ask.weight, tokens: ask.tokens };
        self.admitted.insert(ticket, admitted);
    }

    fn done(&mut self, now: Duration, ticket: Ticket, output: u64) {
        let Some(Admitted { since, tenant, weight, tokens }) = self.admitted.remove(&ticket) else {
            return;
        };
        self.rate.done(now, tokens);
        self.pace.ended(now.saturating_sub(since));
        self.charge(&tenant, weight, OUTPUT_COST * output);
        self.close(&tenant);
    }

    /// Takes who is next out of the queue.
    fn pop(&mut self) -> Option<(Ticket, Ask)> {
        let (_, band) = self.bands.iter().next_back()?;
        let cost = |tenant: &Arc<str>| self.given.get(tenant).map_or(0.0, |given| given.cost);
        let tenant = band.queues.keys().min_by(|a, b| cost(a).total_cmp(&cost(b)))?;
        let (ticket, _) = band.queues.get(tenant)?.front()?;
        let ticket = *ticket;
        let ask = self.remove(ticket)?;
        Some((ticket, ask))
    }

    /// Takes one out of the queue who will not be let in.
    fn take(&mut self, ticket: Ticket) -> Option<Ask> {
        let ask = self.remove(ticket)?;
        self.close(&ask.tenant);
        Some(ask)
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Ask> {
        let (priority, tenant) = self.waiting.remove(&ticket)?;
        let band = self.bands.get_mut(&priority)?;
        let queue = band.queues.get_mut(&tenant)?;
        // Tickets of a queue grow.
        let at = queue.binary_search_by_key(&ticket, |(ticket, _)| *ticket).ok()?;
        let (_, ask) = queue.remove(at)?;
        band.requests -= 1;
        band.bytes -= ask.bytes;
        band.tokens -= ask.tokens;
        if queue.is_empty() {
            band.queues.remove(&tenant);
        }
        if band.requests == 0 {
            self.bands.remove(&priority);
        }
        Some(ask)
    }

    fn expire(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let queues = self.bands.iter().flat_map(|(priority, band)| {
            band.queues.values().flatten().map(|(ticket, ask)| (*priority, *ticket, ask.deadline))
        });
        let late: Vec<_> = queues.filter(|(_, _, deadline)| *deadline <= now).collect();
        for (priority, ticket, _) in late {
            self.take(ticket);
            let retry_after = self.retry_after(now, priority);
            effects.push(Effect::Refuse(ticket, Refusal { why: Why::Late, retry_after }));
        }
    }

    /// Seconds until what stands before a new request of this priority is worked off.
    fn retry_after(&self, now: Duration, priority: i32) -> u32 {
        let before = self.bands.range(priority..).map(|(_, band)| band.tokens).sum();
        self.rate.seconds_for(now, before)
    }
}

#[cfg(test)]
mod tests;
