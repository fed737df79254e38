//! What a change makes of a stored object: the rules, without the store.
//!
//! Every change of an object, whatever it changes, gives it the next generation, and a deletion
//! leaves a tombstone with the next one ([`troupe_runtime::discovery::declared`]). So an object's
//! `metadata.resourceVersion` is its generation: it counts the object's changes, it comes back as
//! it was after the store was wiped, and what a controller says of the object does not touch it.

use serde_json::{Value, json};
use troupe_runtime::{
    clock::rfc3339,
    discovery::declared::{self, Declared},
    spec::metadata::MAX_OBJECT,
    wire::operate::{ApplyHow, Label, Outcome, Reason, Refusal, Scale},
};
use uuid::Uuid;

use super::{
    labels,
    merge::{self, LAST_APPLIED},
    resource::Resource,
};

/// An object as it stands under its key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored {
    /// None if it was deleted.
    pub(super) document: Option<Value>,
    /// Of the object, or of the tombstone.
    pub(super) generation: u64,
}

/// Which object a change is about, for what it says.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    pub(super) resource: Resource,
    pub(super) name: &'a str,
}

/// What a new object is given: its identity, and the time of day in seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) uid: Uuid,
    pub(super) now: u64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Nothing: the object says it already.
    Keep(Value),
    /// Store this.
    Write(Value, Outcome),
    /// Store a tombstone of this generation; the object was this.
    Bury(u64, Value),
}

/// The annotation that says when a service was last asked to be formed anew.
pub(super) const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// The annotation that says why a service was changed.
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";

type Decision = Result<Verdict, Refusal>;

// === impl Stored ===

impl Stored {
    /// Reads what stands under an object's key.
    pub(super) fn of(value: &[u8]) -> Option<Self> {
        let Declared { generation, deleted } = Declared::of(value)?;
        let document = if deleted { None } else { serde_json::from_slice(value).ok() };
        Some(Self { document, generation })
    }
}

impl Verdict {
    /// What is to be stored.
    pub(super) fn value(&self) -> Option<Vec<u8>> {
        match self {
            Self::Keep(_) => None,
            Self::Write(document, _) => Some(document.to_string().into_bytes()),
            Self::Bury(generation, _) => Some(declared::tombstone(*generation)),
        }
    }
}

// === the changes ===

/// Makes an object as a document says.
pub(super) fn apply(
    about: About<'_>,
    stored: Option<&Stored>,
    given: &Value,
    how: ApplyHow,
    stamp: Stamp,
) -> Decision {
    let declared = merge::declared(given);
    let version = given.pointer("/metadata/resourceVersion").and_then(text);
    let Some(live) = stored.and_then(|stored| stored.document.as_ref()) else {
        if version.is_some() {
            return Err(bad(format!(
                "metadata.resourceVersion: {} is not there, so it has no version; leave the field \
                 out to create it",
                about.quoted()
            )));
        }
        let mut document = merge::without_nulls(declared.clone());
        let generation = 1 + stored.map_or(0, |stored| stored.generation);
        *at(&mut document, &["metadata", "uid"]) = json!(stamp.uid);
        *at(&mut document, &["metadata", "creationTimestamp"]) = json!(rfc3339(stamp.now));
        *at(&mut document, &GENERATION) = json!(generation);
        remember(&mut document, &declared, how);
        return Ok(Verdict::Write(document, Outcome::Created));
    };
    if how == ApplyHow::Create {
        let message = format!("{} already exists", about.quoted());
        return Err(Refusal::new(Reason::AlreadyExists, message));
    }
    let generation = stored.map_or(0, |stored| stored.generation);
    fresh(about, generation, version.as_deref())?;
    let last = merge::last_applied(live);
    let before = merge::declared(live);
    let merged = merge::without_nulls(merge::merge(last.as_ref(), &declared, &before));
    if merged == before {
        return Ok(Verdict::Keep(live.clone()));
    }
    let mut document = next(live, merged, generation);
    remember(&mut document, &declared, how);
    Ok(Verdict::Write(document, Outcome::Configured))
}

/// Deletes an object.
pub(super) fn delete(about: About<'_>, stored: Option<&Stored>) -> Decision {
    let (live, generation) = there(about, stored)?;
    Ok(Verdict::Bury(generation + 1, live.clone()))
}

/// Gives a service another number of replicas.
pub(super) fn scale(about: About<'_>, stored: Option<&Stored>, scale: &Scale) -> Decision {
    let (live, generation) = there(about, stored)?;
    fresh(about, generation, scale.resource_version.as_deref())?;
    if let Some(scaling) = live.pointer("/spec/scaling").filter(|scaling| scaling.is_object()) {
        let bound = |key| scaling.get(key).and_then(Value::as_u64).unwrap_or(1);
        let (least, most) = (bound("minReplicas"), bound("maxReplicas"));
        return Err(bad(format!(
            "{} follows its load, with {least} to {most} replicas (spec.scaling): for more or \
             fewer change minReplicas or maxReplicas there, or give it replicas instead",
            about.quoted()
        )));
    }
    let now = live.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
    if let Some(expected) = scale.expected.filter(|expected| u64::from(*expected) != now) {
        let message = format!("Expected replicas to be {expected}, was {now}");
        return Err(Refusal::new(Reason::Conflict, message));
    }
    change(live, generation, |document| {
        *at(document, &["spec", "replicas"]) = json!(scale.replicas);
    })
}

/// Gives an object other labels.
pub(super) fn label(about: About<'_>, stored: Option<&Stored>, label: &Label) -> Decision {
    let (live, generation) = there(about, stored)?;
    let labels = live.pointer("/metadata/labels");
    check_labels(label, |key| labels?.get(key)?.as_str().map(str::to_owned))?;
    change(live, generation, |document| {
        for (key, value) in &label.set {
            *at(document, &["metadata", "labels", key]) = json!(value);
        }
        let labels = document.pointer_mut("/metadata/labels").and_then(Value::as_object_mut);
        if let Some(labels) = labels {
            labels.retain(|key, _| !label.remove.contains(key));
        }
    })
}

/// Refuses labels that cannot be, and such as would lose the value that they have unasked.
pub(super) fn check_labels(
    label: &Label,
    now: impl Fn(&str) -> Option<String>,
) -> Result<(), Refusal> {
    for (key, value) in &label.set {
        labels::check_key(key).and_then(|()| labels::check_value(value)).map_err(bad)?;
        if label.remove.contains(key) {
            return Err(bad(format!("can not both modify and remove a label `{key}`")));
        }
        let other = now(key).filter(|now| now != value);
        if let Some(other) = other.filter(|_| !label.overwrite) {
            return Err(bad(format!(
                "'{key}' already has a value ({other}), and --overwrite is false"
            )));
        }
    }
    Ok(())
}

/// Asks for all groups of a service to be formed anew.
pub(super) fn restart(about: About<'_>, stored: Option<&Stored>, now: u64) -> Decision {
    let (live, generation) = there(about, stored)?;
    change(live, generation, |document| {
        *at(document, &["metadata", "annotations", RESTARTED_AT]) = json!(rfc3339(now));
    })
}

/// Declares a service as a revision has it. The number of replicas is no part of a revision: going
/// back to an earlier model must not take the capacity away that there is now.
pub(super) fn undo(about: About<'_>, stored: Option<&Stored>, revision: &Value) -> Decision {
    let (live, generation) = there(about, stored)?;
    let Some(spec) = revision.get("spec").filter(|spec| spec.is_object()) else {
        let message = format!("a revision of {} has no spec", about.quoted());
        return Err(Refusal::new(Reason::InternalError, message));
    };
    let cause = revision.pointer("/metadata/annotations").and_then(|all| all.get(CHANGE_CAUSE));
    change(live, generation, |document| {
        let mut spec = spec.clone();
        for capacity in ["replicas", "scaling"] {
            match document.get("spec").and_then(|spec| spec.get(capacity)) {
                Some(now) => *at(&mut spec, &[capacity]) = now.clone(),
                None => drop(spec.as_object_mut().and_then(|spec| spec.shift_remove(capacity))),
            }
        }
        *at(document, &["spec"]) = spec;
        if let Some(cause) = cause {
            *at(document, &["metadata", "annotations", CHANGE_CAUSE]) = cause.clone();
        }
    })
}

// === what they share ===

impl About<'_> {
    pub(super) fn quoted(&self) -> String {
        self.resource.quoted(self.name)
    }

    pub(super) fn not_found(&self) -> Refusal {
        Refusal::new(Reason::NotFound, format!("{} not found", self.quoted()))
    }
}

/// The living object and its generation.
fn there<'a>(about: About<'_>, stored: Option<&'a Stored>) -> Result<(&'a Value, u64), Refusal> {
    let live = stored.and_then(|stored| Some((stored.document.as_ref()?, stored.generation)));
    live.ok_or_else(|| about.not_found())
}

/// Refuses a change by somebody who has not seen the newest version.
fn fresh(about: About<'_>, generation: u64, version: Option<&str>) -> Result<(), Refusal> {
    if version.is_none_or(|version| version == generation.to_string()) {
        return Ok(());
    }
    let message = format!(
        "Operation cannot be fulfilled on {}: the object has been modified; please apply your \
         changes to the latest version and try again",
        about.quoted()
    );
    Err(Refusal::new(Reason::Conflict, message))
}

/// The object after an edit, or as it is if the edit changes nothing.
fn change(live: &Value, generation: u64, edit: impl FnOnce(&mut Value)) -> Decision {
    let mut edited = live.clone();
    edit(&mut edited);
    if edited == *live {
        return Ok(Verdict::Keep(edited));
    }
    *at(&mut edited, &GENERATION) = json!(generation + 1);
    Ok(Verdict::Write(edited, Outcome::Configured))
}

/// What was declared, as the next generation of the living object.
fn next(live: &Value, declared: Value, generation: u64) -> Value {
    let mut document = declared;
    for ours in ["uid", "creationTimestamp"] {
        if let Some(value) = live.get("metadata").and_then(|before| before.get(ours)) {
            *at(&mut document, &["metadata", ours]) = value.clone();
        }
    }
    *at(&mut document, &GENERATION) = json!(generation + 1);
    document
}

/// Keeps with an object what was applied, unless the object would be too large with it: then fields
/// that a later file leaves out stay.
fn remember(document: &mut Value, applied: &Value, how: ApplyHow) {
    if how != ApplyHow::Apply {
        return;
    }
    let applied = applied.to_string();
    // As text inside of JSON its quotes are escaped: at most twice as long.
    if document.to_string().len() + 2 * applied.len() <= MAX_OBJECT {
        *at(document, &["metadata", "annotations", LAST_APPLIED]) = json!(applied);
    }
}

/// A place in a document; what is on the way to it and is no object becomes one.
fn at<'a>(document: &'a mut Value, path: &[&str]) -> &'a mut Value {
    path.iter().fold(document, |value, key| {
        if !value.is_object() {
            *value = json!({});
        }
        &mut value[*key]
    })
}

const GENERATION: [&str; 2] = ["metadata", "generation"];

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn bad(message: String) -> Refusal {
    Refusal::new(Reason::BadRequest, message)
}

#[cfg(test)]
mod tests;
