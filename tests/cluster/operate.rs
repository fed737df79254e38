//! What an operator types, and what is printed and returned for it: the binary against a control
//! host over a real etcd.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    etcd_process::EtcdProcess,
    golden,
    operator::{Said, troupe, troupe_in},
    process::{Troupe, until},
};

/// A control host that is a node too, and an operator's context.
struct Office {
    _troupe: Troupe,
    _etcd: EtcdProcess,
    folder: TempDir,
}

const SERVICE: &str = "llminferenceservice.serving.kserve.io";

impl Office {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let etcd = EtcdProcess::start();
        let (endpoint, data) = (etcd.endpoint(), folder.path().join("control"));
        let data = data.to_str().expect("a path that can be written");
        let mut args = vec!["up", "--etcd", &endpoint, "--data-dir", data, "--name", "n1"];
        args.extend(["--devices", "2", "--listen", "127.0.0.1:0", "--host", "127.0.0.1"]);
        args.extend(["--port", "0", "--log-format", "json"]);
        let mut troupe = Troupe::start(&args);
        troupe.until_said("operators: troupe get nodes --context ");
        let office = Self { _troupe: troupe, _etcd: etcd, folder };
        until("the host is there", || office.says("get nodes").out.contains("n1"));
        office
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Writes a file and gives back its path.
    fn file(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).expect("it can be written");
        self.path(name)
    }

    fn service(&self, replicas: u32) -> String {
        let model = golden::model("tiny-qwen2").expect("the model");
        let text = format!(
            "apiVersion: serving.kserve.io/v1alpha1\nkind: LLMInferenceService\n\
             metadata:\n  name: demo\nspec:\n  model:\n    uri: file://{}\n    name: m\n  \
             replicas: {replicas}\n  template:\n    containers:\n    - name: main\n      \
             args: [\"--max-model-len\", \"256\", \"--kv-cache-memory-bytes\", \"67108864\"]\n",
            model.display()
        );
        self.file("service.yaml", &text)
    }

    /// A command in this context.
    fn says(&self, line: &str) -> Said {
        let words: Vec<&str> = line.split_whitespace().collect();
        troupe_in(&self.path("control/operator"), &words)
    }

    /// The same, of which nothing may go wrong.
    fn done(&self, line: &str) -> String {
        let said = self.says(line);
        assert_eq!(said.code, Some(0), "{line}: {said:?}");
        said.out
    }

    /// The same, which has to fail: what it says then.
    fn refused(&self, line: &str) -> String {
        let said = self.says(line);
        assert_eq!(said.code, Some(1), "{line}: {said:?}");
        said.err
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.done(&format!("{line} -o json"))).expect("JSON")
    }
}

/// A table with its ages masked, which no two runs share.
fn masked(table: &str) -> String {
    let age = |word: &str| {
        let number = word.trim_end_matches(['s', 'm', 'h']);
        word.len() > number.len() && number.chars().all(|letter| letter.is_ascii_digit())
    };
    let lines = table.lines().map(|line| {
        let words = line.split_whitespace().map(|word| if age(word) { "AGE" } else { word });
        words.collect::<Vec<_>>().join(" ") + "\n"
    });
    lines.collect()
}

#[test]
fn a_service_from_its_declaration_to_its_end() {
    let office = Office::start();
    let version = env!("CARGO_PKG_VERSION");
    let nodes = format!("NAME STATUS DEVICES AGE VERSION\nn1 Ready 0/2 AGE {version}\n");
    assert_eq!(masked(&office.done("get nodes")), nodes);

    let file = office.service(1);
    let dry = office.done(&format!("apply -f {file} --dry-run"));
    assert!(dry.starts_with(&format!("{SERVICE}/demo created (server dry run)\n")), "{dry}");
    let nothing = office.says("get llmisvc");
    assert_eq!((nothing.code, nothing.out.as_str()), (Some(0), ""));
    assert_eq!(nothing.err, "No resources found in default namespace.\n");

    assert_eq!(office.done(&format!("apply -f {file}")), format!("{SERVICE}/demo created\n"));
    assert_eq!(office.done(&format!("apply -f {file}")), format!("{SERVICE}/demo unchanged\n"));
    let exists = office.refused(&format!("create -f {file}"));
    assert!(
        exists.contains("Error from server (AlreadyExists): llminferenceservices."),
        "{exists}"
    );
    until("it serves", || {
        let shown = office.json("get llmisvc demo");
        shown["status"]["readyReplicas"] == 1
    });
    let table = masked(&office.done("get llmisvc"));
    assert!(table.starts_with("NAME READY UP-TO-DATE STATUS URL AGE\ndemo 1/1 "), "{table}");
    assert_eq!(office.done("get llmisvc demo -o name"), format!("{SERVICE}/demo\n"));
    let groups = masked(&office.done("get groups -A"));
    assert!(groups.contains("\ndefault demo-0 1/1 Ready "), "{groups}");

    // What is shown can be applied.
    let shown = office.file("shown.yaml", &office.done("get llmisvc demo -o yaml"));
    assert_eq!(office.done(&format!("apply -f {shown}")), format!("{SERVICE}/demo unchanged\n"));

    assert_eq!(office.done("scale llmisvc/demo --replicas 2"), format!("{SERVICE}/demo scaled\n"));
    let refusal = office.refused("scale llmisvc/demo --replicas 3 --current-replicas 1");
    assert!(refusal.contains("Expected replicas to be 1, was 2"), "{refusal}");
    let stale = fs::read_to_string(&shown).expect("it was written");
    let stale = office.file("stale.yaml", &stale.replace("replicas: 1\n", "replicas: 9\n"));
    let conflict = office.refused(&format!("apply -f {stale}"));
    assert!(conflict.starts_with("Error from server (Conflict): Operation cannot"), "{conflict}");
    until("both serve", || office.json("get llmisvc demo")["status"]["readyReplicas"] == 2);

    let page = office.done("describe llmisvc demo");
    for part in ["Name:           demo\n", "Namespace:      default\n", "Replicas:       2 desired"]
    {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
    let logs = office.done("logs demo-0 --tail 3");
    assert!((1..=3).contains(&logs.lines().count()), "{logs}");
    let logs = office.done("logs llmisvc/demo --tail 1");
    assert!(logs.contains("[demo-0-0] ") && logs.contains("[demo-1-0] "), "{logs}");
    let top = masked(&office.done("top services"));
    assert!(top.starts_with("NAME GROUPS RUNNING WAITING KV% TOKENS/S\ndemo 2 0 0 "), "{top}");
    let top = masked(&office.done("top nodes"));
    assert!(top.contains("\nn1 2/2 2 0 0 "), "{top}");

    let gone = office.done("delete llmisvc demo");
    assert_eq!(gone, format!("{SERVICE} \"demo\" deleted\n"));
    let error = office.refused("get llmisvc demo");
    let not_found = "Error from server (NotFound): llminferenceservices.serving.kserve.io \"demo\" \
                     not found\n";
    assert_eq!(error, not_found);
    assert_eq!(office.done("delete llmisvc demo --ignore-not-found"), "");
    assert_eq!(office.done("get groups"), "", "it was waited for");
}

#[test]
fn hosts_are_labeled_and_cordoned() {
    let office = Office::start();
    assert_eq!(office.done("label node n1 team=a"), "node/n1 labeled\n");
    let error = office.refused("label node n1 team=b");
    assert!(error.contains("'team' already has a value (a), and --overwrite is false"), "{error}");
    assert!(office.done("get nodes -l team=a").contains("n1"));
    assert_eq!(office.done("get nodes -l team=b"), "");
    assert_eq!(office.done("label no/n1 team-"), "node/n1 unlabeled\n");
    assert_eq!(office.done("cordon n1"), "node/n1 cordoned\n");
    assert_eq!(office.done("cordon n1"), "node/n1 already cordoned\n");
    assert!(office.done("get nodes").contains("Ready,SchedulingDisabled"));
    let drained = office.done("drain n1 --timeout 60s");
    assert_eq!(drained, "node/n1 cordoned\nnode/n1 drained\n", "nothing runs there");
    assert_eq!(office.done("uncordon n1"), "node/n1 uncordoned\n");
    assert_eq!(
        office.refused("cordon n9"),
        "Error from server (NotFound): nodes \"n9\" not found\n"
    );
}

#[test]
fn what_is_wrong_is_said_as_a_whole_and_with_what_would_be_right() {
    let office = Office::start();
    let error = office.refused("get pods");
    assert!(
        error.starts_with("error: the server doesn't have a resource type \"pods\""),
        "{error}"
    );
    let bad = "apiVersion: serving.kserve.io/v1alpha1\nkind: LLMInferenceService\n\
               metadata: {name: a}\nspec: {model: {}, replicas: -1}\n---\n\
               apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n";
    let file = office.file("bad.yaml", bad);
    let error = office.refused(&format!("apply -f {file}"));
    for part in [
        "3 problems, nothing was sent",
        "document 1: spec.model.uri",
        "document 1: spec.replicas",
        "document 2: kind",
    ] {
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
    let error = office.refused("apply -f /no/such/file");
    assert_eq!(error, "error: the path \"/no/such/file\" does not exist\n");
    assert_eq!(office.done("get llmisvc"), "");
    for line in ["describe llmisvc x", "scale llmisvc/x --replicas 1", "rollout restart llmisvc/x"]
    {
        let error = office.refused(line);
        assert!(error.contains("\"x\" not found"), "{line}: {error}");
    }
}

#[test]
fn a_cluster_that_is_not_there_is_named() {
    let nobody = troupe(&["get", "nodes"]);
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.err.starts_with("error: no cluster is known here: "), "{}", nobody.err);
    assert!(nobody.err.contains("--context DIR"), "{}", nobody.err);

    let office = Office::start();
    let elsewhere = office.refused("get nodes --server quic://127.0.0.1:1");
    assert!(elsewhere.starts_with("error: no control host answers; tried\n"), "{elsewhere}");
    assert!(elsewhere.contains("quic://127.0.0.1:1: "), "{elsewhere}");
    let offline = office.service(1);
    let dry = troupe(&["apply", "-f", &offline, "--dry-run=client"]);
    assert_eq!(dry.out, format!("{SERVICE}/demo configured (dry run)\n"), "{}", dry.err);
    let completion = troupe(&["completion", "bash"]);
    assert!(completion.out.contains("complete -F _troupe"), "{}", completion.err);
}
