//! A member's lines of KV: each carries what one rank sends to one rank of another group for one
//! transfer.
//!
//! Where blocks are sent, a task empties a device thread's queue onto a stream. Where they are
//! taken, the front door hands each stream to a task that looks for who wants it: the leader's
//! order may still be on its way here when the first frames are. Frames are checked before the
//! device thread sees them, so that it only copies. Between members of one host their bytes go
//! through memory of the sender's ([`shm`]), a ring for each line: what is checked is the copy.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ractor::ActorRef;
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use troupe_runtime::{
    id::{Coordinate, Epoch, TransferId},
    transport::{
        Conversation, LinkError, PeerAddr, Stream,
        shm::{self, Ring},
    },
    wire::transfer::{ExportOrder, KvFrame, KvOpen, TransferOrder},
};

use super::connections::Connections;
use crate::worker::{
    actor::WorkerMsg,
    transfer::{Incoming, LINE_FRAMES, RankOrder, Sealed, inspect},
};

/// Who takes what comes, by transfer and rank. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Inboxes {
    epoch: Epoch,
    ring: Option<Ring>,
    open: Arc<Mutex<Open>>,
    changed: watch::Sender<()>,
}

/// Those that are open.
type Open = BTreeMap<(TransferId, Coordinate), mpsc::Sender<Incoming>>;

/// A member's transfers.
#[derive(Debug)]
pub struct Lines {
    connections: Connections,
    inboxes: Inboxes,
    tasks: JoinSet<()>,
    sending: BTreeMap<TransferId, Vec<AbortHandle>>,
}

// === impl Inboxes ===

impl Inboxes {
    /// Nobody takes anything, in this incarnation. Without a `ring` nothing is taken, or sent, by
    /// way of memory either.
    pub fn new(epoch: Epoch, ring: Option<Ring>) -> Self {
        Self { epoch, ring, open: Arc::default(), changed: watch::Sender::new(()) }
    }

    /// A rank takes blocks of a transfer from now on.
    fn open(&self, transfer: TransferId, rank: Coordinate) -> mpsc::Receiver<Incoming> {
        let (sender, receiver) = mpsc::channel(LINE_FRAMES);
        self.locked().insert((transfer, rank), sender);
        self.changed.send_replace(());
        receiver
    }

    /// Nobody takes blocks of it any more.
    fn close(&self, transfer: TransferId) {
        self.locked().retain(|(open, _), _| *open != transfer);
    }

    /// The inbox of a transfer at a rank; waits for the order that opens it.
    async fn find(&self, open: &KvOpen) -> Option<mpsc::Sender<Incoming>> {
        if open.epoch != self.epoch {
            return None;
        }
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                let inbox = self.locked().get(&(open.transfer, open.to)).cloned();
                if inbox.is_some() || changed.changed().await.is_err() {
                    return inbox;
                }
            }
        };
        timeout(ORDER_DEADLINE, found).await.ok().flatten()
    }

    /// Carries what comes over one stream to the rank that it is for.
    pub(super) async fn take(self, open: KvOpen, stream: Stream) {
        let Some(inbox) = self.find(&open).await else {
            return tracing::debug!(transfer = %open.transfer, "KV that nobody here wants");
        };
        let mut receiver = shm::borrow(stream, self.ring);
        loop {
            let (came, is_last) = match receiver.next_with_tensor::<KvFrame>().await {
                Ok(Some((frame, bytes))) => (inspect(frame, bytes), false),
                Ok(None) => return,
                Err(error) => (Incoming::Spoiled(error.to_string()), true),
            };
            // One that is closed was closed with its transfer.
            if inbox.send(came).await.is_err() || is_last {
                return;
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lines ===

impl Lines {
    /// No lines yet.
    pub fn new(connections: Connections, inboxes: Inboxes) -> Self {
        Self { connections, inboxes, tasks: JoinSet::new(), sending: BTreeMap::new() }
    }

    /// Lays or ends the lines of a transfer, and tells every rank of this member.
    pub(super) fn order(
        &mut self,
        order: &TransferOrder,
        workers: &BTreeMap<Coordinate, ActorRef<WorkerMsg>>,
    ) {
        while self.tasks.try_join_next().is_some() {}
        for (rank, worker) in workers {
            let order = match order {
                TransferOrder::Export(order) => {
                    let lines = self.send(order, *rank);
                    RankOrder::Export(order.clone(), lines)
                }
                TransferOrder::Import(order) => {
                    RankOrder::Import(order.clone(), self.inboxes.open(order.transfer, *rank))
                }
                TransferOrder::Load(order) => RankOrder::Load(order.clone()),
                TransferOrder::Move(moves) => RankOrder::Move(moves.clone()),
                TransferOrder::Close(transfer) => RankOrder::Close(*transfer),
            };
            // One that is gone is reported by its supervision event.
            let _ = worker.cast(WorkerMsg::Transfer(order));
        }
        if let TransferOrder::Close(transfer) = order {
            self.inboxes.close(*transfer);
            let sending = self.sending.remove(transfer).unwrap_or_default();
            sending.iter().for_each(AbortHandle::abort);
        }
    }

    /// A line to each rank that is to get something from this one.
    fn send(
        &mut self,
        order: &ExportOrder,
        rank: Coordinate,
    ) -> Vec<(Coordinate, mpsc::Sender<Sealed>)> {
        let own = order.routes.iter().filter(|route| route.from == rank);
        let to: BTreeMap<_, _> = own.map(|route| (route.to, &route.address)).collect();
        let lines = to.into_iter().map(|(to, address)| {
            let (sender, queue) = mpsc::channel(LINE_FRAMES);
            let open = KvOpen { epoch: order.epoch, transfer: order.transfer, from: rank, to };
            let (connections, address) = (self.connections.clone(), address.clone());
            let ring = self.inboxes.ring;
            let task = self.tasks.spawn(async move {
                if let Err(error) = carry(connections, &address, open, ring, queue).await {
                    tracing::info!(transfer = %open.transfer, %error, "KV did not get through");
                }
            });
            self.sending.entry(order.transfer).or_default().push(task);
            (to, sender)
        });
        lines.collect()
    }
}

async fn carry(
    connections: Connections,
    address: &str,
    open: KvOpen,
    ring: Option<Ring>,
    mut queue: mpsc::Receiver<Sealed>,
) -> Result<(), LinkError> {
    let stream = connections.open(address, Conversation::Kv(open)).await?;
    // Within one process bytes are handed on as they are.
    let is_inside = matches!(address.parse(), Ok(PeerAddr::Local(_)));
    let ring = ring.filter(|_| !is_inside);
    let mut sender = shm::lend(stream, ring, SEND_DEADLINE).await?;
    while let Some((frame, bytes)) = queue.recv().await {
        sender.send_with_tensor(&frame, bytes, SEND_DEADLINE).await?;
    }
    sender.finish()?;
    // The connection may live by this stream alone, and what the other side has acknowledged it
    // need not have read: that is lost if the connection ends. So it stays until the transfer is
    // closed, which ends this task.
    tokio::time::sleep(SEND_DEADLINE).await;
    Ok(())
}

/// The order of a leader whose prefill has been asked for is here after one way through its group.
const ORDER_DEADLINE: Duration = Duration::from_secs(2);
/// A peer that does not take one frame for so long takes none: the transfer's own deadline is
/// nearer, mostly.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
