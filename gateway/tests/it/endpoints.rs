//! What happens when leaders refuse, fail, break the protocol or go away.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::sync::Notify;
use troupe_gateway::Resume;
use troupe_runtime::{
    discovery::{
        Op,
        directory::{Death, DeathsRecord, to_bytes},
    },
    error::{ErrorKind, PublicError},
    id::{EndpointId, NodeId},
    wire::generate::GenerateDown,
};

use crate::support::{
    PATIENCE, Script, Seen, Stage,
    http::Reply,
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

/// What a leader does after it has said something, of what it would have said else.
type Ends = fn(&[Act]) -> Vec<Act>;

/// How an attempt can end after the client was told something, and what the client is told if that
/// is the end. The last one leaves a chunk out.
const ENDS: [(Ends, u16); 5] = [
    (
        |_| {
            let error = PublicError::new(ErrorKind::Internal, "the device is gone");
            vec![Act::Say(GenerateDown::Failed(error))]
        },
        500,
    ),
    (|_| vec![Act::Reset], 503),
    (|_| vec![Act::Crash], 503),
    (moves, 503),
    (|rest| vec![rest[1].clone()], 500),
];

fn moves(_: &[Act]) -> Vec<Act> {
    let error = PublicError::new(ErrorKind::Unavailable, "it is going away");
    vec![Act::Say(GenerateDown::Moved(error))]
}

/// Asks two leaders, of whom the first ends like this after two tokens.
async fn cut_off(ends: Ends, resume: Resume, stream: bool) -> (Stage, Reply) {
    let go = Arc::new(Notify::new());
    let first = two_tokens_then(&go, ends);
    let second: Script = Arc::new(|generate| speak(generate, 0, &[70, 71, 72, 73, 74, 75, 76, 77]));
    let stage = stage_with(vec![first, second], |config| config.resume = resume).await;
    let mut body = request();
    (body["stream"], body["return_token_ids"]) = (stream.into(), true.into());
    let told = async {
        let two = "generation_tokens_total{model_name=\"tiny\",engine=\"0\"} 2";
        stage.until(|text| text.contains(two)).await;
        go.notify_one();
    };
    let (reply, ()) = tokio::join!(stage.post(PATH, body), told);
    (stage, reply)
}

#[tokio::test]
async fn a_failure_after_the_first_token_goes_on_elsewhere() {
    for ((ends, _), stream) in ENDS.into_iter().flat_map(|row| [(row, false), (row, true)]) {
        let (stage, reply) = cut_off(ends, Resume::Exact, stream).await;
        let whole: Vec<u64> = (70..78).collect();
        if stream {
            let events = reply.events();
            let tokens = events.iter().flat_map(|event| {
                let tokens = event["choices"][0]["token_ids"].as_array().cloned();
                tokens.unwrap_or_default().into_iter().filter_map(|token| token.as_u64())
            });
            assert_eq!(tokens.collect::<Vec<_>>(), whole);
            assert_eq!(reply.text.matches(": x-troupe-resume: exact\n\n").count(), 1);
        } else {
            assert_eq!(reply.ok()["choices"][0]["token_ids"], json!(whole));
            assert_eq!(reply.header("x-troupe-resume"), "exact");
        }
        let second = stage.leaders[1].started().await;
        assert_eq!((second.attempt, &*second.choices[0].output), (1, [70, 71].as_slice()));
        let counted = "troupe:gateway_resumes_total{model_name=\"tiny\",engine=\"0\",\
                       fidelity=\"exact\"} 1";
        stage.until(|text| text.contains(counted)).await;
    }
}

#[tokio::test]
async fn an_endpoint_whose_member_was_reaped_is_left_though_its_leader_lives_and_says_nothing() {
    let go = Arc::new(Notify::new());
    // It is never let to say more.
    let first = two_tokens_then(&go, <[Act]>::to_vec);
    let second: Script = Arc::new(|generate| speak(generate, 0, &[70, 71, 72, 73, 74, 75, 76, 77]));
    let stage = stage_with(vec![first, second], |_| {}).await;
    let mut body = request();
    body["return_token_ids"] = true.into();
    let reaped = async {
        let two = "generation_tokens_total{model_name=\"tiny\",engine=\"0\"} 2";
        stage.until(|text| text.contains(two)).await;
        let EndpointId { group, epoch, .. } = stage.leaders[0].info.endpoint.clone();
        // A worker's, of whom its leader has not heard yet.
        let deaths = vec![Death { group, epoch, member: 1, suspects: Vec::new() }];
        let key = stage.keys.deaths(NodeId::default());
        stage.write(Op::Put(key, to_bytes(DeathsRecord { deaths }))).await;
    };
    let (reply, ()) = tokio::join!(stage.post(PATH, body), reaped);
    assert_eq!(reply.ok()["choices"][0]["token_ids"], json!((70..78).collect::<Vec<_>>()));
    assert_eq!(reply.header("x-troupe-resume"), "exact");
    // And it is not taken again, whatever the store and its leader say.
    stage.until(|text| text.matches("vllm:num_requests_running{").count() == 1).await;
    let answer = stage.post(PATH, request()).await;
    answer.ok();
    assert_eq!(stage.leaders[1].started().await.attempt, 1);
    assert_eq!(stage.leaders[1].started().await.attempt, 0);
}

#[tokio::test]
async fn who_goes_away_is_asked_for_what_it_has_computed() {
    let (stage, reply) = cut_off(moves, Resume::Exact, false).await;
    reply.ok();
    let (first, second) = (stage.leaders[0].started().await, stage.leaders[1].started().await);
    let source = second.kv_source.expect("somebody has it");
    assert_eq!(source.endpoint, first.endpoint);
    assert_eq!(source.cached, Some(first.prompt.len() as u32 + 2), "with what was told");
    let (stage, _) = cut_off(ENDS[0].0, Resume::Exact, false).await;
    assert_eq!(stage.leaders[1].started().await.kv_source, None, "who failed is not asked");
}

/// Asks two leaders, of whom the first says nothing until the second has begun, and then this.
async fn hedged(then: fn(&[Act]) -> Vec<Act>, second: Script) -> (Stage, Reply) {
    let go = Arc::new(Notify::new());
    let waits = Arc::clone(&go);
    let first: Script = Arc::new(move |generate| {
        let mut acts = vec![Act::Wait(Arc::clone(&waits))];
        acts.extend(then(&speak(generate, 0, &[70, 71, 72, 73, 74, 75, 76, 77])));
        acts
    });
    let stage = stage_with(vec![first, second], |config| {
        config.hedge_after = Some(Duration::from_millis(5));
    })
    .await;
    let mut body = request();
    body["return_token_ids"] = true.into();
    let begun = async {
        let (first, second) = (stage.leaders[0].started().await, stage.leaders[1].started().await);
        assert_eq!((first.request, first.attempt), (second.request, second.attempt));
        go.notify_one();
    };
    let (reply, ()) = tokio::join!(stage.post(PATH, body), begun);
    (stage, reply)
}

#[tokio::test]
async fn who_says_nothing_gets_company_and_who_speaks_first_answers() {
    let tokens = |from: u64| json!((from..from + 8).collect::<Vec<_>>());
    let counted = |won: &str| {
        format!("troupe:gateway_hedges_total{{model_name=\"tiny\",engine=\"0\",won=\"{won}\"}} 1")
    };
    // The second never speaks.
    let silent: Script = Arc::new(|_| Vec::new());
    let (stage, reply) = hedged(<[Act]>::to_vec, silent).await;
    assert_eq!(reply.ok()["choices"][0]["token_ids"], tokens(70));
    assert_eq!(stage.leaders[1].saw_end().await, Seen::Aborted);
    stage.until(|text| text.contains(&counted("first"))).await;
    // The first speaks only of its failure, breaks, or never.
    let speaks: Script = Arc::new(|generate| speak(generate, 0, &[60, 61, 62, 63, 64, 65, 66, 67]));
    let never: Ends = |_| Vec::new();
    for ends in [ENDS[0].0, ENDS[1].0, ENDS[2].0, moves, never] {
        let (stage, reply) = hedged(ends, Arc::clone(&speaks)).await;
        assert_eq!(reply.ok()["choices"][0]["token_ids"], tokens(60));
        stage.until(|text| text.contains(&counted("second"))).await;
    }
    // The second fails while the first still thinks.
    let fails: Script = Arc::new(|_| vec![Act::Reset]);
    let (_, reply) = hedged(<[Act]>::to_vec, fails).await;
    assert_eq!(reply.ok()["choices"][0]["token_ids"], tokens(70));
}

#[tokio::test]
async fn who_does_not_want_that_is_told_at_once() {
    for ((ends, status), stream) in ENDS.into_iter().flat_map(|row| [(row, false), (row, true)]) {
        let (_stage, reply) = cut_off(ends, Resume::Off, stream).await;
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
    // As requests are placed if nobody says how; of equals chance decides.
    let scripts = vec![says("busy"), says("idle")];
    let stage = stage_with(scripts, |config| config.picker = None).await;
    let load = troupe_runtime::wire::status::Load { running: 9, waiting: 4, ..Default::default() };
    stage.leaders[0].load.send_replace(load);
    stage.until(|text| text.contains("num_requests_running{") && text.contains("} 9")).await;
    // What metrics tell the gateway may hear a little later by itself.
    let told = async {
        let mut in_a_row = 0;
        while in_a_row < 30 {
            let answer = stage.post(PATH, request()).await.ok();
            in_a_row = if answer["choices"][0]["text"] == "idle" { in_a_row + 1 } else { 0 };
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the idle one is asked");
}

#[tokio::test]
async fn a_request_has_only_so_much_time() {
    let stage = stage_with(vec![Arc::new(|_| vec![])], |config| {
        config.request_timeout = Duration::from_millis(300);
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
    let script = two_tokens_then(&never, <[Act]>::to_vec);
    let stage = stage_with(vec![script], |config| config.resume = Resume::Off).await;
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

#[tokio::test]
async fn an_endpoint_that_keeps_breaking_is_left_alone_while_there_are_others() {
    let breaks = Arc::new(|_: &_| vec![Act::Reset]) as Script;
    let stage = stage_with(vec![breaks, says("fine")], |_| {}).await;
    for _ in 0..40 {
        let answer = stage.post(PATH, request()).await.ok();
        assert_eq!(answer["choices"][0]["text"], "fine");
    }
    let mut asked = 0;
    while let Some(seen) = stage.leaders[0].seen_now() {
        asked += u32::from(matches!(seen, Seen::Started(_)));
    }
    assert!((1..=6).contains(&asked), "three in a row open its breaker, asked {asked} times");
}
