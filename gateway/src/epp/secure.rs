//! TLS for proxies that ask who answers a request: they are told endpoints and their keys, which is
//! for nobody else to read.
//!
//! Handshakes go on side by side, so that one that hangs holds up nobody, and one that fails is
//! nobody's concern but its proxy's.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// A certificate to be known by, and its key.
#[derive(Clone)]
pub struct PickerTls(Arc<ServerConfig>);

/// A connection after its handshake.
pub(super) struct Secured(TlsStream<TcpStream>);

/// What accepts, and the handshakes that are under way.
struct Door {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shaking: JoinSet<Option<Secured>>,
}

// === impl PickerTls ===

impl PickerTls {
    /// Of a chain of certificates, the own one first, and its private key, both as PEM.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("the certificate: {error}"))?;
        if chain.is_empty() {
            return Err("the certificate: there is none in the file".into());
        }
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("the key: {error}"))?;
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key));
        let mut config = config.map_err(|error| error.to_string())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

impl fmt::Debug for PickerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PickerTls")
    }
}

// === the door ===

/// Connections of proxies that came through their handshake.
pub(super) fn incoming(
    listener: TcpListener,
    tls: PickerTls,
) -> impl Stream<Item = io::Result<Secured>> {
    let door = Door { listener, acceptor: TlsAcceptor::from(tls.0), shaking: JoinSet::new() };
    stream::unfold(door, |mut door| async move {
        let next = door.next().await;
        Some((next, door))
    })
}

impl Door {
    async fn next(&mut self) -> io::Result<Secured> {
        loop {
            let has_room = self.shaking.len() < MOST_SHAKING;
            tokio::select! {
                accepted = self.listener.accept(), if has_room => {
                    let (connection, _) = accepted?;
                    // One that is gone already cannot be set to anything.
                    if connection.set_nodelay(true).is_ok() {
                        self.shaking.spawn(shake(self.acceptor.clone(), connection));
                    }
                }
                Some(done) = self.shaking.join_next() => {
                    if let Ok(Some(secured)) = done {
                        return Ok(secured);
                    }
                }
            }
        }
    }
}

async fn shake(acceptor: TlsAcceptor, connection: TcpStream) -> Option<Secured> {
    match timeout(HANDSHAKE, acceptor.accept(connection)).await {
        Ok(Ok(secured)) => Some(Secured(secured)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a proxy's handshake");
            None
        }
        Err(_) => None,
    }
}

// === impl Secured ===

impl Connected for Secured {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.0.get_ref().0.connect_info()
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// A proxy that is there shakes hands within this time.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at a time: proxies are few and keep their connections; more wait to be accepted.
const MOST_SHAKING: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_certificate_and_key_is_said() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        PickerTls::from_pem(chain.as_bytes(), key.as_bytes()).expect("they fit");
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        let other = other.signing_key.serialize_pem();
        let wrong = |chain: &str, key: &str| {
            PickerTls::from_pem(chain.as_bytes(), key.as_bytes()).expect_err("it is wrong")
        };
        assert!(wrong("", &key).contains("there is none"));
        assert!(wrong(&chain, &chain).starts_with("the key: "));
        let error = wrong(&chain, &other);
        assert!(error.contains("consistent"), "{error}");
    }
}
