//! The conversation with the leader: dial, say hello, carry frames both ways.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use troupe_runtime::{
    actor::{Outbox, TheirEnd, converse},
    backoff::Backoff,
    transport::{
        Class, Connection, Conversation, Link, LinkError, Patience, Stream, connect_with_retry,
    },
    wire::group::{Hello, MemberUp},
};

use super::core::MemberEvent;

/// Dials the leader and carries the conversation until it ends; every frame and the end go to
/// `tell`. `up` is what this member says.
pub async fn run(
    link: Arc<dyn Link>,
    address: String,
    hello: Hello,
    up: Outbox<MemberUp>,
    tell: impl Fn(MemberEvent) + Send,
) {
    let ended = match dial(link.as_ref(), &address, &hello).await {
        // The connection lives as long as its conversation.
        Ok((connection, stream)) => {
            let deliver = |down| {
                tell(MemberEvent::Down(down));
                ControlFlow::Continue(())
            };
            let ended = converse(stream, up, TheirEnd::Ends, deliver).await;
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

/// The leader's node has reported that it listens.
const DIAL_DEADLINE: Duration = Duration::from_secs(20);
/// A leader that does not take a small frame for so long is gone.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
