//! Configs that are slightly wrong, and what is said about them.

use std::path::Path;

use serde_json::{Value, json};

use super::*;

/// A plausible Llama, with some fields replaced.
fn llama(changes: &Value) -> Vec<u8> {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4,
        "vocab_size": 512, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5,
        "eos_token_id": 2, "torch_dtype": "bfloat16",
    });
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    serde_json::to_vec(&config).unwrap()
}

fn parse(changes: Value) -> Result<ModelConfig, ModelError> {
    ModelConfig::parse(Path::new("x/config.json"), &llama(&changes))
}

fn check_error(changes: Value, parts: &[&str]) {
    let text = parse(changes.clone()).expect_err(&changes.to_string()).to_string();
    for part in ["x/config.json"].iter().chain(parts) {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

fn check_spans(changes: Value, expected: &[Option<u32>]) {
    let config = parse(changes).unwrap();
    let span = |window: &Option<u32>| window.map_or(AttentionSpan::Full, AttentionSpan::Window);
    assert_eq!(config.attention, expected.iter().map(span).collect::<Vec<_>>());
}

#[test]
fn defaults_are_resolved() {
    let config = parse(json!({})).unwrap();
    assert_eq!(config.head_dim, 8);
    assert_eq!(config.rope, Rope { theta: 10_000.0, scaling: RopeScaling::None });
    assert_eq!((config.dtype, config.eos_ids, config.bos_id), (ModelDtype::Bf16, vec![2], None));
    assert!(!config.tie_word_embeddings && !config.qkv_bias && !config.output_bias);
    let qwen3 = json!({"architectures": ["Qwen3ForCausalLM"]});
    assert_eq!(parse(qwen3).unwrap().head_dim, 128);
    let by_type = json!({"architectures": null, "model_type": "mistral"});
    assert_eq!(parse(by_type).unwrap().architecture, Architecture::Mistral);
    assert_eq!(parse(json!({"num_key_value_heads": null})).unwrap().num_kv_heads, 8);
}

#[test]
fn encoders_and_models_without_a_head_are_told_apart() {
    let bert = |changes: Value| {
        let mut config = json!({"architectures": ["BertModel"], "num_key_value_heads": null});
        for (field, value) in changes.as_object().unwrap() {
            config[field] = value.clone();
        }
        config
    };
    let config = parse(bert(json!({"layer_norm_eps": 1e-6}))).unwrap();
    assert_eq!(
        (config.encoder, config.num_kv_heads),
        (Some(Encoder { token_types: 2, classifier: None }), 8)
    );
    assert_eq!((config.rms_norm_eps, config.rotary_dim), (1e-6, 0));
    assert_eq!(config.attention, [AttentionSpan::Both; 4]);
    assert_eq!(parse(bert(json!({}))).unwrap().rms_norm_eps, 1e-12);
    check_error(bert(json!({"is_decoder": true})), &["`is_decoder`", "encoder"]);
    let relative = json!({"position_embedding_type": "relative_key"});
    check_error(bert(relative), &["`position_embedding_type`", "absolute"]);
    check_error(bert(json!({"hidden_act": "relu"})), &["`hidden_act`", "`gelu`"]);

    let scores = |changes: Value| {
        let mut config = bert(changes);
        config["architectures"] = json!(["BertForSequenceClassification"]);
        config
    };
    let one = || json!({"id2label": {"0": "LABEL_0"}});
    let classifier = |config| parse(scores(config)).unwrap().encoder.unwrap().classifier;
    assert_eq!(classifier(one()), Some(ScoreActivation::Sigmoid));
    let mut identity = one();
    identity["sentence_transformers"] =
        json!({"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.0.0"});
    assert_eq!(classifier(identity), Some(ScoreActivation::Identity));
    let older = json!({"num_labels": 1,
        "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"});
    assert_eq!(classifier(older), Some(ScoreActivation::Identity));
    check_error(scores(json!({})), &["`id2label`", "2 labels"]);
    check_error(
        scores(json!({"num_labels": 1, "sbert_ce_default_activation_function": "Tanh"})),
        &["Sigmoid and Identity"],
    );

    assert!(!parse(json!({})).unwrap().is_headless);
    let bare = parse(json!({"architectures": ["Qwen3Model"]})).unwrap();
    assert_eq!((bare.architecture, bare.is_headless), (Architecture::Qwen3, true));
    check_error(json!({"architectures": ["Model"]}), &["`architectures`", "BertModel"]);
    check_error(json!({"architectures": ["BertForMaskedLM"]}), &["BertForMaskedLM"]);

    assert_eq!(parse(json!({})).unwrap().matryoshka, None);
    assert_eq!(parse(json!({"is_matryoshka": true})).unwrap().matryoshka, Some(vec![]));
    let sizes = parse(json!({"matryoshka_dimensions": [16, 32]})).unwrap().matryoshka;
    assert_eq!(sizes, Some(vec![16, 32]));
    check_error(json!({"matryoshka_dimensions": [65]}), &["`matryoshka_dimensions`"]);
}

#[test]
fn wrong_numbers_are_named_with_what_would_be_right() {
    check_error(json!({"hidden_size": 0}), &["`hidden_size`", "is 0", "from 1 to"]);
    check_error(json!({"num_hidden_layers": 1e9}), &["`num_hidden_layers`"]);
    check_error(json!({"vocab_size": -1}), &["`vocab_size`", "is -1"]);
    check_error(json!({"vocab_size": null}), &["`vocab_size`", "null"]);
    check_error(json!({"num_key_value_heads": 3}), &["is 3", "must divide", "which is 8"]);
    check_error(json!({"num_attention_heads": 12}), &["`head_dim`", "hidden_size", "64"]);
    check_error(json!({"head_dim": 7}), &["`head_dim`", "even"]);
    check_error(json!({"rms_norm_eps": "small"}), &["`rms_norm_eps`", "\"small\"", "number"]);
    check_error(json!({"eos_token_id": [1, 512]}), &["`eos_token_id`", "[1,512]", "512"]);
    check_error(json!({"hidden_act": "gelu"}), &["`hidden_act`", "gelu", "silu"]);
    check_error(json!({"dtype": "int8"}), &["`dtype`", "bfloat16"]);
    check_error(json!({"tie_word_embeddings": 1}), &["`tie_word_embeddings`", "true or false"]);
    check_error(json!({"quantization_config": {}}), &["`quantization_config.quant_method`"]);
    check_error(json!({"architectures": ["X".repeat(1000)]}), &["XXX...", "LlamaForCausalLM"]);
}

fn quantized(config: Value) -> Result<Quantization, String> {
    let parsed = parse(json!({"quantization_config": config}));
    parsed.map(|config| config.quantization.unwrap()).map_err(|error| error.to_string())
}

#[test]
fn quantization_is_read_as_each_tool_writes_it() {
    use QuantizedInputs as Inputs;
    use QuantizedWeights as Weights;
    let check = |config: Value, weights, inputs| {
        let found = quantized(config).unwrap();
        assert_eq!((found.weights, found.inputs), (weights, inputs));
    };
    let gptq = json!({"quant_method": "gptq", "bits": 8, "group_size": -1, "desc_act": true});
    let weights = Weights::Gptq { bits: 8, group: None, zero_offset: 1 };
    check(gptq, weights, Inputs::Exact);
    let awq = json!({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "GEMM"});
    check(awq, Weights::Awq { group: Some(128) }, Inputs::Exact);
    let fp8 = json!({"quant_method": "fp8", "activation_scheme": "static"});
    check(fp8, Weights::Fp8 { block: None }, Inputs::Fp8Static);
    let fp8 = json!({"quant_method": "fp8", "weight_block_size": [128, 64]});
    check(fp8, Weights::Fp8 { block: Some((128, 64)) }, Inputs::Fp8Groups(64));
    let compressed = |format: &str, weights: Value, inputs: Value| {
        json!({"quant_method": "compressed-tensors", "format": format, "config_groups":
               {"group_0": {"weights": weights, "input_activations": inputs}}})
    };
    let four = json!({"num_bits": 4, "strategy": "group", "group_size": 32});
    let weights = Weights::Packed { bits: 4, group: Some(32) };
    check(compressed("pack-quantized", four, Value::Null), weights, Inputs::Exact);
    let eight = json!({"num_bits": 8, "type": "int", "strategy": "channel"});
    let inputs = json!({"num_bits": 8, "type": "int", "strategy": "token", "dynamic": true});
    check(compressed("int-quantized", eight, inputs), Weights::Int8, Inputs::Int8Token);
}

#[test]
fn quantization_that_is_not_supported_is_named_with_what_is() {
    let refused = |config: Value, parts: &[&str]| {
        let why = quantized(config).unwrap_err();
        assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    };
    let method = |method: &str| json!({"quant_method": method, "bits": 4, "group_size": 128});
    refused(method("bitsandbytes"), &["bitsandbytes", "`gptq`, `awq`, `compressed-tensors`"]);
    refused(
        json!({"quant_method": "gptq", "bits": 3}),
        &["quantization_config.bits", "4 and of 8"],
    );
    refused(json!({"quant_method": "gptq", "bits": 4, "group_size": 0}), &["group_size", "-1"]);
    refused(json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}), &["marlin"]);
    refused(json!({"quant_method": "awq", "bits": 4, "version": "gemv"}), &["gemv", "`gemm`"]);
    refused(json!({"quant_method": "fp8", "weight_block_size": [128]}), &["[128]", "two sizes"]);
    let compressed = |scheme: Value| {
        json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
               "config_groups": {"group_0": scheme}})
    };
    refused(compressed(json!([])), &["config_groups", "one group"]);
    let uneven = json!({"weights": {"num_bits": 4, "symmetric": false, "strategy": "group"}});
    refused(compressed(uneven), &["weights.symmetric", "is supported"]);
    let eight = json!({"num_bits": 8, "strategy": "channel"});
    let inputs = json!({"num_bits": 8, "type": "int", "strategy": "token", "dynamic": true});
    let both = json!({"weights": eight, "input_activations": inputs});
    refused(compressed(both), &["config_groups.input_activations", "none, or"]);
}

#[test]
fn ropes_are_read_in_both_styles_or_refused() {
    let linear = RopeScaling::Linear { factor: 4.0 };
    let old = json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4}});
    assert_eq!(parse(old).unwrap().rope, Rope { theta: 5e5, scaling: linear.clone() });
    let new = json!({"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 4}});
    assert_eq!(parse(new).unwrap().rope, Rope { theta: 5e5, scaling: linear });
    let yarn = json!({"rope_scaling": {"rope_type": "yarn", "factor": 4,
        "original_max_position_embeddings": 256}});
    let RopeScaling::Yarn { factor, attention_factor, original_max_position, .. } =
        parse(yarn).unwrap().rope.scaling
    else {
        panic!("it is YaRN");
    };
    assert_eq!((factor, original_max_position), (4.0, 256));
    assert!((attention_factor - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
    let long =
        json!({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [2]}});
    check_error(long, &["`rope_scaling.type`", "longrope", "`llama3`", "longer text"]);
    let same = |factors: Vec<f64>| {
        json!({"max_position_embeddings": 64, "original_max_position_embeddings": 16,
            "rope_scaling": {"type": "longrope", "short_factor": factors, "long_factor": factors}})
    };
    check_error(same(vec![1.0]), &["`rope_scaling`", "factors in a list"]);
    check_error(same(vec![0.0]), &["`rope_scaling.short_factor`", "list of numbers"]);
    let pairs = parse(json!({})).unwrap().rotary_dim / 2;
    let RopeScaling::PerPair { factors, attention_factor } =
        parse(same(vec![1.5; pairs])).unwrap().rope.scaling
    else {
        panic!("it has factors");
    };
    assert_eq!(factors[..], vec![1.5; pairs][..]);
    assert!((attention_factor - 1.5f64.sqrt()).abs() < 1e-12, "1 + ln 4 / ln 16");
    check_error(json!({"rope_scaling": {"rope_type": "linear"}}), &["`rope_scaling.factor`"]);
    check_error(json!({"rope_theta": 0}), &["`rope_theta`"]);
    let swapped = json!({"rope_scaling": {"rope_type": "llama3", "factor": 8,
        "low_freq_factor": 4, "high_freq_factor": 1, "original_max_position_embeddings": 64}});
    check_error(swapped, &["high_freq_factor", "greater than"]);
    check_error(json!({"partial_rotary_factor": 0.5}), &["`partial_rotary_factor`"]);
}

#[test]
fn what_families_do_alike_is_refused_where_they_do_not() {
    let of = |class: &str, more: Value| {
        let mut changes = json!({"architectures": [class]});
        changes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        changes
    };
    let phi = parse(of("Phi3ForCausalLM", json!({"partial_rotary_factor": 0.75}))).unwrap();
    assert_eq!((phi.rotary_dim, phi.head_dim, phi.fused_projections), (6, 8, true));
    let gemma = parse(of("Gemma2ForCausalLM", json!({}))).unwrap();
    assert!(gemma.tie_word_embeddings && gemma.head_dim == 256);
    assert_eq!((gemma.attention_cap, gemma.logit_cap), (Some(50.0), Some(30.0)));
    let uncapped = of("Gemma2ForCausalLM", json!({"attn_logit_softcapping": null}));
    assert_eq!(parse(uncapped).unwrap().attention_cap, None);
    let gate = json!({"hidden_activation": "gelu"});
    check_error(of("Gemma3ForCausalLM", gate), &["`hidden_activation`", "gelu_pytorch_tanh"]);
    let both_ways = json!({"use_bidirectional_attention": true});
    check_error(of("Gemma3ForCausalLM", both_ways), &["`use_bidirectional_attention`", "false"]);
    let half = json!({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}});
    check_error(of("Gemma3ForCausalLM", half), &["`rope_parameters`", "`sliding_attention`"]);
}

#[test]
fn routers_that_no_published_model_has_are_refused() {
    let of = |class: &str, more: Value| {
        let mut changes = json!({"architectures": [class], "q_lora_rank": null, "kv_lora_rank": 16,
            "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 8,
            "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 4, "topk_group": 2});
        changes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        changes
    };
    let (v2, v3) = ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM");
    let greedy = parse(of(v2, json!({"first_k_dense_replace": 1}))).unwrap();
    assert_eq!(greedy.experts.unwrap().routing, Routing::SOFTMAX);
    assert_eq!(greedy.latent.map(|latent| (latent.width(), latent.query_dim())), Some((20, 12)));
    assert_eq!(parse(of(v2, json!({"n_routed_experts": null}))).unwrap().experts, None);
    check_error(of(v2, json!({"topk_method": "noaux_tc"})), &["`topk_method`", "`greedy`"]);
    check_error(of(v2, json!({"norm_topk_prob": true})), &["`norm_topk_prob`", "false"]);
    check_error(of(v3, json!({"scoring_func": "softmax"})), &["`scoring_func`", "`sigmoid`"]);
    check_error(of(v3, json!({"n_group": 3})), &["`n_group`", "divide", "8"]);
    check_error(of(v3, json!({"n_group": 8})), &["`n_group`", "two experts"]);
    check_error(of(v3, json!({"topk_group": 5})), &["`topk_group`", "1 to 4"]);
    check_error(of(v3, json!({"num_experts_per_tok": 5})), &["`num_experts_per_tok`", "2 groups"]);
    check_error(of(v3, json!({"moe_layer_freq": 2})), &["`moe_layer_freq`", "only 1"]);
    check_error(of(v3, json!({"attention_bias": true})), &["`attention_bias`"]);
    check_error(of(v3, json!({"qk_rope_head_dim": 3})), &["`qk_rope_head_dim`", "even"]);
    let stretched = json!({"rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1,
        "mscale_all_dim": 1, "original_max_position_embeddings": 256}});
    let scale = parse(of(v3, stretched)).unwrap().attention_scale * 12f64.sqrt();
    assert!((scale - (0.1 * 40f64.ln() + 1.0).powi(2)).abs() < 1e-12, "{scale}");
    let mixtral = json!({"architectures": ["MixtralForCausalLM"], "num_local_experts": 4,
        "num_experts_per_tok": 5});
    check_error(mixtral, &["`num_experts_per_tok`", "1 to 4"]);
    let qwen = json!({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4,
        "num_experts_per_tok": 2, "moe_intermediate_size": 8, "decoder_sparse_step": 2});
    let layers = parse(qwen).unwrap().experts.unwrap().layers;
    assert_eq!(layers, [false, true, false, true]);
}

#[test]
fn windows_follow_each_familys_rules() {
    let windowed = |name: &str, more: Value| {
        let mut changes = json!({"architectures": [name], "sliding_window": 24});
        changes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        changes
    };
    check_spans(windowed("LlamaForCausalLM", json!({})), &[None; 4]);
    check_spans(
        windowed(
            "MixtralForCausalLM",
            json!({"num_local_experts": 2,
        "num_experts_per_tok": 1}),
        ),
        &[Some(24); 4],
    );
    let every_other = [Some(24), None, Some(24), None];
    check_spans(windowed("Gemma2ForCausalLM", json!({})), &every_other);
    check_spans(windowed("Gemma3ForCausalLM", json!({"sliding_window_pattern": 2})), &every_other);
    check_spans(windowed("Gemma3ForCausalLM", json!({})), &[Some(24); 4]);
    check_spans(windowed("MistralForCausalLM", json!({})), &[Some(24); 4]);
    check_spans(windowed("MistralForCausalLM", json!({"sliding_window": null})), &[None; 4]);
    check_spans(windowed("Qwen2ForCausalLM", json!({})), &[None; 4]);
    let from_third = json!({"use_sliding_window": true, "max_window_layers": 2});
    check_spans(windowed("Qwen2ForCausalLM", from_third), &[None, None, Some(24), Some(24)]);
    let types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"];
    let by_type = json!({"use_sliding_window": true, "layer_types": types});
    check_spans(windowed("Qwen3ForCausalLM", by_type), &[None, Some(24), None, Some(24)]);
    let off = windowed("Qwen3ForCausalLM", json!({"layer_types": types}));
    check_error(off, &["`sliding_window`", "use_sliding_window"]);
    let short = windowed("Qwen3ForCausalLM", json!({"layer_types": ["full_attention"]}));
    check_error(short, &["`layer_types`", "4 entries"]);
}

#[test]
fn layers_of_one_span_share_a_group() {
    use AttentionSpan::{Full, Window};
    let groups = groups::kv_groups(&[Window(8), Full, Window(8), Window(4)]);
    let expected = [(vec![0, 2], Window(8)), (vec![1], Full), (vec![3], Window(4))];
    assert_eq!(groups, expected.map(|(layers, span)| KvGroup { layers, span }));
}

#[test]
fn tensor_parallel_sizes_are_checked() {
    let config = parse(json!({})).unwrap();
    assert_eq!(config.tensor_parallel_sizes(), [1, 2, 4, 8]);
    assert_eq!(config.check_tensor_parallel(8), Ok(()));
    let text = config.check_tensor_parallel(3).unwrap_err().to_string();
    assert!(text.contains("size of 3") && text.ends_with("1, 2, 4, 8"), "{text}");
    assert!(config.check_tensor_parallel(0).is_err());
    // 12 query heads over 4 key/value heads: 6 and 3 would cut a key/value head in parts.
    let config = parse(json!({
        "num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 8
    }));
    assert_eq!(config.unwrap().tensor_parallel_sizes(), [1, 2, 4, 12]);
}

#[test]
fn files_that_are_no_configs_are_refused() {
    let file = Path::new("config.json");
    for bytes in [&b"[1]"[..], b"{", b"\xff", "[".repeat(10_000).as_bytes()] {
        let error = ModelConfig::parse(file, bytes).unwrap_err();
        assert!(matches!(error, ModelError::Json { .. }), "{error}");
    }
}

#[test]
fn generation_configs_keep_what_is_not_said_apart() {
    let file = Path::new("generation_config.json");
    let text = br#"{"eos_token_id": [2, 3], "temperature": 0.6, "top_k": 20, "do_sample": true}"#;
    let config = GenerationConfig::parse(file, text, 512).unwrap();
    assert_eq!((config.eos_ids, config.temperature), (vec![2, 3], Some(0.6)));
    assert_eq!((config.top_k, config.top_p, config.do_sample), (Some(20), None, Some(true)));
    let error = GenerationConfig::parse(file, br#"{"top_p": 1.5}"#, 512).unwrap_err().to_string();
    assert!(error.contains("`top_p` is 1.5"), "{error}");
}
