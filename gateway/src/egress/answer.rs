//! Many prompts' executions as one answer: a JSON body, or server-sent events.
//!
//! Nothing is answered before the first delta is there (or ten seconds have passed), so that what
//! an engine refuses is a status code and not an event. After that a stream says that it lives
//! every ten seconds, because proxies cut what is silent during a long prefill.
//!
//! An answer that went on at another endpoint says so: in a header ([`RESUMED`]) if it is told as a
//! whole, in a comment of the same words if its headers are gone.

use std::{convert::Infallible, pin::Pin, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::time::Instant;

use super::{pace::Pace, shape::Shape, stream::Delta};
use crate::{
    admission::Permit,
    error::ApiError,
    openai::common::{PromptTokensDetails, Usage},
};

/// Between comments that say that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Prompts of one answer that are under way at a time, if it is told as a whole.
const AT_ONCE: usize = 256;

/// Whether an answer that went on at another endpoint is surely the same: `exact`, `approximate`.
const RESUMED: &str = "x-troupe-resume";

/// One prompt's deltas.
pub(crate) type Deltas = Pin<Box<dyn Stream<Item = Result<Delta, ApiError>> + Send>>;
type Merged = Pin<Box<dyn Stream<Item = (usize, Result<Delta, ApiError>)> + Send>>;

/// How the answer is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Telling {
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) continuous_usage: bool,
    /// Tokens per event.
    pub(crate) interval: u32,
}

/// Everything that an answer is made from.
pub(crate) struct Answer<S> {
    pub(crate) shape: S,
    pub(crate) telling: Telling,
    /// Choices per prompt.
    pub(crate) n: u32,
    /// Tokens of each prompt.
    pub(crate) prompt_tokens: Vec<u32>,
    pub(crate) deltas: Vec<Deltas>,
    pub(crate) permit: Permit,
}

/// What has been counted so far.
struct Tally {
    telling: Telling,
    n: u32,
    prompt_tokens: Vec<u32>,
    /// Per choice of the answer.
    output_tokens: Vec<u32>,
    /// Per prompt.
    cached_tokens: Vec<u32>,
}

/// A stream of events under way.
struct Events<S> {
    shape: S,
    tally: Tally,
    pace: Pace,
    merged: Merged,
    /// Read before the headers were sent.
    first: Option<(usize, Result<Delta, ApiError>)>,
    alive_at: Instant,
    _permit: Permit,
}

impl<S: Shape> Answer<S> {
    /// As the client asked for it.
    pub(crate) async fn respond(self) -> Result<Response, ApiError> {
        let all = self.deltas.into_iter().enumerate();
        let all = all.map(|(prompt, deltas)| deltas.map(move |delta| (prompt, delta)));
        let tally = Tally::new(self.telling, self.n, self.prompt_tokens);
        if !self.telling.stream {
            // Nobody sees in which order they come, and thousands at once would be more than
            // endpoints let wait.
            let merged = Box::pin(stream::iter(all).flatten_unordered(AT_ONCE));
            return whole(self.shape, tally, merged).await;
        }
        let merged: Merged = Box::pin(stream::select_all(all));
        let mut events = Events {
            shape: self.shape,
            pace: Pace::new(tally.telling.interval, tally.output_tokens.len()),
            tally,
            merged,
            first: None,
            alive_at: Instant::now() + KEEP_ALIVE,
            _permit: self.permit,
        };
        match tokio::time::timeout_at(events.alive_at, events.merged.next()).await {
            Ok(Some((_, Err(error)))) => return Err(error),
            Ok(first) => events.first = first,
            Err(_) => {}
        }
        Ok(event_stream(Body::from_stream(events.into_stream())))
    }
}

/// Waits for everything, then tells it.
async fn whole<S: Shape>(
    mut shape: S,
    mut tally: Tally,
    mut merged: Merged,
) -> Result<Response, ApiError> {
    let mut choices = vec![Delta::default(); tally.output_tokens.len()];
    while let Some((prompt, delta)) = merged.next().await {
        let delta = delta?;
        let index = tally.count(prompt, &delta);
        choices[index as usize].append(delta);
    }
    let resumed = choices.iter().filter_map(|choice| choice.resumed).max();
    let body = shape.whole(choices, tally.total());
    let resumed = resumed.map(|fidelity| [(RESUMED, fidelity.name())]);
    Ok(([(header::CONTENT_TYPE, "application/json")], resumed, body).into_response())
}

fn event_stream(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Asks nginx not to collect events before it passes them on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

// === impl Events ===

impl<S: Shape> Events<S> {
    fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        stream::unfold(Some(self), |events| async {
            let mut events = events?;
            let (bytes, more) = events.next().await;
            Some((Ok(bytes), more.then_some(events)))
        })
    }

    /// The next bytes of the body, and whether more follow.
    async fn next(&mut self) -> (Bytes, bool) {
        loop {
            let next = match self.first.take() {
                Some(first) => Some(first),
                None => match tokio::time::timeout_at(self.alive_at, self.merged.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        self.alive_at = Instant::now() + KEEP_ALIVE;
                        return (Bytes::from_static(b": alive\n\n"), true);
                    }
                },
            };
            let mut bytes = Vec::new();
            let more = self.write(next, &mut bytes);
            if !more || !bytes.is_empty() {
                self.alive_at = Instant::now() + KEEP_ALIVE;
                return (bytes.into(), more);
            }
        }
    }

    fn write(&mut self, next: Option<(usize, Result<Delta, ApiError>)>, out: &mut Vec<u8>) -> bool {
        match next {
            Some((prompt, Ok(delta))) => {
                let index = self.tally.count(prompt, &delta);
                if let Some(delta) = self.pace.push(index, delta) {
                    self.tell(index, delta, out);
                }
                return true;
            }
            Some((_, Err(error))) => {
                for (index, delta) in self.pace.rest() {
                    self.tell(index, delta, out);
                }
                tracing::info!(%error, "stream ends with an error");
                write_event(out, &super::shape::json(&error.body()));
            }
            None if self.tally.telling.include_usage => {
                write_event(out, &self.shape.usage_event(self.tally.total()));
            }
            None => {}
        }
        write_event(out, b"[DONE]");
        false
    }

    fn tell(&mut self, index: u32, delta: Delta, out: &mut Vec<u8>) {
        let usage = self.tally.running(index);
        if let Some(fidelity) = delta.resumed {
            out.extend_from_slice(format!(": {RESUMED}: {}\n\n", fidelity.name()).as_bytes());
        }
        for event in self.shape.events(index, delta, usage) {
            write_event(out, &event);
        }
    }
}

fn write_event(out: &mut Vec<u8>, data: &[u8]) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}

// === impl Tally ===

impl Tally {
    fn new(telling: Telling, n: u32, prompt_tokens: Vec<u32>) -> Self {
        let prompts = prompt_tokens.len();
        Self {
            telling,
            n,
            prompt_tokens,
            output_tokens: vec![0; prompts * n as usize],
            cached_tokens: vec![0; prompts],
        }
    }

    /// Counts a delta and says which choice of the answer it belongs to.
    fn count(&mut self, prompt: usize, delta: &Delta) -> u32 {
        let index = prompt as u32 * self.n + delta.choice;
        self.output_tokens[index as usize] += delta.tokens.len() as u32;
        if let Some(end) = &delta.end {
            let cached = &mut self.cached_tokens[prompt];
            *cached = end.usage.cached_tokens.max(*cached);
        }
        index
    }

    /// One choice's usage so far, if it was asked for.
    fn running(&self, index: u32) -> Option<Usage> {
        let output = self.output_tokens[index as usize];
        let prompt = self.prompt_tokens[(index / self.n) as usize];
        let usage = Usage::new(prompt.into(), output.into());
        self.telling.continuous_usage.then_some(usage)
    }

    /// The whole answer's.
    fn total(&self) -> Usage {
        let sum = |counts: &[u32]| counts.iter().map(|count| u64::from(*count)).sum();
        let cached_tokens = sum(&self.cached_tokens);
        Usage {
            prompt_tokens_details: Some(PromptTokensDetails { cached_tokens }),
            ..Usage::new(sum(&self.prompt_tokens), sum(&self.output_tokens))
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::admission::Admission;

    /// Events that name the choice and its text.
    struct Plain;

    impl Shape for Plain {
        fn events(&mut self, index: u32, delta: Delta, _: Option<Usage>) -> Vec<Vec<u8>> {
            vec![format!("{index}{}", delta.text).into_bytes()]
        }

        fn usage_event(&self, usage: Usage) -> Vec<u8> {
            format!("used {}", usage.total_tokens).into_bytes()
        }

        fn whole(&mut self, choices: Vec<Delta>, usage: Usage) -> Vec<u8> {
            let texts: Vec<String> = choices.into_iter().map(|delta| delta.text).collect();
            format!("{} used {}", texts.join("|"), usage.total_tokens).into_bytes()
        }
    }

    /// One prompt that says a text after some seconds, again and again.
    fn deltas(seconds: u64, texts: &'static [&'static str]) -> Deltas {
        let each = stream::iter(texts).then(move |text| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            match *text {
                "!" => Err(ApiError::internal("broke")),
                text => Ok(Delta { text: text.into(), tokens: vec![1], ..Delta::default() }),
            }
        });
        Box::pin(each)
    }

    async fn respond(stream: bool, deltas: Vec<Deltas>) -> Result<String, ApiError> {
        let telling = Telling { stream, include_usage: true, continuous_usage: false, interval: 1 };
        let permit = Admission::new(1).admit()?;
        let prompt_tokens = vec![10; deltas.len()];
        let answer = Answer { shape: Plain, telling, n: 1, prompt_tokens, deltas, permit };
        let body = answer.respond().await?.into_body();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        Ok(String::from_utf8(bytes.to_vec()).expect("text"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_says_that_it_lives() {
        let text = respond(true, vec![deltas(25, &["a"])]).await.unwrap();
        let alive = ": alive\n\n";
        assert_eq!(text, format!("{alive}{alive}data: 0a\n\ndata: used 11\n\ndata: [DONE]\n\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn prompts_take_their_turns() {
        let both = || vec![deltas(2, &["a", "b"]), deltas(3, &["x"])];
        let text = respond(true, both()).await.unwrap();
        assert_eq!(text, "data: 0a\n\ndata: 1x\n\ndata: 0b\n\ndata: used 23\n\ndata: [DONE]\n\n");
        assert_eq!(respond(false, both()).await.unwrap(), "ab|x used 23");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_a_status_before_and_an_event_after() {
        assert!(respond(true, vec![deltas(1, &["!"])]).await.is_err());
        assert!(respond(false, vec![deltas(1, &["a", "!"])]).await.is_err());
        let text = respond(true, vec![deltas(1, &["a", "!", "b"])]).await.unwrap();
        assert!(text.starts_with("data: 0a\n\ndata: {\"error\":{\"message\":\"broke\""), "{text}");
        assert!(text.ends_with("\n\ndata: [DONE]\n\n") && !text.contains("0b"), "{text}");
    }
}
