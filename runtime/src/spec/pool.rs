//! `InferencePool`: endpoints that a gateway chooses between, picked out by labels.
//!
//! Both versions are read: v1 has `selector.matchLabels`, `targetPorts` and `endpointPickerRef`,
//! v1alpha2 has `selector`, `targetPortNumber` and `extensionRef`.
//!
//! In Kubernetes the selector finds pods, and with them addresses. Here it finds services of this
//! cluster; other servers are named by the pool itself, in an annotation: that is what every API
//! server and `kubectl` keep, where a field of ours would be dropped.

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
    /// Servers of OpenAI's API that are in it, though no service is: their URLs.
    pub endpoints: Vec<String>,
}

/// Servers that a pool names: `10.0.0.5, 10.0.0.6:8001, https://llm.example/v1`. One without a
/// port is an endpoint at each of the pool's.
pub const POOL_ENDPOINTS: &str = "troupe.dev/endpoints";

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
    let named = metadata.annotations.get(POOL_ENDPOINTS).map_or("", String::as_str);
    let endpoints = match endpoints(named, &spec.target_ports) {
        Ok(endpoints) => endpoints,
        Err(why) => {
            let path = format!("metadata.annotations[{POOL_ENDPOINTS}]");
            findings.problem(&path, why);
            return None;
        }
    };
    Some(InferencePool { document, metadata, spec, endpoints })
}

/// The URLs of servers, between commas or spaces.
fn endpoints(named: &str, ports: &[u16]) -> Result<Vec<String>, String> {
    let words = named.split([',', ' ', '\n', '\t']).filter(|word| !word.is_empty());
    let mut urls = Vec::new();
    for word in words {
        if let Some((scheme, rest)) = word.split_once("://") {
            if !matches!(scheme, "http" | "https") || rest.is_empty() {
                return Err(format!("{ENDPOINT_FORMS}, got {word}"));
            }
            urls.push(word.to_owned());
        } else if let Some((host, port)) = with_port(word) {
            if host.is_empty() || port.parse::<u16>().is_err() {
                return Err(format!("{ENDPOINT_FORMS}, got {word}"));
            }
            urls.push(format!("http://{word}"));
        } else if word.contains('/') {
            return Err(format!("{ENDPOINT_FORMS}, got {word}"));
        } else {
            urls.extend(ports.iter().map(|port| format!("http://{word}:{port}")));
        }
    }
    if urls.len() > MAX_ENDPOINTS {
        return Err(format!("must be at most {MAX_ENDPOINTS} endpoints, are {}", urls.len()));
    }
    Ok(urls)
}

/// `host:port`; IPv6 addresses stand in brackets.
fn with_port(word: &str) -> Option<(&str, &str)> {
    let after_address = word.rfind(']').map_or(0, |end| end + 1);
    let colon = after_address + word[after_address..].find(':')?;
    Some((&word[..colon], &word[colon + 1..]))
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

/// What one of them looks like.
const ENDPOINT_FORMS: &str = "must be as 10.0.0.5, host:8000 or https://host/path";
/// More than anybody puts into one pool.
const MAX_ENDPOINTS: usize = 1000;
/// Numbers of ports.
pub(super) const PORTS: (u32, u32) = (1, 65_535);
/// The most ports of an endpoint, as the API has it.
const MAX_PORTS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_with_the_pools_ports_where_they_have_none() {
        let read = |named: &str| endpoints(named, &[8000, 8001]);
        assert_eq!(read(""), Ok(vec![]));
        let urls = ["http://10.0.0.5:8000", "http://10.0.0.5:8001", "http://h:9", "https://x/v1"];
        assert_eq!(read("10.0.0.5,h:9\n https://x/v1"), Ok(urls.map(str::to_owned).to_vec()));
        let urls = ["http://[::1]:8000", "http://[::1]:8001", "http://[::1]:9"];
        assert_eq!(read("[::1], [::1]:9"), Ok(urls.map(str::to_owned).to_vec()));
        for bad in ["ftp://h", "http://", "h:x", ":80", "fd00::1", "h/path"] {
            let why = read(bad).expect_err(bad);
            assert!(why.starts_with(ENDPOINT_FORMS) && why.ends_with(bad), "{why}");
        }
        let many: Vec<String> = (0..501).map(|at| format!("h{at}")).collect();
        assert!(read(&many.join(",")).is_err_and(|why| why.contains("are 1002")));
    }
}
