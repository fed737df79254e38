//! What each change makes of an object, and what it refuses.

use troupe_runtime::wire::operate::ObjectName;

use super::*;

const ABOUT: About<'static> = About { resource: Resource::SERVICE, name: "s" };
const STAMP: Stamp = Stamp { uid: Uuid::nil(), now: 1_770_091_506 };

fn file(spec: Value) -> Value {
    json!({
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "LLMInferenceService",
        "metadata": {"name": "s", "namespace": "default"},
        "spec": spec,
    })
}

/// The object after a change that was written.
fn written(decision: Decision) -> (Stored, Outcome) {
    let verdict = decision.expect("it is done");
    let outcome = match &verdict {
        Verdict::Write(_, outcome) => *outcome,
        Verdict::Bury(..) => Outcome::Deleted,
        Verdict::Keep(_) => panic!("nothing changed"),
    };
    let stored = Stored::of(&verdict.value().expect("a value")).expect("it can be read");
    (stored, outcome)
}

fn applied(stored: Option<&Stored>, given: &Value) -> Decision {
    apply(ABOUT, stored, given, ApplyHow::Apply, STAMP)
}

fn created(spec: Value) -> Stored {
    written(applied(None, &file(spec))).0
}

fn scaled(
    stored: &Stored,
    replicas: u32,
    expected: Option<u32>,
    version: Option<&str>,
) -> Decision {
    let object = ObjectName::new("LLMInferenceService", "default", "s");
    let resource_version = version.map(str::to_owned);
    scale(ABOUT, Some(stored), &Scale { object, replicas, expected, resource_version })
}

fn refused(decision: Decision) -> Refusal {
    decision.expect_err("it is refused")
}

#[test]
fn an_object_is_created_configured_and_left_alone() {
    let (stored, outcome) = written(applied(None, &file(json!({"replicas": 1, "x": null}))));
    assert_eq!((outcome, stored.generation), (Outcome::Created, 1));
    let document = stored.document.as_ref().expect("it lives");
    assert_eq!(document["metadata"]["creationTimestamp"], "2026-02-03T04:05:06Z");
    assert_eq!(document["spec"], json!({"replicas": 1}));

    let same = applied(Some(&stored), &file(json!({"replicas": 1})));
    assert!(matches!(same, Ok(Verdict::Keep(_))), "{same:?}");

    let (next, outcome) = written(applied(Some(&stored), &file(json!({"replicas": 2}))));
    assert_eq!((outcome, next.generation), (Outcome::Configured, 2));
    let (before, after) = (document, next.document.expect("it lives"));
    for kept in ["uid", "creationTimestamp", "name"] {
        assert_eq!(after["metadata"][kept], before["metadata"][kept], "{kept}");
    }
}

#[test]
fn what_was_read_can_be_applied_as_it_is() {
    let stored = created(json!({"replicas": 1, "model": {"uri": "u"}}));
    let mut shown = stored.document.clone().expect("it lives");
    shown["metadata"]["resourceVersion"] = json!("1");
    shown["status"] = json!({"replicas": 1});
    let again = applied(Some(&stored), &shown);
    assert!(matches!(again, Ok(Verdict::Keep(_))), "{again:?}");
}

#[test]
fn replicas_that_the_file_does_not_have_are_kept_and_others_go() {
    let stored = created(json!({"model": {"uri": "u", "name": "n"}}));
    let (stored, _) = written(scaled(&stored, 4, None, None));
    let (stored, _) = written(applied(Some(&stored), &file(json!({"model": {"uri": "v"}}))));
    let document = stored.document.expect("it lives");
    assert_eq!(document["spec"], json!({"model": {"uri": "v"}, "replicas": 4}));
}

#[test]
fn a_version_that_is_not_the_newest_is_refused() {
    let stored = created(json!({"replicas": 1}));
    let mut stale = file(json!({"replicas": 2}));
    stale["metadata"]["resourceVersion"] = json!("7");
    let refusal = refused(applied(Some(&stored), &stale));
    assert_eq!(refusal.reason, Reason::Conflict);
    assert!(refusal.message.contains("the object has been modified"), "{}", refusal.message);
    let refusal = refused(scaled(&stored, 2, None, Some("7")));
    assert_eq!(refusal.reason, Reason::Conflict);
    let refusal = refused(applied(None, &stale));
    assert!(refusal.message.contains("metadata.resourceVersion"), "{}", refusal.message);

    stale["metadata"]["resourceVersion"] = json!("1");
    assert_eq!(written(applied(Some(&stored), &stale)).0.generation, 2);
}

#[test]
fn creating_what_is_there_is_refused_and_what_was_deleted_goes_on_counting() {
    let stored = created(json!({"replicas": 1}));
    let again = apply(ABOUT, Some(&stored), &file(json!({})), ApplyHow::Create, STAMP);
    let refusal = refused(again);
    assert_eq!(refusal.reason, Reason::AlreadyExists);
    assert!(refusal.message.ends_with("\"s\" already exists"), "{}", refusal.message);

    let (gone, outcome) = written(delete(ABOUT, Some(&stored)));
    assert_eq!((outcome, gone.generation, &gone.document), (Outcome::Deleted, 2, &None));
    assert_eq!(refused(delete(ABOUT, Some(&gone))).reason, Reason::NotFound);
    assert_eq!(refused(delete(ABOUT, None)).reason, Reason::NotFound);
    let again = apply(ABOUT, Some(&gone), &file(json!({})), ApplyHow::Create, STAMP);
    let (back, outcome) = written(again);
    assert_eq!((outcome, back.generation), (Outcome::Created, 3));
}

#[test]
fn scale_changes_replicas_if_they_are_as_expected() {
    let stored = created(json!({}));
    let refusal = refused(scaled(&stored, 3, Some(2), None));
    assert_eq!(refusal.message, "Expected replicas to be 2, was 1");
    let (stored, _) = written(scaled(&stored, 3, Some(1), Some("1")));
    assert_eq!(stored.document.as_ref().expect("it lives")["spec"]["replicas"], 3);
    let same = scaled(&stored, 3, None, None);
    assert!(matches!(same, Ok(Verdict::Keep(_))), "{same:?}");
    let by_load = created(json!({"scaling": {"minReplicas": 0, "maxReplicas": 4}}));
    let refusal = refused(scaled(&by_load, 3, None, None));
    assert!(refusal.message.contains("follows its load, with 0 to 4 replicas"), "{refusal:?}");
}

#[test]
fn labels_are_set_and_removed_and_not_overwritten_unasked() {
    let change = |set: &[(&str, &str)], remove: &[&str], overwrite| Label {
        object: ObjectName::new("LLMInferenceService", "default", "s"),
        set: set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        remove: remove.iter().map(|key| (*key).to_owned()).collect(),
        overwrite,
    };
    let stored = created(json!({}));
    let both = change(&[("team", "a"), ("tier", "x")], &[], false);
    let (stored, _) = written(label(ABOUT, Some(&stored), &both));
    let refusal = refused(label(ABOUT, Some(&stored), &change(&[("team", "b")], &[], false)));
    assert_eq!(refusal.message, "'team' already has a value (a), and --overwrite is false");
    let other = change(&[("team", "b")], &["tier"], true);
    let (stored, _) = written(label(ABOUT, Some(&stored), &other));
    let labels = &stored.document.as_ref().expect("it lives")["metadata"]["labels"];
    assert_eq!(*labels, json!({"team": "b"}));
    let nonsense = label(ABOUT, Some(&stored), &change(&[("a b", "c")], &[], false));
    assert_eq!(refused(nonsense).reason, Reason::BadRequest);
}

#[test]
fn undo_brings_a_revision_back_without_its_replicas() {
    let stored = created(json!({"model": {"uri": "new"}, "replicas": 5}));
    let revision = json!({
        "metadata": {"annotations": {CHANGE_CAUSE: "the first"}},
        "spec": {"model": {"uri": "old"}, "replicas": 1, "scaling": {}},
    });
    let (stored, _) = written(undo(ABOUT, Some(&stored), &revision));
    let document = stored.document.expect("it lives");
    assert_eq!(document["spec"], json!({"model": {"uri": "old"}, "replicas": 5}));
    assert_eq!(document["metadata"]["annotations"][CHANGE_CAUSE], "the first");
    assert_eq!(document["metadata"]["generation"], 2);
}

#[test]
fn restart_says_when() {
    let stored = created(json!({}));
    let (stored, _) = written(restart(ABOUT, Some(&stored), STAMP.now + 1));
    let annotations = &stored.document.expect("it lives")["metadata"]["annotations"];
    assert_eq!(annotations[RESTARTED_AT], "2026-02-03T04:05:07Z");
}

#[test]
fn an_object_that_is_large_already_is_stored_without_what_was_applied() {
    let long = "x".repeat(MAX_OBJECT / 2);
    let stored = created(json!({"model": {"uri": long}}));
    let document = stored.document.expect("it lives");
    assert_eq!(merge::last_applied(&document), None);
    assert!(document.to_string().len() <= MAX_OBJECT);
}
