//! What the leader does about its cores' effects: each is one call.

use std::time::Duration;

use ractor::ActorRef;
use tokio::sync::oneshot;
use troupe_runtime::{
    actor::RemoteRef,
    discovery::directory::MemberState,
    error::{ErrorKind, PublicError},
    id::{Digest, NodeId},
    transport::{Conversation, Stream},
    wire::{
        adapter::{AdaptDown, AdaptUp},
        generate::{Generate, GenerateDown},
        group::{Hello, MemberDown, MemberUp, RankReport},
        member::{Blame, MemberToNode},
    },
};

use uuid::Uuid;

use super::{
    actor::{LeaderMsg, LeaderState},
    adapters::{AdaptEffect, AdaptEvent},
    cache, doors,
    drain::{Drain, Stand},
    engine::{Engine, EngineEffect, EngineEvent},
    request::RequestKey,
    transfers::{TransferEvent, TransferSetup},
};
use crate::group::lifecycle::{Door, GroupEffect, GroupEvent, Over};

impl LeaderState {
    pub(super) fn open(
        &mut self,
        myself: &ActorRef<LeaderMsg>,
        what: Conversation,
        stream: Stream,
        from: NodeId,
    ) {
        while self.doors.try_join_next().is_some() {}
        while self.requests.try_join_next().is_some() {}
        match what {
            Conversation::Group => {
                self.last_door += 1;
                self.doors.spawn(doors::group(myself.clone(), self.last_door, from, stream))
            }
            Conversation::Generate => {
                self.last_door += 1;
                self.requests.spawn(doors::generate(myself.clone(), self.last_door, stream))
            }
            Conversation::Status => {
                let (info, load) = (self.info.subscribe(), self.load.subscribe());
                let told = doors::Told { info, load, adapters: self.adapters.subscribe() };
                let metrics = self.observer.metrics();
                self.doors.spawn(doors::status(told, metrics, stream))
            }
            Conversation::Prefill => {
                self.last_door += 1;
                self.doors.spawn(doors::prefill(myself.clone(), self.last_door, stream))
            }
            Conversation::Adapt => self.doors.spawn(doors::adapt(myself.clone(), stream)),
            Conversation::Cache => self.doors.spawn(cache::door(self.cache.clone(), stream)),
            // Tensors go to the ranks; the member's front door has taken them out. The others
            // belong at a host's door.
            Conversation::Bulk(_)
            | Conversation::Kv(_)
            | Conversation::Guest
            | Conversation::Join
            | Conversation::Renew
            | Conversation::Operate
            | Conversation::Host
            | Conversation::Probe(_)
            | Conversation::Preflight => return,
        };
    }

    /// Who is turned away is taken out again, which ends its conversation.
    pub(super) fn join(
        &mut self,
        door: Door,
        from: NodeId,
        hello: Hello,
        down: RemoteRef<MemberDown>,
    ) {
        self.members.insert(door, down);
        self.group(GroupEvent::Hello(door, from, hello))
    }

    pub(super) fn up(&mut self, door: Door, up: MemberUp) {
        let Some(member) = self.args.group.member_at(door) else { return };
        match up {
            MemberUp::Hello(_) => tracing::warn!(member, "a member says hello once more"),
            MemberUp::Loaded(reports) => self.group(GroupEvent::Loaded(door, reports)),
            MemberUp::Progress(progress) => {
                self.observer.progress(&progress);
                self.group(GroupEvent::Progress(progress))
            }
            MemberUp::Pulse(pulses) => self.group(GroupEvent::Pulse(pulses)),
            MemberUp::Failed(cause) => self.group(GroupEvent::Lost(door, cause)),
            MemberUp::Drain(seconds) => self.drain(Duration::from_secs(seconds.into())),
            MemberUp::Adapter(report) => {
                self.engine(EngineEvent::Adapt(AdaptEvent::Report(member, report)));
            }
            MemberUp::Transfer(report) => {
                self.engine(EngineEvent::Transfer(TransferEvent::Report(report)));
            }
            MemberUp::Result(result) => {
                self.group(GroupEvent::Done(result.step));
                self.engine(EngineEvent::Result(result))
            }
        }
    }

    pub(super) fn submit(
        &mut self,
        generate: Box<Generate>,
        door: u64,
        outbox: RemoteRef<GenerateDown>,
    ) {
        let key = RequestKey { request: generate.request, attempt: generate.attempt };
        let refusal = match (&self.engine, self.outboxes.contains_key(&key)) {
            (None, _) => Some("the group does not serve yet"),
            (Some(_), true) => Some("this attempt is under way already"),
            (Some(_), false) => None,
        };
        if let Some(why) = refusal {
            let error = PublicError::new(ErrorKind::Unavailable, why);
            // The outbox is new and empty: there is room.
            let _ = outbox.cast(GenerateDown::Refused(error));
            return;
        }
        self.outboxes.insert(key, (door, outbox));
        self.engine(EngineEvent::Submit(generate))
    }

    /// One asker more; who is told nothing hears that by its channel's end.
    pub(super) fn adapt(&mut self, up: AdaptUp, answer: oneshot::Sender<AdaptDown>) {
        self.last_door += 1;
        self.adapting.retain(|_, waiting| !waiting.is_closed());
        self.adapting.insert(self.last_door, answer);
        self.engine(EngineEvent::Adapt(AdaptEvent::Asked(self.last_door, up)));
    }

    pub(super) fn abort(&mut self, key: RequestKey, door: u64) {
        if self.outboxes.get(&key).is_some_and(|(own, _)| *own == door) {
            self.engine(EngineEvent::Abort(key));
        }
    }

    pub(super) fn group(&mut self, event: GroupEvent) {
        let now = self.now();
        for effect in self.args.group.handle(now, event) {
            match effect {
                GroupEffect::Form(formation) => {
                    self.formation = Some(formation.clone());
                    self.broadcast(&MemberDown::Form(formation));
                }
                GroupEffect::Start(blocks, reports) => {
                    self.broadcast(&MemberDown::Start(blocks.clone()));
                    self.serve(&blocks, &reports);
                }
                GroupEffect::Refuse(door, why) => {
                    tracing::warn!(why, "turn away who is no member of this incarnation");
                    self.members.remove(&door);
                }
                GroupEffect::Over(Over { cause, blame }) => {
                    tracing::warn!(cause, ?blame, "the group's incarnation is over");
                    // The node's queue has room for the few messages that a member ever sends.
                    if let Some((member, fault)) = blame {
                        let blame = Blame { member, fault, why: cause.clone() };
                        let _ = self.args.node.try_send(MemberToNode::Blames(blame));
                    }
                    self.fail(cause)
                }
            }
        }
    }

    fn serve(&mut self, blocks: &[u32], reports: &[RankReport]) {
        for report in reports {
            tracing::info!(
                rank = %report.rank,
                weight_bytes_sharded = report.weight_bytes_sharded,
                weight_bytes_replicated = report.weight_bytes_replicated,
                replicated = ?report.replicated,
                kernel_path = report.kernel_path,
                "rank loaded"
            );
        }
        let first: Vec<Digest> = self.args.adapters.iter().map(|one| one.info.digest).collect();
        if let Some(other) = reports.iter().find(|report| report.adapters != first) {
            let rank = other.rank;
            return self.fail(format!("{rank} has other files of LoRA adapters than the leader"));
        }
        let members = self.formation.as_ref().map_or(1, |formation| formation.members.len());
        let mut engine = Engine::new(self.args.settings.clone(), blocks).with_adapters(
            // A group has at most some thousands.
            members as u32,
            &self.args.endpoint.model_names,
            &self.args.adapters,
        );
        if let Some(adapters) = engine.adapters() {
            self.observer.adapters(&adapters);
            self.adapters.send_replace(adapters);
        }
        if let Some(formation) = &self.formation {
            let mut secret = [0; 32];
            secret[..16].copy_from_slice(Uuid::new_v4().as_bytes());
            secret[16..].copy_from_slice(Uuid::new_v4().as_bytes());
            engine = engine.with_transfers(TransferSetup::new(secret, formation, reports));
        }
        self.observer.begin(&self.args.settings, blocks);
        let info = self.args.endpoint.info(&self.args.settings, blocks, reports);
        let cache = self.args.endpoint.cache(&self.args.settings, blocks, engine.tiers());
        self.cache.begin(cache);
        self.engine = Some(engine);
        let record = self.args.endpoint.record(info.clone());
        self.info.send_replace(Some(info));
        // The node's queue has room for the few messages that a member ever sends.
        let _ = self.args.node.try_send(MemberToNode::Ready(record));
    }

    pub(super) fn engine(&mut self, event: EngineEvent) {
        // What does not read is aborted when all effects are acted on, not between them: that may
        // plan a step, which must not overtake one that is among them.
        for unread in self.engine_once(event) {
            self.engine_once(EngineEvent::Abort(unread));
        }
    }

    /// Takes one event to the engine and returns the requests whose gateways do not read.
    fn engine_once(&mut self, event: EngineEvent) -> Vec<RequestKey> {
        let now = self.now();
        let mut unread = Vec::new();
        let Some(engine) = &mut self.engine else { return unread };
        let effects = engine.handle(now, event);
        let load = engine.load();
        self.observer.load(&load, engine.counters());
        self.observer.tiers(engine.tiers());
        self.load.send_if_modified(|told| std::mem::replace(told, load) != load);
        if let Some(adapters) = engine.adapters() {
            self.observer.adapters(&adapters);
            self.adapters.send_replace(adapters);
        }
        for effect in effects {
            match effect {
                EngineEffect::Plan(plan) => {
                    self.group(GroupEvent::Planned(plan.step, plan.tokens()));
                    self.broadcast(&MemberDown::Step(plan));
                }
                EngineEffect::Send(key, down) => unread.extend(self.send(key, down)),
                EngineEffect::Close(key) => drop(self.outboxes.remove(&key)),
                EngineEffect::Transfer(effect) => self.transfer(effect),
                EngineEffect::Adapt(AdaptEffect::Order(order)) => {
                    self.broadcast(&MemberDown::Adapter(order));
                }
                EngineEffect::Adapt(AdaptEffect::Answer(asker, down)) => {
                    // Who has gone meanwhile is told nothing.
                    drop(self.adapting.remove(&asker).map(|answer| answer.send(down)));
                }
                EngineEffect::Observe(observation) => self.observer.observe(&observation),
                EngineEffect::Cached(changes) => self.cache.note(changes),
                EngineEffect::Broken(why) => {
                    tracing::error!(why, "the engine's books do not add up: the group ends");
                    self.fail(why);
                }
            }
        }
        unread
    }

    /// Returns the request if its outbox is full or closed.
    fn send(&mut self, key: RequestKey, down: GenerateDown) -> Option<RequestKey> {
        let (_, outbox) = self.outboxes.get(&key)?;
        outbox.cast(down).is_err().then(|| {
            self.outboxes.remove(&key);
            key
        })
    }

    pub(super) fn broadcast(&mut self, down: &MemberDown) {
        for (door, outbox) in &self.members {
            if outbox.cast(down.clone()).is_err() {
                tracing::debug!(door, "a member does not read; its door will say so");
            }
        }
    }

    /// Nothing new is taken from now on. Everybody who would send something is told; what comes all
    /// the same is refused with words that send it elsewhere.
    pub(super) fn drain(&mut self, time: Duration) {
        let now = self.now();
        if let Some(drain) = &mut self.drain {
            return drain.hasten(now, time);
        }
        tracing::info!(?time, "drain the group");
        self.drain = Some(Drain::new(now, time));
        self.broadcast(&MemberDown::Drain);
        self.engine(EngineEvent::Drain);
        // The node's queue has room for the few messages that a member ever sends.
        let _ = self.args.node.try_send(MemberToNode::Draining);
    }

    /// Ends once everything that was begun is done. Looked at each tick and not at once: by then
    /// the members know that the end is no failure.
    pub(super) fn look_at_drain(&mut self) {
        while self.requests.try_join_next().is_some() {}
        let requests = self.engine.as_ref().map_or(0, Engine::open_requests);
        let (now, doors) = (self.now(), self.requests.len());
        let stand = self.drain.as_mut().map(|drain| drain.stand(now, requests, doors));
        match stand {
            None | Some(Stand::Goes) => return,
            Some(Stand::Moves) => {
                tracing::info!(requests, "what is left of the group's requests moves");
                return self.engine(EngineEvent::Move);
            }
            Some(Stand::Done) => {}
            Some(Stand::Late) => {
                tracing::warn!(requests, "the time to drain is over");
                self.fail("it was to drain, and its time is over".into());
            }
        }
        self.broadcast(&MemberDown::Stop);
        self.over = Some(MemberState::DRAINED.into());
    }

    /// Tells every request and ends: whoever supervises this actor takes it from here.
    pub(super) fn fail(&mut self, cause: String) {
        let message = format!("The endpoint is gone: {cause}");
        self.engine(EngineEvent::Fail(PublicError::new(ErrorKind::Unavailable, message)));
        self.engine = None;
        self.over = Some(cause);
    }

    fn now(&self) -> Duration {
        self.args.origin.elapsed()
    }
}
