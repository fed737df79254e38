//! Reading a request's body: kind, size, time, depth, and then JSON with the place of a mistake.
//!
//! A body is the first thing that a stranger controls, so every limit stands here, before any type
//! is built: the bytes are counted as they arrive, must come in time, must not nest deeper than
//! anything honest does, and must be an object.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, Request, header::CONTENT_TYPE},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use crate::{
    error::ApiError,
    fields::{fields_of, unread},
};

/// How long a client may take to send its body.
const BODY_DEADLINE: Duration = Duration::from_secs(60);

/// Deepest nesting. Tool schemas reach about 20; serde_json's own limit, which guards the stack,
/// is 128.
const MAX_DEPTH: usize = 100;

/// The bytes of a JSON object, not yet parsed.
#[derive(Clone, Debug)]
pub(crate) struct JsonBody(Bytes);

impl JsonBody {
    /// Reads the body, at most `limit_bytes` of it.
    ///
    /// # Errors
    /// [`ApiError`] for a wrong content type, a body that is too large, late, too deep or no
    /// object.
    pub(crate) async fn read(request: Request<Body>, limit_bytes: usize) -> Result<Self, ApiError> {
        check_content_type(request.headers())?;
        let body = Limited::new(request.into_body(), limit_bytes).collect();
        let collected = tokio::time::timeout(BODY_DEADLINE, body)
            .await
            .map_err(|_| ApiError::bad_body("The request body did not arrive in time."))?;
        let bytes = match collected {
            Ok(collected) => collected.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(ApiError::too_large(limit_bytes));
            }
            Err(_) => return Err(ApiError::bad_body("The request body could not be read.")),
        };
        Self::check(bytes)
    }

    fn check(bytes: Bytes) -> Result<Self, ApiError> {
        if depth(&bytes) > MAX_DEPTH {
            let what = format!("the JSON is nested deeper than {MAX_DEPTH} levels");
            return Err(ApiError::validation("body", &what));
        }
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        match first {
            // Derived types would accept a list of their fields' values, which nobody means.
            Some(b'{') => Ok(Self(bytes)),
            None => Err(ApiError::validation("body", "the body is empty, a JSON object is needed")),
            Some(_) => match serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
                Ok(_) => Err(ApiError::validation("body", "a JSON object is needed")),
                Err(error) => Err(not_json(&error)),
            },
        }
    }

    /// The body as the two types that its endpoint reads.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub(crate) fn parse_both<A, B>(&self) -> Result<(A, B), ApiError>
    where
        A: DeserializeOwned,
        B: DeserializeOwned,
    {
        if tracing::enabled!(tracing::Level::DEBUG) {
            let unread = unread(&self.0, &[fields_of::<A>(), fields_of::<B>()]);
            if !unread.is_empty() {
                tracing::debug!(fields = unread.join(","), "request fields without effect");
            }
        }
        Ok((self.parse()?, self.parse()?))
    }

    /// The body as a type. Fields that the type does not have are ignored.
    ///
    /// # Errors
    /// [`ApiError`] with the dotted place of the mistake.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let mut reader = serde_json::Deserializer::from_slice(&self.0);
        let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            if !error.inner().is_data() {
                return not_json(error.inner());
            }
            ApiError::validation(&dotted(error.path()), &without_line(error.inner()))
        })?;
        reader.end().map_err(|error| not_json(&error))?;
        Ok(value)
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = value.split(';').next().unwrap_or("").trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::bad_body("Unsupported Media Type: Only 'application/json' is allowed"))
}

/// The deepest nesting of brackets outside strings; meaningful for any bytes.
fn depth(bytes: &[u8]) -> usize {
    let (mut now, mut deepest) = (0_usize, 0_usize);
    let (mut in_string, mut escaped) = (false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                now += 1;
                deepest = deepest.max(now);
            }
            b'}' | b']' if !in_string => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::validation("body", &format!("JSON decode error: {error}"))
}

fn dotted(path: &serde_path_to_error::Path) -> String {
    let mut place = String::from("body");
    for segment in path {
        match segment {
            Segment::Seq { index } => place.push_str(&format!(".{index}")),
            Segment::Map { key } => place.push_str(&format!(".{key}")),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    place
}

/// serde_json appends ` at line 1 column 2`, which says nothing to who did not write the text.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::{chat::ChatRequest, common::Sampling, completions::CompletionRequest};

    fn error<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> (String, Option<String>) {
        let body = JsonBody::check(Bytes::copy_from_slice(text.as_bytes()));
        let error = body.and_then(|body| body.parse::<T>()).expect_err("a mistake");
        let detail = error.body().error;
        (detail.message, detail.param)
    }

    #[test]
    fn a_mistake_is_placed() {
        let (message, param) = error::<Sampling>(r#"{"temperature": "hot"}"#);
        assert_eq!(param.as_deref(), Some("body.temperature"));
        assert!(message.starts_with("1 validation error:\n  body.temperature: invalid type"));
        let (_, param) = error::<Sampling>(r#"{"logit_bias": {"5": []}}"#);
        assert_eq!(param.as_deref(), Some("body.logit_bias.5"));
        let (_, param) = error::<CompletionRequest>(r#"{"prompt": {"a": 1}}"#);
        assert_eq!(param.as_deref(), Some("body.prompt"));
        let (_, param) = error::<ChatRequest>(r#"{"messages": [{}, 3]}"#);
        assert_eq!(param.as_deref(), Some("body.messages.1"));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "  ", "[1]", "3", "\"a\"", "null", "{", "{} {}", "{\"a\":}", "\u{7f}"] {
            let (message, _) = error::<Sampling>(text);
            assert!(message.contains("body"), "{text}: {message}");
        }
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert_eq!(depth(br#"{"a": ["[[[[\"[[", {}]}"#), 3);
        let deep = format!("{{\"x\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(error::<Sampling>(&deep).0.contains("nested deeper"));
    }
}
