//! `troupe bench device`: the limits of this machine, which no kernel can pass. Figures of serving
//! mean little without them.

use std::{fmt::Write as _, time::Duration};

use tokio::time::Instant;
use troupe_gpu::{
    cpu::probe::{Multiply, Probe, kinds},
    error::DeviceError,
};

/// The table, measured with one thread and doubled up to `threads`; reading goes over `bytes`.
///
/// # Errors
/// Threads or memory that cannot be had.
pub(crate) fn table(threads: usize, bytes: usize) -> Result<String, DeviceError> {
    let mut counts: Vec<usize> =
        std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n < threads).collect();
    counts.push(threads);
    let mut probes = Vec::new();
    for count in &counts {
        probes.push(Probe::new(*count, bytes)?);
    }
    let mut text = format!("{:<34}", "threads");
    counts.iter().for_each(|count| cell(&mut text, &count.to_string()));
    let mut line = |name: &str, unit: &str, measure: &dyn Fn(&mut Probe) -> usize| {
        let _ = write!(text, "\n{:<34}", format!("{name}, {unit}"));
        for probe in &mut probes {
            let rate = best_rate(|| measure(probe));
            cell(&mut text, &format!("{:.1}", rate / 1e9));
        }
    };
    line("memory read", "GB/s", &Probe::read);
    for (path, of) in kinds() {
        let (what, unit) = match of {
            Multiply::F32 => ("float32", "GFLOP/s"),
            Multiply::Bf16 => ("bfloat16", "GFLOP/s"),
            Multiply::Int8 => ("int8", "GOP/s"),
        };
        line(&format!("{what} by {}", path.name()), unit, &|probe| probe.multiply(path, of));
    }
    Ok(text)
}

/// The best of some runs: others can only take time away.
fn best_rate(mut measure: impl FnMut() -> usize) -> f64 {
    let run = |_| {
        let began = Instant::now();
        let done = measure();
        done as f64 / began.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
    };
    (0..RUNS).map(run).fold(0.0, f64::max)
}

fn cell(text: &mut String, value: &str) {
    let _ = write!(text, "{value:>10}");
}

const RUNS: usize = 5;
