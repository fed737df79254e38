//! From a stranger's first packet to a connection: the one door, and what is bounded at it.
//!
//! TLS says who. Then the connecting side opens the first stream and sends one byte, the class of
//! the connection, and the other side sends it back: only then do both know that neither refuses
//! (in TLS 1.3 alone, the connecting side is done before its certificate was looked at).

use std::{sync::Arc, time::Duration};

use quinn::{ConnectionError, Endpoint, Incoming, VarInt};
use rustls_pki_types::CertificateDer;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    admitted::Admitted,
    connection::{QuicConnection, explain},
    lanes::Lanes,
    tuning,
};
use crate::{
    id::NodeId,
    transport::{Class, PeerIdentity, PeerRole, tls},
    wire::JOIN_ALPN,
};

/// Strangers at the door at once, each for the handshake limit at most: with 3 s, 85 new peers a
/// second even if every one of them stalls. More are refused and may come again.
pub(super) const HANDSHAKES: usize = 256;
/// From here on a stranger must prove that it is where it claims to be before it costs anything.
const UNPROVEN: usize = HANDSHAKES / 4;
/// The application code of a refusal; its reason is text.
pub(super) const REFUSED: VarInt = VarInt::from_u32(1);

/// What whoever is let in belongs to.
#[derive(Clone)]
pub(super) struct Inside {
    pub(super) admitted: Arc<Admitted>,
    pub(super) lanes: Option<Arc<Lanes>>,
}

/// Lets peers in until the endpoint closes.
pub(super) async fn keep_door(
    endpoint: Endpoint,
    limit: Duration,
    inside: Inside,
    accept: mpsc::Sender<Arc<QuicConnection>>,
) {
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else { return };
                if handshakes.len() >= HANDSHAKES {
                    incoming.refuse();
                } else if handshakes.len() >= UNPROVEN && incoming.may_retry() {
                    // Fails only for one that was asked before.
                    let _ = incoming.retry();
                } else {
                    handshakes.spawn(let_in(incoming, limit, inside.clone(), accept.clone()));
                }
            }
            Some(_) = handshakes.join_next() => {}
        }
    }
}

/// The connecting side's part.
pub(super) async fn connect(
    connecting: quinn::Connecting,
    class: Class,
    lanes: Option<&Arc<Lanes>>,
) -> Result<QuicConnection, String> {
    let connection = connecting.await.map_err(|error| explain(&error))?;
    let peer = peer_of(&connection)?;
    let agreed = async {
        let (mut send, mut receive) = connection.open_bi().await.ok()?;
        send.write_all(&[byte(class)]).await.ok()?;
        send.finish().ok()?;
        let mut answer = [0];
        receive.read_exact(&mut answer).await.ok()?;
        (class_of(answer[0]) == Some(class)).then_some(())
    };
    match agreed.await {
        Some(()) => Ok(QuicConnection::new(connection, peer, class, lanes)),
        None => Err(match connection.close_reason() {
            Some(error) => explain(&error),
            None => "it does not answer as a peer does".into(),
        }),
    }
}

/// The accepting side's part, from the first packet to the accept queue.
async fn let_in(
    incoming: Incoming,
    limit: Duration,
    inside: Inside,
    accept: mpsc::Sender<Arc<QuicConnection>>,
) {
    let from = incoming.remote_address();
    let connection = match tokio::time::timeout(limit, answer(incoming, &inside)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(why)) => return tracing::warn!(%from, why, "refuse connection"),
        Err(_) => return tracing::warn!(%from, why = "no handshake in time", "refuse connection"),
    };
    if let Err(error) = accept.try_send(Arc::new(connection)) {
        let connection = error.into_inner();
        tracing::warn!(%from, why = "too many wait to be accepted", "refuse connection");
        connection.held().end(REFUSED, "too many connections wait to be accepted");
    }
}

async fn answer(incoming: Incoming, inside: &Inside) -> Result<QuicConnection, String> {
    let Inside { admitted, lanes } = inside;
    let explained = |error: ConnectionError| explain(&error);
    let connection = incoming.accept().map_err(explained)?.await.map_err(explained)?;
    let peer = match is_newcomer(&connection) {
        true => newcomer(admitted.cluster()),
        false => peer_of(&connection)?,
    };
    if let Some(why) = admitted.refusal(peer.node) {
        connection.close(REFUSED, why.as_bytes());
        return Err(format!("{peer}: {why}"));
    }
    let (mut send, mut receive) = connection.accept_bi().await.map_err(explained)?;
    let mut asked = [0];
    receive.read_exact(&mut asked).await.map_err(|error| error.to_string())?;
    let Some(class) = class_of(asked[0]) else {
        connection.close(REFUSED, b"no such class of connection");
        return Err(format!("it asks for class {}, which is none", asked[0]));
    };
    connection.set_receive_window(tuning::receive_window(class));
    send.write_all(&asked).await.map_err(|error| error.to_string())?;
    send.finish().map_err(|error| error.to_string())?;
    let connection = QuicConnection::new(connection, peer, class, lanes.as_ref());
    admitted.enter(&connection)?;
    Ok(connection)
}

/// Whether it came in the newcomers' protocol, in which nobody has a certificate to show.
fn is_newcomer(connection: &quinn::Connection) -> bool {
    let data = connection.handshake_data();
    let data = data.and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok());
    data.is_some_and(|data| data.protocol.as_deref() == Some(JOIN_ALPN))
}

/// Somebody whom nobody knows.
fn newcomer(cluster: &str) -> PeerIdentity {
    let node = NodeId(uuid::Uuid::nil());
    PeerIdentity { cluster: cluster.to_owned(), role: PeerRole::Newcomer, node }
}

/// Who is at the other end; TLS has verified the certificate.
fn peer_of(connection: &quinn::Connection) -> Result<PeerIdentity, String> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .unwrap_or_default();
    tls::name_of(&chain).map_err(|error| {
        let why: &[u8] = match chain.is_empty() {
            true => b"the peer refuses: our certificate is missing",
            false => b"the certificate names no identity",
        };
        connection.close(REFUSED, why);
        error.to_string()
    })
}

fn byte(class: Class) -> u8 {
    match class {
        Class::Control => 1,
        Class::Activations => 2,
        Class::Kv => 3,
    }
}

fn class_of(byte: u8) -> Option<Class> {
    [Class::Control, Class::Activations, Class::Kv].into_iter().find(|c| self::byte(*c) == byte)
}
