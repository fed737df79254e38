//! A stream during which something is done to the cluster, held against the same one undisturbed.
//!
//! The client counts tokens; from the gateway's own count of streams that went on it learns when
//! the gateway knew. What a client sees is one pause: the longest wait for a token from the deed
//! on.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use troupe_runtime::telemetry::names;

use crate::client::{events::Events, http::HttpClient};

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// Which model.
    pub(crate) model: String,
    /// After what.
    pub(crate) prompt: String,
    /// How many tokens.
    pub(crate) max_tokens: usize,
    /// What chance begins with.
    pub(crate) seed: u64,
    /// How freely tokens are chosen.
    pub(crate) temperature: f32,
}

/// What a stream gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streamed {
    /// Its tokens, in order.
    pub(crate) tokens: Vec<u64>,
    /// When each came.
    at: Vec<Instant>,
    /// Why it has no more, if it did not end well.
    pub(crate) error: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// From the deed until the gateway had given up on the endpoint; nothing if it never did.
    pub(crate) noticed: Option<Duration>,
    /// From the deed until the token that ended the longest wait; nothing if none came.
    pub(crate) next_token: Option<Duration>,
    /// The longest wait for a token from the deed on.
    pub(crate) pause: Duration,
    /// Tokens that never came.
    pub(crate) lost: usize,
    /// Tokens that are others than without the deed.
    pub(crate) wrong: usize,
    /// How the stream broke, if it did.
    pub(crate) error: Option<String>,
}

// === impl Question ===

impl Question {
    fn body(&self) -> String {
        json!({
            "model": self.model, "prompt": self.prompt, "max_tokens": self.max_tokens,
            "temperature": self.temperature, "seed": self.seed, "ignore_eos": true,
            "stream": true, "return_token_ids": true,
        })
        .to_string()
    }

    /// Asks, and calls `each` after every token with how many there are and with the request's id.
    pub(crate) async fn ask(
        &self,
        client: &HttpClient,
        mut each: impl AsyncFnMut(usize, &str) -> Result<(), String>,
    ) -> Result<Streamed, String> {
        let sent = client.send("/v1/completions", Some(self.body()));
        let response = tokio::time::timeout(PATIENCE, sent).await;
        let response = response.map_err(|_| "the server does not answer".to_owned())??;
        if response.status() != 200 {
            return Err(format!("the server answers with status {}", response.status().as_u16()));
        }
        let mut events = Events::new(response.into_body());
        let mut streamed = Streamed::default();
        loop {
            let event = match events.next(PATIENCE).await {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(streamed),
                Err(error) => return Ok(Streamed { error: Some(error), ..streamed }),
            };
            let now = Instant::now();
            let event: Value = serde_json::from_slice(&event).unwrap_or_default();
            if let Some(error) = event.get("error") {
                return Ok(Streamed { error: Some(error.to_string()), ..streamed });
            }
            let id = event["id"].as_str().unwrap_or_default();
            let tokens = event.pointer("/choices/0/token_ids").and_then(Value::as_array);
            for token in tokens.into_iter().flatten() {
                streamed.tokens.extend(token.as_u64());
                streamed.at.push(now);
                each(streamed.tokens.len(), id).await?;
            }
        }
    }
}

// === impl Streamed ===

impl Streamed {
    /// What a deed at a time did to it.
    pub(crate) fn held_against(
        &self,
        undisturbed: &[u64],
        deed: Instant,
        noticed: Option<Instant>,
    ) -> Outcome {
        let mut before = deed;
        let mut longest = None;
        for at in self.at.iter().filter(|at| **at > deed) {
            let pause = *at - before;
            if longest.is_none_or(|(longest, _)| longest < pause) {
                longest = Some((pause, *at - deed));
            }
            before = *at;
        }
        let pairs = self.tokens.iter().zip(undisturbed);
        let more = self.tokens.len().saturating_sub(undisturbed.len());
        Outcome {
            noticed: noticed.map(|at| at.saturating_duration_since(deed)),
            next_token: longest.map(|(_, until)| until),
            pause: longest.map_or(Duration::ZERO, |(pause, _)| pause),
            lost: undisturbed.len().saturating_sub(self.tokens.len()),
            wrong: pairs.filter(|(got, right)| got != right).count() + more,
            error: self.error.clone(),
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// Whether the client got anything but what it would have got anyway.
    pub(crate) fn is_damaged(&self) -> bool {
        self.lost > 0 || self.wrong > 0 || self.error.is_some()
    }
}

/// Which group answers a request, as `NAMESPACE/SERVICE-INDEX`.
pub(crate) async fn placed(client: &HttpClient, request: &str) -> Result<String, String> {
    let path = format!("/debug/placement/{request}");
    let asked = client.get(&path);
    let asked = tokio::time::timeout(PATIENCE, asked).await;
    let (status, body) = asked.map_err(|_| "the gateway does not answer".to_owned())??;
    let told: Value = serde_json::from_slice(&body).unwrap_or_default();
    let decisions = told["decisions"].as_array();
    let endpoint = decisions.and_then(|all| all.last()?["endpoint"].as_str());
    let group = endpoint.and_then(|endpoint| endpoint.split('@').next());
    let group = group.ok_or_else(|| {
        format!("the gateway (status {status}) does not say where {request} was placed")
    })?;
    Ok(group.to_owned())
}

/// How many streams the gateway has let go on elsewhere.
async fn resumed(client: &HttpClient) -> Option<f64> {
    let asked = tokio::time::timeout(PATIENCE, client.get("/metrics")).await;
    let (_, body) = asked.ok()?.ok()?;
    let text = String::from_utf8_lossy(&body);
    let series = format!("{}_total", names::GATEWAY_RESUMES.name);
    let of = |line: &&str| line.split(['{', ' ']).next() == Some(&series);
    let count = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    Some(text.lines().filter(of).filter_map(count).sum())
}

/// Looks until the gateway lets one more go on elsewhere than when this began, and tells when.
pub(crate) async fn watch_resumes(client: HttpClient, noticed: watch::Sender<Option<Instant>>) {
    let before = resumed(&client).await.unwrap_or_default();
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if resumed(&client).await.is_some_and(|now| now > before) {
            noticed.send_replace(Some(Instant::now()));
            return;
        }
    }
}

/// A stream that is silent for longer is given up: every fault is got over sooner.
const PATIENCE: Duration = Duration::from_secs(120);
/// How exactly it is known when the gateway noticed.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_pause_is_the_longest_wait_from_the_deed_on() {
        let start = Instant::now();
        let at = [0, 300, 310, 900, 910].map(|ms| after(start, ms)).into();
        let streamed = Streamed { tokens: vec![1, 2, 3, 4, 5], at, error: None };
        // What came before it does not count, and what was on its way ends nothing.
        let outcome =
            streamed.held_against(&[1, 2, 3, 4, 5], after(start, 305), Some(after(start, 800)));
        let ms = Duration::from_millis;
        assert_eq!(outcome.noticed, Some(ms(495)));
        assert_eq!((outcome.next_token, outcome.pause), (Some(ms(595)), ms(590)));
        assert_eq!((outcome.lost, outcome.wrong), (0, 0));
    }

    #[test]
    fn lost_and_wrong_tokens_are_counted() {
        let start = Instant::now();
        let streamed = |tokens: &[u64]| Streamed {
            tokens: tokens.into(),
            at: vec![start; tokens.len()],
            error: None,
        };
        let held = |tokens: &[u64]| {
            let outcome = streamed(tokens).held_against(&[1, 2, 3], start, None);
            (outcome.lost, outcome.wrong, outcome.next_token)
        };
        assert_eq!(held(&[1, 2, 3]), (0, 0, None));
        assert_eq!(held(&[1]), (2, 0, None));
        assert_eq!(held(&[1, 9, 3]), (0, 1, None));
        assert_eq!(held(&[1, 2, 3, 3]), (0, 1, None), "one too many is wrong");
    }
}
