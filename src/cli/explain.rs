//! `troupe explain`: where a request went, and why.

use std::{fmt::Write as _, time::Duration};

use clap::Args;
use serde_json::Value;

use super::{Failure, print};
use crate::client::http::HttpClient;

/// Show where a request was placed, and why: candidates, what filters dropped, every score, and
/// what was expected and came of it.
#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// The request's id: an answer's `id`, or its `x-request-id` header.
    #[arg(value_name = "REQUEST_ID")]
    request: String,
    /// The gateway that answered it.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    server: String,
    /// The gateway's key, if it has one.
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// As the gateway tells it, in JSON.
    #[arg(long)]
    json: bool,
}

/// A gateway that does not answer in this time is away.
const PATIENCE: Duration = Duration::from_secs(10);

impl Explain {
    /// Asks once.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let whole = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        if self.request.is_empty() || !self.request.bytes().all(whole) {
            return Err(Failure::usage(format!("{:?} is not a request's id", self.request)));
        }
        let client = HttpClient::new(&self.server, self.api_key.clone());
        let path = format!("/debug/placement/{}", self.request);
        let asked = tokio::time::timeout(PATIENCE, client.get(&path)).await;
        let late = || Failure::run(format!("{}: no answer in {PATIENCE:?}", client.base()));
        let (status, body) = asked.map_err(|_| late())?.map_err(Failure::run)?;
        let told: Value = serde_json::from_slice(&body).unwrap_or_default();
        match status {
            200 if self.json => print(&format!("{told:#}")),
            200 => print(explained(&told).trim_end()),
            401 => return Err(Failure::usage("the gateway wants a key: give --api-key KEY")),
            _ => {
                let why = told["error"]["message"].as_str().map(str::to_owned);
                let why = why.unwrap_or_else(|| format!("it answers with status {status}"));
                return Err(Failure::run(format!("{}: {why}", client.base())));
            }
        }
        Ok(())
    }
}

/// As a person reads it.
fn explained(told: &Value) -> String {
    let mut text = String::new();
    for decision in list(&told["decisions"]) {
        // Writing to memory cannot fail.
        let _ = one(&mut text, decision);
    }
    text
}

fn one(text: &mut String, decision: &Value) -> std::fmt::Result {
    let word = |key: &str| decision[key].as_str().unwrap_or("?");
    writeln!(text, "Request {} for {}", word("request"), word("model"))?;
    writeln!(text, "  went to {}", word("endpoint"))?;
    if let Some(helper) = decision["prefillEndpoint"].as_str() {
        writeln!(text, "  its prompt is computed by {helper}")?;
    }
    let (tokens, cached) = (&decision["promptTokens"], &decision["cachedTokens"]);
    writeln!(text, "  prompt: {tokens} tokens, {cached} of them cached there")?;
    let (candidates, tried) = (&decision["candidates"], &decision["tried"]);
    writeln!(text, "  candidates: {candidates}, tried before: {tried}")?;
    if let Some(weighed) = decision["prefillApart"].as_object() {
        let apart = if weighed["apart"] == true { "pays" } else { "does not pay" };
        write!(
            text,
            "  computing it apart {apart}: {} tokens are not cached",
            weighed["uncached"]
        )?;
        if let (Some(here), Some(there)) = (weighed.get("here"), weighed.get("there")) {
            write!(text, ", {} here, {} apart", seconds(here), seconds(there))?;
        }
        writeln!(text)?;
    }
    if let Some(peer) = decision["peer"].as_object() {
        let fetches = if peer["fetched"] == true { "fetches from" } else { "does not fetch from" };
        let (name, tokens) = (peer["endpoint"].as_str().unwrap_or("?"), &peer["cachedTokens"]);
        let (sending, computing) = (seconds(&peer["sending"]), seconds(&peer["computing"]));
        writeln!(
            text,
            "  {fetches} {name}, which has {tokens} tokens cached: {sending} to send \
             what is missing, {computing} to compute it"
        )?;
    }
    for profile in list(&decision["profiles"]) {
        step(text, profile)?;
    }
    let (predicted, actual) = (&decision["predicted"], &decision["actual"]);
    for (what, key) in [("first token", "firstTokenSeconds"), ("per token", "perTokenSeconds")] {
        let (expected, came) = (seconds(&predicted[key]), seconds(&actual[key]));
        writeln!(text, "  {what}: expected {expected}, came after {came}")?;
    }
    writeln!(text, "  output: {} tokens\n", actual["outputTokens"])
}

fn step(text: &mut String, profile: &Value) -> std::fmt::Result {
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let picker = word(&profile["picker"]);
    writeln!(text, "  profile {}, {picker}:", word(&profile["profile"]))?;
    for filter in list(&profile["filters"]).filter(|filter| filter["dropped"] != 0) {
        let examples: Vec<String> = list(&filter["examples"]).map(word).collect();
        let (name, dropped) = (word(&filter["filter"]), &filter["dropped"]);
        writeln!(text, "    {name} dropped {dropped}: {}", examples.join(", "))?;
    }
    let scorers = list(&profile["scorers"]);
    let heads = scorers.map(|one| format!("{} x{}", word(&one["scorer"]), number(&one["weight"])));
    let heads: Vec<String> = heads.collect();
    let names: Vec<String> = list(&profile["best"]).map(|best| word(&best["endpoint"])).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0);
    if !names.is_empty() {
        writeln!(text, "      {:width$}  total  {}", "", heads.join("  "))?;
    }
    for (best, name) in list(&profile["best"]).zip(&names) {
        let mark = if best["picked"] == true { "*" } else { " " };
        write!(text, "    {mark} {name:width$}  {:>5}", number(&best["total"]))?;
        for (score, head) in list(&best["scores"]).zip(&heads) {
            write!(text, "  {:>width$}", number(score), width = head.len())?;
        }
        writeln!(text)?;
    }
    Ok(())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn number(value: &Value) -> String {
    value.as_f64().map_or_else(|| "?".to_owned(), |number| format!("{number:.2}"))
}

fn seconds(value: &Value) -> String {
    match value.as_f64() {
        Some(time) if time < 1.0 => format!("{:.1} ms", time * 1000.0),
        Some(time) => format!("{time:.2} s"),
        None => "(not known)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_decision_reads_from_top_to_bottom() {
        let told = json!({"request": "r", "decisions": [{
            "request": "r", "model": "m", "endpoint": "ns/s/1", "tried": 0, "candidates": 3,
            "promptTokens": 100, "cachedTokens": 64,
            "peer": {"endpoint": "ns/s/2", "cachedTokens": 96, "sending": 0.006,
                "computing": 0.25, "fetched": true},
            "profiles": [{
                "profile": "default", "picker": "max-score-picker",
                "filters": [
                    {"filter": "role-filter", "dropped": 1, "examples": ["ns/s/2"]},
                    {"filter": "other", "dropped": 0, "examples": []},
                ],
                "scorers": [{"scorer": "queue-scorer", "weight": 2.0}],
                "best": [
                    {"endpoint": "ns/s/1", "total": 2.0, "scores": [1.0], "picked": true},
                    {"endpoint": "ns/s/10", "total": 0.5, "scores": [0.25], "picked": false},
                ],
            }],
            "predicted": {"firstTokenSeconds": 0.12, "perTokenSeconds": 0.01},
            "actual": {"firstTokenSeconds": 1.5, "outputTokens": 8},
        }]});
        let expected = "\
Request r for m
  went to ns/s/1
  prompt: 100 tokens, 64 of them cached there
  candidates: 3, tried before: 0
  fetches from ns/s/2, which has 96 tokens cached: 6.0 ms to send what is missing, 250.0 ms to \
compute it
  profile default, max-score-picker:
    role-filter dropped 1: ns/s/2
               total  queue-scorer x2.00
    * ns/s/1    2.00                1.00
      ns/s/10   0.50                0.25
  first token: expected 120.0 ms, came after 1.50 s
  per token: expected 10.0 ms, came after (not known)
  output: 8 tokens

";
        assert_eq!(explained(&told), expected);
    }
}
