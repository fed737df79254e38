//! `scaling`: how many groups there are, when load decides.
//!
//! KServe's fields are read (`minReplicas`, `maxReplicas`, `wva`, `keda`). What KServe leaves to
//! another system's queries is said here in our own words, `metrics`, `behavior` and
//! `cooldownPeriod`, which follow Kubernetes' autoscaler:
//!
//! ```yaml
//! scaling:
//!   minReplicas: 0
//!   maxReplicas: 8
//!   cooldownPeriod: 300           # seconds without a request before the last group goes
//!   metrics:
//!     - {type: QueueDepth, target: {averageValue: 4}}
//!     - {type: KVCacheUtilization, target: {averageUtilization: 80}}
//!     - {type: TimeToFirstToken, target: {value: 500ms, percentile: 90}}
//!     - {type: InterTokenLatency, target: {value: 40ms}}
//!   behavior:
//!     scaleDown: {stabilizationWindowSeconds: 300}
//! ```

use std::time::Duration;

use crate::spec::{quantity::duration, reader::Fields};

/// How many groups there are, when load decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// The fewest; 0 lets a service go to sleep.
    pub min_replicas: u32,
    /// The most.
    pub max_replicas: u32,
    /// How many there are without any load, if that is fewer than `min_replicas`.
    pub idle_replicas: Option<u32>,
    /// How long there must have been no load before that, and before the last group goes.
    pub cooldown: Duration,
    /// What is to be held. Each asks for a number of groups, and the highest counts.
    pub targets: Vec<ScalingTarget>,
    /// How groups are added.
    pub scale_up: ScalingRules,
    /// How groups are taken away.
    pub scale_down: ScalingRules,
    /// What a group costs, relative to those of other services (`wva.variantCost`).
    pub cost: Option<f64>,
}

/// What is to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalingTarget {
    /// Requests that wait, of each group.
    QueueDepth {
        /// At most so many, on the average of the groups.
        average: u32,
    },
    /// The share of the KV blocks in use.
    KvCacheUtilization {
        /// At most so many of a hundred, on the average of the groups.
        percent: u32,
    },
    /// The time from a request to its first token.
    TimeToFirstToken {
        /// At most this.
        limit: Duration,
        /// For so many of a hundred requests.
        percentile: u32,
    },
    /// The time from one token to the next.
    InterTokenLatency {
        /// At most this.
        limit: Duration,
        /// For so many of a hundred tokens.
        percentile: u32,
    },
}

/// How the number of groups changes in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalingRules {
    /// Of all numbers that were asked for in this time, the most cautious counts.
    pub stabilization: Duration,
    /// How fast it may change; none is at once.
    pub policies: Vec<ScalingPolicy>,
    /// Which of them counts.
    pub select: SelectPolicy,
}

/// How fast the number may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScalingPolicy {
    /// By how much.
    pub by: ScalingStep,
    /// In this time.
    pub period: Duration,
}

/// By how much the number may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalingStep {
    /// So many groups.
    Groups(u32),
    /// So many of a hundred of those there are.
    Percent(u32),
}

/// Which of several policies counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SelectPolicy {
    /// The one that changes most.
    #[default]
    Max,
    /// The one that changes least.
    Min,
    /// None: the number never changes in this direction.
    Disabled,
}

impl Scaling {
    /// What is held if nothing is said: a short queue, and room in the KV cache.
    pub const DEFAULT_TARGETS: [ScalingTarget; 2] = [
        ScalingTarget::QueueDepth { average: 5 },
        ScalingTarget::KvCacheUtilization { percent: 80 },
    ];
}

impl ScalingRules {
    /// Upwards, as Kubernetes does: at once, up to twice as many or four more every 15 seconds.
    pub fn up() -> Self {
        let policies = vec![
            ScalingPolicy { by: ScalingStep::Percent(100), period: PERIOD },
            ScalingPolicy { by: ScalingStep::Groups(4), period: PERIOD },
        ];
        Self { stabilization: Duration::ZERO, policies, select: SelectPolicy::Max }
    }

    /// Downwards, as Kubernetes does: after five minutes, then at once.
    pub fn down() -> Self {
        let policies = vec![ScalingPolicy { by: ScalingStep::Percent(100), period: PERIOD }];
        Self { stabilization: COOLDOWN, policies, select: SelectPolicy::Max }
    }
}

const PERIOD: Duration = Duration::from_secs(15);
const COOLDOWN: Duration = Duration::from_secs(300);
const MAX_WINDOW: u32 = 3600;
const MAX_PERIOD: u32 = 1800;
const DEFAULT_PERCENTILE: u32 = 90;

/// `scaling` of a workload; `whole` if nothing is added to it from elsewhere.
pub(super) fn scaling(fields: &Fields<'_>, whole: bool) -> Scaling {
    let max = fields.count("maxReplicas", 1);
    if max.is_none() && whole && fields.value("maxReplicas").is_none() {
        fields.problem("maxReplicas", "is required");
    }
    let min = fields.count("minReplicas", 0);
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        let message = format!("must be at most maxReplicas, got {min} and maxReplicas {max}");
        fields.problem("minReplicas", message);
    }
    let min_replicas = min.unwrap_or(1);
    let mut scaling = Scaling {
        min_replicas,
        max_replicas: max.unwrap_or(min_replicas.max(1)),
        idle_replicas: None,
        cooldown: COOLDOWN,
        targets: fields.objects("metrics").iter().filter_map(target).collect(),
        scale_up: ScalingRules::up(),
        scale_down: ScalingRules::down(),
        cost: None,
    };
    read_others(fields, min, &mut scaling);
    if let Some(behavior) = fields.object("behavior") {
        read_behavior(&behavior, &mut scaling);
    }
    if let Some(seconds) = fields.count("cooldownPeriod", 0) {
        scaling.cooldown = Duration::from_secs(seconds.into());
    }
    if scaling.targets.is_empty() {
        scaling.targets = Scaling::DEFAULT_TARGETS.to_vec();
    }
    scaling
}

fn target(fields: &Fields<'_>) -> Option<ScalingTarget> {
    #[derive(Clone, Copy)]
    enum Word {
        Queue,
        Kv,
        First,
        Next,
    }
    let words = [
        ("QueueDepth", Word::Queue),
        ("KVCacheUtilization", Word::Kv),
        ("TimeToFirstToken", Word::First),
        ("InterTokenLatency", Word::Next),
    ];
    for required in ["type", "target"] {
        if fields.value(required).is_none() {
            fields.problem(required, "is required");
        }
    }
    let word = fields.one_of("type", &words);
    let target = fields.object("target")?;
    let need = |key: &'static str| {
        if target.value(key).is_none() {
            target.problem(key, "is required");
        }
    };
    let read = match word? {
        Word::Queue => {
            need("averageValue");
            let average = target.count("averageValue", 1)?;
            ScalingTarget::QueueDepth { average }
        }
        Word::Kv => {
            need("averageUtilization");
            let percent = target.count_within("averageUtilization", (1, 100))?;
            ScalingTarget::KvCacheUtilization { percent }
        }
        word => {
            need("value");
            let percentile = target.count_within("percentile", (1, 99));
            let percentile = percentile.unwrap_or(DEFAULT_PERCENTILE);
            let text = target.text("value")?;
            let limit = duration(text).filter(|limit| !limit.is_zero());
            if limit.is_none() {
                target.problem("value", format!("must be a duration as 500ms, got {text}"));
            }
            match word {
                Word::First => ScalingTarget::TimeToFirstToken { limit: limit?, percentile },
                _ => ScalingTarget::InterTokenLatency { limit: limit?, percentile },
            }
        }
    };
    Some(read)
}

/// `wva` and `keda`: of what they hand to other systems, what is understood.
fn read_others(fields: &Fields<'_>, min: Option<u32>, scaling: &mut Scaling) {
    if fields.value("wva").is_some() && fields.value("keda").is_some() {
        fields.problem("keda", "must not be given together with wva");
    }
    if let Some(wva) = fields.object("wva") {
        if wva.value("hpa").is_some() && wva.value("keda").is_some() {
            wva.problem("keda", "must not be given together with hpa");
        }
        if let Some(text) = wva.scalar("variantCost") {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            scaling.cost = text.parse().ok().filter(|_| plain);
            if scaling.cost.is_none() && !wva.findings().is_template(&text) {
                let message = format!("must be a number of at least 0 as \"10.0\", got {text}");
                wva.problem("variantCost", message);
            }
        }
        if let Some(behavior) = wva.object("hpa").and_then(|hpa| hpa.object("behavior")) {
            read_behavior(&behavior, scaling);
        }
        if let Some(keda) = wva.object("keda") {
            read_keda(&keda, min, scaling);
        }
    }
    if let Some(keda) = fields.object("keda") {
        let triggers = ": no other system is asked, `metrics` says what is held";
        keda.without_effect(&["triggers"], triggers);
        read_keda(&keda, min, scaling);
    }
}

fn read_keda(keda: &Fields<'_>, min: Option<u32>, scaling: &mut Scaling) {
    if let Some(seconds) = keda.count("cooldownPeriod", 0) {
        scaling.cooldown = Duration::from_secs(seconds.into());
    }
    if let Some(idle) = keda.count("idleReplicaCount", 0) {
        match min {
            Some(min) if idle < min => scaling.idle_replicas = Some(idle),
            Some(min) => {
                let message = format!("must be less than minReplicas, got {idle} and {min}");
                keda.problem("idleReplicaCount", message);
            }
            None => keda.problem("idleReplicaCount", "must not be given without minReplicas"),
        }
    }
    let others = ["pollingInterval", "initialCooldownPeriod", "fallback"];
    keda.without_effect(&others, ": loads are pushed, not polled");
    if let Some(advanced) = keda.object("advanced") {
        let theirs = ["restoreToOriginalReplicaCount", "scalingModifiers"];
        advanced.without_effect(&theirs, " without KEDA");
        if let Some(hpa) = advanced.object("horizontalPodAutoscalerConfig") {
            hpa.without_effect(&["name"], " without an autoscaler of that name");
            if let Some(behavior) = hpa.object("behavior") {
                read_behavior(&behavior, scaling);
            }
        }
    }
}

fn read_behavior(behavior: &Fields<'_>, scaling: &mut Scaling) {
    if let Some(up) = behavior.object("scaleUp") {
        read_rules(&up, &mut scaling.scale_up);
    }
    if let Some(down) = behavior.object("scaleDown") {
        read_rules(&down, &mut scaling.scale_down);
    }
}

fn read_rules(fields: &Fields<'_>, rules: &mut ScalingRules) {
    if let Some(seconds) = fields.count_within("stabilizationWindowSeconds", (0, MAX_WINDOW)) {
        rules.stabilization = Duration::from_secs(seconds.into());
    }
    let words = [
        ("Max", SelectPolicy::Max),
        ("Min", SelectPolicy::Min),
        ("Disabled", SelectPolicy::Disabled),
    ];
    rules.select = fields.one_of("selectPolicy", &words).unwrap_or(rules.select);
    fields.without_effect(&["tolerance"], ": targets are held as they are");
    if fields.value("policies").is_some() {
        let list = fields.objects("policies");
        rules.policies = list.iter().filter_map(policy).collect();
    }
}

fn policy(fields: &Fields<'_>) -> Option<ScalingPolicy> {
    for required in ["type", "value", "periodSeconds"] {
        if fields.value(required).is_none() {
            fields.problem(required, "is required");
        }
    }
    type Make = fn(u32) -> ScalingStep;
    let kinds: [(&str, Make); 2] =
        [("Pods", ScalingStep::Groups), ("Percent", ScalingStep::Percent)];
    let kind = fields.one_of("type", &kinds);
    let value = fields.count("value", 1);
    let period = fields.count_within("periodSeconds", (1, MAX_PERIOD));
    Some(ScalingPolicy { by: kind?(value?), period: Duration::from_secs(period?.into()) })
}
