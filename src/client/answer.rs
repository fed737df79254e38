//! Whole answers, with a deadline.
//!
//! A server that has no room, or whose group is being formed again, answers 503 (or 429) and means
//! "later". Work that nobody waits for can wait, so such an answer is asked for again a few times,
//! each time after twice as long. Anything else is the answer.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Response, body::Incoming};
use serde_json::Value;

use super::http::HttpClient;

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The server's name for the request.
    pub(crate) request_id: Option<String>,
    pub(crate) body: Bytes,
}

impl HttpClient {
    /// POSTs JSON and gives back the whole answer, or why there was none; waits `patience` at most.
    pub(crate) async fn ask(
        &self,
        path: &str,
        body: String,
        patience: Duration,
    ) -> Result<Answer, String> {
        let ask = async {
            let mut pause = FIRST_PAUSE;
            for _ in 1..TRIES {
                let answer = whole(self.send(path, Some(body.clone())).await?).await?;
                if !matches!(answer.status, 429 | 503) {
                    return Ok(answer);
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            whole(self.send(path, Some(body.clone())).await?).await
        };
        tokio::time::timeout(patience, ask)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", patience.as_secs())))
    }
}

/// Reads an answer to its end.
pub(crate) async fn whole(response: Response<Incoming>) -> Result<Answer, String> {
    let status = response.status().as_u16();
    let request_id = response.headers().get("x-request-id");
    let request_id = request_id.and_then(|id| id.to_str().ok()).map(str::to_owned);
    let body = response.into_body().collect().await;
    let body = body.map_err(|error| format!("the answer broke off: {error}"))?.to_bytes();
    Ok(Answer { status, request_id, body })
}

// === impl Answer ===

impl Answer {
    /// Its body as JSON; a body that is none, as text.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| String::from_utf8_lossy(&self.body).into_owned().into())
    }

    /// What an answer that is no success says, in one line.
    pub(crate) fn complaint(&self) -> String {
        let body = self.json();
        let message = body.pointer("/error/message").or_else(|| body.get("error"));
        let message = message.or_else(|| body.get("detail")).unwrap_or(&body);
        let message = message.as_str().map_or_else(|| message.to_string(), str::to_owned);
        format!("status {}: {message}", self.status)
    }
}

/// With the pauses between them 6 s in all: longer than a group takes to form again.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
