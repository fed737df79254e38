//! Who may ask: API keys, compared in constant time.
//!
//! With no key configured everything is open. With keys, everything is guarded but what probes and
//! scrapers need (vLLM leaves more open than that, such as its tokenizer and its pause switch).

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, header::AUTHORIZATION},
    middleware::Next,
    response::Response,
};
use troupe_runtime::id::Digest;

use crate::error;

/// Reachable without a key: what probes and scrapers ask, and what describes the API, because a
/// browser that opens a page has no key to show.
const OPEN_PATHS: [&str; 6] =
    ["/docs", "/health", "/metrics", "/openapi.json", "/ping", "/version"];
/// The files of the description's page.
const OPEN_FOLDER: &str = "/docs/";

/// The keys, kept as digests: comparing digests in constant time tells nothing of a key's length.
#[derive(Clone, Debug, Default)]
pub(crate) struct ApiKeys(Vec<Digest>);

impl ApiKeys {
    /// From the keys as configured; empty ones are no keys.
    pub(crate) fn new(keys: &[String]) -> Self {
        let keys = keys.iter().filter(|key| !key.is_empty());
        Self(keys.map(|key| Digest::of(key.as_bytes())).collect())
    }

    /// Whether the request may pass.
    pub(crate) fn allow(&self, method: &Method, path: &str, headers: &HeaderMap) -> bool {
        if self.0.is_empty() || method == Method::OPTIONS || is_open(path) {
            return true;
        }
        let Some(key) = bearer(headers) else { return false };
        let given = Digest::of(key);
        // Every key is looked at, so that the time does not tell which one was near.
        self.0.iter().fold(false, |found, known| found | equal(&given, known))
    }
}

/// Refuses what [`ApiKeys::allow`] does not let pass.
pub(crate) async fn guard(State(keys): State<ApiKeys>, request: Request, next: Next) -> Response {
    if keys.allow(request.method(), request.uri().path(), request.headers()) {
        return next.run(request).await;
    }
    error::unauthorized()
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
}

fn is_open(path: &str) -> bool {
    OPEN_PATHS.contains(&path) || path.starts_with(OPEN_FOLDER)
}

fn equal(left: &Digest, right: &Digest) -> bool {
    let difference = left.0.iter().zip(&right.0).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(keys: &[&str], path: &str, authorization: Option<&str>) -> bool {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value.parse().expect("a header"));
        }
        ApiKeys::new(&keys).allow(&Method::POST, path, &headers)
    }

    #[test]
    fn any_of_several_keys_opens() {
        let keys = ["one", "two"];
        assert!(allowed(&[], "/v1/models", None));
        assert!(allowed(&keys, "/v1/models", Some("Bearer one")));
        assert!(allowed(&keys, "/v1/models", Some("bearer two")));
        for wrong in ["Bearer three", "Bearer ", "Bearer on", "one", "Basic one", ""] {
            assert!(!allowed(&keys, "/v1/models", Some(wrong)), "{wrong}");
        }
        assert!(!allowed(&keys, "/tokenize", None));
        assert!(!allowed(&keys, "/load", None));
        assert!(allowed(&keys, "/health", None));
        assert!(allowed(&keys, "/docs/swagger-ui.css", None));
        assert!(!allowed(&keys, "/docs-of-mine", None));
    }
}
