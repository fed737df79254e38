//! A cluster for load: a control host, a gateway, and hosts of one device each, all processes of
//! their own over a real etcd. One service, in groups of two stages on two hosts.

use std::{fs, net::SocketAddr};

use serde_json::{Value, json};

use crate::{
    golden, http,
    joining::Cluster,
    process::{Troupe, until},
};

/// The processes.
pub(crate) struct Fleet {
    // In this order: what is started first ends last.
    hosts: Vec<Troupe>,
    gateway: Troupe,
    cluster: Cluster,
    /// Where the gateway serves.
    pub(crate) address: SocketAddr,
    groups: usize,
}

/// A group as the controller tells it.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Which of the service's.
    pub(crate) name: String,
    /// Where its members are, the leader's first.
    hosts: Vec<usize>,
    /// Whether all of them are ready.
    ready: bool,
}

// === impl Fleet ===

impl Fleet {
    /// So many groups whose engines have these arguments, behind a gateway with those; all serve.
    pub(crate) fn start(groups: usize, engine: &[&str], gateway: &[&str]) -> Self {
        let roles = ["--roles", "controller"];
        let cluster = Cluster::start_with("troupe", &roles, false);
        let file = cluster.path("s.json");
        fs::write(&file, service(groups, engine).to_string()).expect("it can be written");
        cluster.done(&["apply", "-f", &file]);
        let (door, _) = cluster.invitation();
        let mut args = cluster.gateway_args("gateway");
        args.extend(["--join".into(), door.clone(), "--token".into(), cluster.token(&[])]);
        args.extend(gateway.iter().map(|arg| (*arg).to_owned()));
        let mut gateway = Troupe::start(&args);
        let address = gateway.address("gateway on ");
        let host = |index: usize| {
            let token = cluster.token(&[]);
            cluster.join(&format!("h{index}"), &["--devices", "1", "--token", &token, &door])
        };
        let hosts = (0..groups * 2).map(host).collect();
        let fleet = Self { hosts, gateway, cluster, address, groups };
        fleet.until_whole();
        fleet
    }

    /// Waits until every group serves and the gateway knows it.
    pub(crate) fn until_whole(&self) {
        until("every group serves", || {
            let groups = self.groups();
            groups.len() == self.groups
                && groups.iter().all(|group| group.ready)
                && self.counted("vllm:num_requests_running{").len() == self.groups
        });
    }

    /// All groups; none if the controller does not say.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let said = self.cluster.says(&["get", "groups", "-o", "json"]);
        let list = serde_json::from_str::<Value>(&said.out).unwrap_or_default();
        let group = |object: &Value| {
            let members = object["status"]["members"].as_array().cloned().unwrap_or_default();
            let host = |member: &Value| member["node"].as_str()?.strip_prefix('h')?.parse().ok();
            Group {
                name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
                hosts: members.iter().filter_map(host).collect(),
                ready: !members.is_empty() && object["status"]["ready"] == members.len(),
            }
        };
        list["items"].as_array().map(|items| items.iter().map(group).collect()).unwrap_or_default()
    }

    /// The processes of a group's members, the leader's first, as far as they run.
    pub(crate) fn members(&self, group: &Group) -> Vec<u32> {
        let members = |host: &usize| self.hosts.get(*host).map(Troupe::members);
        group.hosts.iter().filter_map(members).flatten().collect()
    }

    /// What a gateway has counted under a name; one for each line.
    pub(crate) fn counted(&self, name: &str) -> Vec<f64> {
        let Ok(answer) = http::get(self.address, "/metrics") else { return Vec::new() };
        let lines = answer.text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
    }

    /// Every process that is not a member, by what it is.
    pub(crate) fn processes(&self) -> Vec<(String, u32)> {
        let control = ("control".to_owned(), self.cluster.control.id());
        let gateway = ("gateway".to_owned(), self.gateway.id());
        let hosts = self.hosts.iter().enumerate();
        let hosts = hosts.map(|(index, host)| (format!("node {index}"), host.id()));
        [control, gateway].into_iter().chain(hosts).collect()
    }

    /// Kills the node of a group's last member, and starts it anew as what it was.
    pub(crate) fn restart_host(&mut self, group: &Group) {
        let Some(index) = group.hosts.last().copied() else { return };
        self.hosts[index].kill();
        self.hosts[index] = self.cluster.join(&format!("h{index}"), &["--devices", "1"]);
    }

    /// Kills the controller, and starts it anew with what it has on its disk.
    pub(crate) fn restart_control(&mut self) {
        self.cluster.restart_control(&["--roles", "controller"]);
    }

    /// What the gateway logged.
    pub(crate) fn gateway_log(&self) -> String {
        self.gateway.log()
    }
}

fn service(groups: usize, engine: &[&str]) -> Value {
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
            "replicas": groups,
            "parallelism": {"pipeline": 2},
            "template": {"containers": [{"name": "main", "args": engine}]},
            // So a group's stages are processes on hosts of their own.
            "worker": {"containers": [{"name": "main"}]},
        },
    })
}
