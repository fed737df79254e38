//! One task per conversation with a leader, between its stream and the actor.
//!
//! A door translates frames to messages and back and owns nothing else. The engine never waits for
//! a reader: what it says goes into a bounded outbox that the door empties, and an outbox that is
//! full means a gateway that does not read, whose request is aborted.

use std::{ops::ControlFlow, time::Duration};

use ractor::ActorRef;
use tokio::sync::{oneshot, watch};
use tracing::Instrument as _;
use troupe_runtime::{
    actor::{TheirEnd, converse, remote_ref},
    error::{ErrorKind, PublicError},
    id::NodeId,
    telemetry::{self, Metrics},
    transport::{FrameSender, LinkError, Stream},
    wire::{
        adapter::{AdaptDown, AdaptUp, AdapterStatus},
        generate::{Generate, GenerateUp},
        group::MemberUp,
        status::{EndpointInfo, Load, StatusDown, StatusUp},
        transfer::PrefillUp,
    },
};

use super::{actor::LeaderMsg, request::RequestKey};
use crate::worker::transfer::MOST_TRANSFERS;

/// Carries one member's conversation until it ends.
pub(super) async fn group(
    leader: ActorRef<LeaderMsg>,
    door: u64,
    from: NodeId,
    mut stream: Stream,
) {
    let hello = match stream.receiver.expect::<MemberUp>(FIRST_FRAME).await {
        Ok(MemberUp::Hello(hello)) => hello,
        Ok(other) => {
            return tracing::warn!(?other, "a member opened with something else than hello");
        }
        Err(error) => return tracing::warn!(%error, "a member did not say hello"),
    };
    let (down, outbox) = remote_ref(MEMBER_OUTBOX);
    if leader.cast(LeaderMsg::Joined(door, from, hello, down)).is_err() {
        return;
    }
    let deliver = |up| flow(leader.cast(LeaderMsg::Up(door, up)).is_ok());
    let why = match converse(stream, outbox, TheirEnd::Ends, deliver).await {
        Ok(()) => "it ended the conversation".to_owned(),
        Err(error) => error.to_string(),
    };
    // If the leader is gone, so is everything that this would tell it.
    let _ = leader.cast(LeaderMsg::Gone(door, why));
}

/// Carries one request until it ends, is aborted, or its gateway is gone.
pub(super) async fn generate(leader: ActorRef<LeaderMsg>, door: u64, mut stream: Stream) {
    let start = match stream.receiver.expect::<GenerateUp>(FIRST_FRAME).await {
        Ok(GenerateUp::Start(generate)) => generate,
        Ok(GenerateUp::Finish(_)) => {
            return tracing::warn!("a gateway opened with something else than a request");
        }
        Err(error) => return tracing::debug!(%error, "a gateway opened and asked nothing"),
    };
    let key = RequestKey { request: start.request, attempt: start.attempt };
    let span = tracing::info_span!("generate", request = %key.request);
    if let Some(parent) = &start.traceparent {
        telemetry::set_parent(&span, parent);
    }
    let (down, outbox) = remote_ref(outbox_bound(&start));
    if leader.cast(LeaderMsg::Submit(start, door, down)).is_err() {
        return;
    }
    let deliver = |up| match up {
        GenerateUp::Finish(finish) => flow(leader.cast(LeaderMsg::Finish(key, finish)).is_ok()),
        // A second start on one stream: no honest gateway does that.
        GenerateUp::Start(_) => ControlFlow::Break(()),
    };
    // Whatever way it ended: for a request that is over already the abort says nothing new.
    let ended = converse(stream, outbox, TheirEnd::GoOn, deliver).instrument(span).await;
    if let Err(error) = ended {
        tracing::debug!(request = %key.request, %error, "the gateway is gone: abort");
    }
    let _ = leader.cast(LeaderMsg::Abort(key, door));
}

/// Carries what another group's leader asks for until it has it or wants it no more.
pub(super) async fn prefill(leader: ActorRef<LeaderMsg>, door: u64, mut stream: Stream) {
    let prefill = match stream.receiver.expect::<PrefillUp>(FIRST_FRAME).await {
        Ok(PrefillUp::Start(prefill)) => prefill,
        Err(error) => return tracing::debug!(%error, "a leader opened and asked nothing"),
    };
    let transfer = prefill.transfer;
    let (down, outbox) = remote_ref(PREFILL_OUTBOX);
    if leader.cast(LeaderMsg::Asked(prefill, door, down)).is_err() {
        return;
    }
    // A second start on one stream: no honest leader does that.
    let deliver = |_: PrefillUp| ControlFlow::Break(());
    if let Err(error) = converse(stream, outbox, TheirEnd::Ends, deliver).await {
        tracing::debug!(%transfer, %error, "the leader that asked for KV wants no more");
    }
    let _ = leader.cast(LeaderMsg::AskerGone(transfer, door));
}

fn flow(goes_on: bool) -> ControlFlow<()> {
    if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

/// Carries what a gateway wants done with an adapter, and the one answer.
pub(super) async fn adapt(leader: ActorRef<LeaderMsg>, stream: Stream) {
    let Stream { mut sender, mut receiver } = stream;
    let up = match receiver.expect::<AdaptUp>(FIRST_FRAME).await {
        Ok(up) => up,
        Err(error) => return tracing::debug!(%error, "a gateway opened and asked nothing"),
    };
    let (answer, answered) = oneshot::channel();
    if leader.cast(LeaderMsg::Adapt(up, answer)).is_err() {
        return;
    }
    let down = tokio::select! {
        answered = answered => answered.unwrap_or_else(|_| {
            let why = "the group does not serve, or serves no more";
            AdaptDown::Refused(PublicError::new(ErrorKind::Unavailable, why))
        }),
        () = sender.stopped() => return,
    };
    let sent = match sender.send(&down, SEND_DEADLINE).await {
        Ok(()) => sender.finish(),
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "a gateway did not wait for its answer");
    }
}

/// What gateways that follow the status are told.
pub(super) struct Told {
    pub(super) info: watch::Receiver<Option<EndpointInfo>>,
    pub(super) load: watch::Receiver<Load>,
    pub(super) adapters: watch::Receiver<AdapterStatus>,
}

/// Tells one gateway what the endpoint is and how busy, for as long as it listens; or once what it
/// has counted.
pub(super) async fn status(told: Told, metrics: Metrics, stream: Stream) {
    let Stream { sender, mut receiver } = stream;
    let told = match receiver.expect::<StatusUp>(FIRST_FRAME).await {
        Ok(StatusUp::Watch) => tell_status(told, sender).await,
        Ok(StatusUp::Metrics) => tell_metrics(&metrics, sender).await,
        Err(error) => Err(error),
    };
    if let Err(error) = told {
        tracing::debug!(%error, "a gateway no longer follows the load");
    }
}

async fn tell_status(
    Told { mut info, mut load, mut adapters }: Told,
    mut sender: FrameSender,
) -> Result<(), LinkError> {
    let Ok(ready) = info.wait_for(Option::is_some).await.map(|info| info.clone()) else {
        return Ok(());
    };
    if let Some(info) = ready {
        sender.send(&StatusDown::Info(Box::new(info)), SEND_DEADLINE).await?;
    }
    let mut first = true;
    loop {
        if std::mem::take(&mut first) || adapters.has_changed().unwrap_or(false) {
            let now = adapters.borrow_and_update().clone();
            sender.send(&StatusDown::Adapters(now), SEND_DEADLINE).await?;
        }
        let now = *load.borrow_and_update();
        sender.send(&StatusDown::Load(now), SEND_DEADLINE).await?;
        tokio::time::sleep(LOAD_INTERVAL).await;
        // Also while nothing changes: what was told long ago is believed less.
        let changed = tokio::time::timeout(LOAD_AT_LEAST, load.changed());
        tokio::select! {
            changed = changed => if matches!(changed, Ok(Err(_))) { return Ok(()) },
            changed = adapters.changed() => {
                adapters.mark_changed();
                if changed.is_err() {
                    return Ok(());
                }
            }
            () = sender.stopped() => return Ok(()),
        }
    }
}

async fn tell_metrics(metrics: &Metrics, mut sender: FrameSender) -> Result<(), LinkError> {
    sender.send(&StatusDown::Metrics(metrics.render()), SEND_DEADLINE).await?;
    // Dropped without this, the stream would be reset and the text lost on its way.
    sender.finish()
}

/// One chunk per token of every choice, and its end; more are never under way.
fn outbox_bound(generate: &Generate) -> usize {
    let chunks = generate.options.max_tokens as usize + 2;
    chunks.saturating_mul(generate.choices.len()).clamp(1, MAX_OUTBOX)
}

/// A peer that opens a conversation says at once what it wants.
const FIRST_FRAME: Duration = Duration::from_secs(5);
/// A peer that does not take a small frame for so long is gone.
pub(super) const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// At most so often is load told.
const LOAD_INTERVAL: Duration = Duration::from_millis(50);
/// The most between two words on the load.
const LOAD_AT_LEAST: Duration = Duration::from_secs(1);
/// Form, Start, Stop, an order on adapters, a plan for each of at most 1020 stages, and for every
/// transfer to and from here its beginning and its end; before each plan, and each transfer that
/// comes here, what is to be kept of the devices' blocks.
const MEMBER_OUTBOX: usize = 2 * 1024 + 5 * MOST_TRANSFERS;
/// That it is sent, or why not.
const PREFILL_OUTBOX: usize = 4;
/// No request has more chunks waiting than this, whatever it asked for.
const MAX_OUTBOX: usize = 1 << 16;
