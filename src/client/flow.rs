//! Many jobs at once, with a bound, and their results in the order of the jobs.
//!
//! A result that comes early waits for those before it. So that one slow job cannot make all
//! others' results pile up, no job is started that is too far ahead of the first one missing.

use std::{collections::BTreeMap, future::Future};

use tokio::task::JoinSet;

use crate::{cli::Failure, stack::asked_to_end};

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Every job is done.
    All,
    /// The process was asked to end: what had come by then was told, what was under way is dropped.
    Interrupted,
}

/// Runs `jobs`, `at_once` of them at a time, and tells their results in order, each with its index.
pub(crate) async fn in_order<F, T>(
    at_once: usize,
    jobs: impl Iterator<Item = F>,
    mut tell: impl FnMut(usize, T) -> Result<(), Failure>,
) -> Result<Ended, Failure>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let mut jobs = jobs.enumerate().peekable();
    let mut running = JoinSet::new();
    let mut early = BTreeMap::new();
    let mut next = 0;
    let stop = asked_to_end();
    tokio::pin!(stop);
    loop {
        while running.len() < at_once
            && let Some((index, job)) =
                jobs.next_if(|(index, _)| *index < next + AHEAD.saturating_mul(at_once))
        {
            running.spawn(async move { (index, job.await) });
        }
        tokio::select! {
            // Dropping the set drops the jobs, and with them their connections.
            () = &mut stop => {
                for (index, result) in early {
                    tell(index, result)?;
                }
                return Ok(Ended::Interrupted);
            }
            done = running.join_next() => match done {
                None => return Ok(Ended::All),
                Some(Err(error)) => return Err(Failure::run(error)),
                Some(Ok((index, result))) => drop(early.insert(index, result)),
            },
        }
        while let Some(result) = early.remove(&next) {
            tell(next, result)?;
            next += 1;
        }
    }
}

/// How many times `at_once` a job may be ahead of the first whose result is missing.
const AHEAD: usize = 16;

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn results_come_in_order_and_no_job_runs_far_ahead() {
        let (count, at_once) = (200_u64, 3);
        let (started, told) = (Cell::new(0), Cell::new(0));
        let jobs = (0..count).map(|index| {
            started.set(started.get() + 1);
            assert!(started.get() <= told.get() + AHEAD * at_once + 1, "job {index} is too early");
            // The first is by far the slowest.
            let millis = if index == 0 { 10_000 } else { 1 + index % 7 };
            async move {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                index
            }
        });
        let ended = in_order(at_once, jobs, |index, result| {
            assert_eq!((index, result), (told.get(), told.get() as u64));
            told.set(told.get() + 1);
            Ok(())
        });
        assert_eq!(ended.await.expect("nothing fails"), Ended::All);
        assert_eq!(told.get(), count as usize);
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_that_cannot_be_told_ends_it() {
        let jobs = (0..10).map(|index| async move { index });
        let ended = in_order(2, jobs, |_, _| Err(Failure::run("the disk is full")));
        assert!(ended.await.is_err());
    }
}
