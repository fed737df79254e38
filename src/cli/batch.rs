//! `troupe batch`: a file as OpenAI's batch API takes it, in one go.
//!
//! Served by a stack of this process's own (`--model`, as `troupe run`), or by a server that runs
//! already (`--base-url`).

use std::collections::BTreeSet;

use clap::Args;

use super::{Failure, run, serve::LaunchArgs};
use crate::{
    client::http::HttpClient,
    offline::{
        batch,
        drive::{FileArgs, Work},
        files::{self, Output},
    },
};

/// Answer an OpenAI batch file.
///
/// Every line of the input gets one line of the output, in order. What a server refuses stands
/// there with its status, what is no request with an `error`; neither ends the batch, nor changes
/// the exit code.
#[derive(Args, Debug)]
pub(crate) struct Batch {
    #[command(flatten)]
    file: FileArgs,
    /// The model to start: a folder, a GGUF file, a name on the hub (org/name, org/name@revision),
    /// or a file://, hf://, s3://, gs:// or https:// URI.
    #[arg(long, required_unless_present = "base_url", value_name = "MODEL")]
    model: Option<String>,
    /// A server to ask instead, as http://localhost:8000.
    #[arg(long, conflicts_with = "model", value_name = "URL")]
    base_url: Option<String>,
    /// The key, if that server wants one.
    #[arg(long, requires = "base_url", value_name = "KEY")]
    api_key: Option<String>,
    #[command(flatten)]
    how: LaunchArgs,
}

impl Batch {
    /// Runs until every line has its answer; members log as `logging` says.
    pub(crate) async fn run(self: Box<Self>, logging: Vec<String>) -> Result<(), Failure> {
        let mut seen = BTreeSet::new();
        let lines = files::read(&self.file.input)?.into_iter();
        let lines = lines.map(|line| batch::parse(line.number, line.text, &mut seen)).collect();
        let output = Output::create(&self.file.output, &self.file.input)?;
        let work = Work { lines, tell: batch::tell, output };
        match (&self.model, &self.base_url) {
            (_, Some(url)) => {
                let client = HttpClient::new(url, self.api_key.clone());
                self.file.drive(&client, work).await?.complete()?;
            }
            (Some(model), None) => {
                run::alone(&self.file, self.how.launch(model), logging, work).await?;
            }
            (None, None) => return Err(Failure::usage("--model or --base-url is needed")),
        }
        Ok(())
    }
}
