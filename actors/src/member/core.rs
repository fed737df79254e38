//! A member's life, from launch to exit.
//!
//! The member dials its leader, says hello, wires its ranks to their neighbours when it is told who
//! is where, reports when all its ranks are loaded, and then carries plans down and results up. It
//! ends when its leader does: a member without one has nobody to work for. One that breaks tells
//! its leader why before it ends, and waits for a moment to be heard, or people would be told that
//! it is lost and not what was wrong.

use std::sync::Arc;

use troupe_gpu::lora::Adapter;
use troupe_runtime::{
    discovery::directory::MemberState,
    id::{AdapterId, Coordinate},
    wire::{
        adapter::{AdapterOrder, AdapterReport, AdapterState, LoadAdapter},
        group::{Formation, Hello, MemberDown, MemberUp, Progress, RankPulse, RankReport},
        step::{StepPlan, StepResult},
        transfer::{TransferOrder, TransferReport},
    },
};

/// What can happen to a member.
#[derive(Debug)]
pub enum MemberEvent {
    /// The node knows where the leader listens.
    LeaderAt(String),
    /// The leader speaks.
    Down(MemberDown),
    /// One rank holds its weights.
    Loaded(RankReport),
    /// A rank is through a step.
    Progress(Progress),
    /// How often its ranks have beaten.
    Pulse(Vec<RankPulse>),
    /// A step's result.
    Result(StepResult),
    /// How a rank stands with a transfer.
    Transfer(TransferReport),
    /// An adapter was read, or it is not what it should be.
    AdapterRead(AdapterId, Result<Arc<Adapter>, String>),
    /// A rank knows an adapter, or has forgotten it.
    Adapted(AdapterId),
    /// A rank, the wiring or the leader's own actor ended.
    Broken(String),
    /// The conversation with the leader is over.
    LeaderLost(String),
    /// The leader had the time to hear why this member ends.
    Lingered,
    /// The node wants it to end.
    Stop,
    /// The node wants its group to finish what it has begun within so many seconds, and end.
    Drain(u32),
}

/// What a member wants done.
#[derive(Debug, PartialEq)]
pub enum MemberEffect {
    /// Open the conversation with the leader and say hello.
    Dial(String, Hello),
    /// Connect the ranks to their neighbours, then start their workers.
    Wire(Formation),
    /// Tell the leader.
    Up(MemberUp),
    /// Tell every worker to allocate.
    Start(Vec<u32>),
    /// Tell every worker to run a step.
    Run(StepPlan),
    /// Lay the lines of a transfer and tell every worker, or end it.
    Transfer(TransferOrder),
    /// Read an adapter and say [`MemberEvent::AdapterRead`].
    Read(LoadAdapter),
    /// Tell every worker to make an adapter known, or to forget it.
    Adapt(AdapterId, Option<Known>),
    /// Tell its own leader to drain.
    Drain(u32),
    /// Say [`MemberEvent::Lingered`] in a moment.
    Linger,
    /// End, for this reason; `None` is an orderly end.
    Exit(Option<String>),
}

/// An adapter that was read. Two are the same if their files are.
#[derive(Clone, Debug)]
pub struct Known(pub Arc<Adapter>);

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.0.digest() == other.0.digest()
    }
}

/// One member.
#[derive(Clone, Debug)]
pub struct Member {
    hello: Hello,
    ranks: Vec<Coordinate>,
    reports: Vec<RankReport>,
    /// What the leader knows of how far the ranks are.
    pulses: Vec<RankPulse>,
    /// The order on an adapter that its ranks are at: how many have not said so, and what to say.
    adapting: Option<(usize, AdapterReport)>,
    dialed: bool,
    formed: bool,
    /// The group drains, so that its end is no failure.
    draining: bool,
    /// It broke, for this reason, and its leader is being told.
    broken: Option<String>,
}

impl Member {
    /// A member that will introduce itself with `hello` and hosts `ranks`.
    pub fn new(hello: Hello, ranks: Vec<Coordinate>) -> Self {
        let (dialed, formed, draining) = (false, false, false);
        let (reports, pulses, broken, adapting) = (Vec::new(), Vec::new(), None, None);
        Self { hello, ranks, reports, pulses, adapting, dialed, formed, draining, broken }
    }

    /// Takes one event and says what to do about it.
    pub fn handle(&mut self, event: MemberEvent) -> Vec<MemberEffect> {
        if let Some(cause) = &self.broken {
            return match event {
                MemberEvent::Lingered
                | MemberEvent::LeaderLost(_)
                | MemberEvent::Stop
                | MemberEvent::Down(MemberDown::Stop) => {
                    vec![MemberEffect::Exit(Some(cause.clone()))]
                }
                // The first reason stands, and nothing is begun any more.
                _ => Vec::new(),
            };
        }
        match event {
            MemberEvent::Lingered => Vec::new(),
            MemberEvent::LeaderAt(_) if self.dialed => Vec::new(),
            MemberEvent::LeaderAt(address) => {
                self.dialed = true;
                vec![MemberEffect::Dial(address, self.hello.clone())]
            }
            MemberEvent::Down(down) => self.down(down),
            MemberEvent::Loaded(report) => self.loaded(report),
            MemberEvent::Progress(progress) => {
                vec![MemberEffect::Up(MemberUp::Progress(progress))]
            }
            MemberEvent::Pulse(pulses) => self.pulse(pulses),
            MemberEvent::Result(result) => vec![MemberEffect::Up(MemberUp::Result(result))],
            MemberEvent::Transfer(report) => vec![MemberEffect::Up(MemberUp::Transfer(report))],
            MemberEvent::AdapterRead(id, Ok(adapter)) => {
                let state = AdapterState::Loaded(adapter.digest());
                self.adapt(id, Some(Known(adapter)), state)
            }
            MemberEvent::AdapterRead(id, Err(why)) => {
                let report = AdapterReport { id, state: AdapterState::Refused(why) };
                vec![MemberEffect::Up(MemberUp::Adapter(report))]
            }
            MemberEvent::Adapted(id) => self.adapted(id),
            MemberEvent::Broken(cause) => self.broke(cause),
            MemberEvent::LeaderLost(_) if self.draining => drained(),
            MemberEvent::LeaderLost(why) => {
                vec![MemberEffect::Exit(Some(format!("the leader is lost: {why}")))]
            }
            MemberEvent::Stop => vec![MemberEffect::Exit(None)],
            MemberEvent::Drain(seconds) => self.drain(seconds),
        }
    }

    /// Tells the leader if its ranks went on since it was told.
    fn pulse(&mut self, pulses: Vec<RankPulse>) -> Vec<MemberEffect> {
        if pulses == self.pulses {
            return Vec::new();
        }
        self.pulses.clone_from(&pulses);
        vec![MemberEffect::Up(MemberUp::Pulse(pulses))]
    }

    /// A leader in this very member hears it as it is said; who has none tells nobody.
    fn broke(&mut self, cause: String) -> Vec<MemberEffect> {
        let told = MemberEffect::Up(MemberUp::Failed(cause.clone()));
        if self.hello.member == 0 || !self.dialed {
            return vec![told, MemberEffect::Exit(Some(cause))];
        }
        self.broken = Some(cause);
        vec![told, MemberEffect::Linger]
    }

    /// The leader decides when the group is done; whoever has one tells it.
    fn drain(&mut self, seconds: u32) -> Vec<MemberEffect> {
        self.draining = true;
        match (self.hello.member, self.dialed) {
            (0, _) => vec![MemberEffect::Drain(seconds)],
            (_, true) => vec![MemberEffect::Up(MemberUp::Drain(seconds))],
            // It never was a part of a group that could have begun anything.
            (_, false) => drained(),
        }
    }

    fn down(&mut self, down: MemberDown) -> Vec<MemberEffect> {
        match down {
            MemberDown::Form(formation) => self.form(formation),
            MemberDown::Start(blocks) => vec![MemberEffect::Start(blocks)],
            MemberDown::Step(plan) => vec![MemberEffect::Run(plan)],
            MemberDown::Transfer(order) => vec![MemberEffect::Transfer(order)],
            MemberDown::Adapter(AdapterOrder::Load(load)) => vec![MemberEffect::Read(load)],
            MemberDown::Adapter(AdapterOrder::Unload(id)) => {
                self.adapt(id, None, AdapterState::Unloaded)
            }
            MemberDown::Stop if self.draining => drained(),
            MemberDown::Stop => vec![MemberEffect::Exit(None)],
            MemberDown::Drain => {
                self.draining = true;
                Vec::new()
            }
        }
    }

    fn form(&mut self, formation: Formation) -> Vec<MemberEffect> {
        let mine = formation.members.get(self.hello.member as usize);
        let fits = formation.epoch == self.hello.epoch
            && mine.is_some_and(|member| member.ranks == self.ranks);
        if !fits || self.formed {
            let cause = "the leader's formation does not have this member's ranks".to_owned();
            return self.handle(MemberEvent::Broken(cause));
        }
        self.formed = true;
        vec![MemberEffect::Wire(formation)]
    }

    /// Ranks are told; the leader is when all have done it.
    fn adapt(
        &mut self,
        id: AdapterId,
        adapter: Option<Known>,
        state: AdapterState,
    ) -> Vec<MemberEffect> {
        self.adapting = Some((self.ranks.len(), AdapterReport { id, state }));
        vec![MemberEffect::Adapt(id, adapter)]
    }

    fn adapted(&mut self, id: AdapterId) -> Vec<MemberEffect> {
        let Some((left, report)) = self.adapting.as_mut().filter(|(_, own)| own.id == id) else {
            return Vec::new();
        };
        *left -= 1;
        if *left > 0 {
            return Vec::new();
        }
        let report = report.clone();
        self.adapting = None;
        vec![MemberEffect::Up(MemberUp::Adapter(report))]
    }

    fn loaded(&mut self, report: RankReport) -> Vec<MemberEffect> {
        self.reports.push(report);
        if self.reports.len() < self.ranks.len() {
            return Vec::new();
        }
        // Ranks load side by side and end in any order; the leader expects its own.
        let mut reports = std::mem::take(&mut self.reports);
        reports.sort_by_key(|report| self.ranks.iter().position(|rank| *rank == report.rank));
        vec![MemberEffect::Up(MemberUp::Loaded(reports))]
    }
}

fn drained() -> Vec<MemberEffect> {
    vec![MemberEffect::Exit(Some(MemberState::DRAINED.into()))]
}

#[cfg(test)]
mod tests {
    use troupe_runtime::{
        id::{Digest, Epoch, GroupId},
        wire::group::FormationMember,
    };

    use super::*;

    fn rank(tp: u32) -> Coordinate {
        Coordinate { dp: 0, stage: 0, tp }
    }

    fn member() -> Member {
        let group = GroupId { namespace: "default".into(), service: "s".into(), index: 0 };
        let hello = Hello { group, epoch: Epoch::default(), member: 0, address: "here".into() };
        Member::new(hello, vec![rank(0), rank(1)])
    }

    fn report(tp: u32) -> RankReport {
        RankReport {
            rank: rank(tp),
            weight_bytes_sharded: 0,
            weight_bytes_replicated: 0,
            replicated: vec![],
            blocks: vec![1],
            block_bytes: vec![1],
            kernel_path: String::new(),
            kv: vec![],
            adapters: vec![],
        }
    }

    #[test]
    fn an_adapter_is_there_when_every_rank_has_it() {
        let mut member = member();
        let id = AdapterId(3);
        let load = LoadAdapter { id, path: "/a".into() };
        let order = MemberDown::Adapter(AdapterOrder::Load(load.clone()));
        assert_eq!(member.handle(MemberEvent::Down(order)), [MemberEffect::Read(load)]);
        let adapter = Arc::new(Adapter::hollow(Digest([1; 32])));
        let read = member.handle(MemberEvent::AdapterRead(id, Ok(adapter.clone())));
        assert_eq!(read, [MemberEffect::Adapt(id, Some(Known(adapter)))]);
        assert!(member.handle(MemberEvent::Adapted(id)).is_empty());
        let up = |state| [MemberEffect::Up(MemberUp::Adapter(AdapterReport { id, state }))];
        let told = member.handle(MemberEvent::Adapted(id));
        assert_eq!(told, up(AdapterState::Loaded(Digest([1; 32]))));
        assert!(member.handle(MemberEvent::Adapted(id)).is_empty(), "it was said");
        let refused = member.handle(MemberEvent::AdapterRead(id, Err("why".into())));
        assert_eq!(refused, up(AdapterState::Refused("why".into())));
        let order = MemberDown::Adapter(AdapterOrder::Unload(id));
        assert_eq!(member.handle(MemberEvent::Down(order)), [MemberEffect::Adapt(id, None)]);
        assert!(member.handle(MemberEvent::Adapted(id)).is_empty());
        assert_eq!(member.handle(MemberEvent::Adapted(id)), up(AdapterState::Unloaded));
    }

    #[test]
    fn reports_once_all_ranks_are_loaded_in_rank_order() {
        let mut member = member();
        assert!(member.handle(MemberEvent::Loaded(report(1))).is_empty());
        let effects = member.handle(MemberEvent::Loaded(report(0)));
        assert_eq!(effects, [MemberEffect::Up(MemberUp::Loaded(vec![report(0), report(1)]))]);
    }

    #[test]
    fn a_formation_with_other_ranks_ends_it_with_a_cause_to_the_leader() {
        let mut member = member();
        let members = vec![FormationMember { address: "here".into(), ranks: vec![rank(0)] }];
        let formation = Formation { epoch: Epoch::default(), members };
        let effects = member.handle(MemberEvent::Down(MemberDown::Form(formation)));
        assert!(matches!(
            &effects[..],
            [MemberEffect::Up(MemberUp::Failed(_)), MemberEffect::Exit(Some(_))]
        ));
    }

    #[test]
    fn who_breaks_is_heard_before_it_ends() {
        let exit = || [MemberEffect::Exit(Some("out of memory".into()))];
        let broken = || MemberEvent::Broken("out of memory".into());
        for ends in [
            MemberEvent::Lingered,
            MemberEvent::Stop,
            MemberEvent::LeaderLost("it has heard".into()),
            MemberEvent::Down(MemberDown::Stop),
        ] {
            let mut worker = member();
            worker.hello.member = 1;
            worker.handle(MemberEvent::LeaderAt("a".into()));
            let told = MemberEffect::Up(MemberUp::Failed("out of memory".into()));
            assert_eq!(worker.handle(broken()), [told, MemberEffect::Linger]);
            assert_eq!(worker.handle(MemberEvent::Broken("its workers ended".into())), []);
            assert_eq!(worker.handle(ends), exit());
        }
        let mut stranger = member();
        stranger.hello.member = 1;
        assert_eq!(stranger.handle(broken())[1..], exit(), "it has no leader to tell");
    }

    #[test]
    fn a_drain_goes_to_the_leader_and_what_follows_is_no_failure() {
        let drained = || [MemberEffect::Exit(Some("drained".into()))];
        let mut leaders = member();
        assert_eq!(leaders.handle(MemberEvent::Drain(9)), [MemberEffect::Drain(9)]);
        let mut worker = member();
        worker.hello.member = 1;
        assert_eq!(worker.handle(MemberEvent::Drain(9)), drained(), "it has no leader");
        worker.handle(MemberEvent::LeaderAt("a".into()));
        let up = [MemberEffect::Up(MemberUp::Drain(9))];
        assert_eq!(worker.handle(MemberEvent::Drain(9)), up);
        assert_eq!(worker.handle(MemberEvent::LeaderLost("it ended".into())), drained());
        let mut told = member();
        assert!(told.handle(MemberEvent::Down(MemberDown::Drain)).is_empty());
        assert_eq!(told.handle(MemberEvent::Down(MemberDown::Stop)), drained());
    }

    #[test]
    fn signs_of_life_are_passed_on_when_they_change() {
        let mut member = member();
        let pulses = |beats| vec![RankPulse { rank: rank(0), beats }];
        let up = |beats| [MemberEffect::Up(MemberUp::Pulse(pulses(beats)))];
        assert_eq!(member.handle(MemberEvent::Pulse(pulses(1))), up(1));
        assert_eq!(member.handle(MemberEvent::Pulse(pulses(1))), []);
        assert_eq!(member.handle(MemberEvent::Pulse(pulses(7))), up(7));
    }

    #[test]
    fn dials_once_and_ends_with_its_leader() {
        let mut member = member();
        assert_eq!(member.handle(MemberEvent::LeaderAt("a".into())).len(), 1);
        assert!(member.handle(MemberEvent::LeaderAt("b".into())).is_empty());
        let effects = member.handle(MemberEvent::LeaderLost("gone".into()));
        assert!(matches!(&effects[..], [MemberEffect::Exit(Some(_))]));
    }
}
