//! What a request asks of placement: who it would like to be answered by, and how fast.
//!
//! They are wishes. A header that is not well-formed is no wish, and one that names what is not
//! there weighs nothing: no client can send a request where its model is not served.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use troupe_runtime::wire::adapter::AdapterRef;

/// What headers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hints {
    /// `x-session-id`: requests of one session would like to be at one endpoint.
    pub(crate) session_id: Option<String>,
    /// `x-session-token`, as an earlier answer of the session said it.
    pub(crate) session_token: Option<String>,
    /// The LoRA adapter that it needs, these very files.
    pub(crate) adapter: Option<AdapterRef>,
    /// `EPP-Profile`: the profile that should place it.
    pub(crate) profile: Option<String>,
    /// `x-llm-d-slo-ttft-ms`: when its first token should be there.
    pub(crate) ttft: Option<Duration>,
    /// `x-llm-d-slo-tpot-ms`: the time that each further token should take.
    pub(crate) tpot: Option<Duration>,
    /// `x-gateway-destination-endpoint-subset`: nobody but these.
    pub(crate) subset: Vec<String>,
    /// How urgent it is; the larger, the more.
    pub(crate) priority: i32,
    /// All headers that begin with `x-`: labels may be preferred by any of them.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Longest value that is taken.
const MAX_BYTES: usize = 1024;

// === impl Hints ===

impl Hints {
    /// No wish.
    #[cfg(test)]
    pub(crate) const NONE: Self = Self {
        session_id: None,
        session_token: None,
        adapter: None,
        profile: None,
        ttft: None,
        tpot: None,
        subset: Vec::new(),
        priority: 0,
        headers: Vec::new(),
    };

    /// From a request's headers.
    pub(crate) fn new(headers: &HeaderMap) -> Self {
        let text = |name: &str| {
            let text = headers.get(name).and_then(|value| value.to_str().ok());
            let text = text.map(str::trim);
            text.filter(|text| !text.is_empty() && text.len() <= MAX_BYTES).map(str::to_owned)
        };
        let time = |name: &str| {
            let ms: Option<u32> = text(name).and_then(|text| text.parse().ok());
            ms.filter(|ms| *ms > 0).map(|ms| Duration::from_millis(ms.into()))
        };
        let subset = text("x-gateway-destination-endpoint-subset").unwrap_or_default();
        let subset = subset.split(',').map(str::trim).filter(|one| !one.is_empty());
        Self {
            session_id: text("x-session-id"),
            session_token: text("x-session-token"),
            adapter: None,
            profile: text("epp-profile"),
            ttft: time("x-llm-d-slo-ttft-ms"),
            tpot: time("x-llm-d-slo-tpot-ms"),
            subset: subset.map(str::to_owned).collect(),
            priority: 0,
            headers: custom(headers).map(|(name, value)| (name.clone(), value.clone())).collect(),
        }
    }

    /// What a header says that begins with `x-`.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known.as_str() == name)?;
        value.to_str().ok()
    }
}

/// Those that say something of the request; a key that somebody sends so is nobody's to keep.
fn custom(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    let ours = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with("x-") && !name.contains("key") && !name.contains("auth")
    };
    headers.iter().filter(move |(name, value)| ours(name) && value.len() <= MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_say_nothing_sensible_are_no_wish() {
        let mut headers = HeaderMap::new();
        assert_eq!(Hints::new(&headers), Hints::NONE);
        for (name, value) in [
            ("x-session-id", " "),
            ("x-llm-d-slo-ttft-ms", "soon"),
            ("x-llm-d-slo-tpot-ms", "0"),
            ("x-gateway-destination-endpoint-subset", " , ,"),
        ] {
            headers.insert(name, value.parse().expect("a header"));
        }
        headers.insert("epp-profile", "x".repeat(MAX_BYTES + 1).parse().expect("a header"));
        assert_eq!(Hints { headers: Vec::new(), ..Hints::new(&headers) }, Hints::NONE);
    }

    #[test]
    fn each_header_is_one_wish() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-session-id", "s"),
            ("x-session-token", "t"),
            ("EPP-Profile", "p"),
            ("x-llm-d-slo-ttft-ms", "250"),
            ("x-llm-d-slo-tpot-ms", "20"),
            ("x-gateway-destination-endpoint-subset", "10.0.0.1:80, 10.0.0.2:80"),
            ("x-api-key", "secret"),
        ] {
            let name: HeaderName = name.parse().expect("a name");
            headers.insert(name, value.parse().expect("a header"));
        }
        let hints = Hints {
            session_id: Some("s".into()),
            session_token: Some("t".into()),
            profile: Some("p".into()),
            ttft: Some(Duration::from_millis(250)),
            tpot: Some(Duration::from_millis(20)),
            subset: vec!["10.0.0.1:80".into(), "10.0.0.2:80".into()],
            ..Hints::NONE
        };
        let read = Hints::new(&headers);
        assert_eq!(read.header("x-session-token"), Some("t"));
        assert_eq!(read.header("x-api-key"), None);
        assert_eq!(Hints { headers: Vec::new(), ..read }, hints);
    }
}
