//! How the certificate of a foreign endpoint is checked: against what browsers trust, against a
//! file, or not at all.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

/// See the file.
#[derive(Clone, Debug)]
pub(crate) struct Tls(Arc<ClientConfig>);

/// Everybody is who he says he is.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

// === impl Tls ===

impl Tls {
    /// Certificates are to be signed by one of a file's, or are not looked at.
    ///
    /// # Errors
    /// The field that is wrong, and why.
    pub(super) fn new(
        ca_file: Option<&Path>,
        skip_verify: bool,
    ) -> Result<Self, (&'static str, String)> {
        let mut roots = RootCertStore::empty();
        match ca_file {
            Some(_) if skip_verify => {
                return Err(("caFile", "must not be set with insecureSkipVerify".to_owned()));
            }
            Some(file) => read(file, &mut roots)
                .map_err(|why| ("caFile", format!("{}: {why}", file.display())))?,
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        Ok(Self(Arc::new(with(roots, skip_verify))))
    }

    /// For a connector, which needs one also where TLS is not spoken.
    pub(super) fn config(of: Option<&Self>) -> ClientConfig {
        of.map_or_else(|| with(RootCertStore::empty(), false), |tls| (*tls.0).clone())
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Tls {}

fn read(file: &Path, roots: &mut RootCertStore) -> Result<(), String> {
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("has no certificate; those of its CA are needed, as PEM".to_owned());
    }
    Ok(())
}

fn with(roots: RootCertStore, skip_verify: bool) -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        // Ring has suites for both versions.
        .expect("the provider fits its own defaults");
    if skip_verify {
        let anybody = Arc::new(Anybody(provider));
        return builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth();
    }
    builder.with_root_certificates(roots).with_no_client_auth()
}

// === impl Anybody ===

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
