//! The ready endpoints by the names that they serve, so that a decision looks at nobody else; and
//! what places the requests for each name.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use troupe_runtime::{id::Digest, wire::status::Fingerprint};

use super::{
    Query, defaults,
    directory::Table,
    endpoint::{Endpoint, Known},
    handler::Placer,
};

/// Read for every request, written when an endpoint comes or goes.
#[derive(Debug)]
pub(crate) struct Pools {
    by_name: RwLock<BTreeMap<String, Pool>>,
    placers: RwLock<Placers>,
}

/// Those that serve one name.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    /// In the order of their ids.
    pub(crate) members: Arc<[Arc<Endpoint>]>,
    /// What is the same for many of them, found out when they come and not for each request.
    common: Arc<Common>,
    pub(crate) placer: Arc<Placer>,
}

#[derive(Debug)]
struct Common {
    /// The tokenizer of all of them, if it is one.
    tokenizer: Option<Digest>,
    /// The ways in which they execute.
    fingerprints: Vec<Fingerprint>,
    /// For each of them, which of those it is.
    kinds: Vec<u32>,
    /// What a decision has of each of them at hand. They are members for as long as this is used.
    known: Vec<Known>,
}

/// What places requests.
#[derive(Debug)]
struct Placers {
    /// Where a service does not say.
    otherwise: Arc<Placer>,
    /// As services say, by namespace and name.
    services: BTreeMap<(String, String), Arc<Placer>>,
}

// === impl Pools ===

impl Pools {
    /// Of nobody, placed so where a service does not say how; by default as llm-d does.
    pub(crate) fn new(otherwise: Option<Arc<Placer>>) -> Self {
        let otherwise = otherwise.unwrap_or_else(|| Arc::new(defaults::placer()));
        let placers = Placers { otherwise, services: BTreeMap::new() };
        Self { by_name: RwLock::default(), placers: RwLock::new(placers) }
    }

    /// What places requests where no service says how.
    pub(crate) fn otherwise(&self) -> Arc<Placer> {
        let placers = self.placers.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&placers.otherwise)
    }

    /// Who serves a name.
    pub(crate) fn of(&self, name: &str) -> Option<Pool> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Takes over who is ready.
    pub(crate) fn follow(&self, table: &Table) {
        let mut members: BTreeMap<String, Vec<Arc<Endpoint>>> = BTreeMap::new();
        for endpoint in table.values() {
            for name in endpoint.names() {
                members.entry(name).or_default().push(Arc::clone(endpoint));
            }
        }
        let placers = self.placers.read().unwrap_or_else(PoisonError::into_inner);
        let pools = members.into_iter().map(|(name, members)| {
            let placer = placers.of(&members);
            let common = Arc::new(Common::of(&members));
            (name, Pool { members: members.into(), common, placer })
        });
        *self.by_name.write().unwrap_or_else(PoisonError::into_inner) = pools.collect();
    }

    /// How services say that their requests are placed, by namespace and name.
    pub(crate) fn configure(&self, services: BTreeMap<(String, String), Arc<Placer>>) {
        self.placers.write().unwrap_or_else(PoisonError::into_inner).services = services;
    }
}

// === impl Pool ===

impl Pool {
    /// Those that can answer a request, by their places among the members.
    pub(crate) fn rows(&self, query: &Query<'_>) -> Vec<u32> {
        let all = 0..self.members.len() as u32;
        let adapter = query.hints.adapter.as_ref();
        let fits = |member: &u32| {
            let endpoint = &self.members[*member as usize];
            let info = &endpoint.info;
            // During a rolling update one name may have two tokenizers.
            info.fingerprint.tokenizer == query.tokenizer
                && query.goes_on.is_none_or(|goes_on| goes_on.at(&info.fingerprint))
                && !query.exclude.contains(&info.endpoint)
                // One name may stand for other files there.
                && adapter.is_none_or(|own| endpoint.adapter(&own.name).as_ref() == Some(own))
                && query.scope.is_none_or(|scope| scope.has(&info.endpoint.group))
        };
        // A first try of a request that goes anywhere need not look at each of them.
        let plain = self.common.tokenizer == Some(query.tokenizer)
            && query.goes_on.is_none()
            && query.exclude.is_empty()
            && adapter.is_none()
            && query.scope.is_none();
        let mut rows: Vec<u32> = if plain { all.collect() } else { all.filter(fits).collect() };
        // Who keeps failing is only taken if there is nobody else.
        let now = query.now_micros();
        let anybody = self.common.known.first().is_some_and(|one| one.line.anybody_rests(now));
        let rests = |row: &u32| self.known(*row).line.rests(now);
        if anybody && !rows.iter().all(rests) {
            rows.retain(|row| !rests(row));
        }
        rows
    }

    /// What a decision has of a member at hand.
    pub(super) fn known(&self, member: u32) -> &Known {
        &self.common.known[member as usize]
    }

    /// The ways in which members execute.
    pub(crate) fn fingerprints(&self) -> &[Fingerprint] {
        &self.common.fingerprints
    }

    /// Which of those is the way of a member.
    pub(crate) fn kind(&self, member: u32) -> usize {
        self.common.kinds[member as usize] as usize
    }
}

impl Common {
    fn of(members: &[Arc<Endpoint>]) -> Self {
        let mut fingerprints: Vec<Fingerprint> = Vec::new();
        let kind = |endpoint: &Arc<Endpoint>| {
            let own = &endpoint.info.fingerprint;
            let known = fingerprints.iter().position(|known| known == own);
            known.unwrap_or_else(|| {
                fingerprints.push(own.clone());
                fingerprints.len() - 1
            }) as u32
        };
        let kinds = members.iter().map(kind).collect();
        let mut tokenizers = fingerprints.iter().map(|fingerprint| fingerprint.tokenizer);
        let first = tokenizers.next();
        let tokenizer = first.filter(|first| tokenizers.all(|other| other == *first));
        let known = members.iter().map(|member| member.known().clone()).collect();
        Self { tokenizer, fingerprints, kinds, known }
    }
}

impl Placers {
    /// A name that several services serve is placed as the first of them says that says it.
    fn of(&self, members: &[Arc<Endpoint>]) -> Arc<Placer> {
        if self.services.is_empty() {
            return Arc::clone(&self.otherwise);
        }
        let said = members.iter().find_map(|endpoint| {
            let group = &endpoint.info.endpoint.group;
            self.services.get(&(group.namespace.clone(), group.service.clone()))
        });
        Arc::clone(said.unwrap_or(&self.otherwise))
    }
}
