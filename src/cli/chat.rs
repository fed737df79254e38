//! `troupe chat`: talk to a served model, with tokens per second at the end of each answer.

use std::{io::BufRead, time::Duration};

use clap::Args;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Failure, print, say};
use crate::client::{answer::whole, events::Events, http::HttpClient};

/// Talk to a served model.
#[derive(Args, Debug)]
pub(crate) struct Chat {
    /// Where the server is.
    #[arg(long, default_value = "http://localhost:8000", value_name = "URL")]
    url: String,
    /// Which model [default: the first that is served].
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The key, if the server wants one.
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// How freely tokens are chosen; 0 is always the likeliest.
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// One question; without it, a conversation line by line until the input ends.
    prompt: Option<String>,
}

impl Chat {
    /// Talks until the input ends.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = HttpClient::new(&self.url, self.api_key.clone());
        let model = match self.model.clone() {
            Some(model) => model,
            None => {
                let models = client.models().await.map_err(Failure::run)?;
                let first = models.into_iter().next();
                first.ok_or_else(|| Failure::run("the server serves no model yet"))?.0
            }
        };
        let mut messages = Vec::new();
        if let Some(system) = &self.system {
            messages.push(json!({"role": "system", "content": system}));
        }
        if let Some(prompt) = self.prompt.clone() {
            return self.turn(&client, &model, &mut messages, prompt).await;
        }
        say(&format!("{model} at {}. An empty line or Ctrl-D ends.", self.url));
        loop {
            let Some(line) = tokio::task::spawn_blocking(read_line)
                .await
                .map_err(|error| Failure::run(error.to_string()))?
            else {
                return Ok(());
            };
            self.turn(&client, &model, &mut messages, line).await?;
        }
    }

    async fn turn(
        &self,
        client: &HttpClient,
        model: &str,
        messages: &mut Vec<Value>,
        prompt: String,
    ) -> Result<(), Failure> {
        messages.push(json!({"role": "user", "content": prompt}));
        let mut body = json!({
            "model": model,
            "messages": messages,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        if let (Some(temperature), Some(body)) = (self.temperature, body.as_object_mut()) {
            body.insert("temperature".into(), temperature.into());
        }
        let began = Instant::now();
        let response = client
            .send("/v1/chat/completions", Some(body.to_string()))
            .await
            .map_err(Failure::run)?;
        if !response.status().is_success() {
            let answer = whole(response).await.map_err(Failure::run)?;
            return Err(Failure::run(answer.complaint()));
        }
        let answer = print_stream(Events::new(response.into_body()), began).await?;
        messages.push(json!({"role": "assistant", "content": answer}));
        Ok(())
    }
}

/// Prints an answer as it comes and says how fast it came.
async fn print_stream(mut events: Events, began: Instant) -> Result<String, Failure> {
    let mut first = None;
    let mut answer = String::new();
    let mut tokens = 0;
    while let Some(data) = events.next(PATIENCE).await.map_err(Failure::run)? {
        let Ok(event) = serde_json::from_slice::<Value>(&data) else { continue };
        if let Some(error) = event.pointer("/error/message").and_then(Value::as_str) {
            return Err(Failure::run(error));
        }
        if let Some(text) = event.pointer("/choices/0/delta/content").and_then(Value::as_str) {
            first.get_or_insert_with(|| began.elapsed());
            print(text);
            answer.push_str(text);
        }
        if let Some(count) = event.pointer("/usage/completion_tokens").and_then(Value::as_u64) {
            tokens = count;
        }
    }
    print("\n");
    let (first, whole) = (first.unwrap_or_default(), began.elapsed());
    let decode = (whole - first).as_secs_f64().max(1e-6);
    say(&format!(
        "[{tokens} tokens, {:.1} ms to the first, {:.1} tokens/s]",
        first.as_secs_f64() * 1e3,
        tokens.saturating_sub(1) as f64 / decode
    ));
    Ok(answer)
}

fn read_line() -> Option<String> {
    print("> ");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).ok()?;
    let line = line.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// A server that lives says something every 10 s.
const PATIENCE: Duration = Duration::from_secs(120);
