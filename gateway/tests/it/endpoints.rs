//! What happens when leaders refuse, fail, break the protocol or go away.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::Notify;
use troupe_runtime::{
    error::{ErrorKind, PublicError},
    wire::generate::GenerateDown,
};

use crate::support::{
    Script, Seen,
    leader::{Act, chunk, refuses, says, speak},
    stage, stage_with,
};

const PATH: &str = "/v1/completions";

fn request() -> serde_json::Value {
    json!({"prompt": "x", "max_tokens": 8})
}

#[tokio::test]
async fn who_refuses_is_passed_over() {
    for first in [
        refuses(ErrorKind::Overloaded),
        refuses(ErrorKind::Unavailable),
        Arc::new(|_: &_| vec![Act::Reset]) as Script,
        Arc::new(|_: &_| vec![Act::Crash]) as Script,
        Arc::new(|_: &_| {
            let error = PublicError::new(ErrorKind::Internal, "broke before the first token");
            vec![Act::Say(GenerateDown::Failed(error))]
        }) as Script,
    ] {
        let stage = stage_with(vec![first, says("fine")], |_| {}).await;
        let answer = stage.post(PATH, request()).await.ok();
        assert_eq!(answer["choices"][0]["text"], "fine");
        let (first, second) = (stage.leaders[0].started().await, stage.leaders[1].started().await);
        assert_eq!((first.attempt, second.attempt), (0, 1));
        assert_eq!((first.request, first.seed), (second.request, second.seed));
    }
}

#[tokio::test]
async fn a_full_cluster_says_so() {
    let full = || refuses(ErrorKind::Overloaded);
    let stage = stage_with(vec![full(), full(), full()], |_| {}).await;
    let (status, _, message, _) = stage.post(PATH, request()).await.error();
    assert_eq!(status, 503);
    assert!(message.starts_with("The engine is currently busy"));
    for leader in &stage.leaders {
        leader.started().await;
    }
}

/// A script that says two tokens, waits until it is let, and then does something.
fn two_tokens_then(
    go: &Arc<Notify>,
    acts: impl Fn(&[Act]) -> Vec<Act> + Send + Sync + 'static,
) -> Script {
    let go = Arc::clone(go);
    Arc::new(move |generate| {
        let mut said = speak(generate, 0, &[70, 71, 72, 73]);
        let rest = said.split_off(2);
        said.push(Act::Wait(Arc::clone(&go)));
        said.extend(acts(&rest));
        said
    })
}

#[tokio::test]
async fn a_failure_after_the_first_token_is_told_at_once() {
    let failed = |_: &[Act]| {
        let error = PublicError::new(ErrorKind::Internal, "the device is gone");
        vec![Act::Say(GenerateDown::Failed(error))]
    };
    // The last one leaves a chunk out.
    type Acts = fn(&[Act]) -> Vec<Act>;
    let rows: [(Acts, u16); 4] = [
        (failed, 500),
        (|_| vec![Act::Reset], 503),
        (|_| vec![Act::Crash], 503),
        (|rest| vec![rest[1].clone()], 500),
    ];
    for ((acts, status), stream) in rows.into_iter().flat_map(|row| [(row, false), (row, true)]) {
        let go = Arc::new(Notify::new());
        let script = two_tokens_then(&go, acts);
        let stage = stage_with(vec![script, says("other")], |_| {}).await;
        let mut body = request();
        body["stream"] = stream.into();
        let told = async {
            stage
                .until(|text| {
                    text.contains(
                        "generation_tokens_total{model_name=\"tiny\",\
                 engine=\"0\"} 2",
                    )
                })
                .await;
            go.notify_one();
        };
        let (reply, ()) = tokio::join!(stage.post(PATH, body), told);
        if !stream {
            assert_eq!(reply.error().0, status);
            continue;
        }
        assert_eq!(reply.status, 200);
        let events = reply.events();
        let (error, text) = events.split_last().unwrap();
        assert_eq!(error["error"]["code"], status, "{error}");
        assert!(!text.is_empty() && text.iter().all(|event| event["choices"].is_array()));
    }
}

#[tokio::test]
async fn repeats_and_strangers_are_dropped() {
    let script: Script = Arc::new(|generate| {
        let said = speak(generate, 0, &[70, 71, 72, 73, 74, 75, 76, 77]);
        let mut stranger = chunk(generate, 0, 2, vec![99]);
        stranger.attempt += 1;
        let mut acts = said[..2].to_vec();
        acts.push(said[0].clone());
        acts.push(said[1].clone());
        acts.push(Act::Say(GenerateDown::Chunk(stranger)));
        acts.extend_from_slice(&said[2..]);
        acts
    });
    let stage = stage(script).await;
    let mut body = request();
    body["return_token_ids"] = true.into();
    let answer = stage.post(PATH, body).await.ok();
    assert_eq!(answer["choices"][0]["token_ids"], json!([70, 71, 72, 73, 74, 75, 76, 77]));
}

#[tokio::test]
async fn load_decides_who_is_asked() {
    let stage = stage_with(vec![says("busy"), says("idle")], |_| {}).await;
    let load = troupe_runtime::wire::status::Load { running: 9, ..Default::default() };
    stage.leaders[0].load.send_replace(load);
    stage.until(|text| text.contains("num_requests_running{") && text.contains("} 9")).await;
    let answer = stage.post(PATH, request()).await.ok();
    assert_eq!(answer["choices"][0]["text"], "idle");
}

#[tokio::test]
async fn a_request_has_only_so_much_time() {
    let stage = stage_with(vec![Arc::new(|_| vec![])], |config| {
        config.request_timeout = std::time::Duration::from_millis(300);
    })
    .await;
    let (status, ..) = stage.post(PATH, request()).await.error();
    assert_eq!(status, 504);
    stage.leaders[0].started().await;
    assert_eq!(stage.leaders[0].saw().await, Seen::Aborted);
}

#[tokio::test]
async fn a_higher_epoch_ends_what_still_waits_at_the_old_one() {
    let never = Arc::new(Notify::new());
    let stage = stage(two_tokens_then(&never, <[Act]>::to_vec)).await;
    let superseded = async {
        let two = "generation_tokens_total{model_name=\"tiny\",engine=\"0\"} 2";
        stage.until(|text| text.contains(two)).await;
        stage.publish_epoch(&stage.leaders[0], 1).await;
    };
    let mut body = request();
    body["stream"] = true.into();
    let (reply, ()) = tokio::join!(stage.post(PATH, body), superseded);
    let events = reply.events();
    let (error, text) = events.split_last().unwrap();
    assert_eq!(error["error"]["code"], 503, "{error}");
    assert!(!text.is_empty());
}
