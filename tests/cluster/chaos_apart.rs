//! The same as in `chaos.rs` where prefill is apart: the peer that computes prompts is killed at
//! tokens of a stream, and so are the members that answer, whose streams go on at another group
//! that asks the peer again.

use serde_json::{Value, json};

use crate::{
    chaos::{Kind, Stage, indices, kinds},
    golden, picker,
    process::{is_running, kill, until},
};

#[test]
fn streams_go_on_when_the_peer_that_computes_prompts_is_killed() {
    let stage =
        Stage::start_with(&service(), 3, &["decode", "decode", "decode", "decode", "prefill"]);
    let mut salt = 0;
    // What `chaos.rs` asks, but chats, which a peer sees as prompts like others.
    let kinds = kinds().into_iter().filter(|kind| !kind.name.contains("chat"));
    for (number, mut kind) in kinds.enumerate() {
        // A prompt that is computed elsewhere: salted, or its blocks would be there already.
        ask_of_the_peer(&mut kind);
        let mut salted = |kind: &mut Kind| {
            salt += 1;
            kind.body["cache_salt"] = json!(salt.to_string());
        };
        salted(&mut kind);
        let came = stage.transfers();
        let whole = stage.said(&kind, |_, _| {});
        assert!(stage.transfers() > came, "{}: its prompt came from the peer", kind.name);
        // At 0 it is killed when the request is sent.
        let indices = indices(number, whole.events);
        for index in indices.into_iter().chain([0]) {
            let victims: &[Victim] = match (kind.name, index) {
                (_, 0) => &[Victim::Peer],
                ("sampled", _) => &[Victim::Peer, Victim::Member(0), Victim::Member(1)],
                _ => &[Victim::Peer],
            };
            for victim in victims {
                stage.until_whole();
                salted(&mut kind);
                let peer = stage.process("s.prefill-0", 0);
                let decoding = match victim {
                    Victim::Peer => None,
                    Victim::Member(member) => {
                        Some(["s-0", "s-1"].map(|group| stage.process(group, *member)))
                    }
                };
                let before = stage.resumes();
                let mut killed = None;
                let mut strike = |process: u32| {
                    kill(process);
                    killed = Some(process);
                };
                if index == 0 {
                    strike(peer);
                }
                let mut answers = None;
                let said = stage.said(&kind, |events, id| {
                    let own = *answers.get_or_insert_with(|| match decoding {
                        Some(members) => members[usize::from(stage.group_of(id) == "s-1")],
                        None => peer,
                    });
                    if events == index {
                        strike(own);
                    }
                });
                let what = format!("{}: {victim:?} killed at event {index}", kind.name);
                let process = killed.expect("it came so far");
                until("it is gone", || !is_running(process));
                assert_eq!(said, whole, "{what}");
                // A peer's death moves nothing; but a machine that is too busy to go on with a step
                // for 1.4 s loses a group, so that is not asserted.
                let resumed = stage.resumes() > before;
                assert!(resumed || decoding.is_none(), "{what}: it went on elsewhere");
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    /// Who computes prompts.
    Peer,
    /// A member of the group that answers.
    Member(u32),
}

impl Stage {
    /// Prompts that came from the peer, all of them.
    fn transfers(&self) -> f64 {
        let name = "troupe:kv_transfers_total{";
        let counted = |line: &str| line.starts_with(name) && line.contains("\"complete\"");
        let Ok(answer) = crate::http::get(self.gateway, "/metrics") else { return 0.0 };
        let lines = answer.text.lines().filter(|line| counted(line));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

fn ask_of_the_peer(kind: &mut Kind) {
    let long = "What is the weather in the place that we spoke of? ".repeat(4);
    if kind.body.get("prompt").is_some() {
        kind.body["prompt"] = json!(long);
    } else {
        kind.body["messages"] = json!([{"role": "user", "content": long}]);
    }
}

/// Two groups of two stages that answer, and one of one that computes prompts.
fn service() -> Value {
    let model = golden::model("tiny-chat").expect("both sets have it");
    let template = |side: &str| {
        json!({
            "nodeSelector": {"side": side},
            "containers": [{"name": "main", "args": ["--stage-time-min-ms=15"]}],
        })
    };
    json!({
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {"name": "s", "annotations": {
            "troupe.dev/max-group-restarts": "unlimited",
            "troupe.dev/restart-backoff-max": "1s",
        }},
        "spec": {
            "model": {"uri": format!("file://{}", model.display()), "name": "m"},
            "replicas": 2,
            "parallelism": {"pipeline": 2},
            "template": template("decode"),
            "worker": {
                "nodeSelector": {"side": "decode"},
                "containers": [{"name": "main"}],
            },
            "prefill": {"replicas": 1, "template": template("prefill")},
            "router": {"scheduler": {"config": {"inline": picker::always_apart()}}},
        },
    })
}
