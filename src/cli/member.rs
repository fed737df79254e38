//! `troupe member`: one member of a group, started by its node.
//!
//! Speaks with the node over standard input and output, logs to standard error, and ends when its
//! input does: a member never outlives its node.

use std::{os::fd::AsFd, sync::Arc};

use ractor::Actor;
use tokio::{
    net::unix::pipe::{Receiver, Sender},
    sync::mpsc,
    task::JoinSet,
};
use troupe_actors::{
    member::{
        actor::{Member, MemberArgs, MemberMsg},
        checkpoint::Checkpoints,
        pipe,
    },
    worker::recorder::Records,
};
use troupe_gpu::DeviceChoice;
use troupe_runtime::{
    discovery::directory,
    transport::{Class, Link, tls::Identity},
    wire::member::{MemberLaunch, MemberToNode, NodeToMember},
};

use super::Failure;
use crate::stack::{self, roles, upkeep};

/// Runs one member to its end.
pub(crate) async fn run(device: DeviceChoice) -> Result<(), Failure> {
    let by_hand = || Failure::usage("a member is started by its node, not by hand");
    let owned = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
    // Standard input and output are pipes here, so that reading one does not take a thread.
    let input = owned(std::io::stdin().as_fd()).and_then(Receiver::from_owned_fd);
    let output = owned(std::io::stdout().as_fd()).and_then(Sender::from_owned_fd);
    let (mut input, output) = input.ok().zip(output.ok()).ok_or_else(by_hand)?;
    let launch = match pipe::read::<NodeToMember>(&mut input).await {
        Ok(Some(NodeToMember::Launch(launch))) => *launch,
        _ => return Err(by_hand()),
    };
    let (say, said) = mpsc::channel(QUEUE);
    let mouth = tokio::spawn(speak(output, said));
    let ended = live((launch, device), input, say).await;
    // What was said last is written before the process ends.
    let _ = mouth.await;
    ended
}

async fn live(
    (launch, device): (MemberLaunch, DeviceChoice),
    mut input: Receiver,
    say: mpsc::Sender<MemberToNode>,
) -> Result<(), Failure> {
    let record =
        directory::from_bytes("the launch", &launch.record).map_err(|error| Failure::of(&error))?;
    let identity = Identity::load(launch.data_dir.as_ref()).map_err(|error| Failure::of(&error))?;
    let bind: std::net::IpAddr =
        launch.bind.parse().map_err(|_| Failure::usage(format!("`{}`", launch.bind)))?;
    // Dropped after the link, which lives on them.
    let (link, _threads) = roles::quic(&identity, (bind, 0).into(), &[Class::Kv])?;
    let name = identity.name().clone();
    // Its node keeps the certificate valid.
    let mut upkeep = JoinSet::new();
    upkeep.spawn(upkeep::follow(identity, launch.data_dir.clone().into(), link.clone()));
    let cores = launch.cores as usize;
    let records = match launch.records.as_str() {
        "" => Records::Nowhere,
        folder => Records::Folder(folder.into()),
    };
    let args = MemberArgs {
        launch,
        record,
        link: link.clone(),
        identity: name,
        node: say,
        models: Arc::new(Checkpoints { cores, ..stack::checkpoints(device) }),
        records,
    };
    let (member, mut ended) =
        Actor::spawn(None, Member, args).await.map_err(|error| Failure::run(error.to_string()))?;
    loop {
        tokio::select! {
            _ = &mut ended => return Ok(()),
            told = pipe::read::<NodeToMember>(&mut input) => match told {
                Ok(Some(NodeToMember::TurnAway(away))) => {
                    link.turn_away(away.into_iter().collect());
                }
                Ok(Some(told)) => drop(member.cast(MemberMsg::Node(told))),
                // The node is gone. Who waits for this member learns it now, not by its silence.
                Ok(None) | Err(_) => {
                    link.close("the member's node is gone").await;
                    member.kill();
                    return Ok(());
                }
            },
        }
    }
}

async fn speak(mut output: Sender, mut said: mpsc::Receiver<MemberToNode>) {
    while let Some(said) = said.recv().await {
        if pipe::write(&mut output, &said).await.is_err() {
            return;
        }
    }
}

/// What a member says in its life: a handful of words.
const QUEUE: usize = 64;
