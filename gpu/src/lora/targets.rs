//! The products of a model that adapters may add to, as the checkpoint's names and its config's
//! sizes have them: what an adapter's files are checked against before any rank takes its share.
//!
//! These are the products of attention and of feed-forward layers that all tokens use. Routers and
//! experts are not among them, nor are those of latent attention but for its last one, nor any of
//! an encoder.

use troupe_runtime::model::config::ModelConfig;

/// A product: the end of its name within its layer, its outputs and its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Such as `self_attn.q_proj`.
    pub module: &'static str,
    /// Rows of its weights.
    pub outputs: usize,
    /// Columns of its weights.
    pub inputs: usize,
}

/// Those of layer `layer`.
pub fn of_layer(config: &ModelConfig, layer: usize) -> Vec<Target> {
    let target = |module, outputs, inputs| Target { module, outputs, inputs };
    let hidden = config.hidden_size;
    let mut targets = Vec::with_capacity(7);
    if config.encoder.is_some() {
        return targets;
    }
    let (queries, values) =
        (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    match &config.latent {
        Some(latent) => {
            let values = config.num_heads * latent.value_dim;
            targets.push(target("self_attn.o_proj", hidden, values));
        }
        None => {
            if config.fused_projections {
                targets.push(target("self_attn.qkv_proj", queries + 2 * values, hidden));
            } else {
                targets.push(target("self_attn.q_proj", queries, hidden));
                targets.push(target("self_attn.k_proj", values, hidden));
                targets.push(target("self_attn.v_proj", values, hidden));
            }
            targets.push(target("self_attn.o_proj", hidden, queries));
        }
    }
    match config.experts_of(layer) {
        None => {
            let inner = config.intermediate_size;
            if config.fused_projections {
                targets.push(target("mlp.gate_up_proj", 2 * inner, hidden));
            } else {
                targets.push(target("mlp.gate_proj", inner, hidden));
                targets.push(target("mlp.up_proj", inner, hidden));
            }
            targets.push(target("mlp.down_proj", hidden, inner));
        }
        Some(experts) if experts.shared_intermediate_size > 0 => {
            let inner = experts.shared_intermediate_size;
            targets.push(target("mlp.shared_experts.gate_proj", inner, hidden));
            targets.push(target("mlp.shared_experts.up_proj", inner, hidden));
            targets.push(target("mlp.shared_experts.down_proj", hidden, inner));
        }
        Some(_) => {}
    }
    targets
}
