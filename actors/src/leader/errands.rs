//! What the leader does about transfers of KV: conversations with leaders of other groups.

use ractor::ActorRef;
use troupe_runtime::{
    actor::RemoteRef,
    error::{ErrorKind, PublicError},
    id::TransferId,
    transport::{Conversation, LinkError},
    wire::{
        group::MemberDown,
        transfer::{Prefill, PrefillDown, PrefillUp},
    },
};

use super::{
    actor::{LeaderMsg, LeaderState},
    engine::EngineEvent,
    transfers::{TransferEffect, TransferEvent},
};
use crate::member::connections::Connections;

impl LeaderState {
    /// Another group's leader asks, through this door.
    pub(super) fn asked(
        &mut self,
        prefill: Box<Prefill>,
        door: u64,
        outbox: RemoteRef<PrefillDown>,
    ) {
        let transfer = prefill.transfer;
        if self.engine.is_none() || self.askers.contains_key(&transfer) {
            let why = "the group does not serve yet, or does this already";
            let error = PublicError::new(ErrorKind::Unavailable, why);
            // The outbox is new and empty: there is room.
            let _ = outbox.cast(PrefillDown::Refused(error));
            return;
        }
        self.askers.insert(transfer, (door, outbox));
        self.engine(EngineEvent::Transfer(TransferEvent::Asked(prefill)));
    }

    /// The door through which another leader asked is closed.
    pub(super) fn asker_gone(&mut self, transfer: TransferId, door: u64) {
        if self.askers.get(&transfer).is_some_and(|(own, _)| *own == door) {
            self.askers.remove(&transfer);
            self.engine(EngineEvent::Transfer(TransferEvent::Gone(transfer)));
        }
    }

    pub(super) fn transfer(&mut self, effect: TransferEffect) {
        match effect {
            TransferEffect::Order(order) => self.broadcast(&MemberDown::Transfer(order)),
            TransferEffect::Ask(address, prefill) => {
                let transfer = prefill.transfer;
                let (leader, connections) = (self.myself.clone(), self.connections.clone());
                let task = self.doors.spawn(ask(leader, connections, address, prefill));
                self.asking.insert(transfer, task);
            }
            TransferEffect::Leave(transfer) => {
                if let Some(task) = self.asking.remove(&transfer) {
                    task.abort();
                }
            }
            TransferEffect::Answer(transfer, down) => {
                // Two words at most are said to each, and its outbox has room for them.
                if let Some((_, outbox)) = self.askers.get(&transfer) {
                    let _ = outbox.cast(down);
                }
            }
            TransferEffect::Hang(transfer) => drop(self.askers.remove(&transfer)),
        }
    }
}

/// Asks another group's leader and tells what it says; dropped when nothing more is wanted, which
/// tells that leader as well.
async fn ask(
    leader: ActorRef<LeaderMsg>,
    connections: Connections,
    address: String,
    prefill: Box<Prefill>,
) {
    let transfer = prefill.transfer;
    let tell = |event| leader.cast(LeaderMsg::Transfer(event)).is_ok();
    let why = match talk(&connections, &address, prefill, &tell).await {
        Ok(()) => "it ended the conversation".to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::debug!(%transfer, address, why, "the group that was asked for KV is through");
    tell(TransferEvent::Lost(transfer, why));
}

async fn talk(
    connections: &Connections,
    address: &str,
    prefill: Box<Prefill>,
    tell: &impl Fn(TransferEvent) -> bool,
) -> Result<(), LinkError> {
    let transfer = prefill.transfer;
    let mut stream = connections.open(address, Conversation::Prefill).await?;
    stream.sender.send(&PrefillUp::Start(prefill), super::doors::SEND_DEADLINE).await?;
    // The engine has the deadline: it drops this task.
    while let Some(down) = stream.receiver.next::<PrefillDown>().await? {
        if !tell(TransferEvent::Answered(transfer, down)) {
            return Ok(());
        }
    }
    Ok(())
}
