//! What is declared, as services that are whole: each with the configurations that it starts from
//! and the `LeaderWorkerSet` of its name.
//!
//! What the store tells of services, configurations and sets comes in here, one object at a time;
//! what comes out is what the planner is to know of services. For each service it is remembered
//! which configurations were looked for, found or not, so that one that comes, changes or goes
//! leads to exactly the services that it matters to. Nothing is said before the store has told all
//! that it holds, because it tells services before what they start from, and nothing is said twice.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use serde_json::Value;
use troupe_runtime::{
    discovery::declared::Declared,
    spec::{Kind, LeaderWorkerSet, Metadata, ServiceConfig, ServiceSpec, SpecError},
};

use super::{
    desired::{Desired, INVALID, ServiceName},
    plan::ControllerEvent,
    service::Problem,
};

/// Everything that is declared and matters to services.
#[derive(Debug, Default)]
pub(super) struct Declarations {
    /// The store has told all that it holds.
    complete: bool,
    services: BTreeMap<ServiceName, Service>,
    configs: BTreeMap<ServiceName, ServiceConfig>,
    sets: BTreeMap<ServiceName, LeaderWorkerSet>,
}

/// A declared service.
#[derive(Debug)]
struct Service {
    declared: Result<ServiceSpec, Problem>,
    /// Configurations that were looked for when it was last made whole.
    uses: BTreeSet<ServiceName>,
    /// What the planner was told last.
    told: Option<Result<Vec<Desired>, Problem>>,
    /// The planner knows of a side of it that prefills.
    prefills: bool,
}

/// The kinds that matter here.
pub(super) const KINDS: [Kind; 3] =
    [Kind::LlmInferenceService, Kind::LlmInferenceServiceConfig, Kind::LeaderWorkerSet];

// === impl Declarations ===

impl Declarations {
    /// An object of one of [`KINDS`] is stored under this name. Says what is wrong with a
    /// configuration or set too, which then counts as not there; what is wrong with a service is an
    /// event.
    pub(super) fn put(
        &mut self,
        kind: Kind,
        name: &ServiceName,
        value: &[u8],
    ) -> (Vec<ControllerEvent>, Option<String>) {
        let mut wrong = None;
        let mut note = |error: String| wrong = Some(error);
        match kind {
            Kind::LlmInferenceServiceConfig => {
                let read = read(value, ServiceConfig::from_document);
                match read.and_then(|config| is_named(name, &config.metadata).map(|()| config)) {
                    Ok(config) => drop(self.configs.insert(name.clone(), config)),
                    Err(error) => {
                        self.configs.remove(name);
                        note(error);
                    }
                }
            }
            Kind::LeaderWorkerSet => {
                let read = read(value, LeaderWorkerSet::from_document);
                match read.and_then(|set| is_named(name, &set.metadata).map(|()| set)) {
                    Ok(set) => drop(self.sets.insert(name.clone(), set)),
                    Err(error) => {
                        self.sets.remove(name);
                        note(error);
                    }
                }
            }
            _ => {
                let read = read(value, ServiceSpec::from_document);
                let read = read.and_then(|spec| is_named(name, &spec.metadata).map(|()| spec));
                let declared = read.map_err(|message| {
                    let generation = Declared::of(value).map_or(0, |declared| declared.generation);
                    Problem { generation, reason: INVALID, message }
                });
                let before = self.services.remove(name);
                let prefills = before.as_ref().is_some_and(|before| before.prefills);
                let told = before.and_then(|before| before.told);
                let service = Service { declared, uses: BTreeSet::new(), told, prefills };
                self.services.insert(name.clone(), service);
            }
        }
        (self.follow(kind, name), wrong)
    }

    /// An object of one of [`KINDS`] is not there any more.
    pub(super) fn gone(&mut self, kind: Kind, name: &ServiceName) -> Vec<ControllerEvent> {
        match kind {
            Kind::LlmInferenceServiceConfig => drop(self.configs.remove(name)),
            Kind::LeaderWorkerSet => drop(self.sets.remove(name)),
            _ => {
                let service = self.services.remove(name);
                let Some(service) = service.filter(|service| service.told.is_some()) else {
                    return Vec::new();
                };
                let other = service.prefills.then(|| name.prefill());
                let names = [name.clone()].into_iter().chain(other);
                return names.map(ControllerEvent::Undeclared).collect();
            }
        }
        self.follow(kind, name)
    }

    /// The store has told all that it holds.
    pub(super) fn complete(&mut self) -> Vec<ControllerEvent> {
        self.complete = true;
        let all: Vec<_> = self.services.keys().cloned().collect();
        all.iter().flat_map(|name| self.tell(name)).collect()
    }

    /// The services that an object matters to, as they are now.
    fn follow(&mut self, kind: Kind, name: &ServiceName) -> Vec<ControllerEvent> {
        if !self.complete {
            return Vec::new();
        }
        let services: Vec<ServiceName> = match kind {
            Kind::LlmInferenceServiceConfig => {
                let uses = self.services.iter().filter(|(_, service)| service.uses.contains(name));
                uses.map(|(service, _)| service.clone()).collect()
            }
            _ => vec![name.clone()],
        };
        services.iter().flat_map(|service| self.tell(service)).collect()
    }

    /// What the planner is to know of a service, if it does not know it already.
    fn tell(&mut self, name: &ServiceName) -> Vec<ControllerEvent> {
        let uses = RefCell::new(BTreeSet::new());
        let Some(service) = self.services.get_mut(name) else { return Vec::new() };
        let find = |namespace: &str, config: &str| {
            let config = ServiceName::new(namespace, config);
            let found = self.configs.get(&config).cloned();
            uses.borrow_mut().insert(config);
            found
        };
        let now = match &service.declared {
            Err(problem) => Err(problem.clone()),
            Ok(spec) => Desired::whole(spec, self.sets.get(name), find),
        };
        service.uses = uses.into_inner();
        if service.told.as_ref() == Some(&now) {
            return Vec::new();
        }
        service.told = Some(now.clone());
        match now {
            Ok(sides) => {
                let had = std::mem::replace(&mut service.prefills, sides.len() > 1);
                let gone = (had && !service.prefills).then(|| name.prefill());
                let sides = sides.into_iter().map(ControllerEvent::Declared);
                sides.chain(gone.map(ControllerEvent::Undeclared)).collect()
            }
            // What its other side runs stays as it is meanwhile.
            Err(problem) => vec![ControllerEvent::Senseless(name.clone(), problem)],
        }
    }
}

fn read<T, W>(
    value: &[u8],
    from: impl Fn(Value) -> Result<(T, W), SpecError>,
) -> Result<T, String> {
    let document: Value = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    from(document).map(|(object, _)| object).map_err(|error| error.to_string())
}

/// An object says who it is, and so does its key.
fn is_named(name: &ServiceName, metadata: &Metadata) -> Result<(), String> {
    let own = ServiceName::new(&metadata.namespace, &metadata.name);
    match own == *name {
        true => Ok(()),
        false => Err(format!("it is stored as {name} and says that it is {own}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(kind: Kind, name: &str, spec: Value) -> Vec<u8> {
        let document = json!({
            "apiVersion": kind.api_versions()[0],
            "kind": kind.name(),
            "metadata": {"name": name, "namespace": "default"},
            "spec": spec,
        });
        document.to_string().into_bytes()
    }

    fn told(events: &[ControllerEvent]) -> Vec<String> {
        let told = |event: &ControllerEvent| match event {
            ControllerEvent::Declared(desired) => {
                format!("{} tp {}", desired.name, desired.launch.tensor_parallel)
            }
            ControllerEvent::Senseless(name, problem) => format!("{name} {}", problem.reason),
            ControllerEvent::Undeclared(name) => format!("{name} gone"),
            other => panic!("{other:?}"),
        };
        events.iter().map(told).collect()
    }

    /// Two services that start from `base`, and one that does not, as a store tells them.
    fn stored() -> Declarations {
        let mut declarations = Declarations::default();
        for (name, refs) in [("a", &["base"][..]), ("b", &["base"]), ("c", &[])] {
            let refs: Vec<Value> = refs.iter().map(|name| json!({ "name": name })).collect();
            let spec = json!({"model": {"uri": "file:///m"}, "baseRefs": refs});
            let value = object(Kind::LlmInferenceService, name, spec);
            let name = ServiceName::new("default", name);
            let (events, wrong) = declarations.put(Kind::LlmInferenceService, &name, &value);
            assert_eq!((told(&events), wrong), (vec![], None), "the store may tell more");
        }
        declarations
    }

    fn base(tensor: u32) -> Vec<u8> {
        let spec = json!({"parallelism": {"tensor": tensor}});
        object(Kind::LlmInferenceServiceConfig, "base", spec)
    }

    const CONFIG: Kind = Kind::LlmInferenceServiceConfig;

    #[test]
    fn what_the_store_tells_last_is_no_problem_before() {
        let mut declarations = stored();
        let name = ServiceName::new("default", "base");
        assert!(declarations.put(CONFIG, &name, &base(2)).0.is_empty());
        let all = told(&declarations.complete());
        assert_eq!(all, ["default/a tp 2", "default/b tp 2", "default/c tp 1"]);
        assert!(declarations.complete().is_empty(), "nothing is said twice");
    }

    #[test]
    fn a_configuration_matters_to_those_that_looked_for_it() {
        let mut declarations = stored();
        let all = told(&declarations.complete());
        let missing = "ConfigNotFound";
        assert_eq!(
            all,
            [
                format!("default/a {missing}"),
                format!("default/b {missing}"),
                "default/c tp 1".to_owned(),
            ]
        );
        let name = ServiceName::new("default", "base");
        let (events, _) = declarations.put(CONFIG, &name, &base(2));
        assert_eq!(told(&events), ["default/a tp 2", "default/b tp 2"]);
        assert!(declarations.put(CONFIG, &name, &base(2)).0.is_empty(), "as it was");
        // Somebody else's of that name, and the system's, which is looked for second.
        let others = ServiceName::new("other", "base");
        assert!(declarations.put(CONFIG, &others, &base(4)).0.is_empty());
        let gone = told(&declarations.gone(CONFIG, &name));
        assert_eq!(gone, [format!("default/a {missing}"), format!("default/b {missing}")]);
    }

    #[test]
    fn a_side_that_prefills_comes_and_goes_with_its_service() {
        let mut declarations = Declarations::default();
        declarations.complete();
        let name = ServiceName::new("default", "s");
        let mut put = |spec| {
            let value = object(Kind::LlmInferenceService, "s", spec);
            told(&declarations.put(Kind::LlmInferenceService, &name, &value).0)
        };
        let model = json!({"uri": "file:///m"});
        let apart = json!({"model": model, "prefill": {"parallelism": {"tensor": 2}}});
        let together = json!({"model": model});
        assert_eq!(put(apart.clone()), ["default/s tp 1", "default/s.prefill tp 2"]);
        assert_eq!(put(together), ["default/s tp 1", "default/s.prefill gone"]);
        assert_eq!(put(apart), ["default/s tp 1", "default/s.prefill tp 2"]);
        // What it runs stays while nobody can say what it is to be.
        assert_eq!(put(json!({"model": {}})), ["default/s InvalidSpec"]);
        let gone = told(&declarations.gone(Kind::LlmInferenceService, &name));
        assert_eq!(gone, ["default/s gone", "default/s.prefill gone"]);
    }

    #[test]
    fn what_is_stored_under_another_name_is_left_out_and_said() {
        let mut declarations = stored();
        declarations.complete();
        let other = ServiceName::new("default", "basis");
        let (events, wrong) = declarations.put(CONFIG, &other, &base(2));
        assert!(events.is_empty());
        let wrong = wrong.expect("a problem");
        assert_eq!(wrong, "it is stored as default/basis and says that it is default/base");
        let (_, wrong) = declarations.put(CONFIG, &other, b"{");
        assert!(wrong.is_some());
    }
}
