//! What a client sees of a process that dies in the middle of its stream: nothing. Each member of
//! the group that answers is killed at tokens of a stream, and every event has to say what it would
//! have said anyway; and what an operator's own command for that finds, refuses and reports.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::{
    golden, http,
    joining::Cluster,
    process::{Troupe, is_running, kill, until},
};

#[test]
fn streams_go_on_word_for_word_whichever_member_is_killed() {
    let stage = Stage::start();
    let kinds = kinds();
    let mut went_on = Vec::new();
    let undisturbed: Vec<Said> = kinds.iter().map(|kind| stage.said(kind, |_, _| {})).collect();
    for (number, (kind, whole)) in kinds.iter().zip(&undisturbed).enumerate() {
        assert_eq!(&stage.said(kind, |_, _| {}), whole, "{}: the same twice", kind.name);
        for index in indices(number, whole.events) {
            for member in [0, 1] {
                stage.until_whole();
                let processes = ["s-0", "s-1"].map(|group| stage.process(group, member));
                let before = stage.resumes();
                let (mut victim, mut killed) = (None, None);
                let said = stage.said(kind, |events, id| {
                    let of = || processes[usize::from(stage.group_of(id) == "s-1")];
                    let process = *victim.get_or_insert_with(of);
                    if events == index {
                        kill(process);
                        killed = Some(process);
                    }
                });
                let what = format!("{}: member {member} killed at event {index}", kind.name);
                let process = killed.expect("it came so far");
                until("it is gone", || !is_running(process));
                assert_eq!(&said, whole, "{what}");
                went_on.push(stage.resumes() > before);
                // Of every event some come late to a client on a busy machine: all has been sent.
                let may_be_late = at_every_event().is_some();
                assert!(may_be_late || went_on.ends_with(&[true]), "{what}: it went on elsewhere");
            }
        }
    }
    let elsewhere = went_on.iter().filter(|on| **on).count();
    eprintln!("{} killed, {elsewhere} streams went on elsewhere", went_on.len());
    assert!(elsewhere * 10 >= went_on.len() * 9, "{elsewhere} of {}", went_on.len());
}

#[test]
fn an_operator_kills_and_freezes_on_purpose_and_is_told_what_came_of_it() {
    let stage = Stage::start();
    let group = "s-0";
    let pid = stage.process(group, 1);
    // Nobody can be asked, and what is not there is not done to anything else.
    let refused = stage.chaos("kill --target s-0/1");
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("--yes"), "{refused:?}");
    for (line, why) in [
        ("kill --yes --target s-0/7", "group s-0 has no member 7"),
        ("kill --yes --target s-9/0", "\"s-9\" not found"),
        ("kill --yes --target node/nobody", "\"nobody\" not found"),
        ("kill --yes --target stream/0", "--at-token"),
        ("kill --yes --for 3s --target s-0/1", "--for"),
        ("thaw --yes --target s-0/1 --at-token 3", "--at-token"),
    ] {
        let said = stage.chaos(line);
        assert!(said.code.is_some_and(|code| code > 0), "{line}: {said:?}");
        assert!(said.err.contains(why), "{line}: {said:?}");
    }
    assert!(is_running(pid));

    // Where a host's, a gateway's and the controller's processes are is found too.
    let gateway = stage.objects("gateways")[0]["metadata"]["name"].clone();
    let gateway = format!("gateway/{}", gateway.as_str().expect("a name"));
    let control = stage.cluster.control.id();
    for (target, id) in [
        ("node/h0", stage.hosts[0].id()),
        ("node/h3", stage.hosts[3].id()),
        ("controller", control),
        (gateway.as_str(), control),
    ] {
        let said = stage.chaos(&format!("freeze --dry-run --target {target}"));
        assert!(said.out.contains(&format!("pid {id}\n")), "{target} is {id}: {said:?}");
    }

    let said = stage.chaos("kill --yes --target s-0/1");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains(&format!(" killed: pid {pid}\n")), "{said:?}");
    assert!(said.out.contains(" ended: "), "{said:?}");
    assert!(!is_running(pid));
    stage.until_whole();

    let frozen = stage.process(group, 0);
    let said = stage.chaos("freeze --yes --for 50ms --target s-0/0");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains(&format!(" frozen: pid {frozen}\n")), "{said:?}");
    assert!(said.out.contains(&format!(" thawed: pid {frozen}\n")), "{said:?}");
    assert!(is_running(frozen), "so short a time is no fault");

    // A member that does not move for long is killed by its host.
    for deed in ["kill", "freeze"] {
        let url = format!("http://{}", stage.gateway);
        let line = format!(
            "{deed} --yes --target stream/1 --at-token 9 --runs 2 --seed 3 --url {url} -o json"
        );
        let said = stage.chaos(&line);
        assert_eq!(said.code, Some(0), "{line}: {said:?}");
        let report: Value = serde_json::from_str(&said.out).expect("JSON");
        let runs = report["runs"].as_array().expect("runs");
        assert_eq!(runs.len(), 2, "{report}");
        for run in runs {
            assert_eq!((&run["lost"], &run["wrong"]), (&json!(0), &json!(0)), "{report}");
            assert!(run["noticedMs"].is_number(), "{report}");
            assert!(run["ended"].is_string(), "{report}");
            assert!(run["nextTokenMs"].is_number(), "{report}");
        }
    }
}

/// A control host and four hosts of one device: two groups of two members, each member a process
/// of its own.
pub(super) struct Stage {
    // In this order: what is started first ends last.
    hosts: Vec<Troupe>,
    cluster: Cluster,
    pub(super) gateway: SocketAddr,
    groups: usize,
}

impl Stage {
    fn start() -> Self {
        Self::start_with(&service(), 2, &["both"; 4])
    }

    /// So many groups of a service, on hosts that say of which side they are.
    pub(super) fn start_with(service: &Value, groups: usize, sides: &[&str]) -> Self {
        let mut cluster = Cluster::start();
        let gateway = cluster.control.address("gateway on ");
        let file = cluster.path("s.json");
        fs::write(&file, service.to_string()).expect("it can be written");
        cluster.done(&["apply", "-f", &file]);
        let (door, _) = cluster.invitation();
        let join = |(number, side): (usize, &&str)| {
            let (token, label) = (cluster.token(&[]), format!("side={side}"));
            cluster.join(&format!("h{number}"), &["--token", &token, "--label", &label, &door])
        };
        let hosts = sides.iter().enumerate().map(join).collect();
        let stage = Self { hosts, cluster, gateway, groups };
        stage.until_whole();
        stage
    }

    fn objects(&self, kind: &str) -> Vec<Value> {
        let shown = self.cluster.done(&["get", kind, "-o", "json"]);
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        shown["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until all groups serve and the gateway knows it.
    pub(super) fn until_whole(&self) {
        until("all groups serve", || {
            let groups = self.objects("groups");
            let ready = |group: &Value| {
                let members = group["status"]["members"].as_array().map_or(0, Vec::len);
                members > 0 && group["status"]["ready"] == members
            };
            let known = crate::conversation::counted(self.gateway, "vllm:num_requests_running{");
            let (found, known) = (groups.len(), known.len());
            (found, known) == (self.groups, self.groups) && groups.iter().all(ready)
        });
    }

    pub(super) fn resumes(&self) -> f64 {
        let counts = crate::conversation::counted(self.gateway, "troupe:gateway_resumes_total");
        counts.into_iter().sum()
    }

    /// The group that answers a request.
    pub(super) fn group_of(&self, id: &str) -> String {
        let told = http::get(self.gateway, &format!("/debug/placement/{id}"));
        let told = told.expect("the gateway is there").ok();
        let endpoint = told["decisions"][0]["endpoint"].as_str().expect("where it went").to_owned();
        let group = endpoint.split('@').next().expect("a group");
        group.rsplit('/').next().expect("a name").to_owned()
    }

    /// The process of a member, which the operator's command finds.
    pub(super) fn process(&self, group: &str, member: u32) -> u32 {
        let mut found = None;
        // It may end between the last word of its group and the question.
        until(&format!("a process is {group}/{member}"), || {
            let said = self.chaos(&format!("kill --dry-run --target {group}/{member}"));
            let id = said.out.trim().rsplit(' ').next().and_then(|id| id.parse().ok());
            let runs = |id: &u32| self.hosts.iter().any(|host| host.members().contains(id));
            found = id.filter(runs);
            found.is_some()
        });
        found.expect("it was found")
    }

    fn chaos(&self, line: &str) -> crate::operator::Said {
        let words: Vec<&str> = ["chaos"].into_iter().chain(line.split_whitespace()).collect();
        self.cluster.says(&words)
    }

    /// What a stream says; `each` is called after every event that has a token.
    pub(super) fn said(&self, kind: &Kind, mut each: impl FnMut(usize, &str)) -> Said {
        let stream = http::stream(self.gateway, kind.path, &kind.body).expect("an answer");
        assert_eq!(stream.status, 200, "{}", kind.name);
        let mut said = Said::default();
        for event in stream {
            match event {
                http::Event::Data(data) => {
                    let told = said.hear(&data);
                    if told {
                        said.events += 1;
                        each(said.events, data["id"].as_str().expect("an id"));
                    }
                }
                http::Event::Done => said.done += 1,
                http::Event::Broken(why) => panic!("{}: it broke: {why}", kind.name),
            }
        }
        said
    }
}

/// A sort of request.
pub(super) struct Kind {
    pub(super) name: &'static str,
    path: &'static str,
    pub(super) body: Value,
}

/// All that a stream says, but for ids, times and where its chunks end.
#[derive(Debug, Default)]
pub(super) struct Said {
    choices: BTreeMap<u64, Choice>,
    usage: Vec<Value>,
    done: usize,
    /// Events with tokens: chunk borders, which are not compared.
    pub(super) events: usize,
}

#[derive(Debug, Default, PartialEq)]
struct Choice {
    text: String,
    tokens: Vec<Value>,
    logprobs: Vec<Value>,
    roles: Vec<Value>,
    finish: Vec<Value>,
    stop: Vec<Value>,
}

impl PartialEq for Said {
    fn eq(&self, other: &Self) -> bool {
        (&self.choices, &self.usage, self.done) == (&other.choices, &other.usage, other.done)
    }
}

impl Said {
    /// Whether it brought a token.
    fn hear(&mut self, data: &Value) -> bool {
        assert!(data.get("error").is_none(), "{data}");
        let mut brought = false;
        self.usage.extend(data.get("usage").filter(|usage| !usage.is_null()).map(counts));
        for heard in data["choices"].as_array().into_iter().flatten() {
            let choice =
                self.choices.entry(heard["index"].as_u64().expect("a number")).or_default();
            let text = heard["text"].as_str().or(heard["delta"]["content"].as_str());
            choice.text += text.unwrap_or_default();
            let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
            let some = |value: &Value| (!value.is_null()).then(|| value.clone());
            let tokens = list(&heard["token_ids"]);
            brought |= !tokens.is_empty();
            choice.tokens.extend(tokens);
            choice.logprobs.extend(list(&heard["logprobs"]["content"]));
            for of in ["tokens", "token_logprobs", "top_logprobs"] {
                choice.logprobs.extend(list(&heard["logprobs"][of]));
            }
            choice.roles.extend(some(&heard["delta"]["role"]));
            choice.finish.extend(some(&heard["finish_reason"]));
            choice.stop.extend(some(&heard["stop_reason"]));
        }
        brought
    }
}

/// Usage without what depends on who had cached what.
fn counts(usage: &Value) -> Value {
    json!([usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]])
}

pub(super) fn kinds() -> Vec<Kind> {
    let whole = json!({
        "model": "m", "max_tokens": LENGTH, "stream": true, "return_token_ids": true,
        "stream_options": {"include_usage": true},
    });
    let kind = |name, path, more: Value| {
        let mut body = whole.clone();
        for (key, value) in more.as_object().expect("fields") {
            body[key] = value.clone();
        }
        if path == CHAT {
            body["messages"] = json!([{"role": "user", "content": "What is the weather?"}]);
        } else {
            body["prompt"] = json!("What is the weather");
        }
        Kind { name, path, body }
    };
    let schema = json!({"type": "array", "items": {"type": "integer"}, "minItems": 40});
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
    let sampled = |more: Value| {
        let mut fields = json!({"temperature": 1.0, "seed": 7, "ignore_eos": true});
        for (key, value) in more.as_object().expect("fields") {
            fields[key] = value.clone();
        }
        fields
    };
    let mut kinds = vec![
        kind("greedy", TEXT, json!({"temperature": 0, "ignore_eos": true, "logprobs": 2})),
        kind("sampled", TEXT, sampled(json!({"repetition_penalty": 1.1}))),
        kind("two choices", TEXT, sampled(json!({"n": 2}))),
        kind("chat", CHAT, sampled(json!({"logprobs": true, "top_logprobs": 2}))),
        kind("a schema", CHAT, json!({"temperature": 1.0, "seed": 7, "response_format": format})),
        kind("two chats", CHAT, sampled(json!({"n": 2}))),
    ];
    if let Some(asked) = at_every_event()
        && asked != "all"
    {
        kinds.retain(|kind| asked.split(',').any(|name| name == kind.name));
    }
    kinds
}

/// The kinds that are played at every event, separated by commas, or `all`; the others are not
/// played then.
fn at_every_event() -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "how much is tested is no setting of a program")]
    std::env::var("TROUPE_TEST_CHAOS").ok()
}

/// At which events members are killed: one in `make test`, which is another for each kind and on
/// each day; every one if `TROUPE_TEST_CHAOS` says so.
pub(super) fn indices(kind: usize, events: usize) -> Vec<usize> {
    // The last event leaves nothing to go on with.
    let last = events - 1;
    if at_every_event().is_some() {
        return (1..last).collect();
    }
    let days = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time");
    let days = days.as_secs() / Duration::from_secs(86400).as_secs();
    // The first event finds out who answers; what is before the half is far from the end.
    vec![2 + (days as usize + kind * 11) % (last / 2)]
}

fn service() -> Value {
    let model = golden::model("tiny-chat").expect("both sets have it");
    json!({
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "LLMInferenceService",
        // Whoever kills so often does not mean that the service is broken.
        "metadata": {"name": "s", "annotations": {
            "troupe.dev/max-group-restarts": "unlimited",
            "troupe.dev/restart-backoff-max": "1s",
        }},
        "spec": {
            "model": {"uri": format!("file://{}", model.display()), "name": "m"},
            "replicas": 2,
            "parallelism": {"pipeline": 2},
            // Slow enough that a stream is still under way when a member is killed.
            "template": {"containers": [{"name": "main", "args": ["--stage-time-min-ms=15"]}]},
        },
    })
}

const TEXT: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";
const LENGTH: usize = 64;
