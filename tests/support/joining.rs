//! A control host over a real etcd, and hosts that join it.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use tempfile::TempDir;
use troupe_runtime::{
    transport::{
        Conversation, TransportRuntime, knock,
        tls::{Identity, JoinToken, SigningKey},
    },
    wire::{
        self,
        join::{JoinDown, JoinPart, JoinUp},
    },
};

use crate::{
    etcd_process::EtcdProcess,
    operator::{Said, troupe_in},
    process::{Ended, Troupe},
    question::{Question, two_stages},
};

/// A control host, its etcd, and who joins.
pub(crate) struct Cluster {
    pub(crate) control: Troupe,
    pub(crate) etcd: EtcdProcess,
    folder: TempDir,
    question: Question,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::start_as("troupe")
    }

    pub(crate) fn start_as(name: &str) -> Self {
        Self::start_with(name, &[], false)
    }

    /// One with a service of two stages, which needs two hosts.
    pub(crate) fn start_serving() -> Self {
        Self::start_with("troupe", &[], true)
    }

    pub(crate) fn start_with(name: &str, more: &[&str], serves: bool) -> Self {
        let (folder, etcd) = (tempfile::tempdir().expect("a folder"), EtcdProcess::start());
        let control = Self::control(&folder, &etcd, name, more, (serves, false));
        Self { control, etcd, folder, question: Question::golden() }
    }

    /// Kills the control host and starts it again with what it has on its disk.
    #[allow(dead_code, reason = "not everybody who mounts this does it")]
    pub(crate) fn restart_control(&mut self, more: &[&str]) {
        self.control.kill();
        self.control = Self::control(&self.folder, &self.etcd, "troupe", more, (false, true));
    }

    fn control(
        folder: &TempDir,
        etcd: &EtcdProcess,
        name: &str,
        more: &[&str],
        (serves, again): (bool, bool),
    ) -> Troupe {
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (endpoint, data, file) = (etcd.endpoint(), path("control"), path("service.json"));
        let mut args = vec!["up", "--etcd", &endpoint, "--data-dir", &data, "--cluster", name];
        if !more.contains(&"--roles") {
            args.extend(["--roles", "controller,gateway"]);
        }
        args.extend(["--listen", "127.0.0.1:0", "--host", "127.0.0.1", "--port", "0"]);
        args.extend(["--name", "control"]);
        args.extend(more);
        if serves {
            fs::write(&file, two_stages().to_string()).expect("it can be written");
            args.extend(["-f", &file]);
        }
        let mut control = Troupe::start(&args);
        // In the beginning it says who may join; later, how to find that out.
        control.until_said(if again { "operators: " } else { "troupe join " });
        control
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The door and the token that `up` printed.
    pub(crate) fn invitation(&self) -> (String, String) {
        let log = self.control.log();
        let line = log.lines().find(|line| line.trim_start().starts_with("troupe join "));
        let words: Vec<&str> = line.expect("it was waited for").split_whitespace().collect();
        let ["troupe", "join", door, "--token", token] = words[..] else { panic!("{words:?}") };
        (door.to_owned(), token.to_owned())
    }

    /// Makes a token.
    pub(crate) fn token(&self, more: &[&str]) -> String {
        let mut words = vec!["token", "create", "-o", "token"];
        words.extend(more);
        self.done(&words).trim().to_owned()
    }

    fn join_args(&self, name: &str, more: &[&str]) -> Vec<String> {
        let data = self.path(name);
        let mut args = vec!["join", "--data-dir", &data];
        if !more.contains(&"--name") {
            args.extend(["--name", name]);
        }
        args.extend(["--listen", "127.0.0.1:0"]);
        args.extend(more);
        args.into_iter().map(str::to_owned).collect()
    }

    pub(crate) fn join(&self, name: &str, more: &[&str]) -> Troupe {
        Troupe::start(&self.join_args(name, more))
    }

    pub(crate) fn join_ended(&self, name: &str, more: &[&str]) -> Ended {
        Troupe::run(&self.join_args(name, more))
    }

    pub(crate) fn gateway_args(&self, name: &str) -> Vec<String> {
        let data = self.path(name);
        let args = ["gateway", "--data-dir", &data, "--host", "127.0.0.1", "--port", "0"];
        args.map(str::to_owned).into()
    }

    /// A command by the control host's operator.
    pub(crate) fn says(&self, words: &[&str]) -> Said {
        self.says_by("control/operator", words)
    }

    pub(crate) fn says_by(&self, context: &str, words: &[&str]) -> Said {
        troupe_in(&self.path(context), words)
    }

    pub(crate) fn done(&self, words: &[&str]) -> String {
        let said = self.says(words);
        assert_eq!(said.code, Some(0), "{words:?}: {said:?}");
        said.out
    }

    pub(crate) fn identity(&self, place: &str) -> Identity {
        Identity::load(Path::new(&self.path(place))).expect("an identity")
    }

    /// What a newcomer is told that says odd things of itself.
    pub(crate) fn answered(&self, token: &str, odd: impl FnOnce(&mut JoinUp)) -> String {
        let (door, _) = self.invitation();
        let token: JoinToken = token.parse().expect("a token");
        let key = SigningKey::generate().expect("a key");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time");
        let mut up = JoinUp {
            token: token.id,
            secret: token.secret,
            part: JoinPart::Host,
            request: key.request().expect("a request"),
            operator: None,
            former: None,
            name: "odd".into(),
            version: "0".into(),
            wire: wire::VERSION,
            now_ms: now.as_millis() as u64,
        };
        odd(&mut up);
        let threads = TransportRuntime::new(1).expect("threads");
        let answer = runtime().block_on(async {
            let door = door.parse().expect("an address");
            let connection = knock(door, token.pin, WAIT, &threads).await.expect("it is open");
            let mut stream = connection.open(Conversation::Join, WAIT).await.expect("a desk");
            stream.sender.send(&up, WAIT).await.expect("it is read");
            stream.receiver.expect::<JoinDown>(WAIT).await.expect("an answer")
        });
        match answer {
            JoinDown::Refused(why) => why,
            JoinDown::Welcome(_) => panic!("it is let in"),
        }
    }

    /// Whether it gives the golden tokens.
    pub(crate) fn ask(&self) -> bool {
        let line = self.control.log();
        let port = line.split("gateway on http://127.0.0.1:").nth(1).and_then(|rest| {
            rest.split_whitespace().next().and_then(|port| port.parse::<u16>().ok())
        });
        self.ask_at(([127, 0, 0, 1], port.expect("its gateway's port")).into())
    }

    pub(crate) fn ask_at(&self, address: SocketAddr) -> bool {
        self.question.ask(address).is_ok()
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("threads")
}

/// Longer than any step takes on a busy machine.
pub(crate) const WAIT: Duration = Duration::from_secs(20);
