//! `router`: how a service is reached, and how its requests are placed.

use serde_json::Value;

use crate::spec::{
    pool::{self, PoolSpec},
    reader::Fields,
    route::{self, ObjectRef, RouteSpec},
};

/// How a service is reached. Gateways serve every service, so most of it is only a wish about paths
/// and shares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Router {
    /// Paths and shares.
    pub route: Option<ServiceRoute>,
    /// Gateways of Kubernetes, kept as they are.
    pub gateways: Vec<ObjectRef>,
    /// How requests are placed; `None` if it is not said, an empty one is the default way.
    pub scheduler: Option<Scheduler>,
}

/// Paths and shares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRoute {
    /// Names of routes that are declared apart.
    pub refs: Vec<String>,
    /// The route.
    pub spec: Option<RouteSpec>,
    /// Services of one group share the requests for their model.
    pub group: Option<String>,
    /// This one's share, relative to the others of its group.
    pub weight: Option<u32>,
}

/// How requests are placed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scheduler {
    /// The pool that the service's endpoints are in.
    pub pool: Option<PoolSource>,
    /// Plug-ins and profiles: `EndpointPickerConfig`, as it is.
    pub config: Option<Value>,
}

/// A pool that is declared apart or here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolSource {
    /// Its name.
    Ref(String),
    /// What it says.
    Spec(PoolSpec),
}

/// `spec.router`; `whole` if nothing is added to it from elsewhere.
pub(super) fn router(fields: &Fields<'_>, whole: bool) -> Router {
    let route = fields.object("route").map(|route| service_route(&route, whole));
    let gateway = fields.object("gateway");
    let gateways = gateway.map(|gateway| {
        let refs = gateway.objects("refs");
        if !refs.is_empty() {
            gateway.warn("refs", "have no effect: every gateway serves every service");
        }
        refs.iter().filter_map(route::object_ref).collect::<Vec<_>>()
    });
    if let Some(route) = &route {
        check_parents(fields, route, gateways.as_deref());
    }
    if let Some(ingress) = fields.object("ingress") {
        if ingress.value("refs").is_some() {
            ingress.warn("refs", "have no effect outside Kubernetes");
        }
        for key in ["route", "gateway"] {
            if fields.value(key).is_some() {
                fields.problem("ingress", format!("must not be given together with {key}"));
            }
        }
    }
    Router {
        route,
        gateways: gateways.unwrap_or_default(),
        scheduler: fields.object("scheduler").map(|scheduler| read_scheduler(&scheduler)),
    }
}

fn service_route(fields: &Fields<'_>, whole: bool) -> ServiceRoute {
    let mut route = ServiceRoute {
        group: fields.text("group").map(str::to_owned),
        weight: fields.count("weight", 0),
        ..ServiceRoute::default()
    };
    if whole && route.group.is_some() != route.weight.is_some() {
        let (there, missing) =
            if route.group.is_some() { ("group", "weight") } else { ("weight", "group") };
        fields.problem(missing, format!("is required together with {there}"));
    }
    if let Some(http) = fields.object("http") {
        route.refs = names(&http, "refs");
        route.spec = http.object("spec").map(|spec| route::route_spec(&spec));
        if !route.refs.is_empty() && route.spec.is_some() {
            http.problem("refs", "must not be given together with spec");
        }
        if !route.refs.is_empty() && route.group.is_some() {
            http.problem("refs", "must not be given together with group: its routes are shared");
        }
    }
    route
}

/// KServe's rules between routes and gateways.
fn check_parents(fields: &Fields<'_>, route: &ServiceRoute, gateways: Option<&[ObjectRef]>) {
    if !route.refs.is_empty() && gateways.is_some_and(<[ObjectRef]>::is_empty) {
        let message = "must have refs when route.http.refs are given";
        fields.problem("gateway", message);
    }
    let (Some(spec), Some(gateways)) = (&route.spec, gateways.filter(|refs| !refs.is_empty()))
    else {
        return;
    };
    let same = gateways.len() == spec.parents.len()
        && gateways.iter().all(|gateway| spec.parents.contains(gateway));
    if !spec.parents.is_empty() && !same {
        let message = "must be those of route.http.spec.parentRefs, or one of the two left out";
        fields.problem("gateway.refs", message);
    }
}

fn read_scheduler(fields: &Fields<'_>) -> Scheduler {
    let theirs = ["replicas", "template", "tokenizer", "labels", "annotations"];
    if let Some(0) = fields.count("replicas", 0) {
        fields.problem("replicas", "must be at least 1, got 0");
    }
    fields.without_effect(&theirs, ": gateways place requests themselves");
    Scheduler {
        pool: fields.object("pool").and_then(|pool| pool_source(&pool)),
        config: fields.object("config").and_then(|config| scheduler_config(&config)),
    }
}

fn pool_source(fields: &Fields<'_>) -> Option<PoolSource> {
    let spec = fields.object("spec").map(|spec| PoolSource::Spec(pool::pool_spec(&spec)));
    let name = fields.object("ref").and_then(|pool| pool.required_text("name"));
    if spec.is_some() && name.is_some() {
        fields.problem("ref", "must not be given together with spec");
    }
    name.map(|name| PoolSource::Ref(name.to_owned())).or(spec)
}

fn scheduler_config(fields: &Fields<'_>) -> Option<Value> {
    if fields.value("ref").is_some() {
        if fields.value("inline").is_some() {
            fields.problem("ref", "must not be given together with inline");
        }
        let message = "has no effect: there are no ConfigMaps; write the same under inline";
        fields.warn("ref", message);
    } else if fields.value("inline").is_none() {
        fields.problem("inline", "is required");
    }
    let inline = fields.object("inline")?;
    let document = inline.document();
    if document.as_object().is_some_and(serde_json::Map::is_empty) {
        fields.problem("inline", "must not be empty");
    }
    inline.opaque();
    Some(document)
}

/// A list of `{name}`.
pub(super) fn names(fields: &Fields<'_>, key: &'static str) -> Vec<String> {
    let refs = fields.objects(key);
    refs.iter().filter_map(|one| one.required_text("name").map(str::to_owned)).collect()
}
