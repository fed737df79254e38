//! Reading a request's body: kind, size, time, depth, and then JSON with the place of a mistake.
//!
//! A body is the first thing that a stranger controls, so every limit stands here, before any type
//! is built: the bytes are counted as they arrive, must come in time, must not nest deeper than
//! anything honest does, and must be an object. All bodies that are being read share one bound, so
//! that thousands of large ones cannot fill the memory together.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, Request, header::CONTENT_TYPE},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    error::ApiError,
    fields::{fields_of, unread},
};

/// Deepest nesting. Tool schemas reach about 20; serde_json's own limit, which guards the stack,
/// is 128.
const MAX_DEPTH: usize = 100;

/// How large bodies may be, one by itself and all together, and how long one may take.
#[derive(Debug)]
pub(crate) struct BodyLimits {
    each_bytes: usize,
    /// In units of [`UNIT_BYTES`].
    together: Arc<Semaphore>,
    deadline: Duration,
}

/// In which the room for bodies is handed out.
const UNIT_BYTES: usize = 1024;

/// The bytes of a JSON object, not yet parsed.
#[derive(Debug)]
pub(crate) struct JsonBody {
    bytes: Bytes,
    /// Its share of what all bodies may hold; given back when the body is dropped.
    _room: Option<OwnedSemaphorePermit>,
}

/// Bytes as they arrive.
struct Arriving<'a> {
    limits: &'a BodyLimits,
    bytes: BytesMut,
    room: Option<OwnedSemaphorePermit>,
    units: usize,
}

// === impl BodyLimits ===

impl BodyLimits {
    /// Each at most `each_bytes`, together at most `together_bytes`, and all of one within
    /// `deadline`.
    pub(crate) fn new(each_bytes: usize, together_bytes: usize, deadline: Duration) -> Self {
        let together = Arc::new(Semaphore::new(together_bytes / UNIT_BYTES));
        Self { each_bytes, together, deadline }
    }
}

// === impl Arriving ===

impl Arriving<'_> {
    fn add(&mut self, data: &Bytes) -> Result<(), ApiError> {
        let total = self.bytes.len() + data.len();
        if total > self.limits.each_bytes {
            return Err(ApiError::too_large(self.limits.each_bytes));
        }
        let more = total.div_ceil(UNIT_BYTES) - self.units;
        let more_units = u32::try_from(more).map_err(|_| ApiError::busy())?;
        let room = Arc::clone(&self.limits.together).try_acquire_many_owned(more_units);
        let room = room.map_err(|_| ApiError::busy())?;
        match &mut self.room {
            Some(held) => held.merge(room),
            none => *none = Some(room),
        }
        self.units += more;
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

// === impl JsonBody ===

impl JsonBody {
    /// A part of it, if it can be read.
    pub(crate) fn peek<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.bytes).ok()
    }

    /// As it came.
    pub(crate) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Its bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`ApiError`] for a wrong content type, a body that is too large, late, too deep or no
    /// object, and 503 while other bodies take all the room.
    pub(crate) async fn read(
        request: Request<Body>,
        limits: &BodyLimits,
    ) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        Self::read_of(&parts.headers, body, limits).await
    }

    /// As [`Self::read`], of a request whose head is still needed.
    pub(crate) async fn read_of(
        headers: &HeaderMap,
        mut body: Body,
        limits: &BodyLimits,
    ) -> Result<Self, ApiError> {
        check_content_type(headers)?;
        if body.size_hint().lower() > limits.each_bytes as u64 {
            return Err(ApiError::too_large(limits.each_bytes));
        }
        let mut arriving = Arriving { limits, bytes: BytesMut::new(), room: None, units: 0 };
        let all = async {
            while let Some(frame) = body.frame().await {
                let unreadable = |_| ApiError::bad_body("The request body could not be read.");
                if let Ok(data) = frame.map_err(unreadable)?.into_data() {
                    arriving.add(&data)?;
                }
            }
            Ok::<(), ApiError>(())
        };
        let late = |_| ApiError::bad_body("The request body did not arrive in time.");
        tokio::time::timeout(limits.deadline, all).await.map_err(late)??;
        let bytes = arriving.bytes.freeze();
        check(&bytes)?;
        Ok(Self { bytes, _room: arriving.room })
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
            let unread = unread(&self.bytes, &[fields_of::<A>(), fields_of::<B>()]);
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
        let mut reader = serde_json::Deserializer::from_slice(&self.bytes);
        let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            if !error.inner().is_data() {
                return not_json(error.inner());
            }
            ApiError::validation(&dotted(error.path()), &plain(error.inner()))
        })?;
        reader.end().map_err(|error| not_json(&error))?;
        Ok(value)
    }
}

/// Whether the bytes can be an object at all.
fn check(bytes: &[u8]) -> Result<(), ApiError> {
    if depth(bytes) > MAX_DEPTH {
        let what = format!("the JSON is nested deeper than {MAX_DEPTH} levels");
        return Err(ApiError::validation("body", &what));
    }
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    match first {
        // Derived types would accept a list of their fields' values, which nobody means.
        Some(b'{') => Ok(()),
        None => Err(ApiError::validation("body", "the body is empty, a JSON object is needed")),
        Some(_) => match serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
            Ok(_) => Err(ApiError::validation("body", "a JSON object is needed")),
            Err(error) => Err(not_json(&error)),
        },
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

/// What serde says, in JSON's words instead of Rust's. It appends ` at line 1 column 2`, which says
/// nothing to who did not write the text.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.rfind(" at line ").map_or(text.as_str(), |end| &text[..end]);
    let Some((found, wanted)) = text.rsplit_once(", expected ") else { return text.to_owned() };
    let wanted = match wanted {
        "f64" => "a number",
        "i64" => "an integer of 64 bits",
        "u32" => "an integer from 0 to 4294967295",
        "a map" => "an object",
        "a sequence" => "a list",
        wanted if wanted.starts_with("struct ") => "an object",
        wanted => wanted,
    };
    format!("{found}, expected {wanted}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::{chat::ChatRequest, common::Sampling, completions::CompletionRequest};

    fn error<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> (String, Option<String>) {
        let body = JsonBody { bytes: Bytes::copy_from_slice(text.as_bytes()), _room: None };
        let parsed = check(text.as_bytes()).and_then(|()| body.parse::<T>());
        let error = parsed.expect_err("a mistake");
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
    fn a_mistake_is_told_in_the_words_of_json() {
        let cases = [
            (r#"{"temperature": "hot"}"#, "string \"hot\", expected a number"),
            (r#"{"n": 1e30}"#, "floating point `1e+30`, expected an integer of 64 bits"),
            (r#"{"allowed_token_ids": [-1]}"#, "integer `-1`, expected an integer from 0 to 429"),
            (r#"{"response_format": "text"}"#, "string \"text\", expected an object"),
            (r#"{"logit_bias": 3}"#, "integer `3`, expected an object"),
            (r#"{"bad_words": "a"}"#, "string \"a\", expected a list"),
        ];
        for (body, wanted) in cases {
            let (message, _) = error::<Sampling>(body);
            assert!(message.contains(wanted), "{body}: {message}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "  ", "[1]", "3", "\"a\"", "null", "{", "{} {}", "{\"a\":}", "\u{7f}"] {
            let (message, _) = error::<Sampling>(text);
            assert!(message.contains("body"), "{text}: {message}");
        }
    }

    #[tokio::test]
    async fn bodies_share_their_room() {
        let limits = BodyLimits::new(3 * UNIT_BYTES, 4 * UNIT_BYTES, Duration::from_secs(1));
        let read = |bytes: usize| {
            let text = format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
            let request = Request::builder().header(CONTENT_TYPE, "application/json");
            JsonBody::read(request.body(Body::from(text)).expect("a request"), &limits)
        };
        assert!(read(3 * UNIT_BYTES + 1).await.is_err(), "larger than one may be");
        let first = read(3 * UNIT_BYTES).await.expect("there is room");
        assert_eq!(read(UNIT_BYTES + 1).await.expect_err("full"), ApiError::busy());
        let second = read(UNIT_BYTES).await.expect("the rest is enough");
        drop((first, second));
        assert_eq!(limits.together.available_permits(), 4);
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert_eq!(depth(br#"{"a": ["[[[[\"[[", {}]}"#), 3);
        let deep = format!("{{\"x\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(error::<Sampling>(&deep).0.contains("nested deeper"));
    }
}
