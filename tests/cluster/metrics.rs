//! `/metrics` as dashboards, autoscalers and schedulers made for vLLM read it.

use serde_json::json;

use crate::{
    golden, http,
    process::{Server, completion},
};

/// The families that vLLM's own test of `/metrics` expects.
const EXPECTED: [&str; 25] = [
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_requests_waiting_by_reason",
    "vllm:kv_cache_usage_perc",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:num_preemptions_total",
    "vllm:admission_rejections_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:iteration_tokens_total",
    "vllm:cache_config_info",
    "vllm:request_success_total",
    "vllm:request_prompt_tokens",
    "vllm:request_generation_tokens",
    "vllm:request_params_n",
    "vllm:request_params_max_tokens",
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:e2e_request_latency_seconds",
    "vllm:request_queue_time_seconds",
    "vllm:request_inference_time_seconds",
    "vllm:request_prefill_time_seconds",
    "vllm:request_decode_time_seconds",
    "vllm:request_num_preemptions",
];

/// Members are processes of their own here, so that what their leader counts has to travel.
#[test]
fn every_family_is_there_once_and_counts() {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    let server = Server::serve(&model, &["-pp", "2", "--stage-processes"]);
    let prompt: Vec<u32> = (5..45).collect();
    for _ in 0..2 {
        http::post(server.address, "/v1/completions", &completion(&prompt, 7)).expect("asked").ok();
    }
    let text = http::get(server.address, "/metrics").expect("an answer").text;
    for family in EXPECTED {
        let headers = text.matches(&format!("# TYPE {family} ")).count();
        assert_eq!(headers, 1, "{family} in\n{text}");
    }
    let counted = [
        ("vllm:prompt_tokens_total", 80.0),
        ("vllm:generation_tokens_total", 14.0),
        ("vllm:prefix_cache_queries_total", 80.0),
        // All but the last token, the second time.
        ("vllm:prefix_cache_hits_total", 39.0),
        ("vllm:request_queue_time_seconds_count", 2.0),
        ("vllm:request_prefill_time_seconds_count", 2.0),
        ("vllm:request_decode_time_seconds_count", 2.0),
        ("vllm:request_inference_time_seconds_count", 2.0),
        ("vllm:request_num_preemptions_count", 2.0),
    ];
    for (name, expected) in counted {
        assert_eq!(server.metric(name), expected, "{name}");
    }
    for stage in ["0", "1"] {
        let busy = format!("rank=\"dp0.stage{stage}.tp0\"");
        assert!(text.contains(&busy), "every rank says how long it computed: {text}");
    }
}

#[test]
fn load_is_what_is_in_flight() {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    let server = Server::serve(&model, &[]);
    let load = http::get(server.address, "/load").expect("an answer").ok();
    assert_eq!(load, json!({"server_load": 0}));
}
