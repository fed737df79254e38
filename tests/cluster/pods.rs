//! A group formed from the three variables that LeaderWorkerSet sets, without etcd: pods on hosts
//! of their own that run what the manifest says, find each other by name, and are restarted.

use std::{fs, net::SocketAddr, path::Path};

use tempfile::TempDir;

use crate::{
    golden, http,
    network::{Host, Network},
    process::{Troupe, completion, tokens, until},
    question::Question,
};

#[test]
fn pods_form_a_group_by_name_and_again_when_one_is_restarted() {
    let Some(group) = Group::on_hosts() else { return };
    // Nobody knows the leader's name yet.
    let pods = [group.pod(0, &[]), group.pod(1, &[])];
    let [mut leader, mut worker] = pods;
    leader.until_said("does not resolve yet");
    worker.until_said("does not resolve yet");
    group.network.name_hosts(&[(NAME, &group.hosts[0])]);
    group.until_it_serves(&mut leader);
    let mut last = epoch(&leader);
    assert!(last > 1_700_000_000_000, "{last}: milliseconds since 1970, for nobody knew better");

    // One that was started for something else is told, and nobody takes harm.
    let ended = group.run(1, &["--max-num-seqs=3"]);
    assert_eq!(ended.code, Some(2), "{}", ended.log);
    assert!(ended.log.contains("its flags.maxNumSeqs is 3"), "{}", ended.log);
    assert_eq!(group.ask(), Ok(()));

    worker.kill();
    // Requests wait at the gateway meanwhile; the probe does not.
    until("it is noticed", || !group.is_ready());
    worker = group.pod(1, &[]);
    until("it serves again", || group.ask().is_ok());
    assert!(epoch(&leader) > last, "{} after {last}", epoch(&leader));
    last = epoch(&leader);

    // The worker stays, and finds the new one.
    leader.kill();
    leader = group.pod(0, &[]);
    group.until_it_serves(&mut leader);
    assert!(epoch(&leader) > last, "{} after {last}", epoch(&leader));

    // Asked to end together, as Kubernetes does.
    worker.interrupt();
    leader.interrupt();
    assert!(leader.ended().success(), "{}", leader.log());
    assert!(worker.ended().success(), "{}", worker.log());
}

#[test]
fn a_group_of_pods_needs_what_it_cannot_do_without() {
    let folder = certified();
    let dir = |name: &str| folder.path().join(name).display().to_string();
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    let model = model.to_str().expect("a path that can be written");
    let identity = format!("--identity-dir={}", dir("identity"));
    let free = format!("--group-port={}", free_port());
    for (index, args, code, word) in [
        ("0", &["--pp=2"][..], 2, "troupe certify"),
        ("0", &["--pp=3", &identity], 2, "cannot share equally"),
        ("2", &["--pp=2", &identity], 2, "LWS_WORKER_INDEX must be below"),
        ("0", &["--pp=2", "--identity-dir=/nowhere"], 2, "/nowhere"),
        ("0", &["--pp=2", &identity, &free, "--port=0", "--group-timeout=1"], 1, "pods [1] of 2"),
        ("1", &["--pp=2", &identity, &free, "--group-timeout=1"], 1, "no leader for 1s"),
    ] {
        let index = format!("LWS_WORKER_INDEX={index}");
        let leader = "LWS_LEADER_ADDRESS=127.0.0.1";
        let all = [&["serve", model], args].concat();
        let ended = Troupe::run_under(&["env", leader, "LWS_GROUP_SIZE=2", &index], &all);
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.log);
        assert!(ended.log.contains(word), "{args:?}: {}", ended.log);
    }
}

/// The first pod's name, as LeaderWorkerSet gives it.
const NAME: &str = "troupe-0.troupe.default";

/// What the pods share.
struct Group {
    network: Network,
    hosts: Vec<Host>,
    folder: TempDir,
    model: String,
    prompt: Vec<u32>,
    golden: Vec<u32>,
}

impl Group {
    fn on_hosts() -> Option<Self> {
        let mut network = Network::new()?;
        let hosts = ["pod-0", "pod-1"].map(|name| network.host(name)).into();
        network.name_hosts(&[]);
        let folder = certified();
        let model = golden::model("tiny-qwen2").expect("both sets have it").display().to_string();
        let Question { prompt, golden } = Question::golden();
        Some(Self { network, hosts, folder, model, prompt, golden })
    }

    /// Starts a pod as Kubernetes would: what the manifest says, its volumes, the three variables.
    fn pod(&self, index: usize, more: &[&str]) -> Troupe {
        let (under, args) = self.command(index, more);
        Troupe::start_under(&under.iter().map(String::as_str).collect::<Vec<_>>(), &args)
    }

    /// The same of one that ends by itself.
    fn run(&self, index: usize, more: &[&str]) -> crate::process::Ended {
        let (under, args) = self.command(index, more);
        Troupe::run_under(&under.iter().map(String::as_str).collect::<Vec<_>>(), &args)
    }

    fn command(&self, index: usize, more: &[&str]) -> (Vec<String>, Vec<String>) {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let mut under = self.hosts[index].words();
        under.extend(["env", "LWS_GROUP_SIZE=2"].map(str::to_owned));
        under.push(format!("LWS_LEADER_ADDRESS={NAME}"));
        under.push(format!("LWS_WORKER_INDEX={index}"));
        let mounted = |arg: String| {
            arg.replace("/models/model", &self.model)
                .replace("/etc/troupe/identity", &at("identity"))
                .replace("/etc/troupe/config/troupe.yaml", &at("troupe.yaml"))
        };
        let args = manifest_args().into_iter().map(mounted);
        let args = args.chain(["--log-format=json".to_owned()]);
        (under, args.chain(more.iter().map(|arg| (*arg).to_owned())).collect())
    }

    fn until_it_serves(&self, leader: &mut Troupe) {
        leader.until_said("Troupe serves model on ");
        until("the golden tokens", || self.ask().is_ok());
    }

    /// What the readiness probe of the first pod asks.
    fn is_ready(&self) -> bool {
        let address = SocketAddr::new(self.hosts[0].address(), 8000);
        http::get(address, "/health").expect("the gateway answers").status == 200
    }

    /// Asks for tokens, which are the golden ones, or gives back the status of the refusal.
    fn ask(&self) -> Result<(), u16> {
        let mut body = completion(&self.prompt, self.golden.len());
        body["model"] = "model".into();
        let address = SocketAddr::new(self.hosts[0].address(), 8000);
        let answer = http::post(address, "/v1/completions", &body);
        let answer = answer.expect("the gateway answers whatever happens behind it");
        if answer.status != 200 {
            return Err(answer.status);
        }
        assert_eq!(tokens(&answer.ok()["choices"][0]), self.golden);
        Ok(())
    }
}

/// A folder with what `troupe certify` makes, and what the manifest's config map holds.
fn certified() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().to_str().expect("a path that can be written");
    let ended = Troupe::run(&["certify", at]);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let text = manifest();
    let config = text.split("troupe.yaml: |\n").nth(1).expect("the config map has a file");
    let lines = config.lines().take_while(|line| line.starts_with("    "));
    let config: String = lines.map(|line| format!("{}\n", line.trim())).collect();
    fs::write(folder.path().join("troupe.yaml"), config).expect("written");
    folder
}

/// What the manifest's containers are started with.
fn manifest_args() -> Vec<String> {
    let text = manifest();
    let args = text.split("args:\n").nth(1).expect("a container has arguments");
    let args = args.lines().map_while(|line| line.trim_start().strip_prefix("- "));
    let args: Vec<_> = args.map(|arg| arg.trim_matches('"').to_owned()).collect();
    assert!(args.len() > 3 && args[0] == "serve", "{args:?}");
    args
}

fn manifest() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes/group.yaml");
    fs::read_to_string(path).expect("the manifest")
}

/// The number of the incarnation that a pod began last.
fn epoch(pod: &Troupe) -> u64 {
    let started = pod.said("start member");
    let epoch = started.last().expect("it started a member")["fields"]["epoch"].to_string();
    let digits: String = epoch.trim_matches('"').chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|error| panic!("{error}: a number in {epoch}"))
}

fn free_port() -> u16 {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("its address").port()
}
