//! What names foreign endpoints: a file, and pools.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use axum::http::{
    HeaderValue, Uri,
    uri::{self, Authority, PathAndQuery, Scheme},
};
use serde::Deserialize;
use serde_json::Value;
use troupe_runtime::spec::{InferencePool, pool::POOL_ENDPOINTS};

use super::tls::Tls;

/// One foreign endpoint, as it is configured.
#[derive(Clone, PartialEq, Eq)]
pub struct ForeignEndpoint {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) authority: Authority,
    /// What its API is under, without a slash at the end; empty for the root.
    pub(crate) base: String,
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) labels: BTreeMap<String, String>,
    /// How TLS is spoken to it, if it is.
    pub(crate) tls: Option<Tls>,
}

/// The file, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    endpoints: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    name: String,
    #[serde(default = "default_namespace")]
    namespace: String,
    url: String,
    #[serde(default)]
    api_key: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    insecure_skip_verify: bool,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// More than anybody puts behind one gateway.
const MOST: usize = 10_000;

// === impl ForeignEndpoint ===

impl ForeignEndpoint {
    /// Reads what an endpoints file holds.
    ///
    /// # Errors
    /// The field that is wrong, and what would be right.
    pub fn read(file: Value) -> Result<Vec<Self>, String> {
        let file: File = serde_path_to_error::deserialize(file)
            .map_err(|error| format!("{}: {}", error.path(), error.inner()))?;
        if file.endpoints.len() > MOST {
            return Err(format!("endpoints: at most {MOST}, there are {}", file.endpoints.len()));
        }
        let mut known = BTreeMap::new();
        let endpoints = file.endpoints.into_iter().enumerate().map(|(at, written)| {
            let endpoint = Self::new(written)
                .map_err(|(field, why)| format!("endpoints[{at}].{field}: {why}"))?;
            let id = (endpoint.namespace.clone(), endpoint.name.clone());
            match known.insert(id, at) {
                None => Ok(endpoint),
                Some(first) => Err(format!(
                    "endpoints[{at}].name: {} is endpoints[{first}] already",
                    endpoint.name
                )),
            }
        });
        endpoints.collect()
    }

    /// Those that a pool names: they have the labels that it selects by, as pods would that it had
    /// selected. No service's name has a dot, so theirs are nobody else's.
    ///
    /// # Errors
    /// The one that is wrong, and what would be right.
    pub(crate) fn of_pool(pool: &InferencePool) -> Result<Vec<Self>, String> {
        let written = pool.endpoints.iter().enumerate().map(|(at, url)| Written {
            name: format!("{}.{at}", pool.metadata.name),
            namespace: pool.metadata.namespace.clone(),
            url: url.clone(),
            api_key: None,
            labels: pool.spec.selector.clone(),
            ca_file: None,
            insecure_skip_verify: false,
        });
        let endpoints = written.map(|written| {
            let url = written.url.clone();
            Self::new(written).map_err(|(_, why)| format!("{POOL_ENDPOINTS}: {url}: {why}"))
        });
        endpoints.collect()
    }

    fn new(written: Written) -> Result<Self, (&'static str, String)> {
        let Written { name, namespace, url, api_key, labels, ca_file, insecure_skip_verify } =
            written;
        for (field, value) in [("name", &name), ("namespace", &namespace)] {
            if value.is_empty() || value.len() > 253 || value.contains(['/', ' ']) {
                let why = "must have 1 to 253 bytes without / and spaces";
                return Err((field, format!("{why}, got {value:?}")));
            }
        }
        let right = "must be as http://10.0.0.5:8000 or https://host";
        let uri: Uri = url.parse().map_err(|_| ("url", format!("{right}, got {url}")))?;
        let tls = match uri.scheme_str() {
            Some("http") if ca_file.is_some() || insecure_skip_verify => {
                return Err(("url", "must begin with https:// where TLS is configured".to_owned()));
            }
            Some("http") => None,
            Some("https") => Some(Tls::new(ca_file.as_deref(), insecure_skip_verify)?),
            _ => return Err(("url", format!("{right}, got {url}"))),
        };
        let Some(authority) = uri.authority().cloned() else {
            return Err(("url", format!("{right}, got {url}")));
        };
        let base = uri.path().trim_end_matches('/');
        // The part that our own paths begin with.
        let base = base.strip_suffix("/v1").unwrap_or(base).to_owned();
        let authorization = api_key.map(|key| {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                .map_err(|_| ("apiKey", "must be visible ASCII".to_owned()))?;
            value.set_sensitive(true);
            Ok(value)
        });
        let authorization = authorization.transpose()?;
        Ok(Self { name, namespace, authority, base, authorization, labels, tls })
    }

    /// Where connections to it lead.
    pub(super) fn root(&self) -> Uri {
        let scheme = if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let mut parts = uri::Parts::default();
        parts.scheme = Some(scheme);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        // All three parts are there.
        Uri::from_parts(parts).expect("a whole address")
    }

    /// What requests there name as their host: with the port, where that is not the usual one.
    pub(super) fn host(&self) -> HeaderValue {
        let usual = if self.tls.is_some() { 443 } else { 80 };
        let port = self.authority.port_u16().filter(|port| *port != usual);
        let host = self.authority.host();
        let host = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        // An authority has nothing that a header may not have.
        HeaderValue::try_from(host).expect("the host of an address")
    }

    /// A path of ours, as it is there.
    pub(super) fn path(&self, path: &str) -> Option<Uri> {
        let path = match &*self.base {
            "" => path.parse(),
            base => PathAndQuery::try_from(format!("{base}{path}")),
        };
        path.ok().map(Uri::from)
    }
}

/// Keys are secrets and stay out.
impl fmt::Debug for ForeignEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} at {}", self.namespace, self.name, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_are_under_what_the_url_says() {
        let file = json!({"endpoints": [
            {"name": "a", "url": "http://10.0.0.5:8000"},
            {"name": "b", "url": "http://h/llm/v1/", "namespace": "n", "apiKey": "k"},
        ]});
        let read = ForeignEndpoint::read(file).expect("a good file");
        let there = |at: usize| {
            let path = read[at].path("/v1/models").expect("a path");
            let host = read[at].host();
            (read[at].root().to_string(), path.to_string(), host.to_str().map(str::to_owned).ok())
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            there(0),
            ("http://10.0.0.5:8000/".into(), "/v1/models".into(), text("10.0.0.5:8000"))
        );
        assert_eq!(there(1), ("http://h/".into(), "/llm/v1/models".into(), text("h")));
        assert!(!format!("{read:?}").contains("Bearer"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let one = |endpoint: Value| json!({"endpoints": [endpoint]});
        let cases = [
            (json!({}), "missing field `endpoints`"),
            (one(json!({"name": "a"})), "endpoints[0]: missing field `url`"),
            (one(json!({"name": "a", "url": "10.0.0.5:8000"})), "endpoints[0].url: must be as"),
            (one(json!({"name": "a", "url": "ftp://h"})), "endpoints[0].url: must be as"),
            (
                one(json!({"name": "a", "url": "http://h", "insecureSkipVerify": true})),
                "endpoints[0].url: must begin with https://",
            ),
            (
                one(json!({"name": "a", "url": "https://h", "caFile": "/nowhere.pem"})),
                "endpoints[0].caFile: /nowhere.pem: ",
            ),
            (one(json!({"name": "a/b", "url": "http://h"})), "endpoints[0].name: must have"),
            (one(json!({"name": "a", "url": "http://h", "port": 1})), "unknown field `port`"),
            (
                json!({"endpoints": [
                    {"name": "a", "url": "http://h"}, {"name": "a", "url": "http://i"},
                ]}),
                "endpoints[1].name: a is endpoints[0] already",
            ),
        ];
        for (file, wanted) in cases {
            let error = ForeignEndpoint::read(file).expect_err("it is wrong");
            assert!(error.contains(wanted), "{error}");
        }
    }
}
