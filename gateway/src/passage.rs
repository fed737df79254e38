//! What every request passes before its handler: it gets its id, its span and its caller, and is
//! counted when it is answered.
//!
//! One service of our own around each handler, and not a chain of functions: each of those would
//! box the rest of the way again, for every request.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue},
    response::Response,
};
use tokio::time::Instant;
use tower::{Layer, Service};
use tracing::Instrument;
use troupe_runtime::telemetry;

use crate::{auth, error, ingress::context::RequestContext, state::Gateway, tenants::Tenants};

/// The id of a request, said by the client or by us, and told with the answer.
const ID: HeaderName = HeaderName::from_static("x-request-id");

/// Puts handlers behind it.
#[derive(Clone)]
pub(crate) struct Passage {
    gateway: Arc<Gateway>,
    tenants: Arc<Tenants>,
}

/// A handler behind it.
#[derive(Clone)]
pub(crate) struct Passed<S> {
    passage: Passage,
    inner: S,
}

// === impl Passage ===

impl Passage {
    /// Into this gateway.
    pub(crate) fn new(gateway: &Arc<Gateway>) -> Self {
        let config = &gateway.config;
        let tenants = Arc::new(Tenants::new(&config.api_keys, &config.tenants));
        Self { gateway: Arc::clone(gateway), tenants }
    }
}

impl<S> Layer<S> for Passage {
    type Service = Passed<S>;

    fn layer(&self, inner: S) -> Passed<S> {
        Passed { passage: self.clone(), inner }
    }
}

// === impl Passed ===

impl<S> Service<Request> for Passed<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let Passage { gateway, tenants } = &self.passage;
        let gateway = Arc::clone(gateway);
        let timeout = gateway.config.request_timeout;
        let seeds = Arc::clone(&gateway.seeds);
        let mut context = RequestContext::new(request.headers(), seeds, Instant::now(), timeout)
            .by(request.extensions().get());
        let path = request.extensions().get::<MatchedPath>().cloned();
        let method = request.method().clone();
        // Paths that are no routes are counted as one, or anybody could fill the metrics.
        let handler = path.as_ref().map_or("none", MatchedPath::as_str);
        let span = tracing::info_span!("request", id = %context.id, %method, path = %handler);
        if let Some(client) = &context.traceparent {
            telemetry::set_parent(&span, client);
        }
        // Without a collector there is no span of ours to hang on, so the client's is passed on.
        context.traceparent = telemetry::otel::traceparent_of(&span).or(context.traceparent);
        let id = HeaderValue::from_str(&context.id);
        let answered = match auth::enter(tenants, &request, &mut context) {
            Ok(()) => {
                request.extensions_mut().insert(Arc::new(context));
                // The one that was found ready is used; its clone is for the next.
                let next = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, next);
                Ok(inner.call(request).instrument(span))
            }
            Err(refused) => Err(refused),
        };
        Box::pin(async move {
            let mut response = match answered {
                Ok(answer) => answer.await?,
                Err(auth::Refused) => error::unauthorized(),
            };
            let handler = path.as_ref().map_or("none", MatchedPath::as_str);
            gateway.metrics.answered(handler, &method, response.status());
            if let Ok(id) = id {
                response.headers_mut().insert(ID, id);
            }
            Ok(response)
        })
    }
}
