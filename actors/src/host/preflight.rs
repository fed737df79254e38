//! Whether the cluster is fit, for operators: asks every host what it is and has, lets each measure
//! its way to each other, and judges.
//!
//! The control host that is asked counts as a host too: gateways and controllers live there. What a
//! host does not answer in its time is a finding like any other. The operator is told every part as
//! it comes, so it knows that something goes on; when it hangs up, everything ends.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, FuturesUnordered},
};
use tokio::sync::{Semaphore, mpsc};
use troupe_runtime::{
    discovery::{
        Registry, RegistryError,
        directory::{self, NodeRecord},
        keys::Keys,
    },
    error::chain,
    id::NodeId,
    transport::{Class, Conversation, Link, LinkError, PeerAddr, PeerIdentity, Stream},
    wire::{
        host::{FactsAsk, HostDown, HostFacts, HostUp, MeasureAsk, Way},
        operate::{Reason, Refusal},
        preflight::{PreflightDown, PreflightUp},
    },
};

use super::{
    Desk, Facts, facts,
    fit::{self, Measured, Survey, Surveyed},
    measure, report,
    rounds::rounds,
};

/// Answers [`Conversation::Preflight`].
pub struct PreflightDesk {
    registry: Arc<dyn Registry>,
    keys: Keys,
    /// The way to hosts.
    link: Arc<dyn Link>,
    /// Where hosts reach this one.
    door: PeerAddr,
    /// Of this one.
    facts: Facts,
    /// Two at a time would measure each other.
    running: Semaphore,
}

/// A host to ask.
#[derive(Clone, Debug)]
struct Place {
    name: String,
    door: PeerAddr,
    /// None for this one.
    node: Option<NodeId>,
}

/// Why there is no answer.
enum Stop {
    Refused(Refusal),
    /// The operator no longer listens.
    Gone,
}

type Say = mpsc::Sender<PreflightDown>;

// === impl PreflightDesk ===

impl PreflightDesk {
    /// A desk over a cluster's store, which reaches hosts over this link and is reached at this
    /// door.
    pub fn new(
        registry: Arc<dyn Registry>,
        keys: Keys,
        link: Arc<dyn Link>,
        door: PeerAddr,
        facts: Facts,
    ) -> Self {
        Self { registry, keys, link, door, facts, running: Semaphore::new(1) }
    }

    async fn converse(&self, stream: Stream) -> Result<(), LinkError> {
        let Stream { mut sender, mut receiver } = stream;
        let ask = receiver.expect::<PreflightUp>(QUESTION).await?;
        let (say, mut said) = mpsc::channel(QUEUE);
        let work = self.run(ask, say);
        tokio::pin!(work);
        let mut done = false;
        loop {
            let down = tokio::select! {
                biased;
                down = said.recv() => down,
                () = &mut work, if !done => { done = true; continue }
                () = sender.stopped() => return Ok(()),
            };
            // The work is over when nobody can say anything more.
            let Some(down) = down else { return sender.finish() };
            sender.send(&down, PATIENCE).await?;
        }
    }

    async fn run(&self, ask: PreflightUp, say: Say) {
        match self.check(ask, &say).await {
            Ok(()) | Err(Stop::Gone) => {}
            Err(Stop::Refused(refusal)) => drop(say.send(PreflightDown::Refused(refusal)).await),
        }
    }

    async fn check(&self, ask: PreflightUp, say: &Say) -> Result<(), Stop> {
        let Ok(_alone) = self.running.try_acquire() else {
            let message = "another preflight is under way here; ask again when it has ended";
            return Err(refused(Reason::ServiceUnavailable, message));
        };
        let places = self.places(&ask.hosts).await?;
        let hosts = self.ask_all(&places, &ask.model, say).await?;
        let mut survey = Survey { model: ask.model, hosts, ways: Vec::new() };
        survey.ways = self.measure_all(&places, &survey.hosts, say).await?;
        for finding in fit::judge(&survey) {
            let document = report::finding(&finding);
            tell(say, PreflightDown::Finding(document.to_string())).await?;
        }
        Ok(())
    }

    /// What each is and has, some asked at a time, told in their order.
    async fn ask_all(
        &self,
        places: &[Place],
        model: &Option<String>,
        say: &Say,
    ) -> Result<Vec<Surveyed>, Stop> {
        let asked: Vec<_> = places.iter().map(|place| self.facts_of(place, model)).collect();
        let mut asked = stream::iter(asked).buffered(AT_ONCE);
        let mut hosts = Vec::new();
        for place in places {
            let Some(facts) = asked.next().await else { break };
            let (name, door) = (place.name.clone(), place.door.to_string());
            let host = Surveyed { name, door, facts };
            tell(say, PreflightDown::Host(report::host(&host).to_string())).await?;
            hosts.push(host);
        }
        Ok(hosts)
    }

    /// The ways between all that have answered, both ways of a pair one after the other.
    async fn measure_all(
        &self,
        places: &[Place],
        hosts: &[Surveyed],
        say: &Say,
    ) -> Result<Vec<Measured>, Stop> {
        let answered = hosts.iter().enumerate().filter(|(_, host)| host.facts.is_ok());
        let answered: Vec<usize> = answered.map(|(index, _)| index).collect();
        let mut ways = Vec::new();
        for round in rounds(answered.len()) {
            let pairs = round.into_iter().map(|(one, other)| (answered[one], answered[other]));
            let pairs = pairs.map(|(one, other)| self.both(places, one, other));
            let mut pairs: FuturesUnordered<_> = pairs.collect();
            while let Some(both) = pairs.next().await {
                for measured in both {
                    let document = report::way(hosts, &measured);
                    tell(say, PreflightDown::Way(document.to_string())).await?;
                    ways.push(measured);
                }
            }
        }
        ways.sort_by_key(|measured| (measured.from, measured.to));
        Ok(ways)
    }

    async fn both(&self, places: &[Place], one: usize, other: usize) -> [Measured; 2] {
        let there = self.way(&places[one], &places[other]).await;
        let back = self.way(&places[other], &places[one]).await;
        let measured = |from, to, way| Measured { from, to, way };
        [measured(one, other, there), measured(other, one, back)]
    }

    /// Who is to be asked: this one, then the hosts that are named, by name.
    async fn places(&self, names: &[String]) -> Result<Vec<Place>, Stop> {
        let entries = self.registry.list(&self.keys.nodes()).await?;
        let records = entries.iter().filter_map(|entry| {
            match directory::from_bytes::<NodeRecord>(&entry.key, &entry.value) {
                Ok(record) => Some(record),
                Err(error) => {
                    tracing::error!(%error, "a record is left out");
                    None
                }
            }
        });
        let mut records: Vec<NodeRecord> = records.collect();
        records.sort_by(|a, b| a.name.cmp(&b.name));
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        for name in &names {
            if records.iter().all(|record| record.name != *name) {
                return Err(refused(Reason::NotFound, format!("nodes \"{name}\" not found")));
            }
        }
        let mut places = vec![Place { name: HERE.into(), door: self.door.clone(), node: None }];
        for record in records {
            let chosen = names.is_empty() || names.contains(record.name.as_str());
            // A host without a door lives in this very process.
            let Some(address) = record.address.filter(|_| chosen) else { continue };
            let door = address.parse().map_err(|why: String| {
                let why = format!("the record of host {} is damaged: {why}", record.name);
                refused(Reason::InternalError, why)
            })?;
            places.push(Place { name: record.name, door, node: Some(record.id) });
        }
        if places.len() > MOST {
            let message = format!(
                "{} hosts are too many to measure every pair of them: name {MOST} at most",
                places.len() - 1
            );
            return Err(refused(Reason::BadRequest, message));
        }
        Ok(places)
    }

    async fn facts_of(&self, place: &Place, model: &Option<String>) -> Result<HostFacts, String> {
        let Some(node) = place.node else {
            return self.facts.look(model.clone()).await;
        };
        let ask = HostUp::Facts(FactsAsk { model: model.clone() });
        match self.ask(place, node, &ask, facts::LOOK * 2).await? {
            HostDown::Facts(facts) => Ok(*facts),
            other => Err(unexpected(other)),
        }
    }

    async fn way(&self, from: &Place, to: &Place) -> Result<Way, String> {
        let Some(node) = from.node else {
            let measured = measure::measure(&*self.link, &to.door, to.node).await;
            return measured.map_err(|error| chain(&error));
        };
        let ask = MeasureAsk { door: to.door.to_string(), node: to.node };
        match self.ask(from, node, &HostUp::Measure(ask), measure::LONGEST).await? {
            HostDown::Way(way) => Ok(way),
            other => Err(unexpected(other)),
        }
    }

    /// One question and its answer, which takes so long at most.
    async fn ask(
        &self,
        place: &Place,
        node: NodeId,
        ask: &HostUp,
        longest: Duration,
    ) -> Result<HostDown, String> {
        let answer = async {
            let connection = self.link.connect(&place.door, Class::Control, DEADLINE).await?;
            let found = connection.peer().node;
            if found != node {
                return Err(measure::WayError::SomebodyElse(found));
            }
            let mut stream = connection.open(Conversation::Host, DEADLINE).await?;
            stream.sender.send(ask, DEADLINE).await?;
            Ok(stream.receiver.expect(longest + DEADLINE).await?)
        };
        answer.await.map_err(|error| chain(&error))
    }
}

#[async_trait]
impl Desk for PreflightDesk {
    async fn answer(&self, peer: &PeerIdentity, stream: Stream) {
        if let Err(error) = self.converse(stream).await {
            tracing::debug!(%peer, %error, "a preflight broke off");
        }
    }
}

fn unexpected(down: HostDown) -> String {
    match down {
        HostDown::Refused(why) => why,
        _ => "it answers another question than was asked".into(),
    }
}

async fn tell(say: &Say, down: PreflightDown) -> Result<(), Stop> {
    say.send(down).await.map_err(|_| Stop::Gone)
}

fn refused(reason: Reason, message: impl Into<String>) -> Stop {
    Stop::Refused(Refusal::new(reason, message))
}

// === impl Stop ===

impl From<RegistryError> for Stop {
    fn from(error: RegistryError) -> Self {
        refused(Reason::ServiceUnavailable, error.to_string())
    }
}

/// What this host is called among the others; no host's own name has brackets.
const HERE: &str = "(control)";
/// Hosts at most: every pair is measured, which takes a second or two for each of them.
const MOST: usize = 128;
/// Hosts asked at once.
const AT_ONCE: usize = 32;
/// Findings and facts that wait for the operator to read.
const QUEUE: usize = 64;
/// How long an operator may take to ask.
const QUESTION: Duration = Duration::from_secs(10);
/// How long an operator may take to read.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a host may take to be reached.
const DEADLINE: Duration = Duration::from_secs(5);
