//! Every failure is a response: one type, from which status and body follow.
//!
//! Bodies are vLLM's: `{"error": {"message", "type", "param", "code"}}`, except where its framework
//! answers by itself (`{"detail": ...}` for an unknown route or method, `{"error": "Unauthorized"}`
//! for a missing key). Client mistakes are 400, never 422: clients test for it.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::json;
use troupe_runtime::error::{ErrorKind, PublicError};

use crate::openai::common::{ErrorBody, ErrorDetail};

/// Told when no engine can take one more request.
pub(crate) const BUSY: &str = "The engine is currently busy and cannot accept new requests. \
     Please try again later or on a different instance.";

/// When to try again after a 503, unless somebody knows better. Requests take seconds, so room
/// comes back within one.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Why a request was not let in, in one word: llm-d's header.
const DROPPED_REASON: &str = "x-llm-d-request-dropped-reason";

/// A failure, as the client will see it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    retry_after: Option<u32>,
    dropped: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        let (param, retry_after, dropped) = (None, None, None);
        Self { status, kind, message: message.into(), param, retry_after, dropped }
    }

    /// A request that says something wrong.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequestError", message)
    }

    /// A request about LoRA adapters that says something wrong: vLLM has a type of its own for it.
    pub(crate) fn invalid_input(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidUserInput", message)
    }

    /// A body that is not what the endpoint reads at all.
    pub(crate) fn bad_body(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Bad Request", message)
    }

    /// A value of the wrong type, with its dotted place.
    pub(crate) fn validation(place: &str, what: &str) -> Self {
        Self::bad_body(format!("1 validation error:\n  {place}: {what}")).at(place)
    }

    /// A body over the limit.
    pub(crate) fn too_large(limit_bytes: usize) -> Self {
        let message = format!("The request body is larger than the limit of {limit_bytes} bytes.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large", message)
    }

    /// A model that nobody serves.
    pub(crate) fn unknown_model(name: &str, served: &[String]) -> Self {
        let message = if served.is_empty() {
            format!("The model `{name}` does not exist.")
        } else {
            let names = served.join(", ");
            format!("The model `{name}` does not exist. Valid aliases: {names}.")
        };
        Self::new(StatusCode::NOT_FOUND, "NotFoundError", message).at("model")
    }

    /// Something that is not there, other than a model.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFoundError", message)
    }

    /// Something that this version cannot do. It is the request that has to change, so it is the
    /// client's mistake and no 501: what watches for 5xx would call a person.
    pub(crate) fn not_implemented(message: impl Into<String>) -> Self {
        Self::bad_request(message)
    }

    /// No room anywhere.
    pub(crate) fn busy() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable", BUSY)
    }

    /// More than is its share, for now.
    pub(crate) fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "RateLimitError", message)
    }

    /// Nobody to answer; trying again may help.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableError", message)
    }

    /// The request's time has passed.
    pub(crate) fn deadline(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "GatewayTimeoutError", message)
    }

    /// A fault of ours.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", message)
    }

    /// Names the field at fault.
    pub(crate) fn at(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    /// Says in how many seconds to try again.
    pub(crate) fn after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Says why it was not let in, in a word for programs.
    pub(crate) fn dropped(mut self, why: &'static str) -> Self {
        self.dropped = Some(why);
        self
    }

    /// The body, for a response or for an event of a stream.
    pub(crate) fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                message: self.message.clone(),
                kind: self.kind.to_owned(),
                param: self.param.clone(),
                code: self.status.as_u16(),
            },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let unavailable = self.status == StatusCode::SERVICE_UNAVAILABLE;
        let retry_after = self.retry_after.or(unavailable.then_some(RETRY_AFTER_SECONDS));
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if let Some(why) = self.dropped {
            response.headers_mut().insert(DROPPED_REASON, HeaderValue::from_static(why));
        }
        response
    }
}

impl From<PublicError> for ApiError {
    fn from(error: PublicError) -> Self {
        let api = match error.kind {
            ErrorKind::BadRequest => Self::bad_request(error.message),
            ErrorKind::NotFound => Self::new(StatusCode::NOT_FOUND, "NotFoundError", error.message),
            ErrorKind::Overloaded => Self::busy(),
            ErrorKind::Unavailable => Self::unavailable(error.message),
            ErrorKind::DeadlineExceeded => Self::deadline(error.message),
            ErrorKind::Internal => Self::internal(error.message),
        };
        match error.param {
            Some(param) => api.at(&param),
            None => api,
        }
    }
}

/// The answer to a route that is not there.
pub(crate) async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, Json(json!({"detail": "Not Found"}))).into_response()
}

/// The answer to a method that the route does not have.
pub(crate) async fn method_not_allowed() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, Json(json!({"detail": "Method Not Allowed"}))).into_response()
}

/// The answer to a missing or wrong key.
pub(crate) fn unauthorized() -> Response {
    (StatusCode::UNAUTHORIZED, Json(json!({"error": "Unauthorized"}))).into_response()
}
