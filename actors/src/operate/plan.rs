//! The plan of a dry run: where the groups of services would be if objects were stored, and what
//! else that would change.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use troupe_runtime::{
    discovery::Entry,
    spec::Kind,
    wire::operate::{Changed, MAX_PLAN_LINES, Reason, Refusal},
};

use super::{
    desk::{OperateDesk, Stop, text},
    resource::Resource,
};
use crate::controller::{desired::ServiceName, facts, forecast::Forecast};

impl OperateDesk {
    /// What would become of services with these objects as they would be stored.
    pub(super) async fn plan(&self, changed: &[Changed]) -> Result<Vec<String>, Stop> {
        let stored = self.registry.list(self.keys.root()).await?;
        let objects: Vec<(Kind, Value)> = changed.iter().filter_map(read).collect();
        let named: Vec<ServiceName> = objects
            .iter()
            .filter(|(kind, _)| *kind == Kind::LlmInferenceService)
            .map(|(_, document)| name(document))
            .flat_map(|name| [name.prefill(), name])
            .collect();
        let entries: Vec<Entry> = objects
            .iter()
            .map(|(kind, document)| {
                let ServiceName { namespace, name } = name(document);
                let key = self.keys.spec(kind.name(), &namespace, &name);
                Entry { key, value: document.to_string().into_bytes(), version: 0 }
            })
            .collect();
        let (keys, hub) = (self.keys.clone(), self.hub.clone());
        let now = Duration::from_millis(self.clock.now().unix_millis);
        // It reads models' folders, and plans a whole cluster.
        let task = tokio::task::spawn_blocking(move || {
            let facts = |uri: &str| facts::of(uri, &hub);
            let mut forecast = Forecast::new(keys, now, stored, &facts);
            let before = forecast.all();
            forecast.store(entries);
            differences(&before, forecast.all(), &named)
        });
        let late = || {
            let message = "no plan could be made in time; the objects themselves are good";
            Refusal::new(Reason::InternalError, message)
        };
        let planned = tokio::time::timeout(DEADLINE, task).await.map_err(|_| late())?;
        planned.map_err(|_| late().into())
    }
}

/// What is said of the services that were named, and of all others of which something else is said
/// than before.
fn differences(
    before: &BTreeMap<ServiceName, Vec<String>>,
    after: BTreeMap<ServiceName, Vec<String>>,
    named: &[ServiceName],
) -> Vec<String> {
    let told = after
        .into_iter()
        .filter(|(name, lines)| named.contains(name) || before.get(name) != Some(lines));
    told.flat_map(|(_, lines)| lines).take(MAX_PLAN_LINES).collect()
}

fn read(changed: &Changed) -> Option<(Kind, Value)> {
    let Some(Resource::Declared(kind)) = Resource::find(&changed.object.kind) else { return None };
    Some((kind, serde_json::from_str(&changed.document).ok()?))
}

fn name(document: &Value) -> ServiceName {
    ServiceName::new(&text(document, "/metadata/namespace"), &text(document, "/metadata/name"))
}

/// Longer than it takes to plan the largest cluster.
const DEADLINE: Duration = Duration::from_secs(20);
