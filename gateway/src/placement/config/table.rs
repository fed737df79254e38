//! Every plug-in by the name that configurations use. A new one is a line here, and a file.

use std::{sync::Arc, time::Duration};

use super::parameters::{POSITIVE, Parameters, SHARE};
use crate::placement::{
    filter::{
        AttributeFilter, Comparison, Filter, LabelFilter, PrefixAffinityFilter, Requirement,
        RoleFilter, SessionFilter, SloHeadroomFilter, SubsetFilter, TopologyFilter, TtftSource,
        UtilizationFilter,
    },
    handler::{Cost, Decider, Order},
    picker::{MaxScorePicker, Picker, PowerOfTwoPicker, RandomPicker, WeightedRandomPicker},
    scene::Signal,
    scorer::{
        ActiveRequestScorer, AttributeScorer, ContextLengthScorer, Direction, HeaderLabelScorer,
        KvCacheScorer, LatencyScorer, LoadAwareScorer, LoraAffinityScorer, NoHitLruScorer,
        PrefixCacheScorer, QueueScorer, RunningScorer, Scorer, SessionScorer, Strategy,
        TokenLoadScorer, TopologyScorer,
    },
    session::Session,
    topology::Level,
};

/// A plug-in with its parameters.
#[derive(Clone, Debug)]
pub(super) enum Plugin {
    Decider(Decider),
    Filter(Arc<dyn Filter>),
    Handler(HandlerKind),
    Picker(Arc<dyn Picker>),
    Scorer(Arc<dyn Scorer>),
    /// One that scores and filters.
    Both(Arc<dyn Filter>, Arc<dyn Scorer>),
}

/// How profiles are run, by their names.
#[derive(Clone, Debug)]
pub(super) enum HandlerKind {
    Disagg { decode: String, prefill: String, decider: Option<String>, order: Order },
    Header { header: String, default: String },
    Single,
}

type Make = fn(&Parameters<'_>) -> Plugin;

/// See the file.
pub(super) const PLUGINS: [(&str, Make); 38] = [
    // Handlers, and what they ask.
    ("single-profile-handler", |_| Plugin::Handler(HandlerKind::Single)),
    ("disagg-profile-handler", disagg),
    ("header-profile-handler", header_profile),
    ("always-disagg-pd-decider", |_| Plugin::Decider(Decider::Always)),
    ("cost-pd-decider", |of| Plugin::Decider(Decider::Cost(cost(of)))),
    ("prefix-based-pd-decider", prefix_decider),
    // Filters.
    ("by-label", by_label),
    ("by-label-selector", label_selector),
    ("decode-filter", |_| filter(RoleFilter::Decode)),
    ("destination-subset-filter", |_| filter(SubsetFilter)),
    ("endpoint-attribute-filter", attribute_filter),
    ("label-selector-filter", label_selector),
    ("prefill-filter", |_| filter(RoleFilter::Prefill)),
    ("prefix-cache-affinity-filter", prefix_affinity),
    ("session-affinity-filter", |of| filter(SessionFilter(session(of)))),
    ("slo-headroom-tier-filter", slo_headroom),
    ("topology-affinity-filter", topology_filter),
    ("utilization-filter", utilization),
    // Scorers.
    ("active-request-scorer", active_request),
    ("context-length-aware", context_length),
    ("endpoint-attribute-scorer", attribute_scorer),
    ("header-label-affinity-scorer", header_label),
    ("kv-cache-utilization-scorer", |_| scorer(KvCacheScorer)),
    ("latency-scorer", latency),
    ("load-aware-scorer", load_aware),
    ("lora-affinity-scorer", |_| scorer(LoraAffinityScorer)),
    ("no-hit-lru-scorer", no_hit_lru),
    ("prefix-cache-scorer", prefix_cache),
    ("queue-scorer", |_| scorer(QueueScorer)),
    ("running-requests-size-scorer", |_| scorer(RunningScorer)),
    ("session-affinity-scorer", |of| scorer(SessionScorer(session(of)))),
    ("token-load-scorer", token_load),
    ("topology-affinity-scorer", |of| {
        of.text("topologyProducerName");
        scorer(TopologyScorer)
    }),
    // Pickers.
    ("max-score-picker", |of| picker(of, MaxScorePicker)),
    ("power-of-two-picker", |of| picker(of, PowerOfTwoPicker)),
    ("random-picker", |of| picker(of, RandomPicker)),
    ("weighted-random-picker", |of| picker(of, WeightedRandomPicker)),
    // llm-d's older name of a scorer that reads events, which ours always does.
    ("precise-prefix-cache-scorer", |_| scorer(PrefixCacheScorer::default())),
];

/// What llm-d computes its scorers' input with. Here that is always there, so they do nothing.
pub(super) const PRODUCERS: [&str; 15] = [
    "approx-prefix-cache-producer",
    "burst-prefix-cache-producer",
    "core-metrics-extractor",
    "disagg-headers-handler",
    "inflight-load-producer",
    "metrics-data-source",
    "openai-parser",
    "p2p-source-producer",
    "precise-prefix-cache-producer",
    "predicted-latency-producer",
    "prefill-header-handler",
    "session-id-producer",
    "token-producer",
    "tokenizer",
    "topology-extractor",
];

/// Plug-ins that ask what is expected of each candidate.
pub(super) fn wants_predicted(kind: &str, parameters: Option<&serde_json::Value>) -> bool {
    let source = parameters.and_then(|of| of.get("ttftSource")).and_then(|text| text.as_str());
    matches!(kind, "latency-scorer" | "slo-headroom-tier-filter")
        || kind == "prefix-cache-affinity-filter" && source == Some("latencyPredictor")
}

/// Plug-ins for which answers carry a token.
pub(super) fn wants_tokens(kind: &str, parameters: Option<&serde_json::Value>) -> bool {
    let by = parameters.and_then(|of| of.get("strategy")).and_then(|text| text.as_str());
    kind.starts_with("session-affinity-") && by != Some("session_id")
}

fn filter(filter: impl Filter + 'static) -> Plugin {
    Plugin::Filter(Arc::new(filter))
}

fn scorer(scorer: impl Scorer + 'static) -> Plugin {
    Plugin::Scorer(Arc::new(scorer))
}

/// How many endpoints are picked says nothing here: the next one is picked when it is needed, from
/// what is so then.
fn picker(of: &Parameters<'_>, picker: impl Picker + 'static) -> Plugin {
    of.count("maxNumOfEndpoints", 1);
    Plugin::Picker(Arc::new(picker))
}

fn disagg(of: &Parameters<'_>) -> Plugin {
    let (profiles, deciders) = (of.object("profiles"), of.object("deciders"));
    let name = |key, default: &str| profiles.text(key).unwrap_or(default).to_owned();
    let orders = [("decode-first", Order::DecodeFirst), ("prefill-first", Order::PrefillFirst)];
    Plugin::Handler(HandlerKind::Disagg {
        decode: name("decode", "decode"),
        prefill: name("prefill", "prefill"),
        decider: deciders.text("prefill").map(str::to_owned),
        order: of.one_of("order", &orders).unwrap_or(Order::DecodeFirst),
    })
}

fn header_profile(of: &Parameters<'_>) -> Plugin {
    let header = of.text("headerName").unwrap_or("EPP-Profile").to_lowercase();
    if header != "epp-profile" && !header.starts_with("x-") {
        of.problem("headerName", format!("must be EPP-Profile or begin with x-, is {header}"));
    }
    let default = of.text("defaultProfile").unwrap_or("decode").to_owned();
    Plugin::Handler(HandlerKind::Header { header, default })
}

fn prefix_decider(of: &Parameters<'_>) -> Plugin {
    let prompt = of.count("promptTokens", 0).unwrap_or(0);
    Plugin::Decider(match of.count("nonCachedTokens", 0) {
        None => Decider::Cost(Cost::default()),
        Some(0) => Decider::Never,
        Some(uncached) => Decider::Threshold { uncached, prompt },
    })
}

fn cost(of: &Parameters<'_>) -> Cost {
    let assumed = Cost::default();
    let rate =
        |key, default: f32| of.number(key, 1.0..=1e9).map_or(default, |number| number as f32);
    let share = |key, most: f64, default: f32| {
        of.number(key, 0.0..=most).map_or(default, |number| number as f32)
    };
    Cost {
        prefill_rate: rate("prefillTokensPerSecond", assumed.prefill_rate),
        transfer_rate: rate("transferTokensPerSecond", assumed.transfer_rate),
        setup: share("setupMs", 60_000.0, assumed.setup * 1000.0) / 1000.0,
        stall: share("stallWeight", 100.0, assumed.stall),
    }
}

fn by_label(of: &Parameters<'_>) -> Plugin {
    let key = of.required_text("label").unwrap_or_default().to_owned();
    let (values, unlabelled) = (of.texts("validValues"), of.flag("allowsNoLabel"));
    let unlabelled = unlabelled.unwrap_or(false);
    if values.is_empty() && !unlabelled {
        of.problem("validValues", "must have at least one value unless allowsNoLabel is true");
    }
    let requirement = match unlabelled {
        true => Requirement::InIfThere(key, values),
        false => Requirement::In(key, values),
    };
    filter(LabelFilter { requirements: vec![requirement] })
}

fn label_selector(of: &Parameters<'_>) -> Plugin {
    let labels = of.value("matchLabels").and_then(|labels| labels.as_object());
    let labels = labels.into_iter().flatten().filter_map(|(key, value)| {
        let value = value.as_str().map(str::to_owned);
        if value.is_none() {
            of.problem("matchLabels", format!("{key} must be text"));
        }
        Some(Requirement::In(key.clone(), vec![value?]))
    });
    let expressions = of.objects("matchExpressions");
    let expressions = expressions.iter().filter_map(|one| {
        let key = one.required_text("key")?.to_owned();
        let values = one.texts("values");
        let operators = [
            ("In", Requirement::In as fn(String, Vec<String>) -> Requirement),
            ("NotIn", Requirement::NotIn),
            ("Exists", |key, _| Requirement::Present(key)),
            ("DoesNotExist", |key, _| Requirement::Absent(key)),
        ];
        Some(one.one_of("operator", &operators)?(key, values))
    });
    filter(LabelFilter { requirements: labels.chain(expressions).collect() })
}

fn attribute_filter(of: &Parameters<'_>) -> Plugin {
    let signal = of.one_of("attribute", &Signal::NAMES);
    if signal.is_none() && of.value("attribute").is_none() {
        of.problem("attribute", "is required");
    }
    of.text("producer");
    // Every endpoint has every number.
    of.one_of("onMissing", &[("Pass", ()), ("Fail", ())]);
    let algorithm = of.object("algorithm");
    algorithm.one_of("type", &[("threshold", ())]);
    let threshold = algorithm.object("threshold");
    let comparison = threshold.one_of("operator", &Comparison::NAMES);
    let value = threshold.number("value", f64::MIN..=f64::MAX);
    if comparison.is_none() || value.is_none() {
        threshold.problem("", "operator and value are required");
    }
    filter(AttributeFilter {
        signal: signal.unwrap_or(Signal::Running),
        comparison: comparison.unwrap_or(Comparison::LessThan),
        threshold: value.unwrap_or_default() as f32,
        fallback: of.flag("fallbackOnEmpty").unwrap_or(false),
    })
}

fn prefix_affinity(of: &Parameters<'_>) -> Plugin {
    let plain = PrefixAffinityFilter::default();
    let peak = of.number("peakPrefillThroughput", 1.0..=1e9).unwrap_or(15_928.0) as f32;
    let sources = [
        ("prefillThroughput", TtftSource::Throughput(peak)),
        ("latencyPredictor", TtftSource::Predictor),
    ];
    let penalty = of.number("maxTTFTPenaltyMs", POSITIVE);
    filter(PrefixAffinityFilter {
        threshold: of.number("affinityThreshold", SHARE).map_or(plain.threshold, |x| x as f32),
        explore: of.number("explorationProbability", SHARE).unwrap_or(plain.explore),
        most_penalty_ms: penalty.map_or(plain.most_penalty_ms, |ms| ms as f32),
        source: of.one_of("ttftSource", &sources).unwrap_or(TtftSource::Throughput(peak)),
    })
}

fn slo_headroom(of: &Parameters<'_>) -> Plugin {
    filter(SloHeadroomFilter { explore: of.number("epsilonExploreNeg", SHARE).unwrap_or(0.01) })
}

fn topology_filter(of: &Parameters<'_>) -> Plugin {
    of.text("topologyProducerName");
    let levels = Level::ALL.map(|(name, level, _)| (name, level));
    filter(TopologyFilter { least: of.one_of("minAffinity", &levels).unwrap_or(Level::Host) })
}

fn utilization(of: &Parameters<'_>) -> Plugin {
    of.text("inFlightLoadProducerName");
    let conditions = of.objects("conditions");
    if conditions.is_empty() {
        of.problem("conditions", "must have at least one");
    }
    let most = conditions.iter().filter_map(|condition| {
        let signal = condition.one_of("metric", &Signal::NAMES);
        let bound = match signal {
            Some(Signal::KvUsed) => SHARE,
            _ => POSITIVE,
        };
        let most = condition.number("maxValue", bound);
        if condition.value("metric").is_none() || condition.value("maxValue").is_none() {
            condition.problem("metric", "and maxValue are required");
        }
        Some((signal?, most? as f32))
    });
    let most = most.collect();
    filter(UtilizationFilter { most, fallback: of.flag("fallbackOnEmpty").unwrap_or(false) })
}

/// By a token, or by an id that is remembered.
fn session(of: &Parameters<'_>) -> Arc<Session> {
    let by_id = of.one_of("strategy", &[("encoded_endpoint_header", false), ("session_id", true)]);
    if let Some(name) = of.text("profileName") {
        of.problem("profileName", format!("must not be given, is {name}: who answers is kept"));
    }
    let token = of.object("encodedEndpointHeaderConfig");
    token.one_of("header", &[("x-session-token", ())]);
    let id = of.object("sessionIdConfig");
    for source in id.objects("sources") {
        source.one_of("header", &[("x-session-id", ())]);
    }
    let seconds =
        |key, default| Duration::from_secs_f64(id.number(key, 0.0..=1e6).unwrap_or(default));
    let (keep, sweep) =
        (seconds("evictionTtlSeconds", 300.0), seconds("evictionSweepSeconds", 10.0));
    Arc::new(if by_id == Some(true) { Session::by_id(keep, sweep) } else { Session::Token })
}

fn active_request(of: &Parameters<'_>) -> Plugin {
    // llm-d takes it and does nothing with it any more.
    of.value("requestTimeout");
    scorer(ActiveRequestScorer {
        idle: of.count("idleThreshold", 0).unwrap_or(0) as f32,
        most_busy_score: of.number("maxBusyScore", SHARE).unwrap_or(1.0) as f32,
    })
}

fn context_length(of: &Parameters<'_>) -> Plugin {
    let label = of.text("label").unwrap_or("llm-d.ai/context-length-range").to_owned();
    let one = Arc::new(ContextLengthScorer { label });
    match of.flag("enableFiltering") {
        Some(true) => Plugin::Both(one.clone(), one),
        _ => Plugin::Scorer(one),
    }
}

fn attribute_scorer(of: &Parameters<'_>) -> Plugin {
    let signal = of.one_of("attributeKey", &Signal::NAMES);
    if signal.is_none() && of.value("attributeKey").is_none() {
        of.problem("attributeKey", "is required");
    }
    of.text("producer");
    let algorithm = of.object("algorithm");
    let kinds = [
        ("linear_lower_is_better", Direction::Lower),
        ("linear_higher_is_better", Direction::Higher),
    ];
    let direction = algorithm.one_of("type", &kinds);
    if algorithm.value("type").is_none() {
        algorithm.problem("type", "is required");
    }
    let normalization = algorithm.object("normalization");
    normalization.object("adaptiveRange");
    let fixed = normalization.object("fixedRange");
    let any = || f64::MIN..=f64::MAX;
    let range = fixed.number("min", any()).zip(fixed.number("max", any()));
    if range.is_some_and(|(least, most)| least >= most) {
        fixed.problem("min", "must be less than max");
    }
    scorer(AttributeScorer {
        signal: signal.unwrap_or(Signal::Running),
        direction: direction.unwrap_or(Direction::Lower),
        range: range.map(|(least, most)| (least as f32, most as f32)),
    })
}

fn header_label(of: &Parameters<'_>) -> Plugin {
    let header = of.required_text("headerName").unwrap_or_default().to_lowercase();
    if !header.is_empty() && !header.starts_with("x-") {
        of.problem("headerName", format!("must begin with x-, is {header}"));
    }
    let label = of.required_text("labelKey").unwrap_or_default().to_owned();
    scorer(HeaderLabelScorer { header, label })
}

fn latency(of: &Parameters<'_>) -> Plugin {
    let weight = |key, default: f64| of.number(key, POSITIVE).unwrap_or(default) as f32;
    let strategies = [("least", Strategy::Least), ("most", Strategy::Most)];
    let composite = ["compositeKVWeight", "compositeQueueWeight", "compositePrefixWeight"];
    scorer(LatencyScorer {
        ttft_weight: weight("ttftWeight", 0.8),
        tpot_weight: weight("tpotWeight", 0.2),
        strategy: of.one_of("headroomSelectionStrategy", &strategies).unwrap_or(Strategy::Least),
        composite: composite.map(|key| weight(key, 1.0)),
    })
}

fn load_aware(of: &Parameters<'_>) -> Plugin {
    scorer(LoadAwareScorer { threshold: of.count("threshold", 1).unwrap_or(128) as f32 })
}

fn no_hit_lru(of: &Parameters<'_>) -> Plugin {
    of.text("prefixPluginType");
    of.text("prefixPluginName");
    scorer(NoHitLruScorer::new(of.count("lruSize", 1).unwrap_or(1024) as usize))
}

fn prefix_cache(of: &Parameters<'_>) -> Plugin {
    of.text("prefixMatchInfoProducerName");
    scorer(PrefixCacheScorer {
        length_weight: of.number("matchLengthWeight", SHARE).unwrap_or(0.0) as f32,
        length_scale: of.count("matchLengthScaleTokens", 1).unwrap_or(8192) as f32,
    })
}

fn token_load(of: &Parameters<'_>) -> Plugin {
    let threshold = of.count("queueThresholdTokens", 1).unwrap_or(4_194_304);
    scorer(TokenLoadScorer { threshold: threshold as f32 })
}
