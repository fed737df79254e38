//! Load out of the text of `/metrics`, by the names that vLLM and SGLang have for it.

use troupe_runtime::{
    telemetry::names::foreign::{KV_USAGE, RUNNING, WAITING},
    wire::status::Load,
};

/// Shares are told as blocks of so many.
const WHOLE: u32 = 10_000;

/// What a server says of its load; nothing if it says none of it. Several engines of one server are
/// summed, their KV use is the highest of them.
pub(crate) fn load(text: &str) -> Option<Load> {
    let (mut running, mut waiting, mut usage) = (None, None, None);
    for (name, value) in text.lines().filter_map(sample) {
        if RUNNING.contains(&name) {
            *running.get_or_insert(0.0) += value;
        } else if WAITING.contains(&name) {
            *waiting.get_or_insert(0.0) += value;
        } else if KV_USAGE.contains(&name) {
            usage = Some(f64::max(value, usage.unwrap_or(0.0)));
        }
    }
    if running.is_none() && waiting.is_none() && usage.is_none() {
        return None;
    }
    // Saturates, and what is no number is 0.
    let count = |value: Option<f64>| value.unwrap_or(0.0) as u32;
    Some(Load {
        running: count(running),
        waiting: count(waiting),
        blocks_used: count(usage.map(|share| share.clamp(0.0, 1.0) * f64::from(WHOLE))),
        blocks_total: WHOLE,
        ..Load::default()
    })
}

/// The name and value of one line, without its labels.
fn sample(line: &str) -> Option<(&str, f64)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let name_ends = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_ends);
    let rest = match rest.strip_prefix('{') {
        // A label's value may hold anything but a quote that is not escaped; numbers follow the
        // last brace.
        Some(labels) => labels.rsplit_once('}')?.1,
        None => rest,
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_by_their_own_names() {
        let vllm = "# HELP vllm:num_requests_running x\n\
                    vllm:num_requests_running{engine=\"0\",model_name=\"a}b\"} 3.0\n\
                    vllm:num_requests_running{engine=\"1\",model_name=\"a}b\"} 4.0\n\
                    vllm:num_requests_waiting{engine=\"0\"} 2.0 1690000000\n\
                    vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\n\
                    vllm:kv_cache_usage_perc{engine=\"1\"} 0.5\n";
        let told = load(vllm).expect("a load");
        assert_eq!((told.running, told.waiting), (7, 2));
        assert_eq!((told.blocks_used, told.blocks_total), (5000, 10_000));
        let sglang = "sglang:num_running_reqs 1\nsglang:num_queue_reqs 0\nsglang:token_usage 2.5\n";
        let told = load(sglang).expect("a load");
        assert_eq!((told.running, told.blocks_used), (1, 10_000), "no more than all");
        let old = load("vllm:gpu_cache_usage_perc 0.1").expect("a load");
        assert_eq!(old.blocks_used, 1000);
    }

    #[test]
    fn nonsense_is_no_load() {
        for text in
            ["", "<html>", "vllm:num_requests_running", "other 3", "vllm:num_requests_running{"]
        {
            assert_eq!(load(text), None, "{text}");
        }
        let odd =
            load("vllm:num_requests_running NaN\nvllm:num_requests_waiting -3").expect("some");
        assert_eq!((odd.running, odd.waiting), (0, 0));
    }
}
