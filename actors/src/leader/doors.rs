//! One task per conversation with a leader, between its stream and the actor.
//!
//! A door translates frames to messages and back and owns nothing else. The engine never waits for
//! a reader: what it says goes into a bounded outbox that the door empties, and an outbox that is
//! full means a gateway that does not read, whose request is aborted.

use std::time::Duration;

use ractor::ActorRef;
use tokio::sync::{mpsc, watch};
use troupe_runtime::{
    transport::{FrameReceiver, FrameSender, LinkError, Stream},
    wire::{
        generate::{Generate, GenerateDown, GenerateUp},
        group::{MemberDown, MemberUp},
        status::{EndpointInfo, Load, StatusDown, StatusUp},
    },
};

use super::{actor::LeaderMsg, request::RequestKey};

/// Carries one member's conversation until it ends.
pub(super) async fn group(leader: ActorRef<LeaderMsg>, mut stream: Stream) {
    let hello = match stream.receiver.expect::<MemberUp>(FIRST_FRAME).await {
        Ok(MemberUp::Hello(hello)) => hello,
        Ok(other) => {
            return tracing::warn!(?other, "a member opened with something else than hello");
        }
        Err(error) => return tracing::warn!(%error, "a member did not say hello"),
    };
    let member = hello.member;
    // Form, Start and Stop beside the plans in flight, of which there are at most one per stage.
    let (down, outbox) = mpsc::channel(MEMBER_OUTBOX);
    if leader.cast(LeaderMsg::Joined(hello, down)).is_err() {
        return;
    }
    let why = carry_group(&leader, member, stream, outbox).await;
    // If the leader is gone, so is everything that this would tell it.
    let _ = leader.cast(LeaderMsg::Gone(member, why));
}

async fn carry_group(
    leader: &ActorRef<LeaderMsg>,
    member: u32,
    stream: Stream,
    mut outbox: mpsc::Receiver<MemberDown>,
) -> String {
    let Stream { mut sender, mut receiver } = stream;
    let write = async {
        while let Some(down) = outbox.recv().await {
            if let Err(error) = sender.send(&down, SEND_DEADLINE).await {
                return error.to_string();
            }
        }
        // The leader turned the member away or is gone; what it said last is delivered.
        let _ = sender.finish();
        let _ = tokio::time::timeout(FLUSH, sender.stopped()).await;
        "turned away".to_owned()
    };
    let read = async {
        loop {
            match receiver.next::<MemberUp>().await {
                Ok(Some(up)) => {
                    if leader.cast(LeaderMsg::Up(member, up)).is_err() {
                        return "the leader is gone".to_owned();
                    }
                }
                Ok(None) => return "it ended in order".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
    };
    tokio::select! {
        why = read => why,
        why = write => why,
    }
}

/// Carries one request until it ends, is aborted, or its gateway is gone.
pub(super) async fn generate(leader: ActorRef<LeaderMsg>, mut stream: Stream) {
    let start = match stream.receiver.expect::<GenerateUp>(FIRST_FRAME).await {
        Ok(GenerateUp::Start(generate)) => generate,
        Ok(GenerateUp::Finish(_)) => {
            return tracing::warn!("a gateway opened with something else than a request");
        }
        Err(error) => return tracing::debug!(%error, "a gateway opened and asked nothing"),
    };
    let key = RequestKey { request: start.request, attempt: start.attempt };
    let (outbox, down) = mpsc::channel(outbox_bound(&start));
    if leader.cast(LeaderMsg::Submit(start, outbox)).is_err() {
        return;
    }
    if let Err(error) = carry_request(&leader, key, stream, down).await {
        tracing::debug!(request = %key.request, %error, "the gateway is gone: abort");
        let _ = leader.cast(LeaderMsg::Abort(key));
    }
}

async fn carry_request(
    leader: &ActorRef<LeaderMsg>,
    key: RequestKey,
    stream: Stream,
    mut outbox: mpsc::Receiver<GenerateDown>,
) -> Result<(), LinkError> {
    let Stream { mut sender, mut receiver } = stream;
    let mut hears = true;
    loop {
        tokio::select! {
            biased;
            down = outbox.recv() => {
                let Some(down) = down else {
                    sender.finish()?;
                    // Delivered, or the gateway is gone: then nobody is left to be told.
                    let _ = tokio::time::timeout(FLUSH, sender.stopped()).await;
                    return Ok(());
                };
                sender.send(&down, SEND_DEADLINE).await?;
            }
            up = receiver.next::<GenerateUp>(), if hears => match up? {
                Some(GenerateUp::Finish(finish)) => {
                    let _ = leader.cast(LeaderMsg::Finish(key, finish));
                }
                Some(GenerateUp::Start(_)) => {
                    return Err(LinkError::Malformed("a second start on one stream".into()));
                }
                // The gateway has nothing more to say, which is not the abort.
                None => hears = false,
            },
            () = sender.stopped() => return Err(LinkError::Reset),
        }
    }
}

/// Tells one gateway what the endpoint is and how busy, for as long as it listens.
pub(super) async fn status(
    info: watch::Receiver<Option<EndpointInfo>>,
    load: watch::Receiver<Load>,
    stream: Stream,
) {
    let Stream { mut sender, mut receiver } = stream;
    if let Err(error) = tell_status(info, load, &mut sender, &mut receiver).await {
        tracing::debug!(%error, "a gateway no longer follows the load");
    }
}

async fn tell_status(
    mut info: watch::Receiver<Option<EndpointInfo>>,
    mut load: watch::Receiver<Load>,
    sender: &mut FrameSender,
    receiver: &mut FrameReceiver,
) -> Result<(), LinkError> {
    let StatusUp::Watch = receiver.expect::<StatusUp>(FIRST_FRAME).await?;
    let Ok(ready) = info.wait_for(Option::is_some).await.map(|info| info.clone()) else {
        return Ok(());
    };
    if let Some(info) = ready {
        sender.send(&StatusDown::Info(Box::new(info)), SEND_DEADLINE).await?;
    }
    loop {
        let now = *load.borrow_and_update();
        sender.send(&StatusDown::Load(now), SEND_DEADLINE).await?;
        tokio::time::sleep(LOAD_INTERVAL).await;
        tokio::select! {
            changed = load.changed() => if changed.is_err() { return Ok(()) },
            () = sender.stopped() => return Ok(()),
        }
    }
}

/// One chunk per token of every choice, and its end; more are never under way.
fn outbox_bound(generate: &Generate) -> usize {
    let chunks = generate.options.max_tokens as usize + 2;
    chunks.saturating_mul(generate.choices.len()).clamp(1, MAX_OUTBOX)
}

/// A peer that opens a conversation says at once what it wants.
const FIRST_FRAME: Duration = Duration::from_secs(5);
/// A peer that does not take a small frame for so long is gone.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// Longest wait for a peer to take its last frame.
const FLUSH: Duration = Duration::from_secs(1);
/// At most so often is load told.
const LOAD_INTERVAL: Duration = Duration::from_millis(50);
/// Form, Start, Stop and a plan for each of at most 1021 stages.
const MEMBER_OUTBOX: usize = 1024;
/// No request has more chunks waiting than this, whatever it asked for.
const MAX_OUTBOX: usize = 1 << 16;
