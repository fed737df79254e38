//! `troupe rollout`: how far one is, what there was before, back to that, and all groups anew.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;
use tokio::time::timeout;
use troupe_actors::operate::Resource;
use troupe_runtime::{
    spec::quantity,
    wire::operate::{Change, ObjectName, OperateDown, OperateUp, Pause, Selection, Undo},
};

use super::reach::{DryRun, Reach, Tally, change, report};
use crate::{
    cli::{Failure, print},
    client::operate::{
        columns::at,
        print::{self, Format},
        rollout::{Progress, progress},
        session::{Session, parse},
        table::{Table, Titles},
        target::targets,
    },
};

/// Look at rollouts of services, and steer them.
#[derive(Args, Debug)]
pub(crate) struct Rollout {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Wait until every group is of the newest revision and serves.
    Status(Status),
    /// Declare a service as it was before.
    Undo(Back),
    /// Show what a service was declared as.
    History(History),
    /// Form every group of a service anew, as a rollout.
    Restart(Restart),
    /// Let groups keep the revision that they have, until resumed.
    Pause(Restart),
    /// Let groups take up the newest revision again.
    Resume(Restart),
}

#[derive(Args, Debug)]
struct Named {
    /// KIND/NAME, or KIND NAME.
    #[arg(value_name = "KIND/NAME", required = true)]
    what: Vec<String>,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Args, Debug)]
struct Status {
    #[command(flatten)]
    named: Named,
    /// How long to wait; 0 is for ever.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = patience)]
    timeout: Duration,
    /// Whether to wait; without, how far it is now.
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true",
          action = clap::ArgAction::Set)]
    watch: bool,
}

#[derive(Args, Debug)]
struct Back {
    #[command(flatten)]
    named: Named,
    /// The revision to go back to; 0 is the one before.
    #[arg(long, value_name = "N", default_value_t = 0)]
    to_revision: u64,
    #[command(flatten)]
    dry_run: DryRun,
}

#[derive(Args, Debug)]
struct History {
    #[command(flatten)]
    named: Named,
    /// Show this revision itself.
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
}

#[derive(Args, Debug)]
struct Restart {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    dry_run: DryRun,
}

impl Rollout {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::Status(status) => status.run().await,
            Verb::Undo(back) => {
                let to = Some(back.to_revision).filter(|number| *number > 0);
                let undo = |object| Change::Undo(Undo { object, to });
                let said = ["rolled back", "skipped rollback (current template already matches)"];
                back.named.change(undo, said, back.dry_run).await
            }
            Verb::Restart(restart) => {
                let said = ["restarted", "restarted"];
                restart.named.change(Change::Restart, said, restart.dry_run).await
            }
            Verb::Pause(pause) => {
                let what = |object| Change::Pause(Pause { object, paused: true });
                pause.named.change(what, ["paused", "paused"], pause.dry_run).await
            }
            Verb::Resume(resume) => {
                let what = |object| Change::Pause(Pause { object, paused: false });
                resume.named.change(what, ["resumed", "resumed"], resume.dry_run).await
            }
            Verb::History(history) => history.run().await,
        }
    }
}

impl Named {
    fn services(&self) -> Result<Vec<ObjectName>, Failure> {
        let targets =
            targets(&self.what).map_err(|error| Failure::told(format!("error: {error}")))?;
        let objects = self.reach.objects(targets)?.into_iter();
        objects
            .map(|(resource, object)| match resource {
                Resource::SERVICE => Ok(object),
                resource => Err(Failure::told(format!(
                    "error: {} has no rollouts: only services have, llminferenceservice/NAME",
                    resource.slash(&object.name)
                ))),
            })
            .collect()
    }

    async fn change(
        &self,
        what: impl Fn(ObjectName) -> Change,
        [done, else_say]: [&str; 2],
        dry_run: DryRun,
    ) -> Result<(), Failure> {
        let services = self.services()?;
        let session = self.reach.session().await?;
        let mut tally = Tally::new();
        for service in services {
            let changed = change(&session, what(service), dry_run).await;
            tally.add(changed.map(|changed| report(&changed, done, else_say, dry_run)));
        }
        tally.end()
    }
}

impl Status {
    async fn run(self) -> Result<(), Failure> {
        let services = self.named.services()?;
        let session = self.named.reach.session().await?;
        let mut tally = Tally::new();
        for service in services {
            let follow = self.follow(&session, &service);
            tally.add(match self.timeout.is_zero() {
                true => follow.await,
                false => timeout(self.timeout, follow).await.unwrap_or_else(|_| {
                    Err(Failure::told("error: timed out waiting for the condition"))
                }),
            });
        }
        tally.end()
    }

    async fn follow(&self, session: &Session, service: &ObjectName) -> Result<(), Failure> {
        let selection = Selection {
            kind: service.kind.clone(),
            namespace: Some(service.namespace.clone()),
            name: Some(service.name.clone()),
            labels: String::new(),
        };
        let mut answers = session.ask(&OperateUp::Watch(selection)).await?;
        let mut said = String::new();
        loop {
            let document = match answers.wait().await? {
                Some(OperateDown::Object(document)) => parse(&document)?,
                Some(OperateDown::Gone(_)) => {
                    return Err(Failure::told("error: object has been deleted"));
                }
                Some(_) => continue,
                None => return Err(Failure::told("error: the control host is ending")),
            };
            match progress(&document) {
                Progress::Done => {
                    let name = &service.name;
                    print(&format!("llminferenceservice \"{name}\" successfully rolled out\n"));
                    return Ok(());
                }
                Progress::Failed(why) => {
                    let name = &service.name;
                    return Err(Failure::told(format!(
                        "error: llminferenceservice \"{name}\": {why}"
                    )));
                }
                Progress::Waiting(what) => {
                    if what != said {
                        print(&format!("{what}\n"));
                    }
                    said = what;
                }
            }
            if !self.watch {
                return Ok(());
            }
        }
    }
}

impl History {
    async fn run(self) -> Result<(), Failure> {
        let services = self.named.services()?;
        let session = self.named.reach.session().await?;
        for service in services {
            let name = &service.name;
            // That there is no such service is another answer than that it has no revisions.
            let one = Selection {
                kind: service.kind.clone(),
                namespace: Some(service.namespace.clone()),
                name: Some(name.clone()),
                labels: String::new(),
            };
            session.objects(one).await?;
            let mut revisions = session
                .objects(Selection {
                    kind: Resource::Revision.kind().into(),
                    namespace: Some(service.namespace.clone()),
                    name: None,
                    labels: format!("troupe.dev/service={name}"),
                })
                .await?;
            revisions.sort_by_key(number);
            match self.revision {
                Some(wanted) => show(&revisions, name, wanted)?,
                None => {
                    print(&format!("{}\n", Resource::SERVICE.slash(name)));
                    let mut table = Table::new(["REVISION", "CHANGE-CAUSE"]);
                    for revision in &revisions {
                        table.add([at(revision, "/spec/revision"), at(revision, "/spec/cause")]);
                    }
                    print(&table.print(Titles::Shown));
                }
            }
        }
        Ok(())
    }
}

/// One revision, as it was declared.
fn show(revisions: &[Value], name: &str, wanted: u64) -> Result<(), Failure> {
    let found = revisions.iter().find(|revision| number(revision) == wanted);
    let found = found.ok_or_else(|| {
        Failure::told(format!("error: unable to find the specified revision {wanted} of {name}"))
    })?;
    let document = found.pointer("/spec/document").cloned().unwrap_or_default();
    print(&format!("{} with revision #{wanted}\n", Resource::SERVICE.slash(name)));
    print(&print::document(Format::Yaml, &document));
    Ok(())
}

fn number(revision: &Value) -> u64 {
    revision.pointer("/spec/revision").and_then(Value::as_u64).unwrap_or_default()
}

/// A time as people write it: `90s`, `5m`, `1h30m`, or seconds as a number alone.
pub(crate) fn patience(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    let time = seconds.or_else(|| quantity::duration(text));
    time.ok_or_else(|| "must be a time such as 30s, 5m or 1h".into())
}
