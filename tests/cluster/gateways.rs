//! Three gateways over the same groups. Conversations go from one to the next, because every gateway
//! hears from the leaders what they hold; and when one is killed, nothing is lost but what it was
//! just asked.

use std::{fs, net::SocketAddr, thread};

use serde_json::{Value, json};

use crate::{
    golden, http,
    joining::Cluster,
    process::{Troupe, completion, tokens, until},
};

const CONVERSATIONS: u32 = 8;
/// Tokens of the first question, of an answer, and of each further question.
const LENGTHS: (u32, usize, u32) = (64, 17, 7);
const BLOCK_SIZE: usize = 16;

#[test]
fn gateways_know_the_same_and_one_that_is_killed_takes_nothing_with_it() {
    let roles = ["--roles", "controller,gateway,node", "--devices", "2"];
    let mut cluster = Cluster::start_with("troupe", &roles, false);
    let file = cluster.path("service.json");
    fs::write(&file, service().to_string()).expect("it can be written");
    cluster.done(&["apply", "-f", &file]);
    let (door, _) = cluster.invitation();
    let mut others: Vec<Troupe> = ["second", "third"]
        .into_iter()
        .map(|name| {
            let mut args = cluster.gateway_args(name);
            args.extend(["--join".into(), door.clone(), "--token".into(), cluster.token(&[])]);
            Troupe::start(&args)
        })
        .collect();
    let first = cluster.control.address("gateway on ");
    let more = others.iter_mut().map(|gateway| gateway.address("gateway on "));
    let gateways: Vec<SocketAddr> = std::iter::once(first).chain(more).collect();
    until("all of them see both groups", || gateways.iter().all(|at| groups(*at) == 2));

    let mut conversations: Vec<Vec<u32>> = (0..CONVERSATIONS)
        .map(|number| turn(gateways[0], &question(number, LENGTHS.0)).0)
        .collect();
    let mut at = 0;
    let mut round = |conversations: &mut Vec<Vec<u32>>, gateways: &[SocketAddr]| {
        until("all of them know the same", || {
            let known: Vec<f64> = gateways.iter().map(|at| known(*at)).collect();
            known[0] > 0.0 && known.iter().all(|blocks| *blocks == known[0])
        });
        for (number, conversation) in (0..).zip(conversations) {
            let before = (conversation.len() - 1) / BLOCK_SIZE * BLOCK_SIZE;
            conversation.extend(question(100 + number, LENGTHS.2));
            at += 1;
            let (all, cached) = turn(gateways[at % gateways.len()], conversation);
            assert!(cached >= before, "conversation {number}: {cached} of {before} were found");
            *conversation = all;
        }
    };
    round(&mut conversations, &gateways);
    round(&mut conversations, &gateways);

    // All at once, and meanwhile the last gateway is gone. Who asked it asks another.
    let (left, lost) = gateways.split_at(2);
    let lost = lost[0];
    conversations = thread::scope(|scope| {
        let ask = |(number, conversation): (u32, Vec<u32>)| {
            let gateways = &gateways;
            scope.spawn(move || {
                let prompt = [conversation, question(200 + number, LENGTHS.2)].concat();
                let at = gateways[number as usize % gateways.len()];
                match ask(at, &prompt) {
                    Some((all, _)) => all,
                    None if at == lost => turn(left[0], &prompt).0,
                    None => panic!("a gateway that lives failed a request"),
                }
            })
        };
        let asked: Vec<_> = (0..).zip(conversations).map(ask).collect();
        others[1].kill();
        asked.into_iter().map(|turn| turn.join().expect("an answer")).collect()
    });
    round(&mut conversations, left);
    round(&mut conversations, left);
}

/// Asks, and returns question and answer, and how much of it was found; nothing if the gateway is
/// gone.
fn ask(gateway: SocketAddr, prompt: &[u32]) -> Option<(Vec<u32>, usize)> {
    let answer = http::post(gateway, "/v1/completions", &completion(prompt, LENGTHS.1)).ok()?;
    let answer = answer.ok();
    let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    let said = tokens(&answer["choices"][0]);
    Some(([prompt, &said].concat(), cached.unwrap_or(0) as usize))
}

fn turn(gateway: SocketAddr, prompt: &[u32]) -> (Vec<u32>, usize) {
    ask(gateway, prompt).expect("the gateway is there")
}

/// Tokens that no other question of another number has in this order.
fn question(number: u32, len: u32) -> Vec<u32> {
    (0..len).map(|at| 10 + (at * 37 + number * 101 + at * number) % 200).collect()
}

/// What a gateway has counted under a name; one for each line.
fn counted(gateway: SocketAddr, name: &str) -> Vec<f64> {
    let Ok(answer) = http::get(gateway, "/metrics") else { return Vec::new() };
    let lines = answer.text.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
}

fn groups(gateway: SocketAddr) -> usize {
    counted(gateway, "vllm:num_requests_running{").len()
}

fn known(gateway: SocketAddr) -> f64 {
    counted(gateway, "inference_extension_prefix_indexer_size").into_iter().sum()
}

fn service() -> Value {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    json!({
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {"name": "s"},
        "spec": {
            "model": {"uri": format!("file://{}", model.display()), "name": "m"},
            "replicas": 2,
            "template": {"containers": [{
                "name": "main",
                "args": ["--max-model-len=256", "--stage-time-min-ms=10"],
            }]},
        },
    })
}
