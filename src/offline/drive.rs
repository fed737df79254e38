//! Asks for every line of a file, so many at a time, and writes the results in order.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::Value;

use super::files::Output;
use crate::{
    cli::{Failure, progress::Progress, say},
    client::{
        answer::Answer,
        flow::{Ended, in_order},
        http::HttpClient,
    },
};

/// A file of requests, and how they are sent.
#[derive(Args, Clone, Debug)]
pub(crate) struct FileArgs {
    /// The file of requests; - is standard input.
    #[arg(short = 'i', long, visible_alias = "input-file", value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// The file of results, a JSON object per line; - is standard output.
    #[arg(short = 'o', long, visible_alias = "output-file", value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Most requests at a time.
    #[arg(long, default_value_t = 256, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_concurrency: u32,
    /// How long one request may take, with all of its waiting, in seconds.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) request_timeout: u64,
}

/// What a line asks for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) body: String,
}

/// Why a line has no answer.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

/// A line's result.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) line: Value,
    /// Tokens of output.
    pub(crate) tokens: u64,
    pub(crate) failed: bool,
}

/// A file's lines, each with what its result needs to know of it.
pub(crate) struct Work<C> {
    pub(crate) lines: Vec<(C, Result<Asked, Problem>)>,
    pub(crate) tell: fn(C, Result<Answer, Problem>) -> Told,
    pub(crate) output: Output,
}

/// What came of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) lines: usize,
    pub(crate) written: usize,
    pub(crate) failed: usize,
}

// === impl FileArgs ===

impl FileArgs {
    /// How long one request may take.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.request_timeout)
    }

    /// Asks `client` for everything, and says what came of it.
    pub(crate) async fn drive<C: Send + 'static>(
        &self,
        client: &HttpClient,
        mut work: Work<C>,
    ) -> Result<Summary, Failure> {
        let mut summary = Summary { lines: work.lines.len(), ..Summary::default() };
        let (tell, patience) = (work.tell, self.patience());
        let jobs = work.lines.into_iter().map(|(context, asked)| {
            let client = client.clone();
            async move {
                let answer = match asked {
                    Ok(Asked { path, body }) => {
                        client.ask(&path, body, patience).await.map_err(Problem::no_answer)
                    }
                    Err(problem) => Err(problem),
                };
                tell(context, answer)
            }
        });
        let mut progress = Progress::new(summary.lines);
        let ended = in_order(self.max_concurrency as usize, jobs, |_, told| {
            progress.done(told.tokens);
            summary.written += 1;
            summary.failed += usize::from(told.failed);
            work.output.write(&told.line)
        })
        .await?;
        let how = match ended {
            Ended::All => "done",
            Ended::Interrupted => "interrupted",
        };
        let (Summary { lines, written, failed }, rate) = (summary, progress.finish());
        say(&format!("{how}: {written} of {lines} results, {failed} failed; {rate}"));
        Ok(summary)
    }
}

// === impl Problem ===

impl Problem {
    /// A line of the input is no request.
    pub(crate) fn line(number: usize, why: &str) -> Self {
        Self { kind: "invalid_line", message: format!("line {number}: {why}") }
    }

    /// The server gave no answer.
    fn no_answer(message: String) -> Self {
        Self { kind: "no_answer", message }
    }
}

// === impl Summary ===

impl Summary {
    /// A failure unless every line has its result.
    pub(crate) fn complete(self) -> Result<Self, Failure> {
        let Self { lines, written, .. } = self;
        match written == lines {
            true => Ok(self),
            false => Err(Failure::run(format!(
                "interrupted: {} of {lines} lines have no result",
                lines - written
            ))),
        }
    }
}
