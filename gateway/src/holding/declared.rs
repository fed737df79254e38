//! Follows what is declared, and what the controller says of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tokio::time::{Instant, sleep_until};
use troupe_runtime::{
    discovery::{
        Entry, Registry, Watch, WatchEvent, Witness,
        declared::Declared as Stored,
        directory::{ConditionStatus, ServiceStatus, from_bytes},
        keys::Keys,
    },
    error::chain,
    spec::{
        ServiceSpec,
        service::{KIND, Scaling},
    },
};

use super::catalog::{Catalog, Declared, ServiceName};
use crate::placement::{
    keeper::Retry,
    view::kept::{Kept, Known},
};

/// Follows the specifications for ever; a registry that is away is asked again, and what was known
/// stays known.
pub(crate) struct Follower {
    catalog: Arc<Catalog>,
    keys: Keys,
    kept: Kept,
    /// Services by their specification's key.
    services: BTreeMap<String, (ServiceName, Declared)>,
    /// Those that the store does not have, though nobody deleted them as far as is known: what was
    /// kept, and what the store has lost.
    doubted: BTreeSet<String>,
    /// In which life of the store what was kept was known; none once that is settled.
    kept_life: Option<String>,
    /// When the doubted ones are forgotten.
    forget_at: Option<Instant>,
    /// Why services have failed, by their status' key.
    failed: BTreeMap<String, String>,
    /// When what has changed is kept.
    keep_at: Option<Instant>,
}

/// Between two times of keeping what has changed.
const KEEP: Duration = Duration::from_secs(1);
/// How long a store that lost its specifications may take to have them back from its hosts.
const DOUBT: Duration = Duration::from_secs(60);
/// In the gateway's data directory.
const FILE: &str = "services.json";

// === impl Follower ===

impl Follower {
    /// One that knows what was kept in `dir`.
    pub(crate) fn new(catalog: Arc<Catalog>, keys: Keys, dir: Option<PathBuf>) -> Self {
        let kept = Kept::new(dir, FILE);
        let known = kept.load();
        let services: BTreeMap<_, _> = known.entries.into_iter().collect();
        let follower = Self {
            catalog,
            keys,
            kept,
            doubted: services.keys().cloned().collect(),
            services,
            kept_life: known.life,
            forget_at: None,
            failed: BTreeMap::new(),
            keep_at: None,
        };
        follower.tell();
        follower
    }

    /// Never returns; ends with its task.
    pub(crate) async fn run(mut self, registry: Arc<dyn Registry>) -> Infallible {
        let mut retry = Retry::default();
        loop {
            let specs = registry.watch(&self.keys.specs(KIND)).await;
            let statuses = registry.watch(&self.keys.service_statuses()).await;
            match (specs, statuses) {
                (Ok(specs), Ok(statuses)) => {
                    let witness = Witness::new(Arc::clone(&registry), self.keys.incarnation());
                    self.follow(specs, statuses, witness).await;
                    tracing::warn!("watch of services ended");
                }
                (Err(error), _) | (_, Err(error)) => {
                    tracing::warn!(error = chain(&error), "watch services");
                }
            }
            retry.wait().await;
        }
    }

    async fn follow(&mut self, mut specs: Watch, mut statuses: Watch, mut witness: Witness) {
        loop {
            let changed = tokio::select! {
                () = due(self.keep_at) => {
                    self.keep_at = None;
                    self.keep(&witness).await;
                    false
                }
                () = due(self.forget_at) => self.forget_doubted(),
                event = specs.next() => match event {
                    Some(event) => self.spec(event, &mut witness).await,
                    None => return,
                },
                event = statuses.next() => match event {
                    Some(event) => self.status(event),
                    None => return,
                },
            };
            if changed {
                self.tell();
                self.keep_at.get_or_insert_with(|| Instant::now() + KEEP);
            }
        }
    }

    async fn spec(&mut self, event: WatchEvent, witness: &mut Witness) -> bool {
        match event {
            WatchEvent::Put(entry) => self.put(entry),
            WatchEvent::Delete(key) => {
                if witness.was_meant().await {
                    return self.remove(&key);
                }
                // Hosts give specifications back to a store that lost them.
                self.doubted.insert(key);
                false
            }
            event => {
                witness.see(&event).await;
                event == WatchEvent::Synced && self.synced(witness.life())
            }
        }
    }

    /// The store has told everything: what it does not have was deleted meanwhile, if it is the
    /// store that it was.
    fn synced(&mut self, life: Option<String>) -> bool {
        if self.kept_life.take().is_some_and(|kept| Some(kept) == life) {
            return self.forget_doubted();
        }
        self.forget_at = Some(Instant::now() + DOUBT);
        false
    }

    fn forget_doubted(&mut self) -> bool {
        self.forget_at = None;
        let before = self.services.len();
        std::mem::take(&mut self.doubted).iter().for_each(|key| drop(self.services.remove(key)));
        self.services.len() < before
    }

    fn put(&mut self, entry: Entry) -> bool {
        self.doubted.remove(&entry.key);
        match read(&entry.value) {
            Ok(Some(service)) => self.services.insert(entry.key, service.clone()) != Some(service),
            Ok(None) => self.remove(&entry.key),
            Err(error) => {
                tracing::debug!(key = entry.key, error, "a service cannot be read");
                self.remove(&entry.key)
            }
        }
    }

    fn remove(&mut self, key: &str) -> bool {
        self.services.remove(key).is_some()
    }

    fn status(&mut self, event: WatchEvent) -> bool {
        match event {
            WatchEvent::Put(entry) => {
                let status = from_bytes::<ServiceStatus>(&entry.key, &entry.value);
                match status.ok().and_then(|status| failure(&status)) {
                    Some(why) => self.failed.insert(entry.key, why.clone()) != Some(why),
                    None => self.failed.remove(&entry.key).is_some(),
                }
            }
            WatchEvent::Delete(key) => self.failed.remove(&key).is_some(),
            WatchEvent::Synced | WatchEvent::Disconnected(_) | WatchEvent::Rewound => false,
        }
    }

    fn tell(&self) {
        let with_failure = |(name, declared): &(ServiceName, Declared)| {
            let key = self.keys.service_status(&name.namespace, &name.name);
            let failed = self.failed.get(&key).cloned();
            (name.clone(), Declared { failed, ..declared.clone() })
        };
        self.catalog.set(self.services.values().map(with_failure).collect());
    }

    async fn keep(&self, witness: &Witness) {
        let entries = self.services.iter().map(|(key, service)| (key.clone(), service.clone()));
        self.kept.save(Known { life: witness.life(), entries: entries.collect() }).await;
    }
}

/// Waits for a time; for ever without one.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What a stored specification declares; nothing if it was deleted.
fn read(value: &[u8]) -> Result<Option<(ServiceName, Declared)>, String> {
    if Stored::of(value).is_some_and(|stored| stored.deleted) {
        return Ok(None);
    }
    let document: Value = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    let (spec, _) = ServiceSpec::from_document(document).map_err(|error| error.to_string())?;
    let template = spec.workload.template.as_ref();
    let served = template.map(|pod| pod.flags.served_model_name.clone()).unwrap_or_default();
    let mut names = match served.is_empty() {
        true => vec![spec.model_name().to_owned()],
        false => served,
    };
    let lora = template.map(|pod| pod.flags.lora.clone()).unwrap_or_default();
    let lora = lora.with_spec(spec.model.lora.as_ref());
    names.extend(lora.modules.into_iter().map(|module| module.name));
    let metadata = spec.metadata;
    let name = ServiceName { namespace: metadata.namespace, name: metadata.name };
    let scaling = spec.workload.scaling.as_ref();
    let sleeps = |scaling: &Scaling| scaling.min_replicas == 0 || scaling.idle_replicas == Some(0);
    let on_demand = scaling.is_some_and(sleeps);
    let prefill = spec.prefill.as_ref().and_then(|side| side.scaling.as_ref());
    let prefill_on_demand = prefill.is_some_and(sleeps);
    let comes_up = scaling.is_some() || spec.workload.replicas > 0;
    let placement = spec.router.and_then(|router| router.scheduler?.config);
    let failed = None;
    let declared = Declared { names, comes_up, on_demand, prefill_on_demand, placement, failed };
    Ok(Some((name, declared)))
}

/// Why a service is not formed any more, if the controller says that it is so.
fn failure(status: &ServiceStatus) -> Option<String> {
    let failed = |kind: &str, value| kind == "Failed" && value == ConditionStatus::True;
    let condition = status.conditions.iter().find(|one| failed(&one.kind, one.status))?;
    Some(condition.message.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use troupe_runtime::discovery::{
        declared::tombstone,
        directory::{Condition, to_bytes},
    };

    use super::*;

    fn spec(extra: Value) -> Vec<u8> {
        let mut spec = json!({"model": {"uri": "file:///m", "name": "m"}});
        for (key, value) in extra.as_object().expect("an object") {
            spec[key] = value.clone();
        }
        json!({
            "apiVersion": "serving.kserve.io/v1alpha1",
            "kind": KIND,
            "metadata": {"name": "s", "namespace": "n"},
            "spec": spec,
        })
        .to_string()
        .into_bytes()
    }

    #[test]
    fn names_are_those_that_its_endpoints_will_have() {
        let declared = |extra| read(&spec(extra)).expect("a service").expect("it is there").1;
        assert_eq!(declared(json!({})).names, ["m"]);
        let args = json!({"template": {"containers": [
            {"name": "main", "args": ["--served-model-name", "a", "b"]}
        ]}});
        assert_eq!(declared(args).names, ["a", "b"]);
        assert!(declared(json!({})).comes_up && !declared(json!({})).on_demand);
        let adapters = json!({"adapters": [{"name": "sql", "uri": "/sql"}]});
        let tuned = json!({"model": {"uri": "/m", "name": "m", "lora": adapters}});
        assert_eq!(declared(tuned).names, ["m", "sql"]);
        let scaled = json!({"scaling": {"minReplicas": 0, "maxReplicas": 2}});
        assert!(declared(scaled.clone()).on_demand);
        assert!(!declared(scaled.clone()).prefill_on_demand);
        let apart = declared(json!({"prefill": scaled}));
        assert!(apart.prefill_on_demand && !apart.on_demand);
        assert!(!declared(json!({"replicas": 0})).comes_up, "nobody is to serve it");
        let picker = json!({"kind": "EndpointPickerConfig"});
        let scheduler = json!({"scheduler": {"config": {"inline": picker}}});
        assert_eq!(declared(json!({"router": scheduler})).placement, Some(picker));
        assert_eq!(read(&tombstone(3)), Ok(None));
        assert!(read(b"nonsense").is_err());
    }

    #[test]
    fn a_failed_service_says_why_until_it_has_not() {
        let catalog = Arc::new(Catalog::new());
        let keys = Keys::new("test");
        let mut follower = Follower::new(Arc::clone(&catalog), keys.clone(), None);
        let entry = |key: String, value| Entry { key, value, version: 1 };
        assert!(follower.put(entry(keys.spec(KIND, "n", "s"), spec(json!({})))));
        let with = |status| ServiceStatus {
            conditions: vec![Condition {
                kind: "Failed".into(),
                status,
                reason: "TooManyRestarts".into(),
                message: "it exits at once".into(),
                last_transition: 1,
            }],
            ..ServiceStatus::default()
        };
        let told = |follower: &mut Follower, status| {
            let key = keys.service_status("n", "s");
            let changed = follower.status(WatchEvent::Put(entry(key, to_bytes(with(status)))));
            assert!(changed);
            follower.tell();
            catalog.find(Some("m")).expect("it is declared").1.failed
        };
        let why = told(&mut follower, ConditionStatus::True);
        assert_eq!(why.as_deref(), Some("it exits at once"));
        assert_eq!(told(&mut follower, ConditionStatus::False), None);
    }

    #[test]
    fn what_was_kept_holds_until_the_store_has_spoken() {
        let dir = tempfile::tempdir().expect("a folder");
        let keys = Keys::new("test");
        let kept = |life: &str| {
            let service = read(&spec(json!({}))).expect("a service").expect("it is there");
            let entries = vec![(keys.spec(KIND, "n", "s"), service)];
            let known = to_bytes(Known { life: Some(life.into()), entries });
            std::fs::write(dir.path().join(FILE), known).expect("written");
            let catalog = Arc::new(Catalog::new());
            let dir = Some(dir.path().to_owned());
            (Follower::new(Arc::clone(&catalog), keys.clone(), dir), catalog)
        };
        let (mut follower, catalog) = kept("one");
        assert!(catalog.find(Some("m")).is_some(), "it is known at once");
        assert!(follower.synced(Some("one".into())), "it was deleted meanwhile");
        assert!(follower.services.is_empty());

        let (mut follower, _) = kept("one");
        assert!(!follower.synced(Some("two".into())), "the store was wiped: it may come back");
        assert!(follower.forget_at.is_some() && !follower.services.is_empty());
        let key = keys.spec(KIND, "n", "s");
        follower.put(Entry { key, value: spec(json!({})), version: 1 });
        assert!(!follower.forget_doubted(), "it came back");
    }
}
