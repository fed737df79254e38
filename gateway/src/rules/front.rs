//! What a request goes through before its path is looked at: routes are applied here.
//!
//! A route may rewrite a path, so this cannot be a layer of the router, which has chosen by then.

use std::time::Duration;

use axum::{
    http::{Request, Uri, header::HOST, uri::PathAndQuery},
    response::{IntoResponse, Response},
};

use super::{
    Rules, Scope,
    routes::{Asked, Routed},
};
use crate::{
    error::ApiError,
    ingress::context::{draw, new_id},
};

/// What a route said of a request, for whoever handles it.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// Who may answer it.
    pub(crate) scope: Scope,
    /// How long it may take in all, if less than the gateway allows.
    pub(crate) timeout: Option<Duration>,
}

/// Applies the routes. Between shares the request's id decides, if it has one.
///
/// # Errors
/// The response, if its route leads nowhere.
#[expect(clippy::result_large_err, reason = "a response is made once, where a route is wrong")]
pub(crate) fn apply<B>(rules: &Rules, request: &mut Request<B>) -> Result<(), Response> {
    let routed = {
        let headers = request.headers();
        let header = &|name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let host = header(HOST.as_str()).unwrap_or_default();
        let draw = &|| match header("x-request-id") {
            Some(id) => draw(id),
            None => draw(&new_id().to_string()),
        };
        rules.routes.route(&Asked {
            // Without a port.
            host: host.rsplit_once(':').map_or(host, |(host, _)| host),
            path: request.uri().path(),
            query: request.uri().query().unwrap_or_default(),
            method: request.method().as_str(),
            header,
            draw,
        })
    };
    match routed {
        Routed::Plain => Ok(()),
        Routed::Nowhere => {
            let path = request.uri().path();
            let message = format!("The route of {path} leads to no service that is declared.");
            Err(ApiError::unavailable(message).into_response())
        }
        Routed::To { path, scope, timeout } => {
            if let Some(uri) = with_path(request.uri(), &path) {
                *request.uri_mut() = uri;
            }
            request.extensions_mut().insert(Way { scope, timeout });
            Ok(())
        }
    }
}

fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let text = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).ok()?);
    Uri::from_parts(parts).ok()
}
