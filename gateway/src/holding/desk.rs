//! Tells the controller how many requests are held, under the gateway's own lease: if the gateway
//! dies, its demand dies with it.

use std::{convert::Infallible, sync::Arc};

use tokio::time::sleep_until;
use troupe_runtime::{
    discovery::{
        Lease,
        directory::{DemandRecord, to_bytes},
        keys::Keys,
    },
    id::NodeId,
};

use super::{core::Effect, hold::Holding};

/// Never returns; ends with its task, and the records with the lease.
pub(crate) async fn run(
    holding: Arc<Holding>,
    lease: Arc<dyn Lease>,
    keys: Keys,
    gateway: NodeId,
) -> Infallible {
    loop {
        let mut look_at = None;
        for effect in holding.look() {
            match effect {
                Effect::Tell(service, held) => {
                    let key = keys.demand(&service.namespace, &service.name, gateway);
                    let told = match held {
                        0 => lease.delete(&key).await,
                        held => lease.put(&key, to_bytes(DemandRecord { held })).await,
                    };
                    if let Err(error) = told {
                        // The lease's keeper does it when the store is back.
                        tracing::debug!(%service, held, %error, "tell a service's demand");
                    }
                }
                Effect::LookAt(at) => look_at = Some(holding.at(at)),
                Effect::Hold | Effect::Refuse => {}
            }
        }
        let due = async {
            match look_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = holding.changed.notified() => {}
            () = due => {}
        }
    }
}
