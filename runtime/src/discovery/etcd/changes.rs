//! A stream of etcd's changes that cannot miss one.
//!
//! The watch is opened first and the list taken while it stands, at the same member: events that
//! the list already holds are left out. So no revision is ever resumed, and neither compaction nor
//! a store that went back in time can lie between the two. etcd's progress notifications are not
//! relied upon; a stream that is quiet is checked by a request of our own.

use std::time::Duration;

use async_trait::async_trait;
use etcd_client as etcd;
use tokio::time::Instant;

use super::{MAX_ANSWER, Member, entry, error::Failure, stand};
use crate::discovery::{
    Entry,
    store::{Broken, Change, Changes, Stand},
};

/// How long a stream may be quiet before its member is asked whether it still answers.
const QUIET: Duration = Duration::from_secs(5);

/// A watch on one member.
pub(in crate::discovery) struct EtcdChanges {
    member: Member,
    prefix: String,
    stream: etcd::WatchStream,
    /// What the list held: older events are not told twice.
    listed: Stand,
    /// The newest that was heard of.
    seen: Stand,
    request_timeout: Duration,
}

/// Opens a stream and takes the list that it continues.
pub(super) async fn open(
    member: Member,
    prefix: &str,
    request_timeout: Duration,
) -> Result<(Vec<Entry>, EtcdChanges), Failure> {
    let options = etcd::WatchOptions::new().with_prefix().with_fragment();
    let mut watching = member.client.watch_client().max_decoding_message_size(MAX_ANSWER);
    let mut stream = watching.watch(prefix, Some(options)).await?;
    let created = match stream.message().await? {
        Some(message) if message.created() && !message.canceled() => stand(message.header()),
        Some(message) => {
            let why = message.cancel_reason();
            return Err(Failure::Odd(format!("it refused to watch {prefix}: {why}")));
        }
        None => return Err(Failure::Odd("it ended the watch at once".into())),
    };
    let (entries, listed) = member.list(prefix).await?;
    if listed.went_back_from(created) {
        return Err(Failure::Odd("two different stores answer at this endpoint".into()));
    }
    let (prefix, seen) = (prefix.to_owned(), listed);
    Ok((entries, EtcdChanges { member, prefix, stream, listed, seen, request_timeout }))
}

#[async_trait]
impl Changes for EtcdChanges {
    async fn next(&mut self) -> Result<Vec<Change>, Broken> {
        let mut quiet_at = Instant::now() + QUIET;
        loop {
            tokio::select! {
                message = self.stream.message() => {
                    let away = |why: String| Broken::Away(self.member.describe(&why));
                    let message = message.map_err(|error| away(Failure::Told(error).why()))?;
                    let message = message.ok_or_else(|| away("it ended the watch".into()))?;
                    let changes = self.read(&message)?;
                    if !changes.is_empty() {
                        return Ok(changes);
                    }
                }
                () = tokio::time::sleep_until(quiet_at) => {
                    self.check().await?;
                    quiet_at = Instant::now() + QUIET;
                }
            }
        }
    }

    fn stand(&self) -> Stand {
        self.seen
    }
}

impl EtcdChanges {
    fn read(&mut self, message: &etcd::WatchResponse) -> Result<Vec<Change>, Broken> {
        if message.compact_revision() > 0 {
            return Err(Broken::Behind);
        }
        if message.canceled() {
            return Err(Broken::Away(self.member.describe(message.cancel_reason())));
        }
        let events = message.events().iter().filter_map(|event| Some((event, event.kv()?)));
        let mut changes = Vec::new();
        let revision = |kv: &etcd::KeyValue| kv.mod_revision().unsigned_abs();
        for (event, kv) in events.filter(|(_, kv)| revision(kv) > self.listed.revision) {
            self.seen.revision = self.seen.revision.max(revision(kv));
            changes.push(match event.event_type() {
                etcd::EventType::Put => Change::Put(entry(kv)),
                etcd::EventType::Delete => Change::Delete(entry(kv).key),
            });
        }
        Ok(changes)
    }

    /// Asks the member, on the watch's own connection, whether it answers and went on.
    async fn check(&mut self) -> Result<(), Broken> {
        let options = etcd::GetOptions::new().with_prefix().with_count_only();
        let mut kv = self.member.kv();
        let asked = kv.get(self.prefix.as_str(), Some(options));
        let failure = match tokio::time::timeout(self.request_timeout, asked).await {
            Ok(Ok(answer)) => {
                let now = stand(answer.header());
                if now.went_back_from(self.seen) {
                    return Err(Broken::Behind);
                }
                self.seen = now;
                return Ok(());
            }
            Ok(Err(error)) => Failure::Told(error),
            Err(_) => Failure::Silent(self.request_timeout),
        };
        Err(Broken::Away(self.member.describe(&failure.why())))
    }
}

impl Member {
    fn describe(&self, why: &str) -> String {
        format!("etcd at {}: {why}", self.endpoint)
    }
}
