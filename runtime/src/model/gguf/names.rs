//! Names of tensors: what llama.cpp calls `blk.3.attn_q.weight` is
//! `model.layers.3.self_attn.q_proj.weight` in published checkpoints.

/// The published name of a tensor; one that is not known keeps its own.
pub(super) fn published(name: &str) -> String {
    let whole = WHOLE.iter().find(|(ours, _)| *ours == name);
    if let Some((_, published)) = whole {
        return (*published).to_owned();
    }
    let parts = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let found = parts.and_then(|(layer, rest)| {
        let (part, suffix) = rest.rsplit_once('.')?;
        let (_, published) = IN_LAYERS.iter().find(|(ours, _)| *ours == part)?;
        Some(format!("model.layers.{layer}.{published}.{suffix}"))
    });
    found.unwrap_or_else(|| name.to_owned())
}

const WHOLE: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

const IN_LAYERS: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
