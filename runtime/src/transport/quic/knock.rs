//! How a newcomer knocks at a control host's door: it shows no certificate, and believes whoever
//! the CA of its token's pin has made a control host.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{Endpoint, EndpointConfig};

use super::{
    QuicConfig, QuicError, SERVER_NAME, TransportRuntime, handshake, runtime::OnHandle, tuning,
};
use crate::transport::{
    Class, Connection, LinkError, PeerAddr, PeerRole,
    tls::{self, Pin},
};

/// A connection on which [`crate::transport::Conversation::Join`] can be opened, and nothing else.
///
/// # Errors
/// [`LinkError`] within `deadline`.
pub async fn knock(
    address: SocketAddr,
    pin: Pin,
    deadline: Duration,
    runtime: &TransportRuntime,
) -> Result<Arc<dyn Connection>, LinkError> {
    let peer = PeerAddr::Quic(address);
    let unreachable = |why: String| LinkError::Unreachable { peer: peer.clone(), why };
    let client = client(pin).map_err(|error| unreachable(crate::error::chain(&error)))?;
    let bound = endpoint(address, runtime).map_err(|error| unreachable(error.to_string()))?;
    let connecting = bound
        .connect_with(client.of(Class::Control, address), address, SERVER_NAME)
        .map_err(|error| unreachable(error.to_string()))?;
    let shaken = handshake::connect(connecting, Class::Control, None);
    let shaken = tokio::time::timeout(deadline, shaken);
    let connection = match shaken.await {
        Ok(Ok(connection)) => connection,
        Ok(Err(why)) => return Err(unreachable(why)),
        Err(_) => return Err(LinkError::Deadline { what: "connecting", deadline }),
    };
    let role = connection.peer().role;
    match role {
        PeerRole::Control => Ok(Arc::new(connection)),
        // Whatever it is, a token is not told to it.
        _ => Err(unreachable(format!("it is a {role}, and only control hosts let newcomers in"))),
    }
}

fn client(pin: Pin) -> Result<tuning::ClientConfigs, QuicError> {
    tuning::ClientConfigs::of_tls(tls::newcomer_config(pin)?, &QuicConfig::default())
}

/// A socket of any port. It lives as long as what it is connected to.
fn endpoint(towards: SocketAddr, runtime: &TransportRuntime) -> std::io::Result<Endpoint> {
    let any: SocketAddr = match towards {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let runtime = Arc::new(OnHandle(runtime.handle().clone()));
    Endpoint::new(EndpointConfig::default(), None, tuning::socket(any)?, runtime)
}
