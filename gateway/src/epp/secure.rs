//! TLS for proxies that ask who answers a request: they are told endpoints and their keys, which is
//! for nobody else to read.
//!
//! Certificates are short-lived where somebody renews them: files that are followed are read again
//! every few seconds, and what is new in them is shown from the next handshake on. If they are
//! wrong meanwhile, what was shown before stays, and that is said.

use std::{
    fmt, io,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// A certificate to be known by, and its key.
#[derive(Clone)]
pub struct PickerTls {
    config: Arc<ServerConfig>,
    shown: Arc<Shown>,
    /// Where the certificate and its key are read from again.
    files: Option<(PathBuf, PathBuf)>,
}

/// What is shown to whoever asks.
struct Shown(RwLock<Arc<CertifiedKey>>);

/// A connection after its handshake.
pub(super) struct Secured(TlsStream<TcpStream>);

// === impl PickerTls ===

impl PickerTls {
    /// Of a chain of certificates, the own one first, and its private key, both as PEM.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let shown = Arc::new(Shown(RwLock::new(read(chain, key)?)));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let mut config = config.with_no_client_auth().with_cert_resolver(shown.clone());
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { config: Arc::new(config), shown, files: None })
    }

    /// The same, and what is in these files from now on.
    #[must_use]
    pub fn following(self, chain: PathBuf, key: PathBuf) -> Self {
        Self { files: Some((chain, key)), ..self }
    }

    /// Shows what its files hold, as often as that changes; never returns.
    pub(super) async fn follow(&self) {
        let Some(files) = &self.files else { return std::future::pending().await };
        let mut last = None;
        loop {
            // The same trouble is told of once.
            let refreshed = self.refresh(files).await;
            if let Err(why) = &refreshed
                && last.as_ref() != Some(why)
            {
                let file = files.0.display();
                tracing::warn!(%file, why, "the certificate for proxies stays as it was");
            }
            last = refreshed.err();
            sleep(REFRESH).await;
        }
    }

    /// Reads them once.
    async fn refresh(&self, (chain, key): &(PathBuf, PathBuf)) -> Result<(), String> {
        let said = |error: io::Error| error.to_string();
        let chain = tokio::fs::read(chain).await.map_err(said)?;
        let key = tokio::fs::read(key).await.map_err(said)?;
        let new = read(&chain, &key)?;
        // Nothing under the lock can panic.
        let mut shown = self.shown.0.write().unwrap_or_else(PoisonError::into_inner);
        if shown.cert != new.cert {
            tracing::info!("another certificate is shown to proxies from now on");
        }
        *shown = new;
        Ok(())
    }

    /// A connection after its handshake; `None` if that fails or takes too long.
    pub(super) async fn shake(&self, connection: TcpStream) -> Option<Secured> {
        shake(TlsAcceptor::from(Arc::clone(&self.config)), connection).await
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl fmt::Debug for PickerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PickerTls")
    }
}

/// A chain and a key that belong together, out of their PEM.
fn read(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the certificate: {error}"))?;
    if chain.is_empty() {
        return Err("the certificate: there is none in the file".into());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("the key: {error}"))?;
    let pair = CertifiedKey::from_der(chain, key, &ring::default_provider());
    pair.map(Arc::new).map_err(|error| error.to_string())
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
/// How old what is shown may be: renewals come days before the end.
const REFRESH: Duration = Duration::from_secs(10);

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
    #[tokio::test]
    async fn what_is_new_in_its_files_is_shown_and_what_is_wrong_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let pair = || {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
            (made.cert.pem(), made.signing_key.serialize_pem())
        };
        let put = |(chain, key): &(String, String)| {
            std::fs::write(&files.0, chain).expect("written");
            std::fs::write(&files.1, key).expect("written");
        };
        let (first, second) = (pair(), pair());
        let tls = PickerTls::from_pem(first.0.as_bytes(), first.1.as_bytes()).expect("they fit");
        let tls = tls.following(files.0.clone(), files.1.clone());
        let shows = |(chain, _): &(String, String)| {
            let shown = tls.shown.0.read().expect("never poisoned").cert.clone();
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
            shown == chain.collect::<Result<Vec<_>, _>>().expect("PEM")
        };
        assert!(tls.refresh(&files).await.is_err(), "there are none");
        assert!(shows(&first));
        put(&second);
        tls.refresh(&files).await.expect("they fit");
        assert!(shows(&second));
        // Half of a renewal is not shown.
        put(&(first.0.clone(), second.1.clone()));
        assert!(tls.refresh(&files).await.is_err());
        assert!(shows(&second));
        put(&first);
        tls.refresh(&files).await.expect("they fit");
        assert!(shows(&first));
    }
}
