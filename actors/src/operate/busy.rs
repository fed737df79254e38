//! How busy hosts and services are: leaders are asked, for one second, what they are at.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};
use troupe_runtime::{
    discovery::directory::{self, EndpointRecord, GroupRecord},
    id::{GroupId, NodeId},
    transport::{Class, Conversation, Link, LinkError},
    wire::{
        operate::OperateDown,
        status::{Load, StatusDown, StatusUp},
    },
};

use super::{
    desk::{Answer, OperateDesk, Stop},
    resource::Resource,
    view,
};

/// What one leader said in a second.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sample {
    load: Load,
    /// The adapters that it serves, by name.
    adapters: Vec<String>,
    /// Tokens computed per second.
    rate: f64,
}

/// What several leaders said.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sum {
    answered: u32,
    silent: u32,
    running: u32,
    waiting: u32,
    blocks_used: u64,
    blocks_total: u64,
    rate: f64,
    /// Adapters that somebody serves.
    adapters: BTreeSet<String>,
}

impl OperateDesk {
    /// One document for each service that has an endpoint.
    pub(super) async fn busy_services(
        &self,
        namespace: Option<&str>,
        answer: &mut Answer,
    ) -> Result<(), Stop> {
        let mut services: BTreeMap<(String, String), Sum> = BTreeMap::new();
        for (group, sample) in self.sample().await? {
            let GroupId { namespace, service, .. } = group;
            services.entry((namespace, service)).or_default().add(sample);
        }
        services.retain(|(in_namespace, _), _| namespace.is_none_or(|only| only == in_namespace));
        for ((namespace, name), sum) in services {
            let metadata = json!({"name": name, "namespace": namespace});
            let document = sum.document("ServiceMetrics", metadata);
            answer.say(&OperateDown::Object(document.to_string())).await?;
        }
        Ok(())
    }

    /// One document for each host: what the groups with a member there are at.
    pub(super) async fn busy_nodes(&self, answer: &mut Answer) -> Result<(), Stop> {
        let samples = self.sample().await?;
        let places = self.places().await?;
        let contents = self.contents(Resource::Node).await?;
        for (_, node) in view::all(&contents, Resource::Node) {
            let id = node["metadata"]["uid"].as_str().and_then(|id| id.parse().ok()).map(NodeId);
            let mut sum = Sum::default();
            for (_, sample) in samples.iter().filter(|(group, _)| {
                id.is_some_and(|id| places.get(group).is_some_and(|nodes| nodes.contains(&id)))
            }) {
                sum.add(sample.clone());
            }
            let metadata = json!({"name": node["metadata"]["name"]});
            let mut document = sum.document("NodeMetrics", metadata);
            document["devices"] = node["status"]["devices"].clone();
            answer.say(&OperateDown::Object(document.to_string())).await?;
        }
        Ok(())
    }

    /// Asks all leaders at once.
    async fn sample(&self) -> Result<Vec<(GroupId, Option<Sample>)>, Stop> {
        let entries = self.registry.list(&self.keys.endpoints()).await?;
        let endpoints = entries.into_iter().filter_map(|entry| {
            directory::from_bytes::<EndpointRecord>(&entry.key, &entry.value).ok()
        });
        let asked = stream::iter(endpoints).map(|endpoint| async move {
            let sample = timeout(DEADLINE, ask(&*self.link, &endpoint.address)).await;
            (endpoint.info.endpoint.group, sample.ok().and_then(Result::ok))
        });
        Ok(asked.buffer_unordered(AT_ONCE).collect().await)
    }

    /// The hosts of each group.
    async fn places(&self) -> Result<BTreeMap<GroupId, Vec<NodeId>>, Stop> {
        let entries = self.registry.list(&self.keys.groups()).await?;
        let records = entries.into_iter().filter_map(|entry| {
            directory::from_bytes::<GroupRecord>(&entry.key, &entry.value).ok()
        });
        let places = records.map(|record| {
            let nodes = record.members.iter().map(|member| member.node).collect();
            (record.group, nodes)
        });
        Ok(places.collect())
    }
}

/// Listens to one leader for as long as a rate takes to show.
async fn ask(link: &dyn Link, address: &str) -> Result<Sample, LinkError> {
    let address = address.parse().map_err(LinkError::Malformed)?;
    let connection = link.connect(&address, Class::Control, DEADLINE).await?;
    let mut stream = connection.open(Conversation::Status, DEADLINE).await?;
    stream.sender.send(&StatusUp::Watch, DEADLINE).await?;
    let mut first: Option<(Instant, Load)> = None;
    let (mut last, mut adapters) = (None, Vec::new());
    let mut until = Instant::now() + DEADLINE;
    while let Ok(said) = timeout_at(until, stream.receiver.next::<StatusDown>()).await {
        let load = match said? {
            Some(StatusDown::Load(load)) => load,
            Some(StatusDown::Adapters(told)) => {
                adapters = told.served.into_iter().map(|own| own.name).collect();
                continue;
            }
            _ => continue,
        };
        let now = Instant::now();
        if first.is_none() {
            until = now + WINDOW;
        }
        first.get_or_insert((now, load));
        last = Some((now, load));
    }
    let (Some((began, first)), Some((_, load))) = (first, last) else {
        return Err(LinkError::Ended);
    };
    let seconds = began.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
    let rate = load.tokens.saturating_sub(first.tokens) as f64 / seconds;
    Ok(Sample { load, adapters, rate })
}

// === impl Sum ===

impl Sum {
    fn add(&mut self, sample: Option<Sample>) {
        let Some(Sample { load, adapters, rate }) = sample else {
            self.silent += 1;
            return;
        };
        self.answered += 1;
        self.running += load.running;
        self.waiting += load.waiting;
        self.blocks_used += u64::from(load.blocks_used);
        self.blocks_total += u64::from(load.blocks_total);
        self.rate += rate;
        self.adapters.extend(adapters);
    }

    fn document(&self, kind: &str, metadata: Value) -> Value {
        json!({
            "apiVersion": view::API_VERSION,
            "kind": kind,
            "metadata": metadata,
            "groups": {"answered": self.answered, "silent": self.silent},
            "sequences": {"running": self.running, "waiting": self.waiting},
            "blocks": {"used": self.blocks_used, "total": self.blocks_total},
            "tokensPerSecond": self.rate,
            "adapters": self.adapters,
        })
    }
}

/// How long a rate is measured for.
const WINDOW: Duration = Duration::from_secs(1);
/// How long a leader may take in all.
const DEADLINE: Duration = Duration::from_secs(3);
/// Leaders asked at once: each costs a connection for a second.
const AT_ONCE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_add_up_and_a_silent_one_is_counted() {
        let load =
            Load { running: 2, waiting: 1, blocks_used: 10, blocks_total: 40, ..Load::default() };
        let mut sum = Sum::default();
        let sample = |rate, name: &str| Sample { load, adapters: vec![name.into()], rate };
        sum.add(Some(sample(5.0, "sql")));
        sum.add(Some(sample(7.5, "chat")));
        sum.add(None);
        let document = sum.document("ServiceMetrics", json!({"name": "s"}));
        assert_eq!(document["sequences"], json!({"running": 4, "waiting": 2}));
        assert_eq!(document["groups"], json!({"answered": 2, "silent": 1}));
        assert_eq!(document["blocks"], json!({"used": 20, "total": 80}));
        assert_eq!(document["tokensPerSecond"], 12.5);
        assert_eq!(document["adapters"], json!(["chat", "sql"]));
    }
}
