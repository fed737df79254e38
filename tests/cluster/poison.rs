//! A request that processes die of: it is found, runs alone, and ends; others go on.

use std::{ffi::OsString, fs, net::SocketAddr, sync::mpsc, thread};

use serde_json::{Value, json};

use crate::{
    conversation::{counted, two_groups},
    http,
    joining::Cluster,
    process::{self, completion, is_running, tokens, until},
};

/// A process that executes a request is ended as by a mistake of its own, again and again.
#[test]
fn a_request_that_ends_every_process_is_ended_and_others_are_answered() {
    let (cluster, gateway) = serving();
    let (begun, begins) = mpsc::sync_channel(1);
    let told = move || {
        let _ = begun.try_send(());
    };
    let asked = thread::spawn(move || stream(gateway, &[1, 2, 3, 4, 5], 240, told));
    begins.recv().expect("it begins");
    for _ in 0..2 {
        crash(&cluster);
    }
    // Now it is suspected, and waits for a group that has nothing else to do.
    let alone = executing(&cluster);
    let innocent = thread::spawn(move || stream(gateway, &[6, 7, 8], 20, || {}));
    process::abort(alone);
    let (begun, error) = asked.join().expect("it was asked");
    let error = error.expect("whoever executed it died");
    assert!(error["error"]["message"].as_str().is_some_and(|why| why.contains("alone")), "{error}");
    assert!(!begun.is_empty(), "it had begun");
    let (answer, error) = innocent.join().expect("it was asked");
    assert_eq!((answer.len(), error), (20, None), "what else is asked is answered");
    both_serve(gateway);
}

/// What is killed from outside accuses nobody, however often.
#[test]
fn a_request_whose_processes_are_killed_from_outside_is_no_suspect() {
    let (cluster, gateway) = serving();
    let asked = thread::spawn(move || stream(gateway, &[1, 2, 3, 4, 5], 240, || {}));
    for _ in 0..3 {
        let member = executing(&cluster);
        process::kill(member);
        until("it is gone", || !is_running(member));
    }
    let (answer, error) = asked.join().expect("it was asked");
    assert_eq!((answer.len(), error), (240, None));
}

/// Nobody reaps the members of a node that was killed, so nobody reads what they were at.
#[test]
fn what_members_of_a_killed_node_were_at_is_dropped() {
    let (mut cluster, _) = serving();
    let former = records(&cluster);
    assert_eq!(former.len(), 2, "{former:?}");
    cluster.restart_control(&HOST);
    both_serve(cluster.control.address("gateway on "));
    let records = records(&cluster);
    assert_eq!(records.len(), 2, "{records:?}");
    assert!(records.iter().all(|record| !former.contains(record)), "{records:?}");
}

/// The folders in which the host's members write what they are at.
fn records(cluster: &Cluster) -> Vec<OsString> {
    let folder = fs::read_dir(cluster.path("control/node/steps")).expect("members write there");
    folder.map(|member| member.expect("it is listed").file_name()).collect()
}

/// One host is everything.
const HOST: [&str; 4] = ["--roles", "controller,gateway,node", "--devices", "2"];

/// A host with two groups, and its gateway.
fn serving() -> (Cluster, SocketAddr) {
    let mut cluster = Cluster::start_with("troupe", &HOST, false);
    let file = cluster.path("service.json");
    fs::write(&file, two_groups().to_string()).expect("it can be written");
    cluster.done(&["apply", "-f", &file]);
    let gateway = cluster.control.address("gateway on ");
    both_serve(gateway);
    (cluster, gateway)
}

fn both_serve(gateway: SocketAddr) {
    until("both groups serve", || counted(gateway, "vllm:cache_config_info").len() == 2);
}

/// Ends the process that executes a request, as a failed assertion in a library does.
fn crash(cluster: &Cluster) {
    let member = executing(cluster);
    process::abort(member);
    until("it is gone", || !is_running(member));
}

/// The member that has a request in its step: the only one whose rank has written one down.
fn executing(cluster: &Cluster) -> u32 {
    let mut found = None;
    until("a member executes it", || {
        let executes = |member: &u32| {
            let files = fs::read_dir(format!("/proc/{member}/fd")).into_iter().flatten().flatten();
            let paths = files.filter_map(|file| fs::read_link(file.path()).ok());
            let mut records = paths.filter(|path| path.to_string_lossy().contains("/steps/"));
            // A state, a number, and an id of sixteen bytes for each request.
            records.any(|record| fs::read(record).is_ok_and(|text| text.len() > 5))
        };
        found = cluster.control.members().into_iter().find(executes);
        found.is_some()
    });
    found.expect("waited for")
}

/// The tokens that a stream brings, and the error with which it ends, if it does; `each` is called
/// with every token.
fn stream(
    gateway: SocketAddr,
    prompt: &[u32],
    length: usize,
    each: impl Fn(),
) -> (Vec<u32>, Option<Value>) {
    let mut body = completion(prompt, length);
    body["stream"] = json!(true);
    let mut all = Vec::new();
    for event in http::stream(gateway, "/v1/completions", &body).expect("a stream") {
        match event {
            http::Event::Data(data) if data["error"].is_object() => return (all, Some(data)),
            http::Event::Data(data) if data["choices"].is_array() => {
                all.extend(tokens(&data["choices"][0]));
                each();
            }
            http::Event::Data(_) | http::Event::Done => {}
            http::Event::Broken(why) => panic!("it broke: {why}"),
        }
    }
    (all, None)
}
