//! A Llama of 125 million random parameters, in bfloat16: large enough that a step is arithmetic
//! and memory, small enough for any machine. What it says means nothing; how fast it says it does.
//! The numbers are the same on every machine.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

use serde_json::{Map, Value, json};

const HIDDEN: usize = 768;
const LAYERS: usize = 12;
const HEADS: usize = 12;
const KV_HEADS: usize = 4;
const HEAD: usize = HIDDEN / HEADS;
const FFN: usize = 2048;
const VOCABULARY: usize = 32_000;
/// Uniform from minus to plus this: about the deviation of 0.02 that models begin with.
const SPREAD: f32 = 0.035;

/// Writes the model to `folder`, with the tokenizer of the model in `other`.
pub(crate) fn write_125m(folder: &Path, other: &Path) -> io::Result<()> {
    let weights = folder.join("model.safetensors");
    if weights.is_file() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        fs::copy(other.join(name), folder.join(name))?;
    }
    fs::write(folder.join("config.json"), config().to_string())?;
    // Under another name until it is whole.
    let partial = folder.join("model.partial");
    write_weights(&partial)?;
    fs::rename(partial, weights)
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD,
        "vocab_size": VOCABULARY, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0, "hidden_act": "silu", "tie_word_embeddings": false,
        "eos_token_id": 2,
    })
}

fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN])];
    for layer in 0..LAYERS {
        let parts = [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HEADS * HEAD, HIDDEN]),
            ("self_attn.k_proj", vec![KV_HEADS * HEAD, HIDDEN]),
            ("self_attn.v_proj", vec![KV_HEADS * HEAD, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HEADS * HEAD]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_proj", vec![FFN, HIDDEN]),
            ("mlp.up_proj", vec![FFN, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, FFN]),
        ];
        tensors.extend(
            parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape)),
        );
    }
    tensors.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    tensors.push(("lm_head.weight".to_owned(), vec![VOCABULARY, HIDDEN]));
    tensors
}

/// A safetensors file: the header's length, the header, the numbers.
fn write_weights(path: &Path) -> io::Result<()> {
    let tensors = tensors();
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in &tensors {
        let begin = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]});
        header.insert(name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string();
    // So that the numbers begin at a multiple of eight.
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut random = Random(1);
    for (_, shape) in &tensors {
        let is_norm = shape.len() == 1;
        for _ in 0..shape.iter().product() {
            let number = if is_norm { 1.0 } else { SPREAD * random.next() };
            file.write_all(&bf16(number).to_le_bytes())?;
        }
    }
    file.into_inner()?.sync_all()
}

/// Towards zero, which is as good as any rounding of a random number.
fn bf16(number: f32) -> u16 {
    (number.to_bits() >> 16) as u16
}

/// Splitmix: a counter, well mixed.
struct Random(u64);

impl Random {
    /// From -1 to 1.
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
