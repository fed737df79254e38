//! What the operator's commands have in common: where the cluster is, which namespace is meant,
//! whether a change is to happen, and how what became of it is said.

use clap::{Args, ValueEnum};
use troupe_actors::operate::Resource;
use troupe_runtime::wire::operate::{
    Change, Changed, ObjectName, OperateDown, OperateUp, Outcome, Run,
};

use crate::{
    cli::{Failure, print, say},
    client::operate::{
        files::Namespace,
        session::{self, Session},
        target::Target,
    },
    stack::operator::{Operator, OperatorArgs},
};

/// Where the cluster is, and which namespace is meant.
#[derive(Args, Clone, Debug)]
pub(crate) struct Reach {
    /// The namespace that objects are in [default: default].
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Whether a change is to happen.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct DryRun {
    /// Only say what would happen: `server` asks a control host, `client` asks nobody.
    #[arg(long, value_enum, value_name = "WHERE", num_args = 0..=1, require_equals = true,
          default_value = "none", default_missing_value = "server")]
    dry_run: Where,
}

/// Who is asked what would happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Where {
    /// Nobody: it is to happen.
    #[default]
    None,
    /// A control host.
    Server,
    /// Nobody: only what can be known here.
    Client,
}

// === impl Reach ===

impl Reach {
    /// A session with a control host.
    pub(crate) async fn session(&self) -> Result<Session, Failure> {
        Ok(Session::new(Operator::connect(&self.operator).await?))
    }

    /// The namespace that is meant.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// The namespace of documents from files.
    pub(crate) fn of_files(&self) -> Namespace {
        Namespace { default: self.namespace().to_owned(), asked: self.namespace.is_some() }
    }

    /// An object that a command line names.
    pub(crate) fn object(&self, resource: Resource, name: &str) -> ObjectName {
        let namespace = if resource.namespaced() { self.namespace() } else { "" };
        ObjectName::new(resource.kind(), namespace, name)
    }

    /// Objects that a command line names one by one.
    pub(crate) fn objects(
        &self,
        targets: Vec<Target>,
    ) -> Result<Vec<(Resource, ObjectName)>, Failure> {
        let named = |target: Target| match target.name {
            Some(name) => Ok((target.resource, self.object(target.resource, &name))),
            None => {
                Err(Failure::told("error: resource(s) were provided, but no name was specified"))
            }
        };
        targets.into_iter().map(named).collect()
    }
}

// === impl DryRun ===

impl DryRun {
    pub(crate) fn run(self) -> Run {
        if self.dry_run == Where::None { Run::Real } else { Run::Dry }
    }

    /// Whether nobody is to be asked.
    pub(crate) fn is_here(self) -> bool {
        self.dry_run == Where::Client
    }

    /// Said behind what would happen.
    pub(crate) fn suffix(self) -> &'static str {
        match self.dry_run {
            Where::None => "",
            Where::Server => " (server dry run)",
            Where::Client => " (dry run)",
        }
    }
}

/// Asks for one change and gives back what became of its one object.
pub(crate) async fn change(
    session: &Session,
    what: Change,
    dry_run: DryRun,
) -> Result<Changed, Failure> {
    let mut answers = session.ask(&OperateUp::Change(Box::new(what), dry_run.run())).await?;
    while let Some(answer) = answers.next().await? {
        if let OperateDown::Changed(changed) = answer {
            warn(&changed);
            return Ok(*changed);
        }
    }
    Err(Failure::told("error: the control host did not say what became of it"))
}

/// Says what is odd about an object.
pub(crate) fn warn(changed: &Changed) {
    for warning in &changed.warnings {
        say(&format!("Warning: {warning}"));
    }
}

/// Says what became of an object: `done`, or that it was so already.
pub(crate) fn report(changed: &Changed, done: &str, else_say: &str, dry_run: DryRun) {
    let what = if changed.outcome == Outcome::Unchanged { else_say } else { done };
    let object = &changed.object;
    let name = match Resource::find(&object.kind) {
        Some(resource) => resource.slash(&object.name),
        None => object.name.clone(),
    };
    print(&format!("{name} {what}{}\n", dry_run.suffix()));
}

/// Does several things one after the other; what fails is said and the rest is done all the same.
pub(crate) struct Tally {
    failed: Option<Failure>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self { failed: None }
    }

    /// Notes how one of them ended.
    pub(crate) fn add(&mut self, result: Result<(), Failure>) {
        if let Err(failure) = result
            && let Some(earlier) = self.failed.replace(failure)
        {
            say(&earlier.message());
        }
    }

    /// How all of them ended.
    pub(crate) fn end(self) -> Result<(), Failure> {
        self.failed.map_or(Ok(()), Err)
    }
}

/// An object of an answer.
pub(crate) fn document(changed: &Changed) -> Result<serde_json::Value, Failure> {
    session::parse(&changed.document)
}
