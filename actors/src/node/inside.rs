//! Members inside the node's own process: `troupe serve` on one machine, and tests.

use std::sync::Arc;

use async_trait::async_trait;
use ractor::{Actor, ActorRef};
use tokio::{sync::mpsc, task::JoinSet};
use troupe_runtime::{
    actor::Owned,
    discovery::directory::{self, GroupRecord},
    transport::{Link, LocalNetwork, PeerIdentity},
    wire::member::{MemberLaunch, MemberToNode, NodeToMember},
};

use super::{
    actor::{NodeMsg, Running, Spawn, said},
    core::{MemberKey, NodeEvent},
    died,
};
use crate::{
    member::{
        actor::{Member, MemberArgs, MemberMsg},
        load::Models,
    },
    worker::recorder::Records,
};

/// Starts members as actors of this process, each with a link of its own.
pub struct Inside {
    /// The network that they and the gateway share.
    pub network: LocalNetwork,
    /// As peers see them.
    pub identity: PeerIdentity,
    /// Where models come from.
    pub models: Arc<dyn Models>,
}

#[async_trait]
impl Spawn for Inside {
    async fn spawn(
        &self,
        key: MemberKey,
        record: GroupRecord,
        node: ActorRef<NodeMsg>,
    ) -> Result<Running, String> {
        let (say, said_queue) = mpsc::channel(QUEUE);
        let (tell, told) = mpsc::channel(QUEUE);
        let args = MemberArgs {
            launch: MemberLaunch {
                group: key.group.clone(),
                epoch: key.epoch,
                member: key.member,
                record: directory::to_bytes(&record),
                bind: String::new(),
                data_dir: String::new(),
                records: String::new(),
                cluster: self.identity.cluster.clone(),
                cores: 0,
            },
            record,
            link: self.network.link(self.identity.clone()) as Arc<dyn Link>,
            identity: self.identity.clone(),
            node: say,
            models: self.models.clone(),
            records: Records::in_memory(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(run(key, args, said_queue, told, node));
        Ok(Running { tell, tasks })
    }
}

/// Runs one member to its end and reports it. Dropping this task ends the member.
async fn run(
    key: MemberKey,
    args: MemberArgs,
    mut said_queue: mpsc::Receiver<MemberToNode>,
    mut told: mpsc::Receiver<NodeToMember>,
    node: ActorRef<NodeMsg>,
) {
    let records = args.records.clone();
    let how = match Actor::spawn(None, Member, args).await {
        Err(error) => error.to_string(),
        Ok(spawned) => {
            let mut member = Owned::new(spawned);
            loop {
                tokio::select! {
                    () = member.ended() => break "it ended".to_owned(),
                    // It is as alive as its node.
                    Some(what) = said_queue.recv() => if what != MemberToNode::Alive {
                        let _ = node.cast(said(&key, what));
                    },
                    Some(what) = told.recv() => drop(member.actor().cast(MemberMsg::Node(what))),
                }
            }
        }
    };
    // What it said last comes before its end.
    while let Ok(what) = said_queue.try_recv() {
        let _ = node.cast(said(&key, what));
    }
    // Nobody can kill a part of this process from outside: what failed says so itself.
    let suspects = died::suspects(&records.read(), false);
    let _ = node.cast(NodeMsg::Event(NodeEvent::Died(key.clone(), suspects)));
    let _ = node.cast(NodeMsg::Event(NodeEvent::Exited(key, how)));
}

/// What a member is told and says in its life: a handful of words.
const QUEUE: usize = 64;
