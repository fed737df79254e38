//! Answers operators: one question per conversation, from what the store holds now.
//!
//! Any control host answers, in office or not: what is read is in the store, and every change is a
//! compare-and-swap there, which the controller in office then sees. The desk remembers nothing.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, stream};
use serde_json::Value;
use troupe_runtime::{
    clock::Clock,
    discovery::{Registry, RegistryError, Watch, WatchEvent, keys::Keys},
    model::source::ModelAccess,
    transport::{FrameSender, Link, LinkError, PeerIdentity, Stream, tls::Pin},
    wire::operate::{Busy, OperateDown, OperateUp, Reason, Refusal, Selection},
};

use super::{
    change::About,
    contents::Contents,
    resource::Resource,
    view::{Choice, Objects},
};
use crate::host::Desk;

/// Answers [`troupe_runtime::transport::Conversation::Operate`].
pub struct OperateDesk {
    pub(super) registry: Arc<dyn Registry>,
    pub(super) keys: Keys,
    /// The way to leaders and hosts.
    pub(super) link: Arc<dyn Link>,
    pub(super) clock: Clock,
    /// Where models may be that this host has too, to know how large they are.
    pub(super) hub: ModelAccess,
    /// What join tokens say of the CA; none where nobody can join.
    pub(super) pin: Option<Pin>,
}

/// Where an answer goes.
pub(super) struct Answer {
    sender: FrameSender,
}

/// Why an answer ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// What was asked is not done; the operator is told.
    Refused(Refusal),
    /// The operator is gone.
    Gone(LinkError),
}

// === impl OperateDesk ===

impl OperateDesk {
    /// A desk over a cluster's store, which reaches leaders and hosts over this link.
    pub fn new(registry: Arc<dyn Registry>, keys: Keys, link: Arc<dyn Link>) -> Self {
        Self {
            registry,
            keys,
            link,
            clock: Clock::start(),
            hub: ModelAccess::offline(""),
            pin: None,
        }
    }

    /// The same on a host that has models of the hub here: a plan says whether they fit.
    #[must_use]
    pub fn with_hub(self, hub: ModelAccess) -> Self {
        Self { hub, ..self }
    }

    /// The same, where hosts can join that believe the CA with this pin.
    #[must_use]
    pub fn admitting(self, pin: Pin) -> Self {
        Self { pin: Some(pin), ..self }
    }

    async fn converse(&self, peer: &PeerIdentity, stream: Stream) -> Result<(), LinkError> {
        let Stream { sender, mut receiver } = stream;
        let mut answer = Answer { sender };
        let question = receiver.expect::<OperateUp>(QUESTION).await?;
        match self.take(peer, question, &mut answer).await {
            Ok(()) => {}
            Err(Stop::Refused(refusal)) => answer.say(&OperateDown::Refused(refusal)).await?,
            Err(Stop::Gone(error)) => return Err(error),
        }
        answer.sender.finish()
    }

    async fn take(
        &self,
        peer: &PeerIdentity,
        question: OperateUp,
        answer: &mut Answer,
    ) -> Result<(), Stop> {
        match question {
            OperateUp::Get(selection) => self.read(&selection, answer).await,
            OperateUp::Watch(selection) => self.watch(&selection, answer).await,
            OperateUp::Change(what, run) => self.change(peer, *what, run, answer).await,
            OperateUp::Logs(logs) => self.logs(&logs, answer).await,
            OperateUp::Top(Busy::Nodes) => self.busy_nodes(answer).await,
            OperateUp::Top(Busy::Services(namespace)) => {
                self.busy_services(namespace.as_deref(), answer).await
            }
        }
    }

    async fn read(&self, selection: &Selection, answer: &mut Answer) -> Result<(), Stop> {
        let choice = Choice::new(selection).map_err(bad)?;
        let objects = choice.of(&self.contents(choice.resource).await?);
        found(&choice, &objects)?;
        for document in objects.into_values() {
            answer.say(&OperateDown::Object(document.to_string())).await?;
        }
        Ok(())
    }

    /// What the store holds of a kind of objects now.
    pub(super) async fn contents(&self, resource: Resource) -> Result<Contents, Stop> {
        let mut contents = Contents::new(self.keys.clone());
        for prefix in resource.prefixes(&self.keys) {
            contents.add(self.registry.list(&prefix).await?);
        }
        Ok(contents)
    }

    /// Goes on until the operator hangs up.
    async fn watch(&self, selection: &Selection, answer: &mut Answer) -> Result<(), Stop> {
        let choice = Choice::new(selection).map_err(bad)?;
        let prefixes = choice.resource.prefixes(&self.keys);
        let mut watches = Vec::new();
        for (index, prefix) in prefixes.iter().enumerate() {
            let watch = self.registry.watch(prefix).await?;
            watches.push(Box::pin(stream::unfold(watch, move |mut watch: Watch| async move {
                Some(((index, watch.next().await?), watch))
            })));
        }
        let mut events = stream::select_all(watches);
        let mut contents = Contents::new(self.keys.clone());
        let mut synced = BTreeSet::new();
        let mut told: Option<Objects> = None;
        loop {
            let event = tokio::select! {
                () = answer.sender.stopped() => return Ok(()),
                event = events.next() => event,
            };
            // Whatever else has happened by now is told at once.
            let more = std::iter::from_fn(|| events.next().now_or_never().flatten());
            let Some(event) = event else { return Err(gone().into()) };
            let mut changed = false;
            for (index, event) in std::iter::once(event).chain(more) {
                changed |= event == WatchEvent::Synced && synced.insert(index);
                changed |= contents.see(event);
            }
            if changed && synced.len() == prefixes.len() {
                told = Some(tell(&choice, &contents, told, answer).await?);
            }
        }
    }
}

#[async_trait]
impl Desk for OperateDesk {
    async fn answer(&self, peer: &PeerIdentity, stream: Stream) {
        if let Err(error) = self.converse(peer, stream).await {
            tracing::debug!(%peer, %error, "an operator's question broke off");
        }
    }
}

/// Tells what is otherwise than it was told before; the first time all of it.
async fn tell(
    choice: &Choice,
    contents: &Contents,
    told: Option<Objects>,
    answer: &mut Answer,
) -> Result<Objects, Stop> {
    let objects = choice.of(contents);
    let first = told.is_none();
    let told = told.unwrap_or_default();
    if first {
        found(choice, &objects)?;
    }
    for (name, document) in objects.iter().filter(|(name, now)| told.get(*name) != Some(*now)) {
        tracing::trace!(name = name.name, "an object is told");
        answer.say(&OperateDown::Object(document.to_string())).await?;
    }
    for name in told.keys().filter(|name| !objects.contains_key(*name)) {
        answer.say(&OperateDown::Gone(name.clone())).await?;
    }
    if first {
        answer.say(&OperateDown::Synced).await?;
    }
    Ok(objects)
}

/// Refuses the name of an object that is not there.
fn found(choice: &Choice, objects: &Objects) -> Result<(), Refusal> {
    match &choice.name {
        Some(name) if objects.is_empty() => {
            Err(About { resource: choice.resource, name }.not_found())
        }
        _ => Ok(()),
    }
}

// === impl Answer ===

impl Answer {
    pub(super) async fn say(&mut self, what: &OperateDown) -> Result<(), LinkError> {
        self.sender.send(what, PATIENCE).await
    }

    /// Returns when the operator no longer listens.
    pub(super) async fn hung_up(&mut self) {
        self.sender.stopped().await;
    }
}

// === impl Stop ===

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<LinkError> for Stop {
    fn from(error: LinkError) -> Self {
        Self::Gone(error)
    }
}

impl From<RegistryError> for Stop {
    fn from(error: RegistryError) -> Self {
        Self::Refused(unavailable(&error))
    }
}

/// The store does not answer.
pub(super) fn unavailable(error: &RegistryError) -> Refusal {
    Refusal::new(Reason::ServiceUnavailable, error.to_string())
}

pub(super) fn bad(message: String) -> Refusal {
    Refusal::new(Reason::BadRequest, message)
}

fn gone() -> Refusal {
    Refusal::new(Reason::ServiceUnavailable, "this control host is ending")
}

/// A field of a document, for people.
pub(super) fn text(document: &Value, pointer: &str) -> String {
    document.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// How long an operator may take to ask, having opened the conversation.
const QUESTION: Duration = Duration::from_secs(10);
/// How long an operator may take to read before the answer is given up.
const PATIENCE: Duration = Duration::from_secs(30);
