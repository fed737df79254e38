//! `troupe preflight`: whether the cluster is fit.

use clap::{Args, ValueEnum};
use troupe_runtime::wire::preflight::PreflightUp;

use crate::{
    cli::{Failure, print},
    client::operate::{
        preflight::Report,
        print::{self, Format},
        session::Session,
    },
    stack::operator::{Operator, OperatorArgs},
};

/// Find out whether the cluster is fit.
///
/// Asks every host for its version, devices, limits and disks, lets each measure its way to each
/// other (one pair of a host at a time), compares their clocks and, if one is named, their copies of
/// a model. Says what cannot work or works badly, and what helps. Exits with 1 if anything cannot
/// work.
#[derive(Args, Debug)]
pub(crate) struct Preflight {
    /// Only these hosts [default: all].
    #[arg(value_name = "HOST")]
    hosts: Vec<String>,
    /// A model that every host has to have, as in a service's `spec.model.uri`.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// As one document [default: tables].
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Output>,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Json,
    Yaml,
}

impl Preflight {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let session = Session::new(Operator::connect(&self.operator).await?);
        let mut report = Report::default();
        let question = PreflightUp { hosts: self.hosts, model: self.model };
        session.preflight(&question, |down| report.add(&down)).await?;
        match self.output {
            None => print(&report.tables()),
            Some(Output::Json) => print(&print::document(Format::Json, &report.document())),
            Some(Output::Yaml) => print(&print::document(Format::Yaml, &report.document())),
        }
        match report.count("refused") {
            0 => Ok(()),
            1 => Err(Failure::told("error: the cluster is not fit: 1 finding is a refusal")),
            count => {
                let what = format!("error: the cluster is not fit: {count} findings are refusals");
                Err(Failure::told(what))
            }
        }
    }
}
