//! `troupe events`: what happened, the newest last.

use clap::Args;
use serde_json::Value;
use troupe_actors::operate::Resource;
use troupe_runtime::wire::operate::Selection;

use super::{get::How, reach::Reach};
use crate::{
    cli::{Failure, print, say},
    client::operate::{
        columns::at,
        describe, now,
        print::{self, Format},
        target::one,
    },
};

/// Show what happened, the newest last.
#[derive(Args, Debug)]
pub(crate) struct EventsCommand {
    /// Only what happened to this object: KIND/NAME.
    #[arg(long = "for", value_name = "KIND/NAME")]
    about: Option<String>,
    /// Only of these types: Normal, Warning.
    #[arg(long, value_delimiter = ',', value_name = "TYPES", value_parser = ["Normal", "Warning"])]
    types: Vec<String>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    reach: Reach,
}

impl EventsCommand {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let about = match &self.about {
            None => None,
            Some(word) => {
                let target = one(word).map_err(|error| Failure::told(format!("error: {error}")))?;
                self.reach.objects(vec![target])?.pop()
            }
        };
        let session = self.reach.session().await?;
        let selection = Selection {
            kind: Resource::Event.kind().into(),
            namespace: (!self.how.all_namespaces).then(|| self.reach.namespace().to_owned()),
            name: None,
            labels: self.how.selector.clone(),
        };
        let look = self.how.look(Resource::Event, false);
        if self.how.watch {
            if self.about.is_some() || !self.types.is_empty() {
                return Err(Failure::told("error: --watch goes with neither --for nor --types"));
            }
            return self.how.watch(&session, Resource::Event, selection, look).await;
        }
        let mut events: Vec<Value> = session.objects(selection).await?;
        events.retain(|event| {
            let typed = self.types.is_empty() || self.types.contains(&at(event, "/type"));
            typed && about.as_ref().is_none_or(|(_, object)| describe::about(event, object))
        });
        events.sort_by_key(|event| at(event, "/lastTimestamp"));
        match self.how.output.unwrap_or_default() {
            format @ (Format::Yaml | Format::Json) => {
                print(&print::document(format, &print::list(events)));
            }
            Format::Name => {
                for event in &events {
                    print(&format!("{}\n", print::name(event)));
                }
            }
            Format::Table | Format::Wide if events.is_empty() => {
                say(&format!("No events found in {} namespace.", self.reach.namespace()));
            }
            Format::Table | Format::Wide => {
                let table = print::table(Resource::Event, &events, look, now());
                print(&table.print(self.how.titles()));
            }
        }
        Ok(())
    }
}
