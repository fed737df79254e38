//! Members as child processes: a hung kernel or collective ends only with its process.
//!
//! The child is this very binary (`troupe member`). Node and child speak rkyv frames over the
//! child's standard input and output ([`crate::member::pipe`]); its standard error is its log,
//! which goes to a file of its own ([`super::logs`]) and to the node's. The child ends when its
//! input does, so it never outlives its node; the node reaps it and reports how it ended, and only
//! then are its devices free. A child that says nothing any more is frozen, and is killed.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ractor::ActorRef;
use tokio::{
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{MissedTickBehavior, timeout},
};
use troupe_runtime::{
    discovery::directory::{self, GroupRecord},
    id::NodeId,
    transport::Link,
    wire::member::{MemberLaunch, MemberToNode, NodeToMember},
};

use super::{
    actor::{NodeMsg, Running, Spawn, said},
    core::{MemberKey, NodeEvent},
    died, logs,
};
use crate::{
    member::{acts::ALIVE, pipe},
    worker::recorder::Records,
};

/// Starts members as processes.
#[derive(Clone, Debug)]
pub struct Processes {
    /// The binary to run, and what goes before a member's own words.
    pub program: PathBuf,
    /// Arguments, such as `member`.
    pub args: Vec<String>,
    /// Address that members bind, with port 0.
    pub bind: String,
    /// Where the node's certificate is.
    pub data_dir: PathBuf,
    /// Where members' logs are kept; without it the node's own standard error alone has them.
    pub logs: Option<logs::Shelf>,
    /// Name of the cluster.
    pub cluster: String,
    /// Processors of this host, which its devices share.
    pub cores: u32,
    /// Its devices.
    pub devices: u32,
    /// Identities that are let in no more, which members have to know.
    pub away: watch::Receiver<TurnedAway>,
    /// The node's own, which answers for members that are gone; without it nobody does.
    pub link: Option<Arc<dyn Link>>,
}

/// Identities that are let in no more, and why.
pub type TurnedAway = Arc<BTreeMap<NodeId, String>>;

impl Processes {
    /// A member's share of the processors, by its devices.
    fn share(&self, key: &MemberKey, record: &GroupRecord) -> u32 {
        let member = record.members.get(key.member as usize);
        let ranks = member.map_or(1, |member| member.ranks.len() as u32);
        (self.cores * ranks / self.devices.max(1)).max(1)
    }

    /// Drops what members of a former process of this node were at. Nobody reaps them any more, so
    /// nobody reads it. To be called once, before any member is started, by whoever has the data
    /// directory for itself.
    pub fn forget_former(&self) {
        let root = self.records_root();
        if let Err(error) = fs::remove_dir_all(&root)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, folder = %root.display(), "what former members were at stays");
        }
    }

    fn records_root(&self) -> PathBuf {
        self.data_dir.join("steps")
    }

    /// Where its ranks write down what they are at, in a folder that nobody had before.
    fn records(&self, key: &MemberKey) -> Records {
        let MemberKey { group, epoch, member } = key;
        let name =
            format!("{}.{}.{}-{epoch}-{member}", group.namespace, group.service, group.index);
        Records::in_folder(self.records_root().join(name)).unwrap_or_else(|error| {
            tracing::warn!(%error, "what a member's ranks are at is not written down");
            Records::Nowhere
        })
    }

    /// A pipe for a member's standard error, and a thread that reads it for as long as the member
    /// has it. A thread, because files and the node's standard error may block.
    fn log(&self, key: &MemberKey) -> io::Result<(io::PipeWriter, oneshot::Receiver<()>)> {
        let log = self.logs.as_ref().and_then(|shelf| {
            let begun = shelf.begin(key);
            begun.inspect_err(|error| tracing::warn!(%error, "a member's log is not kept")).ok()
        });
        let (read, write) = io::pipe()?;
        let (done, ended) = oneshot::channel();
        std::thread::Builder::new().name("member-log".into()).spawn(move || {
            logs::copy(read, log, io::stderr());
            drop(done);
        })?;
        Ok((write, ended))
    }
}

#[async_trait]
impl Spawn for Processes {
    async fn spawn(
        &self,
        key: MemberKey,
        record: GroupRecord,
        node: ActorRef<NodeMsg>,
    ) -> Result<Running, String> {
        let (errors, log) = self.log(&key).map_err(|error| format!("its log: {error}"))?;
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            // Ctrl-C in a terminal reaches the whole group of a process; a member ends in order,
            // when its node has finished what is in flight.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", self.program.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the child has no pipes".into());
        };
        let records = self.records(&key);
        let launch = MemberLaunch {
            group: key.group.clone(),
            epoch: key.epoch,
            member: key.member,
            record: directory::to_bytes(&record),
            bind: self.bind.clone(),
            data_dir: self.data_dir.display().to_string(),
            records: match &records {
                Records::Folder(folder) => folder.display().to_string(),
                Records::Nowhere | Records::Memory(_) => String::new(),
            },
            cluster: self.cluster.clone(),
            cores: self.share(&key, &record),
        };
        let (tell, told) = mpsc::channel(QUEUE);
        let first = NodeToMember::Launch(Box::new(launch));
        tell.try_send(first).map_err(|error| error.to_string())?;
        let mut tasks = JoinSet::new();
        let told = (told, self.away.clone());
        let pipes = (input, output, log);
        tasks.spawn(run(key, (child, records), pipes, told, (node, self.link.clone())));
        Ok(Running { tell, tasks })
    }
}

/// Carries one child's words until it has ended and is reaped. Dropping this task kills the child.
async fn run(
    key: MemberKey,
    (mut child, records): (Child, Records),
    (mut input, mut output, log): (ChildStdin, ChildStdout, oneshot::Receiver<()>),
    (mut told, mut away): (mpsc::Receiver<NodeToMember>, watch::Receiver<TurnedAway>),
    (node, link): (ActorRef<NodeMsg>, Option<Arc<dyn Link>>),
) {
    let killed_before = died::killed_for_memory();
    let (words, address) = (AtomicU64::new(0), OnceLock::new());
    let hear = async {
        // An error means what an end means: the child is going, and how it went says more.
        while let Ok(Some(what)) = pipe::read::<MemberToNode>(&mut output).await {
            words.fetch_add(1, Ordering::Relaxed);
            if let MemberToNode::Listening(at) = &what {
                // Said once in a life.
                let _ = address.set(at.clone());
            }
            if what != MemberToNode::Alive {
                let _ = node.cast(said(&key, what));
            }
        }
    };
    let tell = async {
        // Who is turned away by now comes right after the launch.
        away.mark_changed();
        let mut first = true;
        loop {
            let what = tokio::select! {
                biased;
                what = told.recv() => what,
                Ok(()) = away.changed(), if !first => {
                    let away = away.borrow_and_update().clone();
                    if away.is_empty() {
                        continue;
                    }
                    let list = away.iter().map(|(id, why)| (*id, why.clone())).collect();
                    Some(NodeToMember::TurnAway(list))
                }
            };
            let Some(what) = what else { break };
            first = false;
            let stop = what == NodeToMember::Stop;
            if pipe::write(&mut input, &what).await.is_err() || stop {
                break;
            }
        }
    };
    let told_to_stop = async {
        tell.await;
        tokio::time::sleep(GRACE).await;
    };
    let frozen = tokio::select! {
        biased;
        () = hear => false,
        () = told_to_stop => false,
        () = silence(&words) => true,
    };
    let grace = if frozen { Duration::ZERO } else { GRACE };
    let mut fatal = false;
    let how = match timeout(grace, child.wait()).await {
        Ok(Ok(status)) => {
            fatal = died::is_fatal(status, killed_before);
            status.to_string()
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => {
            let _ = child.kill().await;
            let why =
                if frozen { "it was silent, as if frozen" } else { "it did not stop in time" };
            format!("killed: {why}")
        }
    };
    // Its port is free now: whoever waits for it there is told that it is gone.
    if let (Some(link), Some(Ok(address))) = (link, address.get().map(|at| at.parse())) {
        link.answer_for(&address);
    }
    // Whoever reads that it ended finds its last words in its log.
    let _ = timeout(GRACE, log).await;
    let suspects = died::suspects(&records.read(), fatal);
    records.remove();
    let _ = node.cast(NodeMsg::Event(NodeEvent::Died(key.clone(), suspects)));
    let _ = node.cast(NodeMsg::Event(NodeEvent::Exited(key, how)));
}

/// Returns when a child that has spoken says nothing any more. Counted in ticks of this process and
/// not in time: if this one was frozen, what its children said meanwhile is read first.
async fn silence(words: &AtomicU64) {
    let mut ticks = tokio::time::interval(ALIVE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut heard, mut silent) = (0, 0);
    while silent < SILENT {
        ticks.tick().await;
        let words = words.load(Ordering::Relaxed);
        silent = if words == heard && words > 0 { silent + 1 } else { 0 };
        heard = words;
    }
}

/// So many times a member has not said that it is alive, though it was time: it is frozen.
const SILENT: u32 = 6;
/// What a member is told in its life: a handful of words.
const QUEUE: usize = 16;
/// A member that was asked to stop tells its gateways and ends within this.
const GRACE: Duration = Duration::from_secs(3);
