//! `troupe describe KIND [NAME]`: objects for reading, each with what happened to it.

use clap::Args;
use troupe_runtime::wire::operate::Selection;

use super::reach::Reach;
use crate::{
    cli::{Failure, print, say},
    client::operate::{columns::at, describe, now, target::targets},
};

/// Show objects in detail, with the events about them.
#[derive(Args, Debug)]
pub(crate) struct Describe {
    /// KIND, KIND NAME..., or KIND/NAME...
    #[arg(value_name = "KIND [NAME]", required = true)]
    what: Vec<String>,
    /// Only those with these labels.
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "")]
    selector: String,
    #[command(flatten)]
    reach: Reach,
}

impl Describe {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let targets =
            targets(&self.what).map_err(|error| Failure::told(format!("error: {error}")))?;
        let session = self.reach.session().await?;
        let mut pages = Vec::new();
        for target in targets {
            let resource = target.resource;
            let namespace = resource.namespaced().then(|| self.reach.namespace().to_owned());
            let selection = Selection {
                kind: resource.kind().into(),
                namespace,
                name: target.name,
                labels: self.selector.clone(),
            };
            for object in session.objects(selection).await? {
                let name = self.reach.object(resource, &at(&object, "/metadata/name"));
                let mut events = session.objects(describe::events_near(&name)).await?;
                events.retain(|event| describe::about(event, &name));
                events.sort_by_key(|event| at(event, "/lastTimestamp"));
                pages.push(describe::describe(resource, &object, &events, now()));
            }
        }
        if pages.is_empty() {
            say(&format!("No resources found in {} namespace.", self.reach.namespace()));
        }
        print(&pages.join("\n\n"));
        Ok(())
    }
}
