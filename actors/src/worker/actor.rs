//! Owns the device thread: starts it, hands it commands, reports its end.
//!
//! The thread is the worker; this actor gives it a place in the supervision tree. When the thread
//! ends with a cause the actor fails with it, and its supervisor, the member, takes it from there.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use troupe_gpu::lora::Adapter;
use troupe_runtime::{id::AdapterId, wire::step::StepPlan};

use super::{
    device::{Command, Device, DeviceEvent},
    transfer::{MOST_TRANSFERS, RankOrder},
};

/// The actor.
pub struct Worker;

/// What a worker is told.
#[derive(Debug)]
pub enum WorkerMsg {
    /// Allocate the KV pools.
    Start(Vec<u32>),
    /// Run this step.
    Step(Arc<StepPlan>),
    /// Begin or end a transfer of KV blocks.
    Transfer(RankOrder),
    /// Make an adapter known, or forget it.
    Adapter(AdapterId, Option<Arc<Adapter>>),
    /// The device thread is over; with the cause if it was early.
    Ended(Result<(), String>),
}

/// Takes what the device thread tells; called on that thread.
pub type Tell = Box<dyn Fn(DeviceEvent) + Send>;

/// What a worker is made of.
pub struct WorkerArgs {
    /// The device thread's parts.
    pub device: Device,
    /// Where its events go.
    pub tell: Tell,
    /// Most steps in flight: bounds the thread's queue.
    pub steps_in_flight: u32,
}

/// A worker's state: the way to its thread, which ends when this is dropped.
pub struct WorkerState {
    commands: mpsc::SyncSender<Command>,
}

impl Actor for Worker {
    type Msg = WorkerMsg;
    type State = WorkerState;
    type Arguments = WorkerArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<WorkerMsg>,
        args: WorkerArgs,
    ) -> Result<WorkerState, ActorProcessingErr> {
        // The steps in flight, `Start` before the first, and for every transfer that its leader may
        // have under way, to and from here, its beginning and its end. What is to be kept of the
        // device's blocks goes before a step, or before a transfer that comes here. Orders on
        // adapters come one at a time.
        let steps = args.steps_in_flight as usize;
        let most = 2 * steps + 2 + 5 * MOST_TRANSFERS;
        let (commands, queue) = mpsc::sync_channel(most);
        let name = format!("device-{}", args.device.rank);
        thread::Builder::new().name(name).spawn(move || {
            let ended = args.device.run(&queue, args.tell.as_ref());
            // If the actor is gone already, nobody is left to be told.
            let _ = myself.cast(WorkerMsg::Ended(ended));
        })?;
        Ok(WorkerState { commands })
    }

    async fn handle(
        &self,
        _myself: ActorRef<WorkerMsg>,
        message: WorkerMsg,
        state: &mut WorkerState,
    ) -> Result<(), ActorProcessingErr> {
        let command = match message {
            WorkerMsg::Start(blocks) => Command::Start(blocks),
            WorkerMsg::Step(plan) => Command::Step(plan),
            WorkerMsg::Transfer(order) => Command::Transfer(order),
            WorkerMsg::Adapter(id, adapter) => Command::Adapter(id, adapter),
            WorkerMsg::Ended(ended) => return Err(ended.err().unwrap_or_default().into()),
        };
        // A full queue means that the leader broke its bound; a closed one that the thread is gone.
        state.commands.try_send(command).map_err(|error| error.to_string().into())
    }
}
