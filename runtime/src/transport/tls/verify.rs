//! Checking a peer's certificate: from this cluster's CA, valid now, and named as one of ours.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    },
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::{extensions::GeneralName, prelude::FromDer};

use super::TlsError;
use crate::transport::PeerIdentity;

/// Believes the leaf certificates of one cluster, on either side of a connection.
#[derive(Debug)]
pub(super) struct ClusterVerifier {
    cluster: String,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Chain checks of the connecting side, whose certificates have another purpose.
    clients: Arc<dyn ClientCertVerifier>,
}

/// Who a leaf certificate names, and until when.
pub(super) fn read(leaf: &CertificateDer<'_>) -> Result<(PeerIdentity, SystemTime), TlsError> {
    let unusable = |why: String| TlsError::Unusable { what: "the certificate", why };
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(leaf)
        .map_err(|why| unusable(why.to_string()))?;
    let name = only_uri(&parsed).and_then(|uri| uri.parse()).map_err(unusable)?;
    let expires = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Ok((name, SystemTime::UNIX_EPOCH + Duration::from_secs(expires)))
}

/// Which cluster a CA certificate is of.
pub(super) fn cluster_of(ca: &CertificateDer<'_>) -> Result<String, TlsError> {
    let unusable = |why: String| TlsError::Unusable { what: "the CA's certificate", why };
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(ca)
        .map_err(|why| unusable(why.to_string()))?;
    let uri = only_uri(&parsed).map_err(unusable)?;
    match uri.strip_prefix("troupe://") {
        Some(cluster) if !cluster.is_empty() && !cluster.contains('/') => Ok(cluster.to_owned()),
        _ => Err(unusable(format!("its name is `{uri}`, troupe://CLUSTER is right"))),
    }
}

/// The one URI among a certificate's alternative names.
fn only_uri(parsed: &x509_parser::certificate::X509Certificate<'_>) -> Result<String, String> {
    let names = parsed.subject_alternative_name().map_err(|why| why.to_string())?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    match names {
        [GeneralName::URI(uri)] => Ok((*uri).to_owned()),
        _ => Err(format!("it has {} names, one URI is right", names.len())),
    }
}

// === impl ClusterVerifier ===

impl ClusterVerifier {
    pub(super) fn new(
        ca: &CertificateDer<'static>,
        cluster: &str,
        provider: CryptoProvider,
    ) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone())?;
        let roots = Arc::new(roots);
        let algorithms = provider.signature_verification_algorithms;
        let clients =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), Arc::new(provider))
                .build()
                .map_err(|why| TlsError::Unusable {
                    what: "the CA's certificate",
                    why: why.to_string(),
                })?;
        Ok(Self { cluster: cluster.to_owned(), roots, algorithms, clients })
    }

    /// The name must be one of ours; the chain is checked already.
    fn check_name(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let refused = |error: TlsError| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
        };
        let (name, _) = read(leaf).map_err(refused)?;
        if name.cluster == self.cluster {
            return Ok(());
        }
        let (theirs, ours) = (name.cluster, &self.cluster);
        let why = format!("it is for the cluster `{theirs}`, this is `{ours}`");
        Err(refused(TlsError::Unusable { what: "the certificate", why }))
    }
}

impl ServerCertVerifier for ClusterVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        self.check_name(leaf)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for ClusterVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A hint tells strangers the cluster's name, and ours have one certificate to choose from.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.clients.verify_client_cert(leaf, intermediates, now)?;
        self.check_name(leaf)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
