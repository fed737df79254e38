//! Who goes first when a model's endpoints are full, who is turned away, and with what words.

use std::{sync::Arc, time::Duration};

use futures_util::future::join;
use serde_json::{Value, json};
use tokio::sync::Notify;
use troupe_gateway::{GatewayConfig, Tenant};
use troupe_runtime::{discovery::Op, spec::Kind, wire::generate::Generate};

use crate::support::{
    MODEL, Script, Stage,
    leader::{Act, says},
    stage_with,
};

const PATH: &str = "/v1/completions";
/// What the one leader runs at a time, and one more that its queue may have.
const ROOM: usize = 9;

/// Holds every request until the test lets one of them go on.
fn held(go: &Arc<Notify>) -> Script {
    let (go, then) = (Arc::clone(go), says("ok"));
    Arc::new(move |generate| {
        let mut acts = vec![Act::Wait(Arc::clone(&go))];
        acts.extend(then(generate));
        acts
    })
}

/// A gateway with tenants and one leader that is full with nine requests.
async fn full(go: &Arc<Notify>, adjust: impl FnOnce(&mut GatewayConfig)) -> Stage {
    let tenants = json!({"tenants": [
        {"name": "acme", "apiKeys": ["acme-key"], "maxPriority": 5},
        {"name": "other", "apiKeys": ["other-key"]},
    ]});
    let stage = stage_with(vec![held(go)], |config| {
        config.tenants = Tenant::read(tenants).expect("good tenants");
        config.flow.queue_depth_threshold = 1.0;
        adjust(config);
    })
    .await;
    for (name, priority) in [("urgent", 9), ("batch", -1)] {
        let spec = json!({"priority": priority, "poolRef": {"name": "p"}});
        stage.declare(Kind::InferenceObjective, name, spec).await;
    }
    stage
}

/// Asks as whoever has this key, and names an objective.
async fn ask(stage: &Stage, key: &str, objective: &str, tag: &str) -> crate::support::Reply {
    let key = format!("Bearer {key}");
    let headers = [
        ("authorization", key.as_str()),
        ("content-type", "application/json"),
        ("x-llm-d-inference-objective", objective),
        // Who is authenticated is who he proves to be, and not this.
        ("x-llm-d-inference-fairness-id", "somebody-else"),
    ];
    let body: Value = json!({"model": MODEL, "prompt": tag, "max_tokens": 4});
    stage.send("POST", PATH, &headers, &body.to_string()).await
}

async fn until_waiting(stage: &Stage, count: usize) {
    let size = "inference_extension_flow_control_queue_size{model_name=\"tiny\"}";
    stage.until(|metrics| metrics.contains(&format!("{size} {count}"))).await;
}

/// Fills the leader and returns what it was asked.
async fn fill(stage: &Stage) -> Vec<Generate> {
    let mut asked = Vec::new();
    for _ in 0..ROOM {
        asked.push(stage.leaders[0].started().await);
    }
    asked
}

#[tokio::test]
async fn tenants_share_and_an_urgent_request_goes_before_all() {
    let go = Arc::new(Notify::new());
    let stage = full(&go, |config| config.flow.priority_holdback = 0.0).await;
    let acme = futures_util::future::join_all(
        (0..ROOM + 2).map(|_| ask(&stage, "acme-key", "none", "acme")),
    );
    let others = async {
        fill(&stage).await;
        until_waiting(&stage, 2).await;
        let later = async {
            until_waiting(&stage, 4).await;
            let mut order = Vec::new();
            for at in 0..4 {
                // While somebody more important is about, nobody else is sent to wait there.
                for _ in 0..if at == 1 { 2 } else { 1 } {
                    go.notify_one();
                }
                let next = stage.leaders[0].started().await;
                order.push((next.tenant.clone(), next.priority));
            }
            for _ in 0..ROOM - 1 {
                go.notify_one();
            }
            order
        };
        let other = ask(&stage, "other-key", "none", "other");
        let urgent = async {
            until_waiting(&stage, 3).await;
            ask(&stage, "acme-key", "urgent", "urgent").await
        };
        let ((other, urgent), order) = join(join(other, urgent), later).await;
        assert_eq!((other.status, urgent.status), (200, 200));
        order
    };
    let (acme, order) = join(acme, others).await;
    assert!(acme.iter().all(|reply| reply.status == 200));
    let said: Vec<(&str, i32)> = order.iter().map(|(name, rank)| (name.as_str(), *rank)).collect();
    // The objective says 9, of which this tenant may claim 5; leaders count the other way round.
    // Then who was given less so far.
    assert_eq!(said, [("acme", -5), ("other", 0), ("acme", 0), ("acme", 0)]);
}

#[tokio::test]
async fn what_may_be_shed_is_and_what_finds_no_place_is_told_when_to_come_back() {
    let go = Arc::new(Notify::new());
    let stage = full(&go, |config| config.flow.max_requests = 1).await;
    let first = futures_util::future::join_all(
        (0..ROOM + 1).map(|_| ask(&stage, "acme-key", "none", "first")),
    );
    let then = async {
        fill(&stage).await;
        until_waiting(&stage, 1).await;
        for (objective, reason) in [("batch", "RejectedSaturated"), ("none", "RejectedCapacity")] {
            let reply = ask(&stage, "acme-key", objective, "late").await;
            let wait: u32 = reply.header("retry-after").parse().expect("whole seconds");
            assert!(wait >= 1);
            assert_eq!(reply.header("x-llm-d-request-dropped-reason"), reason);
            let (status, kind, message, _) = reply.error();
            assert_eq!((status, kind.as_str()), (429, "RateLimitError"));
            assert!(message.contains("saturated"), "{message}");
        }
        for _ in 0..=ROOM {
            go.notify_one();
        }
    };
    let (first, ()) = join(first, then).await;
    assert!(first.iter().all(|reply| reply.status == 200), "nobody else was disturbed");
    let metrics = stage.get("/metrics").await.text;
    let counted = |outcome: &str, count: u32| {
        metrics.lines().any(|line| {
            line.starts_with(
                "inference_extension_flow_control_request_queue_duration_seconds_count",
            ) && line.contains(&format!("outcome=\"{outcome}\""))
                && line.ends_with(&format!(" {count}"))
        })
    };
    assert!(counted("Dispatched", 10) && counted("RejectedCapacity", 1), "{metrics}");
}

#[tokio::test]
async fn nobody_waits_longer_than_he_may_and_who_leaves_makes_room() {
    let go = Arc::new(Notify::new());
    let stage = full(&go, |config| config.flow.ttl = Some(Duration::from_millis(300))).await;
    let first =
        futures_util::future::join_all((0..ROOM).map(|_| ask(&stage, "acme-key", "none", "first")));
    let then = async {
        fill(&stage).await;
        // One whose client is gone, and one that waits too long.
        let gone = ask(&stage, "acme-key", "none", "gone");
        let until = until_waiting(&stage, 1);
        futures_util::future::select(Box::pin(gone), Box::pin(until)).await;
        until_waiting(&stage, 0).await;
        let late = ask(&stage, "other-key", "none", "late").await;
        assert_eq!(late.header("x-llm-d-request-dropped-reason"), "EvictedTTL");
        assert_eq!(late.status, 503);
        for _ in 0..ROOM {
            go.notify_one();
        }
    };
    let (first, ()) = join(first, then).await;
    assert!(first.iter().all(|reply| reply.status == 200));
}

#[tokio::test]
async fn without_flow_control_leaders_decide() {
    let go = Arc::new(Notify::new());
    let stage = full(&go, |config| config.flow.enabled = false).await;
    let all = futures_util::future::join_all(
        (0..ROOM + 3).map(|_| ask(&stage, "acme-key", "batch", "all")),
    );
    let then = async {
        for _ in 0..ROOM + 3 {
            stage.leaders[0].started().await;
        }
        for _ in 0..ROOM + 3 {
            go.notify_one();
        }
    };
    let (all, ()) = join(all, then).await;
    assert!(all.iter().all(|reply| reply.status == 200));
}

impl Stage {
    /// Declares an object in the namespace `default`.
    pub(crate) async fn declare(&self, kind: Kind, name: &str, spec: Value) {
        let document = json!({
            "apiVersion": kind.api_versions()[0],
            "kind": kind.name(),
            "metadata": {"name": name, "namespace": "default", "generation": 1},
            "spec": spec,
        });
        let key = self.keys.spec(kind.name(), "default", name);
        self.write(Op::Put(key, document.to_string().into_bytes())).await;
    }
}
