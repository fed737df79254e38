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
pub mod files;
mod request;
mod token;
mod verify;
mod web;

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

use self::verify::{ClusterVerifier, PinVerifier, Validity};
pub(crate) use self::web::web_config;
pub use self::{
    authority::{ClusterAuthority, LEAF_LIFETIME},
    request::SigningKey,
    token::{JoinToken, Pin},
};
use super::PeerIdentity;
use crate::{
    id::Digest,
    wire::{ALPN, JOIN_ALPN},
};

/// A process's certificate with its key, and the CA that it believes.
#[derive(Debug)]
pub struct Identity {
    name: PeerIdentity,
    validity: Validity,
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
    /// A certificate is not believed at this time.
    #[error("{0}")]
    Time(String),
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
        let (name, validity) = verify::read(&parsed)?;
        Ok(Self {
            name,
            validity,
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
        self.validity.until
    }

    /// When it should be renewed: two thirds through its life.
    pub fn renew_at(&self) -> SystemTime {
        self.validity.until - self.validity.life() / 3
    }

    /// Refuses one that nobody believes at this time, and says by how much.
    ///
    /// # Errors
    /// [`TlsError::Time`]: it has expired, or this host's clock is wrong.
    pub fn check_time(&self, now: SystemTime) -> Result<(), TlsError> {
        self.validity.check(now).map_err(TlsError::Time)
    }

    /// A request to sign this identity's own key once more.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if the key cannot sign.
    pub fn signing_request(&self) -> Result<Vec<u8>, TlsError> {
        SigningKey::from_pem(&self.pem.key)?.request()
    }

    /// The same identity with a newer certificate.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if it is not of this key, or names somebody else.
    pub fn renewed(&self, certificate: String) -> Result<Self, TlsError> {
        let renewed = Self::from_pem(certificate, self.pem.key.clone(), self.pem.ca.clone())?;
        let ours = renewed.name == self.name && renewed.server_config(Guests::Members).is_ok();
        ours.then_some(renewed).ok_or_else(|| TlsError::Unusable {
            what: "the renewed certificate",
            why: format!("it is not of {} and its key", self.name),
        })
    }

    /// Its certificate, to be shown where it is no longer believed.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Its three PEM texts: certificate, key and CA certificate.
    pub fn to_pem(&self) -> (&str, &str, &str) {
        (&self.pem.certificate, &self.pem.key, &self.pem.ca)
    }

    /// What a join token says of the CA.
    pub fn ca_pin(&self) -> Pin {
        Pin::of(&self.ca)
    }

    /// The digest of the CA's certificate: two identities of one CA have the same.
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
    pub fn server_config(&self, guests: Guests) -> Result<ServerConfig, TlsError> {
        let mut verifier = ClusterVerifier::new(&self.ca, &self.name.cluster, provider())?;
        let mut chain = vec![self.certificate.clone()];
        let mut protocols = vec![ALPN.to_vec()];
        if guests == Guests::Newcomers {
            // Whoever is neither a newcomer nor shows a certificate is turned away after the
            // handshake: TLS cannot ask for one by protocol.
            verifier.lets_newcomers_in();
            protocols.push(JOIN_ALPN.to_vec());
            // Newcomers know the CA by its pin only.
            chain.push(self.ca.clone());
        }
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(chain, self.key.clone_key())?;
        config.alpn_protocols = protocols;
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

/// Who is let in at a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guests {
    /// Those of the cluster.
    Members,
    /// Those, and newcomers with a join token.
    Newcomers,
}

/// TLS for a newcomer: shows nothing, and believes the CA of this pin.
///
/// # Errors
/// [`TlsError::Setup`].
pub(super) fn newcomer_config(pin: Pin) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous() // The pin is all that a newcomer knows; the name is looked at afterwards.
        .with_custom_certificate_verifier(Arc::new(PinVerifier::new(pin, provider())))
        .with_no_client_auth();
    config.alpn_protocols = vec![JOIN_ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
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
mod join_tests;
#[cfg(test)]
mod tests;
