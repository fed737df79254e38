//! A Llama of random parameters, in bfloat16: large enough that a step is arithmetic and memory,
//! small enough for any machine. What it says means nothing; how fast it says it does. Its files
//! are the same on every machine.
//!
//! Its tokenizer is made for it, so that nearly every token is a text and a stream has a chunk per
//! token: all single bytes, then letters in twos, threes and fours, until the vocabulary is full.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

use serde_json::{Map, Value, json};

use super::random::Random;

/// Its sizes, by the names of `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) num_key_value_heads: usize,
    pub(crate) vocab_size: usize,
    pub(crate) max_position_embeddings: usize,
}

/// Uniform from minus to plus this: about the deviation of 0.02 that models begin with.
const SPREAD: f32 = 0.035;
/// The token that ends an output.
const END: &str = "</s>";
/// Its id, and so the count of tokens before it.
const END_ID: usize = 2;

impl Shape {
    /// 162 million parameters, all heads with keys and values of their own.
    pub(crate) const M160: Self = Self {
        hidden_size: 768,
        intermediate_size: 3072,
        num_hidden_layers: 12,
        num_attention_heads: 12,
        num_key_value_heads: 12,
        vocab_size: 32_000,
        max_position_embeddings: 2048,
    };

    /// 125 million parameters, three heads to each of keys and values.
    pub(crate) const M125: Self =
        Self { intermediate_size: 2048, num_key_value_heads: 4, ..Self::M160 };

    /// What cannot be a model, said in the names of `config.json`.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { hidden_size: hidden, num_attention_heads: heads, .. } = *self;
        let kv = self.num_key_value_heads;
        let sizes = [hidden, heads, kv, self.intermediate_size, self.num_hidden_layers];
        if sizes.contains(&0) || self.max_position_embeddings == 0 {
            return Err("every size has to be at least 1".into());
        }
        if !hidden.is_multiple_of(heads) || !(hidden / heads).is_multiple_of(2) {
            return Err(format!("hidden size {hidden} is no even multiple of {heads} heads"));
        }
        if !heads.is_multiple_of(kv) {
            return Err(format!("{heads} heads are no multiple of {kv} key-value heads"));
        }
        let most = tokens(usize::MAX).count();
        if !(FIRST_WORD..=most).contains(&self.vocab_size) {
            return Err(format!("a vocabulary of {FIRST_WORD} to {most} tokens can be made"));
        }
        Ok(())
    }

    /// How many parameters it has.
    pub(crate) fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    fn config(&self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "torch_dtype": "bfloat16", "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.hidden_size / self.num_attention_heads,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings, "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0, "hidden_act": "silu", "tie_word_embeddings": false,
            "eos_token_id": END_ID,
        })
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, ffn) = (self.hidden_size, self.intermediate_size);
        let kv = hidden / self.num_attention_heads * self.num_key_value_heads;
        let table = vec![self.vocab_size, hidden];
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), table.clone())];
        for layer in 0..self.num_hidden_layers {
            let parts = [
                ("input_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![hidden, hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, hidden]),
                ("post_attention_layernorm", vec![hidden]),
                ("mlp.gate_proj", vec![ffn, hidden]),
                ("mlp.up_proj", vec![ffn, hidden]),
                ("mlp.down_proj", vec![hidden, ffn]),
            ];
            tensors.extend(
                parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape)),
            );
        }
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        tensors.push(("lm_head.weight".to_owned(), table));
        tensors
    }
}

/// Writes the model to `folder`, unless it is there already.
pub(crate) fn write(shape: &Shape, folder: &Path) -> io::Result<()> {
    let weights = folder.join("model.safetensors");
    if weights.is_file() {
        return same_model(shape, folder);
    }
    fs::create_dir_all(folder)?;
    fs::write(folder.join("config.json"), shape.config().to_string())?;
    fs::write(folder.join("tokenizer.json"), tokenizer(shape.vocab_size).to_string())?;
    let class = json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END});
    fs::write(folder.join("tokenizer_config.json"), class.to_string())?;
    // Under another name until it is whole.
    let partial = folder.join("model.partial");
    write_weights(shape, &partial)?;
    fs::rename(partial, weights)
}

/// A model that is there has to be the one that was asked for.
fn same_model(shape: &Shape, folder: &Path) -> io::Result<()> {
    let config: Option<Value> = serde_json::from_slice(&fs::read(folder.join("config.json"))?).ok();
    match config == Some(shape.config()) {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} holds another model; name another folder", folder.display()),
        )),
    }
}

/// A safetensors file: the header's length, the header, the numbers.
fn write_weights(shape: &Shape, path: &Path) -> io::Result<()> {
    let tensors = shape.tensors();
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
    let mut random = Random::new(1);
    for (_, shape) in &tensors {
        let is_norm = shape.len() == 1;
        for _ in 0..shape.iter().product() {
            let number = if is_norm { 1.0 } else { SPREAD * random.around_zero() };
            file.write_all(&bf16(number).to_le_bytes())?;
        }
    }
    file.into_inner()?.sync_all()
}

/// Towards zero, which is as good as any rounding of a random number.
fn bf16(number: f32) -> u16 {
    (number.to_bits() >> 16) as u16
}

/// A `tokenizer.json` of byte-level pair merges: each word of letters is the word before it and one
/// letter more.
fn tokenizer(vocab_size: usize) -> Value {
    let tokens: Vec<String> = tokens(vocab_size).collect();
    let vocab: Map<String, Value> =
        (0_u64..).zip(&tokens).map(|(id, token)| (token.clone(), id.into())).collect();
    let words = tokens.get(FIRST_WORD..).unwrap_or_default().iter();
    let merges: Vec<_> = words.map(|word| word.split_at(word.len() - 1)).collect();
    let special = |id: usize| {
        json!({
            "id": id, "content": tokens.get(id), "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        })
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                       "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": (0..=END_ID).map(special).collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges,
        },
    })
}

/// Behind three special tokens and 256 bytes.
const FIRST_WORD: usize = END_ID + 1 + 256;

/// At most so many tokens, in the order of their ids.
fn tokens(count: usize) -> impl Iterator<Item = String> {
    let special = ["<unk>", "<s>", END].map(str::to_owned).into_iter();
    let letters = || 'a'..='z';
    let twos = letters().flat_map(move |a| letters().map(move |b| format!("{a}{b}")));
    let threes = twos.clone().flat_map(move |two| letters().map(move |c| format!("{two}{c}")));
    let fours = threes.clone().flat_map(move |three| letters().map(move |d| format!("{three}{d}")));
    special.chain(bytes()).chain(twos).chain(threes).chain(fours).take(count)
}

/// The 256 bytes as byte-level tokenizers write them: printable ones as themselves, the others as
/// the characters from 256 on, in order.
fn bytes() -> impl Iterator<Item = String> {
    let mut others = 256_u32..;
    (0_u32..256).filter_map(move |byte| {
        let is_printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if is_printable { byte } else { others.next()? };
        char::from_u32(code).map(String::from)
    })
}
