//! Every metric and span by name, in one place; a new one begins here.
//!
//! The engine's metrics have vLLM's names, so that dashboards, autoscalers and schedulers made for
//! vLLM read ours as they are. A counter is named without the `_total` that its sample line ends
//! in. Names of quantities end in their unit; ids are labels or span fields, never part of a name.

/// A family of metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MetricName {
    /// Its name, without the suffixes of its kind.
    pub name: &'static str,
    /// What it counts, for people.
    pub help: &'static str,
    /// What sort of number it is.
    pub kind: Kind,
}

/// Sorts of metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only grows.
    Counter,
    /// Counts observations up to each of these bounds.
    Histogram(&'static [f64]),
}

/// The label of every engine metric that names the model.
pub const LABEL_MODEL: &str = "model_name";
/// The label of every engine metric that tells engines of one process apart.
pub const LABEL_ENGINE: &str = "engine";

/// The label that says which token of a draft is meant, from 0.
pub const LABEL_POSITION: &str = "position";
/// The label that names a tier beside the device: host or disk.
pub const LABEL_TIER: &str = "tier";
/// The label that says what came of something.
pub const LABEL_OUTCOME: &str = "outcome";
/// The label of every engine metric that names the service, as `namespace/name`: two services may
/// serve one model name.
pub const LABEL_SERVICE: &str = "service";

const fn gauge(name: &'static str, help: &'static str) -> MetricName {
    MetricName { name, help, kind: Kind::Gauge }
}

const fn counter(name: &'static str, help: &'static str) -> MetricName {
    MetricName { name, help, kind: Kind::Counter }
}

const fn histogram(name: &'static str, help: &'static str, bounds: &'static [f64]) -> MetricName {
    MetricName { name, help, kind: Kind::Histogram(bounds) }
}

/// Declares names and collects all of them in one list.
macro_rules! metrics {
    ($(#[$doc:meta])* $all:ident: $($name:ident = $kind:ident($($argument:expr),+);)+) => {
        $(
            #[doc = concat!("The metric `", stringify!($name), "`.")]
            pub const $name: MetricName = $kind($($argument),+);
        )+

        $(#[$doc])*
        pub const $all: &[MetricName] = &[$($name),+];
    };
}

metrics! {
    /// All that an engine exposes, with the labels `model_name`, `engine` and `service`.
    ENGINE:
    NUM_REQUESTS_RUNNING = gauge(
        "vllm:num_requests_running", "Requests in the batches that are under way");
    NUM_REQUESTS_WAITING = gauge(
        "vllm:num_requests_waiting", "Requests that wait to be scheduled");
    NUM_REQUESTS_WAITING_BY_REASON = gauge(
        "vllm:num_requests_waiting_by_reason", "Requests that wait, by what they wait for");
    KV_CACHE_USAGE_PERC = gauge(
        "vllm:kv_cache_usage_perc", "KV blocks in use, 1 means all of them");
    LORA_REQUESTS_INFO = gauge(
        "vllm:lora_requests_info",
        "LoRA adapters in use and waited for, in labels; the value is when that changed");
    CACHE_CONFIG_INFO = gauge(
        "vllm:cache_config_info", "How the KV cache is set up, in labels; the value is 1");
    PREFIX_CACHE_QUERIES = counter(
        "vllm:prefix_cache_queries", "Prompt tokens that were looked for in the prefix cache");
    PREFIX_CACHE_HITS = counter(
        "vllm:prefix_cache_hits", "Prompt tokens that were found in the prefix cache");
    NUM_PREEMPTIONS = counter(
        "vllm:num_preemptions", "Sequences that were preempted");
    ADMISSION_REJECTIONS = counter(
        "vllm:admission_rejections", "Requests that were refused, by reason");
    PROMPT_TOKENS = counter(
        "vllm:prompt_tokens", "Prompt tokens that were prefilled");
    GENERATION_TOKENS = counter(
        "vllm:generation_tokens", "Tokens that were generated");
    REQUEST_SUCCESS = counter(
        "vllm:request_success", "Requests that ended, by how");
    ITERATION_TOKENS = histogram(
        "vllm:iteration_tokens_total", "Tokens in a step", &STEP_TOKENS);
    REQUEST_PROMPT_TOKENS = histogram(
        "vllm:request_prompt_tokens", "Prompt tokens of a request", &REQUEST_TOKENS);
    REQUEST_GENERATION_TOKENS = histogram(
        "vllm:request_generation_tokens", "Tokens generated for a request", &REQUEST_TOKENS);
    REQUEST_PARAMS_N = histogram(
        "vllm:request_params_n", "Choices that a request asks for", &CHOICES);
    REQUEST_PARAMS_MAX_TOKENS = histogram(
        "vllm:request_params_max_tokens", "Tokens that a request allows", &REQUEST_TOKENS);
    TIME_TO_FIRST_TOKEN = histogram(
        "vllm:time_to_first_token_seconds", "Arrival to first token", &FIRST_TOKEN_SECONDS);
    INTER_TOKEN_LATENCY = histogram(
        "vllm:inter_token_latency_seconds", "One token to the next", &TOKEN_SECONDS);
    REQUEST_TIME_PER_OUTPUT_TOKEN = histogram(
        "vllm:request_time_per_output_token_seconds", "A request's mean time per token after the \
         first", &TOKEN_SECONDS);
    E2E_REQUEST_LATENCY = histogram(
        "vllm:e2e_request_latency_seconds", "Arrival to last token", &REQUEST_SECONDS);
    REQUEST_QUEUE_TIME = histogram(
        "vllm:request_queue_time_seconds", "Queued to first scheduled", &REQUEST_SECONDS);
    REQUEST_INFERENCE_TIME = histogram(
        "vllm:request_inference_time_seconds", "First scheduled to last token", &REQUEST_SECONDS);
    REQUEST_PREFILL_TIME = histogram(
        "vllm:request_prefill_time_seconds", "First scheduled to first token", &REQUEST_SECONDS);
    REQUEST_DECODE_TIME = histogram(
        "vllm:request_decode_time_seconds", "First token to last token", &REQUEST_SECONDS);
    REQUEST_NUM_PREEMPTIONS = histogram(
        "vllm:request_num_preemptions", "How often a request was preempted", &PREEMPTIONS);
    SPEC_DECODE_DRAFTS = counter(
        "vllm:spec_decode_num_drafts", "Drafts that were verified");
    SPEC_DECODE_DRAFT_TOKENS = counter(
        "vllm:spec_decode_num_draft_tokens", "Tokens of drafts");
    SPEC_DECODE_ACCEPTED_TOKENS = counter(
        "vllm:spec_decode_num_accepted_tokens", "Tokens of drafts that were right");
    SPEC_DECODE_ACCEPTED_PER_POS = counter(
        "vllm:spec_decode_num_accepted_tokens_per_pos", "Tokens of drafts that were right, by \
         their place in the draft");
    SPEC_DECODE_ACCEPTANCE_LENGTH = gauge(
        "troupe:spec_decode_mean_acceptance_length", "Tokens that a verified draft brought on \
         average since the start, with the one that needs no draft");
    MERGED_BLOCKS = counter(
        "troupe:merged_kv_blocks", "KV blocks that gave way to equal ones");
    KV_TRANSFERS = counter(
        "troupe:kv_transfers", "Transfers of KV blocks that were asked of another group, by what \
         came of them: complete, partial, nothing");
    KV_TRANSFER_BYTES = counter(
        "troupe:kv_transfer_bytes", "Bytes of KV that came from other groups");
    KV_TRANSFER_TOKENS = counter(
        "troupe:kv_transfer_tokens", "Prompt tokens whose KV came from another group");
    KV_TRANSFER_TIME = histogram(
        "troupe:kv_transfer_seconds", "From asking another group for KV to having it, or to giving \
         up", &REQUEST_SECONDS);
    KV_TRANSFER_DROPPED = counter(
        "troupe:kv_transfer_dropped_frames", "Frames of KV that were not taken: wrong, late or \
         sent twice");
    KV_OFFLOAD_STORED = counter(
        "troupe:kv_offload_stored_blocks", "KV blocks that came to a tier beside the device");
    KV_OFFLOAD_LOADED = counter(
        "troupe:kv_offload_loaded_blocks", "KV blocks that a tier was asked to give back to the \
         device");
    KV_OFFLOAD_DROPPED = counter(
        "troupe:kv_offload_dropped_blocks", "KV blocks that left a tier, to the next one or for \
         good");
    KV_OFFLOAD_BLOCKS = gauge(
        "troupe:kv_offload_blocks", "KV blocks in a tier, of the fullest KV group");
    KV_OFFLOAD_USAGE_PERC = gauge(
        "troupe:kv_offload_usage_perc", "Slots of a tier in use, 1 means all of them");
    KV_OFFLOAD_LOADED_TOKENS = counter(
        "troupe:kv_offload_loaded_tokens", "Prompt tokens whose KV came back from a tier");
    KV_OFFLOAD_LOADED_BYTES = counter(
        "troupe:kv_offload_loaded_bytes", "Bytes of KV that came back from a tier");
    KV_OFFLOAD_LOAD_TIME = histogram(
        "troupe:kv_offload_load_seconds", "From asking the tiers for a request's KV to having it, \
         or to giving up", &REQUEST_SECONDS);
    RANK_BUSY = counter(
        "troupe:rank_busy_microseconds", "Time that a rank computed");
    RANK_IDLE = counter(
        "troupe:rank_idle_microseconds", "Time that a rank waited before a step: for the plan, for \
         tokens, for the stage before it");
}

metrics! {
    /// All that a gateway counts of its own, with the label `service`.
    GATEWAY:
    GATEWAY_HELD_REQUESTS = gauge(
        "troupe:gateway_held_requests", "Requests that wait for an endpoint of a declared service");
    GATEWAY_HOLDS = counter(
        "troupe:gateway_holds", "Requests that waited for an endpoint, by how that ended: placed, \
         timeout, full, gone");
    GATEWAY_HEDGES = counter(
        "troupe:gateway_hedges", "Requests that were sent to a second endpoint because the first \
         said nothing for too long, by which of them answered: first, second");
    GATEWAY_RESUMES = counter(
        "troupe:gateway_resumes", "Streams that went on at another endpoint after theirs was lost, \
         by whether their tokens are surely the same: exact, approximate");
    GATEWAY_HOLD_TIME = histogram(
        "troupe:gateway_hold_seconds", "How long requests waited for an endpoint",
        &REQUEST_SECONDS);
    PREFIX_INDEXER_SIZE = gauge(
        "inference_extension_prefix_indexer_size", "Different KV blocks that this gateway \
         knows some endpoint to hold");
    FLOW_QUEUE_SIZE = gauge(
        "inference_extension_flow_control_queue_size", "Requests that wait until endpoints have \
         room, with the label `model_name` instead");
    FLOW_POOL_SATURATION = gauge(
        "inference_extension_flow_control_pool_saturation", "How full a model's endpoints are \
         while requests wait for them; at 1 they take no more");
    FLOW_QUEUE_DURATION = histogram(
        "inference_extension_flow_control_request_queue_duration_seconds", "How long requests \
         waited until endpoints had room, by priority and by how that ended: Dispatched, \
         RejectedSaturated, RejectedCapacity, EvictedCapacity, EvictedTTL",
        &REQUEST_SECONDS);
}

/// What servers that are not ours call their load; each number by all of its names.
pub mod foreign {
    /// Sequences in steps.
    pub const RUNNING: [&str; 2] = ["vllm:num_requests_running", "sglang:num_running_reqs"];
    /// Sequences that wait for room.
    pub const WAITING: [&str; 2] = ["vllm:num_requests_waiting", "sglang:num_queue_reqs"];
    /// The share of KV memory in use.
    pub const KV_USAGE: [&str; 3] =
        ["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage"];
}

/// Names of spans. Few and fixed: dashboards are built on them.
pub mod spans {
    /// A request, from its HTTP head to its last byte.
    pub const REQUEST: &str = "request";
    /// Choosing an endpoint.
    pub const PLACE: &str = "place";
    /// A request at the engine that runs it.
    pub const GENERATE: &str = "generate";
    /// One forward pass of a batch.
    pub const STEP: &str = "step";
    /// One stage's part of a step.
    pub const STAGE: &str = "stage";
    /// KV blocks on their way from one group to another.
    pub const KV_TRANSFER: &str = "kv_transfer";
    /// Loading a model.
    pub const LOAD: &str = "load";
    /// The controller making the world as it should be.
    pub const RECONCILE: &str = "reconcile";
}

const STEP_TOKENS: [f64; 13] =
    [1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

const REQUEST_TOKENS: [f64; 19] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5,
    5e5, 1e6,
];

const CHOICES: [f64; 5] = [1.0, 2.0, 5.0, 10.0, 20.0];

const PREEMPTIONS: [f64; 6] = [0.0, 1.0, 2.0, 5.0, 10.0, 20.0];

const FIRST_TOKEN_SECONDS: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];

/// vLLM begins at 10 ms, which small models and fast devices are below; ours begins at 1 ms and has
/// all of vLLM's bounds after that.
const TOKEN_SECONDS: [f64; 24] = [
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
    0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];

/// vLLM begins at 300 ms; the bounds below that are ours.
const REQUEST_SECONDS: [f64; 26] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0,
    40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_bounds_grow() {
        let all = || ENGINE.iter().chain(GATEWAY);
        let names: std::collections::BTreeSet<_> = all().map(|m| m.name).collect();
        assert_eq!(names.len(), all().count());
        for metric in all() {
            if let Kind::Histogram(bounds) = metric.kind {
                assert!(bounds.is_sorted_by(|a, b| a < b), "{}", metric.name);
            }
        }
    }
}
