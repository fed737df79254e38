//! Who is let in, and what the others are told.

use uuid::Uuid;

use super::*;

const NOW_MS: u64 = 10_000_000;

fn id(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn token() -> TokenRecord {
    TokenRecord {
        id: "abc".into(),
        kind: TokenKind::Node,
        hash: digest("secret"),
        operator: false,
        created: 9_000,
        created_by: "somebody".into(),
        expires: 12_000,
        uses: 1,
        used: Vec::new(),
        revoked: None,
    }
}

fn newcomer(key: &str) -> Newcomer {
    Newcomer {
        token: "abc".into(),
        secret: digest("secret"),
        part: JoinPart::Host,
        name: "host-b".into(),
        key: digest(key),
        former: None,
        fresh: id(1),
        wire: wire::VERSION,
        now_ms: NOW_MS,
    }
}

fn refused(record: &TokenRecord, newcomer: &Newcomer) -> String {
    admit(Some(record), newcomer, NOW_MS).expect_err("it is refused")
}

#[test]
fn a_token_is_used_once_and_its_user_may_ask_again() {
    let first = admit(Some(&token()), &newcomer("k"), NOW_MS).expect("it is let in");
    assert_eq!((first.id, first.role, first.operator), (id(1), PeerRole::Node, false));
    let used = first.record.expect("a use is written");
    assert_eq!(used.used[0].name, "host-b");

    let again = Newcomer { fresh: id(2), ..newcomer("k") };
    let again = admit(Some(&used), &again, NOW_MS).expect("the answer was lost");
    assert_eq!((again.id, again.record), (id(1), None));

    let error = admit(Some(&used), &newcomer("other"), NOW_MS + 120_000).expect_err("a second use");
    assert!(error.contains("has been used by host-b 2 min ago"), "{error}");
    assert!(error.contains("troupe token create"), "{error}");
    let two = TokenRecord { uses: 2, ..used };
    assert!(admit(Some(&two), &newcomer("other"), NOW_MS).is_ok());
}

#[test]
fn kind_and_part_decide_the_role() {
    for (kind, part, role) in [
        (TokenKind::Node, JoinPart::Host, PeerRole::Node),
        (TokenKind::Control, JoinPart::Host, PeerRole::Control),
        (TokenKind::Node, JoinPart::Gateway, PeerRole::Gateway),
        (TokenKind::Control, JoinPart::Gateway, PeerRole::Gateway),
    ] {
        let record = TokenRecord { kind, operator: true, ..token() };
        let newcomer = Newcomer { part, ..newcomer("k") };
        let admission = admit(Some(&record), &newcomer, NOW_MS).expect("it is let in");
        assert_eq!((admission.role, admission.operator), (role, true), "{kind} {part:?}");
    }
}

#[test]
fn who_was_here_before_keeps_its_id() {
    let back = Newcomer { former: Some(id(7)), ..newcomer("k") };
    let admission = admit(Some(&token()), &back, NOW_MS).expect("it is let in");
    assert_eq!(admission.id, id(7));
    assert_eq!(admission.record.expect("a use").used[0].id, id(7));
}

#[test]
fn a_wrong_secret_is_no_token_at_all() {
    let guess = Newcomer { secret: digest("guess"), ..newcomer("k") };
    let none = admit(None, &newcomer("k"), NOW_MS).expect_err("there is none");
    assert_eq!(refused(&token(), &guess), none);
    // Not even that it was revoked is told.
    assert_eq!(refused(&TokenRecord { revoked: Some(1), ..token() }, &guess), none);
}

#[test]
fn what_is_over_says_since_when() {
    let error = refused(&TokenRecord { expires: 9_940, ..token() }, &newcomer("k"));
    assert!(error.contains("abc expired 60 s ago"), "{error}");
    let error = refused(&TokenRecord { revoked: Some(9_990), ..token() }, &newcomer("k"));
    assert!(error.contains("abc was revoked 10 s ago"), "{error}");
}

#[test]
fn a_wrong_clock_is_told_by_how_much() {
    for (theirs, words) in [
        (NOW_MS - 7_200_000, "2 h behind the control host's"),
        (NOW_MS + 2 * 86_400_000, "2 days ahead of the control host's"),
    ] {
        let error = refused(&token(), &Newcomer { now_ms: theirs, ..newcomer("k") });
        assert!(error.contains(words), "{error}");
    }
    let little = Newcomer { now_ms: NOW_MS + 200_000, ..newcomer("k") };
    assert!(admit(Some(&token()), &little, NOW_MS).is_ok());
}

#[test]
fn versions_may_be_one_apart() {
    let next = Newcomer { wire: wire::VERSION + 1, ..newcomer("k") };
    assert!(admit(Some(&token()), &next, NOW_MS).is_ok());
    let error = refused(&token(), &Newcomer { wire: wire::VERSION + 2, ..newcomer("k") });
    assert!(error.contains("Upgrade the cluster first"), "{error}");
}

#[test]
fn a_name_is_one_word() {
    for name in ["", "a b", "a/b", "a\n", &"x".repeat(129)] {
        let error = refused(&token(), &Newcomer { name: name.into(), ..newcomer("k") });
        assert!(error.contains("--name"), "{name}: {error}");
    }
}
