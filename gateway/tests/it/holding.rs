//! Requests for a service that has no endpoint right now, and a gateway that goes by what it last
//! knew.

use std::time::Duration;

use serde_json::{Value, json};
use troupe_gateway::GatewayConfig;
use troupe_runtime::{
    discovery::{
        Op, Registry,
        directory::{
            Condition, ConditionStatus, DemandRecord, ServiceStatus, from_bytes, to_bytes,
        },
    },
    spec::service::KIND,
};

use crate::support::{MODEL, PATIENCE, Stage, leader::says, stage, stage_with, surroundings};

const HELD: &str = "troupe:gateway_held_requests{service=\"default/tiny\"}";

/// A gateway without a leader, of a cluster where the model is declared.
async fn declared(adjust: impl FnOnce(&mut GatewayConfig)) -> Stage {
    let stage = stage_with(vec![], adjust).await;
    stage.write(Op::Put(key(&stage), spec(json!({})))).await;
    stage
}

fn key(stage: &Stage) -> String {
    stage.keys.spec(KIND, "default", "tiny")
}

fn spec(more: Value) -> Vec<u8> {
    let mut spec = json!({"model": {"uri": "file:///tiny", "name": MODEL}});
    for (name, value) in more.as_object().unwrap() {
        spec[name] = value.clone();
    }
    json!({
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": KIND,
        "metadata": {"name": "tiny", "namespace": "default", "generation": 1},
        "spec": spec,
    })
    .to_string()
    .into_bytes()
}

fn completion() -> Value {
    json!({"model": MODEL, "prompt": "x", "max_tokens": 20})
}

async fn until_held(stage: &Stage, count: u32) {
    stage.until(|metrics| metrics.contains(&format!("{HELD} {count}"))).await;
}

/// The demand that the store has, once it is as it should be.
async fn until_demand(stage: &Stage, wanted: &[u32]) {
    let told = async {
        loop {
            let entries = stage.registry.list(&stage.keys.all_demand()).await.unwrap();
            let held = entries.iter().map(|entry| {
                assert!(
                    entry.key.starts_with(&format!("{}default/tiny/", stage.keys.all_demand()))
                );
                from_bytes::<DemandRecord>(&entry.key, &entry.value).unwrap().held
            });
            if held.collect::<Vec<_>>() == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("it is told");
}

#[tokio::test]
async fn a_request_waits_for_the_first_endpoint_and_the_controller_hears_of_it() {
    let stage = declared(|_| {}).await;
    let asked = async { stage.post("/v1/completions", completion()).await.ok() };
    let streamed = async { stage.events("/v1/completions", completion()).await };
    let comes_up = async {
        until_held(&stage, 2).await;
        until_demand(&stage, &[2]).await;
        let leader = stage.leader(0, says("at last"));
        stage.publish(&leader).await;
        leader
    };
    let (answer, events, _leader) = tokio::join!(asked, streamed, comes_up);
    assert_eq!(answer["choices"][0]["text"], "at last");
    assert!(!events.is_empty());
    until_held(&stage, 0).await;
    until_demand(&stage, &[]).await;
    let metrics = stage.get("/metrics").await.text;
    assert!(
        metrics
            .contains("troupe:gateway_holds_total{service=\"default/tiny\",outcome=\"placed\"} 2")
    );
}

#[tokio::test]
async fn who_waits_in_vain_is_told_to_try_again() {
    let stage = declared(|config| config.hold_timeout = Duration::from_millis(50)).await;
    let reply = stage.post("/v1/completions", completion()).await;
    let (status, _, message, _) = reply.error();
    assert_eq!((status, reply.header("retry-after")), (503, "1"), "{message}");
    assert!(message.contains("became ready within"), "{message}");
    until_held(&stage, 0).await;
}

#[tokio::test]
async fn only_what_is_declared_and_may_come_up_is_waited_for() {
    let stage = declared(|_| {}).await;
    // Its name is known once a request for it is held.
    let client = tokio::net::TcpStream::connect(stage.gateway.address()).await.unwrap();
    ask_and_wait(&stage, &client).await;
    let body = json!({"model": "nobody", "prompt": "x"});
    let (status, _, message, _) = stage.post("/v1/completions", body).await.error();
    assert_eq!(status, 404, "{message}");
    assert!(message.contains(MODEL), "it says what there is: {message}");

    // A client that is gone waits no longer.
    drop(client);
    until_held(&stage, 0).await;

    // Given up by the controller while somebody waits: told at once.
    let failed = Condition {
        kind: "Failed".into(),
        status: ConditionStatus::True,
        reason: "RestartBudget".into(),
        message: "it exits at once".into(),
        last_transition: 1,
    };
    let status = ServiceStatus { conditions: vec![failed], ..ServiceStatus::default() };
    let fails = async {
        until_held(&stage, 1).await;
        let key = stage.keys.service_status("default", "tiny");
        stage.write(Op::Put(key, to_bytes(status))).await;
    };
    let (reply, ()) = tokio::join!(stage.post("/v1/completions", completion()), fails);
    let (code, _, message, _) = reply.error();
    assert_eq!(code, 503);
    assert!(message.contains("it exits at once"), "{message}");
    stage.write(Op::Delete(stage.keys.service_status("default", "tiny"))).await;

    // Deleted while somebody waits.
    let gone = async {
        until_held(&stage, 1).await;
        stage.write(Op::Delete(key(&stage))).await;
    };
    let (reply, ()) = tokio::join!(stage.post("/v1/completions", completion()), gone);
    assert_eq!(reply.status, 503, "{}", reply.text);
    until_held(&stage, 0).await;
}

/// Sends a request by hand, and waits until it is held.
async fn ask_and_wait(stage: &Stage, client: &tokio::net::TcpStream) {
    let body = completion().to_string();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.writable().await.unwrap();
    assert_eq!(client.try_write(head.as_bytes()).unwrap(), head.len());
    until_held(stage, 1).await;
}

#[tokio::test]
async fn no_more_wait_than_there_is_room_for() {
    let stage = declared(|config| config.max_held_requests = 1).await;
    let client = tokio::net::TcpStream::connect(stage.gateway.address()).await.unwrap();
    ask_and_wait(&stage, &client).await;
    let reply = stage.post("/v1/completions", completion()).await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, "1"), "{}", reply.text);
}

#[tokio::test]
async fn a_service_that_comes_up_on_demand_is_healthy_without_an_endpoint() {
    let stage = declared(|_| {}).await;
    assert_eq!(stage.status("/health").await, 503);
    stage
        .write(Op::Put(key(&stage), spec(json!({"scaling": {"minReplicas": 0, "maxReplicas": 2}}))))
        .await;
    let healthy = async { while stage.status("/health").await != 200 {} };
    tokio::time::timeout(PATIENCE, healthy).await.expect("it may be asked");
}

#[tokio::test]
async fn a_store_that_lost_everything_takes_no_endpoint_away() {
    let stage = stage(says("still here")).await;
    stage.registry.wipe();
    // Told after what the wipe has deleted: once it is there, both are.
    let another = stage.leader(1, says("still here"));
    stage.publish(&another).await;
    let engines = |metrics: &str| metrics.matches("vllm:num_requests_running{").count();
    stage.until(|metrics| engines(metrics) == 2).await;
    let answer = stage.post("/v1/completions", completion()).await.ok();
    assert_eq!(answer["choices"][0]["text"], "still here");
}

#[tokio::test]
async fn a_gateway_that_starts_without_the_store_goes_by_what_it_last_knew() {
    let dir = tempfile::tempdir().unwrap();
    let with_dir = |config: &mut GatewayConfig| config.data_dir = Some(dir.path().to_owned());
    let mut stage = stage_with(vec![says("as before")], with_dir).await;
    let file = dir.path().join("endpoints.json");
    let kept = async {
        while !std::fs::read_to_string(&file).is_ok_and(|text| text.contains(MODEL)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, kept).await.expect("it is kept");

    let cut = stage.registry.connect();
    let mut around = surroundings(stage.network(), &cut, &stage.registry).await;
    let alone = stage.registry.connect();
    alone.set_reachable(false);
    around.registry = std::sync::Arc::new(alone);
    let mut config = GatewayConfig::new(([127, 0, 0, 1], 0).into());
    with_dir(&mut config);
    stage.restart(config, around).await;
    let healthy = async { while stage.status("/health").await != 200 {} };
    tokio::time::timeout(PATIENCE, healthy).await.expect("it finds the leader");
    let answer = stage.post("/v1/completions", completion()).await.ok();
    assert_eq!(answer["choices"][0]["text"], "as before");
}
