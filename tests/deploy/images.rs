//! The image and the compose file, on a Docker engine: a cluster of eleven containers that answers,
//! and goes on answering without any one of them.

use std::{net::SocketAddr, process::Command, time::Duration};

use serde_json::json;

use crate::{
    file, http,
    process::{is_running, until},
    skip::skipped,
    succeed,
};

#[test]
fn a_cluster_of_containers_answers_and_may_lose_one_of_each() {
    let Some(compose) = Compose::new() else { return };
    compose.image();
    compose.ask(&["up", "-d"], UP);
    let [first, second] = ["control-1", "control-2"].map(|name| compose.address(name));
    until("both gateways answer", || knows_paris(first) && knows_paris(second));
    for (service, through) in [("etcd-1", first), ("node-1", first), ("control-1", second)] {
        compose.ask(&["kill", service], LIMIT);
        until(&format!("it answers without {service}"), || knows_paris(through));
    }
}

/// Whether the demo model answers there.
fn knows_paris(gateway: SocketAddr) -> bool {
    let question = json!({
        "model": "troupe-demo", "temperature": 0, "max_tokens": 16,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    });
    let answer = http::post(gateway, "/v1/chat/completions", &question);
    answer.is_ok_and(|answer| answer.status == 200 && answer.text.contains("Paris"))
}

/// A project of compose with images of its own. Dropping it takes all of it away.
struct Compose {
    /// Of containers, networks, volumes and images alike.
    name: String,
    /// `docker compose`, or `docker-compose` where that is what there is.
    tool: Vec<&'static str>,
}

impl Compose {
    /// `None` where there is no engine or no compose, after saying so.
    fn new() -> Option<Self> {
        let works = |words: &[&str]| succeed(command(words).arg("version"), LIMIT).is_ok();
        if !works(&["docker"]) {
            skipped("no Docker engine answers");
            return None;
        }
        let tools = [vec!["docker", "compose"], vec!["docker-compose"]];
        let Some(tool) = tools.into_iter().find(|tool| works(tool)) else {
            skipped("neither `docker compose` nor docker-compose is installed");
            return None;
        };
        remove_leftovers(&tool);
        Some(Self { name: format!("{PREFIX}{}", std::process::id()), tool })
    }

    fn images(&self) -> [String; 2] {
        ["", "-etcd"].map(|what| format!("{}{what}:test", self.name))
    }

    /// Builds both images, and looks at ours.
    fn image(&self) {
        let [troupe, etcd] = self.images();
        let mut script = Command::new(file("deploy/image.sh"));
        script.args(["--binary", env!("CARGO_BIN_EXE_troupe"), "--tag", &troupe, "--etcd", &etcd]);
        succeed(&mut script, UP).unwrap_or_else(|why| panic!("{why}"));
        let format = "{{.Config.User}} {{.Size}} {{.Config.Healthcheck.Test}}";
        let found = docker(&["image", "inspect", "--format", format, &troupe]);
        let (user, rest) = found.split_once(' ').expect("a user");
        assert_eq!(user, "65532:65532", "not root");
        let (size, health) = rest.split_once(' ').expect("a size");
        let size: u64 = size.parse().expect("a number of bytes");
        assert!(size < IMAGE_BYTES, "{size}");
        assert!(health.contains("troupe health"), "{health}");
        assert!(docker(&["run", "--rm", &troupe, "--version"]).starts_with("troupe "));
    }

    /// Runs compose, which has to succeed.
    fn ask(&self, args: &[&str], limit: Duration) -> String {
        let said = succeed(&mut self.command(args), limit);
        said.unwrap_or_else(|why| panic!("{why}"))
    }

    fn command(&self, args: &[&str]) -> Command {
        let [troupe, etcd] = self.images();
        let mut command = command(&self.tool);
        command.arg("-f").arg(file("deploy/compose.yaml")).args(["-p", &self.name]).args(args);
        command.env("TROUPE_IMAGE", troupe).env("TROUPE_ETCD_IMAGE", etcd);
        // Free ones.
        command.env("TROUPE_PORT", "0").env("TROUPE_PORT_2", "0");
        command
    }

    /// Where a service's gateway is reached from here.
    fn address(&self, service: &str) -> SocketAddr {
        let said = self.ask(&["port", service, "8000"], LIMIT);
        said.trim().parse().unwrap_or_else(|error| panic!("{error}: an address in `{said}`"))
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = succeed(&mut self.command(&["logs", "--tail", "40", "--no-color"]), LIMIT);
            eprintln!("{}", logs.unwrap_or_else(|why| why));
        }
        remove(&self.tool, &self.name);
    }
}

/// Takes away what a killed test left behind.
fn remove_leftovers(tool: &[&str]) {
    let projects = docker(&["ps", "-a", "--format", r#"{{.Label "com.docker.compose.project"}}"#]);
    let mut projects: Vec<_> = projects.lines().collect();
    projects.dedup();
    for project in projects {
        let owner = project.strip_prefix(PREFIX).and_then(|id| id.parse().ok());
        if owner.is_some_and(|owner| !is_running(owner)) {
            remove(tool, project);
        }
    }
}

fn remove(tool: &[&str], project: &str) {
    let mut down = command(tool);
    down.arg("-f").arg(file("deploy/compose.yaml")).args(["-p", project]);
    let down = succeed(down.args(["down", "-v", "--remove-orphans", "-t", "0"]), UP);
    let images = ["", "-etcd"].map(|what| format!("{project}{what}:test"));
    let images = succeed(command(&["docker", "rmi", "-f"]).args(images), LIMIT);
    for failed in [down, images].into_iter().filter_map(Result::err) {
        eprintln!("left behind: {failed}");
    }
}

fn docker(args: &[&str]) -> String {
    let said = succeed(command(&["docker"]).args(args), LIMIT);
    said.unwrap_or_else(|why| panic!("{why}")).trim().to_owned()
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// A process id follows, so that what is left of a killed test can be told from what is in use.
const PREFIX: &str = "troupe-test-";
/// For commands that the engine answers at once.
const LIMIT: Duration = Duration::from_secs(60);
/// For building images, and for starting containers that wait until others are healthy.
const UP: Duration = Duration::from_secs(240);
/// What a slim image of ours stays below; it has some 45 MB today.
const IMAGE_BYTES: u64 = 100_000_000;
