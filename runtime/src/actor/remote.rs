//! A ref to whoever is at the other end of a conversation.
//!
//! [`RemoteRef::cast`] looks like a local cast: it never waits and never blocks a handler on the
//! network. What is cast stands in a bounded [`Outbox`], which [`converse`] empties onto the stream
//! while it hands what the peer says to `deliver`. A full outbox is an error that its owner acts on
//! (a peer that does not read); dropping the last ref ends the conversation in order, after what
//! was said has arrived.

use std::{ops::ControlFlow, time::Duration};

use tokio::{sync::mpsc, time::timeout};

use crate::transport::{DecodeMessage, EncodeMessage, LinkError, Stream};

/// Casts to a peer. Cheap to clone; the conversation ends when the last one is dropped.
#[derive(Debug)]
pub struct RemoteRef<M> {
    outbox: mpsc::Sender<M>,
}

/// What was cast and not sent yet; for [`converse`].
#[derive(Debug)]
pub struct Outbox<M>(mpsc::Receiver<M>);

/// Why a cast went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CastError {
    /// The peer does not read what it was sent.
    #[error("the peer does not read: its outbox is full")]
    Full,
    /// The conversation is over.
    #[error("the conversation is over")]
    Over,
}

/// What the peer's end of its direction means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TheirEnd {
    /// The conversation is over: each side needs to hear the other.
    Ends,
    /// It has nothing more to say, and still listens.
    GoOn,
}

/// A ref whose outbox holds at most `bound` messages.
pub fn remote_ref<M>(bound: usize) -> (RemoteRef<M>, Outbox<M>) {
    let (outbox, queue) = mpsc::channel(bound.max(1));
    (RemoteRef { outbox }, Outbox(queue))
}

/// Carries a conversation until it is over: `Ok` if it ended in order on either side.
///
/// `deliver` takes what the peer says and breaks to end the conversation.
///
/// # Errors
/// What broke it: the peer is gone, dropped the stream, does not read within the send deadline, or
/// said what is no message.
pub async fn converse<Out, In>(
    stream: Stream,
    mut outbox: Outbox<Out>,
    their_end: TheirEnd,
    mut deliver: impl FnMut(In) -> ControlFlow<()>,
) -> Result<(), LinkError>
where
    Out: EncodeMessage,
    In: DecodeMessage,
{
    let Stream { mut sender, mut receiver } = stream;
    let mut hears = true;
    loop {
        tokio::select! {
            biased;
            said = outbox.0.recv() => match said {
                Some(said) => sender.send(&said, SEND_DEADLINE).await?,
                None => {
                    sender.finish()?;
                    // It has arrived, or the peer is gone: then nobody is left to be told.
                    let _ = timeout(FLUSH, sender.stopped()).await;
                    return Ok(());
                }
            },
            heard = receiver.next::<In>(), if hears => match (heard?, their_end) {
                (Some(heard), _) => if deliver(heard).is_break() { return Ok(()) },
                (None, TheirEnd::Ends) => return Ok(()),
                (None, TheirEnd::GoOn) => hears = false,
            },
            () = sender.stopped() => return Err(LinkError::Reset),
        }
    }
}

impl<M> RemoteRef<M> {
    /// Says something to the peer, without waiting.
    ///
    /// # Errors
    /// [`CastError`]; the message is lost.
    pub fn cast(&self, message: M) -> Result<(), CastError> {
        self.outbox.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CastError::Full,
            mpsc::error::TrySendError::Closed(_) => CastError::Over,
        })
    }
}

impl<M> Clone for RemoteRef<M> {
    fn clone(&self) -> Self {
        Self { outbox: self.outbox.clone() }
    }
}

/// A peer that does not take one frame for so long is gone.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// Longest wait for a peer to take the last frames.
const FLUSH: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;
    use crate::{
        id::NodeId,
        transport::{
            Class, Connection, Conversation, Link, LocalLink, LocalNetwork, PeerIdentity, PeerRole,
        },
        wire::status::{Load, StatusDown, StatusUp},
    };

    /// What two connected ends live on.
    type Held = ([Arc<LocalLink>; 2], [Arc<dyn Connection>; 2]);

    /// Two connected ends.
    async fn ends() -> (Stream, Stream, Held) {
        let network = LocalNetwork::new();
        let identity = PeerIdentity {
            cluster: "c".into(),
            role: PeerRole::Control,
            node: NodeId(uuid::Uuid::nil()),
        };
        let (a, b) = (network.link(identity.clone()), network.link(identity));
        let wait = Duration::from_secs(5);
        let out = a.connect(&b.address(), Class::Control, wait).await.expect("connected");
        let back = b.accept().await.expect("accepted");
        let ours = out.open(Conversation::Status, wait).await.expect("opened");
        let (_, theirs) = back.accept().await.expect("opened");
        (ours, theirs, ([a, b], [out, back]))
    }

    #[tokio::test]
    async fn casts_arrive_in_order_and_the_last_ref_ends_it() {
        let (ours, theirs, _held) = ends().await;
        let (to_them, outbox) = remote_ref::<StatusDown>(8);
        for steps in 0..5 {
            let load = Load { steps, ..Load::default() };
            to_them.cast(StatusDown::Load(load)).expect("room");
        }
        drop(to_them);
        let count = Arc::new(AtomicU32::new(0));
        let counted = count.clone();
        let (_silent, nothing) = remote_ref::<StatusUp>(1);
        let hear = converse(theirs, nothing, TheirEnd::Ends, move |down: StatusDown| {
            let StatusDown::Load(load) = down else { panic!("{down:?}") };
            assert_eq!(load.steps, u64::from(counted.fetch_add(1, Ordering::Relaxed)));
            ControlFlow::Continue(())
        });
        let say = converse(ours, outbox, TheirEnd::Ends, |_: StatusUp| ControlFlow::Continue(()));
        let (said, heard) = tokio::join!(say, hear);
        said.expect("ended in order");
        heard.expect("ended in order");
        assert_eq!(count.load(Ordering::Relaxed), 5);
    }

    #[tokio::test]
    async fn a_full_outbox_and_a_peer_that_is_gone_are_told_apart() {
        let (to_them, outbox) = remote_ref::<StatusUp>(1);
        to_them.cast(StatusUp::Watch).expect("room for one");
        assert_eq!(to_them.cast(StatusUp::Watch), Err(CastError::Full));
        drop(outbox);
        assert_eq!(to_them.cast(StatusUp::Watch), Err(CastError::Over));
    }

    #[tokio::test]
    async fn a_peer_that_drops_the_stream_breaks_the_conversation() {
        let (ours, theirs, _held) = ends().await;
        let (_to_them, outbox) = remote_ref::<StatusUp>(1);
        drop(theirs);
        let ended =
            converse(ours, outbox, TheirEnd::GoOn, |_: StatusDown| ControlFlow::Continue(()));
        assert!(ended.await.is_err());
    }
}
