//! What an operator asks of a control host, and what it is told.
//!
//! One question per conversation: the operator sends one [`OperateUp`] and finishes; the control
//! host answers with any number of [`OperateDown`] and finishes, or goes on until the operator
//! hangs up where it was asked to watch or to follow. Objects travel as the JSON documents that
//! people declare and read: a new field of a specification is no new version of the wire.

use rkyv::{Archive, Deserialize, Serialize};

use super::{Message, at_most, bounded, join::TokenKind};

/// Operator to control host: the one question of a conversation.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum OperateUp {
    /// These objects: [`OperateDown::Object`] for each.
    Get(Selection),
    /// These objects, then [`OperateDown::Synced`], then each again when it changes and
    /// [`OperateDown::Gone`] when it is no longer among them.
    Watch(Selection),
    /// Change something: [`OperateDown::Changed`] or [`OperateDown::Refused`] for each object.
    Change(Box<Change>, Run),
    /// What members said: [`OperateDown::Log`], as they come.
    Logs(Logs),
    /// How busy they are: [`OperateDown::Object`] for each.
    Top(Busy),
}

/// Whether a change is to happen.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// It is.
    Real,
    /// Only say what would.
    Dry,
}

/// An object by name.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Its kind, as a document has it: `LLMInferenceService`, `Node`.
    pub kind: String,
    /// Empty for what is in none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Objects of one kind.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Which kind, as a document has it.
    pub kind: String,
    /// Only those in this namespace.
    pub namespace: Option<String>,
    /// Only the one of this name; that there is none is a refusal then.
    pub name: Option<String>,
    /// Only those with these labels, as `a=b,c!=d,e in (f,g),h,!i`; empty for all.
    pub labels: String,
}

/// A change.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Make objects as these documents say, in their order.
    Apply(Apply),
    /// Delete an object.
    Delete(ObjectName),
    /// Another number of replicas.
    Scale(Scale),
    /// Other labels.
    Label(Label),
    /// Form every group of a service anew, as a rollout.
    Restart(ObjectName),
    /// Declare a service as it was before.
    Undo(Undo),
    /// Whether a host may be planned on.
    Cordon(Cordon),
    /// Make a join token. The one answer that has its secret is this one's.
    Token(NewToken),
    /// An identity is let in no more.
    Revoke(Revoke),
}

/// Documents to be made real.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Apply {
    /// Each a JSON object.
    pub documents: Vec<String>,
    /// Whether an object may be there already.
    pub how: ApplyHow,
}

/// Whether an object that is applied may be there already.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyHow {
    /// It may: then it is changed.
    Apply,
    /// It may not.
    Create,
}

/// Another number of replicas.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Of which service.
    pub object: ObjectName,
    /// How many.
    pub replicas: u32,
    /// Only if there are this many now.
    pub expected: Option<u32>,
    /// Only if this is its version now.
    pub resource_version: Option<String>,
}

/// Other labels.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Of which object.
    pub object: ObjectName,
    /// These labels with these values.
    pub set: Vec<(String, String)>,
    /// Not these.
    pub remove: Vec<String>,
    /// Whether a label may lose the value it has.
    pub overwrite: bool,
}

/// A service as it was before.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Undo {
    /// Which service.
    pub object: ObjectName,
    /// Which revision; none for the newest that differs from what is declared now.
    pub to: Option<u64>,
}

/// Whether a host may be planned on.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Cordon {
    /// The host's name.
    pub node: String,
    /// Whether.
    pub to: Planning,
}

/// Whether a host may be planned on.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planning {
    /// It may.
    Open,
    /// Nothing new comes.
    Cordoned,
    /// Nothing new comes, and what is there goes: each group when it has finished what it has
    /// begun, or after this many seconds.
    Drained(u32),
}

/// A join token to be made.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// What it brings.
    pub kind: TokenKind,
    /// For how many seconds.
    pub ttl: u64,
    /// How many hosts may join by it.
    pub uses: u32,
    /// Whether who joins by it becomes an operator too.
    pub operator: bool,
}

/// An identity that is let in no more.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Revoke {
    /// A host's name, or an identity's id.
    pub whom: String,
    /// Why, for people.
    pub reason: String,
}

/// Whose words, and which.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// Namespace of the service or group.
    pub namespace: String,
    /// A service's name, or a group's as `<service>-<index>`.
    pub name: String,
    /// Only this member's; the leader is 0.
    pub member: Option<u32>,
    /// Only the last so many lines of each member.
    pub tail: Option<u32>,
    /// Go on as they speak.
    pub follow: bool,
}

/// Whose load is asked for.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Every host's.
    Nodes,
    /// Every service's, or only that of those in a namespace.
    Services(Option<String>),
}

/// Control host to operator.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum OperateDown {
    /// An object, as JSON.
    Object(String),
    /// An object that was told is no longer among those that were asked for.
    Gone(ObjectName),
    /// Everything that is there now has been told.
    Synced,
    /// What became of one object.
    Changed(Box<Changed>),
    /// What was asked, or one object's part of it, was not done.
    Refused(Refusal),
    /// What a dry run found: who would run where, line by line.
    Plan(Vec<String>),
    /// A member said this.
    Log(LogLines),
}

/// What became of one object.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub object: ObjectName,
    /// What.
    pub outcome: Outcome,
    /// The object as it is now, as JSON; of one that is gone, as it was.
    pub document: String,
    /// What is odd about it, for people.
    pub warnings: Vec<String>,
}

/// What became of an object.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there.
    Created,
    /// It was there and says something else now.
    Configured,
    /// It said all of this already.
    Unchanged,
    /// It is gone.
    Deleted,
}

/// Why something was not done.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why, in a word.
    pub reason: Reason,
    /// Why, for people: what was wrong, where, and what would be right.
    pub message: String,
}

/// Why something was not done, in Kubernetes' words.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The object is not there.
    NotFound,
    /// The object is there already.
    AlreadyExists,
    /// The object is not what the operator had read.
    Conflict,
    /// The object would say something that cannot be.
    Invalid,
    /// The question makes no sense.
    BadRequest,
    /// That kind of object does not have that done to it.
    MethodNotAllowed,
    /// The store, or the host that was to answer, does not.
    ServiceUnavailable,
    /// A fault of ours.
    InternalError,
}

/// What a member said.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LogLines {
    /// Who, as `<service>-<group>-<member>`.
    pub member: String,
    /// Each without its end.
    pub lines: Vec<String>,
}

// === impl ObjectName ===

impl ObjectName {
    /// A name from its parts.
    pub fn new(
        kind: impl Into<String>,
        namespace: impl Into<String>,
        name: impl Into<String>,
    ) -> Self {
        Self { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }

    fn check(&self) -> Result<(), String> {
        short("object.kind", &self.kind)?;
        short("object.namespace", &self.namespace)?;
        short("object.name", &self.name)
    }
}

// === impl Refusal ===

impl Refusal {
    /// A refusal.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

// === impl Message ===

impl Message for OperateUp {
    const NAME: &'static str = "OperateUp";

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Get(selection) | Self::Watch(selection) => {
                short("selection.kind", &selection.kind)?;
                short("selection.namespace", selection.namespace.as_deref().unwrap_or_default())?;
                short("selection.name", selection.name.as_deref().unwrap_or_default())?;
                at_most("selection.labels", &selection.labels, MAX_SELECTOR)
            }
            Self::Change(what, _) => what.check(),
            Self::Logs(logs) => {
                short("logs.namespace", &logs.namespace)?;
                short("logs.name", &logs.name)
            }
            Self::Top(Busy::Services(namespace)) => {
                short("top.namespace", namespace.as_deref().unwrap_or_default())
            }
            Self::Top(Busy::Nodes) => Ok(()),
        }
    }
}

impl Change {
    fn check(&self) -> Result<(), String> {
        match self {
            Self::Apply(apply) => bounded("documents", &apply.documents, MAX_DOCUMENTS),
            Self::Delete(object)
            | Self::Scale(Scale { object, .. })
            | Self::Restart(object)
            | Self::Undo(Undo { object, .. }) => object.check(),
            Self::Label(label) => {
                label.object.check()?;
                bounded("set", &label.set, MAX_LABELS)?;
                bounded("remove", &label.remove, MAX_LABELS)
            }
            Self::Cordon(cordon) => short("node", &cordon.node),
            Self::Token(_) => Ok(()),
            Self::Revoke(revoke) => {
                short("whom", &revoke.whom)?;
                at_most("reason", &revoke.reason, MAX_REASON)
            }
        }
    }
}

impl Message for OperateDown {
    const NAME: &'static str = "OperateDown";

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Gone(object) => object.check(),
            Self::Changed(changed) => {
                changed.object.check()?;
                bounded("warnings", &changed.warnings, MAX_WARNINGS)
            }
            Self::Plan(lines) => bounded("plan", lines, MAX_PLAN_LINES),
            Self::Log(log) => bounded("lines", &log.lines, MAX_LOG_LINES),
            Self::Object(_) | Self::Synced | Self::Refused(_) => Ok(()),
        }
    }
}

fn short(field: &str, text: &str) -> Result<(), String> {
    at_most(field, text, MAX_NAME)
}

/// The longest name of anything: a DNS subdomain.
const MAX_NAME: usize = 253;
/// The longest reason that a person gives.
const MAX_REASON: usize = 1 << 10;
/// The longest selection by labels: some dozens of labels of 63 characters.
const MAX_SELECTOR: usize = 4 << 10;
/// The most documents applied at once: what a message of 16 MiB holds of middling size.
pub const MAX_DOCUMENTS: usize = 1024;
/// The most labels changed at once; an object has a few dozens.
const MAX_LABELS: usize = 256;
/// The most warnings of one object: one for each field that does nothing.
pub const MAX_WARNINGS: usize = 1024;
/// The most lines of a plan: one for each member of a large cluster.
pub const MAX_PLAN_LINES: usize = 16 << 10;
/// The most lines of a log at once, as a host sends them.
pub const MAX_LOG_LINES: usize = 1 << 16;
