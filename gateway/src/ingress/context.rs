//! What an HTTP request says beside its body: its id, its trace, its time.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::http::HeaderMap;
use tokio::time::Instant;
use troupe_runtime::id::Digest;
use uuid::{Builder, Uuid};

use super::{hints::Hints, seeds::Seeds};
use crate::{
    error::ApiError,
    rules::{Scope, front::Way},
    tenants::Caller,
};

/// Longest id of a client's that is taken over; longer ones are replaced, not cut.
const MAX_ID_BYTES: usize = 128;

/// Where clients name the `InferenceObjective` of a request.
const OBJECTIVE: &str = "x-llm-d-inference-objective";

/// Where and when a request came in.
#[derive(Clone, Debug)]
pub(crate) struct RequestContext {
    /// The client's `X-Request-Id`, or one of ours.
    pub(crate) id: String,
    /// Whether it is the client's.
    named: bool,
    /// W3C trace context, if the client sent one that is well-formed.
    pub(crate) traceparent: Option<String>,
    /// What it asks of placement.
    pub(crate) hints: Hints,
    /// Where its seeds come from, if it has none of its own.
    pub(crate) seeds: Arc<Seeds>,
    /// Who asks; found out after this is made.
    pub(crate) caller: Caller,
    /// The `InferenceObjective` that it is to be ranked by, if it names one.
    pub(crate) objective: Option<String>,
    /// The services that may answer it; all of them if no route says.
    pub(crate) scope: Option<Scope>,
    /// When it came.
    pub(crate) arrived: Instant,
    /// When its answer is worthless.
    pub(crate) deadline: Instant,
}

impl RequestContext {
    /// From the headers.
    pub(crate) fn new(
        headers: &HeaderMap,
        seeds: Arc<Seeds>,
        now: Instant,
        timeout: Duration,
    ) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let given = text("x-request-id").filter(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES);
        Self {
            named: given.is_some(),
            id: given.map_or_else(|| new_id().simple().to_string(), str::to_owned),
            traceparent: text("traceparent").filter(|text| well_formed(text)).map(str::to_owned),
            hints: Hints::new(headers),
            seeds,
            caller: Caller::default(),
            objective: text(OBJECTIVE).filter(|name| !name.is_empty()).map(str::to_owned),
            scope: None,
            arrived: now,
            deadline: now + timeout,
        }
    }

    /// The same, if its route said this.
    pub(crate) fn by(mut self, way: Option<&Way>) -> Self {
        let Some(Way { scope, timeout }) = way else { return self };
        self.scope = Some(scope.clone());
        if let Some(timeout) = timeout {
            self.deadline = self.deadline.min(self.arrived + *timeout);
        }
        self
    }

    /// Decides between shares, the same way each time.
    pub(crate) fn draw(&self) -> u64 {
        draw(&self.id)
    }

    /// What the answer is called: as the header says, else as the body says, else as we say.
    ///
    /// # Errors
    /// 400 for a name that is too long.
    pub(crate) fn id_for<'a>(&'a self, asked: Option<&'a str>) -> Result<&'a str, ApiError> {
        let asked = asked.filter(|id| !id.is_empty());
        if let Some(id) = asked.filter(|id| id.len() > MAX_ID_BYTES) {
            let message =
                format!("request_id must have at most {MAX_ID_BYTES} bytes, got {}.", id.len());
            return Err(ApiError::bad_request(message).at("request_id"));
        }
        Ok(asked.filter(|_| !self.named).unwrap_or(&self.id))
    }
}

/// A new id, ordered by time (UUIDv7). Its other part is from this thread's random numbers: to ask
/// the system for them would be a call more for each request.
pub(crate) fn new_id() -> Uuid {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid()
}

/// A number that follows from an id and nothing else.
pub(crate) fn draw(id: &str) -> u64 {
    let Digest(bytes) = Digest::of(id.as_bytes());
    bytes.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// `version-trace-parent-flags`, in lower-case hexadecimal of 2, 32, 16 and 2 digits.
fn well_formed(traceparent: &str) -> bool {
    let parts: Vec<&str> = traceparent.split('-').collect();
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [2, 32, 16, 2] && parts.iter().all(|part| hex(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_header_names_a_request_before_the_body_does() {
        let seeds = Arc::new(Seeds::new(Some(1)));
        let context = |headers: &HeaderMap| {
            RequestContext::new(headers, Arc::clone(&seeds), Instant::now(), Duration::ZERO)
        };
        let plain = context(&HeaderMap::new());
        assert_eq!(plain.id_for(Some("mine")), Ok("mine"));
        assert_eq!(plain.id_for(Some("")), Ok(plain.id.as_str()));
        assert_eq!(plain.id_for(None), Ok(plain.id.as_str()));
        assert!(plain.id_for(Some(&"a".repeat(129))).is_err());
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", "header".parse().expect("a header"));
        assert_eq!(context(&headers).id_for(Some("mine")), Ok("header"));
    }

    #[test]
    fn ids_are_ordered_by_time_and_none_is_another() {
        let ids: std::collections::BTreeSet<_> = (0..1000).map(|_| new_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
        let unix = |id: &Uuid| id.get_timestamp().map(|at| at.to_unix().0);
        assert!(ids.iter().map(unix).is_sorted());
    }

    #[test]
    fn a_trace_context_is_taken_only_if_well_formed() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(well_formed(good));
        for bad in ["", "00", &good.to_uppercase(), &good[1..], "00-x-y-01"] {
            assert!(!well_formed(bad), "{bad}");
        }
    }
}
