//! A session with a control host: one question per conversation.

use std::time::Duration;

use serde_json::Value;
use troupe_runtime::{
    transport::{Conversation, EncodeMessage, LinkError, PeerAddr, Stream},
    wire::{
        operate::{OperateDown, OperateUp, Reason, Refusal, Selection},
        preflight::{PreflightDown, PreflightUp},
    },
};

use crate::{cli::Failure, stack::operator::Operator};

/// A connection to a control host.
#[derive(Debug)]
pub(crate) struct Session {
    operator: Operator,
}

/// What is answered to one question.
#[derive(Debug)]
pub(crate) struct Answers {
    stream: Stream,
}

// === impl Session ===

impl Session {
    /// A session over a connection that an operator made.
    pub(crate) fn new(operator: Operator) -> Self {
        Self { operator }
    }

    /// The control host that answers.
    pub(crate) fn server(&self) -> &PeerAddr {
        &self.operator.server
    }

    /// All control hosts that are known here.
    pub(crate) fn servers(&self) -> &[PeerAddr] {
        &self.operator.servers
    }

    /// Asks.
    pub(crate) async fn ask(&self, question: &OperateUp) -> Result<Answers, Failure> {
        Ok(Answers { stream: self.open(Conversation::Operate, question).await? })
    }

    /// Opens a conversation with its one question.
    async fn open(
        &self,
        what: Conversation,
        question: &impl EncodeMessage,
    ) -> Result<Stream, Failure> {
        let opened = self.operator.connection.open(what, PATIENCE).await;
        let mut stream = opened.map_err(broken)?;
        stream.sender.send(question, PATIENCE).await.map_err(broken)?;
        Ok(stream)
    }

    /// Whether the cluster is fit: everything that is said of it, in order. Ends with a refusal,
    /// if there is one.
    pub(crate) async fn preflight(
        &self,
        question: &PreflightUp,
        mut each: impl FnMut(PreflightDown) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut stream = self.open(Conversation::Preflight, question).await?;
        loop {
            let next = tokio::time::timeout(MEASURING, stream.receiver.next());
            match next.await.map_err(|_| silent(MEASURING))?.map_err(broken)? {
                Some(PreflightDown::Refused(refusal)) => return Err(refused(&refusal)),
                Some(down) => each(down)?,
                None => return Ok(()),
            }
        }
    }

    /// All objects of a selection.
    pub(crate) async fn objects(&self, selection: Selection) -> Result<Vec<Value>, Failure> {
        self.documents(&OperateUp::Get(selection)).await
    }

    /// All documents that answer a question.
    pub(crate) async fn documents(&self, question: &OperateUp) -> Result<Vec<Value>, Failure> {
        let mut answers = self.ask(question).await?;
        let mut documents = Vec::new();
        while let Some(answer) = answers.next().await? {
            if let OperateDown::Object(document) = answer {
                documents.push(parse(&document)?);
            }
        }
        Ok(documents)
    }
}

// === impl Answers ===

impl Answers {
    /// The next answer; a refusal is a failure. `None` when all has been said.
    pub(crate) async fn next(&mut self) -> Result<Option<OperateDown>, Failure> {
        match self.next_or_refused().await? {
            Some(OperateDown::Refused(refusal)) => Err(refused(&refusal)),
            answer => Ok(answer),
        }
    }

    /// The next answer, where one of several may be a refusal.
    pub(crate) async fn next_or_refused(&mut self) -> Result<Option<OperateDown>, Failure> {
        let next = tokio::time::timeout(PATIENCE, self.stream.receiver.next());
        next.await.map_err(|_| silent(PATIENCE))?.map_err(broken)
    }

    /// The next answer of a conversation that goes on: waits as long as it takes.
    pub(crate) async fn wait(&mut self) -> Result<Option<OperateDown>, Failure> {
        match self.stream.receiver.next().await.map_err(broken)? {
            Some(OperateDown::Refused(refusal)) => Err(refused(&refusal)),
            answer => Ok(answer),
        }
    }
}

/// An object as it was sent.
pub(crate) fn parse(document: &str) -> Result<Value, Failure> {
    serde_json::from_str(document)
        .map_err(|error| Failure::told(format!("error: the control host sent no JSON: {error}")))
}

/// A refusal in the words of `kubectl`.
pub(crate) fn refused(refusal: &Refusal) -> Failure {
    Failure::refused(refusal.reason, refusal_text(refusal))
}

/// A refusal as a line.
fn refusal_text(refusal: &Refusal) -> String {
    match refusal.reason {
        Reason::Invalid => format!("The {}", refusal.message),
        reason => format!("Error from server ({reason:?}): {}", refusal.message),
    }
}

fn broken(error: LinkError) -> Failure {
    let why = troupe_runtime::error::chain(&error);
    Failure::told(format!("error: the control host went away: {why}"))
}

fn silent(patience: Duration) -> Failure {
    let seconds = patience.as_secs();
    Failure::told(format!("error: the control host has said nothing for {seconds} s"))
}

/// A control host answers at once, or after asking etcd or the leaders, which has a shorter limit.
const PATIENCE: Duration = Duration::from_secs(30);
/// Two hosts that barely reach each other take so long to measure both ways.
const MEASURING: Duration = Duration::from_secs(90);
