//! `troupe apply -f FILE`: what the documents say is what there is to be. `troupe create -f FILE`
//! is the same where nothing of that name may be there yet.

use std::path::PathBuf;

use clap::Args;
use troupe_actors::operate::Resource;
use troupe_runtime::wire::operate::{
    self as wire, ApplyHow, Change, OperateDown, OperateUp, Outcome,
};

use super::reach::{DryRun, Reach, Tally, document, report, warn};
use crate::{
    cli::{Failure, print, say},
    client::operate::{
        files::{self, Document},
        print::{self, Format},
        session::refused,
    },
};

/// Make objects as files say: created if they are not there, changed if they are.
#[derive(Args, Debug)]
pub(crate) struct Apply {
    #[command(flatten)]
    files: Files,
}

/// Create the objects of files, which must not be there yet.
#[derive(Args, Debug)]
pub(crate) struct Create {
    #[command(flatten)]
    files: Files,
}

#[derive(Args, Debug)]
struct Files {
    /// A file of YAML or JSON documents, a folder of such, or - for standard input; may be given
    /// several times.
    #[arg(short, long, required = true, value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// Folders below folders too.
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    dry_run: DryRun,
    /// Show each object instead of a line: yaml, json or name.
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
    #[command(flatten)]
    reach: Reach,
}

impl Apply {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        self.files.make(ApplyHow::Apply).await
    }
}

impl Create {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        self.files.make(ApplyHow::Create).await
    }
}

impl Files {
    async fn make(self, how: ApplyHow) -> Result<(), Failure> {
        let read = files::read(&self.filename, self.recursive, &self.reach.of_files())?;
        if self.dry_run.is_here() {
            for warning in &read.warnings {
                say(&format!("Warning: {warning}"));
            }
            return self.pretend(&read.documents, how);
        }
        let documents = read.documents.iter().map(|it| it.document.to_string()).collect();
        let change = Change::Apply(wire::Apply { documents, how });
        let session = self.reach.session().await?;
        let question = OperateUp::Change(Box::new(change), self.dry_run.run());
        let mut answers = session.ask(&question).await?;
        let mut tally = Tally::new();
        while let Some(answer) = answers.next_or_refused().await? {
            match answer {
                OperateDown::Changed(changed) => {
                    warn(&changed);
                    self.show(&changed)?;
                }
                OperateDown::Refused(refusal) => tally.add(Err(refused(&refusal))),
                // Whoever wants documents gets nothing else.
                OperateDown::Plan(lines) if self.shows_lines() => {
                    for line in lines {
                        print(&format!("{line}\n"));
                    }
                }
                _ => {}
            }
        }
        tally.end()
    }

    fn shows_lines(&self) -> bool {
        matches!(self.output, None | Some(Format::Table | Format::Wide))
    }

    fn show(&self, changed: &wire::Changed) -> Result<(), Failure> {
        match self.output {
            None | Some(Format::Table | Format::Wide) => {
                let done = match changed.outcome {
                    Outcome::Created => "created",
                    _ => "configured",
                };
                report(changed, done, "unchanged", self.dry_run);
            }
            Some(Format::Name) => print(&format!("{}\n", print::name(&document(changed)?))),
            Some(format) => {
                let separator = if format == Format::Yaml { "---\n" } else { "" };
                let text = print::document(format, &document(changed)?);
                print(&format!("{separator}{text}"));
            }
        }
        Ok(())
    }

    /// What can be said without a cluster: that the documents are good.
    fn pretend(&self, documents: &[Document], how: ApplyHow) -> Result<(), Failure> {
        let done = if how == ApplyHow::Create { "created" } else { "configured" };
        for document in documents {
            match self.output {
                Some(format @ (Format::Yaml | Format::Json)) => {
                    print(&print::document(format, &document.document));
                }
                _ => {
                    let name = Resource::Declared(document.kind).slash(&document.name);
                    print(&format!("{name} {done} (dry run)\n"));
                }
            }
        }
        Ok(())
    }
}
