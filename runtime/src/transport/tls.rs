//! Who may speak to whom: the cluster's own CA, the identities that it issues, and TLS set up so
//! that nothing else is believed.
//!
//! An identity is a leaf certificate whose only name is the URI `troupe://<cluster>/<role>/<uuid>`.
//! Host names and addresses play no part: hosts move, and whoever holds the key is the host. Both
//! sides of every connection present one, both check that the other's comes from the one CA and
//! carries such a name ([`verify`]); what the role may do is decided later, per conversation
//! ([`super::permits`]). TLS 1.3 only, one provider (ring) passed explicitly, no session tickets,
//! so that each connection is checked anew.

mod authority;
mod files;
mod verify;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, ServerConfig, SupportedCipherSuite,
    crypto::{CryptoProvider, ring},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

pub use self::authority::{ClusterAuthority, LEAF_LIFETIME};
use self::verify::ClusterVerifier;
use super::PeerIdentity;
use crate::{id::Digest, wire::ALPN};

/// A process's certificate with its key, and the CA that it believes.
#[derive(Debug)]
pub struct Identity {
    name: PeerIdentity,
    expires: SystemTime,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    ca: CertificateDer<'static>,
    pem: IdentityPem,
}

/// An [`Identity`] as files hold it.
#[derive(Clone)]
struct IdentityPem {
    certificate: String,
    key: String,
    ca: String,
}

/// Why certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate or key is not what it should be.
    #[error("{what} is unusable: {why}")]
    Unusable {
        /// Which.
        what: &'static str,
        /// Why, and what would be right.
        why: String,
    },
    /// rustls does not accept the parts.
    #[error("cannot set up TLS")]
    Setup(#[from] rustls::Error),
}

/// The name of an identity's certificate in a directory.
const CERTIFICATE_FILE: &str = "identity.pem";
/// The name of its key.
const KEY_FILE: &str = "identity-key.pem";

// === impl Identity ===

impl Identity {
    /// Reads `identity.pem`, `identity-key.pem` and `ca.pem` from a directory.
    ///
    /// # Errors
    /// [`TlsError`] that names the file, or what is wrong with its content.
    pub fn load(dir: &Path) -> Result<Self, TlsError> {
        Self::from_pem(
            files::read(&dir.join(CERTIFICATE_FILE))?,
            files::read(&dir.join(KEY_FILE))?,
            files::read(&dir.join(authority::CERTIFICATE_FILE))?,
        )
    }

    /// Writes those files, replacing older ones; the key is readable by its owner only.
    ///
    /// # Errors
    /// [`TlsError::File`].
    pub fn save(&self, dir: &Path) -> Result<(), TlsError> {
        files::write(&dir.join(KEY_FILE), &self.pem.key, files::Access::Owner)?;
        let ca = dir.join(authority::CERTIFICATE_FILE);
        files::write(&ca, &self.pem.ca, files::Access::Everyone)?;
        // Last, because its being there says that all are. A renewal that stops before it is due
        // again at the next start, when the old certificate is still one to be renewed.
        files::write(&dir.join(CERTIFICATE_FILE), &self.pem.certificate, files::Access::Everyone)
    }

    /// From the three PEM texts: certificate, key and CA certificate.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if one is none, or the certificate carries no identity.
    pub fn from_pem(certificate: String, key: String, ca: String) -> Result<Self, TlsError> {
        let unusable = |what| {
            move |why: rustls_pki_types::pem::Error| TlsError::Unusable {
                what,
                why: why.to_string(),
            }
        };
        let parsed = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(unusable("the identity's certificate"))?;
        let (name, expires) = verify::read(&parsed)?;
        Ok(Self {
            name,
            expires,
            certificate: parsed,
            key: PrivateKeyDer::from_pem_slice(key.as_bytes())
                .map_err(unusable("the identity's key"))?,
            ca: CertificateDer::from_pem_slice(ca.as_bytes())
                .map_err(unusable("the CA's certificate"))?,
            pem: IdentityPem { certificate, key, ca },
        })
    }

    /// Who its holder is.
    pub fn name(&self) -> &PeerIdentity {
        &self.name
    }

    /// When peers stop to believe it.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// When it should be renewed: two thirds through its life.
    pub fn renew_at(&self) -> SystemTime {
        self.expires - LEAF_LIFETIME / 3
    }

    /// The digest of the CA's certificate: what a join token pins.
    pub fn ca_digest(&self) -> Digest {
        Digest::of(&self.ca)
    }

    /// A secret of this identity for one purpose: the same after a restart, told to nobody.
    pub(super) fn secret(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, self.key.secret_der())
    }

    /// TLS for the side that is connected to.
    ///
    /// # Errors
    /// [`TlsError::Setup`] if certificate and key do not belong together.
    pub fn server_config(&self) -> Result<ServerConfig, TlsError> {
        let verifier = Arc::new(ClusterVerifier::new(&self.ca, &self.name.cluster, provider())?);
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// TLS for the side that connects.
    ///
    /// # Errors
    /// As [`Identity::server_config`].
    pub fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let verifier = Arc::new(ClusterVerifier::new(&self.ca, &self.name.cluster, provider())?);
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous() // Stricter than the default: the CA is the cluster's only, the name a URI.
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}

/// Who a certificate chain names, as a verified connection hands it over.
///
/// # Errors
/// [`TlsError::Unusable`].
pub(super) fn name_of(chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, TlsError> {
    let leaf = chain.first().ok_or_else(|| TlsError::Unusable {
        what: "the peer's certificate",
        why: "there is none".into(),
    })?;
    Ok(verify::read(leaf)?.0)
}

impl std::fmt::Debug for IdentityPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdentityPem")
    }
}

/// ring, with AES-128 before AES-256: it is a quarter faster and no weaker for what lives a second.
fn provider() -> CryptoProvider {
    let is_first = |suite: &SupportedCipherSuite| {
        suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
    };
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    provider.cipher_suites.sort_by_key(|suite| !is_first(suite));
    provider
}

/// Clocks of hosts differ: a certificate is valid a little before it was made.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
