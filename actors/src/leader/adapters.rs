//! The adapters of a group: which names are served, and how one comes and goes.
//!
//! One order at a time goes to the members, and the next when all have answered: so a member's
//! queues need room for one, and all ranks have seen the same orders. A name is served once every
//! rank has its adapter; if a member refuses, the others are told to forget it again. A name that
//! is given up is served no more at once; the ranks forget the adapter when its last sequence has
//! ended. An id is never used twice.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use troupe_runtime::{
    error::{ErrorKind, PublicError},
    id::{AdapterId, Digest},
    wire::adapter::{
        AdaptDown, AdaptLoad, AdaptUp, AdapterInfo, AdapterOrder, AdapterRef, AdapterReport,
        AdapterState, AdapterStatus, LoadAdapter, MAX_ADAPTERS,
    },
};

use super::engine::{Engine, EngineEffect};

/// Who asked.
pub type Asker = u64;

/// What can happen to adapters.
#[derive(Clone, Debug)]
pub enum AdaptEvent {
    /// A gateway asks.
    Asked(Asker, AdaptUp),
    /// A member answers the order that is under way.
    Report(u32, AdapterReport),
}

/// What is to be done for adapters.
#[derive(Clone, Debug, PartialEq)]
pub enum AdaptEffect {
    /// Tell every member.
    Order(AdapterOrder),
    /// Tell who asked; nothing more follows.
    Answer(Asker, AdaptDown),
}

/// An adapter that was there when the group began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstAdapter {
    /// How plans name it.
    pub id: AdapterId,
    /// What is told of it.
    pub info: AdapterInfo,
}

/// The adapters of one group.
#[derive(Clone, Debug, Default)]
pub(super) struct Adapters {
    max_loras: u32,
    members: u32,
    /// Names that are taken: the model's.
    taken: Vec<String>,
    last: AdapterId,
    served: BTreeMap<String, FirstAdapter>,
    /// Served no more, but known to the ranks.
    leaving: BTreeSet<AdapterId>,
    orders: VecDeque<Order>,
    under_way: Option<UnderWay>,
    /// Those that ran and that were waited for when gateways were last told; none since names
    /// changed.
    told: Option<(BTreeSet<AdapterId>, BTreeSet<AdapterId>)>,
}

#[derive(Clone, Debug)]
struct Order {
    order: AdapterOrder,
    /// What it is for, if somebody asked.
    wish: Option<(Asker, AdapterInfo)>,
}

#[derive(Clone, Debug)]
struct UnderWay {
    since: Duration,
    order: Order,
    answers: BTreeMap<u32, AdapterState>,
}

impl Adapters {
    /// Those of a group of `members` members that serves its model by `taken` names.
    pub(super) fn new(
        max_loras: u32,
        members: u32,
        taken: &[String],
        first: &[FirstAdapter],
    ) -> Self {
        let served = first.iter().map(|one| (one.info.name.clone(), one.clone()));
        let last = first.iter().map(|one| one.id).max().unwrap_or_default();
        let (taken, served) = (taken.to_vec(), served.collect());
        Self { max_loras, members, taken, last, served, ..Self::default() }
    }

    /// The adapter that a request names.
    ///
    /// # Errors
    /// Not found where there is none of the name; unavailable where it is another one.
    pub(super) fn find(&self, wanted: &AdapterRef) -> Result<AdapterId, PublicError> {
        let name = &wanted.name;
        match self.served.get(name) {
            Some(own) if own.info.digest == wanted.digest => Ok(own.id),
            Some(_) => {
                let why = format!("this endpoint has another adapter `{name}`");
                Err(PublicError::new(ErrorKind::Unavailable, why))
            }
            None => {
                let why = format!("this endpoint has no LoRA adapter `{name}`");
                Err(PublicError::new(ErrorKind::NotFound, why))
            }
        }
    }

    fn asked(&mut self, asker: Asker, up: AdaptUp, effects: &mut Vec<EngineEffect>) {
        let outcome = match up {
            AdaptUp::Load(load) => self.load(asker, load),
            AdaptUp::Unload(name) => self.unload(&name).map(|()| Some(AdaptDown::Done)),
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(down)) => effects.push(AdaptEffect::Answer(asker, down).into()),
            Err(error) => {
                effects.push(AdaptEffect::Answer(asker, AdaptDown::Refused(error)).into());
            }
        }
    }

    /// `None`: the answer follows.
    fn load(
        &mut self,
        asker: Asker,
        AdaptLoad { name, path, replace }: AdaptLoad,
    ) -> Result<Option<AdaptDown>, PublicError> {
        let bad = |why: String| Err(PublicError::new(ErrorKind::BadRequest, why));
        if self.max_loras == 0 {
            return bad("LoRA is not enabled: --enable-lora".into());
        }
        if self.taken.contains(&name) {
            return bad(format!("'{name}' is the name of the model"));
        }
        let is_coming = self.orders.iter().chain(self.under_way.iter().map(|own| &own.order));
        let is_coming = is_coming.filter_map(|order| order.wish.as_ref());
        let is_coming = is_coming.into_iter().any(|(_, info)| info.name == name);
        if is_coming || (self.served.contains_key(&name) && !replace) {
            return bad(format!(
                "The lora adapter '{name}' has already been loaded. If you want to load the \
                 adapter in place, set 'load_inplace' to True."
            ));
        }
        if self.orders.len() >= MOST_ORDERS || self.served.len() >= MAX_ADAPTERS {
            let why = "too many LoRA adapters are being loaded, or are loaded";
            return Err(PublicError::new(ErrorKind::Overloaded, why));
        }
        self.last.0 += 1;
        let order = AdapterOrder::Load(LoadAdapter { id: self.last, path: path.clone() });
        let info = AdapterInfo { name, path, digest: Digest::default() };
        self.orders.push_back(Order { order, wish: Some((asker, info)) });
        Ok(None)
    }

    fn unload(&mut self, name: &str) -> Result<(), PublicError> {
        let Some(own) = self.served.remove(name) else {
            let why = format!("The lora adapter '{name}' cannot be found.");
            return Err(PublicError::new(ErrorKind::NotFound, why));
        };
        self.leaving.insert(own.id);
        self.told = None;
        Ok(())
    }

    fn report(&mut self, member: u32, report: AdapterReport, effects: &mut Vec<EngineEffect>) {
        let Some(under_way) = &mut self.under_way else { return };
        if under_way.order.order.id() != report.id {
            return;
        }
        under_way.answers.insert(member, report.state);
        if (under_way.answers.len() as u32) < self.members {
            return;
        }
        let Some(UnderWay { order, answers, .. }) = self.under_way.take() else { return };
        self.conclude(order, agreed(&answers), effects);
    }

    /// What members have come to, or why they have not.
    fn conclude(
        &mut self,
        order: Order,
        outcome: Result<Digest, String>,
        effects: &mut Vec<EngineEffect>,
    ) {
        let (id, Some((asker, info))) = (order.order.id(), order.wish) else { return };
        let down = match outcome {
            Ok(digest) => {
                let name = info.name.clone();
                let new = FirstAdapter { id, info: AdapterInfo { digest, ..info } };
                // One that gives way goes on for those that have it.
                let old = self.served.insert(name, new);
                self.leaving.extend(old.map(|old| old.id));
                self.told = None;
                AdaptDown::Done
            }
            Err(why) => {
                self.leaving.insert(id);
                AdaptDown::Refused(PublicError::new(ErrorKind::BadRequest, why))
            }
        };
        effects.push(AdaptEffect::Answer(asker, down).into());
    }

    /// Sends the next order, if none is under way that may still be answered.
    fn go_on(
        &mut self,
        now: Duration,
        uses: impl Fn(AdapterId) -> bool,
        effects: &mut Vec<EngineEffect>,
    ) {
        match self.under_way.take_if(|own| now.saturating_sub(own.since) >= DEADLINE) {
            None if self.under_way.is_some() => return,
            None => {}
            Some(late) => {
                let member = (0..self.members).find(|member| !late.answers.contains_key(member));
                let member = member.unwrap_or_default();
                let why = format!("member {member} has not answered within {DEADLINE:?}");
                self.conclude(late.order, Err(why), effects);
            }
        }
        if let Some(id) = self.leaving.iter().copied().find(|id| !uses(*id)) {
            self.leaving.remove(&id);
            self.orders.push_front(Order { order: AdapterOrder::Unload(id), wish: None });
        }
        let Some(order) = self.orders.pop_front() else { return };
        effects.push(AdaptEffect::Order(order.order.clone()).into());
        self.under_way = Some(UnderWay { since: now, order, answers: BTreeMap::new() });
    }
}

/// What all members have loaded, or why that cannot be.
fn agreed(answers: &BTreeMap<u32, AdapterState>) -> Result<Digest, String> {
    let mut found: Option<Digest> = None;
    for (member, state) in answers {
        match (state, found) {
            (AdapterState::Refused(why), _) => return Err(why.clone()),
            (AdapterState::Unloaded, _) => return Err(format!("member {member} has it not")),
            (AdapterState::Loaded(digest), Some(other)) if *digest != other => {
                return Err(format!("member {member} has other files there than member 0"));
            }
            (AdapterState::Loaded(digest), _) => found = Some(*digest),
        }
    }
    found.ok_or_else(|| "nobody has it".into())
}

impl Engine {
    /// The same whose group has adapters: `members` members, of a model that is served by `taken`
    /// names, with `first` from the start.
    #[must_use]
    pub fn with_adapters(mut self, members: u32, taken: &[String], first: &[FirstAdapter]) -> Self {
        let max_loras = self.settings.limits.lora.map_or(0, |room| room.max_loras);
        self.adapters = Adapters::new(max_loras, members, taken, first);
        self
    }

    /// What gateways are to be told of adapters, if that has changed since it was last asked for.
    pub fn adapters(&mut self) -> Option<AdapterStatus> {
        if self.adapters.max_loras == 0 {
            return None;
        }
        let now = self.scheduler.adapters();
        if self.adapters.told.as_ref() == Some(&now) {
            return None;
        }
        let (running, waiting) = self.adapters.told.insert(now).clone();
        let served = self.adapters.served.values();
        let names = |ids: BTreeSet<AdapterId>| {
            let named = self.adapters.served.values().filter(|own| ids.contains(&own.id));
            named.map(|own| own.info.name.clone()).collect()
        };
        Some(AdapterStatus {
            max_loras: self.adapters.max_loras,
            served: served.map(|own| own.info.clone()).collect(),
            running: names(running),
            waiting: names(waiting),
        })
    }

    pub(super) fn adapt(&mut self, event: AdaptEvent, effects: &mut Vec<EngineEffect>) {
        match event {
            AdaptEvent::Asked(asker, up) => self.adapters.asked(asker, up, effects),
            AdaptEvent::Report(member, report) => self.adapters.report(member, report, effects),
        }
    }

    /// Adapters that are used no more go, and the next may come.
    pub(super) fn go_on_adapting(&mut self, now: Duration, effects: &mut Vec<EngineEffect>) {
        let Self { adapters, scheduler, .. } = self;
        adapters.go_on(now, |id| scheduler.uses(id), effects);
    }
}

impl From<AdaptEffect> for EngineEffect {
    fn from(effect: AdaptEffect) -> Self {
        Self::Adapt(effect)
    }
}

/// A member that has not read an adapter by then reads from something that hangs.
const DEADLINE: Duration = Duration::from_secs(600);
/// Loads that may wait for their turn.
const MOST_ORDERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const A: Digest = Digest([1; 32]);
    const NOW: Duration = Duration::from_secs(1);

    fn adapters(members: u32) -> Adapters {
        let info = AdapterInfo { name: "first".into(), path: "/first".into(), digest: A };
        let first = FirstAdapter { id: AdapterId(1), info };
        Adapters::new(2, members, &["m".into()], &[first])
    }

    fn load(name: &str, replace: bool) -> AdaptUp {
        AdaptUp::Load(AdaptLoad { name: name.into(), path: format!("/{name}"), replace })
    }

    /// What comes of an event while `used` adapters are.
    fn after(own: &mut Adapters, used: &[u32], event: AdaptEvent) -> Vec<AdaptEffect> {
        let mut effects = Vec::new();
        match event {
            AdaptEvent::Asked(asker, up) => own.asked(asker, up, &mut effects),
            AdaptEvent::Report(member, report) => own.report(member, report, &mut effects),
        }
        own.go_on(NOW, |id| used.contains(&id.0), &mut effects);
        told(effects)
    }

    fn told(effects: Vec<EngineEffect>) -> Vec<AdaptEffect> {
        let effect = |effect| match effect {
            EngineEffect::Adapt(effect) => effect,
            other => panic!("{other:?}"),
        };
        effects.into_iter().map(effect).collect()
    }

    fn report(member: u32, id: u32, state: AdapterState) -> AdaptEvent {
        AdaptEvent::Report(member, AdapterReport { id: AdapterId(id), state })
    }

    fn order(id: u32, path: &str) -> AdaptEffect {
        AdaptEffect::Order(AdapterOrder::Load(LoadAdapter { id: AdapterId(id), path: path.into() }))
    }

    fn named(name: &str) -> AdapterRef {
        AdapterRef { name: name.into(), digest: A }
    }

    #[test]
    fn a_name_is_served_once_every_member_has_its_adapter() {
        let mut own = adapters(2);
        assert_eq!(own.find(&named("first")), Ok(AdapterId(1)));
        assert_eq!(after(&mut own, &[], AdaptEvent::Asked(7, load("b", false))), [order(2, "/b")]);
        // One order at a time.
        assert!(after(&mut own, &[], AdaptEvent::Asked(8, load("c", false))).is_empty());
        assert!(after(&mut own, &[], report(0, 2, AdapterState::Loaded(A))).is_empty());
        assert!(own.find(&named("b")).is_err());
        let effects = after(&mut own, &[], report(1, 2, AdapterState::Loaded(A)));
        assert_eq!(effects, [AdaptEffect::Answer(7, AdaptDown::Done), order(3, "/c")]);
        assert_eq!(own.find(&named("b")), Ok(AdapterId(2)));
        let other = AdapterRef { digest: Digest([2; 32]), ..named("b") };
        assert_eq!(own.find(&other).unwrap_err().kind, ErrorKind::Unavailable);
        assert_eq!(own.find(&named("x")).unwrap_err().kind, ErrorKind::NotFound);
    }

    #[test]
    fn what_one_member_refuses_the_others_forget() {
        for bad in
            [AdapterState::Refused("no rank 3".into()), AdapterState::Loaded(Digest([9; 32]))]
        {
            let mut own = adapters(2);
            after(&mut own, &[], AdaptEvent::Asked(7, load("b", false)));
            after(&mut own, &[], report(0, 2, AdapterState::Loaded(A)));
            let effects = after(&mut own, &[], report(1, 2, bad));
            let [AdaptEffect::Answer(7, AdaptDown::Refused(error)), forget] = &effects[..] else {
                panic!("{effects:?}");
            };
            assert!(error.message.contains("no rank 3") || error.message.contains("other files"));
            assert_eq!(*forget, AdaptEffect::Order(AdapterOrder::Unload(AdapterId(2))));
            assert!(own.find(&named("b")).is_err());
        }
    }

    #[test]
    fn a_member_that_does_not_answer_holds_nobody_up_for_ever() {
        let mut own = adapters(2);
        after(&mut own, &[], AdaptEvent::Asked(7, load("b", false)));
        after(&mut own, &[], AdaptEvent::Asked(8, load("c", false)));
        after(&mut own, &[], report(0, 2, AdapterState::Loaded(A)));
        let mut effects = Vec::new();
        own.go_on(NOW + DEADLINE, |_| false, &mut effects);
        let effects = told(effects);
        let [AdaptEffect::Answer(7, AdaptDown::Refused(error)), forget] = &effects[..] else {
            panic!("{effects:?}");
        };
        assert!(error.message.contains("member 1 has not answered"), "{error}");
        assert_eq!(*forget, AdaptEffect::Order(AdapterOrder::Unload(AdapterId(2))));
        // What it says in the end says nothing of the next.
        assert!(after(&mut own, &[], report(1, 9, AdapterState::Loaded(A))).is_empty());
        after(&mut own, &[], report(0, 2, AdapterState::Unloaded));
        let next = after(&mut own, &[], report(1, 2, AdapterState::Unloaded));
        assert_eq!(next, [order(3, "/c")]);
    }

    #[test]
    fn one_that_is_unloaded_is_forgotten_when_nobody_uses_it() {
        let mut own = adapters(1);
        let unload = || AdaptEvent::Asked(7, AdaptUp::Unload("first".into()));
        let effects = after(&mut own, &[1], unload());
        assert_eq!(effects, [AdaptEffect::Answer(7, AdaptDown::Done)]);
        assert!(own.find(&named("first")).is_err(), "it is served no more");
        let effects = after(&mut own, &[], unload());
        let [AdaptEffect::Answer(7, AdaptDown::Refused(error)), forget] = &effects[..] else {
            panic!("{effects:?}");
        };
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert_eq!(*forget, AdaptEffect::Order(AdapterOrder::Unload(AdapterId(1))));
    }

    #[test]
    fn a_name_that_is_taken_is_refused_unless_it_is_to_give_way() {
        let mut own = adapters(1);
        for name in ["m", "first"] {
            let effects = after(&mut own, &[], AdaptEvent::Asked(7, load(name, false)));
            assert!(matches!(effects[..], [AdaptEffect::Answer(7, AdaptDown::Refused(_))]));
        }
        let effects = after(&mut own, &[1], AdaptEvent::Asked(7, load("first", true)));
        assert_eq!(effects, [order(2, "/first")]);
        assert_eq!(own.find(&named("first")), Ok(AdapterId(1)), "until the new one is there");
        after(&mut own, &[1], report(0, 2, AdapterState::Loaded(A)));
        assert_eq!(own.find(&named("first")), Ok(AdapterId(2)));
        assert!(own.leaving.contains(&AdapterId(1)), "whose requests go on");
    }
}
