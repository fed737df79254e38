//! Element-wise kernels, gathers and norms.

use troupe_gpu::{
    backend::{Backend, LayerNorm, Norm},
    dtype::Dtype,
    tensor::DenseMatrix,
};

use crate::{
    shim::{self, Arg, Launch, Memory},
    values::{self, TYPES, bytes, code, near, noise, reference, same, typed_noise, words},
};

fn rows_launch<'a>(kernel: &'a str, blocks: usize) -> Launch<'a> {
    Launch { file: "rows", kernel, grid: [blocks, 1, 1], threads: 256, shared: 0 }
}

#[test]
fn rows_of_a_table_are_gathered_and_foreign_tokens_are_zeros() {
    if shim::is_missing() {
        return;
    }
    let (columns, table_rows, first) = (300, 7, 10u32);
    let tokens = [12, 10, 16, 17, 9, 0];
    for (name, dtype) in TYPES {
        for (_, stored) in TYPES {
            let (table, table_bytes) = typed_noise(stored, 3, table_rows * columns);
            let mut memory = Memory::default();
            let args = [
                Arg::Wide(memory.put(&words(&tokens))),
                Arg::Wide(memory.put(&table_bytes)),
                Arg::Word(code(stored)),
                Arg::Word(columns as u32),
                Arg::Word(first),
                Arg::Word(table_rows as u32),
                Arg::Word(columns as u32),
            ];
            let out = memory.room(tokens.len() * columns * dtype.size());
            let kernel = format!("embed_{name}");
            let args = [&args[..], &[Arg::Wide(out)]].concat();
            memory.launch(rows_launch(&kernel, tokens.len()), &args);
            let mut expected = Vec::new();
            for token in tokens {
                let row = token.checked_sub(first).filter(|row| (*row as usize) < table_rows);
                match row {
                    Some(row) => expected.extend(&table[row as usize * columns..][..columns]),
                    None => expected.extend(vec![0.0; columns]),
                }
            }
            let expected = values::values(dtype, &bytes(dtype, &expected));
            same(&kernel, &values::values(dtype, memory.at(out)), &expected);
        }
    }
}

#[test]
fn chosen_rows_are_gathered() {
    if shim::is_missing() {
        return;
    }
    for (name, dtype) in TYPES {
        let (x, x_bytes) = typed_noise(dtype, 5, 4 * 33);
        let mut memory = Memory::default();
        let (x_at, rows_at) = (memory.put(&x_bytes), memory.put(&words(&[3, 0, u32::MAX])));
        let out = memory.room(3 * 33 * dtype.size());
        let args = [Arg::Wide(x_at), Arg::Wide(rows_at), Arg::Word(33), Arg::Wide(out)];
        memory.launch(rows_launch(&format!("gather_rows_{name}"), 3), &args);
        let expected = [&x[3 * 33..], &x[..33], &[0.0; 33]].concat();
        same(name, &values::values(dtype, memory.at(out)), &expected);
    }
}

#[test]
fn gates_are_those_of_the_cpu() {
    if shim::is_missing() {
        return;
    }
    let (rows, width) = (3, 270);
    for (name, dtype) in TYPES {
        let wide: Vec<f32> = noise(7, rows * 2 * width).iter().map(|x| x * 9.0).collect();
        let x_bytes = bytes(dtype, &wide);
        let x = values::values(dtype, &x_bytes);
        let mut device = reference();
        let input = values::rows(&mut device, &x, 2 * width);
        let mut output = values::room(&mut device, rows, width);
        for kind in ["silu", "gelu"] {
            match kind {
                "silu" => device.silu_mul(&input, &mut output).unwrap(),
                _ => device.gelu_mul(&input, &mut output).unwrap(),
            }
            let mut memory = Memory::default();
            let x_at = memory.put(&x_bytes);
            let out = memory.room(rows * width * dtype.size());
            let args = [Arg::Wide(x_at), Arg::Word(width as u32), Arg::Wide(out)];
            let kernel = format!("{kind}_mul_{name}");
            memory.launch(rows_launch(&kernel, rows), &args);
            let expected = values::values(dtype, &bytes(dtype, output.values()));
            same(&kernel, &values::values(dtype, memory.at(out)), &expected);
        }
    }
}

#[test]
fn sums_factors_and_caps_are_those_of_the_cpu() {
    if shim::is_missing() {
        return;
    }
    let len = 1500;
    for (name, dtype) in TYPES {
        let (x, x_bytes) = typed_noise(dtype, 8, len);
        let (y, y_bytes) = typed_noise(dtype, 9, len);
        let mut device = reference();
        let on_x = values::rows(&mut device, &x, len);
        let expected = |values: &[f32]| values::values(dtype, &bytes(dtype, values));

        let mut scaled = values::rows(&mut device, &x, len);
        device.scale(&mut scaled, 0.37).unwrap();
        let mut memory = Memory::default();
        let at = memory.put(&x_bytes);
        let args = [Arg::Wide(at), Arg::Wide(len as u64), Arg::Float(0.37)];
        memory.launch(rows_launch(&format!("scale_{name}"), 2), &args);
        same("scale", &values::values(dtype, memory.at(at)), &expected(scaled.values()));

        let mut capped = values::rows(&mut device, &x, len);
        device.soft_cap(&mut capped, 0.6).unwrap();
        let mut memory = Memory::default();
        let at = memory.put(&x_bytes);
        let args = [Arg::Wide(at), Arg::Wide(len as u64), Arg::Float(0.6)];
        memory.launch(rows_launch(&format!("soft_cap_{name}"), 7), &args);
        same("soft cap", &values::values(dtype, memory.at(at)), &expected(capped.values()));

        // Of larger numbers too, where the share beyond them is small.
        let wide: Vec<f32> = x.iter().map(|x| x * 6.0).collect();
        let wide = values::values(dtype, &bytes(dtype, &wide));
        let mut gated = values::rows(&mut device, &wide, len);
        device.gelu(&mut gated).unwrap();
        let mut memory = Memory::default();
        let at = memory.put(&bytes(dtype, &wide));
        let args = [Arg::Wide(at), Arg::Wide(len as u64)];
        memory.launch(rows_launch(&format!("gelu_{name}"), 2), &args);
        same("gelu", &values::values(dtype, memory.at(at)), &expected(gated.values()));

        let mut sum = values::rows(&mut device, &y, len);
        device.add(&on_x, &mut sum).unwrap();
        let mut memory = Memory::default();
        let (x_at, y_at) = (memory.put(&x_bytes), memory.put(&y_bytes));
        let args = [Arg::Wide(x_at), Arg::Wide(len as u64), Arg::Wide(y_at)];
        memory.launch(rows_launch(&format!("add_{name}"), 3), &args);
        same("add", &values::values(dtype, memory.at(y_at)), &expected(sum.values()));

        let out = memory.room(len * 4);
        let args = [Arg::Wide(x_at), Arg::Wide(len as u64), Arg::Wide(out)];
        memory.launch(rows_launch(&format!("widen_{name}"), 1), &args);
        same("widen", &values::values(Dtype::F32, memory.at(out)), &x);
    }
}

#[test]
fn norms_are_near_those_of_the_cpu() {
    if shim::is_missing() {
        return;
    }
    for (name, dtype) in TYPES {
        for (rows, columns) in [(3, 896), (2, 33), (1, 1)] {
            let (x, x_bytes) = typed_noise(dtype, 11, rows * columns);
            let (residual, residual_bytes) = typed_noise(dtype, 12, rows * columns);
            let weight = noise(13, columns);
            let mut device = reference();
            let weights = DenseMatrix::new(bytes(Dtype::F32, &weight), Dtype::F32, (1, columns));
            let vector = device.prepare_vector(&weights.unwrap()).unwrap();
            let norm = Norm { weight: &vector, epsilon: 1e-5 };
            let input = values::rows(&mut device, &x, columns);
            let mut output = values::room(&mut device, rows, columns);
            device.rms_norm(&input, norm, &mut output).unwrap();

            let mut memory = Memory::default();
            let (x_at, residual_at) = (memory.put(&x_bytes), memory.put(&residual_bytes));
            let weight_at = memory.put(&bytes(Dtype::F32, &weight));
            let out = memory.room(rows * columns * dtype.size());
            let launch = |kernel| Launch { file: "norm", ..rows_launch(kernel, rows) };
            let rest =
                [Arg::Wide(weight_at), Arg::Float(1e-5), Arg::Word(columns as u32), Arg::Wide(out)];
            let kernel = format!("rms_norm_{name}");
            memory.launch(launch(&kernel), &[&[Arg::Wide(x_at)], &rest[..]].concat());
            near(&kernel, dtype, &values::values(dtype, memory.at(out)), output.values(), 2e-6);

            // The sum as the residual then holds it.
            let mut sum = values::rows(&mut device, &residual, columns);
            device.add(&input, &mut sum).unwrap();
            let rounded = values::values(dtype, &bytes(dtype, sum.values()));
            let sum = values::rows(&mut device, &rounded, columns);
            device.rms_norm(&sum, norm, &mut output).unwrap();
            let kernel = format!("add_rms_norm_{name}");
            let both = [Arg::Wide(x_at), Arg::Wide(residual_at)];
            memory.launch(launch(&kernel), &[&both[..], &rest[..]].concat());
            same(&kernel, &values::values(dtype, memory.at(residual_at)), &rounded);
            near(&kernel, dtype, &values::values(dtype, memory.at(out)), output.values(), 2e-6);
        }
    }
}

#[test]
fn layer_norms_are_near_those_of_the_cpu() {
    if shim::is_missing() {
        return;
    }
    for (name, dtype) in TYPES {
        for (rows, columns) in [(3, 768), (2, 37)] {
            let (x, x_bytes) = typed_noise(dtype, 16, rows * columns);
            let both = [noise(17, columns), noise(18, columns)];
            let mut device = reference();
            let vectors = both.each_ref().map(|values| {
                let row = DenseMatrix::new(bytes(Dtype::F32, values), Dtype::F32, (1, columns));
                device.prepare_vector(&row.unwrap()).unwrap()
            });
            let norm = LayerNorm { weight: &vectors[0], bias: &vectors[1], epsilon: 1e-5 };
            let input = values::rows(&mut device, &x, columns);
            let mut output = values::room(&mut device, rows, columns);
            device.layer_norm(&input, norm, &mut output).unwrap();
            let mut memory = Memory::default();
            let x_at = memory.put(&x_bytes);
            let [weight, bias] = both.map(|values| memory.put(&bytes(Dtype::F32, &values)));
            let out = memory.room(rows * columns * dtype.size());
            let args = [
                Arg::Wide(x_at),
                Arg::Wide(weight),
                Arg::Wide(bias),
                Arg::Float(1e-5),
                Arg::Word(columns as u32),
                Arg::Wide(out),
            ];
            let kernel = format!("layer_norm_{name}");
            memory.launch(Launch { file: "norm", ..rows_launch(&kernel, rows) }, &args);
            near(&kernel, dtype, &values::values(dtype, memory.at(out)), output.values(), 2e-6);
        }
    }
}

#[test]
fn norms_of_heads_leave_other_columns_alone() {
    if shim::is_missing() {
        return;
    }
    let (rows, columns, first, heads, dim) = (2, 11 * 40, 40, 9, 40);
    for (name, dtype) in TYPES {
        let (x, x_bytes) = typed_noise(dtype, 14, rows * columns);
        let weight = noise(15, dim);
        let mut device = reference();
        let weights = DenseMatrix::new(bytes(Dtype::F32, &weight), Dtype::F32, (1, dim)).unwrap();
        let vector = device.prepare_vector(&weights).unwrap();
        let mut expected = values::rows(&mut device, &x, columns);
        let norm = Norm { weight: &vector, epsilon: 1e-6 };
        device.head_rms_norm(&mut expected, first..first + heads * dim, norm).unwrap();
        let mut memory = Memory::default();
        let at = memory.put(&x_bytes);
        let numbers = [columns, first, heads, dim].map(|number| Arg::Word(number as u32));
        let weight_at = memory.put(&bytes(Dtype::F32, &weight));
        let rest = [Arg::Wide(weight_at), Arg::Float(1e-6)];
        let kernel = format!("head_rms_norm_{name}");
        let launch = Launch {
            file: "norm",
            kernel: &kernel,
            grid: [rows, heads.div_ceil(8), 1],
            threads: 256,
            shared: 0,
        };
        memory.launch(launch, &[&[Arg::Wide(at)], &numbers[..], &rest].concat());
        near(name, dtype, &values::values(dtype, memory.at(at)), expected.values(), 2e-6);
    }
}
