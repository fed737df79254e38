//! What members said: asked of the hosts that they are on, at their doors, and passed on.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use tokio::sync::mpsc;
use troupe_runtime::{
    discovery::directory::{self, GroupRecord, NodeRecord},
    error::chain,
    id::{GroupId, NodeId},
    transport::{Class, Conversation, Link, LinkError, PeerAddr},
    wire::{
        host::{HostDown, HostUp, LogsAsk},
        operate::{LogLines, Logs, OperateDown, Reason, Refusal},
    },
};

use super::{
    change::About,
    desk::{Answer, OperateDesk, Stop, bad},
    resource::Resource,
};

/// One member, and the door of its host.
#[derive(Clone, Debug)]
struct Speaker {
    group: GroupId,
    member: u32,
    host: String,
    door: PeerAddr,
}

/// What speakers say, or why one does not.
type Said = Result<LogLines, Refusal>;

impl OperateDesk {
    /// Passes on what members said, one after the other, or all of them as they speak.
    pub(super) async fn logs(&self, logs: &Logs, answer: &mut Answer) -> Result<(), Stop> {
        let speakers = self.speakers(logs).await?;
        let (say, mut said) = mpsc::channel::<Said>(QUEUE);
        let ask = |speaker: Speaker| {
            let say = say.clone();
            async move {
                let what = LogsAsk {
                    group: speaker.group.clone(),
                    member: Some(speaker.member),
                    tail: logs.tail.unwrap_or(u32::MAX),
                    follow: logs.follow,
                };
                if let Err(error) = listen(&*self.link, &speaker, what, &say).await {
                    let _ = say.send(Err(silent(&speaker, &error))).await;
                }
            }
        };
        let listening = async {
            if logs.follow {
                join_all(speakers.into_iter().map(&ask)).await;
            } else {
                for speaker in speakers {
                    ask(speaker).await;
                }
            }
        };
        tokio::pin!(listening);
        let mut done = false;
        loop {
            let what = tokio::select! {
                biased;
                what = said.recv() => what,
                () = &mut listening, if !done => {
                    done = true;
                    None
                }
                () = answer.hung_up() => return Ok(()),
            };
            match what {
                Some(Ok(lines)) => answer.say(&OperateDown::Log(lines)).await?,
                // The others go on.
                Some(Err(refusal)) => answer.say(&OperateDown::Refused(refusal)).await?,
                None => {}
            }
            if done && said.is_empty() {
                return Ok(());
            }
        }
    }

    /// The members of a group, or of all groups of a service.
    async fn speakers(&self, logs: &Logs) -> Result<Vec<Speaker>, Stop> {
        let groups = self.registry.list(&self.keys.groups()).await?;
        let groups: Vec<GroupRecord> = groups
            .iter()
            .filter_map(|entry| directory::from_bytes::<GroupRecord>(&entry.key, &entry.value).ok())
            .filter(|record| record.group.namespace == logs.namespace)
            .collect();
        let of_service = |record: &&GroupRecord| record.group.service == logs.name;
        let named = |record: &&GroupRecord| {
            format!("{}-{}", record.group.service, record.group.index) == logs.name
        };
        let mut chosen: Vec<&GroupRecord> = groups.iter().filter(of_service).collect();
        if chosen.is_empty() {
            chosen = groups.iter().filter(named).collect();
        }
        if chosen.is_empty() {
            let about = About { resource: Resource::Group, name: &logs.name };
            return Err(about.not_found().into());
        }
        let hosts = self.registry.list(&self.keys.nodes()).await?;
        let hosts: BTreeMap<NodeId, NodeRecord> = hosts
            .iter()
            .filter_map(|entry| directory::from_bytes::<NodeRecord>(&entry.key, &entry.value).ok())
            .map(|record| (record.id, record))
            .collect();
        let mut speakers = Vec::new();
        for record in chosen {
            for (member, place) in (0..).zip(&record.members) {
                if logs.member.is_none_or(|only| only == member) {
                    speakers.push(speaker(record, member, hosts.get(&place.node))?);
                }
            }
        }
        if speakers.is_empty() {
            let name = &logs.name;
            let message = format!("{name} has no member {}", logs.member.unwrap_or_default());
            return Err(bad(message).into());
        }
        Ok(speakers)
    }
}

fn speaker(record: &GroupRecord, member: u32, host: Option<&NodeRecord>) -> Result<Speaker, Stop> {
    let group = record.group.clone();
    let refused = |why: &str| {
        let message = format!("member {member} of group {group} {why}");
        Stop::Refused(Refusal::new(Reason::ServiceUnavailable, message))
    };
    let host = host.ok_or_else(|| refused("is on a host that is gone, and its log with it"))?;
    let Some(address) = &host.address else {
        return Err(refused("lives in the control host's own process, whose log has what it says"));
    };
    let door = address.parse().map_err(|_| refused("is on a host with an impossible address"))?;
    Ok(Speaker { group, member, host: host.name.clone(), door })
}

/// Asks one host and passes on what it says.
async fn listen(
    link: &dyn Link,
    speaker: &Speaker,
    what: LogsAsk,
    say: &mpsc::Sender<Said>,
) -> Result<(), LinkError> {
    let connection = link.connect(&speaker.door, Class::Control, DEADLINE).await?;
    let mut stream = connection.open(Conversation::Host, DEADLINE).await?;
    stream.sender.send(&HostUp::Logs(what), DEADLINE).await?;
    let name = &speaker.group;
    let member = format!("{}-{}-{}", name.service, name.index, speaker.member);
    // Ends with the host's answer, with the connection, or when the operator hangs up.
    while let Some(down) = stream.receiver.next::<HostDown>().await? {
        let said = match down {
            HostDown::Lines(lines) => Ok(LogLines { member: member.clone(), lines }),
            HostDown::Refused(why) => Err(Refusal::new(
                Reason::ServiceUnavailable,
                format!("host {}: {member}: {why}", speaker.host),
            )),
            HostDown::Facts(_) | HostDown::Way(_) => {
                return Err(LinkError::Malformed("an answer to another question".into()));
            }
        };
        if say.send(said).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn silent(speaker: &Speaker, error: &LinkError) -> Refusal {
    let Speaker { group, member, host, door } = speaker;
    let message = format!(
        "host {host} at {door} does not say what member {member} of group {group} said: {}",
        chain(error)
    );
    Refusal::new(Reason::ServiceUnavailable, message)
}

/// Lines of some members, as many at a time as a host sends: the operator reads or they wait.
const QUEUE: usize = 16;
/// How long a host may take to be reached.
const DEADLINE: Duration = Duration::from_secs(5);
