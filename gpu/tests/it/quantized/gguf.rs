//! GGUF files, written here from committed models: the config, the tokenizer and the template that
//! come out of them, products against dequantized twins to the bit, and headers that are wrong.

#![allow(clippy::unwrap_used, reason = "tests may stop at the first surprise")]

use std::{fs, path::Path};

use half::{bf16, f16};
use rand::RngExt;
use serde_json::{Value, json};
use troupe_gpu::{dtype::Dtype, weights::safetensors::TensorFile};
use troupe_runtime::model::{
    card::ModelCard,
    config::ModelConfig,
    gguf::Gguf,
    source::{ModelAccess, ModelSource},
    tokenizer::SpecialTokens,
};

use super::{
    files::{Tensor, Tensors, write_tensors},
    last_logits,
};
use crate::{
    fuzz_inputs::{change_bytes, each},
    golden,
    ranks::{Layout, Ranks, Sequence},
};

/// How matrices are stored; what rows are no whole blocks of is stored as Q8_0, as llama.cpp does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Bf16,
    F16,
    F32,
    /// Q4_0, and values as Q8_0.
    Mixed,
    Q4_0,
    Q4K,
    Q6K,
    Q8_0,
}

const STORES: [Store; 8] = [
    Store::Bf16,
    Store::F16,
    Store::F32,
    Store::Mixed,
    Store::Q4_0,
    Store::Q4K,
    Store::Q6K,
    Store::Q8_0,
];
/// A SentencePiece-like vocabulary with the wiring of Llama, and a byte-level one with biases.
const MODELS: [(&str, &str); 2] = [("tiny-llama-tied", "llama"), ("tiny-qwen2", "qwen2")];

#[test]
fn a_file_gives_the_bits_of_its_dequantized_twin() {
    let prompt: Vec<u32> = (5..45).collect();
    for (model, architecture) in MODELS {
        let source = golden::model(model).unwrap();
        for store in STORES {
            let folder = tempfile::tempdir().unwrap();
            let (file, twin) = (folder.path().join("model.gguf"), folder.path().join("twin"));
            fs::write(&file, written(&source, architecture, store, &twin)).unwrap();
            let config = ModelConfig::load(&file).unwrap();
            for (tensor, pipeline) in [(1, 1), (2, 2)] {
                let layout = Layout { dtype: Some(Dtype::F32), ..Layout::of(tensor, pipeline) };
                let logits = |folder: &Path, config: &ModelConfig| {
                    let mut ranks = Ranks::load_as(folder, config, layout).unwrap();
                    last_logits(&mut ranks, &mut [Sequence::new(0, &prompt)]).remove(0)
                };
                let found = logits(&file, &config);
                let expected = ModelConfig::load(&twin.join("config.json")).unwrap();
                let expected = logits(&twin, &expected);
                assert!(found.iter().all(|value| value.is_finite()), "{model} {store:?}");
                let pairs = found.iter().zip(&expected);
                let differ = pairs.filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                assert_eq!(differ, 0, "{model} {store:?} {layout:?}");
            }
        }
    }
}

/// Llama 3.1 and later: the frequencies of `config.json` are a tensor of factors there.
#[test]
fn frequencies_are_stretched_by_the_files_factors() {
    let source = golden::model("tiny-llama-tied").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let prompt: Vec<u32> = (5..45).collect();
    let logits = |scaling: Value| {
        let stretched = folder.path().join("source");
        fs::create_dir_all(&stretched).unwrap();
        for entry in fs::read_dir(&source).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), stretched.join(entry.file_name())).unwrap();
        }
        let mut config: Value =
            serde_json::from_slice(&fs::read(source.join("config.json")).unwrap()).unwrap();
        config["rope_scaling"] = scaling;
        fs::write(stretched.join("config.json"), config.to_string()).unwrap();
        let (file, twin) = (folder.path().join("model.gguf"), folder.path().join("twin"));
        fs::write(&file, written(&stretched, "llama", Store::F32, &twin)).unwrap();
        [file, twin].map(|path| {
            let config = if path.is_dir() { path.join("config.json") } else { path.clone() };
            let config = ModelConfig::load(&config).unwrap();
            let layout = Layout { dtype: Some(Dtype::F32), ..Layout::of(1, 1) };
            let mut ranks = Ranks::load_as(&path, &config, layout).unwrap();
            last_logits(&mut ranks, &mut [Sequence::new(0, &prompt)]).remove(0)
        })
    };
    let apart =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let [file, twin] = logits(json!({"rope_type": "llama3", "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}));
    assert!(apart(&file, &twin) < 1e-3, "{}", apart(&file, &twin));
    let [plain, _] = logits(Value::Null);
    assert!(apart(&file, &plain) > 1e-2, "it matters: {}", apart(&file, &plain));
}

#[test]
fn a_file_is_a_whole_model() {
    for (model, architecture) in MODELS {
        let source = golden::model(model).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.gguf");
        fs::write(&file, written(&source, architecture, Store::Bf16, &folder.path().join("x")))
            .unwrap();
        let cards = [file.clone(), source.clone()].map(|path| {
            let source =
                ModelSource::resolve(path.to_str().unwrap(), &ModelAccess::offline("nowhere"))
                    .unwrap();
            ModelCard::load(&source).unwrap()
        });
        let [found, expected] = &cards;
        let mut config = found.config.clone();
        assert_eq!(config.quantization.take().unwrap().method, "gguf");
        config.dtype = expected.config.dtype;
        config.eos_ids.clone_from(&expected.config.eos_ids);
        assert_eq!(config, expected.config, "{model}");
        let texts = [
            "Hello world",
            "the quick  brown fox's 12345 jumps,\n\nover",
            " \u{e9}\u{4f60}\u{1f600} end ",
        ];
        for text in texts {
            let ids = |card: &ModelCard| card.tokenizer.encode(text, SpecialTokens::Include);
            let (found_ids, expected_ids) = (ids(found).unwrap(), ids(expected).unwrap());
            assert_eq!(found_ids, expected_ids, "{model} {text:?}");
            let text = |card: &ModelCard| {
                card.tokenizer.decode(&expected_ids, SpecialTokens::Exclude).unwrap()
            };
            assert_eq!(text(found), text(expected), "{model}");
        }
        assert!(found.templates.is_some() && expected.templates.is_some());
        assert_eq!(found.stop_ids, expected.stop_ids);
    }
}

/// Headers with bytes changed are read or refused, whatever they claim.
#[test]
fn hostile_headers_are_refused() {
    let source = golden::model(MODELS[0].0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let twin = folder.path().join("twin");
    let good = written(&source, MODELS[0].1, Store::Q8_0, &twin);
    let path = folder.path().join("model.gguf");
    fs::write(&path, &good).unwrap();
    let header = Gguf::open(&path).unwrap().data as usize;
    let (read, of) = each(2000, |random| {
        let mut bytes = good[..header].to_vec();
        (0..random.random_range(1..4)).for_each(|_| change_bytes(random, &mut bytes));
        // The data is not looked at.
        let size = (bytes.len() + good.len() - header) as u64;
        let size = if random.random_bool(0.9) { size } else { bytes.len() as u64 };
        Gguf::parse(&path, &bytes[..], size).is_ok()
    });
    assert!(of == 1 || (1..of).contains(&read), "{read} of {of} are read");
    for (at, bytes, expected) in [
        (0, &b"GGML"[..], "does not begin"),
        (4, &9u32.to_le_bytes()[..], "version 9"),
        (8, &u64::MAX.to_le_bytes()[..], "a count is"),
        (24, &(1u64 << 40).to_le_bytes()[..], "a text is said"),
    ] {
        let mut wrong = good.clone();
        wrong[at..at + bytes.len()].copy_from_slice(bytes);
        let why = Gguf::parse(&path, &wrong[..], wrong.len() as u64).unwrap_err().to_string();
        assert!(why.contains(expected) && why.contains("model.gguf"), "{why}");
    }
    let short = Gguf::parse(&path, &good[..], good.len() as u64 - 64).unwrap_err().to_string();
    assert!(short.contains("cut short"), "{short}");
}

#[test]
fn what_is_not_read_is_named() {
    let config = |change: &dyn Fn(&mut File)| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let mut file = File::default();
        file.text("general.architecture", "llama");
        file.texts("tokenizer.ggml.tokens", &["a".to_owned()]);
        change(&mut file);
        fs::write(&path, file.finish()).unwrap();
        ModelConfig::load(&path).unwrap_err().to_string()
    };
    let why = config(&|file| file.text("general.architecture", "rwkv7"));
    assert!(why.contains("rwkv7") && why.contains("llama, qwen2, qwen3"), "{why}");
    let why = config(&|file| file.tensor("rope_freqs.weight", 1, &[4], vec![0; 8]));
    assert!(why.contains("rope_freqs") && why.contains("type F16"), "{why}");
    let why = config(&|file| {
        file.text("llama.rope.scaling.type", "linear");
        file.tensor("rope_freqs.weight", 0, &[4], vec![0; 16]);
    });
    assert!(why.contains("rope_freqs") && why.contains("`linear` as well"), "{why}");
    let why = config(&|file| file.tensor("x", 13, &[256], vec![0; 16]));
    assert!(why.contains("type number 13") && why.contains("Q4_K"), "{why}");
    let why = config(&|_| {});
    assert!(why.contains("`hidden_size` is null") || why.contains("`hidden_size`"), "{why}");
}

/// A model's file; beside it its twin in float32 as a folder.
fn written(source: &Path, architecture: &str, store: Store, twin: &Path) -> Vec<u8> {
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(source.join(name)).unwrap()).unwrap()
    };
    let (mut config, tokenizer) = (read("config.json"), read("tokenizer.json"));
    let mut file = File::default();
    describe(&mut file, architecture, &config, &tokenizer, &read("tokenizer_config.json"));
    let weights = TensorFile::open(source.join("model.safetensors")).unwrap();
    let mut dense = Tensors::new();
    for name in weights.names() {
        let tensor = weights.tensor(name).unwrap();
        let len: usize = tensor.shape.iter().product();
        let values: Vec<f32> = (0..len).map(|at| tensor.dtype.read(tensor.bytes, at)).collect();
        let columns = *tensor.shape.last().unwrap();
        let store = match store {
            _ if tensor.shape.len() == 1 => Store::F32,
            // Nor whole blocks of those.
            Store::Mixed | Store::Q4_0 | Store::Q4K | Store::Q6K | Store::Q8_0
                if !columns.is_multiple_of(32) =>
            {
                Store::F16
            }
            Store::Mixed if name.contains("v_proj") => Store::Q8_0,
            Store::Mixed => Store::Q4_0,
            Store::Q4K | Store::Q6K if !columns.is_multiple_of(256) => Store::Q8_0,
            store => store,
        };
        let (number, mut bytes, rounded) = stored(store, &values);
        let paired =
            architecture == "llama" && (name.contains("q_proj") || name.contains("k_proj"));
        if paired {
            let size = config["head_dim"].as_u64().unwrap() as usize;
            let width = bytes.len() / tensor.shape[0];
            let from = bytes.clone();
            for (row, from) in from.chunks(width).enumerate() {
                let (head, at) = (row / size, row % size);
                let to = head * size + at % (size / 2) * 2 + at / (size / 2);
                bytes[to * width..(to + 1) * width].copy_from_slice(from);
            }
        }
        file.tensor(&llama_cpp(name), number, tensor.shape, bytes);
        let bytes = rounded.iter().flat_map(|value| value.to_le_bytes()).collect();
        dense.insert(name.to_owned(), Tensor { dtype: "F32", shape: tensor.shape.to_vec(), bytes });
    }
    if config["rope_scaling"]["rope_type"] == "llama3" {
        let factors = llama3_factors(&config);
        let bytes = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
        file.tensor("rope_freqs.weight", 0, &[factors.len()], bytes);
    }
    fs::create_dir_all(twin).unwrap();
    config["torch_dtype"] = json!("float32");
    fs::write(twin.join("config.json"), config.to_string()).unwrap();
    write_tensors(twin, &dense);
    file.finish()
}

/// What each pair's frequency is divided by, as llama.cpp's converter writes it.
fn llama3_factors(config: &Value) -> Vec<f32> {
    let field = |name: &str| config["rope_scaling"][name].as_f64().unwrap();
    let (factor, first) = (field("factor"), field("original_max_position_embeddings"));
    let (low, high) = (field("low_freq_factor"), field("high_freq_factor"));
    let (theta, size) =
        (config["rope_theta"].as_f64().unwrap(), config["head_dim"].as_u64().unwrap());
    let each = (0..size / 2).map(|pair| {
        let length = std::f64::consts::TAU * theta.powf(2.0 * pair as f64 / size as f64);
        let smooth = (first / length - low) / (high - low);
        match length {
            length if length < first / high => 1.0,
            length if length > first / low => factor,
            _ => 1.0 / ((1.0 - smooth) / factor + smooth),
        }
    });
    each.map(|factor| factor as f32).collect()
}

fn describe(
    file: &mut File,
    architecture: &str,
    config: &Value,
    tokenizer: &Value,
    beside: &Value,
) {
    let key = |rest: &str| format!("{architecture}.{rest}");
    file.text("general.architecture", architecture);
    for (name, field) in [
        ("embedding_length", "hidden_size"),
        ("block_count", "num_hidden_layers"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("context_length", "max_position_embeddings"),
    ] {
        file.number(&key(name), config[field].as_u64().unwrap() as u32);
    }
    let epsilon = config["rms_norm_eps"].as_f64().unwrap();
    file.float(&key("attention.layer_norm_rms_epsilon"), epsilon as f32);
    file.float(&key("rope.freq_base"), config["rope_theta"].as_f64().unwrap() as f32);
    let vocabulary = config["vocab_size"].as_u64().unwrap() as usize;
    let mut tokens: Vec<String> = (0..vocabulary).map(|id| format!("[PAD{id}]")).collect();
    let mut kinds = vec![5; vocabulary];
    let mut scores = vec![-1e4; vocabulary];
    let model = &tokenizer["model"];
    let ids = model["vocab"].as_object().unwrap();
    for (token, id) in ids {
        let id = id.as_u64().unwrap() as usize;
        tokens[id].clone_from(token);
        kinds[id] = if token.starts_with("<0x") { 6 } else { 1 };
    }
    for added in tokenizer["added_tokens"].as_array().unwrap() {
        let id = added["id"].as_u64().unwrap() as usize;
        added["content"].as_str().unwrap().clone_into(&mut tokens[id]);
        kinds[id] = if added["special"] == true { 3 } else { 4 };
    }
    let merges: Vec<String> = model["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|merge| match merge.as_array() {
            Some(pair) => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
            None => merge.as_str().unwrap().to_owned(),
        })
        .collect();
    for (rank, merge) in merges.iter().enumerate() {
        let id = ids[&merge.replacen(' ', "", 1)].as_u64().unwrap() as usize;
        scores[id] = f32::max(scores[id], -(rank as f32));
    }
    let is_bytes = model["byte_fallback"] != true;
    file.text("tokenizer.ggml.model", if is_bytes { "gpt2" } else { "llama" });
    if is_bytes {
        file.text("tokenizer.ggml.pre", "qwen2");
        file.texts("tokenizer.ggml.merges", &merges);
    }
    file.texts("tokenizer.ggml.tokens", &tokens);
    file.list("tokenizer.ggml.scores", 6, scores.iter().map(|score| score.to_le_bytes()));
    file.list("tokenizer.ggml.token_type", 5, kinds.iter().map(|kind: &i32| kind.to_le_bytes()));
    for (name, field) in [
        ("bos_token_id", "bos_token"),
        ("eos_token_id", "eos_token"),
        ("unknown_token_id", "unk_token"),
    ] {
        let token = beside[field].as_str().or_else(|| beside[field]["content"].as_str());
        if let Some(id) = tokens.iter().position(|own| Some(own.as_str()) == token) {
            file.number(&format!("tokenizer.ggml.{name}"), id as u32);
        }
    }
    // The end of a turn, which the folder has in `generation_config.json`.
    if let Some(id) = tokens.iter().position(|own| own == "<|endoftext|>") {
        file.number("tokenizer.ggml.eot_token_id", id as u32);
    }
    file.text("tokenizer.chat_template", beside["chat_template"].as_str().unwrap());
}

/// A value's type number, its bytes, and what they are worth.
fn stored(store: Store, values: &[f32]) -> (u32, Vec<u8>, Vec<f32>) {
    let (mut bytes, mut worth) = (Vec::new(), Vec::new());
    let number = match store {
        Store::F32 => {
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            worth.extend(values);
            0
        }
        Store::F16 => {
            let halves = values.iter().map(|value| f16::from_f32(*value));
            bytes.extend(halves.clone().flat_map(f16::to_le_bytes));
            worth.extend(halves.map(f16::to_f32));
            1
        }
        Store::Bf16 => {
            let brains = values.iter().map(|value| bf16::from_f32(*value));
            bytes.extend(brains.clone().flat_map(bf16::to_le_bytes));
            worth.extend(brains.map(bf16::to_f32));
            30
        }
        Store::Mixed => unreachable!("each tensor has one type"),
        Store::Q4_0 => {
            values.chunks(32).for_each(|block| q4_0(block, &mut bytes, &mut worth));
            2
        }
        Store::Q8_0 => {
            values.chunks(32).for_each(|block| q8_0(block, &mut bytes, &mut worth));
            8
        }
        Store::Q4K => {
            values.chunks(256).for_each(|block| q4_k(block, &mut bytes, &mut worth));
            12
        }
        Store::Q6K => {
            values.chunks(256).for_each(|block| q6_k(block, &mut bytes, &mut worth));
            14
        }
    };
    (number, bytes, worth)
}

fn peak(values: &[f32]) -> f32 {
    values.iter().fold(1e-6, |peak, value| value.abs().max(peak))
}

fn q4_0(values: &[f32], bytes: &mut Vec<u8>, worth: &mut Vec<f32>) {
    let scale = f16::from_f32(peak(values) / 7.0);
    let code = |value: f32| (value / scale.to_f32()).round().clamp(-8.0, 7.0) + 8.0;
    bytes.extend(scale.to_le_bytes());
    let codes: Vec<u8> = values.iter().map(|value| code(*value) as u8).collect();
    bytes.extend((0..16).map(|at| codes[at] | codes[at + 16] << 4));
    worth.extend(codes.iter().map(|code| (f32::from(*code) - 8.0) * scale.to_f32()));
}

fn q8_0(values: &[f32], bytes: &mut Vec<u8>, worth: &mut Vec<f32>) {
    let scale = f16::from_f32(peak(values) / 127.0);
    bytes.extend(scale.to_le_bytes());
    for value in values {
        let code = (value / scale.to_f32()).round().clamp(-128.0, 127.0);
        bytes.push((code as i8).cast_unsigned());
        worth.push(code * scale.to_f32());
    }
}

fn q4_k(values: &[f32], bytes: &mut Vec<u8>, worth: &mut Vec<f32>) {
    let runs: Vec<&[f32]> = values.chunks(32).collect();
    let low = |run: &&[f32]| run.iter().fold(0.0f32, |low, value| low.min(*value));
    let span = |run: &&[f32]| run.iter().fold(0.0f32, |top, value| top.max(*value)) - low(run);
    let most = |each: &dyn Fn(&&[f32]) -> f32| runs.iter().map(each).fold(1e-6, f32::max);
    let scale = f16::from_f32(most(&|run: &&[f32]| span(run) / 15.0) / 63.0);
    let minimum = f16::from_f32(most(&|run: &&[f32]| -low(run)) / 63.0);
    let six = |value: f32, of: f16| (value / of.to_f32()).round().clamp(0.0, 63.0) as u8;
    let scales: Vec<u8> = runs.iter().map(|run| six(span(run) / 15.0, scale).max(1)).collect();
    let minima: Vec<u8> = runs.iter().map(|run| six(-low(run), minimum)).collect();
    bytes.extend(scale.to_le_bytes());
    bytes.extend(minimum.to_le_bytes());
    bytes.extend((0..4).map(|at| scales[at] | scales[at + 4] >> 4 << 6));
    bytes.extend((0..4).map(|at| minima[at] | minima[at + 4] >> 4 << 6));
    bytes.extend((4..8).map(|at| scales[at] & 15 | (minima[at] & 15) << 4));
    let mut codes = Vec::new();
    for (at, run) in runs.iter().enumerate() {
        let (step, below) =
            (scale.to_f32() * f32::from(scales[at]), minimum.to_f32() * f32::from(minima[at]));
        for value in *run {
            let code = ((value + below) / step).round().clamp(0.0, 15.0);
            codes.push(code as u8);
            worth.push(code.mul_add(step, -below));
        }
    }
    for codes in codes.chunks(64) {
        bytes.extend((0..32).map(|at| codes[at] | codes[at + 32] << 4));
    }
}

fn q6_k(values: &[f32], bytes: &mut Vec<u8>, worth: &mut Vec<f32>) {
    let most = values.chunks(16).map(peak).fold(0.0, f32::max);
    let scale = f16::from_f32(most / 31.0 / 127.0);
    let scales: Vec<i8> = values
        .chunks(16)
        .map(|run| (peak(run) / 31.0 / scale.to_f32()).round().clamp(1.0, 127.0) as i8)
        .collect();
    let mut codes = Vec::new();
    for (run, own) in values.chunks(16).zip(&scales) {
        let step = scale.to_f32() * f32::from(*own);
        for value in run {
            let code = (value / step).round().clamp(-32.0, 31.0);
            codes.push((code + 32.0) as u8);
            worth.push(code * step);
        }
    }
    for codes in codes.chunks(128) {
        for half in [0, 32] {
            let low = |at: usize| codes[half + at] & 15 | (codes[half + 64 + at] & 15) << 4;
            bytes.extend((0..32).map(low));
        }
    }
    for codes in codes.chunks(128) {
        let upper = |at: usize| {
            (0..4).fold(0, |byte, quarter| byte | codes[quarter * 32 + at] >> 4 << (2 * quarter))
        };
        bytes.extend((0..32).map(upper));
    }
    bytes.extend(scales.iter().map(|scale| scale.cast_unsigned()));
    bytes.extend(scale.to_le_bytes());
}

fn llama_cpp(name: &str) -> String {
    let mut own = name.replace("model.layers.", "blk.");
    for (published, ours) in [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ] {
        own = own.replace(published, ours);
    }
    own
}

/// A GGUF file as it is written, by its specification.
#[derive(Default)]
struct File {
    pairs: Vec<(String, Vec<u8>)>,
    tensors: Vec<u8>,
    count: u64,
    data: Vec<u8>,
}

impl File {
    fn pair(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        let value = [&kind.to_le_bytes()[..], &value].concat();
        match self.pairs.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => *known = value,
            None => self.pairs.push((key.to_owned(), value)),
        }
    }

    fn text(&mut self, key: &str, text: &str) {
        self.pair(key, 8, sized(text));
    }

    fn number(&mut self, key: &str, number: u32) {
        self.pair(key, 4, number.to_le_bytes().to_vec());
    }

    fn float(&mut self, key: &str, number: f32) {
        self.pair(key, 6, number.to_le_bytes().to_vec());
    }

    fn list(&mut self, key: &str, kind: u32, items: impl ExactSizeIterator<Item = [u8; 4]>) {
        let mut value = kind.to_le_bytes().to_vec();
        value.extend((items.len() as u64).to_le_bytes());
        value.extend(items.flatten());
        self.pair(key, 9, value);
    }

    fn texts(&mut self, key: &str, texts: &[String]) {
        let mut value = 8u32.to_le_bytes().to_vec();
        value.extend((texts.len() as u64).to_le_bytes());
        texts.iter().for_each(|text| value.extend(sized(text)));
        self.pair(key, 9, value);
    }

    fn tensor(&mut self, name: &str, kind: u32, shape: &[usize], bytes: Vec<u8>) {
        self.count += 1;
        self.tensors.extend(sized(name));
        self.tensors.extend((shape.len() as u32).to_le_bytes());
        for size in shape.iter().rev() {
            self.tensors.extend((*size as u64).to_le_bytes());
        }
        self.tensors.extend(kind.to_le_bytes());
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.tensors.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
    }

    fn finish(self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(self.count.to_le_bytes());
        bytes.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in self.pairs {
            bytes.extend(sized(&key));
            bytes.extend(value);
        }
        bytes.extend(self.tensors);
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(self.data);
        bytes
    }
}

fn sized(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}
