//! What places requests where no configuration says how: llm-d's default profile. Prefill groups
//! help where there are any, by what that costs.

use std::sync::Arc;

use super::{
    handler::{Cost, Decider, Handler, Order, Placer},
    picker::MaxScorePicker,
    profile::Profile,
    scorer::{KvCacheScorer, PrefixCacheScorer, QueueScorer, Scorer},
};

/// See the file.
pub(crate) fn placer() -> Placer {
    let handler = Handler::Disagg {
        decode: Arc::new(Placer::answering(profile("default"))),
        prefill: Arc::new(profile("prefill")),
        decider: Decider::Cost(Cost::default()),
        order: Order::DecodeFirst,
        both: false,
    };
    Placer { handler, wants_predicted: false, tokens: false }
}

/// The scorers, weights and picker of llm-d's code where it is given none.
pub(crate) fn profile(name: &str) -> Profile {
    let scorers: [(&str, Arc<dyn Scorer>, f32); 3] = [
        ("queue-scorer", Arc::new(QueueScorer), 2.0),
        ("kv-cache-utilization-scorer", Arc::new(KvCacheScorer), 2.0),
        ("prefix-cache-scorer", Arc::new(PrefixCacheScorer::default()), 3.0),
    ];
    Profile {
        name: name.into(),
        filters: Vec::new(),
        scorers: scorers
            .into_iter()
            .map(|(name, one, weight)| (name.into(), one, weight))
            .collect(),
        picker: ("max-score-picker".into(), Arc::new(MaxScorePicker)),
    }
}
