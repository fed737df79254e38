//! One request, measured from its first byte sent to its last chunk.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use crate::client::{answer::whole, events::Events, http::HttpClient};

/// What one request sends.
pub(crate) struct Request {
    /// With the request's own id among its headers.
    pub(crate) client: HttpClient,
    pub(crate) endpoint: String,
    pub(crate) body: String,
    /// Tokens of its prompt, if they are known.
    pub(crate) prompt_len: Option<u64>,
    /// How long the server may say nothing.
    pub(crate) patience: Duration,
}

/// What came of it. Times in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// When it was sent, counted from the run's begin.
    pub(crate) start: f64,
    /// From then to the first chunk.
    pub(crate) ttft: f64,
    /// Between chunks.
    pub(crate) itl: Vec<f64>,
    /// From `start` to the last chunk.
    pub(crate) latency: f64,
    pub(crate) prompt_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) text: String,
    /// Why it failed, if it did; then nothing else of it counts.
    pub(crate) error: Option<String>,
}

/// A chunk of either API, as far as it is looked at.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    text: Option<String>,
    delta: Option<Delta>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

impl Request {
    /// Sends it and reads its answer; `origin` is when the run began.
    pub(crate) async fn measure(self, origin: Instant) -> Outcome {
        let began = Instant::now();
        let mut outcome = Outcome {
            start: (began - origin).as_secs_f64(),
            prompt_tokens: self.prompt_len.unwrap_or(0),
            ..Outcome::default()
        };
        outcome.error = self.read(began, &mut outcome).await.err();
        outcome
    }

    async fn read(self, began: Instant, outcome: &mut Outcome) -> Result<(), String> {
        let sent = self.client.send(&self.endpoint, Some(self.body));
        let response = tokio::time::timeout(self.patience, sent)
            .await
            .map_err(|_| format!("no answer within {} s", self.patience.as_secs()))??;
        if response.status() != 200 {
            return Err(whole(response).await?.complaint());
        }
        let mut events = Events::new(response.into_body());
        let (mut last, mut counted) = (None, None);
        while let Some(data) = events.next(self.patience).await? {
            let chunk: Chunk = serde_json::from_slice(&data)
                .map_err(|error| format!("the answer has a chunk that is no JSON: {error}"))?;
            if let Some(error) = chunk.error {
                return Err(format!("the answer ended with an error: {error}"));
            }
            if let Some(choice) = chunk.choices.into_iter().next() {
                let now = Instant::now();
                match last.replace(now) {
                    None => outcome.ttft = (now - began).as_secs_f64(),
                    Some(last) => outcome.itl.push((now - last).as_secs_f64()),
                }
                let text = choice.text.or_else(|| choice.delta.and_then(|delta| delta.content));
                outcome.text.push_str(&text.unwrap_or_default());
            }
            if let Some(usage) = chunk.usage {
                counted = usage.completion_tokens.or(counted);
                outcome.prompt_tokens = usage.prompt_tokens.unwrap_or(outcome.prompt_tokens);
            }
        }
        let last = last.ok_or("the answer has not a single chunk with a choice")?;
        outcome.latency = (last - began).as_secs_f64();
        // A server that does not count sends a token per chunk, as far as anybody can tell.
        outcome.output_tokens = counted.unwrap_or(1 + outcome.itl.len() as u64);
        Ok(())
    }
}
