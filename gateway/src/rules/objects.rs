//! Everything that is declared, and the rules that follow from it.
//!
//! Objects come and go one at a time, in any order; rules are made anew from all of them. A route
//! to a service or pool that is not there leads nowhere until it is.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use troupe_runtime::{
    discovery::declared::Declared as Stored,
    spec::{
        HttpRoute, InferenceModel, InferenceObjective, InferencePool, Kind, ServiceConfig,
        ServiceSpec, resolve,
        route::{Backend, BackendKind, PathMatch, PathRewrite, RouteMatch, RouteRule, RouteSpec},
    },
};

use super::{
    Rules,
    ranks::{Model, Ranks},
    routes::{Entry, Host, Routes, entry},
};
use crate::{foreign::config::ForeignEndpoint, holding::catalog::ServiceName};

/// What is declared, by kind and name.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    services: BTreeMap<ServiceName, ServiceSpec>,
    configs: BTreeMap<ServiceName, ServiceConfig>,
    pools: BTreeMap<ServiceName, InferencePool>,
    /// What pools name that no service is.
    foreign: BTreeMap<ServiceName, Vec<ForeignEndpoint>>,
    models: BTreeMap<ServiceName, InferenceModel>,
    objectives: BTreeMap<ServiceName, InferenceObjective>,
    routes: BTreeMap<ServiceName, HttpRoute>,
}

/// A namespace of one of these names has no paths of its own: they are the gateway's.
const OWN_PATHS: [&str; 3] = ["v1", "docs", "debug"];

// === impl Objects ===

impl Objects {
    /// An object is stored so.
    ///
    /// # Errors
    /// Why it cannot be read; then it counts as not there.
    pub(crate) fn put(
        &mut self,
        kind: Kind,
        name: ServiceName,
        value: &[u8],
    ) -> Result<(), String> {
        self.gone(kind, &name);
        if Stored::of(value).is_some_and(|stored| stored.deleted) {
            return Ok(());
        }
        let document: Value = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        let told = |error: troupe_runtime::spec::SpecError| error.to_string();
        match kind {
            Kind::LlmInferenceService => {
                let (spec, _) = ServiceSpec::from_document(document).map_err(told)?;
                self.services.insert(name, spec);
            }
            Kind::LlmInferenceServiceConfig => {
                let (config, _) = ServiceConfig::from_document(document).map_err(told)?;
                self.configs.insert(name, config);
            }
            Kind::InferencePool => {
                let (pool, _) = InferencePool::from_document(document).map_err(told)?;
                let named = ForeignEndpoint::of_pool(&pool)?;
                if !named.is_empty() {
                    self.foreign.insert(name.clone(), named);
                }
                self.pools.insert(name, pool);
            }
            Kind::InferenceModel => {
                let (model, _) = InferenceModel::from_document(document).map_err(told)?;
                self.models.insert(name, model);
            }
            Kind::InferenceObjective => {
                let (objective, _) = InferenceObjective::from_document(document).map_err(told)?;
                self.objectives.insert(name, objective);
            }
            Kind::HttpRoute => {
                let (route, _) = HttpRoute::from_document(document).map_err(told)?;
                self.routes.insert(name, route);
            }
            Kind::LeaderWorkerSet => {}
        }
        Ok(())
    }

    /// An object is not there any more.
    pub(crate) fn gone(&mut self, kind: Kind, name: &ServiceName) {
        match kind {
            Kind::LlmInferenceService => drop(self.services.remove(name)),
            Kind::LlmInferenceServiceConfig => drop(self.configs.remove(name)),
            Kind::InferencePool => {
                self.pools.remove(name);
                self.foreign.remove(name);
            }
            Kind::InferenceModel => drop(self.models.remove(name)),
            Kind::InferenceObjective => drop(self.objectives.remove(name)),
            Kind::HttpRoute => drop(self.routes.remove(name)),
            Kind::LeaderWorkerSet => {}
        }
    }

    /// Every foreign endpoint that a pool names.
    pub(crate) fn foreign(&self) -> Vec<ForeignEndpoint> {
        self.foreign.values().flatten().cloned().collect()
    }

    /// What follows from all of them.
    pub(crate) fn rules(&self) -> Rules {
        let services = self.whole();
        Rules { ranks: self.ranks(&services), routes: self.routes(&services) }
    }

    /// Services with what they start from, as far as that is there.
    fn whole(&self) -> BTreeMap<ServiceName, ServiceSpec> {
        let find = |namespace: &str, name: &str| {
            let name = ServiceName { namespace: namespace.into(), name: name.into() };
            self.configs.get(&name).cloned()
        };
        let whole = |spec: &ServiceSpec| match resolve(spec, find) {
            Ok(resolved) => resolved.spec,
            Err(_) => spec.clone(),
        };
        self.services.iter().map(|(name, spec)| (name.clone(), whole(spec))).collect()
    }

    fn ranks(&self, services: &BTreeMap<ServiceName, ServiceSpec>) -> Ranks {
        let objectives =
            self.objectives.iter().map(|(name, objective)| (name.clone(), objective.priority));
        let model = |model: &InferenceModel| {
            let targets = model.targets.iter().map(|target| (target.name.clone(), target.weight));
            Model { criticality: model.criticality, targets: targets.collect() }
        };
        let models = self.models.values().map(|one| (one.model_name.clone(), model(one)));
        let own = services
            .values()
            .filter_map(|spec| Some((spec.model_name().to_owned(), spec.model.criticality?)));
        Ranks {
            objectives: objectives.collect(),
            models: models.collect(),
            services: own.collect(),
        }
    }

    fn routes(&self, services: &BTreeMap<ServiceName, ServiceSpec>) -> Routes {
        let mut entries = Vec::new();
        let mut groups: BTreeMap<ServiceName, Vec<(BTreeSet<ServiceName>, u32)>> = BTreeMap::new();
        for (name, spec) in services {
            let own = BTreeSet::from([name.clone()]);
            entries.extend(by_name(name, vec![(own.clone(), 1)]));
            let Some(route) = spec.router.as_ref().and_then(|router| router.route.as_ref()) else {
                continue;
            };
            if let Some(group) = &route.group {
                let group = ServiceName { namespace: name.namespace.clone(), name: group.clone() };
                let shares = groups.entry(group).or_default();
                shares.push((own, route.weight.unwrap_or(1)));
            }
            if let Some(spec) = &route.spec {
                self.entries(services, name, spec, &mut entries);
            }
        }
        for (name, shares) in groups {
            // A service of a group's name is reached by its own path already.
            if !services.contains_key(&name) {
                entries.extend(by_name(&name, shares));
            }
        }
        for (name, route) in &self.routes {
            self.entries(services, name, &route.spec, &mut entries);
        }
        Routes::new(entries)
    }

    fn entries(
        &self,
        services: &BTreeMap<ServiceName, ServiceSpec>,
        name: &ServiceName,
        route: &RouteSpec,
        entries: &mut Vec<Entry>,
    ) {
        let any = [RouteMatch::default()];
        let hosts: Vec<Option<&String>> = match route.hostnames.is_empty() {
            true => vec![None],
            false => route.hostnames.iter().map(Some).collect(),
        };
        for rule in &route.rules {
            let matches = if rule.matches.is_empty() { &any[..] } else { &rule.matches };
            for one in matches {
                for host in &hosts {
                    let Some(made) = entry(one) else {
                        tracing::warn!(route = %name, "a match is no regular expression: left out");
                        continue;
                    };
                    entries.push(Entry {
                        host: host.map(|host| Host::new(host)),
                        rewrite: rule.rewrite.as_ref().and_then(|rewrite| rewrite.path.clone()),
                        backends: self.backends(services, name, rule),
                        timeout: rule.timeout,
                        age: (String::new(), name.to_string()),
                        ..made
                    });
                }
            }
        }
    }

    fn backends(
        &self,
        services: &BTreeMap<ServiceName, ServiceSpec>,
        route: &ServiceName,
        rule: &RouteRule,
    ) -> Vec<(BTreeSet<ServiceName>, u32)> {
        let of = |backend: &Backend| {
            let namespace = backend.namespace.as_ref().unwrap_or(&route.namespace).clone();
            let name = ServiceName { namespace, name: backend.name.clone() };
            match backend.kind {
                BackendKind::LlmInferenceService => {
                    services.contains_key(&name).then_some(name).into_iter().collect()
                }
                BackendKind::InferencePool => {
                    let pool = self.pools.get(&name);
                    let chosen = services.iter().filter(|(service, spec)| {
                        let selects = |pool: &InferencePool| pool.selects(&spec.pool_labels());
                        service.namespace == name.namespace && pool.is_some_and(selects)
                    });
                    let named = self.foreign.get(&name).into_iter().flatten();
                    let named = named.map(|endpoint| ServiceName {
                        namespace: endpoint.namespace.clone(),
                        name: endpoint.name.clone(),
                    });
                    chosen.map(|(service, _)| service.clone()).chain(named).collect()
                }
                BackendKind::Other => BTreeSet::new(),
            }
        };
        rule.backends.iter().map(|backend| (of(backend), backend.weight)).collect()
    }
}

/// `/<namespace>/<name>/...`, as KServe has it.
fn by_name(name: &ServiceName, backends: Vec<(BTreeSet<ServiceName>, u32)>) -> Option<Entry> {
    if OWN_PATHS.contains(&name.namespace.as_str()) {
        return None;
    }
    let path = PathMatch::Prefix(format!("/{}/{}", name.namespace, name.name));
    let made = entry(&RouteMatch { path, ..RouteMatch::default() })?;
    Some(Entry { rewrite: Some(PathRewrite::Prefix("/".into())), backends, ..made })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::routes::{Asked, Routed};

    fn name(name: &str) -> ServiceName {
        ServiceName { namespace: "n".into(), name: name.into() }
    }

    fn put(objects: &mut Objects, kind: Kind, of: &str, spec: Value) {
        let document = json!({
            "apiVersion": kind.api_versions()[0],
            "kind": kind.name(),
            "metadata": {"name": of, "namespace": "n"},
            "spec": spec,
        });
        let put = objects.put(kind, name(of), document.to_string().as_bytes());
        put.unwrap_or_else(|error| panic!("{of}: {error}"));
    }

    fn service(objects: &mut Objects, of: &str, more: Value) {
        let mut spec = json!({"model": {"uri": "file:///m", "name": "m"}});
        for (key, value) in more.as_object().expect("an object") {
            spec[key] = value.clone();
        }
        put(objects, Kind::LlmInferenceService, of, spec);
    }

    /// Where a path leads in a hundred draws: each destination with how often.
    fn goes(objects: &Objects, path: &str) -> BTreeMap<String, u32> {
        let rules = objects.rules();
        let mut seen = BTreeMap::new();
        for draw in 0..100 {
            let header = &|_: &str| None;
            let asked =
                Asked { host: "h", path, query: "", method: "POST", header, draw: &|| draw };
            let to = match rules.routes.route(&asked) {
                Routed::Plain => "plain".to_owned(),
                Routed::Nowhere => "nowhere".to_owned(),
                Routed::To { path, scope, .. } => {
                    let names: Vec<&str> = scope.0.iter().map(|one| one.name.as_str()).collect();
                    format!("{} {path}", names.join(","))
                }
            };
            *seen.entry(to).or_insert(0) += 1;
        }
        seen
    }

    #[test]
    fn every_service_has_a_path_and_a_group_shares_one() {
        let mut objects = Objects::default();
        service(
            &mut objects,
            "stable",
            json!({"router": {"route": {"group": "chat", "weight": 9}}}),
        );
        service(
            &mut objects,
            "canary",
            json!({"router": {"route": {"group": "chat", "weight": 1}}}),
        );
        let one = |to: &str| BTreeMap::from([(to.to_owned(), 100)]);
        assert_eq!(goes(&objects, "/n/stable/v1/models"), one("stable /v1/models"));
        let shares = goes(&objects, "/n/chat/v1/chat/completions");
        let wanted = [("canary /v1/chat/completions", 10), ("stable /v1/chat/completions", 90)];
        assert_eq!(shares, wanted.map(|(to, n)| (to.to_owned(), n)).into());
        assert_eq!(goes(&objects, "/v1/models"), one("plain"));
        objects.gone(Kind::LlmInferenceService, &name("stable"));
        assert_eq!(goes(&objects, "/n/stable/v1/models"), one("plain"));
    }

    #[test]
    fn a_route_splits_between_pools_and_services_that_are_there() {
        let mut objects = Objects::default();
        service(&mut objects, "a", json!({"labels": {"app": "x"}}));
        service(&mut objects, "b", json!({"labels": {"app": "x"}}));
        service(&mut objects, "c", json!({}));
        let pool =
            json!({"selector": {"matchLabels": {"app": "x"}}, "targetPorts": [{"number": 8000}]});
        put(&mut objects, Kind::InferencePool, "x", pool);
        let (group, kserve) = ("inference.networking.k8s.io", "serving.kserve.io");
        let rule = json!({
            "matches": [{"path": {"type": "PathPrefix", "value": "/llm"}}],
            "filters": [{"type": "URLRewrite", "urlRewrite": {
                "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"},
            }}],
            "backendRefs": [
                {"group": group, "kind": "InferencePool", "name": "x", "weight": 3},
                {"group": kserve, "kind": "LLMInferenceService", "name": "c", "weight": 1},
            ],
        });
        let route = json!({"parentRefs": [{"name": "gateway"}], "rules": [rule]});
        put(&mut objects, Kind::HttpRoute, "r", route);
        let shares = [("a,b /v1/models", 75), ("c /v1/models", 25)];
        assert_eq!(
            goes(&objects, "/llm/v1/models"),
            shares.map(|(to, n)| (to.to_owned(), n)).into()
        );
        objects.gone(Kind::LlmInferenceService, &name("c"));
        let shares = [("a,b /v1/models", 75), ("nowhere", 25)];
        assert_eq!(
            goes(&objects, "/llm/v1/models"),
            shares.map(|(to, n)| (to.to_owned(), n)).into(),
            "as the Gateway API says: a share of what is not there fails"
        );
    }

    #[test]
    fn priorities_come_from_objects_and_what_cannot_be_read_is_not_there() {
        let mut objects = Objects::default();
        let spec = json!({"uri": "file:///m", "name": "own", "criticality": "Sheddable"});
        service(&mut objects, "s", json!({"model": spec}));
        let pool = json!({"name": "x"});
        put(&mut objects, Kind::InferenceObjective, "o", json!({"priority": 4, "poolRef": pool}));
        let model = json!({
            "modelName": "alias", "criticality": "Critical", "poolRef": pool,
            "targetModels": [{"name": "own", "weight": 1}],
        });
        put(&mut objects, Kind::InferenceModel, "m", model);
        let ranks = objects.rules().ranks;
        assert_eq!(ranks.priority(None, "own"), Some(-1));
        assert_eq!(ranks.priority(Some("o"), "own"), Some(4));
        assert_eq!(ranks.priority(None, "alias"), Some(1));
        assert_eq!((ranks.target("alias", || 5), ranks.target("own", || 5)), (Some("own"), None));
        let broken = objects.put(Kind::InferenceObjective, name("o"), b"{");
        assert!(broken.is_err());
        assert_eq!(objects.rules().ranks.priority(Some("o"), "own"), Some(-1));
    }
}
