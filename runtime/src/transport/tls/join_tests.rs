//! How newcomers come to an identity, and keep it.

use super::*;
use crate::{id::NodeId, transport::PeerRole};

fn node(number: u128) -> NodeId {
    NodeId(uuid::Uuid::from_u128(number))
}

fn authority() -> ClusterAuthority {
    ClusterAuthority::create("demo").unwrap()
}

#[test]
fn a_request_is_signed_for_whom_the_ca_says_and_for_its_key_only() {
    let (ca, now) = (authority(), SystemTime::now());
    let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let request = key.request().unwrap();
    let certificate = ca.sign(&request, PeerRole::Node, node(7), now).unwrap();
    let identity = key.identity(certificate.clone(), ca.to_pem().0.into()).unwrap();
    assert_eq!(identity.name().to_string(), format!("troupe://demo/node/{}", node(7)));
    assert!(identity.server_config(Guests::Members).is_ok());
    let mixed = other.identity(certificate, ca.to_pem().0.into()).unwrap();
    assert!(mixed.server_config(Guests::Members).is_err(), "another key than was signed");

    let digest = |key: &SigningKey| SigningKey::digest_of(&key.request().unwrap()).unwrap();
    assert_eq!(digest(&key), digest(&SigningKey::from_pem(&key.to_pem()).unwrap()));
    assert_ne!(digest(&key), digest(&other));
}

#[test]
fn a_request_that_was_tampered_with_is_refused() {
    let (ca, key) = (authority(), SigningKey::generate().unwrap());
    let mut request = key.request().unwrap();
    let last = request.len() - 1;
    request[last] ^= 1;
    for bad in [&request[..], b"", b"nonsense"] {
        let error = ca.sign(bad, PeerRole::Node, node(1), SystemTime::now()).unwrap_err();
        assert!(error.to_string().contains("signing request"), "{error}");
    }
}

#[test]
fn a_renewed_identity_is_the_same_one_for_longer() {
    let ca = authority().lasting(Duration::from_secs(90));
    let now = SystemTime::now();
    let old = ca.issue_for(PeerRole::Node, node(1), now - Duration::from_secs(60)).unwrap();
    let left = old.renew_at().duration_since(now - Duration::from_secs(60)).unwrap();
    assert!((59..=60).contains(&left.as_secs()), "two thirds of 90 s, not {left:?}");
    let request = old.signing_request().unwrap();
    let certificate = ca.sign(&request, PeerRole::Node, node(1), now).unwrap();
    let new = old.renewed(certificate).unwrap();
    assert_eq!(new.name(), old.name());
    assert!(new.expires() > old.expires());
    assert_eq!(new.secret("reset"), old.secret("reset"), "a peer would miss the resets");

    let foreign = ca.sign(&request, PeerRole::Node, node(2), now).unwrap();
    assert!(old.renewed(foreign).is_err(), "somebody else's name");
    let key = SigningKey::generate().unwrap().request().unwrap();
    let foreign = ca.sign(&key, PeerRole::Node, node(1), now).unwrap();
    assert!(old.renewed(foreign).is_err(), "somebody else's key");
}

#[test]
fn a_former_certificate_names_its_holder_and_nobody_else() {
    let ca = authority().lasting(Duration::from_secs(90));
    let long_ago = SystemTime::now() - Duration::from_secs(30 * 24 * 3600);
    let expired = ca.issue_for(PeerRole::Node, node(1), long_ago).unwrap();
    let request = expired.signing_request().unwrap();
    assert_eq!(ca.former(expired.certificate(), &request).unwrap(), *expired.name());

    let stolen = SigningKey::generate().unwrap().request().unwrap();
    let error = ca.former(expired.certificate(), &stolen).unwrap_err().to_string();
    assert!(error.contains("not signed with its key"), "{error}");
    assert!(authority().former(expired.certificate(), &request).is_err(), "another CA");
}

#[test]
fn a_certificate_says_by_how_much_the_time_is_wrong() {
    let ca = authority();
    let now = SystemTime::now();
    let identity = ca.issue_for(PeerRole::Node, node(1), now).unwrap();
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    assert!(identity.check_time(now).is_ok());
    // An hour of grace is in the certificate.
    let error = identity.check_time(now - hours(6)).unwrap_err().to_string();
    assert!(error.contains("another 5 h") && error.contains("chrony"), "{error}");
    let error = identity.check_time(now + hours(24 * 92)).unwrap_err().to_string();
    assert!(error.contains("expired 48 h ago") || error.contains("expired 2 days"), "{error}");
}
