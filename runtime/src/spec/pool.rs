//! `InferencePool`: endpoints that a gateway chooses between, picked out by labels.
//!
//! Both versions are read: v1 has `selector.matchLabels`, `targetPorts` and `endpointPickerRef`,
//! v1alpha2 has `selector`, `targetPortNumber` and `extensionRef`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Finding, SpecError,
    finding::Findings,
    kind::Kind,
    metadata::{self, Metadata},
    reader::Fields,
};

/// A pool.
#[derive(Clone, Debug, PartialEq)]
pub struct InferencePool {
    /// As it was written, for storing and showing.
    pub document: Value,
    /// Who and what it is.
    pub metadata: Metadata,
    /// What it says.
    pub spec: PoolSpec,
}

/// What a pool says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolSpec {
    /// Labels that a service must have to be in it.
    pub selector: BTreeMap<String, String>,
    /// Ports of each endpoint, of which every one is an endpoint of its own.
    pub target_ports: Vec<u16>,
    /// Whether requests go on when nothing can choose for them.
    pub failure_mode: FailureMode,
}

/// What happens to requests when nothing can choose for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureMode {
    /// They are refused.
    #[default]
    FailClose,
    /// They go anywhere.
    FailOpen,
}

impl InferencePool {
    /// Reads one document.
    ///
    /// # Errors
    /// [`SpecError::Invalid`], with every problem.
    pub fn from_document(document: Value) -> Result<(Self, Vec<Finding>), SpecError> {
        let findings = Findings::default();
        let pool = read(document, &findings);
        findings.result(pool)
    }

    /// Whether a service of these labels is in it.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let PoolSpec { selector, .. } = &self.spec;
        !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// `None` only together with a problem.
pub(super) fn read(document: Value, findings: &Findings) -> Option<InferencePool> {
    let (metadata, spec) = {
        let top = Fields::of(&document, String::new(), findings)?;
        let head = metadata::head(&document, &top, Kind::InferencePool, findings);
        if top.value("spec").is_none() {
            top.problem("spec", "is required");
        }
        let spec = pool_spec(&top.object("spec")?);
        if spec.selector.is_empty() {
            findings.problem("spec.selector", "must have at least one label");
        }
        if spec.target_ports.is_empty() {
            findings.problem("spec.targetPorts", "must have at least one port");
        }
        (head?.1, spec)
    };
    Some(InferencePool { document, metadata, spec })
}

/// `spec` of a pool, also where a service has it inside `router.scheduler.pool`, in which what is
/// missing is filled in.
pub(super) fn pool_spec(spec: &Fields<'_>) -> PoolSpec {
    let selector = match spec.value("selector") {
        Some(Value::Object(selector)) if selector.get("matchLabels").is_some_and(is_object) => {
            spec.object("selector").map(|selector| selector.texts("matchLabels"))
        }
        _ => Some(spec.texts("selector")),
    };
    let ports = spec.objects("targetPorts");
    let ports: Vec<u32> =
        ports.iter().filter_map(|port| port.count_within("number", PORTS)).collect();
    if ports.len() > MAX_PORTS {
        spec.problem("targetPorts", format!("must be at most {MAX_PORTS}, are {}", ports.len()));
    }
    let older = spec.count_within("targetPortNumber", PORTS);
    if older.is_some() && !ports.is_empty() {
        spec.problem("targetPortNumber", "must not be given together with targetPorts");
    }
    let ports = ports.into_iter().chain(older);
    let target_ports: Vec<u16> = ports.filter_map(|port| u16::try_from(port).ok()).collect();
    let mut distinct = target_ports.clone();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() < target_ports.len() {
        spec.problem("targetPorts", "must not name a port twice");
    }
    let protocols = [("http", ()), ("kubernetes.io/h2c", ())];
    let _ = spec.one_of("appProtocol", &protocols);
    spec.without_effect(&["appProtocol"], ": endpoints are reached over the cluster's own wire");
    let mut failure_mode = FailureMode::default();
    for key in ["endpointPickerRef", "extensionRef"] {
        if let Some(picker) = spec.object(key) {
            let words =
                [("FailClose", FailureMode::FailClose), ("FailOpen", FailureMode::FailOpen)];
            failure_mode = picker.one_of("failureMode", &words).unwrap_or(failure_mode);
            spec.warn(key, "names no one to ask: gateways choose endpoints themselves");
            picker.opaque();
        }
    }
    PoolSpec { selector: selector.unwrap_or_default(), target_ports, failure_mode }
}

fn is_object(value: &Value) -> bool {
    value.is_object()
}

/// Numbers of ports.
pub(super) const PORTS: (u32, u32) = (1, 65_535);
/// The most ports of an endpoint, as the API has it.
const MAX_PORTS: usize = 8;
