//! How far a rollout is, from what the controller says of the service.

use serde_json::Value;

use super::columns::at;

/// How far a rollout is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It goes on; how far it is, for people.
    Waiting(String),
    /// Every group is of the newest revision and serves.
    Done,
    /// It will not end by itself; why.
    Failed(String),
}

/// How far a service's rollout is.
pub(crate) fn progress(service: &Value) -> Progress {
    let count = |pointer: &str| service.pointer(pointer).and_then(Value::as_u64);
    let status = |field: &str| count(&format!("/status/{field}")).unwrap_or_default();
    let name = at(service, "/metadata/name");
    let waiting = |what: String| {
        Progress::Waiting(format!("Waiting for llminferenceservice \"{name}\" rollout: {what}..."))
    };
    let generation = count("/metadata/generation").unwrap_or_default();
    // Generation 0: a controller that does not say what it is talking about.
    if service.get("status").is_none() || (1..generation).contains(&status("observedGeneration")) {
        return waiting("the new specification is yet to be observed".into());
    }
    if let Some(failed) = condition(service, "Failed") {
        return Progress::Failed(failed);
    }
    let (wanted, updated, ready) =
        (status("replicas"), status("updatedReplicas"), status("readyReplicas"));
    if updated < wanted {
        return waiting(format!("{updated} out of {wanted} new groups have been updated"));
    }
    let groups = service.pointer("/status/groups").and_then(Value::as_array).map_or(0, Vec::len);
    if groups as u64 > wanted {
        let old = groups as u64 - wanted;
        return waiting(format!("{old} old groups are pending termination"));
    }
    if ready < wanted {
        let message = at(service, "/status/message");
        let why = if message.is_empty() { message } else { format!(" ({message})") };
        return waiting(format!("{ready} of {wanted} updated groups are ready{why}"));
    }
    Progress::Done
}

/// Why a condition holds; none if it does not.
fn condition(service: &Value, kind: &str) -> Option<String> {
    let conditions = service.pointer("/status/conditions")?.as_array()?;
    let condition = conditions
        .iter()
        .find(|condition| at(condition, "/type") == kind && at(condition, "/status") == "True")?;
    Some(format!("{}: {}", at(condition, "/reason"), at(condition, "/message")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(status: Value) -> Value {
        json!({"metadata": {"name": "s", "generation": 3}, "status": status})
    }

    fn waits(status: Value) -> String {
        match progress(&service(status)) {
            Progress::Waiting(what) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_waits_for_what_is_missing_next() {
        let unseen = progress(&json!({"metadata": {"name": "s", "generation": 3}}));
        assert!(matches!(unseen, Progress::Waiting(what) if what.contains("yet to be observed")));
        let old = waits(json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2}));
        assert!(old.contains("yet to be observed"), "{old}");
        let some = waits(json!({"observedGeneration": 3, "replicas": 3, "updatedReplicas": 1}));
        assert_eq!(
            some,
            "Waiting for llminferenceservice \"s\" rollout: 1 out of 3 new groups have been \
             updated..."
        );
        let surge = json!({
            "observedGeneration": 3, "replicas": 1, "updatedReplicas": 1, "groups": [{}, {}],
        });
        assert!(waits(surge).contains("1 old groups are pending termination"));
        let full = json!({
            "observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 1,
            "message": "no devices",
        });
        assert!(waits(full).contains("1 of 2 updated groups are ready (no devices)"));
    }

    #[test]
    fn it_ends_when_all_are_ready_or_it_failed() {
        let done = json!({
            "observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2,
        });
        assert_eq!(progress(&service(done)), Progress::Done);
        let condition = json!({
            "type": "Failed", "status": "True", "reason": "BackOff", "message": "5 times",
        });
        let failed = json!({"observedGeneration": 3, "replicas": 1, "conditions": [condition]});
        assert_eq!(progress(&service(failed)), Progress::Failed("BackOff: 5 times".into()));
    }
}
