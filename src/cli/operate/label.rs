//! `troupe label KIND NAME key=value key-`: labels set and taken away.

use clap::Args;
use troupe_runtime::wire::operate::{Change, Label};

use super::reach::{DryRun, Reach, Tally, change, document, report};
use crate::{
    cli::{Failure, print},
    client::operate::{print, target::targets},
};

/// Set labels of objects, and of hosts, which services are placed by.
#[derive(Args, Debug)]
pub(crate) struct LabelCommand {
    /// KIND NAME... or KIND/NAME..., then KEY=VALUE to set and KEY- to take away.
    #[arg(value_name = "KIND NAME KEY=VALUE", required = true)]
    words: Vec<String>,
    /// A label may lose the value that it has.
    #[arg(long)]
    overwrite: bool,
    /// Show the labels instead.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    reach: Reach,
}

impl LabelCommand {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let (mut set, mut remove, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for word in &self.words {
            match (word.split_once('='), word.strip_suffix('-')) {
                (Some((key, value)), _) => set.push((key.to_owned(), value.to_owned())),
                (None, Some(key)) => remove.push(key.to_owned()),
                (None, None) => names.push(word.clone()),
            }
        }
        if set.is_empty() && remove.is_empty() && !self.list {
            return Err(Failure::told("error: at least one label update is required"));
        }
        let targets = targets(&names).map_err(|error| Failure::told(format!("error: {error}")))?;
        let objects = self.reach.objects(targets)?;
        let session = self.reach.session().await?;
        let mut tally = Tally::new();
        for (_, object) in objects {
            let label = Label {
                object,
                set: set.clone(),
                remove: remove.clone(),
                overwrite: self.overwrite,
            };
            let changed = change(&session, Change::Label(label), self.dry_run).await;
            tally.add(changed.and_then(|changed| {
                if self.list {
                    let labels = print::labels(&document(&changed)?);
                    print(&format!("{}\n", labels.replace(',', "\n")));
                    return Ok(());
                }
                let done = if set.is_empty() { "unlabeled" } else { "labeled" };
                report(&changed, done, "not labeled", self.dry_run);
                Ok(())
            }));
        }
        tally.end()
    }
}
