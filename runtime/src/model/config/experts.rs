//! Mixtures of experts: which layers have them, how many there are, and how a router chooses.
//!
//! Families name the same things differently, and publish routers that differ in how logits become
//! scores, whether experts are chosen group by group, and what the weights of the chosen ones are.
//! All of it becomes one [`Routing`], which a backend computes without knowing the family.

use super::{
    Architecture,
    parse::{MAX_LAYERS, MAX_WIDTH},
};
use crate::model::{error::ModelError, json::Fields};

/// Feed-forward layers of experts.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// Which layers have them; one entry per layer.
    pub layers: Vec<bool>,
    /// Experts of a layer.
    pub count: usize,
    /// How many of them each token uses.
    pub per_token: usize,
    /// Width of an expert.
    pub intermediate_size: usize,
    /// Width of the part that every token uses; 0 if there is none.
    pub shared_intermediate_size: usize,
    /// How a token's experts are chosen.
    pub routing: Routing,
}

/// How a token's experts are chosen, and what they weigh.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// What logits become.
    pub score: RouterScore,
    /// Whether the choice, and only that, adds a learned bias to each score.
    pub correction_bias: bool,
    /// Groups that experts lie in, evenly; 1 if there are none.
    pub groups: usize,
    /// The best so many groups' experts can be chosen.
    pub groups_kept: usize,
    /// How good a group is.
    pub group_score: GroupScore,
    /// Whether the chosen experts' scores are divided by their sum.
    pub normalize: bool,
    /// What weights are multiplied by at the end.
    pub scale: f64,
}

/// What a router's logits become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterScore {
    /// Each by itself.
    Sigmoid,
    /// Over all experts.
    Softmax,
}

/// How good a group of experts is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScore {
    /// As its best expert.
    Best,
    /// As the sum of its two best.
    BestTwo,
}

impl Experts {
    /// What the config says of experts, if the family has them.
    pub(super) fn parse(
        config: &Fields<'_>,
        architecture: Architecture,
        num_layers: usize,
    ) -> Result<Option<Self>, ModelError> {
        match architecture {
            Architecture::Mixtral => mixtral(config, num_layers).map(Some),
            Architecture::Qwen3Moe => qwen3(config, num_layers).map(Some),
            Architecture::DeepseekV2 | Architecture::DeepseekV3 => {
                deepseek(config, architecture, num_layers)
            }
            _ => Ok(None),
        }
    }
}

fn mixtral(config: &Fields<'_>, num_layers: usize) -> Result<Experts, ModelError> {
    let count = config.size("num_local_experts", 1..=MAX_EXPERTS)?;
    Ok(Experts {
        layers: vec![true; num_layers],
        count,
        per_token: config.size("num_experts_per_tok", 1..=count as u64)?,
        intermediate_size: config.size("intermediate_size", 1..=MAX_WIDTH)?,
        shared_intermediate_size: 0,
        routing: Routing { normalize: true, ..Routing::SOFTMAX },
    })
}

fn qwen3(config: &Fields<'_>, num_layers: usize) -> Result<Experts, ModelError> {
    // Transformers 5 writes the second name, sometimes both.
    let named = ["num_experts", "num_local_experts"];
    let name = named.into_iter().find(|name| config.is_written(name)).unwrap_or(named[0]);
    let count = config.size(name, 1..=MAX_EXPERTS)?;
    let step = config.integer("decoder_sparse_step", 1..=MAX_LAYERS)?.unwrap_or(1) as usize;
    let dense = config.integers("mlp_only_layers", num_layers)?.unwrap_or_default();
    let sparse = |layer: usize| !dense.contains(&layer) && (layer + 1).is_multiple_of(step);
    Ok(Experts {
        layers: (0..num_layers).map(sparse).collect(),
        count,
        per_token: config.size("num_experts_per_tok", 1..=count as u64)?,
        intermediate_size: config.size("moe_intermediate_size", 1..=MAX_WIDTH)?,
        shared_intermediate_size: 0,
        routing: Routing {
            normalize: config.flag("norm_topk_prob")?.unwrap_or(false),
            ..Routing::SOFTMAX
        },
    })
}

fn deepseek(
    config: &Fields<'_>,
    architecture: Architecture,
    num_layers: usize,
) -> Result<Option<Experts>, ModelError> {
    let Some(count) = config.integer("n_routed_experts", 1..=MAX_EXPERTS)? else {
        return Ok(None);
    };
    if config.integer("moe_layer_freq", 1..=MAX_LAYERS)?.is_some_and(|every| every != 1) {
        let expected = "only 1 is known: all layers from `first_k_dense_replace` on have experts";
        return Err(config.wrong("moe_layer_freq", expected));
    }
    let dense = config.integer("first_k_dense_replace", 0..=MAX_LAYERS)?.unwrap_or(0) as usize;
    let width = config.size("moe_intermediate_size", 1..=MAX_WIDTH)?;
    let shared = config.integer("n_shared_experts", 0..=MAX_EXPERTS)?.unwrap_or(0) as usize;
    let (count, per_token) = (count as usize, config.size("num_experts_per_tok", 1..=count)?);
    let is_v3 = architecture == Architecture::DeepseekV3;
    let routing = if is_v3 { routing_v3(config)? } else { routing_v2(config)? };
    check_groups(config, &routing, (count, per_token))?;
    Ok(Some(Experts {
        layers: (0..num_layers).map(|layer| layer >= dense).collect(),
        count,
        per_token,
        intermediate_size: width,
        shared_intermediate_size: shared * width,
        routing,
    }))
}

fn routing_v2(config: &Fields<'_>) -> Result<Routing, ModelError> {
    if !matches!(config.text("scoring_func")?, None | Some("softmax")) {
        return Err(config.wrong("scoring_func", "DeepSeek-V2 is known with `softmax`"));
    }
    if config.flag("norm_topk_prob")?.unwrap_or(false) {
        // Published code disagrees on what is scaled then, and no published model has it.
        return Err(config.wrong("norm_topk_prob", "DeepSeek-V2 is known with false"));
    }
    let (groups, groups_kept) = match config.text("topk_method")? {
        None | Some("greedy") => (1, 1),
        Some("group_limited_greedy") => groups(config)?,
        Some(_) => {
            let expected = "DeepSeek-V2 is known with `greedy` and `group_limited_greedy`";
            return Err(config.wrong("topk_method", expected));
        }
    };
    Ok(Routing { groups, groups_kept, scale: routed_scale(config)?, ..Routing::SOFTMAX })
}

fn routing_v3(config: &Fields<'_>) -> Result<Routing, ModelError> {
    if !matches!(config.text("scoring_func")?, None | Some("sigmoid")) {
        return Err(config.wrong("scoring_func", "DeepSeek-V3 is known with `sigmoid`"));
    }
    if !matches!(config.text("topk_method")?, None | Some("noaux_tc")) {
        return Err(config.wrong("topk_method", "DeepSeek-V3 is known with `noaux_tc`"));
    }
    let (groups, groups_kept) = groups(config)?;
    Ok(Routing {
        score: RouterScore::Sigmoid,
        correction_bias: true,
        groups,
        groups_kept,
        group_score: GroupScore::BestTwo,
        normalize: config.flag("norm_topk_prob")?.unwrap_or(true),
        scale: routed_scale(config)?,
    })
}

fn routed_scale(config: &Fields<'_>) -> Result<f64, ModelError> {
    Ok(config.number("routed_scaling_factor", 1e-6..=1e6)?.unwrap_or(1.0))
}

fn groups(config: &Fields<'_>) -> Result<(usize, usize), ModelError> {
    let groups = config.integer("n_group", 1..=MAX_EXPERTS)?.unwrap_or(1);
    let kept = config.integer("topk_group", 1..=groups)?.unwrap_or(groups);
    Ok((groups as usize, kept as usize))
}

fn check_groups(
    config: &Fields<'_>,
    routing: &Routing,
    (count, per_token): (usize, usize),
) -> Result<(), ModelError> {
    if !count.is_multiple_of(routing.groups) {
        let expected = format!("it must divide `n_routed_experts`, which is {count}");
        return Err(config.wrong("n_group", expected));
    }
    let (each, kept) = (count / routing.groups, routing.groups_kept);
    if routing.groups > 1 && routing.group_score == GroupScore::BestTwo && each < 2 {
        let expected = "a group must have two experts at least, whose scores are added";
        return Err(config.wrong("n_group", expected));
    }
    if per_token > each * kept {
        let expected = format!("{kept} groups of {each} experts can be chosen from, not more");
        return Err(config.wrong("num_experts_per_tok", expected));
    }
    Ok(())
}

impl Routing {
    /// The plainest: softmax over all, and the chosen ones' scores as they are.
    pub const SOFTMAX: Self = Self {
        score: RouterScore::Softmax,
        correction_bias: false,
        groups: 1,
        groups_kept: 1,
        group_score: GroupScore::Best,
        normalize: false,
        scale: 1.0,
    };
}

/// Several times the most that any published model has.
const MAX_EXPERTS: u64 = 1 << 14;
