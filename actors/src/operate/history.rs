//! Which revision to go back to.

use serde_json::{Map, Value};
use troupe_runtime::{
    discovery::directory::RevisionRecord,
    wire::operate::{Reason, Refusal},
};

use super::change::About;

/// The revision of this number; without one, the newest that says something else than the service
/// does now. So going back twice is where one began, however revisions are numbered.
pub(super) fn pick<'a>(
    revisions: &'a [RevisionRecord],
    live: &Value,
    to: Option<u64>,
    about: About<'_>,
) -> Result<&'a RevisionRecord, Refusal> {
    let not_found = |message: String| Refusal::new(Reason::NotFound, message);
    match to {
        Some(number) => {
            let found = revisions.iter().find(|revision| revision.number == number);
            found.ok_or_else(|| {
                let mut numbers: Vec<u64> =
                    revisions.iter().map(|revision| revision.number).collect();
                numbers.sort_unstable();
                let there: Vec<String> = numbers.iter().map(u64::to_string).collect();
                not_found(format!(
                    "unable to find specified revision {number} in history of {}; there are: {}",
                    about.quoted(),
                    there.join(", ")
                ))
            })
        }
        None => {
            let now = template(live);
            let others = revisions.iter().filter(|other| template(&other.document) != now);
            others.max_by_key(|revision| revision.number).ok_or_else(|| {
                not_found(format!("no rollout history found for {}", about.quoted()))
            })
        }
    }
}

/// What of a specification a revision is about: not how many replicas there are.
fn template(document: &Value) -> Map<String, Value> {
    let spec = document.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
    let capacity = |key: &str| ["replicas", "scaling"].contains(&key);
    spec.into_iter().filter(|(key, _)| !capacity(key)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use troupe_runtime::spec::EngineFlags;

    use super::{super::resource::Resource, *};
    use crate::controller::desired::launch;

    const ABOUT: About<'static> = About { resource: Resource::SERVICE, name: "s" };

    fn revision(number: u64, uri: &str) -> RevisionRecord {
        RevisionRecord {
            number,
            document: json!({"spec": {"model": {"uri": uri}, "replicas": 1}}),
            launch: launch(uri.into(), "m".into(), EngineFlags::default()),
            wishes: Value::Null,
            created: 0,
            cause: None,
        }
    }

    #[test]
    fn without_a_number_it_is_the_newest_that_differs() {
        let revisions = [revision(1, "a"), revision(2, "b"), revision(3, "c")];
        let live = |uri: &str| json!({"spec": {"model": {"uri": uri}, "replicas": 9}});
        let picked = |uri: &str, to| pick(&revisions, &live(uri), to, ABOUT).map(|it| it.number);
        assert_eq!(picked("c", None).expect("one"), 2);
        assert_eq!(picked("b", None).expect("one"), 3);
        assert_eq!(picked("c", Some(1)).expect("one"), 1);
        let refusal = picked("c", Some(7)).expect_err("none");
        assert!(refusal.message.contains("there are: 1, 2, 3"), "{}", refusal.message);
        let none = pick(&revisions[..1], &live("a"), None, ABOUT).expect_err("none");
        assert!(none.message.contains("no rollout history"), "{}", none.message);
    }
}
