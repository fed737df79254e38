//! How a member's process died, and so which requests are suspects: not at all if it was killed
//! from outside, those of the step it was at if it died by its own fault.

use std::{collections::BTreeSet, fs, os::unix::process::ExitStatusExt, process::ExitStatus};

use troupe_runtime::id::RequestId;

use crate::worker::recorder::Record;

/// Whether a process died by its own fault: by a signal that the processor or the C library sends
/// it, or because the system was out of memory (`killed_before` is [`killed_for_memory`] from
/// before).
pub(super) fn is_fatal(status: ExitStatus, killed_before: Option<u64>) -> bool {
    match status.signal() {
        Some(SIGKILL) => killed_for_memory() > killed_before,
        Some(signal) => FATAL.contains(&signal),
        None => false,
    }
}

/// How often the system has killed a process because it was out of memory.
pub(super) fn killed_for_memory() -> Option<u64> {
    let told = fs::read_to_string("/proc/vmstat").ok()?;
    let line = told.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
    line.parse().ok()
}

/// The requests that may be why. Ranks that said that they fail know best; after a fatal signal it
/// may have been any of them.
pub(super) fn suspects(records: &[Record], fatal: bool) -> Vec<RequestId> {
    let failed = records.iter().any(|record| record.failed);
    let at_fault = records.iter().filter(|record| record.failed || (fatal && !failed));
    let all: BTreeSet<_> = at_fault.flat_map(|record| record.requests.iter().copied()).collect();
    all.into_iter().collect()
}

const SIGKILL: i32 = 9;
/// Illegal instruction, trap, abort, bus error, floating point, segmentation, bad call.
const FATAL: [i32; 7] = [4, 5, 6, 7, 8, 11, 31];

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_process_that_was_killed_from_outside_accuses_nobody() {
        let died = |signal| ExitStatus::from_raw(signal);
        let before = killed_for_memory();
        assert!(!is_fatal(died(9), before) && !is_fatal(died(15), before));
        assert!(!is_fatal(ExitStatus::from_raw(1 << 8), before), "an exit code says nothing");
        assert!(is_fatal(died(11), before) && is_fatal(died(6), before));
        // As if somebody had been killed meanwhile.
        let fewer = before.and_then(|count| count.checked_sub(1));
        assert!(is_fatal(died(9), fewer) || before.is_none_or(|count| count == 0));
    }

    #[test]
    fn ranks_that_failed_know_best_which_requests_it_was() {
        let request = |number| RequestId(Uuid::from_u128(number));
        let record = |failed, numbers: &[u128]| Record {
            failed,
            requests: numbers.iter().map(|number| request(*number)).collect(),
        };
        let both = [record(false, &[1, 2]), record(true, &[3])];
        assert_eq!(suspects(&both, false), [request(3)]);
        assert_eq!(suspects(&both, true), [request(3)]);
        let executing = [record(false, &[2, 1]), record(false, &[1])];
        assert_eq!(suspects(&executing, true), [request(1), request(2)]);
        assert_eq!(suspects(&executing, false), []);
    }
}
