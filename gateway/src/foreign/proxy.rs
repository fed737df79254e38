//! Hands a request on to a foreign endpoint, and its answer back as it comes.
//!
//! An endpoint that cannot be reached, or answers that it cannot serve (502, 503, 504), is passed
//! over for another one, each at most once, as long as nothing of an answer was told. After that
//! the answer is the endpoint's: it ends when that does, or when the request's time is over.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
        header::{
            AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHENTICATE,
            PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
        },
    },
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::{
    line::Told,
    upstream::{There, Upstream, Upstreams},
};
use crate::{admission::Permit, error::ApiError, ingress::context::RequestContext};

/// Who answered, as the Endpoint Picker Protocol says it.
pub(crate) const SERVED: HeaderName =
    HeaderName::from_static("x-gateway-destination-endpoint-served");
/// Of one hop, and what is ours to say.
const OWN: [HeaderName; 10] = [
    AUTHORIZATION,
    CONNECTION,
    CONTENT_LENGTH,
    HOST,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
/// Most endpoints that one request is sent to.
const MOST_TRIED: usize = 4;

/// A request that is to be handed on.
pub(crate) struct Handed<'a> {
    pub(crate) context: &'a RequestContext,
    /// With its query.
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) model: &'a str,
}

/// An answer under way; what it holds is given back when it is over.
struct Answer {
    body: Told,
    until: Pin<Box<Sleep>>,
    upstream: Arc<Upstream>,
    _there: There,
    _permit: Permit,
}

// === impl Upstreams ===

impl Upstreams {
    /// Hands a request on; `choose` says to whom, given the numbers of those that were
    /// tried.
    ///
    /// # Errors
    /// 503 if nobody could be reached, 504 if the request's time is over.
    pub(crate) async fn hand_on(
        &self,
        handed: Handed<'_>,
        permit: Permit,
        choose: impl Fn(&[u32]) -> Option<Arc<Upstream>>,
    ) -> Result<Response<Body>, ApiError> {
        let mut tried = Vec::new();
        let mut last = None;
        while tried.len() < MOST_TRIED
            && let Some(upstream) = choose(&tried)
        {
            tried.push(upstream.number);
            let there = upstream.begin();
            upstream.known().breaker.begin(self.now());
            let asked = timeout_at(handed.context.deadline, self.ask(&upstream, &handed)).await;
            match asked {
                Err(_) => {
                    upstream.known().breaker.failure(self.now());
                    let message = "The request took longer than the time it was given.";
                    return Err(ApiError::deadline(message));
                }
                Ok(Ok(response)) if !is_elsewhere(response.status()) => {
                    return Ok(answer(response, upstream, there, (permit, handed.context)));
                }
                Ok(Ok(response)) => last = Some(format!("it answers {}", response.status())),
                Ok(Err(error)) => last = Some(error),
            }
            upstream.known().breaker.failure(self.now());
            tracing::warn!(endpoint = ?upstream.config, error = last, "try another endpoint");
        }
        let why = last.unwrap_or_else(|| "no endpoint is ready".to_owned());
        let model = handed.model;
        Err(ApiError::unavailable(format!("The model `{model}` could not be reached: {why}.")))
    }

    async fn ask(
        &self,
        upstream: &Upstream,
        handed: &Handed<'_>,
    ) -> Result<Response<Told>, String> {
        let uri = upstream.config.path(handed.path).ok_or("its address has no such path")?;
        let mut request = Request::new(Full::new(handed.body.clone()));
        *request.method_mut() = axum::http::Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        // Those that came, and what is ours to say.
        headers.reserve(handed.headers.len() + 4);
        for (name, value) in handed.headers.iter().filter(|(name, _)| !OWN.contains(name)) {
            headers.append(name, value.clone());
        }
        if let Ok(id) = HeaderValue::from_str(&handed.context.id) {
            headers.insert("x-request-id", id);
        }
        if let Some(trace) = &handed.context.traceparent
            && let Ok(trace) = HeaderValue::from_str(trace)
        {
            headers.insert("traceparent", trace);
        }
        if let Some(authorization) = &upstream.config.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        upstream.lines.ask(request).await
    }
}

/// Whether another endpoint may do better.
fn is_elsewhere(status: StatusCode) -> bool {
    use StatusCode as Code;
    matches!(status, Code::BAD_GATEWAY | Code::SERVICE_UNAVAILABLE | Code::GATEWAY_TIMEOUT)
}

fn answer(
    response: Response<Told>,
    upstream: Arc<Upstream>,
    there: There,
    (permit, context): (Permit, &RequestContext),
) -> Response<Body> {
    upstream.known().breaker.success();
    let (mut parts, body) = response.into_parts();
    let is_own = |name: &HeaderName| *name != CONTENT_LENGTH && OWN.contains(name);
    // Most answers have none of them.
    if parts.headers.keys().any(is_own) {
        OWN.iter().filter(|name| is_own(name)).for_each(|name| drop(parts.headers.remove(name)));
    }
    if let Some(served) = &upstream.served {
        parts.headers.insert(SERVED, served.clone());
    }
    let until = Box::pin(sleep_until(context.deadline));
    let answer = Answer { body, until, upstream, _there: there, _permit: permit };
    Response::from_parts(parts, Body::new(answer))
}

// === impl Answer ===

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(context);
        // The timer is only set while nothing comes: most answers are there at once.
        let over = Instant::now() >= this.until.deadline();
        if over || (polled.is_pending() && this.until.as_mut().poll(context).is_ready()) {
            let late = "the request took longer than the time it was given";
            return Poll::Ready(Some(Err(axum::Error::new(late))));
        }
        polled.map(|frame| {
            frame.map(|frame| {
                frame.map_err(|error| {
                    tracing::warn!(endpoint = ?this.upstream.config, %error, "an answer broke off");
                    axum::Error::new(error)
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
