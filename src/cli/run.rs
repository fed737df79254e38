//! `troupe run MODEL`: a file of prompts in, a file of outputs out, and nothing is left running.
//!
//! The same stack as `troupe serve`, in this process, with its gateway on a free port of the
//! loopback address and a key that nobody else has. Why over HTTP: see [`crate::offline`].

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use troupe_runtime::discovery::directory::Launch;
use uuid::Uuid;

use super::{
    Failure,
    args::HttpArgs,
    say,
    serve::{LaunchArgs, Local},
};
use crate::{
    client::http::HttpClient,
    offline::{
        drive::{FileArgs, Summary, Work},
        files::{self, Output},
        prompts::{self, Defaults, Format},
    },
    stack::asked_to_end,
};

/// Generate for a file of prompts, without a server.
///
/// Results stand in the order of the prompts, each with its line's number. A line that fails has an
/// `error` instead of `outputs`; then the exit code is 1.
#[derive(Args, Debug)]
pub(crate) struct Run {
    /// A folder, a GGUF file, a name on the hub (org/name, org/name@revision), or a file://, hf://,
    /// s3://, gs:// or https:// URI.
    model: String,
    #[command(flatten)]
    file: FileArgs,
    /// How lines are read [default: jsonl for files named so, else text].
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Take prompts as what a user says in a conversation.
    #[arg(long)]
    chat: bool,
    /// Most tokens of output, for lines that do not say.
    #[arg(long, value_name = "TOKENS")]
    max_tokens: Option<u32>,
    /// How freely tokens are chosen, for lines that do not say; 0 is always the likeliest.
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Share of the likeliest tokens to choose from, for lines that do not say.
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    #[command(flatten)]
    how: LaunchArgs,
}

impl Run {
    /// Runs until every prompt has its result; members log as `logging` says.
    pub(crate) async fn run(self: Box<Self>, logging: Vec<String>) -> Result<(), Failure> {
        let launch = self.how.launch(&self.model);
        let (format, defaults) = (self.format(), self.defaults(launch.flags.seed));
        let lines = files::read(&self.file.input)?.into_iter();
        let lines =
            lines.map(|line| prompts::parse(line.number, line.text, format, &defaults)).collect();
        let output = Output::create(&self.file.output, &self.file.input)?;
        let work = Work { lines, tell: prompts::tell, output };
        let summary = alone(&self.file, launch, logging, work).await?;
        match summary.failed {
            0 => Ok(()),
            failed => Err(Failure::run(format!("{failed} of {} lines failed", summary.lines))),
        }
    }

    fn format(&self) -> Format {
        let extension = self.file.input.extension().and_then(|name| name.to_str());
        self.format.unwrap_or(match extension {
            Some("jsonl" | "ndjson" | "json") => Format::Jsonl,
            _ => Format::Text,
        })
    }

    fn defaults(&self, seed: Option<u64>) -> Defaults {
        let fields: [(&str, Option<Value>); 3] = [
            ("max_tokens", self.max_tokens.map(|tokens| json!(tokens))),
            ("temperature", self.temperature.map(|temperature| json!(temperature))),
            ("top_p", self.top_p.map(|share| json!(share))),
        ];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name.into(), value?)));
        Defaults { chat: self.chat, fields: Map::from_iter(given), seed }
    }
}

/// Does the work with a stack of this process's own.
pub(super) async fn alone<C: Send + 'static>(
    file: &FileArgs,
    launch: Launch,
    logging: Vec<String>,
    work: Work<C>,
) -> Result<Summary, Failure> {
    let began = Instant::now();
    let key = Uuid::new_v4().simple().to_string();
    let mut config = HttpArgs::loopback(key.clone()).config()?;
    // Nobody waits: what is behind it in the queue may take its time.
    config.request_timeout = file.patience();
    config.max_requests = config.max_requests.max(file.max_concurrency as usize);
    config.max_connections = config.max_connections.max(2 * file.max_concurrency as usize);
    let mut local = tokio::select! {
        local = Local::start(launch, config, logging) => local?,
        () = asked_to_end() => return Err(Failure::run("interrupted before the model was loaded")),
    };
    let client = HttpClient::new(&format!("http://127.0.0.1:{}", local.port()), Some(key));
    if !client.until_healthy(HEALTHY).await {
        return Err(Failure::run("the gateway does not find the model that was loaded"));
    }
    say(&format!("loaded in {:.2} s", began.elapsed().as_secs_f64()));
    tokio::select! {
        summary = file.drive(&client, work) => summary?.complete(),
        failure = local.ended() => Err(failure),
    }
}

/// How long a gateway may take to find a model that serves in the same process.
const HEALTHY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: Run,
    }

    fn run(line: &str) -> Run {
        Line::try_parse_from(line.split(' ')).expect("it can be parsed").run
    }

    #[test]
    fn a_file_is_read_as_it_is_named() {
        let format = |input| run(&format!("run m -o out -i {input}")).format();
        assert_eq!(format("a.jsonl"), Format::Jsonl);
        assert_eq!(format("a.txt"), Format::Text);
        assert_eq!(format("-"), Format::Text);
        assert_eq!(run("run m -o out -i - --format jsonl").format(), Format::Jsonl);
        assert_eq!(run("run m -o o -i a.jsonl --format text").file.input, Path::new("a.jsonl"));
    }

    #[test]
    fn only_what_was_given_is_asked_for() {
        let defaults = run("run m -o o -i i --max-tokens 5 --temperature 0").defaults(None);
        assert_eq!(Value::Object(defaults.fields), json!({"max_tokens": 5, "temperature": 0.0}));
    }
}
