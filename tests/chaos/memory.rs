//! A process that the kernel kills because there is no memory left: the real thing, in a control
//! group of its own, beside a program that takes all there is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A control group without memory, until it is dropped.
pub(crate) struct Starved {
    group: PathBuf,
    hog: Child,
}

impl Starved {
    /// Takes a process's memory away. The kernel kills it first: nobody is so easily spared.
    pub(crate) fn process(id: u32) -> Result<Self, String> {
        let group = group(id)?;
        let procs = group.join("cgroup.procs");
        write(&procs, &id.to_string())?;
        write(Path::new(&format!("/proc/{id}/oom_score_adj")), "1000")?;
        // It reads a line without an end.
        let greedy = "echo $$ > \"$0\" && exec tail /dev/zero";
        let hog = Command::new("sh")
            .args(["-c", greedy])
            .arg(&procs)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let hog = hog.map_err(|error| format!("sh: {error}"))?;
        Ok(Self { group, hog })
    }

    /// How often the kernel has killed in here.
    pub(crate) fn kills(&self) -> u64 {
        let told = ["memory.oom_control", "memory.events"].map(|file| self.group.join(file));
        let told = told.iter().find_map(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        let line = told.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        let _ = self.hog.kill();
        let _ = self.hog.wait();
        let _ = fs::remove_dir(&self.group);
    }
}

/// A group that may have little memory, by the first version of control groups or by the second.
fn group(id: u32) -> Result<PathBuf, String> {
    let root = Path::new("/sys/fs/cgroup");
    let name = format!("troupe-chaos-{id}");
    let (parent, limit) = if root.join("memory/memory.limit_in_bytes").exists() {
        (root.join("memory"), "memory.limit_in_bytes")
    } else {
        let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        (root.to_owned(), "memory.max")
    };
    let group = parent.join(name);
    fs::create_dir(&group).map_err(|error| format!("{}: {error}", group.display()))?;
    write(&group.join(limit), LIMIT).inspect_err(|_| drop(fs::remove_dir(&group)))?;
    Ok(group)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Soon used up.
const LIMIT: &str = "33554432";
