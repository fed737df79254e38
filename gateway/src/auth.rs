//! Who may ask: API keys, compared in constant time, and whose they are ([`Tenants`]).
//!
//! With no key configured everything is open. With keys, everything is guarded but what probes and
//! scrapers need (vLLM leaves more open than that, such as its tokenizer and its pause switch).

use axum::{
    extract::Request,
    http::{HeaderMap, Method, header::AUTHORIZATION},
};

use crate::{
    ingress::context::RequestContext,
    tenants::{Caller, Tenants},
};

/// Reachable without a key: what probes and scrapers ask, and what describes the API, because a
/// browser that opens a page has no key to show.
const OPEN_PATHS: [&str; 6] =
    ["/docs", "/health", "/metrics", "/openapi.json", "/ping", "/version"];
/// The files of the description's page.
const OPEN_FOLDER: &str = "/docs/";

/// Who has no key, and needs one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused;

/// Lets in who may ask, and notes who that is.
///
/// # Errors
/// [`Refused`].
pub(crate) fn enter(
    tenants: &Tenants,
    request: &Request,
    context: &mut RequestContext,
) -> Result<(), Refused> {
    let caller = match caller(tenants, request.headers()) {
        Some(caller) => caller,
        None if is_open(request.uri().path()) || request.method() == Method::OPTIONS => {
            Caller::default()
        }
        None => return Err(Refused),
    };
    // One tenant's session is none of another's.
    if !tenants.is_open()
        && let Some(session) = &mut context.hints.session_id
    {
        *session = format!("{}/{session}", caller.tenant);
    }
    context.caller = caller;
    Ok(())
}

/// Who asks; nobody if a key is needed and this is none.
fn caller(tenants: &Tenants, headers: &HeaderMap) -> Option<Caller> {
    if tenants.is_open() {
        return Some(Caller::anonymous(headers));
    }
    tenants.of_key(bearer(headers)?).cloned()
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
}

fn is_open(path: &str) -> bool {
    OPEN_PATHS.contains(&path) || path.starts_with(OPEN_FOLDER)
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
        is_open(path) || caller(&Tenants::new(&keys, &[]), &headers).is_some()
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
