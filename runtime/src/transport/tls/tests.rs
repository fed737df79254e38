//! Certificates as they are made, kept and believed.

use std::os::unix::fs::PermissionsExt;

use rustls::{client::danger::ServerCertVerifier, server::danger::ClientCertVerifier};
use rustls_pki_types::{ServerName, UnixTime};
use uuid::Uuid;

use super::*;
use crate::{id::NodeId, transport::PeerRole};

fn node(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

/// What a peer of `believer` says of the certificate of `shown`, at both ends of a connection.
fn verdicts(believer: &Identity, shown: &Identity) -> [Result<(), rustls::Error>; 2] {
    let verifier = ClusterVerifier::new(&believer.ca, &believer.name.cluster, provider()).unwrap();
    let name = ServerName::try_from("whatever").unwrap();
    let leaf = &shown.certificate;
    let now = UnixTime::now();
    [
        verifier.verify_server_cert(leaf, &[], &name, &[], now).map(drop),
        verifier.verify_client_cert(leaf, &[], now).map(drop),
    ]
}

#[test]
fn an_identity_is_believed_within_its_cluster_and_says_who_it_is() {
    let ca = ClusterAuthority::create("demo").unwrap();
    let a = ca.issue(PeerRole::Node, node(1)).unwrap();
    let b = ca.issue(PeerRole::Gateway, node(2)).unwrap();
    assert!(verdicts(&a, &b).iter().all(Result::is_ok));
    let id = "00000000-0000-0000-0000-000000000002";
    assert_eq!(b.name().to_string(), format!("troupe://demo/gateway/{id}"));
    assert!(b.renew_at() < b.expires() && b.renew_at() > SystemTime::now());
}

#[test]
fn another_cluster_of_the_same_name_is_not_believed() {
    let ours = ClusterAuthority::create("demo").unwrap().issue(PeerRole::Node, node(1)).unwrap();
    let theirs = ClusterAuthority::create("demo").unwrap().issue(PeerRole::Node, node(1)).unwrap();
    for verdict in verdicts(&ours, &theirs) {
        let error = verdict.unwrap_err();
        assert!(
            matches!(
                error,
                rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)
            ),
            "{error}"
        );
    }
}

#[test]
fn an_expired_certificate_is_not_believed() {
    let ca = ClusterAuthority::create("demo").unwrap();
    let long_ago = SystemTime::now() - LEAF_LIFETIME - CLOCK_SKEW;
    let old = ca.issue_for(PeerRole::Node, node(1), long_ago).unwrap();
    let new = ca.issue(PeerRole::Node, node(2)).unwrap();
    for verdict in verdicts(&new, &old) {
        let error = verdict.unwrap_err().to_string();
        assert!(error.contains("expired"), "{error}");
    }
}

#[test]
fn the_ca_itself_is_no_identity() {
    let ca = ClusterAuthority::create("demo").unwrap();
    let dir = tempfile::tempdir().unwrap();
    ca.save(dir.path()).unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let (cert, key) = (read("ca.pem"), read("ca-key.pem"));
    let error = Identity::from_pem(cert.clone(), key, cert).unwrap_err().to_string();
    assert!(error.contains("is no identity"), "{error}");
}

#[test]
fn files_read_back_and_keys_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ClusterAuthority::create("demo").unwrap();
    ca.save(dir.path()).unwrap();
    let again = ClusterAuthority::load(dir.path()).unwrap();
    assert_eq!((again.cluster(), again.digest()), (ca.cluster(), ca.digest()));

    let identity = again.issue(PeerRole::Control, node(3)).unwrap();
    identity.save(dir.path()).unwrap();
    identity.save(dir.path()).unwrap();
    let loaded = Identity::load(dir.path()).unwrap();
    assert_eq!(loaded.name(), identity.name());
    assert_eq!(loaded.secret("reset"), identity.secret("reset"));
    assert!(verdicts(&loaded, &identity).iter().all(Result::is_ok));
    for key in ["ca-key.pem", "identity-key.pem"] {
        let mode = std::fs::metadata(dir.path().join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}

#[test]
fn errors_name_the_file_and_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let error = Identity::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("identity.pem"), "{error}");
    let error = ClusterAuthority::create("Demo/1").unwrap_err().to_string();
    assert!(error.contains("Demo/1"), "{error}");
}
