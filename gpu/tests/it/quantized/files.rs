//! Writes a small model in every format from a committed one's weights, each rounded here, and
//! beside it a twin in float32 with what the rounded weights are.

#![allow(clippy::unwrap_used, reason = "tests may stop at the first surprise")]

use std::{collections::BTreeMap, fs, path::Path};

use half::{bf16, f16};
use serde_json::{Value, json};
use troupe_gpu::weights::safetensors::TensorFile;

use crate::golden;

/// The formats, with the switches that change how files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Awq,
    Fp8Block,
    Fp8Channel,
    Fp8Static,
    Gptq,
    GptqAsymmetric,
    GptqEight,
    GptqOrdered,
    Int8,
    PackedEight,
    PackedFour,
}

pub(super) const FORMATS: [Format; 11] = [
    Format::Awq,
    Format::Fp8Block,
    Format::Fp8Channel,
    Format::Fp8Static,
    Format::Gptq,
    Format::GptqAsymmetric,
    Format::GptqEight,
    Format::GptqOrdered,
    Format::Int8,
    Format::PackedEight,
    Format::PackedFour,
];

#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Vec<u8>,
}

pub(super) type Tensors = BTreeMap<String, Tensor>;

/// Inputs of a group, and of a block as outputs.
const GROUP: usize = 64;

/// Writes both folders; what the first holds.
pub(super) fn write_model(format: Format, coded: &Path, twin: &Path) -> Tensors {
    let source = golden::model("tiny-llama-bf16").or_else(|| golden::model("tiny-chat")).unwrap();
    write_model_of(&source, format, coded, twin)
}

/// The same of another model's weights.
pub(super) fn write_model_of(source: &Path, format: Format, coded: &Path, twin: &Path) -> Tensors {
    let file = TensorFile::open(source.join("model.safetensors")).unwrap();
    let (mut tensors, mut dense) = (Tensors::new(), Tensors::new());
    for name in file.names() {
        let tensor = file.tensor(name).unwrap();
        let len = tensor.shape.iter().product();
        let values: Vec<f32> = (0..len).map(|at| tensor.dtype.read(tensor.bytes, at)).collect();
        let single = |values: &[f32]| Tensor {
            dtype: "F32",
            shape: tensor.shape.to_vec(),
            bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        match name.strip_suffix("_proj.weight") {
            Some(layer) => {
                let shape = (tensor.shape[0], tensor.shape[1]);
                let layer = format!("{layer}_proj");
                let rounded = quantize(format, &layer, &values, shape, &mut tensors);
                dense.insert(name.to_owned(), single(&rounded));
            }
            None => {
                // Both have what bfloat16 has of it.
                let halves: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
                let bytes = halves.iter().flat_map(|value| value.to_le_bytes()).collect();
                let shape = tensor.shape.to_vec();
                tensors.insert(name.to_owned(), Tensor { dtype: "BF16", shape, bytes });
                let values: Vec<f32> = halves.iter().map(|value| value.to_f32()).collect();
                dense.insert(name.to_owned(), single(&values));
            }
        }
    }
    let config = fs::read(source.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    for (folder, tensors, quantization) in
        [(twin, &dense, Value::Null), (coded, &tensors, configuration(format))]
    {
        fs::create_dir_all(folder).unwrap();
        config["quantization_config"] = quantization;
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        write_tensors(folder, tensors);
    }
    tensors
}

pub(super) fn write_tensors(folder: &Path, tensors: &Tensors) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, tensor) in tensors {
        let start = data.len();
        data.extend_from_slice(&tensor.bytes);
        header.insert(
            name.clone(),
            json!({"dtype": tensor.dtype, "shape": tensor.shape,
                   "data_offsets": [start, data.len()]}),
        );
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&data);
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

/// `quantization_config` as each format's tool writes it.
fn configuration(format: Format) -> Value {
    let gptq = |bits: u32, desc_act: bool, sym: bool| {
        json!({"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": desc_act,
               "sym": sym, "checkpoint_format": "gptq", "lm_head": false})
    };
    let compressed = |format: &str, weights: Value, inputs: Value| {
        json!({"quant_method": "compressed-tensors", "format": format, "ignore": ["lm_head"],
               "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights,
                                             "input_activations": inputs}}})
    };
    let weights = |bits: u32, kind: &str, strategy: &str, group: Value| {
        json!({"num_bits": bits, "type": kind, "strategy": strategy, "group_size": group,
               "symmetric": true, "dynamic": false})
    };
    let inputs = |kind: &str, strategy: &str, dynamic: bool| {
        json!({"num_bits": 8, "type": kind, "strategy": strategy, "dynamic": dynamic,
               "symmetric": true})
    };
    match format {
        Format::Awq => json!({"quant_method": "awq", "bits": 4, "group_size": GROUP,
                              "version": "gemm", "zero_point": true}),
        Format::Fp8Block => json!({"quant_method": "fp8", "fmt": "e4m3",
                                   "activation_scheme": "dynamic",
                                   "weight_block_size": [GROUP, GROUP]}),
        Format::Fp8Channel => compressed(
            "float-quantized",
            weights(8, "float", "channel", Value::Null),
            inputs("float", "token", true),
        ),
        Format::Fp8Static => compressed(
            "float-quantized",
            weights(8, "float", "tensor", Value::Null),
            inputs("float", "tensor", false),
        ),
        Format::Gptq => gptq(4, false, true),
        Format::GptqAsymmetric => gptq(4, false, false),
        Format::GptqEight => gptq(8, false, true),
        Format::GptqOrdered => gptq(4, true, true),
        Format::Int8 => compressed(
            "int-quantized",
            weights(8, "int", "channel", Value::Null),
            inputs("int", "token", true),
        ),
        Format::PackedEight => {
            compressed("pack-quantized", weights(8, "int", "channel", Value::Null), Value::Null)
        }
        Format::PackedFour => {
            compressed("pack-quantized", weights(4, "int", "group", json!(GROUP)), Value::Null)
        }
    }
}

/// Rounds a layer and adds its tensors; what its weights then are.
fn quantize(
    format: Format,
    layer: &str,
    values: &[f32],
    (rows, columns): (usize, usize),
    tensors: &mut Tensors,
) -> Vec<f32> {
    let mut add = |suffix: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>| {
        tensors.insert(format!("{layer}.{suffix}"), Tensor { dtype, shape: shape.to_vec(), bytes });
    };
    let is_fp8 = matches!(format, Format::Fp8Block | Format::Fp8Channel | Format::Fp8Static);
    let bits = match format {
        Format::Awq
        | Format::Gptq
        | Format::GptqAsymmetric
        | Format::GptqOrdered
        | Format::PackedFour => 4,
        _ => 8,
    };
    // Where scales are one for each output, one group has all inputs.
    let group = match format {
        Format::Fp8Channel | Format::Fp8Static | Format::Int8 | Format::PackedEight => columns,
        _ => GROUP,
    };
    let high = match format {
        Format::Fp8Block => GROUP,
        Format::Fp8Static => rows,
        _ => 1,
    };
    // An order that the names of fused layers do not share.
    let stride = 5 + 2 * (layer.bytes().map(usize::from).sum::<usize>() % 4);
    let group_of = |column: usize| match format {
        Format::GptqOrdered => column * stride % columns / group,
        _ => column / group,
    };
    let groups = columns.div_ceil(group);
    let zeroed = matches!(format, Format::Awq | Format::GptqAsymmetric);
    // The extremes of each output's groups, of all outputs that share them.
    let mut ends = vec![(0.0f32, 0.0f32); rows * groups];
    for row in 0..rows {
        for column in 0..columns {
            let end = &mut ends[row / high * groups + group_of(column)];
            let value = values[row * columns + column];
            *end = (end.0.min(value), end.1.max(value));
        }
    }
    let half = (1u32 << (bits - 1)) as f32;
    let scaled = |row: usize, group: usize| {
        let (low, top) = ends[row / high * groups + group];
        let far = top.max(-low).max(1e-4);
        let scale = match format {
            _ if is_fp8 => far / 448.0,
            _ if zeroed => (top - low).max(1e-4) / 15.0,
            _ => far / (half - 1.0),
        };
        // GPTQ and AWQ store halves, the others brain floats, blocks singles.
        let scale = match format {
            Format::Fp8Block => scale,
            _ if bits == 4 && format != Format::PackedFour || format == Format::GptqEight => {
                f16::from_f32(scale).to_f32()
            }
            _ => bf16::from_f32(scale).to_f32(),
        };
        let zero = if zeroed { (-low / scale).round().clamp(1.0, 15.0) } else { half };
        (scale, zero)
    };
    let mut codes = vec![0u8; rows * columns];
    let mut rounded = vec![0.0; rows * columns];
    for row in 0..rows {
        for column in 0..columns {
            let (scale, zero) = scaled(row, group_of(column));
            let (at, steps) = (row * columns + column, values[row * columns + column] / scale);
            if is_fp8 {
                codes[at] = nearest_fp8(steps);
                rounded[at] = fp8(codes[at]) * scale;
            } else {
                let code = (steps.round() + zero).clamp(0.0, 2.0 * half - 1.0);
                codes[at] = code as u8;
                rounded[at] = (code - zero) * scale;
            }
        }
    }
    let per_word = 32 / bits;
    let words = |word: &dyn Fn(usize, usize) -> u32, (high, wide): (usize, usize)| -> Vec<u8> {
        let all = (0..high).flat_map(|a| (0..wide).map(move |b| (a, b)));
        all.flat_map(|(a, b)| word(a, b).to_le_bytes()).collect()
    };
    let join = |code: &dyn Fn(usize) -> u32| -> u32 {
        (0..per_word).fold(0, |word, at| word | code(at) << (at * bits))
    };
    let code = |row: usize, column: usize| u32::from(codes[row * columns + column]);
    let halves = || -> Vec<u8> {
        let pairs = (0..groups).flat_map(|g| (0..rows).map(move |row| (row, g)));
        pairs.flat_map(|(row, g)| f16::from_f32(scaled(row, g).0).to_le_bytes()).collect()
    };
    let brains = |rows: usize| -> Vec<u8> {
        let pairs = (0..rows).flat_map(|row| (0..groups).map(move |g| (row, g)));
        pairs.flat_map(|(row, g)| bf16::from_f32(scaled(row, g).0).to_le_bytes()).collect()
    };
    match format {
        Format::Gptq | Format::GptqAsymmetric | Format::GptqEight | Format::GptqOrdered => {
            let word = |a: usize, row: usize| join(&|at| code(row, a * per_word + at));
            let shape = [columns / per_word, rows];
            add("qweight", "I32", &shape, words(&word, (shape[0], rows)));
            // Stored as one less.
            let zero = |g: usize, b: usize| {
                join(&|at| (scaled(b * per_word + at, g).1 as u32 - 1) & ((1 << bits) - 1))
            };
            let shape = [groups, rows / per_word];
            add("qzeros", "I32", &shape, words(&zero, (groups, shape[1])));
            add("scales", "F16", &[groups, rows], halves());
            let indices = (0..columns).flat_map(|column| (group_of(column) as u32).to_le_bytes());
            add("g_idx", "I32", &[columns], indices.collect());
        }
        Format::Awq => {
            const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
            let word = |column: usize, b: usize| join(&|at| code(b * 8 + ORDER[at], column));
            let row = rows / 8;
            add("qweight", "I32", &[columns, row], words(&word, (columns, row)));
            let zero = |g: usize, b: usize| join(&|at| scaled(b * 8 + ORDER[at], g).1 as u32);
            add("qzeros", "I32", &[groups, row], words(&zero, (groups, row)));
            add("scales", "F16", &[groups, rows], halves());
        }
        Format::PackedEight | Format::PackedFour => {
            let word = |row: usize, b: usize| join(&|at| code(row, b * per_word + at));
            let shape = [rows, columns / per_word];
            add("weight_packed", "I32", &shape, words(&word, (rows, shape[1])));
            add("weight_scale", "BF16", &[rows, groups], brains(rows));
            let shape = [rows as i64, columns as i64];
            let shape = shape.iter().flat_map(|size| size.to_le_bytes()).collect();
            add("weight_shape", "I64", &[2], shape);
        }
        Format::Int8 => {
            let signed = codes.iter().map(|code| code ^ 0x80).collect();
            add("weight", "I8", &[rows, columns], signed);
            add("weight_scale", "BF16", &[rows, 1], brains(rows));
        }
        Format::Fp8Channel => {
            add("weight", "F8_E4M3", &[rows, columns], codes.clone());
            add("weight_scale", "BF16", &[rows, 1], brains(rows));
        }
        Format::Fp8Static => {
            add("weight", "F8_E4M3", &[rows, columns], codes.clone());
            add("weight_scale", "BF16", &[1], brains(1));
            add("input_scale", "BF16", &[1], bf16::from_f32(0.02).to_le_bytes().to_vec());
        }
        Format::Fp8Block => {
            add("weight", "F8_E4M3", &[rows, columns], codes.clone());
            let high = rows.div_ceil(GROUP);
            let pairs = (0..high).flat_map(|a| (0..groups).map(move |g| (a * GROUP, g)));
            let scales = pairs.flat_map(|(row, g)| scaled(row, g).0.to_le_bytes()).collect();
            add("weight_scale_inv", "F32", &[high, groups], scales);
        }
    }
    rounded
}

/// What an eight-bit float is, from its definition.
pub(super) fn fp8(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let size = match exponent {
        0 => fraction / 8.0 * 2.0f32.powi(-6),
        _ => (1.0 + fraction / 8.0) * 2.0f32.powi(exponent - 7),
    };
    if code & 0x80 == 0 { size } else { -size }
}

fn nearest_fp8(value: f32) -> u8 {
    let size = value.abs();
    // Ascending, so that the first that is not below is one of two.
    let above = (0..0x7e).find(|code| fp8(*code) >= size).unwrap_or(0x7e);
    let below = above.saturating_sub(1);
    let code = if fp8(above) - size <= size - fp8(below) { above } else { below };
    if value < 0.0 { code | 0x80 } else { code }
}
