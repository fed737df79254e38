//! A key whose holder wants a certificate: the key stays where it was made, a request travels.

use rcgen::{CertificateParams, KeyPair};

use super::{Identity, TlsError, authority};
use crate::id::Digest;

/// A key without a certificate.
#[derive(Debug)]
pub struct SigningKey(KeyPair);

impl SigningKey {
    /// A new one.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if the system has no randomness to give.
    pub fn generate() -> Result<Self, TlsError> {
        KeyPair::generate().map(Self).map_err(unusable)
    }

    /// From its PEM text.
    ///
    /// # Errors
    /// [`TlsError::Unusable`].
    pub fn from_pem(pem: &str) -> Result<Self, TlsError> {
        KeyPair::from_pem(pem).map(Self).map_err(unusable)
    }

    /// As PEM text.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// A request to sign it (PKCS #10, DER). It names nobody: who its holder is, is not the
    /// holder's to say.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if the key cannot sign.
    pub fn request(&self) -> Result<Vec<u8>, TlsError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&self.0).map_err(unusable)?;
        Ok(request.der().to_vec())
    }

    /// The identity that it has with this certificate.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if the certificate is none or names nobody.
    pub fn identity(&self, certificate: String, ca: String) -> Result<Identity, TlsError> {
        Identity::from_pem(certificate, self.to_pem(), ca)
    }

    /// Which key a request is about.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if it is none.
    pub fn digest_of(request: &[u8]) -> Result<Digest, TlsError> {
        authority::key_digest(request)
    }

    pub(super) fn pair(&self) -> &KeyPair {
        &self.0
    }
}

fn unusable(why: rcgen::Error) -> TlsError {
    TlsError::Unusable { what: "the identity's key", why: why.to_string() }
}
