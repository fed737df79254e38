//! How hosts come into a cluster, stay in it and are taken out: real processes over a real etcd.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use troupe_runtime::{
    error::chain,
    transport::{
        Class, Connection, Conversation, Link, PeerAddr, PeerRole, QuicConfig, QuicLink,
        TransportRuntime, knock,
        tls::{ClusterAuthority, Identity, JoinToken},
    },
    wire::{
        self,
        operate::{OperateDown, OperateUp, Selection},
    },
};

use crate::{
    joining::{Cluster, WAIT, runtime},
    process::{Troupe, until},
};

#[test]
fn three_commands_from_two_hosts_to_the_first_token() {
    let cluster = Cluster::start_serving();
    // The line that `up` printed, and one more of the same.
    let (door, token) = cluster.invitation();
    let mut first = cluster.join("a", &["--token", &token, &door]);
    let joined = first.until_said("joined the cluster troupe as troupe://troupe/node/");
    let mut second = cluster.join("b", &["--token", &cluster.token(&[]), &door]);
    second.until_said("joined the cluster troupe as ");
    until("the service serves", || cluster.ask());
    // The first token lets its host ask.
    let nodes = cluster.says_by("a/operator", &["get", "nodes"]);
    assert!(nodes.out.contains("a ") && nodes.out.contains("b "), "{nodes:?}");
    assert!(!Path::new(&cluster.path("b/operator")).exists(), "the second does not");

    // It comes back as itself, with its data directory and nothing else.
    first.interrupt();
    assert!(first.ended().success());
    let before = cluster.identity("a/node");
    let first = cluster.join("a", &[]);
    until("the service serves again", || cluster.ask());
    assert_eq!(cluster.identity("a/node").name(), before.name());
    assert!(joined.ends_with(&before.name().to_string()), "{joined}");
    drop(first);
    // And as its unit's command line is, with a token that is used up.
    let mut first = cluster.join("a", &["--token", &token, &door]);
    first.until_said("the token is not used");
    until("the service serves once more", || cluster.ask());
}

#[test]
fn who_is_not_let_in_is_told_why() {
    let cluster = Cluster::start();
    let (door, _) = cluster.invitation();
    let refused = |data: &str, words: &[&str], why: &str| {
        let ended = cluster.join_ended(data, words);
        assert!(ended.code.is_some_and(|code| code > 0), "{why}: {}", ended.log);
        assert!(ended.log.contains(why), "`{why}` is not in {}", ended.log);
        assert!(!ended.log.contains("panicked"), "{}", ended.log);
    };

    // Nothing at all, and no token.
    refused("none", &[], "has joined no cluster yet");
    refused("none", &[&door, "--token", "garbage"], "this is no join token");

    // Used twice. The first host needs not run for that.
    let token = cluster.token(&[]);
    let mut first = cluster.join("used", &["--token", &token, &door]);
    first.until_said("joined the cluster");
    refused("twice", &["--token", &token, &door], "has been used by used");

    // Revoked.
    let token = cluster.token(&[]);
    let id = id_of(&token);
    assert_eq!(cluster.done(&["token", "revoke", &id]), format!("token/{id} revoked\n"));
    assert_eq!(cluster.done(&["token", "revoke", &id]), format!("token/{id} already revoked\n"));
    refused("revoked", &["--token", &token, &door], &format!("{id} was revoked"));

    // Expired.
    let token = cluster.token(&["--ttl", "1s"]);
    let id = id_of(&token);
    until("it is over", || !cluster.done(&["token", "list"]).contains(&id));
    assert!(cluster.done(&["token", "list", "--all"]).contains(&id));
    refused("late", &["--token", &token, &door], &format!("{id} expired"));

    // One that nobody made, with this cluster's CA and with another's.
    let mut token: JoinToken = cluster.token(&[]).parse().expect("a token");
    token.secret = token.secret.chars().rev().collect();
    refused("guess", &["--token", &token.to_string(), &door], "there is no such join token");
    token.pin = "00".repeat(32).parse().expect("a pin");
    let other = "a control host of another cluster than the token is for";
    refused("other", &["--token", &token.to_string(), &door], other);

    // Where nobody is.
    let token = cluster.token(&[]);
    refused("lost", &["--token", &token, "127.0.0.1:9"], "no control host answers there");
    refused("lost", &["--token", &token, "no-such-host.invalid"], "stands for no address");

    // A clock, a version and a name that cannot be.
    let two_hours = Duration::from_secs(7200);
    let behind = cluster.answered(&token, |up| up.now_ms -= two_hours.as_millis() as u64);
    assert!(behind.contains("clock is 2 h behind the control host's"), "{behind}");
    let newer = cluster.answered(&token, |up| up.wire = wire::VERSION + 2);
    assert!(newer.contains("they may be one apart"), "{newer}");
    let named = cluster.answered(&token, |up| up.name = "a/b".into());
    assert!(named.contains("--name"), "{named}");
    let tampered = cluster.answered(&token, |up| up.request[40] ^= 1);
    assert!(tampered.contains("the signing request"), "{tampered}");

    // A data directory of another cluster.
    let elsewhere = Cluster::start_as("elsewhere");
    let (there, foreign) = elsewhere.invitation();
    let words = ["--token", &foreign, &there];
    drop(first);
    refused("used", &words, "belongs to the cluster troupe, and the token is of another one");

    // The store is away.
    let mut cluster = cluster;
    cluster.etcd.kill();
    let ended = cluster.join_ended("away", &["--token", &token, &door]);
    assert!(ended.log.contains("the cluster's store is away"), "{}", ended.log);
}

#[test]
fn a_host_that_was_copied_is_refused() {
    let cluster = Cluster::start();
    let (door, token) = cluster.invitation();
    let mut first = cluster.join("a", &["--token", &token, &door]);
    first.until_said("node a offers");
    // Standing still, because a host renames what it writes: a file may be gone when it is copied.
    let (own, other) = (cluster.path("a"), cluster.path("copy"));
    first.while_frozen(|| copy(Path::new(&own), Path::new(&other)));
    let ended = cluster.join_ended("copy", &["--name", "copy"]);
    assert_eq!(ended.code, Some(2), "{}", ended.log);
    assert!(ended.log.contains("is a copy of its data directory"), "{}", ended.log);
    // Two hosts that have one name.
    let words = ["--name", "a", "--token", &cluster.token(&[]), &door];
    let ended = cluster.join_ended("b", &words);
    assert_eq!(ended.code, Some(2), "{}", ended.log);
    assert!(ended.log.contains("a host named a is in the cluster already"), "{}", ended.log);
}

#[test]
fn a_role_opens_its_own_conversations_and_no_other() {
    let cluster = Cluster::start();
    let (door, token) = cluster.invitation();
    let mut node = cluster.join("a", &["--token", &token, &door]);
    node.until_said("node a offers");
    let door: SocketAddr = door.parse().expect("an address");
    let (threads, runtime) = (TransportRuntime::new(1).expect("threads"), runtime());
    let asks = |identity: &Identity| {
        runtime.block_on(async {
            let link = QuicLink::bind(identity, &here(), &threads).expect("a link");
            let connection =
                link.connect(&PeerAddr::Quic(door), Class::Control, WAIT).await.expect("it is one");
            operates(&*connection).await
        })
    };
    assert!(asks(&cluster.identity("control/operator")), "what it is there for");
    assert!(asks(&cluster.identity("control/control")));
    assert!(!asks(&cluster.identity("a/node")), "a node is no operator");

    // Who has shown no certificate may ask to join, and that is all.
    let pin = token.parse::<JoinToken>().expect("a token").pin;
    let newcomer = runtime.block_on(async {
        let connection = knock(door, pin, WAIT, &threads).await.expect("it is let to the desk");
        operates(&*connection).await
    });
    assert!(!newcomer);
    // And one with a certificate of a CA of its own is not heard at all.
    let stranger = ClusterAuthority::create("troupe")
        .and_then(|ca| ca.issue(PeerRole::Operator, cluster.identity("a/node").name().node))
        .expect("an identity");
    let refused = runtime.block_on(async {
        let link = QuicLink::bind(&stranger, &here(), &threads).expect("a link");
        link.connect(&PeerAddr::Quic(door), Class::Control, WAIT).await.err()
    });
    let why = chain(&refused.expect("it is refused"));
    assert!(why.contains("of another cluster"), "{why}");
}

#[test]
fn a_host_that_is_taken_out_ends_and_does_not_come_back() {
    let cluster = Cluster::start();
    let (door, _) = cluster.invitation();
    let token = cluster.token(&["--uses", "3"]);
    let join = |name: &str| {
        let mut node = cluster.join(name, &["--token", &token, &door]);
        node.until_said(&format!("node {name} offers"));
        node
    };
    let (mut a, mut b, mut c) = (join("a"), join("b"), join("c"));
    let identity = cluster.identity("a/node");
    let said = cluster.done(&["revoke", "a", "--reason", "it was sold"]);
    assert_eq!(said, "node/a revoked\n");
    assert!(!a.ended().success());
    assert!(a.log().contains("taken out of the cluster (it was sold)"), "{}", a.log());
    until("it is no longer listed", || !cluster.done(&["get", "nodes"]).contains("a "));
    // Nor is it heard by anybody, whatever it shows.
    let threads = TransportRuntime::new(1).expect("threads");
    let address = PeerAddr::Quic(door.parse().expect("an address"));
    let refused = runtime().block_on(async {
        let link = QuicLink::bind(&identity, &here(), &threads).expect("a link");
        link.connect(&address, Class::Control, WAIT).await.err()
    });
    let why = chain(&refused.expect("it is refused"));
    assert!(why.contains("revoked") && why.contains("it was sold"), "{why}");
    let back = cluster.join_ended("a", &[]);
    assert_eq!(back.code, Some(2), "{}", back.log);
    assert!(back.log.contains("this host was taken out of the cluster"), "{}", back.log);

    // One that is deleted, and one that is off.
    assert_eq!(cluster.done(&["delete", "node", "b"]), "node \"b\" deleted\n");
    assert!(!b.ended().success());
    c.interrupt();
    assert!(c.ended().success());
    until("it is gone", || !cluster.done(&["get", "nodes"]).contains("c "));
    assert_eq!(cluster.done(&["revoke", "c"]), "node/c revoked\n");
    let back = cluster.join_ended("c", &[]);
    assert!(back.log.contains("this host was taken out of the cluster"), "{}", back.log);
    // Who would shut itself out is asked to think again.
    let own = cluster.says(&["revoke", "control"]);
    assert!(own.err.contains("ask with another host's"), "{own:?}");
    let nobody = cluster.says(&["revoke", "nobody"]);
    assert!(nobody.err.contains("nodes \"nobody\" not found"), "{nobody:?}");
}

#[test]
fn certificates_renew_while_all_goes_on() {
    let cluster = Cluster::start_with("troupe", &["--certificate-lifetime", "15s"], true);
    let (door, _) = cluster.invitation();
    let token = cluster.token(&["--uses", "2"]);
    let words = ["--token", token.as_str(), door.as_str()];
    let _hosts = [cluster.join("a", &words), cluster.join("b", &words)];
    until("the service serves", || cluster.ask());
    let places = ["a/node", "b/node", "control/control", "control/operator"];
    let first = places.map(|place| cluster.identity(place).expires());
    let last = first.iter().max().expect("some").to_owned();
    until("the first certificates are over", || SystemTime::now() > last);
    for (place, first) in places.into_iter().zip(first) {
        until("there is a newer one", || cluster.identity(place).expires() > first);
    }
    // Old connections went on; new ones are made with new certificates: an operator's, and a
    // gateway's that has just joined, to members that were there before.
    assert!(cluster.ask());
    assert!(cluster.done(&["get", "nodes"]).contains("a "));
    let mut args = cluster.gateway_args("gateway");
    args.extend(["--join".into(), door.clone(), "--token".into(), cluster.token(&[])]);
    let mut gateway = Troupe::start(&args);
    let address = gateway.address("gateway on ");
    until("the new gateway serves", || cluster.ask_at(address));
}

#[test]
fn a_certificate_that_expired_while_its_host_was_off_is_renewed_by_a_token() {
    let cluster = Cluster::start_with("troupe", &["--certificate-lifetime", "6s"], false);
    let (door, token) = cluster.invitation();
    let mut host = cluster.join("a", &["--token", &token, &door]);
    host.until_said("node a offers");
    host.interrupt();
    assert!(host.ended().success());
    let before = cluster.identity("a/node");
    until("it expires", || SystemTime::now() > before.expires());
    let ended = cluster.join_ended("a", &[]);
    assert!(ended.log.contains(" expired ") && ended.log.contains("with a new token"), "{ended:?}");
    let mut host = cluster.join("a", &["--token", &cluster.token(&[]), &door]);
    host.until_said("node a offers");
    assert_eq!(cluster.identity("a/node").name(), before.name(), "it is who it was");
}

#[test]
fn a_second_control_host_takes_over_from_the_first() {
    let mut cluster = Cluster::start_serving();
    let warning = "this is the only control host";
    cluster.control.until_said(warning);
    let (door, _) = cluster.invitation();
    let token = cluster.token(&["--kind", "control"]);
    let words = ["--token", &token, &door, "--host", "127.0.0.1", "--port", "0"];
    let mut second = cluster.join("second", &words);
    let address = second.address("gateway on ");
    assert!(Path::new(&cluster.path("second/ca/ca-key.pem")).exists());
    let contexts = ["control/operator/servers.json", "second/operator/servers.json"];
    for context in contexts {
        until("each knows the other", || {
            let text = fs::read_to_string(cluster.path(context)).unwrap_or_default();
            text.matches("quic://").count() == 2
        });
    }

    // One token for one host, asked of both at the same moment: it lets one in.
    let token = cluster.token(&[]);
    let doors: Vec<String> = doors(&cluster.path("control/operator/servers.json"));
    let both: Vec<Troupe> = [("a", &doors[0]), ("b", &doors[1])]
        .into_iter()
        .map(|(name, door)| cluster.join(name, &["--token", &token, door]))
        .collect();
    let joined = |host: &Troupe| host.log().contains("joined the cluster");
    let refused = |host: &Troupe| host.log().contains("has been used by");
    until("each has its answer", || both.iter().all(|host| joined(host) || refused(host)));
    assert_eq!(both.iter().filter(|host| joined(host)).count(), 1);

    cluster.control.kill();
    // Two stages need two devices: the second control host's and the joined one's.
    until("the second's gateway serves", || cluster.ask_at(address));
    let said = cluster.says_by("second/operator", &["token", "create", "-o", "token"]);
    let mut third = cluster.join("c", &["--token", said.out.trim(), &doors_other(&doors, &door)]);
    third.until_said("node c offers");
}

#[test]
fn a_gateway_needs_no_ca_and_a_host_no_controller() {
    let cluster = Cluster::start_with("troupe", &["--roles", "gateway"], false);
    let (door, token) = cluster.invitation();
    let mut host = cluster.join("a", &["--token", &token, &door]);
    host.until_said("no controller is in office");
    host.until_said("node a offers");

    let token = cluster.token(&[]);
    let mut args = cluster.gateway_args("gateway");
    let before = args.clone();
    args.extend(["--join".into(), door, "--token".into(), token]);
    let mut gateway = Troupe::start(&args);
    gateway.until_said("joined the cluster troupe as troupe://troupe/gateway/");
    gateway.address("gateway on ");
    gateway.interrupt();
    assert!(gateway.ended().success());
    let mut gateway = Troupe::start(&before);
    gateway.address("gateway on ");
    // A gateway that is taken out ends too.
    let id = cluster.identity("gateway/gateway").name().node.to_string();
    cluster.done(&["revoke", &id]);
    assert!(!gateway.ended().success());
}

#[test]
fn operators_see_the_tokens_that_there_are_and_no_secret() {
    let cluster = Cluster::start();
    let (_, token) = cluster.invitation();
    let id = id_of(&token);
    let list = cluster.done(&["token", "list"]);
    assert!(list.starts_with("NAME") && list.contains(&id), "{list}");
    let made =
        cluster.done(&["token", "create", "--kind", "control", "--ttl", "30m", "-o", "json"]);
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!(made["spec"]["kind"], "control");
    let secret = made["status"]["token"].as_str().expect("the token");
    let secret = secret.parse::<JoinToken>().expect("a token").secret;
    for words in [["token", "list", "-o", "yaml"], ["get", "tokens", "-o", "yaml"]] {
        let shown = cluster.done(&words);
        assert!(shown.contains(made["metadata"]["name"].as_str().expect("a name")), "{shown}");
        assert!(!shown.contains(&secret), "{shown}");
    }
    let line = cluster.done(&["token", "create", "--uses", "2"]);
    assert!(line.starts_with("troupe join 127.0.0.1:") && line.contains(" --token troupe1."));
    for (words, why) in [
        (["--uses", "0"], "1 to 1000 hosts"),
        (["--ttl", "2000h"], "30 days"),
        (["--ttl", "soon"], "must be a time"),
    ] {
        let said = cluster.says(&["token", "create", words[0], words[1]]);
        assert!(said.code != Some(0) && said.err.contains(why), "{words:?}: {said:?}");
    }
    let none = cluster.says(&["token", "revoke", "nothing"]);
    assert!(none.err.contains("tokens \"nothing\" not found"), "{none:?}");
}

/// Whether an operator's question is answered on a connection.
async fn operates(connection: &dyn Connection) -> bool {
    let Ok(mut stream) = connection.open(Conversation::Operate, WAIT).await else { return false };
    let question = OperateUp::Get(Selection { kind: "Node".into(), ..Selection::default() });
    if stream.sender.send(&question, WAIT).await.is_err() {
        return false;
    }
    let mut answers = 0;
    loop {
        match stream.receiver.next::<OperateDown>().await {
            Ok(Some(_)) => answers += 1,
            // A whole answer ends in order, with as many objects as there are.
            Ok(None) => return answers > 0,
            Err(_) => return false,
        }
    }
}

fn here() -> QuicConfig {
    QuicConfig { listen: ([127, 0, 0, 1], 0).into(), ..QuicConfig::default() }
}

/// A token's part that is no secret.
fn id_of(token: &str) -> String {
    token.parse::<JoinToken>().expect("a token").id
}

/// The control hosts of a context, as `HOST:PORT`.
fn doors(context: &str) -> Vec<String> {
    let text = fs::read_to_string(context).expect("a context");
    let context: Value = serde_json::from_str(&text).expect("JSON");
    let servers = context["servers"].as_array().expect("a list").iter();
    let text = |server: &Value| server.as_str().expect("text").trim_start_matches("quic://").into();
    servers.map(text).collect()
}

fn doors_other(doors: &[String], not: &str) -> String {
    doors.iter().find(|door| *door != not).expect("another one").clone()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true => copy(&path, &to),
            false => drop(fs::copy(&path, &to).expect("copied")),
        }
    }
}
