//! `troupe delete`: objects go, by name or as files name them, and what was made for them.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::Value;
use tokio::time::timeout;
use troupe_actors::operate::Resource;
use troupe_runtime::wire::operate::{Change, ObjectName, OperateDown, OperateUp, Selection};

use super::reach::{DryRun, Reach, Tally, change};
use crate::{
    cli::{Failure, print},
    client::operate::{columns::at, files, session::Session, target::targets},
};

/// Delete objects, and wait until what was made for them is gone too.
#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// KIND NAME..., or KIND/NAME...
    #[arg(value_name = "KIND NAME", required_unless_present = "filename")]
    what: Vec<String>,
    /// The objects that files name, as `apply` reads them.
    #[arg(short, long, value_name = "FILE", conflicts_with = "what")]
    filename: Vec<PathBuf>,
    /// Folders below folders too.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// All objects of the kind in the namespace.
    #[arg(long)]
    all: bool,
    /// All objects of the kind with these labels.
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// That one is not there is no failure.
    #[arg(long)]
    ignore_not_found: bool,
    /// Whether to wait until a service's groups are gone.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true",
          action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait; 0 is for ever.
    #[arg(long, value_name = "TIME", default_value = "0",
          value_parser = super::rollout::patience)]
    timeout: Duration,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    reach: Reach,
}

impl Delete {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let session = self.reach.session().await?;
        let mut tally = Tally::new();
        let mut gone = Vec::new();
        for (resource, object) in self.objects(&session).await? {
            match change(&session, Change::Delete(object.clone()), self.dry_run).await {
                Ok(_) => {
                    let suffix = self.dry_run.suffix();
                    print(&format!("{} deleted{suffix}\n", singular(resource, &object.name)));
                    gone.push((resource, object));
                }
                Err(failure) if self.ignore_not_found && failure.is_not_found() => {}
                Err(failure) => tally.add(Err(failure)),
            }
        }
        let services = gone.into_iter().filter(|(resource, _)| *resource == Resource::SERVICE);
        if self.wait && self.dry_run.suffix().is_empty() {
            for (_, service) in services {
                tally.add(self.until_gone(&session, &service).await);
            }
        }
        tally.end()
    }

    async fn objects(&self, session: &Session) -> Result<Vec<(Resource, ObjectName)>, Failure> {
        if !self.filename.is_empty() {
            let read = files::read(&self.filename, self.recursive, &self.reach.of_files())?;
            let objects = read.documents.into_iter().map(|document| {
                let resource = Resource::Declared(document.kind);
                (resource, ObjectName::new(resource.kind(), document.namespace, document.name))
            });
            return Ok(objects.collect());
        }
        let targets =
            targets(&self.what).map_err(|error| Failure::told(format!("error: {error}")))?;
        if !self.all && self.selector.is_none() {
            return self.reach.objects(targets);
        }
        let mut objects = Vec::new();
        for target in targets {
            let resource = target.resource;
            let selection = Selection {
                kind: resource.kind().into(),
                namespace: resource.namespaced().then(|| self.reach.namespace().to_owned()),
                name: target.name,
                labels: self.selector.clone().unwrap_or_default(),
            };
            let found: Vec<Value> = session.objects(selection).await?;
            let names = found.iter().map(|object| at(object, "/metadata/name"));
            objects.extend(names.map(|name| (resource, self.reach.object(resource, &name))));
        }
        Ok(objects)
    }

    /// Waits until no group of a service is left.
    async fn until_gone(&self, session: &Session, service: &ObjectName) -> Result<(), Failure> {
        let selection = Selection {
            kind: Resource::Group.kind().into(),
            namespace: Some(service.namespace.clone()),
            name: None,
            labels: format!("troupe.dev/service={}", service.name),
        };
        let wait = async {
            let mut answers = session.ask(&OperateUp::Watch(selection)).await?;
            let mut left = std::collections::BTreeSet::new();
            let mut synced = false;
            while !(synced && left.is_empty()) {
                match answers.wait().await? {
                    Some(OperateDown::Object(document)) => {
                        left.insert(at(
                            &crate::client::operate::session::parse(&document)?,
                            "/metadata/name",
                        ));
                    }
                    Some(OperateDown::Gone(object)) => drop(left.remove(&object.name)),
                    Some(OperateDown::Synced) => synced = true,
                    Some(_) => {}
                    None => return Err(Failure::told("error: the control host is ending")),
                }
            }
            Ok(())
        };
        if self.timeout.is_zero() {
            return wait.await;
        }
        let late = |_| {
            Failure::told(format!(
                "error: timed out waiting for the condition on {}",
                Resource::SERVICE.slash(&service.name)
            ))
        };
        timeout(self.timeout, wait).await.map_err(late)?
    }
}

/// An object as `kubectl delete` names it: `node "x"`.
fn singular(resource: Resource, name: &str) -> String {
    let slash = resource.slash(name);
    let kind = slash.split_once('/').map_or(slash.as_str(), |(kind, _)| kind);
    format!("{kind} \"{name}\"")
}
