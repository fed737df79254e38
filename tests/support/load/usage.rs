//! What a process holds, as Linux says it.

use std::fs;

/// Of one process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Memory that it has, in bytes.
    pub(crate) resident: u64,
    /// The most that it ever had.
    pub(crate) peak: u64,
    /// Open files and sockets.
    pub(crate) files: u64,
    pub(crate) threads: u64,
}

impl Usage {
    /// None if there is no such process.
    pub(crate) fn of(process: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Self {
            resident: field("VmRSS:")? << 10,
            peak: field("VmHWM:")? << 10,
            files: fs::read_dir(format!("/proc/{process}/fd")).ok()?.count() as u64,
            threads: field("Threads:")?,
        })
    }
}
