//! `quantization_config`: how the weights of a checkpoint were rounded, by the tool that did it.
//!
//! Which layers are quantized is not asked here: the files say it, because a quantized layer has
//! other tensors than one that was left alone. What is read is how those tensors are to be
//! understood. A method, a size or a switch that is not implemented is refused by name, because
//! weights that are understood wrongly give fluent nonsense.

use crate::model::{error::ModelError, json::Fields};

/// How the quantized layers of a checkpoint are to be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// `quant_method` as the file writes it.
    pub method: String,
    /// How weights lie in the files.
    pub weights: QuantizedWeights,
    /// What products round their inputs to where they do not compute in float32.
    pub inputs: QuantizedInputs,
}

/// How quantized weights lie in the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantizedWeights {
    /// AutoAWQ's `gemm`: four bits, inputs by rows, outputs shuffled eight to a word.
    Awq {
        /// Inputs that share a scale; all of them if there is no number.
        group: Option<usize>,
    },
    /// Eight-bit floats (e4m3) with scales.
    Fp8 {
        /// Outputs and inputs of a block with a scale of its own; else one scale for each output or
        /// for all.
        block: Option<(usize, usize)>,
    },
    /// llama.cpp's, whose files say of each tensor how it is stored.
    Gguf {
        /// Elements of a head, if those of query and key heads lie in rotated pairs.
        paired: Option<usize>,
    },
    /// AutoGPTQ's: inputs eight (or four) to a word, outputs in order.
    Gptq {
        /// Bits of a weight: 4 or 8.
        bits: u32,
        /// Inputs that share a scale; all of them if there is no number.
        group: Option<usize>,
        /// What is to be added to zeros: the first version stored one less.
        zero_offset: u32,
    },
    /// Signed bytes, with a scale for each output or for all.
    Int8,
    /// compressed-tensors' `pack-quantized`: outputs by rows, inputs eight (or four) to a word.
    Packed {
        /// Bits of a weight: 4 or 8.
        bits: u32,
        /// Inputs that share a scale; all of them if there is no number.
        group: Option<usize>,
    },
}

/// What products round their inputs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantizedInputs {
    /// Nothing: only weights are quantized.
    Exact,
    /// Eight-bit floats, with a scale for each row and so many inputs.
    Fp8Groups(usize),
    /// Eight-bit floats, with a scale that the files have for each layer.
    Fp8Static,
    /// Eight-bit floats, with a scale for each row.
    Fp8Token,
    /// Signed bytes, with a scale for each row.
    Int8Token,
}

/// Reads `quantization_config`, if there is one.
pub(super) fn parse(config: &Fields<'_>) -> Result<Option<Quantization>, ModelError> {
    let Some(fields) = config.object("quantization_config")? else {
        return Ok(None);
    };
    let method = fields.text("quant_method")?;
    let (weights, inputs) = match method {
        Some("gptq") => gptq(&fields)?,
        Some("awq") => awq(&fields)?,
        Some("compressed-tensors") => compressed(&fields)?,
        Some("fp8") => fp8(&fields)?,
        Some("gguf") => {
            let paired = fields.integer("paired_head_dim", 2..=MAX_GROUP)?;
            let paired = paired.map(|size| size as usize);
            (QuantizedWeights::Gguf { paired }, QuantizedInputs::Exact)
        }
        _ => return Err(fields.wrong("quant_method", format!("{METHODS} are supported"))),
    };
    Ok(method.map(|method| Quantization { method: method.to_owned(), weights, inputs }))
}

type Parsed = Result<(QuantizedWeights, QuantizedInputs), ModelError>;

fn gptq(fields: &Fields<'_>) -> Parsed {
    let bits = bits(fields, "bits")?;
    let zero_offset = match fields.text("checkpoint_format")? {
        None | Some("gptq") => 1,
        Some("gptq_v2") => 0,
        Some(_) => {
            return Err(fields.wrong("checkpoint_format", "`gptq` and `gptq_v2` are supported"));
        }
    };
    let group = group_size(fields, "group_size")?;
    Ok((QuantizedWeights::Gptq { bits, group, zero_offset }, QuantizedInputs::Exact))
}

fn awq(fields: &Fields<'_>) -> Parsed {
    if bits(fields, "bits")? != 4 {
        return Err(fields.wrong("bits", "AWQ with 4 bits is supported"));
    }
    match fields.text("version")?.map(str::to_lowercase).as_deref() {
        None | Some("gemm") => {}
        Some(_) => return Err(fields.wrong("version", "AWQ of version `gemm` is supported")),
    }
    if fields.flag("zero_point")? == Some(false) {
        return Err(fields.wrong("zero_point", "AWQ with zero points is supported"));
    }
    let group = group_size(fields, "group_size")?;
    Ok((QuantizedWeights::Awq { group }, QuantizedInputs::Exact))
}

fn fp8(fields: &Fields<'_>) -> Parsed {
    if !matches!(fields.text("fmt")?, None | Some("e4m3" | "float8_e4m3fn")) {
        return Err(fields.wrong("fmt", "eight-bit floats of format `e4m3` are supported"));
    }
    let block = block(fields, "weight_block_size")?;
    let inputs = match (fields.text("activation_scheme")?, block) {
        (None | Some("dynamic"), Some((_, inputs))) => QuantizedInputs::Fp8Groups(inputs),
        (None | Some("dynamic"), None) => QuantizedInputs::Fp8Token,
        (Some("static"), None) => QuantizedInputs::Fp8Static,
        _ => {
            let expected = "`dynamic`, and `static` without blocks, are supported";
            return Err(fields.wrong("activation_scheme", expected));
        }
    };
    Ok((QuantizedWeights::Fp8 { block }, inputs))
}

/// The file has groups of layers with schemes of their own; files of one scheme are supported.
fn compressed(fields: &Fields<'_>) -> Parsed {
    const GROUPS: &str = "config_groups";
    if fields.get("sparsity_config").is_some_and(|config| !is_dense(config)) {
        return Err(fields.wrong("sparsity_config", "sparse weights are not supported"));
    }
    let groups = fields.get(GROUPS).and_then(serde_json::Value::as_object);
    let mut schemes = groups.into_iter().flat_map(|groups| groups.values());
    let (Some(scheme), None) = (schemes.next().and_then(|group| group.as_object()), schemes.next())
    else {
        return Err(fields.wrong(GROUPS, "it must be an object with one group of layers"));
    };
    let scheme = fields.within(GROUPS, scheme);
    let weights = scheme.object("weights")?;
    let weights = weights.ok_or_else(|| scheme.wrong("weights", "it must be an object"))?;
    let kind = weights.text("type")?.unwrap_or("int");
    let format = scheme.text("format")?.or(fields.text("format")?);
    if weights.flag("symmetric")? == Some(false) {
        let expected = "compressed-tensors with symmetric weights is supported";
        return Err(weights.wrong("symmetric", expected));
    }
    let strategy = weights.text("strategy")?;
    let parsed = match (format, kind) {
        (Some("pack-quantized"), "int") => {
            let group = match strategy {
                Some("group") => group_size(&weights, "group_size")?,
                Some("channel") => None,
                _ => return Err(weights.wrong("strategy", "`group` and `channel` are supported")),
            };
            QuantizedWeights::Packed { bits: bits(&weights, "num_bits")?, group }
        }
        (Some("int-quantized"), "int") => match (bits(&weights, "num_bits")?, strategy) {
            (8, Some("channel" | "tensor")) => QuantizedWeights::Int8,
            _ => return Err(weights.wrong("strategy", "`channel` with 8 bits is supported")),
        },
        (Some("float-quantized" | "naive-quantized"), "float") => match strategy {
            Some("channel" | "tensor") => QuantizedWeights::Fp8 { block: None },
            Some("block") => {
                let block = block(&weights, "block_structure")?;
                let block = block.ok_or_else(|| weights.wrong("block_structure", BLOCK))?;
                QuantizedWeights::Fp8 { block: Some(block) }
            }
            _ => {
                let expected = "`channel`, `tensor` and `block` are supported";
                return Err(weights.wrong("strategy", expected));
            }
        },
        _ => {
            let expected = "`pack-quantized` and `int-quantized` with integers, `float-quantized` \
                            with eight-bit floats are supported";
            return Err(fields.wrong("format", expected));
        }
    };
    Ok((parsed, compressed_inputs(&scheme, parsed)?))
}

fn compressed_inputs(
    scheme: &Fields<'_>,
    weights: QuantizedWeights,
) -> Result<QuantizedInputs, ModelError> {
    let Some(inputs) = scheme.object("input_activations")? else {
        return Ok(QuantizedInputs::Exact);
    };
    let kind = inputs.text("type")?.unwrap_or("int");
    let dynamic = matches!(inputs.get("dynamic"), Some(serde_json::Value::Bool(true)));
    let bits = inputs.integer("num_bits", 1..=64)?.unwrap_or(8);
    let is_symmetric = inputs.flag("symmetric")?.unwrap_or(true);
    match (weights, kind, inputs.text("strategy")?, dynamic) {
        _ if bits != 8 || !is_symmetric => {}
        (QuantizedWeights::Int8, "int", Some("token"), true) => {
            return Ok(QuantizedInputs::Int8Token);
        }
        (QuantizedWeights::Fp8 { .. }, "float", Some("token"), true) => {
            return Ok(QuantizedInputs::Fp8Token);
        }
        (QuantizedWeights::Fp8 { .. }, "float", Some("tensor"), false) => {
            return Ok(QuantizedInputs::Fp8Static);
        }
        (QuantizedWeights::Fp8 { block: Some((_, size)) }, "float", Some("group"), true) => {
            return Ok(QuantizedInputs::Fp8Groups(size));
        }
        _ => {}
    }
    let expected = "none, or eight symmetric bits of the weights' type are supported: for integers \
                    a dynamic scale per `token`, for floats that, a static one per `tensor`, or \
                    with blocks a dynamic one per `group`";
    Err(scheme.wrong("input_activations", expected))
}

fn is_dense(config: &serde_json::Value) -> bool {
    let Some(config) = config.as_object() else { return false };
    matches!(config.get("format").and_then(|format| format.as_str()), None | Some("dense"))
}

fn bits(fields: &Fields<'_>, name: &str) -> Result<u32, ModelError> {
    match fields.integer(name, 1..=64)? {
        Some(4) => Ok(4),
        Some(8) => Ok(8),
        _ => Err(fields.wrong(name, "weights of 4 and of 8 bits are supported")),
    }
}

/// `-1` and nothing are one group of all inputs.
fn group_size(fields: &Fields<'_>, name: &str) -> Result<Option<usize>, ModelError> {
    match fields.get(name).map(|value| (value.as_i64(), value.as_u64())) {
        None | Some((Some(-1), _)) => Ok(None),
        Some((_, Some(size))) if size.is_multiple_of(8) && (8..=MAX_GROUP).contains(&size) => {
            Ok(Some(size as usize))
        }
        Some(_) => {
            let expected = format!("it must be -1 or a multiple of 8 up to {MAX_GROUP}");
            Err(fields.wrong(name, expected))
        }
    }
}

fn block(fields: &Fields<'_>, name: &str) -> Result<Option<(usize, usize)>, ModelError> {
    let Some(value) = fields.get(name) else { return Ok(None) };
    let sizes = value.as_array().map(|list| list.iter().map(serde_json::Value::as_u64));
    match sizes.map(|sizes| sizes.collect::<Option<Vec<_>>>()) {
        Some(Some(sizes)) if matches!(sizes[..], [a, b] if is_block(a) && is_block(b)) => {
            Ok(Some((sizes[0] as usize, sizes[1] as usize)))
        }
        _ => Err(fields.wrong(name, BLOCK)),
    }
}

fn is_block(size: u64) -> bool {
    (1..=MAX_GROUP).contains(&size)
}

/// The methods that are read.
const METHODS: &str = "`gptq`, `awq`, `compressed-tensors` and `fp8`";
const BLOCK: &str = "it must be two sizes, such as [128, 128]";
const MAX_GROUP: u64 = 1 << 16;
