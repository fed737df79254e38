//! Which server, which model, and in which words it is asked.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::dataset::{Prompt, Sample};
use crate::{
    cli::{Failure, say},
    client::http::HttpClient,
};

/// Where requests go.
#[derive(Args, Clone, Debug)]
pub(crate) struct TargetArgs {
    /// Which of OpenAI's APIs is asked.
    #[arg(long, value_enum, default_value_t = Backend::Openai)]
    pub(crate) backend: Backend,
    /// Where the server is [default: http://HOST:PORT].
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// The server's host.
    #[arg(long, default_value = "127.0.0.1", value_name = "HOST")]
    host: String,
    /// The server's port.
    #[arg(long, default_value_t = 8000, value_name = "PORT")]
    port: u16,
    /// The path that requests go to [default: the backend's].
    #[arg(long, value_name = "PATH")]
    endpoint: Option<String>,
    /// The model's name [default: the first that is served].
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The name that requests use, if it is another.
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// A further header of each request, as KEY=VALUE.
    #[arg(long, num_args = 1.., value_name = "KEY=VALUE")]
    header: Vec<String>,
    /// The key, if the server wants one.
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// What each request's `X-Request-Id` begins with; its number follows [default: bench- and a
    /// text that no other run has].
    #[arg(long, value_name = "TEXT")]
    request_id_prefix: Option<String>,
    /// How long the server may take to be there, in seconds.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    ready_check_timeout_sec: u64,
    /// Go on past the model's own end [default for random prompts].
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// How tokens are chosen.
#[derive(Args, Clone, Debug)]
struct SamplingArgs {
    /// How freely tokens are chosen; 0 is always the likeliest.
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    temperature: f64,
    /// Share of the likeliest tokens to choose from.
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Number of the likeliest tokens to choose from.
    #[arg(long, value_name = "K")]
    top_k: Option<i64>,
    /// Least share of the likeliest token's probability.
    #[arg(long, value_name = "P")]
    min_p: Option<f64>,
    /// Subtracted per occurrence in the output.
    #[arg(long, value_name = "X")]
    frequency_penalty: Option<f64>,
    /// Subtracted once per token in the output.
    #[arg(long, value_name = "X")]
    presence_penalty: Option<f64>,
    /// Divides logits of tokens that were there; 1 is none.
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    repetition_penalty: f64,
    /// Alternatives to report per token.
    #[arg(long, value_name = "N")]
    logprobs: Option<u32>,
    /// Further fields of each request, as a JSON object.
    #[arg(long, value_name = "JSON", value_parser = object)]
    extra_body: Option<Map<String, Value>>,
}

/// One of OpenAI's APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// Completions, with prompts as text or tokens.
    #[value(alias = "vllm")]
    Openai,
    /// Chat completions, with prompts as text.
    OpenaiChat,
}

/// A server that is there.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) client: HttpClient,
    pub(crate) backend: Backend,
    /// The path that requests go to.
    pub(crate) endpoint: String,
    /// What each request's id begins with.
    pub(crate) request_id_prefix: String,
    /// The model's name.
    pub(crate) model: String,
    /// Most tokens of prompt and output together, if the server says.
    pub(crate) max_model_len: Option<u64>,
    /// What each request says beside its prompt and length.
    fields: Map<String, Value>,
}

impl TargetArgs {
    /// Waits until the server lists the model.
    pub(crate) async fn reach(&self) -> Result<Target, Failure> {
        let client = self.client()?;
        let listed = self.until_listed(&client).await?;
        let name = self.served_model_name.as_ref().or(self.model.as_ref());
        let (model, max_model_len) = match name {
            None => listed.into_iter().next().unwrap_or_default(),
            Some(name) => {
                let known = listed.into_iter().find(|(known, _)| known == name);
                (name.clone(), known.and_then(|(_, len)| len))
            }
        };
        let endpoint = self.endpoint.clone().unwrap_or_else(|| match self.backend {
            Backend::Openai => "/v1/completions".into(),
            Backend::OpenaiChat => "/v1/chat/completions".into(),
        });
        let request_id_prefix = self.request_id_prefix.clone().unwrap_or_else(|| {
            let run = Uuid::new_v4().simple().to_string();
            format!("bench-{}-", run.get(..8).unwrap_or(&run))
        });
        let (backend, fields) = (self.backend, self.fields(&model));
        Ok(Target { client, backend, endpoint, request_id_prefix, model, max_model_len, fields })
    }

    fn client(&self) -> Result<HttpClient, Failure> {
        let url = match &self.base_url {
            Some(url) => url.clone(),
            None => format!("http://{}:{}", self.host, self.port),
        };
        let mut client = HttpClient::new(&url, self.api_key.clone());
        for header in &self.header {
            let Some((name, value)) = header.split_once('=') else {
                return Err(Failure::usage(format!("--header {header}: KEY=VALUE is needed")));
            };
            client = client.with_header(name.trim(), value.trim()).map_err(Failure::usage)?;
        }
        Ok(client)
    }

    /// The models that the server lists, once it lists one.
    async fn until_listed(
        &self,
        client: &HttpClient,
    ) -> Result<Vec<(String, Option<u64>)>, Failure> {
        let deadline = Instant::now() + Duration::from_secs(self.ready_check_timeout_sec);
        let mut waiting = false;
        loop {
            let asked =
                tokio::time::timeout_at(deadline.max(Instant::now() + RETRY), client.models());
            let why = match asked.await {
                Ok(Ok(models)) if !models.is_empty() => return Ok(models),
                Ok(Ok(_)) => "it serves no model yet".to_owned(),
                // No waiting makes another key of it.
                Ok(Err(error)) if error.contains("status 401") => return Err(Failure::run(error)),
                Ok(Err(error)) => error,
                Err(_) => "it does not answer".to_owned(),
            };
            if Instant::now() >= deadline {
                return Err(Failure::run(format!("{}: {why}", client.base())));
            }
            if !std::mem::replace(&mut waiting, true) {
                say(&format!("waiting for {}: {why}", client.base()));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn fields(&self, model: &str) -> Map<String, Value> {
        let asked = &self.sampling;
        let mut fields = Map::new();
        let mut field = |name: &str, value: Value| {
            if !value.is_null() {
                fields.insert(name.to_owned(), value);
            }
        };
        field("model", model.into());
        field("temperature", asked.temperature.into());
        // Said, or a model's own `generation_config.json` might have another.
        field("repetition_penalty", asked.repetition_penalty.into());
        field("top_p", asked.top_p.into());
        field("top_k", asked.top_k.into());
        field("min_p", asked.min_p.into());
        field("frequency_penalty", asked.frequency_penalty.into());
        field("presence_penalty", asked.presence_penalty.into());
        match self.backend {
            Backend::Openai => field("logprobs", asked.logprobs.into()),
            Backend::OpenaiChat if asked.logprobs.is_some() => {
                field("logprobs", true.into());
                field("top_logprobs", asked.logprobs.into());
            }
            Backend::OpenaiChat => {}
        }
        field("stream", true.into());
        field("stream_options", json!({"include_usage": true}));
        if self.ignore_eos {
            field("ignore_eos", true.into());
        }
        fields.extend(asked.extra_body.clone().unwrap_or_default());
        fields
    }
}

impl Target {
    /// The body of a request.
    pub(crate) fn body(&self, sample: &Sample) -> String {
        let mut body = self.fields.clone();
        let (length, prompt) = match self.backend {
            Backend::Openai => ("max_tokens", ("prompt", sample.prompt.json())),
            Backend::OpenaiChat => {
                let content = match &sample.prompt {
                    Prompt::Text(text) => json!([{"type": "text", "text": text}]),
                    // A dataset makes texts for this backend.
                    Prompt::Tokens(tokens) => json!(tokens),
                };
                let messages = json!([{"role": "user", "content": content}]);
                ("max_completion_tokens", ("messages", messages))
            }
        };
        body.insert(prompt.0.into(), prompt.1);
        body.insert(length.into(), sample.output_len.into());
        Value::Object(body).to_string()
    }
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("a JSON object is needed: {error}"))
}

/// Between two looks for a server that is not there yet.
const RETRY: Duration = Duration::from_millis(500);
