//! `HTTPRoute`: which requests go to which pools, in which shares.
//!
//! Read are matches by path, header, query and method, weights, and the filter that rewrites the
//! path or host; any other filter is taken with a warning.

use std::time::Duration;

use serde_json::Value;

use super::{
    Finding, SpecError,
    finding::Findings,
    kind::Kind,
    metadata::{self, Metadata},
    objective::MAX_WEIGHT,
    quantity::duration,
    reader::Fields,
};

mod rules;

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    /// As it was written, for storing and showing.
    pub document: Value,
    /// Who and what it is.
    pub metadata: Metadata,
    /// What it says.
    pub spec: RouteSpec,
}

/// What a route says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteSpec {
    /// Gateways that take it, as `namespace/name`; the namespace is the route's own if not given.
    pub parents: Vec<ObjectRef>,
    /// Host names that it is for, perhaps with `*.` before them; none is any.
    pub hostnames: Vec<String>,
    /// The first that matches, of those that are equally specific, counts.
    pub rules: Vec<RouteRule>,
}

/// Another object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectRef {
    /// Its namespace, if it is not the same.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Which part of it.
    pub section: Option<String>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteRule {
    /// For requests that meet one of these; none is every request.
    pub matches: Vec<RouteMatch>,
    /// What is done to them.
    pub rewrite: Option<Rewrite>,
    /// Where they go.
    pub backends: Vec<Backend>,
    /// How long a request may take in all; `None` or zero is as long as the gateway allows.
    pub timeout: Option<Duration>,
}

/// What a request must be; all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// Its path; `/` as a prefix if not given.
    pub path: PathMatch,
    /// Its headers.
    pub headers: Vec<ValueMatch>,
    /// Its query parameters.
    pub query: Vec<ValueMatch>,
    /// Its method.
    pub method: Option<String>,
}

/// How a path is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// It is this.
    Exact(String),
    /// It begins with these elements.
    Prefix(String),
    /// This regular expression matches it.
    Regex(String),
}

/// How a header or query parameter is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueMatch {
    /// Its name.
    pub name: String,
    /// Its value, or a regular expression.
    pub value: String,
    /// Whether it is one.
    pub regex: bool,
}

/// What becomes of a request's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathRewrite>,
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// All of it is this.
    Full(String),
    /// The prefix that matched becomes this.
    Prefix(String),
}

/// Where requests go, and how many of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// What it is.
    pub kind: BackendKind,
    /// Its namespace, if it is not the route's.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its share, relative to the others; 0 gets nothing.
    pub weight: u32,
}

/// What requests can go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// A pool.
    InferencePool,
    /// A service, directly.
    LlmInferenceService,
    /// Something that only Kubernetes has: requests to it fail.
    Other,
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

impl HttpRoute {
    /// Reads one document.
    ///
    /// # Errors
    /// [`SpecError::Invalid`], with every problem.
    pub fn from_document(document: Value) -> Result<(Self, Vec<Finding>), SpecError> {
        let findings = Findings::default();
        let route = read(document, &findings);
        findings.result(route)
    }
}

/// `None` only together with a problem.
pub(super) fn read(document: Value, findings: &Findings) -> Option<HttpRoute> {
    let (metadata, spec) = {
        let top = Fields::of(&document, String::new(), findings)?;
        let head = metadata::head(&document, &top, Kind::HttpRoute, findings);
        if top.value("spec").is_none() {
            top.problem("spec", "is required");
        }
        let spec = route_spec(&top.object("spec")?);
        (head?.1, spec)
    };
    Some(HttpRoute { document, metadata, spec })
}

/// `spec` of a route, also where a service has it inside `router.route.http`.
pub(super) fn route_spec(spec: &Fields<'_>) -> RouteSpec {
    let parents = spec.objects("parentRefs");
    let rules = spec.objects("rules");
    RouteSpec {
        parents: parents.iter().filter_map(object_ref).collect(),
        hostnames: spec.text_list("hostnames"),
        rules: rules.iter().map(rules::rule).collect(),
    }
}

/// A reference to a gateway, an ingress or the like.
pub(super) fn object_ref(fields: &Fields<'_>) -> Option<ObjectRef> {
    for theirs in ["group", "kind", "port"] {
        let _ = fields.value(theirs);
    }
    Some(ObjectRef {
        namespace: fields.text("namespace").map(str::to_owned),
        section: fields.text("sectionName").map(str::to_owned),
        name: fields.required_text("name")?.to_owned(),
    })
}
