//! Reads logs to whoever may ask: a control host, at this host's door.

use std::{io, time::Duration};

use async_trait::async_trait;
use troupe_runtime::{
    transport::{FrameSender, LinkError, PeerIdentity, Stream},
    wire::host::{HostDown, HostUp, LogsAsk},
};

use super::Shelf;
use crate::{host::Desk, node::core::MemberKey};

/// Answers [`troupe_runtime::transport::Conversation::Host`].
#[derive(Clone, Debug)]
pub struct LogsDesk {
    shelf: Shelf,
}

// === impl LogsDesk ===

impl LogsDesk {
    /// A desk that reads from this shelf.
    pub fn new(shelf: Shelf) -> Self {
        Self { shelf }
    }

    async fn converse(&self, mut stream: Stream) -> Result<(), LinkError> {
        let HostUp::Logs(ask) = stream.receiver.expect::<HostUp>(PATIENCE).await?;
        if let Err(why) = self.read(&ask, &mut stream.sender).await? {
            stream.sender.send(&HostDown::Refused(why), PATIENCE).await?;
        }
        stream.sender.finish()
    }

    /// Reads the newest incarnation's log; what cannot be read is the inner error.
    async fn read(
        &self,
        ask: &LogsAsk,
        sender: &mut FrameSender,
    ) -> Result<Result<(), String>, LinkError> {
        let said = |error: io::Error| error.to_string();
        let logs = match self.shelf.list().await {
            Ok(logs) => logs,
            Err(error) => return Ok(Err(said(error))),
        };
        let of_group = logs.into_iter().map(|log| log.key).filter(|key| key.group == ask.group);
        let newest = of_group
            .filter(|key: &MemberKey| ask.member.is_none_or(|member| key.member == member))
            .max_by_key(|key| key.epoch);
        let Some(key) = newest else {
            return Ok(Err("it has said nothing here yet".into()));
        };
        let tail = usize::try_from(ask.tail).unwrap_or(usize::MAX);
        let (last, mut follow) = match self.shelf.open(&key, tail).await {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(said(error))),
        };
        send(last, sender).await?;
        if !ask.follow {
            return Ok(Ok(()));
        }
        loop {
            let more = tokio::select! {
                () = sender.stopped() => return Ok(Ok(())),
                more = follow.next() => more,
            };
            match more {
                Ok(Some(lines)) => send(lines, sender).await?,
                Ok(None) => return Ok(Ok(())),
                Err(error) => return Ok(Err(said(error))),
            }
        }
    }
}

#[async_trait]
impl Desk for LogsDesk {
    async fn answer(&self, peer: &PeerIdentity, stream: Stream) {
        if let Err(error) = self.converse(stream).await {
            tracing::debug!(%peer, %error, "reading a log broke off");
        }
    }
}

/// Sends lines, in messages that are small beside what one may be.
async fn send(lines: Vec<String>, sender: &mut FrameSender) -> Result<(), LinkError> {
    let mut lines = lines.into_iter().peekable();
    while lines.peek().is_some() {
        let mut bytes = 0;
        let mut some = Vec::new();
        while let Some(line) = lines.next_if(|line| some.is_empty() || bytes + line.len() <= BYTES)
        {
            bytes += line.len() + LINE;
            some.push(line);
        }
        sender.send(&HostDown::Lines(some), PATIENCE).await?;
    }
    Ok(())
}

/// Of lines in one message: far below what a message may have.
const BYTES: usize = 1 << 20;
/// What even an empty line costs, so that a message never has too many.
const LINE: usize = 64;
/// How long a control host may take to ask, and to read.
const PATIENCE: Duration = Duration::from_secs(30);
