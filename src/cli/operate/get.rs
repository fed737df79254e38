//! `troupe get KIND [NAME]`: objects as a table or as documents, once or as they change.

use clap::Args;
use serde_json::Value;
use troupe_actors::operate::Resource;
use troupe_runtime::wire::operate::{OperateDown, OperateUp, Selection};

use super::reach::Reach;
use crate::{
    cli::{Failure, print, say},
    client::operate::{
        now,
        print::{self, Format, Look},
        session::{Session, parse},
        table::Titles,
        target::{Target, targets},
    },
};

/// Show objects.
///
/// Kinds may be given by any of their names: llmisvc, llminferenceservices, groups, nodes (no),
/// events, lws, inferencepools, or `all` for services and their groups.
#[derive(Args, Debug)]
pub(crate) struct Get {
    /// KIND, KIND NAME..., or KIND/NAME...
    #[arg(value_name = "KIND [NAME]", required = true)]
    what: Vec<String>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    reach: Reach,
}

/// Which objects of a kind, and how they are shown.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct How {
    /// wide, yaml, json or name [default: a table].
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
    /// Those of all namespaces.
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Only those with these labels: a=b,c!=d,e in (f,g),h,!i.
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "")]
    pub(crate) selector: String,
    /// Go on, and show each again when it changes.
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// As --watch, without what is there at first.
    #[arg(long)]
    watch_only: bool,
    /// Without the line of titles.
    #[arg(long)]
    no_headers: bool,
    /// With a column of labels.
    #[arg(long)]
    show_labels: bool,
    /// That something of a name is not there is no failure.
    #[arg(long)]
    ignore_not_found: bool,
}

impl Get {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let targets =
            targets(&self.what).map_err(|error| Failure::told(format!("error: {error}")))?;
        let session = self.reach.session().await?;
        let look = |resource: Resource| self.how.look(resource, false);
        if self.how.watch || self.how.watch_only {
            let [target] = targets.as_slice() else {
                return Err(Failure::told(
                    "error: you may only specify a single resource type with -w",
                ));
            };
            let selection = self.selection(target);
            return self
                .how
                .watch(&session, target.resource, selection, look(target.resource))
                .await;
        }
        let mut found: Vec<(Resource, Vec<Value>)> = Vec::new();
        for target in &targets {
            let objects = match session.objects(self.selection(target)).await {
                Err(failure) if self.how.ignore_not_found && failure.is_not_found() => Vec::new(),
                objects => objects?,
            };
            match found.last_mut() {
                Some((resource, all)) if *resource == target.resource => all.extend(objects),
                _ => found.push((target.resource, objects)),
            }
        }
        let one = matches!(targets.as_slice(), [Target { name: Some(_), .. }]);
        let namespace = (!self.how.all_namespaces).then(|| self.reach.namespace());
        self.how.show(found, one, namespace);
        Ok(())
    }

    fn selection(&self, target: &Target) -> Selection {
        let everywhere = self.how.all_namespaces || !target.resource.namespaced();
        Selection {
            kind: target.resource.kind().into(),
            namespace: (!everywhere).then(|| self.reach.namespace().to_owned()),
            name: target.name.clone(),
            labels: self.how.selector.clone(),
        }
    }
}

// === impl How ===

impl How {
    /// The columns of a table of one kind; several kinds are told apart by names.
    pub(crate) fn look(&self, resource: Resource, kinds: bool) -> Look {
        Look {
            wide: self.output == Some(Format::Wide),
            namespaces: self.all_namespaces && resource.namespaced(),
            kinds,
            labels: self.show_labels,
        }
    }

    pub(crate) fn titles(&self) -> Titles {
        if self.no_headers { Titles::Hidden } else { Titles::Shown }
    }

    /// Shows objects of one or several kinds.
    fn show(&self, found: Vec<(Resource, Vec<Value>)>, one: bool, namespace: Option<&str>) {
        let several = found.len() > 1;
        match self.output.unwrap_or_default() {
            format @ (Format::Yaml | Format::Json) => {
                let mut objects: Vec<Value> =
                    found.into_iter().flat_map(|(_, objects)| objects).collect();
                let document = match objects.pop() {
                    Some(object) if one && objects.is_empty() => object,
                    last => print::list(objects.into_iter().chain(last).collect()),
                };
                print(&print::document(format, &document));
            }
            Format::Name => {
                for object in found.iter().flat_map(|(_, objects)| objects) {
                    print(&format!("{}\n", print::name(object)));
                }
            }
            Format::Table | Format::Wide => {
                let in_namespaces = found.iter().any(|(resource, _)| resource.namespaced());
                let tables: Vec<String> = found
                    .iter()
                    .filter(|(_, objects)| !objects.is_empty())
                    .map(|(resource, objects)| {
                        let look = self.look(*resource, several);
                        print::table(*resource, objects, look, now()).print(self.titles())
                    })
                    .collect();
                if tables.is_empty() && !self.ignore_not_found {
                    say(&nothing(namespace.filter(|_| in_namespaces)));
                }
                print(&tables.join("\n"));
            }
        }
    }

    /// Shows objects as they change, until the connection or the person ends it.
    pub(crate) async fn watch(
        &self,
        session: &Session,
        resource: Resource,
        selection: Selection,
        look: Look,
    ) -> Result<(), Failure> {
        let mut answers = session.ask(&OperateUp::Watch(selection)).await?;
        let mut first = Vec::new();
        let mut widths: Option<Vec<usize>> = None;
        while let Some(answer) = answers.wait().await? {
            let objects = match answer {
                OperateDown::Object(document) if widths.is_none() => {
                    first.push(parse(&document)?);
                    continue;
                }
                OperateDown::Object(document) => vec![parse(&document)?],
                OperateDown::Synced if self.watch_only => {
                    widths = Some(Vec::new());
                    continue;
                }
                OperateDown::Synced => std::mem::take(&mut first),
                _ => continue,
            };
            match self.output.unwrap_or_default() {
                format @ (Format::Yaml | Format::Json) => {
                    widths.get_or_insert_default();
                    for object in &objects {
                        let separator = if format == Format::Yaml { "---\n" } else { "" };
                        print(&format!("{separator}{}", print::document(format, object)));
                    }
                }
                Format::Name => {
                    widths.get_or_insert_default();
                    for object in &objects {
                        print(&format!("{}\n", print::name(object)));
                    }
                }
                Format::Table | Format::Wide => {
                    let table = print::table(resource, &objects, look, now());
                    let titles = if widths.is_none() { self.titles() } else { Titles::Hidden };
                    let before = widths.unwrap_or_default();
                    print(&table.print_as_wide_as(titles, &before));
                    let wider = table.widths().into_iter().enumerate().map(|(column, width)| {
                        width.max(before.get(column).copied().unwrap_or_default())
                    });
                    widths = Some(wider.collect());
                }
            }
        }
        Ok(())
    }
}

fn nothing(namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("No resources found in {namespace} namespace."),
        None => "No resources found".into(),
    }
}
