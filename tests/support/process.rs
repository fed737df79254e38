//! The binary under test as a test's own process: started, watched through its log, killed.
//!
//! What it logs goes to a file, which is shown when the test fails. Members that it starts are its
//! children and end with it; whatever else it may have left in its process group goes when this is
//! dropped.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::http;

/// Longer than any start, formation or end takes on a busy machine: past it something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running `troupe`.
pub(crate) struct Troupe {
    child: Child,
    folder: TempDir,
    what: String,
}

/// What a command that ended by itself left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) log: String,
}

impl Troupe {
    /// `troupe` with these arguments, whatever the environment of whoever runs the tests.
    pub(crate) fn start<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Self {
        Self::start_under(&[], args)
    }

    /// The same as the last arguments of another program, which is to become it.
    pub(crate) fn start_under<S: AsRef<std::ffi::OsStr>>(program: &[&str], args: &[S]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let log = fs::File::create(folder.path().join("log")).expect("a log file");
        let mut words = program.iter().copied().chain([env!("CARGO_BIN_EXE_troupe")]);
        let mut command = Command::new(words.next().expect("one word at least"));
        command
            .args(words)
            .args(args)
            .env_remove("TROUPE_API_KEY")
            .env_remove("TROUPE_LOG")
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            // What a test wants from a hub it gets from one of its own.
            .env("HF_HUB_OFFLINE", "1")
            .env("XDG_CACHE_HOME", folder.path().join("cache"))
            // Where a control host would leave its context for its user.
            .env("XDG_CONFIG_HOME", folder.path().join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        let what = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect::<Vec<_>>();
        let child = command.spawn().expect("the binary can be started");
        Self { child, folder, what: what.join(" ") }
    }

    /// Runs a command that is expected to end by itself.
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Ended {
        Self::run_under(&[], args)
    }

    /// The same as the last arguments of another program.
    pub(crate) fn run_under<S: AsRef<std::ffi::OsStr>>(program: &[&str], args: &[S]) -> Ended {
        let mut troupe = Self::start_under(program, args);
        let code = troupe.ended().code();
        Ended { code, log: troupe.log() }
    }

    /// What it said so far, its members' logs among it.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.folder.path().join("log")).expect("the log can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What it said from a byte of its log on.
    pub(crate) fn log_from(&self, byte: u64) -> String {
        let mut log = fs::File::open(self.folder.path().join("log")).expect("it has a log");
        log.seek(SeekFrom::Start(byte)).expect("a file can be read from anywhere");
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes).expect("the log can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How many bytes it said so far.
    pub(crate) fn log_len(&self) -> u64 {
        fs::metadata(self.folder.path().join("log")).expect("it has a log").len()
    }

    /// Waits until it said something, and gives back that line.
    pub(crate) fn until_said(&mut self, what: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait().expect("its status can be read");
            let log = self.log();
            let line = log.split_inclusive('\n').find(|line| line.contains(what));
            if let Some(line) = line.and_then(|line| line.strip_suffix('\n')) {
                return line.to_owned();
            }
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "it does not say `{what}` (ended: {ended:?})"
            );
            pause();
        }
    }

    /// Waits until it says where it serves HTTP, in words that end with `http://host:port`.
    pub(crate) fn address(&mut self, words: &str) -> SocketAddr {
        let line = self.until_said(words);
        let port = line
            .split_once("http://")
            .and_then(|(_, rest)| rest.split_once(':'))
            .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect::<String>())
            .and_then(|port| port.parse().ok());
        (Ipv4Addr::LOCALHOST, port.unwrap_or_else(|| panic!("a port in `{line}`"))).into()
    }

    /// Its log lines with this message; it has to log JSON.
    pub(crate) fn said(&self, message: &str) -> Vec<Value> {
        self.log()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line.pointer("/fields/message").is_some_and(|said| said == message))
            .collect()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The process ids of the members that it runs as processes.
    pub(crate) fn members(&self) -> Vec<u32> {
        let processes = fs::read_dir("/proc").expect("processes are listed");
        let ids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter(|id| parent(*id) == Some(self.id())).collect()
    }

    /// Ends it, and only it, as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is reaped");
    }

    /// Stops it where it is, as an overloaded or paused machine does. It does not know.
    pub(crate) fn freeze(&self) {
        signal("-STOP", &self.child.id().to_string());
    }

    /// What `look` finds while no thread of it moves: its files are then those of one moment.
    pub(crate) fn while_frozen<T>(&self, look: impl FnOnce() -> T) -> T {
        self.freeze();
        until("every thread stands still", || stands_still(self.id()));
        let found = look();
        self.thaw();
        found
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        signal("-CONT", &self.child.id().to_string());
    }

    /// Asks it to end, as Ctrl-C in a terminal does: its whole process group is asked.
    pub(crate) fn interrupt(&self) {
        signal("-INT", &format!("-{}", self.child.id()));
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("its status can be read") {
                return status;
            }
            assert!(Instant::now() < deadline, "`troupe {}` does not end", self.what);
            pause();
        }
    }
}

impl Drop for Troupe {
    fn drop(&mut self) {
        // It may have ended; others of its group may not.
        signal("-KILL", &format!("-{}", self.child.id()));
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let at = log.char_indices().rev().nth(6000).map_or(0, |(at, _)| at);
            eprintln!("--- troupe {}\n{}\n---", self.what, &log[at..]);
        }
    }
}

/// A server, and what is asked of it.
pub(crate) struct Server {
    pub(crate) troupe: Troupe,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// `troupe serve` of a model under the name `m`, on a free port, logging JSON.
    pub(crate) fn serve(model: &std::path::Path, args: &[&str]) -> Self {
        Self::serve_under(&[], model, args)
    }

    /// The same as the last arguments of another program, which is to become it.
    pub(crate) fn serve_under(program: &[&str], model: &std::path::Path, args: &[&str]) -> Self {
        let model = model.to_str().expect("a path that can be written");
        let mut all = vec!["serve", model, "--host", "127.0.0.1", "--port", "0"];
        all.extend(["--served-model-name", "m", "--log-format", "json"]);
        all.extend(args);
        let mut troupe = Troupe::start_under(program, &all);
        let address = troupe.address("Troupe serves m on ");
        Self { troupe, address }
    }

    /// Asks for greedy tokens after `prompt`, and gives back the whole answer's one choice.
    pub(crate) fn complete(&self, prompt: &[u32], max_tokens: usize) -> Value {
        let body = completion(prompt, max_tokens);
        let answer = http::post(self.address, "/v1/completions", &body).expect("an answer");
        answer.ok()["choices"][0].clone()
    }

    /// The sum over all series of one metric.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = http::get(self.address, "/metrics").expect("metrics").text;
        let mut found = text
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .peekable();
        assert!(found.peek().is_some(), "{name} is not among\n{text}");
        found.sum()
    }
}

/// A request for greedy tokens after `prompt`, of the model `m`.
pub(crate) fn completion(prompt: &[u32], max_tokens: usize) -> Value {
    serde_json::json!({
        "model": "m", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0,
        "ignore_eos": true, "return_token_ids": true,
    })
}

/// The tokens of a choice or of an event's choice.
pub(crate) fn tokens(choice: &Value) -> Vec<u32> {
    let tokens = choice["token_ids"].as_array().unwrap_or_else(|| panic!("tokens in {choice}"));
    tokens.iter().map(|token| token.as_u64().expect("a token is a number") as u32).collect()
}

/// Waits until something holds that cannot be waited for otherwise.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        pause();
    }
}

/// Kills a process as a power cut would.
pub(crate) fn kill(id: u32) {
    signal("-KILL", &id.to_string());
}

/// Ends a process as it would end itself, had it found something that cannot be.
pub(crate) fn abort(id: u32) {
    signal("-ABRT", &id.to_string());
}

/// Stops a process where it is. It does not know.
pub(crate) fn freeze(id: u32) {
    signal("-STOP", &id.to_string());
}

/// Lets a process go on.
pub(crate) fn thaw(id: u32) {
    signal("-CONT", &id.to_string());
}

/// Whether there is such a process; one that has ended and is not reaped yet is none.
pub(crate) fn is_running(id: u32) -> bool {
    parent(id).is_some()
}

fn parent(id: u32) -> Option<u32> {
    let (state, parent) = state_and_parent(&format!("/proc/{id}"))?;
    (!["Z", "X"].contains(&state.as_str())).then_some(parent)
}

/// Whether each of its threads has stopped: a signal reaches them one after the other.
fn stands_still(id: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{id}/task")).expect("its threads are listed");
    let mut states = threads.flatten().map(|thread| state_and_parent(thread.path().to_str()?));
    states.all(|thread| thread.is_none_or(|(state, _)| state == "T"))
}

/// Of a process or a thread, by its folder under `/proc`.
fn state_and_parent(of: &str) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("{of}/stat")).ok()?;
    // Behind the name, which may hold anything: state, then parent.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn signal(signal: &str, id: &str) {
    let status = Command::new("kill").args([signal, "--", id]).stderr(Stdio::null()).status();
    status.expect("kill can be run");
}

#[expect(clippy::disallowed_methods, reason = "spaces looks at another process, with a deadline")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}
