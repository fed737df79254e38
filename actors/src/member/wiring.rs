//! Connects a member's ranks to their neighbours, as the formation says.
//!
//! A line carries tensors one way from one rank to another. Whoever sends opens it; whoever
//! receives waits for all that it expects, with a deadline. Between ranks of one process a line is
//! a queue. [`Plan`] is pure: which lines there are and where their ends lie follows from the
//! formation alone, so both ends agree without talking.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{runtime::Handle, sync::mpsc, time::timeout};
use troupe_gpu::collective::{Alone, BulkCollective, Collective, LocalCollective, bulk::Peer};
use troupe_runtime::{
    backoff::Backoff,
    id::{Coordinate, Epoch},
    transport::{
        Class, Connection, Conversation, Link, Patience, Stream,
        bulk::{BulkReceiver, BulkSender, bulk_over, bulk_pair},
        connect_with_retry,
    },
    wire::{
        group::Formation,
        kv::{BulkChannel, BulkOpen},
    },
};

use crate::{group::layout::Parallel, leader::settings::steps_in_flight, worker::pipes::Pipes};

/// Incoming lines, as the front door accepts them.
pub type Desk = mpsc::Receiver<(BulkOpen, Stream)>;

/// A rank with everything that connects it.
pub struct Wired {
    /// Which.
    pub rank: Coordinate,
    /// Its ends of the pipeline.
    pub pipes: Pipes,
    /// Its end of the stage's collectives.
    pub collective: Box<dyn Collective>,
}

/// One member's lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    inside: BTreeSet<BulkOpen>,
    outgoing: BTreeMap<BulkOpen, u32>,
    incoming: BTreeSet<BulkOpen>,
    /// Stages whose ranks are all here: they meet in memory.
    local_stages: BTreeSet<u32>,
}

impl Plan {
    /// The lines of `member`.
    pub fn new(formation: &Formation, member: u32, parallel: Parallel) -> Self {
        let homes: BTreeMap<Coordinate, u32> = (0..)
            .zip(&formation.members)
            .flat_map(|(index, member)| member.ranks.iter().map(move |rank| (*rank, index)))
            .collect();
        let mut plan = Self::default();
        for stage in 0..parallel.pipeline {
            let ranks = (0..parallel.tensor).map(|tp| Coordinate { dp: 0, stage, tp });
            let mut hosts: Vec<_> = ranks.filter_map(|rank| homes.get(&rank)).collect();
            hosts.dedup();
            if hosts == [&member] {
                plan.local_stages.insert(stage);
            }
        }
        for line in lines(formation.epoch, parallel) {
            let (Some(from), Some(to)) = (homes.get(&line.from), homes.get(&line.to)) else {
                continue;
            };
            let meets_in_memory = line.channel == BulkChannel::Collective
                && plan.local_stages.contains(&line.from.stage);
            match (*from == member, *to == member) {
                (true, true) if meets_in_memory => {}
                (true, true) => drop(plan.inside.insert(line)),
                (true, false) => drop(plan.outgoing.insert(line, *to)),
                (false, true) => drop(plan.incoming.insert(line)),
                (false, false) => {}
            }
        }
        plan
    }

    /// Lines that begin and end here.
    pub fn inside(&self) -> &BTreeSet<BulkOpen> {
        &self.inside
    }

    /// Lines that this member opens, and to which member.
    pub fn outgoing(&self) -> &BTreeMap<BulkOpen, u32> {
        &self.outgoing
    }

    /// Lines that this member waits for.
    pub fn incoming(&self) -> &BTreeSet<BulkOpen> {
        &self.incoming
    }
}

/// Every line of a group: hidden states to the next stage, collectives all to all within one, and
/// sampled tokens from where they are sampled to every rank of the first stage but itself.
fn lines(epoch: Epoch, parallel: Parallel) -> impl Iterator<Item = BulkOpen> {
    let sampler = Coordinate { dp: 0, stage: parallel.pipeline - 1, tp: 0 };
    let readers = (0..parallel.tensor).map(|tp| Coordinate { dp: 0, stage: 0, tp });
    let tokens = readers.filter(move |to| *to != sampler).map(move |to| BulkOpen {
        epoch,
        from: sampler,
        to,
        channel: BulkChannel::Tokens,
    });
    let others = parallel.ranks().flat_map(move |from| {
        let next = Coordinate { stage: from.stage + 1, ..from };
        let activation = (next.stage < parallel.pipeline).then_some(BulkOpen {
            epoch,
            from,
            to: next,
            channel: BulkChannel::Activation,
        });
        let peers = (0..parallel.tensor).filter(move |tp| *tp != from.tp).map(move |tp| {
            let to = Coordinate { tp, ..from };
            BulkOpen { epoch, from, to, channel: BulkChannel::Collective }
        });
        activation.into_iter().chain(peers)
    });
    others.chain(tokens)
}

/// Opens and awaits all lines of `member` and hands each rank its ends.
///
/// # Errors
/// Which line could not be made, and why.
pub async fn wire(
    link: Arc<dyn Link>,
    formation: &Formation,
    member: u32,
    parallel: Parallel,
    desk: &mut Desk,
) -> Result<Vec<Wired>, String> {
    let plan = Plan::new(formation, member, parallel);
    // One tensor for each step in flight, and one more may be on its way.
    let depth = steps_in_flight(parallel.pipeline) as usize + 1;
    let mut ends = Ends::default();
    for line in &plan.inside {
        let (sender, receiver) = bulk_pair(depth);
        ends.senders.insert(*line, sender);
        ends.receivers.insert(*line, receiver);
    }
    ends.open(link, formation, &plan.outgoing, depth).await?;
    ends.collect(desk, &plan.incoming, depth).await?;
    ends.deal(formation, member, parallel, &plan.local_stages)
}

#[derive(Default)]
struct Ends {
    senders: BTreeMap<BulkOpen, BulkSender>,
    receivers: BTreeMap<BulkOpen, BulkReceiver>,
}

impl Ends {
    async fn open(
        &mut self,
        link: Arc<dyn Link>,
        formation: &Formation,
        outgoing: &BTreeMap<BulkOpen, u32>,
        depth: usize,
    ) -> Result<(), String> {
        let mut connections: BTreeMap<u32, Arc<dyn Connection>> = BTreeMap::new();
        for (line, to) in outgoing {
            let failed = |why: String| format!("line {} to {}: {why}", line.from, line.to);
            if !connections.contains_key(to) {
                let home = formation.members.get(*to as usize).ok_or("no such member")?;
                let address = home.address.parse()?;
                let seed = u64::from(line.from.stage) << 32 | u64::from(line.from.tp);
                let patience =
                    Patience { deadline: WIRE_DEADLINE, backoff: Backoff::default(), seed };
                let connection =
                    connect_with_retry(link.as_ref(), &address, Class::Activations, &patience)
                        .await
                        .map_err(|error| failed(error.to_string()))?;
                connections.insert(*to, connection);
            }
            let Some(connection) = connections.get(to) else { continue };
            let stream = connection
                .open(Conversation::Bulk(*line), WIRE_DEADLINE)
                .await
                .map_err(|error| failed(error.to_string()))?;
            let (sender, _) = bulk_over(stream, depth, &Handle::current());
            self.senders.insert(*line, sender);
        }
        Ok(())
    }

    async fn collect(
        &mut self,
        desk: &mut Desk,
        incoming: &BTreeSet<BulkOpen>,
        depth: usize,
    ) -> Result<(), String> {
        let collect = async {
            while incoming.iter().any(|line| !self.receivers.contains_key(line)) {
                let Some((line, stream)) = desk.recv().await else { break };
                // Of an older incarnation, or not ours: dropping the stream refuses it.
                if incoming.contains(&line) {
                    let (_, receiver) = bulk_over(stream, depth, &Handle::current());
                    self.receivers.insert(line, receiver);
                }
            }
        };
        let _ = timeout(WIRE_DEADLINE, collect).await;
        let missing = incoming.iter().find(|line| !self.receivers.contains_key(line));
        missing.map_or(Ok(()), |line| {
            Err(format!("line {} to {}: nobody opened it", line.from, line.to))
        })
    }

    fn deal(
        mut self,
        formation: &Formation,
        member: u32,
        parallel: Parallel,
        local_stages: &BTreeSet<u32>,
    ) -> Result<Vec<Wired>, String> {
        let mut local: BTreeMap<Coordinate, LocalCollective> = BTreeMap::new();
        for stage in local_stages {
            let group = LocalCollective::group(parallel.tensor as usize, COLLECTIVE_DEADLINE);
            let ranks = (0..).map(|tp| Coordinate { dp: 0, stage: *stage, tp });
            local.extend(ranks.zip(group));
        }
        let ranks = formation.members.get(member as usize).map(|m| m.ranks.clone());
        ranks
            .unwrap_or_default()
            .into_iter()
            .map(|rank| {
                let pipes = self.pipes(rank);
                let collective: Box<dyn Collective> = match local.remove(&rank) {
                    _ if parallel.tensor == 1 => Box::new(Alone),
                    Some(local) => Box::new(local),
                    None => Box::new(self.collective(rank, parallel)?),
                };
                Ok(Wired { rank, pipes, collective })
            })
            .collect()
    }

    fn pipes(&mut self, rank: Coordinate) -> Pipes {
        let to = |channel| move |line: &BulkOpen| line.channel == channel && line.to == rank;
        let from = |channel| move |line: &BulkOpen| line.channel == channel && line.from == rank;
        let mut tokens_out = Vec::new();
        while let Some(sender) = take(&mut self.senders, from(BulkChannel::Tokens)) {
            tokens_out.push(sender);
        }
        Pipes {
            upstream: take(&mut self.receivers, to(BulkChannel::Activation)),
            downstream: take(&mut self.senders, from(BulkChannel::Activation)),
            tokens_in: take(&mut self.receivers, to(BulkChannel::Tokens)),
            tokens_out,
        }
    }

    fn collective(
        &mut self,
        rank: Coordinate,
        parallel: Parallel,
    ) -> Result<BulkCollective, String> {
        let peers = (0..parallel.tensor)
            .map(|tp| {
                let peer = Coordinate { tp, ..rank };
                let is_collective = |line: &BulkOpen| line.channel == BulkChannel::Collective;
                let sender = take(&mut self.senders, |line| {
                    is_collective(line) && line.from == rank && line.to == peer
                });
                let receiver = take(&mut self.receivers, |line| {
                    is_collective(line) && line.from == peer && line.to == rank
                });
                sender.zip(receiver).map(|(sender, receiver)| Peer { sender, receiver })
            })
            .collect();
        BulkCollective::new(rank.tp as usize, peers, COLLECTIVE_DEADLINE)
            .map_err(|error| error.to_string())
    }
}

fn take<T>(ends: &mut BTreeMap<BulkOpen, T>, is_it: impl Fn(&BulkOpen) -> bool) -> Option<T> {
    let line = ends.keys().find(|line| is_it(line)).copied()?;
    ends.remove(&line)
}

/// Members of a group are started together; within it all lines stand or forming has failed.
const WIRE_DEADLINE: Duration = Duration::from_secs(30);
/// The leader's step deadline ends a group long before; this only bounds a thread's last wait.
const COLLECTIVE_DEADLINE: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use troupe_runtime::wire::group::FormationMember;

    use super::*;

    fn formation(members: &[&[(u32, u32)]]) -> Formation {
        let members = members.iter().map(|ranks| FormationMember {
            address: String::new(),
            ranks: ranks.iter().map(|&(stage, tp)| Coordinate { dp: 0, stage, tp }).collect(),
        });
        Formation { epoch: Epoch::default(), members: members.collect() }
    }

    #[test]
    fn one_process_needs_queues_between_stages_and_memory_within() {
        let parallel = Parallel { tensor: 2, pipeline: 2 };
        let plan = Plan::new(&formation(&[&[(0, 0), (0, 1), (1, 0), (1, 1)]]), 0, parallel);
        // Two activations, and tokens from the last stage to both ranks of the first.
        assert_eq!((plan.inside.len(), plan.outgoing.len(), plan.incoming.len()), (4, 0, 0));
        assert_eq!(plan.local_stages, [0, 1].into());
    }

    #[test]
    fn both_ends_of_every_line_between_processes_are_planned_once() {
        let parallel = Parallel { tensor: 2, pipeline: 2 };
        let formation = formation(&[&[(0, 0)], &[(0, 1)], &[(1, 0), (1, 1)]]);
        let plans: Vec<_> = (0..3).map(|m| Plan::new(&formation, m, parallel)).collect();
        let out: BTreeSet<_> = plans.iter().flat_map(|plan| plan.outgoing.keys()).collect();
        let back: BTreeSet<_> = plans.iter().flat_map(|plan| &plan.incoming).collect();
        assert_eq!(out, back);
        assert_eq!(
            out.len(),
            6,
            "two activations, a collective each way, tokens back to two ranks"
        );
        assert!(plans[2].local_stages.contains(&1) && plans[0].local_stages.is_empty());
    }
}
