//! The lease core from scripts of what the store answers.

use super::*;
use crate::discovery::store::By;

fn hold(key: &str, by: By) -> Hold {
    Hold { key: key.into(), value: b"v".to_vec(), by }
}

fn life(value: &str) -> Incarnation {
    Incarnation { key: "incarnation".into(), value: value.into() }
}

/// A lease with `a` put and `b` claimed.
fn core_with_keys() -> Core {
    let mut core = Core::new(Duration::from_secs(9), 1);
    core.handle(Event::Granted(1));
    core.handle(Event::Opened(life("one")));
    for (key, by) in [("a", By::Put), ("b", By::Claim)] {
        core.handle(Event::Hold(hold(key, by)));
        core.handle(Event::Ensured(key.into(), Held::Ours));
    }
    core
}

fn ensure(lease: LeaseId, key: &str, by: By) -> Effect {
    Effect::Ensure(lease, hold(key, by))
}

#[test]
fn a_lost_lease_is_granted_anew_and_everything_put_again() {
    let mut core = core_with_keys();
    assert_eq!(core.handle(Event::Due), [Effect::Renew(1)]);
    assert_eq!(core.handle(Event::Renewed(Renewed::Lost)), [Effect::Grant]);
    assert!(core.held().is_empty(), "nothing is ours under a lost lease");
    let wanted = [ensure(2, "a", By::Put), ensure(2, "b", By::Claim)];
    assert_eq!(core.handle(Event::Granted(2)), [Effect::Open]);
    assert_eq!(core.handle(Event::Opened(life("two"))), wanted);
}

#[test]
fn in_another_life_of_the_store_nothing_is_ours_until_it_is_put_again() {
    for other in [
        Event::Ensured("c".into(), Held::OtherLife),
        Event::Released("c".into(), Released::OtherLife),
    ] {
        let mut core = core_with_keys();
        assert!(other.is_loss());
        assert_eq!(core.handle(other), [Effect::Open]);
        assert!(core.held().is_empty());
        // Asked meanwhile, it first reads which life it is.
        assert_eq!(core.handle(Event::Hold(hold("c", By::Put))), [Effect::Open]);
        assert_eq!(core.handle(Event::Delete("c".into())), []);
        core.handle(Event::Failed);
        assert_eq!(core.handle(Event::Renewed(Renewed::Kept)), [Effect::Open]);
        let release = Effect::Release(1, "c".into());
        let wanted = [release, ensure(1, "a", By::Put), ensure(1, "b", By::Claim)];
        assert_eq!(core.handle(Event::Opened(life("two"))), wanted);
    }
}

#[test]
fn a_claim_that_another_took_meanwhile_is_given_up() {
    let mut core = core_with_keys();
    core.handle(Event::Renewed(Renewed::Lost));
    core.handle(Event::Granted(2));
    core.handle(Event::Opened(life("two")));
    core.handle(Event::Ensured("a".into(), Held::Ours));
    core.handle(Event::Ensured("b".into(), Held::Theirs));
    assert_eq!(core.held(), BTreeSet::from(["a".to_owned()]));
    core.handle(Event::Renewed(Renewed::Lost));
    core.handle(Event::Granted(3));
    assert_eq!(core.handle(Event::Opened(life("two"))), [ensure(3, "a", By::Put)]);
}

#[test]
fn a_term_that_is_lost_is_not_claimed_again() {
    let term = |value: &[u8], by| Hold { key: "office".into(), value: value.to_vec(), by };
    let elected = || {
        let mut core = core_with_keys();
        let claimed = core.handle(Event::Hold(term(b"first", By::Term)));
        assert_eq!(claimed, [Effect::Ensure(1, term(b"first", By::Term))]);
        core.handle(Event::Ensured("office".into(), Held::Ours));
        core
    };
    let mut core = elected();
    // A store that was away is asked whether it has it still, and it is not made anew.
    let looked = core.handle(Event::Renewed(Renewed::Suspect));
    assert_eq!(looked.last(), Some(&Effect::Ensure(1, term(b"first", By::Kept))));
    assert!(By::Kept.yields(None, b"first") && By::Kept.yields(Some(b"other"), b"first"));
    assert!(!By::Kept.yields(Some(b"first"), b"first"));
    core.handle(Event::Renewed(Renewed::Lost));
    core.handle(Event::Granted(2));
    assert_eq!(core.handle(Event::Opened(life("one"))).len(), 2, "the other two keys");
    // The next term takes away what the one before may have left.
    let mut core = elected();
    let next = core.handle(Event::Hold(term(b"second", By::Term)));
    let release = Effect::Release(1, "office".into());
    assert_eq!(next, [release.clone(), Effect::Ensure(1, term(b"second", By::Term))]);
    core.handle(Event::Failed);
    let again = core.handle(Event::Renewed(Renewed::Kept));
    assert_eq!(again, [release, Effect::Ensure(1, term(b"second", By::Term))]);
}

#[test]
fn a_store_that_was_away_is_asked_what_it_still_has() {
    let mut core = core_with_keys();
    assert_eq!(core.handle(Event::Renewed(Renewed::Kept)), []);
    let looked = core.handle(Event::Renewed(Renewed::Suspect));
    assert_eq!(looked, [ensure(1, "a", By::Put), ensure(1, "b", By::Claim)]);
    assert_eq!(core.held().len(), 2, "they are ours until the store says otherwise");
}

#[test]
fn in_a_store_that_went_back_all_is_put_under_another_lease_and_the_old_one_ends() {
    let mut core = core_with_keys();
    core.handle(Event::Hold(hold("deleted", By::Put)));
    core.handle(Event::Delete("deleted".into()));
    core.handle(Event::Released("deleted".into(), Released::Done));
    // A backup of before may have it again, and nobody would ever take it away.
    assert_eq!(core.handle(Event::Renewed(Renewed::Rewound)), [Effect::Grant]);
    assert_eq!(core.held().len(), 2, "they are ours until the store says otherwise");
    assert_eq!(core.handle(Event::Granted(2)), [Effect::Open]);
    let wanted = [ensure(2, "a", By::Put), ensure(2, "b", By::Claim), Effect::Revoke(1)];
    assert_eq!(core.handle(Event::Opened(life("one"))), wanted, "the old one goes last");
    for key in ["a", "b"] {
        core.handle(Event::Ensured(key.into(), Held::Ours));
    }
    core.handle(Event::Failed);
    assert_eq!(core.handle(Event::Renewed(Renewed::Kept)), [Effect::Revoke(1)]);
    assert_eq!(core.handle(Event::Revoked(1)), []);
    assert_eq!(core.handle(Event::Renewed(Renewed::Kept)), []);
}

#[test]
fn what_could_not_be_put_is_put_at_the_next_renewal() {
    let mut core = core_with_keys();
    core.handle(Event::Hold(hold("c", By::Put)));
    core.handle(Event::Failed);
    assert!(core.due_after() < Duration::from_secs(1), "it is tried again soon");
    assert_eq!(core.handle(Event::Due), [Effect::Renew(1)]);
    let wanted = [ensure(1, "c", By::Put)];
    assert_eq!(core.handle(Event::Renewed(Renewed::Kept)), wanted);
    assert_eq!(core.due_after(), Duration::from_secs(3));
}

#[test]
fn a_key_that_the_store_refuses_is_not_tried_for_ever() {
    let mut core = core_with_keys();
    core.handle(Event::Hold(hold("huge", By::Put)));
    core.handle(Event::Refused("huge".into()));
    assert_eq!(core.handle(Event::Renewed(Renewed::Kept)), []);
}

#[test]
fn a_key_whose_deletion_failed_is_deleted_at_the_next_renewal_and_never_put() {
    let mut core = core_with_keys();
    let release = Effect::Release(1, "a".into());
    assert_eq!(core.handle(Event::Delete("a".into())), std::slice::from_ref(&release));
    core.handle(Event::Failed);
    assert_eq!(core.handle(Event::Renewed(Renewed::Kept)), [release]);
    core.handle(Event::Released("a".into(), Released::Done));
    assert_eq!(core.handle(Event::Renewed(Renewed::Kept)), []);
    core.handle(Event::Renewed(Renewed::Lost));
    core.handle(Event::Granted(2));
    assert_eq!(core.handle(Event::Opened(life("two"))), [ensure(2, "b", By::Claim)]);
}

#[test]
fn a_revoked_lease_owns_nothing() {
    let mut core = core_with_keys();
    assert_eq!(core.handle(Event::Revoke), [Effect::Revoke(1)]);
    assert!(core.held().is_empty() && core.lease.is_none());
}
