//! Reads logs to whoever may ask: a control host, at this host's door.

use std::{io, time::Duration};

use troupe_runtime::{
    transport::{FrameSender, LinkError},
    wire::host::{HostDown, LogsAsk},
};

use super::Shelf;
use crate::node::core::MemberKey;

/// Answers questions about the logs of one shelf.
#[derive(Clone, Debug)]
pub struct Reader {
    shelf: Shelf,
}

// === impl Reader ===

impl Reader {
    /// One that reads from this shelf.
    pub fn new(shelf: Shelf) -> Self {
        Self { shelf }
    }

    /// Says what was asked for, or why it cannot.
    ///
    /// # Errors
    /// The asker is gone.
    pub async fn tell(&self, ask: &LogsAsk, sender: &mut FrameSender) -> Result<(), LinkError> {
        match self.read(ask, sender).await? {
            Ok(()) => Ok(()),
            Err(why) => sender.send(&HostDown::refused(why), PATIENCE).await,
        }
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
/// How long a control host may take to read.
const PATIENCE: Duration = Duration::from_secs(30);
