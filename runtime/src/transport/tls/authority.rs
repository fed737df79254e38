//! The cluster's CA: made once, kept in a directory, issues identities.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{
    CLOCK_SKEW, ClusterVerifier, Identity, Pin, SigningKey, TlsError, files, provider, verify,
};
use crate::{
    id::{Digest, NodeId},
    transport::{PeerIdentity, PeerRole},
};

/// The CA's certificate in a directory.
pub(super) const CERTIFICATE_FILE: &str = "ca.pem";
/// The CA's key.
const KEY_FILE: &str = "ca-key.pem";

/// How long an identity is believed unless said otherwise; renewed at two thirds.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// The CA outlives every cluster that anyone will want to keep without making a new one.
const CA_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// A cluster's CA with its key.
#[derive(Debug)]
pub struct ClusterAuthority {
    cluster: String,
    pem: String,
    certificate: CertificateDer<'static>,
    key_pem: String,
    lifetime: Duration,
}

impl ClusterAuthority {
    /// A new CA for a cluster of this name.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if the name is not made of lower-case letters, digits, `-` and `.`.
    pub fn create(cluster: &str) -> Result<Self, TlsError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        if cluster.is_empty() || cluster.len() > 63 || !cluster.chars().all(allowed) {
            let why = format!(
                "`{cluster}`, but 1 to 63 lower-case letters, digits, `-` and `.` are needed"
            );
            return Err(TlsError::Unusable { what: "the cluster's name", why });
        }
        let key = KeyPair::generate().map_err(generation)?;
        // Issuers are sought by this name: two clusters of one name must not be taken for the same,
        // or a mix-up would be reported as a broken signature.
        let unique = uuid::Uuid::new_v4().simple();
        let mut params = params(&format!("troupe cluster {cluster} {unique}"), CA_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("troupe://{cluster}"))?];
        let certificate = params.self_signed(&key).map_err(generation)?;
        Self::from_pem(certificate.pem(), key.serialize_pem())
    }

    /// Reads `ca.pem` and `ca-key.pem` from a directory.
    ///
    /// # Errors
    /// [`TlsError`] that names the file, or what is wrong with its content.
    pub fn load(dir: &Path) -> Result<Self, TlsError> {
        let pem = files::read(&dir.join(CERTIFICATE_FILE))?;
        Self::from_pem(pem, files::read(&dir.join(KEY_FILE))?)
    }

    /// Writes those files; the key is readable by its owner only.
    ///
    /// # Errors
    /// [`TlsError::File`].
    pub fn save(&self, dir: &Path) -> Result<(), TlsError> {
        files::write(&dir.join(KEY_FILE), &self.key_pem, files::Access::Owner)?;
        files::write(&dir.join(CERTIFICATE_FILE), &self.pem, files::Access::Everyone)
    }

    /// From both PEM texts.
    ///
    /// # Errors
    /// [`TlsError::Unusable`].
    pub fn from_pem(pem: String, key_pem: String) -> Result<Self, TlsError> {
        let what = "the CA's certificate";
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|why| TlsError::Unusable { what, why: why.to_string() })?;
        let cluster = verify::cluster_of(&certificate)?;
        KeyPair::from_pem(&key_pem)
            .map_err(|why| TlsError::Unusable { what: "the CA's key", why: why.to_string() })?;
        Ok(Self { cluster, pem, certificate, key_pem, lifetime: LEAF_LIFETIME })
    }

    /// The same CA, whose identities are believed for this long.
    #[must_use]
    pub fn lasting(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// For how long its identities are believed.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The digest of its certificate.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.certificate)
    }

    /// What a join token says of it.
    pub fn pin(&self) -> Pin {
        Pin::of(&self.certificate)
    }

    /// Its PEM texts: the certificate, and the key.
    pub fn to_pem(&self) -> (&str, &str) {
        (&self.pem, &self.key_pem)
    }

    /// A new identity with a new key, valid from now on.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if the CA's own parts do not work.
    pub fn issue(&self, role: PeerRole, node: NodeId) -> Result<Identity, TlsError> {
        self.issue_for(role, node, SystemTime::now())
    }

    /// As [`ClusterAuthority::issue`], from another time on.
    ///
    /// # Errors
    /// As [`ClusterAuthority::issue`].
    pub fn issue_for(
        &self,
        role: PeerRole,
        node: NodeId,
        now: SystemTime,
    ) -> Result<Identity, TlsError> {
        let key = SigningKey::generate()?;
        key.identity(self.certify(role, node, now, key.pair())?, self.pem.clone())
    }

    /// A certificate for the key that a request was signed with, whatever else the request says.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if it is none.
    pub fn sign(
        &self,
        request: &[u8],
        role: PeerRole,
        node: NodeId,
        now: SystemTime,
    ) -> Result<String, TlsError> {
        self.certify(role, node, now, &parsed(request)?.public_key)
    }

    /// Who a certificate named, if it was one of this cluster's, expired or not, and the request
    /// was signed with its key.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if it was none, or of another key.
    pub fn former(&self, certificate: &[u8], request: &[u8]) -> Result<PeerIdentity, TlsError> {
        let certificate = CertificateDer::from(certificate);
        let name = ClusterVerifier::new(&self.certificate, &self.cluster, provider())?
            .check_former(&certificate)?;
        let key = parsed(request)?.public_key.subject_public_key_info();
        if verify::public_key(&certificate)? == key {
            return Ok(name);
        }
        let why = "the request was not signed with its key".into();
        Err(TlsError::Unusable { what: "the former certificate", why })
    }

    fn certify(
        &self,
        role: PeerRole,
        node: NodeId,
        now: SystemTime,
        key: &impl PublicKeyData,
    ) -> Result<String, TlsError> {
        let name = PeerIdentity { cluster: self.cluster.clone(), role, node };
        let mut params = params(&format!("troupe {role} {node}"), self.lifetime);
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + self.lifetime).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![uri(&name.to_string())?];
        let ca_key = KeyPair::from_pem(&self.key_pem).map_err(generation)?;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, ca_key).map_err(generation)?;
        Ok(params.signed_by(key, &issuer).map_err(generation)?.pem())
    }
}

/// A signing request, whose signature is checked.
fn parsed(request: &[u8]) -> Result<CertificateSigningRequestParams, TlsError> {
    CertificateSigningRequestParams::from_der(&request.into())
        .map_err(|why| TlsError::Unusable { what: "the signing request", why: why.to_string() })
}

/// What a signing key is to be identified by: its public half's digest.
pub(super) fn key_digest(request: &[u8]) -> Result<Digest, TlsError> {
    Ok(Digest::of(&parsed(request)?.public_key.subject_public_key_info()))
}

fn params(common_name: &str, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + lifetime).into();
    params
}

fn uri(text: &str) -> Result<SanType, TlsError> {
    Ok(SanType::URI(text.try_into().map_err(generation)?))
}

fn generation(why: rcgen::Error) -> TlsError {
    TlsError::Unusable { what: "the cluster's CA", why: why.to_string() }
}
