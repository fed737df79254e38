//! The conversation with the leader: dial, say hello, carry frames both ways.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use troupe_runtime::{
    backoff::Backoff,
    transport::{
        Class, Connection, Conversation, Link, LinkError, Patience, Stream, connect_with_retry,
    },
    wire::group::{Hello, MemberDown, MemberUp},
};

use super::core::MemberEvent;

/// Dials the leader and carries the conversation until it ends; every frame and the end go to
/// `tell`. `up` is what this member says.
pub async fn run(
    link: Arc<dyn Link>,
    address: String,
    hello: Hello,
    up: mpsc::Receiver<MemberUp>,
    tell: impl Fn(MemberEvent) + Send,
) {
    let ended = match dial(link.as_ref(), &address, &hello).await {
        // The connection lives as long as its conversation.
        Ok((connection, stream)) => {
            let ended = carry(stream, up, &tell).await;
            connection.close("the conversation is over");
            ended
        }
        Err(error) => Err(error),
    };
    let why = match ended {
        Ok(()) => "it ended the conversation".to_owned(),
        Err(error) => error.to_string(),
    };
    tell(MemberEvent::LeaderLost(why));
}

async fn dial(
    link: &dyn Link,
    address: &str,
    hello: &Hello,
) -> Result<(Arc<dyn Connection>, Stream), LinkError> {
    let peer = address.parse().map_err(LinkError::Malformed)?;
    let seed = u64::from(hello.member);
    let patience = Patience { deadline: DIAL_DEADLINE, backoff: Backoff::default(), seed };
    let connection = connect_with_retry(link, &peer, Class::Control, &patience).await?;
    let mut stream = connection.open(Conversation::Group, SEND_DEADLINE).await?;
    stream.sender.send(&MemberUp::Hello(hello.clone()), SEND_DEADLINE).await?;
    Ok((connection, stream))
}

async fn carry(
    stream: Stream,
    mut up: mpsc::Receiver<MemberUp>,
    tell: &(impl Fn(MemberEvent) + Send),
) -> Result<(), LinkError> {
    let Stream { mut sender, mut receiver } = stream;
    let write = async {
        while let Some(up) = up.recv().await {
            sender.send(&up, SEND_DEADLINE).await?;
        }
        // The member is ending: what it said last is delivered.
        sender.finish()?;
        let _ = tokio::time::timeout(FLUSH, sender.stopped()).await;
        Ok(())
    };
    let read = async {
        while let Some(down) = receiver.next::<MemberDown>().await? {
            tell(MemberEvent::Down(down));
        }
        Ok(())
    };
    tokio::select! {
        ended = read => ended,
        ended = write => ended,
    }
}

/// The leader's node has reported that it listens.
const DIAL_DEADLINE: Duration = Duration::from_secs(20);
/// A leader that does not take a small frame for so long is gone.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// Longest wait for the leader to take the last frame.
const FLUSH: Duration = Duration::from_secs(1);
