//! A real etcd as a test's own process: killed, restarted, wiped and restored at will.
//!
//! Mounted by each crate that needs one (`#[path = "../../../tests/support/etcd.rs"] mod etcd;`).
//! It blocks while a member starts, which is what a test wants; a missing etcd fails the test,
//! since a test that silently does nothing protects nobody.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::Instant;

/// Longer than any start on a busy machine: past it something is broken.
const START: Duration = Duration::from_secs(60);

/// One member of etcd, killed when dropped.
pub(crate) struct EtcdProcess {
    folder: TempDir,
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    cluster: String,
    flags: Vec<String>,
    /// What goes before the program's name, to run it somewhere else than here.
    under: Vec<String>,
    process: Option<Child>,
}

impl EtcdProcess {
    /// A member alone, started and answering.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with more flags.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let mut member = Self::cluster(vec![Self::here(flags)]).remove(0);
        member.launch();
        member.wait_until_it_answers();
        member
    }

    /// Members of one cluster, all started and answering.
    pub(crate) fn start_cluster(size: usize) -> Vec<Self> {
        Self::start_all((0..size).map(|_| Self::here(&[])).collect())
    }

    /// Members of one cluster, each on a host with an address of its own: what goes before the
    /// program's name to run it there, and that address.
    pub(crate) fn start_cluster_on(hosts: &[(Vec<String>, IpAddr)]) -> Vec<Self> {
        let on = |(under, address): &(Vec<String>, IpAddr)| {
            let mut member = Self::at((*address, 2379).into(), (*address, 2380).into(), &[]);
            member.under.clone_from(under);
            member
        };
        Self::start_all(hosts.iter().map(on).collect())
    }

    fn start_all(members: Vec<Self>) -> Vec<Self> {
        let mut members = Self::cluster(members);
        members.iter_mut().for_each(Self::launch);
        members.iter_mut().for_each(Self::wait_until_it_answers);
        members
    }

    /// `host:port` for clients.
    pub(crate) fn endpoint(&self) -> String {
        self.client.to_string()
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("etcd can be killed");
            process.wait().expect("etcd is reaped");
        }
    }

    /// Starts it again on the same ports, with the data it has, and waits until it answers.
    pub(crate) fn restart(&mut self) {
        self.launch();
        self.wait_until_it_answers();
    }

    /// Starts it again without waiting, for a member that has no quorum yet.
    pub(crate) fn launch(&mut self) {
        assert!(self.process.is_none(), "it is running");
        let log = fs::File::create(self.folder.path().join("log")).expect("a log file");
        let (client, peer) = (format!("http://{}", self.client), format!("http://{}", self.peer));
        let mut words = self.under.iter().map(String::as_str).chain(["etcd"]);
        let spawned = Command::new(words.next().expect("one word at least"))
            .args(words)
            .args(["--name", &self.name, "--data-dir"])
            .arg(self.data())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.cluster])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(["--logger", "zap", "--log-level", "warn"])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let process = spawned.unwrap_or_else(|error| {
            panic!("etcd cannot be started ({error}): `make test` installs it (etcd-server)")
        });
        self.process = Some(process);
    }

    /// Removes all data of a member that was killed.
    pub(crate) fn wipe(&self) {
        assert!(self.process.is_none(), "it is running");
        fs::remove_dir_all(self.data()).expect("the data can be removed");
    }

    /// Copies the data of a member that was killed, to be brought back by `restore`.
    pub(crate) fn back_up(&self) -> TempDir {
        assert!(self.process.is_none(), "it is running");
        let copy = tempfile::tempdir().expect("a folder");
        copy_folder(&self.data(), copy.path());
        copy
    }

    /// Brings back what `back_up` copied, over what a killed member has.
    pub(crate) fn restore(&self, copy: &TempDir) {
        self.wipe();
        copy_folder(copy.path(), &self.data());
    }

    /// Stops it from answering while its connections stay open.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// A member on free ports of this machine, alone until `cluster` says otherwise.
    fn here(flags: &[&str]) -> Self {
        Self::at(free_address(), free_address(), flags)
    }

    fn at(client: SocketAddr, peer: SocketAddr, flags: &[&str]) -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            name: String::new(),
            client,
            peer,
            cluster: String::new(),
            flags: flags.iter().map(ToString::to_string).collect(),
            under: Vec::new(),
            process: None,
        }
    }

    fn cluster(mut members: Vec<Self>) -> Vec<Self> {
        for (index, member) in members.iter_mut().enumerate() {
            member.name = format!("m{index}");
        }
        let peers: Vec<String> = members
            .iter()
            .map(|member| format!("{}=http://{}", member.name, member.peer))
            .collect();
        members.iter_mut().for_each(|member| member.cluster = peers.join(","));
        members
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    /// Ready is what etcd's own health check says: it has a leader and can commit.
    fn wait_until_it_answers(&mut self) {
        use std::io::{Read, Write};
        let deadline = Instant::now() + START;
        let healthy = |address: SocketAddr| -> std::io::Result<bool> {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.contains(r#""health":"true""#))
        };
        while !healthy(self.client).unwrap_or(false) {
            let process = self.process.as_mut().expect("it was launched");
            let ended = process.try_wait().expect("its status can be read");
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                panic!("etcd does not become healthy (ended: {ended:?}):\n{log}");
            }
            pause();
        }
    }

    fn signal(&self, signal: &str) {
        let id = self.process.as_ref().expect("it is running").id().to_string();
        let status = Command::new("kill").args([signal, &id]).status().expect("kill can be run");
        assert!(status.success(), "etcd takes the signal");
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // A frozen process is killed too; one that has ended already needs nothing.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "spaces looks at another process, with a deadline")]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address")
}

/// Copies a folder with all that is in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("a folder can be read") {
        let entry = entry.expect("a folder can be read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a file has a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}
