//! Changes, as compare-and-swap on the store: read, decide ([`super::change`]), write if nobody
//! else did meanwhile.

use serde_json::Value;
use troupe_runtime::{
    discovery::{
        Entry, Step, SwapError,
        directory::{self, CordonRecord, NodeLabelsRecord, NodeRecord, RevisionRecord},
        swap,
    },
    spec::{Kind, Object, SpecError},
    transport::PeerIdentity,
    wire::operate::{
        Apply, Change, Changed, Cordon, Label, MAX_WARNINGS, ObjectName, OperateDown, Outcome,
        Planning, Reason, Refusal, Revoke, Run, Undo,
    },
};
use uuid::Uuid;

use super::{
    advice::{self, Fate},
    change::{self, About, Stamp, Stored, Verdict},
    configs::Configs,
    desk::{Answer, OperateDesk, Stop, bad, text, unavailable},
    history,
    resource::Resource,
    view::{self, shown},
};

impl OperateDesk {
    pub(super) async fn change(
        &self,
        peer: &PeerIdentity,
        what: Change,
        run: Run,
        answer: &mut Answer,
    ) -> Result<(), Stop> {
        let now = self.clock.now().unix_millis / 1000;
        let changed = match what {
            Change::Apply(apply) => return self.apply(apply, run, answer).await,
            Change::Label(label) if label.object.kind == Resource::Node.kind() => {
                self.label_node(&label, run).await?
            }
            Change::Cordon(cordon) => self.cordon(&cordon, run).await?,
            Change::Token(new) => self.create_token(&new, run, peer).await?,
            Change::Revoke(revoke) => self.revoke(&revoke, run, peer).await?,
            Change::Delete(object) if object.kind == Resource::Token.kind() => {
                self.revoke_token(&object.name, run).await?
            }
            // A host that is forgotten must not come back with what it knew.
            Change::Delete(object) if object.kind == Resource::Node.kind() => {
                let revoke = Revoke { whom: object.name, reason: "deleted".into() };
                self.revoke(&revoke, run, peer).await?
            }
            Change::Delete(object) => self.edit(&object, run, None, change::delete).await?,
            Change::Scale(scale) => {
                only_services(&scale.object, "scaled")?;
                let decide = |about: About<'_>, stored: Option<&Stored>| {
                    change::scale(about, stored, &scale)
                };
                self.edit(&scale.object, run, None, decide).await?
            }
            Change::Label(label) => {
                let decide = |about: About<'_>, stored: Option<&Stored>| {
                    change::label(about, stored, &label)
                };
                self.edit(&label.object, run, None, decide).await?
            }
            Change::Restart(object) => {
                only_services(&object, "restarted")?;
                let decide =
                    |about: About<'_>, stored: Option<&Stored>| change::restart(about, stored, now);
                self.edit(&object, run, None, decide).await?
            }
            Change::Undo(Undo { object, to }) => {
                only_services(&object, "rolled back")?;
                let revisions = self.revisions(&object).await?;
                let decide = |about: About<'_>, stored: Option<&Stored>| {
                    let live = stored.and_then(|stored| stored.document.as_ref());
                    let live = live.ok_or_else(|| about.not_found())?;
                    let revision = history::pick(&revisions, live, to, about)?;
                    change::undo(about, stored, &revision.document)
                };
                self.edit(&object, run, None, decide).await?
            }
        };
        Ok(answer.say(&OperateDown::Changed(Box::new(changed))).await?)
    }

    /// Makes all documents real, or none if one of them cannot be.
    async fn apply(&self, apply: Apply, run: Run, answer: &mut Answer) -> Result<(), Stop> {
        let mut objects = Vec::new();
        let mut refusals = Vec::new();
        for document in &apply.documents {
            match read(document) {
                Ok(object) => objects.push(object),
                Err(refusal) => refusals.push(refusal),
            }
        }
        if !refusals.is_empty() {
            for refusal in refusals {
                answer.say(&OperateDown::Refused(refusal)).await?;
            }
            return Ok(());
        }
        let mut planned = Vec::new();
        for object in &objects {
            let name = name_of(object);
            let stamp = Stamp { uid: Uuid::now_v7(), now: self.clock.now().unix_millis / 1000 };
            // The namespace of a document that names none is part of what is stored.
            let mut given = object.document().clone();
            given["metadata"]["namespace"] = name.namespace.clone().into();
            let decide = |about: About<'_>, stored: Option<&Stored>| {
                change::apply(about, stored, &given, apply.how, stamp)
            };
            let made = self.edit(&name, run, Some(&objects), decide).await;
            let said = match made {
                Ok(changed) => {
                    planned.push(changed.clone());
                    OperateDown::Changed(Box::new(changed))
                }
                Err(Stop::Refused(refusal)) => OperateDown::Refused(refusal),
                Err(gone) => return Err(gone),
            };
            answer.say(&said).await?;
        }
        if run == Run::Dry && !planned.is_empty() {
            let lines = self.plan(&planned).await?;
            answer.say(&OperateDown::Plan(lines)).await?;
        }
        Ok(())
    }

    /// Changes one object that somebody declared, perhaps together with others of a file.
    async fn edit(
        &self,
        object: &ObjectName,
        run: Run,
        together: Option<&[Object]>,
        decide: impl Fn(About<'_>, Option<&Stored>) -> Result<Verdict, Refusal> + Send + Sync,
    ) -> Result<Changed, Stop> {
        let kind = declared(object)?;
        let about = About { resource: Resource::Declared(kind), name: &object.name };
        let key = self.keys.spec(kind.name(), &object.namespace, &object.name);
        let mut contents = self.contents(Resource::Declared(Kind::LlmInferenceService)).await?;
        let of_configs = self.keys.specs(Kind::LlmInferenceServiceConfig.name());
        contents.add(self.registry.list(&of_configs).await?);
        let mut configs = Configs::of(&contents);
        configs.add_all(together.unwrap_or_default());
        let (verdict, mut warnings) = self
            .swap(&key, run, |entry| {
                let stored = entry.and_then(|entry| Stored::of(&entry.value));
                let verdict = decide(about, stored.as_ref())?;
                let warnings = match &verdict {
                    Verdict::Write(document, _) => check(about, &configs, document)?,
                    Verdict::Keep(_) | Verdict::Bury(..) => Vec::new(),
                };
                Ok(match verdict.value() {
                    Some(value) => Step::Put(value, (verdict, warnings)),
                    None => Step::Done((verdict, warnings)),
                })
            })
            .await?;
        let (document, outcome) = match verdict {
            Verdict::Keep(document) => (document, Outcome::Unchanged),
            Verdict::Write(document, outcome) => (document, outcome),
            Verdict::Bury(_, document) => (document, Outcome::Deleted),
        };
        let fate = match outcome {
            Outcome::Created | Outcome::Configured => Some(Fate::Stored),
            Outcome::Deleted => Some(Fate::Deleted),
            Outcome::Unchanged => None,
        };
        if let Some(fate) = fate {
            warnings.extend(advice::about(&contents, &configs, (kind, &document), fate));
        }
        warnings.truncate(MAX_WARNINGS);
        let generation = document.pointer("/metadata/generation").and_then(Value::as_u64);
        let document = shown(document, generation.unwrap_or_default()).to_string();
        Ok(Changed { object: object.clone(), outcome, document, warnings })
    }

    async fn revisions(&self, object: &ObjectName) -> Result<Vec<RevisionRecord>, Stop> {
        let prefix = self.keys.revisions(&object.namespace, &object.name);
        let entries = self.registry.list(&prefix).await?;
        let records = entries.iter().filter_map(|entry| {
            directory::from_bytes::<RevisionRecord>(&entry.key, &entry.value).ok()
        });
        Ok(records.collect())
    }

    // === hosts ===

    async fn label_node(&self, label: &Label, run: Run) -> Result<Changed, Stop> {
        let Label { object, set, remove, .. } = label;
        let node = self.node(&object.name).await?;
        let key = self.keys.node_labels(node.id);
        let outcome = self
            .swap(&key, run, |entry| {
                let stored: Option<NodeLabelsRecord> =
                    entry.and_then(|entry| directory::from_bytes(&key, &entry.value).ok());
                let now = node.labels_with(stored.as_ref());
                change::check_labels(label, |key| now.get(key).cloned())?;
                let mut record = stored.unwrap_or_else(|| NodeLabelsRecord {
                    node: node.id,
                    set: Default::default(),
                    removed: Default::default(),
                });
                for key in remove {
                    record.set.remove(key);
                    record.removed.insert(key.clone());
                }
                for (key, value) in set {
                    record.removed.remove(key);
                    record.set.insert(key.clone(), value.clone());
                }
                Ok(match node.labels_with(Some(&record)) == now {
                    true => Step::Done(Outcome::Unchanged),
                    false => Step::Put(directory::to_bytes(record), Outcome::Configured),
                })
            })
            .await?;
        self.node_changed(&node, outcome).await
    }

    async fn cordon(&self, cordon: &Cordon, run: Run) -> Result<Changed, Stop> {
        let Cordon { node, to } = cordon;
        let (node, to) = (self.node(node).await?, *to);
        let key = self.keys.cordon(node.id);
        let drain = match to {
            Planning::Drained(seconds) => Some(seconds),
            Planning::Open | Planning::Cordoned => None,
        };
        let since = self.clock.now().unix_millis / 1000;
        let outcome = self
            .swap(&key, run, |entry| {
                let stored: Option<CordonRecord> =
                    entry.and_then(|entry| directory::from_bytes(&key, &entry.value).ok());
                Ok(match (to, stored) {
                    (Planning::Open, None) => Step::Done(Outcome::Unchanged),
                    (Planning::Open, Some(_)) => Step::Remove(Outcome::Configured),
                    // Who cordons a host that is drained finds it cordoned.
                    (Planning::Cordoned, Some(_)) => Step::Done(Outcome::Unchanged),
                    (Planning::Drained(_), Some(now)) if now.drain == drain => {
                        Step::Done(Outcome::Unchanged)
                    }
                    (Planning::Cordoned | Planning::Drained(_), now) => {
                        let since = now.map_or(since, |now| now.since);
                        let record = CordonRecord { node: node.id, drain, since };
                        Step::Put(directory::to_bytes(record), Outcome::Configured)
                    }
                })
            })
            .await?;
        self.node_changed(&node, outcome).await
    }

    async fn node(&self, name: &str) -> Result<NodeRecord, Stop> {
        let entries = self.registry.list(&self.keys.nodes()).await?;
        let mut nodes = entries
            .iter()
            .filter_map(|entry| directory::from_bytes::<NodeRecord>(&entry.key, &entry.value).ok());
        let found = nodes.find(|node| node.name == name || node.id.to_string() == name);
        Ok(found.ok_or_else(|| About { resource: Resource::Node, name }.not_found())?)
    }

    async fn node_changed(&self, node: &NodeRecord, outcome: Outcome) -> Result<Changed, Stop> {
        let object = ObjectName::new("Node", "", node.name.clone());
        let contents = self.contents(Resource::Node).await?;
        let document = view::one(&contents, &object).map(|document| document.to_string());
        Ok(Changed { object, outcome, document: document.unwrap_or_default(), warnings: vec![] })
    }

    // === the store ===

    /// Looks at a key, decides, and writes if the key did not change meanwhile; else looks again.
    pub(super) async fn swap<T>(
        &self,
        key: &str,
        run: Run,
        decide: impl Fn(Option<&Entry>) -> Result<Step<T>, Refusal> + Send,
    ) -> Result<T, Refusal> {
        let decide = move |entry: Option<&Entry>| {
            decide(entry).map(|step| if run == Run::Dry { step.dry() } else { step })
        };
        match swap(&*self.registry, &self.keys, key, decide).await {
            Ok(decided) => decided,
            Err(SwapError::Registry(error)) => Err(unavailable(&error)),
            Err(SwapError::Busy(_)) => {
                let message = "the object is changed by others all the time; try again";
                Err(Refusal::new(Reason::Conflict, message))
            }
        }
    }
}

/// Reads a document that is to be applied.
fn read(document: &str) -> Result<Object, Refusal> {
    let document: Value = serde_json::from_str(document)
        .map_err(|error| bad(format!("a document is no JSON: {error}")))?;
    let kind = text(&document, "/kind");
    let name = text(&document, "/metadata/name");
    match Object::from_document(document) {
        Ok((object, _)) => Ok(object),
        Err(error) => Err(invalid(&kind, &name, &error)),
    }
}

/// Checks an object as it is to be stored, with all that it starts from, and gives back what has no
/// effect in it.
fn check(about: About<'_>, configs: &Configs, document: &Value) -> Result<Vec<String>, Refusal> {
    let invalid = |error: SpecError| invalid(about.resource.kind(), about.name, &error);
    let (object, warnings) = Object::from_document(document.clone()).map_err(invalid)?;
    if let Object::Service(service) = &object {
        configs.whole(service).map_err(invalid)?;
    }
    Ok(warnings.iter().map(ToString::to_string).collect())
}

fn invalid(kind: &str, name: &str, error: &SpecError) -> Refusal {
    let problems = match error {
        SpecError::Invalid(findings) | SpecError::ConfigNotFound(findings)
            if findings.len() > 1 =>
        {
            findings.iter().map(|finding| format!("\n* {finding}")).collect()
        }
        error => troupe_runtime::error::chain(error),
    };
    let message = format!("{kind} \"{name}\" is invalid: {problems}");
    Refusal::new(Reason::Invalid, message)
}

fn name_of(object: &Object) -> ObjectName {
    let metadata = object.metadata();
    ObjectName::new(object.kind().name(), metadata.namespace.clone(), metadata.name.clone())
}

/// The kind of an object that people declare.
fn declared(object: &ObjectName) -> Result<Kind, Refusal> {
    match Resource::find(&object.kind) {
        Some(Resource::Declared(kind)) => Ok(kind),
        Some(resource) => {
            let message = format!(
                "{} is the cluster's own and not declared by anybody; change the service that it \
                 is made for",
                resource.quoted(&object.name)
            );
            Err(Refusal::new(Reason::MethodNotAllowed, message))
        }
        None => Err(bad(view::unknown(&object.kind))),
    }
}

fn only_services(object: &ObjectName, done: &str) -> Result<(), Refusal> {
    match Resource::find(&object.kind) {
        Some(Resource::SERVICE) => Ok(()),
        Some(resource) => {
            let message = format!(
                "{} cannot be {done}: only services can, llminferenceservice/NAME",
                resource.quoted(&object.name)
            );
            Err(Refusal::new(Reason::MethodNotAllowed, message))
        }
        None => Err(bad(view::unknown(&object.kind))),
    }
}
