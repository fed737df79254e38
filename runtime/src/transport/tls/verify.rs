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

use super::{CLOCK_SKEW, Pin, TlsError};
use crate::transport::PeerIdentity;

/// Believes the leaf certificates of one cluster, on either side of a connection.
#[derive(Debug)]
pub(super) struct ClusterVerifier {
    cluster: String,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Chain checks of the connecting side, whose certificates have another purpose.
    clients: Arc<dyn ClientCertVerifier>,
    /// Whether who connects may show none.
    newcomers: bool,
}

/// Believes, as a newcomer does, whoever was certified by the CA of one pin.
#[derive(Debug)]
pub(super) struct PinVerifier {
    pin: Pin,
    provider: CryptoProvider,
}

/// When a certificate is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: SystemTime,
    pub(super) until: SystemTime,
}

/// Who a leaf certificate names, and when that is believed.
pub(super) fn read(leaf: &CertificateDer<'_>) -> Result<(PeerIdentity, Validity), TlsError> {
    let unusable = |why: String| TlsError::Unusable { what: "the certificate", why };
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(leaf)
        .map_err(|why| unusable(why.to_string()))?;
    let name = only_uri(&parsed).and_then(|uri| uri.parse()).map_err(unusable)?;
    let time = |at: x509_parser::time::ASN1Time| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at.timestamp()).unwrap_or(0))
    };
    let validity = parsed.validity();
    Ok((name, Validity { from: time(validity.not_before), until: time(validity.not_after) }))
}

/// The public key of a leaf certificate, in its DER form with the algorithm.
pub(super) fn public_key(leaf: &CertificateDer<'_>) -> Result<Vec<u8>, TlsError> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(leaf)
        .map_err(|why| TlsError::Unusable { what: "the certificate", why: why.to_string() })?;
    Ok(parsed.public_key().raw.to_vec())
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
        Ok(Self { cluster: cluster.to_owned(), roots, algorithms, clients, newcomers: false })
    }

    /// Lets pass who shows no certificate at all.
    pub(super) fn lets_newcomers_in(&mut self) {
        self.newcomers = true;
    }

    /// Whether this was once a certificate of the cluster, whatever the time is now.
    pub(super) fn check_former(&self, leaf: &CertificateDer<'_>) -> Result<PeerIdentity, TlsError> {
        let (name, validity) = read(leaf)?;
        let then = validity.until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.check_chain(leaf, &[], UnixTime::since_unix_epoch(then))?;
        self.check_name(leaf)?;
        Ok(name)
    }

    fn check_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let (roots, algorithms) = (&self.roots, self.algorithms.all);
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
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
        self.check_chain(leaf, intermediates, now)?;
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

    fn client_auth_mandatory(&self) -> bool {
        !self.newcomers
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

// === impl PinVerifier ===

impl PinVerifier {
    pub(super) fn new(pin: Pin, provider: CryptoProvider) -> Self {
        Self { pin, provider }
    }

    fn algorithms(&self) -> WebPkiSupportedAlgorithms {
        self.provider.signature_verification_algorithms
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refused = |error: TlsError| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
        };
        let ca = intermediates.iter().find(|ca| Pin::of(ca) == self.pin);
        // As the peer hears it: an issuer that is not known here.
        let ca = ca.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let ca = ca.clone().into_owned();
        let cluster = cluster_of(&ca).map_err(refused)?;
        // Whatever the time is: clocks are compared in words, which say more than an alert.
        ClusterVerifier::new(&ca, &cluster, self.provider.clone())
            .and_then(|verifier| verifier.check_former(leaf))
            .map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}

// === impl Validity ===

impl Validity {
    /// For how long it is believed, from when it was made.
    pub(super) fn life(self) -> Duration {
        let all = self.until.duration_since(self.from).unwrap_or_default();
        all.saturating_sub(CLOCK_SKEW)
    }

    /// Says by how much a time is outside of it.
    pub(super) fn check(self, now: SystemTime) -> Result<(), String> {
        let seconds = |later: SystemTime, earlier: SystemTime| {
            crate::clock::approximately(later.duration_since(earlier).unwrap_or_default())
        };
        if now < self.from {
            return Err(format!(
                "the certificate is not valid for another {}: this host's clock is at least that \
                 far behind; set it (chrony or systemd-timesyncd keep it right)",
                seconds(self.from, now)
            ));
        }
        if now >= self.until {
            return Err(format!("the certificate expired {} ago", seconds(now, self.until)));
        }
        Ok(())
    }
}
