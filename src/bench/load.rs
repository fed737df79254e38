//! All requests of a run: sent when their time has come, no more at a time than allowed.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    arrivals::TrafficArgs,
    dataset::Sample,
    random::Random,
    request::{Outcome, Request},
    target::Target,
};
use crate::{
    cli::{Failure, progress::Progress},
    stack::asked_to_end,
};

/// What a run gave.
pub(crate) struct Run {
    /// Of every request that came to an end, in the order of sending.
    pub(crate) outcomes: Vec<Outcome>,
    /// From the first request sent to the last one's end.
    pub(crate) seconds: f64,
    /// The process was asked to end before all were done.
    pub(crate) interrupted: bool,
}

/// Sends everything and waits for it. `progress` says how far it is.
pub(crate) async fn run(
    target: &Target,
    samples: &[Sample],
    traffic: &TrafficArgs,
    random: &mut Random,
    mut progress: Progress,
) -> Result<Run, Failure> {
    let times = traffic.arrivals(samples.len(), random);
    let places = traffic.max_concurrency.map_or(samples.len(), |most| most as usize);
    let places = Arc::new(Semaphore::new(places));
    let mut due = times.into_iter().zip(samples).enumerate().peekable();
    let (mut running, mut done) = (JoinSet::new(), Vec::with_capacity(samples.len()));
    let stop = asked_to_end();
    tokio::pin!(stop);
    let origin = Instant::now();
    let interrupted = loop {
        let next = due.peek().map(|(_, (after, _))| origin + *after);
        if next.is_none() && running.is_empty() {
            break false;
        }
        tokio::select! {
            biased;
            () = &mut stop => break true,
            () = sleep_until(next.unwrap_or(origin)), if next.is_some() => {
                // It was looked at above.
                let Some((index, (_, sample))) = due.next() else { continue };
                let request = request(target, sample, index, traffic)?;
                let places = Arc::clone(&places);
                running.spawn(async move {
                    // The semaphore is never closed.
                    let _place = places.acquire_owned().await;
                    (index, request.measure(origin).await)
                });
            }
            ended = running.join_next(), if !running.is_empty() => {
                let Some(ended) = ended else { continue };
                let (index, outcome) = ended.map_err(Failure::run)?;
                progress.done(outcome.output_tokens);
                done.push((index, outcome));
            }
        }
    };
    let seconds = origin.elapsed().as_secs_f64();
    progress.finish();
    done.sort_by_key(|(index, _)| *index);
    let outcomes = done.into_iter().map(|(_, outcome)| outcome).collect();
    Ok(Run { outcomes, seconds, interrupted })
}

fn request(
    target: &Target,
    sample: &Sample,
    index: usize,
    traffic: &TrafficArgs,
) -> Result<Request, Failure> {
    let id = format!("{}{index}", target.request_id_prefix);
    let client = target.client.clone().with_header("x-request-id", &id).map_err(Failure::usage)?;
    Ok(Request {
        client,
        endpoint: target.endpoint.clone(),
        body: target.body(sample),
        prompt_len: sample.prompt_len,
        patience: Duration::from_secs(traffic.request_timeout),
    })
}
