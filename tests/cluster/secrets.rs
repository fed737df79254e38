//! No secret is told: not in a log at its most talkative, not in metrics, not in what explains a
//! request. All that a cluster is given is in play, with right keys and wrong ones.

use std::fs;

use troupe_runtime::transport::tls::JoinToken;

use crate::{
    conversation::two_groups,
    http,
    joining::Cluster,
    process::{Troupe, completion, until},
};

const KEY: &str = "sk-of-the-server-5f2a91";
const TENANT: &str = "sk-of-a-tenant-77b3c0";
const FOREIGN: &str = "sk-of-another-server-d41e08";
const WRONG: &str = "sk-that-is-a-guess-93ff21";
const SALT: &str = "salt-of-one-tenant-0c9e55";
const HUB: &str = "hf_of_the_hub_a81d44";

#[test]
fn no_secret_is_logged_or_shown() {
    let files = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: String| {
        let path = files.path().join(name);
        fs::write(&path, text).expect("it can be written");
        path.display().to_string()
    };
    let tenants = write("tenants", format!("tenants:\n- name: acme\n  apiKeys: [{TENANT}]\n"));
    let foreign = write(
        "foreign",
        format!("endpoints:\n- name: other\n  url: http://127.0.0.1:9\n  apiKey: {FOREIGN}\n"),
    );
    let args = [
        "--roles",
        "controller,gateway,node",
        "--devices",
        "1",
        "--api-key",
        KEY,
        "--tenants",
        &tenants,
        "--foreign-endpoints",
        &foreign,
        "--log",
        "trace",
    ];
    let mut cluster = Cluster::start_with("troupe", &args, false);
    let gateway = cluster.control.address("gateway on ");
    let service = cluster.path("service.json");
    fs::write(&service, two_groups().to_string()).expect("it can be written");
    cluster.done(&["apply", "-f", &service]);
    // The second of its groups is on this one.
    let (door, invited) = cluster.invitation();
    let token = cluster.token(&["--uses", "2"]);
    let words = ["join", "--data-dir", &cluster.path("a"), "--name", "a"].map(str::to_owned);
    let more = ["--listen", "127.0.0.1:0", "--token", &token, &door, "--log", "trace"];
    let words: Vec<String> = words.into_iter().chain(more.map(str::to_owned)).collect();
    let hub = format!("HF_TOKEN={HUB}");
    let mut node = Troupe::start_under(&["env", &hub], &words);
    node.until_said("node a offers");
    let twisted: JoinToken = token.parse().expect("a token");
    let guess: String = twisted.secret.chars().rev().collect();
    let guessed = JoinToken { secret: guess.clone(), ..twisted }.to_string();
    let refused = cluster.join_ended("b", &["--token", &guessed, &door, "--log", "trace"]);
    assert!(refused.log.contains("there is no such join token"), "{}", refused.log);

    let mut body = completion(&[1, 2, 3], 5);
    body["cache_salt"] = SALT.into();
    let ask = |key: &str| {
        let header = format!("authorization: Bearer {key}");
        http::post_with(gateway, "/v1/completions", &header, &body).expect("an answer")
    };
    until("it serves", || ask(KEY).status == 200);
    let answer = ask(TENANT).ok();
    assert_eq!(ask(WRONG).status, 401);
    let id = answer["id"].as_str().expect("an id").to_owned();
    let server = format!("http://{gateway}");
    let words = ["explain", &id, "--json", "--server", &server, "--api-key", TENANT];
    let explained = explain(&words);
    assert!(explained.contains("decode") || explained.contains("candidates"), "{explained}");
    let metrics = http::get(gateway, "/metrics").expect("metrics").text;
    let shown = [
        cluster.done(&["get", "tokens", "-o", "yaml"]),
        cluster.done(&["get", "nodes", "-o", "yaml"]),
        cluster.done(&["describe", "node", "a"]),
        cluster.done(&["events"]),
        cluster.done(&["logs", "s"]),
    ]
    .join("\n");
    // The line that invites others is for whoever reads the terminal, and holds its token whole.
    let control = cluster.control.log();
    let said: Vec<&str> =
        control.lines().filter(|line| !line.trim_start().starts_with("troupe join ")).collect();
    assert!(said.len() > 1000 && said.iter().any(|line| line.contains("TRACE")), "it tells all");

    let invited = invited.parse::<JoinToken>().expect("a token").secret;
    let token = token.parse::<JoinToken>().expect("a token").secret;
    let given =
        [KEY, TENANT, FOREIGN, WRONG, SALT, HUB, &invited, &token, &guess].map(str::to_owned);
    let mut secrets: Vec<String> = given.into();
    for key in ["control/ca/ca-key.pem", "control/node/identity-key.pem", "a/node/identity-key.pem"]
    {
        let text = fs::read_to_string(cluster.path(key)).expect("it is there");
        secrets.extend(text.lines().filter(|line| line.len() > 20).map(str::to_owned));
    }
    let told = [
        ("the control host's log", said.join("\n")),
        ("the node's log", node.log()),
        ("the log of whom nobody let in", refused.log),
        ("the metrics", metrics),
        ("what explains", explained),
        ("what an operator sees", shown),
    ];
    for (place, text) in &told {
        for secret in &secrets {
            let line = text.lines().find(|line| line.contains(secret.as_str()));
            assert_eq!(line, None, "{secret} stands in {place}");
        }
    }
}

/// What `troupe explain` prints; it asks a gateway and knows of no cluster.
fn explain(words: &[&str]) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_troupe"));
    let output = command.args(words).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What is not supported is refused before it is told to anybody.
#[test]
fn a_password_in_an_etcd_url_is_refused_and_not_repeated() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().display().to_string();
    let url = "http://root:hunter2-of-etcd@127.0.0.1:9";
    let ended = Troupe::run(&["up", "--etcd", url, "--data-dir", &data, "--log", "trace"]);
    assert!(ended.code.is_some_and(|code| code > 0), "{}", ended.log);
    assert!(ended.log.contains("a user or a password"), "{}", ended.log);
    assert!(!ended.log.contains("hunter2"), "{}", ended.log);
}
