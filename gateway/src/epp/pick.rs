//! Who answers a request, as its handler tells the conversation: in an extension of the response.

use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode};
use bytes::Bytes;

use crate::{
    admission::Permit,
    foreign::upstream::{There, Upstream, Upstreams},
};

/// See the file. Cloned with the response that carries it; what it holds is given back when the
/// last of its clones is gone.
#[derive(Clone, Debug)]
pub(crate) struct Pick {
    pub(crate) to: To,
    /// The request's body, as whoever answers is to have it.
    pub(crate) body: Bytes,
    /// Whether that is another one than came.
    pub(crate) changed: bool,
}

/// Where it goes.
#[derive(Clone, Debug)]
pub(crate) enum To {
    /// To this gateway.
    Here,
    /// To an endpoint that is not this cluster's.
    There(Arc<Chosen>),
}

/// Counted at an endpoint for as long as this lives.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) upstream: Arc<Upstream>,
    upstreams: Arc<Upstreams>,
    /// The path there, with its query.
    pub(crate) path: String,
    _there: There,
    _permit: Permit,
}

/// The destination, in a header of the request and in metadata for the proxy's load balancer.
pub(crate) const DESTINATION: &str = "x-gateway-destination-endpoint";

// === impl Chosen ===

impl Chosen {
    pub(crate) fn new(
        upstream: Arc<Upstream>,
        upstreams: Arc<Upstreams>,
        path: &str,
        permit: Permit,
    ) -> Self {
        let there = upstream.begin();
        upstream.known().breaker.begin(upstreams.now());
        let path = format!("{}{path}", upstream.config.base);
        Self { upstream, upstreams, path, _there: there, _permit: permit }
    }

    /// Where it is, as `10.0.0.5:8000`.
    pub(crate) fn address(&self) -> String {
        let authority = &self.upstream.config.authority;
        match authority.port() {
            Some(_) => authority.to_string(),
            None => format!("{authority}:80"),
        }
    }

    /// What the proxy has to send along to be let in there.
    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.upstream.config.authorization.as_ref()
    }

    /// It answered so.
    pub(crate) fn answered(&self, status: StatusCode) {
        let mut known = self.upstream.known();
        if matches!(status.as_u16(), 502..=504) {
            known.breaker.failure(self.upstreams.now());
        } else {
            known.breaker.success();
        }
    }
}
