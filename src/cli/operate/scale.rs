//! `troupe scale KIND/NAME --replicas N`: another number of groups.

use clap::Args;
use troupe_runtime::wire::operate::{Change, Scale};

use super::reach::{DryRun, Reach, Tally, change, report};
use crate::{cli::Failure, client::operate::target::targets};

/// Set the number of replicas of services.
#[derive(Args, Debug)]
pub(crate) struct ScaleCommand {
    /// KIND/NAME..., or KIND NAME...
    #[arg(value_name = "KIND/NAME", required = true)]
    what: Vec<String>,
    /// How many.
    #[arg(long, value_name = "N")]
    replicas: u32,
    /// Only if there are so many now.
    #[arg(long, value_name = "N")]
    current_replicas: Option<u32>,
    /// Only if this is the object's version now.
    #[arg(long, value_name = "VERSION")]
    resource_version: Option<String>,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    reach: Reach,
}

impl ScaleCommand {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let targets =
            targets(&self.what).map_err(|error| Failure::told(format!("error: {error}")))?;
        let objects = self.reach.objects(targets)?;
        let session = self.reach.session().await?;
        let mut tally = Tally::new();
        for (_, object) in objects {
            let scale = Scale {
                object,
                replicas: self.replicas,
                expected: self.current_replicas,
                resource_version: self.resource_version.clone(),
            };
            let changed = change(&session, Change::Scale(scale), self.dry_run).await;
            tally.add(changed.map(|changed| report(&changed, "scaled", "scaled", self.dry_run)));
        }
        tally.end()
    }
}
