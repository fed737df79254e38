//! What the member does about its core's effects: each is one call.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use troupe_runtime::{
    id::Coordinate,
    transport::{Link, LocalNetwork},
    wire::{
        adapter::LoadAdapter,
        group::{Formation, Hello, MemberUp, RankPulse},
        member::MemberToNode,
    },
};

use super::{
    actor::{MemberMsg, MemberState},
    core::{Known, MemberEffect, MemberEvent},
    front, line,
    wiring::{self, Wired},
};
use crate::{
    leader::{actor::LeaderMsg, settings::steps_in_flight},
    worker::{
        actor::{Worker, WorkerArgs, WorkerMsg},
        device::{Device, DeviceEvent},
        pulse::{Pulse, Watched},
    },
};

impl MemberState {
    pub(super) fn act(&mut self, myself: &ActorRef<MemberMsg>, event: MemberEvent) {
        for effect in self.core.handle(event) {
            match effect {
                MemberEffect::Dial(address, hello) => self.dial(myself, address, hello),
                MemberEffect::Wire(formation) => self.wire(myself.clone(), formation),
                MemberEffect::Up(up) => self.say(up),
                MemberEffect::Start(blocks) => self.each(|| WorkerMsg::Start(blocks.clone())),
                MemberEffect::Run(plan) => {
                    let plan = Arc::new(plan);
                    self.each(|| WorkerMsg::Step(plan.clone()));
                }
                MemberEffect::Transfer(order) => self.lines.order(&order, &self.workers),
                MemberEffect::Read(load) => self.read(myself.clone(), load),
                MemberEffect::Adapt(id, known) => {
                    let adapter = known.map(|Known(adapter)| adapter);
                    self.each(|| WorkerMsg::Adapter(id, adapter.clone()));
                }
                MemberEffect::Drain(seconds) => self.drain(seconds),
                MemberEffect::Linger => {
                    // Of a member that ends meanwhile nothing is left to be told.
                    drop(myself.send_after(LINGER, || MemberMsg::Event(MemberEvent::Lingered)));
                }
                MemberEffect::Exit(cause) => drop(self.exiting.get_or_insert(cause)),
            }
        }
        self.exit_when_leader_has(myself);
    }

    /// The leader tells its gateways why before the member goes.
    fn exit_when_leader_has(&mut self, myself: &ActorRef<MemberMsg>) {
        let Some(cause) = &self.exiting else { return };
        match &self.directions.leader {
            Some(leader) => drop(leader.cast(LeaderMsg::Stop)),
            None => {
                if let Some(cause) = cause {
                    let _ = self.args.node.try_send(MemberToNode::Failed(cause.clone()));
                }
                myself.stop(cause.clone());
            }
        }
    }

    /// Off this thread: it reads files of some hundred megabytes.
    fn read(&mut self, myself: ActorRef<MemberMsg>, LoadAdapter { id, path }: LoadAdapter) {
        let (models, prepared) = (self.args.models.clone(), self.prepared.clone());
        self.tasks.spawn_blocking(move || {
            let read = models.adapter(&prepared, &path);
            let _ = myself.cast(MemberMsg::Event(MemberEvent::AdapterRead(id, read)));
        });
    }

    fn drain(&self, seconds: u32) {
        if let Some(leader) = &self.directions.leader {
            let _ = leader.cast(LeaderMsg::Drain(Duration::from_secs(seconds.into())));
        }
    }

    fn dial(&mut self, myself: &ActorRef<MemberMsg>, address: String, hello: Hello) {
        let Some(up) = self.up_queue.take() else { return };
        let (link, address) = self.way_to_leader(address);
        let myself = myself.clone();
        let tell = move |event| drop(myself.cast(MemberMsg::Event(event)));
        self.tasks.spawn(line::run(link, address, hello, up, tell));
    }

    /// The leader's own member needs no network to speak with it.
    fn way_to_leader(&mut self, address: String) -> (Arc<dyn Link>, String) {
        if self.directions.leader.is_none() {
            return (self.args.link.clone(), address);
        }
        let network = LocalNetwork::new();
        let inside = network.link(self.args.identity.clone());
        let address = inside.address().to_string();
        self.tasks.spawn(front::run(inside, self.directions.clone()));
        (network.link(self.args.identity.clone()), address)
    }

    fn wire(&mut self, myself: ActorRef<MemberMsg>, formation: Formation) {
        let Some(mut desk) = self.desk.take() else { return };
        let (link, parallel) = (self.args.link.clone(), self.parallel);
        let member = self.args.launch.member;
        self.tasks.spawn(async move {
            let wired = wiring::wire(link, &formation, member, parallel, &mut desk).await;
            let _ = myself.cast(MemberMsg::Wired(wired));
        });
    }

    pub(super) async fn start_workers(
        &mut self,
        myself: &ActorRef<MemberMsg>,
        wired: Vec<Wired>,
    ) -> Result<(), ActorProcessingErr> {
        let count = wired.len() as u32;
        // Where no tokens are made, none are held to a form.
        let writes = self.prepared.pooling.is_none();
        let models = &self.args.models;
        let grammars = writes.then(|| models.grammars(&self.prepared.launch)).flatten();
        for Wired { rank, pipes, collective } in wired {
            let pulse = Pulse::default();
            self.pulses.insert(rank, pulse.clone());
            let collective = Box::new(Watched::new(pulse.clone(), collective));
            let loader = self.args.models.loader(self.prepared.clone(), rank, collective, count);
            let device = Device {
                rank,
                epoch: self.args.launch.epoch,
                limits: self.prepared.limits,
                loader,
                adapters: self.prepared.adapters(),
                grammars: grammars.clone(),
                disk: self.kv_folder(),
                pipes,
                pulse,
                recorder: self.args.records.recorder(rank),
                stages: self.parallel.pipeline,
                stage_time_min: self.prepared.stage_time_min,
            };
            let to = myself.clone();
            let tell = Box::new(move |event| drop(to.cast(MemberMsg::Event(translate(event)))));
            let steps_in_flight = steps_in_flight(self.parallel.pipeline);
            let args = WorkerArgs { device, tell, steps_in_flight };
            let (worker, _) = Actor::spawn_linked(None, Worker, args, myself.get_cell()).await?;
            self.workers.insert(rank, worker);
        }
        Ok(())
    }

    /// The folder for KV blocks on this host's disk, if some are to be there.
    fn kv_folder(&self) -> Option<PathBuf> {
        let said = self.prepared.launch.flags.kv_offloading_disk_path.as_ref();
        let own = || Path::new(&self.args.launch.data_dir).join("kv");
        let folder = said.map_or_else(own, PathBuf::from);
        (self.prepared.limits.offload.disk_bytes > 0).then_some(folder)
    }

    /// Tells the node that this process runs, and the core how far its ranks are.
    pub(super) fn alive(&self) -> MemberEvent {
        // A node that does not read is told again.
        let _ = self.args.node.try_send(MemberToNode::Alive);
        let pulse =
            |(rank, pulse): (&Coordinate, &Pulse)| RankPulse { rank: *rank, beats: pulse.beats() };
        MemberEvent::Pulse(self.pulses.iter().map(pulse).collect())
    }

    fn say(&self, up: MemberUp) {
        if self.up.cast(up).is_err() {
            tracing::debug!("the leader does not listen; the conversation will say so");
        }
    }

    fn each(&self, message: impl Fn() -> WorkerMsg) {
        for worker in self.workers.values() {
            // One that is gone is reported by its supervision event.
            let _ = worker.cast(message());
        }
    }

    pub(super) fn is_leader(&self, who: &ActorCell) -> bool {
        self.directions.leader.as_ref().is_some_and(|leader| leader.get_id() == who.get_id())
    }
}

fn translate(event: DeviceEvent) -> MemberEvent {
    match event {
        DeviceEvent::Loaded(report) => MemberEvent::Loaded(report),
        DeviceEvent::Progress(progress) => MemberEvent::Progress(progress),
        DeviceEvent::Result(result) => MemberEvent::Result(result),
        DeviceEvent::Transfer(report) => MemberEvent::Transfer(report),
        DeviceEvent::Adapter(id) => MemberEvent::Adapted(id),
    }
}

/// How often a member says that it lives, and how far its ranks are.
pub(crate) const ALIVE: Duration = Duration::from_millis(250);

/// How long a member that broke waits for its leader to hear why: a round trip, with room to spare.
const LINGER: Duration = Duration::from_millis(200);
