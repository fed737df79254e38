//! Products: plain, by tensor cores, of several weights at once, of codes and of integers.

use troupe_gpu::{
    backend::{Backend, Epilogue, LinearCall},
    cpu::{CpuDevice, packed::CpuLinear},
    dtype::Dtype,
    tensor::{DenseMatrix, DensePart, LinearSource, Quantize, WeightSource},
};

use crate::{
    shim::{self, Arg, Fields, Launch, Memory},
    steps::f8,
    values::{self, bytes, code, near, noise, reference, same, typed_noise, words},
};

/// `Product` of product.cuh.
#[derive(Clone, Copy, Debug, Default)]
struct Product {
    x: u64,
    weight: u64,
    weights: u64,
    bias: u64,
    out: u64,
    ends: u64,
    rows: usize,
    inputs: usize,
    outputs: usize,
    x_type: u32,
    weight_type: u32,
    out_type: u32,
    add: bool,
}

impl Product {
    fn arg(&self) -> Arg {
        let addresses = [self.x, self.weight, self.weights, self.bias, self.out, self.ends];
        let fields = addresses.into_iter().fold(Fields::default(), Fields::wide).words(&[
            self.rows as u32,
            self.inputs as u32,
            self.outputs as u32,
            self.inputs as u32,
            self.x_type,
            self.weight_type,
            self.out_type,
            u32::from(self.add),
        ]);
        Arg::Struct(fields)
    }
}

fn launch<'a>(
    (file, kernel, threads): (&'a str, &'a str, u32),
    p: &Product,
    (outputs, rows): (usize, usize),
    groups: usize,
) -> Launch<'a> {
    let grid = [p.outputs.div_ceil(outputs), p.rows.div_ceil(rows), groups];
    Launch { file, kernel, grid, threads, shared: 0 }
}

/// What the CPU makes of a product with numbers of a type; with `bias` and `before` if there are.
fn on_cpu(
    device: &mut CpuDevice,
    (x, inputs): (&[f32], usize),
    weight: &CpuLinear,
    before: Option<&[f32]>,
) -> Vec<f32> {
    let input = values::rows(device, x, inputs);
    let outputs = troupe_gpu::backend::PreparedLinear::out_features(weight);
    let mut out = match before {
        Some(before) => values::rows(device, before, outputs),
        None => values::room(device, x.len() / inputs, outputs),
    };
    let epilogue = if before.is_some() { Epilogue::AddTo } else { Epilogue::Store };
    let call = LinearCall { epilogue, ..LinearCall::STORE };
    device.linear(&input, weight, call, &mut out).unwrap();
    out.values().to_vec()
}

fn prepared(
    device: &mut CpuDevice,
    (weight, bias): (&[f32], Option<&[f32]>),
    (outputs, inputs): (usize, usize),
    (storage, quantize): (Dtype, Option<Quantize>),
) -> CpuLinear {
    let matrix = |values: &[f32], shape| {
        DenseMatrix::new(bytes(Dtype::F32, values), Dtype::F32, shape).unwrap()
    };
    let part = DensePart {
        weight: matrix(weight, (outputs, inputs)),
        bias: bias.map(|bias| matrix(bias, (1, outputs))),
    };
    let weights = WeightSource::Dense(vec![part]);
    let source = LinearSource { in_features: inputs, weights, storage, quantize };
    device.prepare_linear(&source).unwrap()
}

#[test]
fn plain_products_have_the_bits_of_the_cpu() {
    if shim::is_missing() {
        return;
    }
    for (rows, inputs, outputs, storage, add, biased) in [
        (1, 5, 1, Dtype::F32, false, false),
        (3, 300, 70, Dtype::F32, true, true),
        (35, 513, 33, Dtype::F16, false, true),
        (2, 256, 40, Dtype::F16, true, false),
    ] {
        let (x, x_bytes) = typed_noise(Dtype::F32, 61, rows * inputs);
        let (weight, weight_bytes) = typed_noise(storage, 62, outputs * inputs);
        let (bias, before) = (noise(63, outputs), noise(64, rows * outputs));
        let mut device = reference();
        let own_bias = biased.then_some(&bias[..]);
        let format = (storage, None);
        let linear = prepared(&mut device, (&weight, own_bias), (outputs, inputs), format);
        let expected = on_cpu(&mut device, (&x, inputs), &linear, add.then_some(&before[..]));
        let mut memory = Memory::default();
        let p = Product {
            x: memory.put(&x_bytes),
            weight: memory.put(&weight_bytes),
            bias: if biased { memory.put(&bytes(Dtype::F32, &bias)) } else { 0 },
            out: memory.put(&bytes(Dtype::F32, &before)),
            rows,
            inputs,
            outputs,
            x_type: 2,
            weight_type: code(storage),
            out_type: 2,
            add,
            ..Product::default()
        };
        let how = launch(("product", "product_any", 256), &p, (32, 32), 1);
        memory.launch(how, &[p.arg()]);
        same("product_any", &values::values(Dtype::F32, memory.at(p.out)), &expected);
    }
}

/// The product in double precision.
fn exact((x, inputs): (&[f32], usize), weight: &[f32]) -> Vec<f32> {
    let of = |x: &[f32], weight: &[f32]| -> f64 {
        x.iter().zip(weight).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let rows = x.chunks(inputs);
    rows.flat_map(|x| weight.chunks(inputs).map(move |weight| of(x, weight) as f32)).collect()
}

#[test]
fn products_by_tensor_cores_are_near_and_the_same_in_both_kernels() {
    if shim::is_missing() {
        return;
    }
    for (dtype, name) in [(Dtype::Bf16, "bf16"), (Dtype::F16, "f16")] {
        for (rows, inputs, outputs) in [(1, 8, 3), (7, 200, 40), (16, 128, 16), (70, 1048, 90)] {
            let (x, x_bytes) = typed_noise(dtype, 71, rows * inputs);
            let (weight, weight_bytes) = typed_noise(dtype, 72, outputs * inputs);
            let bias = noise(73, outputs);
            let (before, before_bytes) = typed_noise(dtype, 74, rows * outputs);
            let mut memory = Memory::default();
            let mut p = Product {
                x: memory.put(&x_bytes),
                weight: memory.put(&weight_bytes),
                out: memory.room(rows * outputs * 4),
                rows,
                inputs,
                outputs,
                out_type: 2,
                x_type: code(dtype),
                ..Product::default()
            };
            let (few, many) = (format!("product_few_{name}"), format!("product_many_{name}"));
            let by_few = |p: &Product| launch(("product_mma", &few, 256), p, (16, 16), 1);
            let by_many = |p: &Product| launch(("product_mma", &many, 128), p, (64, 64), 1);
            memory.launch(by_few(&p), &[p.arg()]);
            let found = values::values(Dtype::F32, memory.at(p.out));
            near(&few, Dtype::F32, &found, &exact((&x, inputs), &weight), 2e-6);
            p.out = memory.room(rows * outputs * 4);
            memory.launch(by_many(&p), &[p.arg()]);
            same(&many, &values::values(Dtype::F32, memory.at(p.out)), &found);

            // Rounded, with a bias, added to what is there.
            (p.bias, p.add) = (memory.put(&bytes(Dtype::F32, &bias)), true);
            (p.out, p.out_type) = (memory.put(&before_bytes), code(dtype));
            memory.launch(by_many(&p), &[p.arg()]);
            let sum = |at: usize| (found[at] + bias[at % outputs]) + before[at];
            let expected: Vec<f32> = (0..found.len()).map(sum).collect();
            let expected = values::values(dtype, &bytes(dtype, &expected));
            same(&many, &values::values(dtype, memory.at(p.out)), &expected);
        }
    }
}

#[test]
fn groups_have_their_own_weights_and_rows() {
    if shim::is_missing() {
        return;
    }
    let (inputs, outputs, ends) = (72, 20, [0u32, 3, 3, 40, 41]);
    // Three rows more than the groups have: the bound of the buffer.
    let rows = 44;
    for (file, kernel, threads, tile, dtype) in [
        ("product", "product_any", 256, (32, 32), Dtype::F32),
        ("product_mma", "product_few_bf16", 256, (16, 16), Dtype::Bf16),
        ("product_mma", "product_many_f16", 128, (64, 64), Dtype::F16),
    ] {
        let (x, x_bytes) = typed_noise(dtype, 81, rows * inputs);
        let mut memory = Memory::default();
        let mut expected = vec![f32::NAN; rows * outputs];
        let mut addresses = Vec::new();
        let mut first = 0;
        for (group, end) in ends.iter().map(|end| *end as usize).enumerate() {
            let (weight, weight_bytes) = typed_noise(dtype, 90 + group as u64, outputs * inputs);
            addresses.extend(memory.put(&weight_bytes).to_le_bytes());
            let own = exact((&x[first * inputs..end * inputs], inputs), &weight);
            expected[first * outputs..end * outputs].copy_from_slice(&own);
            first = end;
        }
        let p = Product {
            x: memory.put(&x_bytes),
            weights: memory.put(&addresses),
            ends: memory.put(&words(&ends)),
            out: memory.room(rows * outputs * 4),
            rows,
            inputs,
            outputs,
            x_type: code(dtype),
            weight_type: code(dtype),
            out_type: 2,
            ..Product::default()
        };
        memory.launch(launch((file, kernel, threads), &p, tile, ends.len()), &[p.arg()]);
        let found = values::values(Dtype::F32, memory.at(p.out));
        let used = 41 * outputs;
        near(kernel, Dtype::F32, &found[..used], &expected[..used], 3e-6);
        assert!(found[used..].iter().all(|value| value.is_nan()), "{kernel}: rows of no group");
    }
}

/// Codes of every kind with their weights.
struct Coded {
    fields: Fields,
    weights: Vec<f32>,
}

/// Codes of `kind` with groups of `size` inputs, or of groups in any order.
fn coded(
    memory: &mut Memory,
    kind: u32,
    (outputs, inputs): (usize, usize),
    (size, in_order, has_offsets): (usize, bool, bool),
) -> Coded {
    let groups = inputs.div_ceil(size);
    let bits = if kind == 4 { 4 } else { 8 };
    let stride = (inputs * bits).div_ceil(32) + 1;
    let scales: Vec<f32> = noise(101, outputs * groups).iter().map(|x| x * 0.1).collect();
    let offsets = noise(102, outputs * groups);
    let draws = noise(103, outputs * inputs);
    let group_of: Vec<u32> = (0..inputs).map(|k| (k * 7 % groups) as u32).collect();
    let mut packed = vec![0u32; outputs * stride];
    let mut weights = Vec::new();
    for output in 0..outputs {
        for input in 0..inputs {
            let draw = f32::midpoint(draws[output * inputs + input], 1.0);
            let code = (draw * if kind == 4 { 15.99 } else { 255.99 }) as u32;
            // The two that are no numbers.
            let code = if kind == 9 && code & 0x7f == 0x7f { 1 } else { code };
            let bit = input * bits;
            packed[output * stride + bit / 32] |= code << (bit % 32);
            let group = if in_order { input / size } else { group_of[input] as usize };
            let at = output * groups + group;
            let number = if kind == 9 { f8(code as u8) } else { code as f32 };
            let zero = if kind == 9 { 0.0 } else { 8.0 };
            weights.push(match has_offsets {
                true => number.mul_add(scales[at], offsets[at]),
                false => (number - zero) * scales[at],
            });
        }
    }
    let floats = |memory: &mut Memory, values: &[f32]| memory.put(&bytes(Dtype::F32, values));
    let fields = Fields::default()
        .wide(memory.put(&words(&packed)))
        .wide(floats(memory, &scales))
        .wide(if has_offsets { floats(memory, &offsets) } else { 0 })
        .wide(if in_order { 0 } else { memory.put(&words(&group_of)) })
        .float(if kind == 9 { 0.0 } else { 8.0 })
        .words(&[kind, stride as u32, groups as u32, size as u32, 0]);
    Coded { fields, weights }
}

#[test]
fn codes_become_the_numbers_that_they_stand_for() {
    if shim::is_missing() {
        return;
    }
    for kind in [4, 8, 9] {
        for form in [(8, true, false), (16, true, true), (32, false, true), (24, false, false)] {
            let (outputs, inputs) = (5, 72);
            for (name, dtype) in values::TYPES {
                let mut memory = Memory::default();
                let codes = coded(&mut memory, kind, (outputs, inputs), form);
                let out = memory.room(outputs * inputs * dtype.size());
                let args =
                    [Arg::Struct(codes.fields.clone()), Arg::Word(inputs as u32), Arg::Wide(out)];
                let kernel = format!("decode_{name}");
                let how = Launch {
                    file: "coded",
                    kernel: &kernel,
                    grid: [outputs, 1, 1],
                    threads: 128,
                    shared: 0,
                };
                memory.launch(how, &args);
                let dense = values::values(dtype, &bytes(dtype, &codes.weights));
                same(&kernel, &values::values(dtype, memory.at(out)), &dense);

                let tokens = [12u32, 9, 14];
                let rows = memory.room(3 * inputs * dtype.size());
                let tokens_at = memory.put(&words(&tokens));
                let args = [
                    Arg::Wide(tokens_at),
                    Arg::Struct(codes.fields.clone()),
                    Arg::Word(10),
                    Arg::Word(outputs as u32),
                    Arg::Word(inputs as u32),
                    Arg::Wide(rows),
                ];
                let kernel = format!("embed_coded_{name}");
                let how = Launch { kernel: &kernel, grid: [3, 1, 1], threads: 256, ..how };
                memory.launch(how, &args);
                let (row, none) = (|n: usize| &dense[n * inputs..][..inputs], vec![0.0; inputs]);
                let expected = [row(2), &none, row(4)].concat();
                same(&kernel, &values::values(dtype, memory.at(rows)), &expected);
                if dtype == Dtype::F32 {
                    continue;
                }

                // The product is that of the same numbers, to the bit.
                let count = 18;
                let p = Product {
                    x: memory.put(&typed_noise(dtype, 104, count * inputs).1),
                    weight: out,
                    out: memory.room(count * outputs * 4),
                    rows: count,
                    inputs,
                    outputs,
                    x_type: code(dtype),
                    out_type: 2,
                    ..Product::default()
                };
                let few = format!("product_few_{name}");
                memory.launch(launch(("product_mma", &few, 256), &p, (16, 16), 1), &[p.arg()]);
                let dense = values::values(Dtype::F32, memory.at(p.out));
                let p = Product { out: memory.room(count * outputs * 4), weight: 0, ..p };
                let kernel = format!("product_coded_{name}");
                let how = launch(("coded", &kernel, 256), &p, (16, 16), 1);
                memory.launch(how, &[p.arg(), Arg::Struct(codes.fields)]);
                same(&kernel, &values::values(Dtype::F32, memory.at(p.out)), &dense);
            }
        }
    }
}

/// Rows and weights as integers, the weights as Troupe makes them of numbers.
#[test]
fn products_of_integers_are_those_of_the_cpu() {
    if shim::is_missing() {
        return;
    }
    for (rows, inputs, outputs) in [(1, 64, 8), (3, 70, 9), (11, 2500, 20), (70, 130, 67)] {
        for quantize in [Quantize::Int8, Quantize::Int4] {
            for (name, dtype) in values::TYPES {
                let (x, x_bytes) = typed_noise(dtype, 111, rows * inputs);
                let weight = noise(112, outputs * inputs);
                let mut device = reference();
                let format = (Dtype::F32, Some(quantize));
                let linear = prepared(&mut device, (&weight, None), (outputs, inputs), format);
                let expected = on_cpu(&mut device, (&x, inputs), &linear, None);

                let mut memory = Memory::default();
                let (blocks, stride) = (inputs.div_ceil(64), inputs.div_ceil(64) * 64);
                let (packed, scales) = packed(&weight, inputs, quantize);
                let codes = memory.room(rows * stride);
                let row_scales = memory.room(rows * 4);
                let args = [
                    Arg::Wide(memory.put(&x_bytes)),
                    Arg::Word(inputs as u32),
                    Arg::Word(stride as u32),
                    Arg::Wide(0),
                    Arg::Wide(codes),
                    Arg::Wide(row_scales),
                ];
                let kernel = format!("quantize_int8_{name}");
                let how = Launch {
                    file: "quantize",
                    kernel: &kernel,
                    grid: [rows, 1, 1],
                    threads: 256,
                    shared: 0,
                };
                memory.launch(how, &args);
                let p = Product { rows, outputs, out_type: 2, ..Product::default() };
                let fields = [codes, row_scales]
                    .into_iter()
                    .chain([memory.put(&packed), memory.put(&bytes(Dtype::F32, &scales))])
                    .fold(Fields::default(), Fields::wide)
                    .words(&[stride as u32, blocks as u32]);
                let bits = if quantize == Quantize::Int8 { "int8" } else { "int4" };
                for (how, threads, tile) in [("few", 256, (8, 8)), ("many", 128, (64, 64))] {
                    let p = Product { out: memory.room(rows * outputs * 4), ..p };
                    let kernel = format!("product_{how}_{bits}");
                    let how = launch(("integers", &kernel, threads), &p, tile, 1);
                    memory.launch(how, &[p.arg(), Arg::Struct(fields.clone())]);
                    let found = values::values(Dtype::F32, memory.at(p.out));
                    same(&kernel, &found, &expected);
                }
            }
        }
    }
}

/// Codes and integers of groups give what each group's rows give alone, to the bit.
#[test]
fn groups_may_be_of_codes_and_of_integers() {
    if shim::is_missing() {
        return;
    }
    let (inputs, outputs, ends) = (128usize, 20, [2u32, 2, 19]);
    let rows = 20;
    let mut memory = Memory::default();
    // Bf16 activations serve codes, and as bytes integers.
    let x = memory.put(&typed_noise(Dtype::Bf16, 141, rows * inputs).1);
    let bytes_of_x: Vec<u8> =
        noise(142, rows * inputs).iter().map(|x| ((x * 127.0) as i8).cast_unsigned()).collect();
    let codes_of_x = memory.put(&bytes_of_x);
    let x_scales = memory.put(&bytes(Dtype::F32, &noise(143, rows)));
    let p = Product {
        x,
        ends: memory.put(&words(&ends)),
        rows,
        inputs,
        outputs,
        out_type: 2,
        ..Product::default()
    };
    let weights: Vec<(Fields, Fields)> = (0..ends.len() as u64)
        .map(|group| {
            let form = (16, true, group % 2 == 0);
            let codes = coded(&mut memory, 4, (outputs, inputs), form).fields;
            let dense = noise(150 + group, outputs * inputs);
            let (packed, scales) = packed(&dense, inputs, Quantize::Int4);
            let addresses = [memory.put(&packed), memory.put(&bytes(Dtype::F32, &scales))];
            (codes, addresses.into_iter().fold(Fields::default(), Fields::wide))
        })
        .collect();
    let integers = |weight: &Fields| {
        let first = [codes_of_x, x_scales].into_iter().fold(Fields::default(), Fields::wide);
        Arg::Struct(first.of(weight).words(&[inputs as u32, inputs as u32 / 64]))
    };
    let all_codes: Vec<u8> = weights.iter().flat_map(|(codes, _)| codes.bytes().to_vec()).collect();
    let all_codes = memory.put(&all_codes);
    let all_integers: Vec<u8> = weights.iter().flat_map(|(_, own)| own.bytes().to_vec()).collect();
    let all_integers = memory.put(&all_integers);
    for (file, kernel, threads, tile) in [
        ("coded", "product_coded", 256, (16, 16)),
        ("integers", "product_few_int4", 256, (8, 8)),
        ("integers", "product_many_int4", 128, (64, 64)),
    ] {
        let is_coded = file == "coded";
        let (suffix, groups) = if is_coded { ("_bf16", ends.len()) } else { ("", ends.len()) };
        let name = match is_coded {
            true => format!("{kernel}_groups{suffix}"),
            false => format!("{kernel}_groups"),
        };
        let p = Product { out: memory.room(rows * outputs * 4), ..p };
        let args = match is_coded {
            true => vec![p.arg(), Arg::Wide(all_codes)],
            false => vec![p.arg(), integers(&weights[0].1), Arg::Wide(all_integers)],
        };
        memory.launch(launch((file, &name, threads), &p, tile, groups), &args);
        let found = values::values(Dtype::F32, memory.at(p.out));
        let mut first = 0;
        for ((codes, own), end) in weights.iter().zip(ends.map(|end| end as usize)) {
            let alone = Product { out: memory.room(rows * outputs * 4), ends: 0, ..p };
            let name = format!("{kernel}{suffix}");
            let args = match is_coded {
                true => [alone.arg(), Arg::Struct(codes.clone())],
                false => [alone.arg(), integers(own)],
            };
            memory.launch(launch((file, &name, threads), &alone, tile, 1), &args);
            let expected = values::values(Dtype::F32, memory.at(alone.out));
            let run = first * outputs..end * outputs;
            same(&name, &found[run.clone()], &expected[run]);
            first = end;
        }
        assert!(found[first * outputs..].iter().all(|value| value.is_nan()), "{kernel}");
    }
}

/// Weights as the kernels read them, made by the rule of `gpu/src/cpu/integers.rs`.
fn packed(weight: &[f32], inputs: usize, quantize: Quantize) -> (Vec<u8>, Vec<f32>) {
    let far = |values: &[f32]| {
        values.iter().fold(0.0f32, |far, x| if x.abs() > far.abs() { *x } else { far })
    };
    let (mut bytes, mut scales) = (Vec::new(), Vec::new());
    for row in weight.chunks(inputs) {
        let whole = far(row).abs() / 127.0;
        if quantize == Quantize::Int8 {
            scales.push(whole);
        }
        for group in row.chunks(64) {
            if quantize == Quantize::Int8 {
                let inverse = if whole == 0.0 { 0.0 } else { 1.0 / whole };
                let of = |x: &f32| ((x * inverse).round_ties_even() as i8).cast_unsigned();
                bytes.extend(group.iter().map(of).chain(vec![0; 64 - group.len()]));
                continue;
            }
            let scale = half::bf16::from_f32(far(group) / -8.0).to_f32();
            scales.push(scale);
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            let mut each = [8u8; 64];
            for (each, x) in each.iter_mut().zip(group) {
                *each = ((x * inverse).clamp(-8.0, 7.0).round_ties_even() as i8 + 8) as u8;
            }
            bytes.extend((0..32).map(|at| each[at] | each[at + 32] << 4));
        }
    }
    (bytes, scales)
}
