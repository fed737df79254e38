//! `troupe preflight` against real clusters: one that is fit, a model that a host does not have,
//! two hosts that do not reach each other.

use std::{fs, os::unix::fs::symlink, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    etcd_process::EtcdProcess,
    golden,
    network::Network,
    operator::{Said, troupe_in},
    process::{Troupe, until},
};

#[test]
fn a_cluster_is_found_fit_until_a_host_lacks_the_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    // The control host and one node have the model, the other node has none.
    let model = golden::model("tiny-qwen2").expect("the model");
    let snapshots = folder.path().join("hub/models--org--m/snapshots");
    fs::create_dir_all(&snapshots).expect("a folder");
    symlink(model, snapshots.join("main")).expect("a link");
    let with = format!("HF_HUB_CACHE={}", path("hub"));
    let without = format!("HF_HUB_CACHE={}", path("no-hub"));
    let etcd = EtcdProcess::start();
    let here = "127.0.0.1:0";
    let _control = control(&["env", &with], &etcd.endpoint(), folder.path(), here);
    let node =
        |name: &str, under: &[&str]| node(under, &etcd.endpoint(), folder.path(), name, here);
    let _nodes = [node("a", &["env", &with]), node("b", &["env", &without])];
    until_nodes(&folder, 2);

    let said = preflight(&folder, &[]);
    assert_eq!(said.code, Some(0), "{said:?}");
    // The first two words of each line of a table.
    let table = |title: &str| {
        let lines = said.out.lines().skip_while(|line| !line.starts_with(title));
        let rows = lines.skip(1).take_while(|line| !line.is_empty());
        let two = |row: &str| row.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        rows.map(two).collect::<Vec<_>>()
    };
    let version = env!("CARGO_PKG_VERSION");
    let hosts = ["(control)", "a", "b"].map(|name| format!("{name} {version}"));
    assert_eq!(table("HOST "), hosts, "{}", said.out);
    let ways = ["(control) a", "(control) b", "a (control)", "a b", "b (control)", "b a"];
    assert_eq!(table("FROM "), ways, "{}", said.out);
    for right in ["ways: every host reaches every other, 6 ways", "versions: all run ", "clocks: "]
    {
        assert!(said.out.contains(&format!("ok       {right}")), "{}", said.out);
    }

    let said = preflight(&folder, &["--model", "org/m"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("refused  b: org/m is not on this machine: "), "{}", said.out);
    assert!(said.out.contains("fix: put org/m there"), "{}", said.out);
    assert_eq!(said.err, "error: the cluster is not fit: 1 finding is a refusal\n");

    let said = preflight(&folder, &["a", "--model", "org/m", "-o", "json"]);
    assert_eq!(said.code, Some(0), "b was not asked: {said:?}");
    let report: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(report["fit"], true);
    let digests = ["/hosts/0/model/digest", "/hosts/1/model/digest"];
    let digests = digests.map(|at| report.pointer(at).expect("a digest").clone());
    assert_eq!(digests[0], digests[1]);
    let said = preflight(&folder, &["c"]);
    assert_eq!(said.err, "Error from server (NotFound): nodes \"c\" not found\n");
}

#[test]
fn hosts_that_do_not_reach_each_other_are_named() {
    let Some(mut network) = Network::new() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let hosts = ["etcd", "control", "a", "b"].map(|name| network.host(name));
    let words = hosts.each_ref().map(|host| host.words());
    let under = |index: usize| words[index].iter().map(String::as_str).collect::<Vec<_>>();
    let address = |index: usize| hosts[index].address().to_string();
    let etcd = EtcdProcess::start_cluster_on(&[(words[0].clone(), hosts[0].address())]);
    let endpoint = etcd[0].endpoint();
    let _control = control(&under(1), &endpoint, folder.path(), &address(1));
    let node = |index, name| node(&under(index), &endpoint, folder.path(), name, &address(index));
    let _nodes = [node(2, "a"), node(3, "b")];
    until_nodes(&folder, 2);
    // Both still reach the control host and etcd.
    hosts[2].cut_off(&hosts[3]);
    let said = preflight(&folder, &[]);
    assert_eq!(said.code, Some(1), "{said:?}");
    for (from, to, ends) in [(2, 3, "a -> b"), (3, 2, "b -> a")] {
        let line = format!("refused  {ends}: cannot be reached at quic://{}:", address(to));
        assert!(said.out.contains(&line), "{}", said.out);
        let fix = format!("fix: let UDP from {} to {} through", address(from), address(to));
        assert!(said.out.contains(&fix), "{}", said.out);
    }
    hosts[2].heal();
    until("they reach each other", || preflight(&folder, &[]).code == Some(0));
}

fn control(under: &[&str], etcd: &str, folder: &Path, listen: &str) -> Troupe {
    let data = folder.join("control").display().to_string();
    let mut args = vec!["up", "--roles", "controller,gateway", "--etcd", etcd, "--listen", listen];
    args.extend(["--data-dir", &data, "--port", "0", "--log-format", "json"]);
    let mut troupe = Troupe::start_under(under, &args);
    troupe.until_said("operators: troupe get nodes --context ");
    troupe
}

fn node(under: &[&str], etcd: &str, folder: &Path, name: &str, listen: &str) -> Troupe {
    let path = |name: &str| folder.join(name).display().to_string();
    let (data, ca) = (path(name), path("control/ca"));
    let mut args = vec!["node", "--etcd", etcd, "--name", name, "--data-dir", &data, "--ca", &ca];
    args.extend(["--listen", listen, "--log-format", "json"]);
    Troupe::start_under(under, &args)
}

fn until_nodes(folder: &TempDir, count: usize) {
    until("the hosts are there", || {
        let said = troupe(folder, &["get", "nodes", "-o", "name"]);
        said.out.lines().count() == count
    });
}

fn preflight(folder: &TempDir, words: &[&str]) -> Said {
    troupe(folder, &[&["preflight"], words].concat())
}

fn troupe(folder: &TempDir, words: &[&str]) -> Said {
    troupe_in(&folder.path().join("control/operator").display().to_string(), words)
}
