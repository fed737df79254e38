//! Rotation, writing to the KV and moving blocks.

use troupe_gpu::{
    backend::{Backend, KvStep, LatentCall},
    cpu::{CpuDevice, packed::CpuLinear},
    dtype::Dtype,
    kv::KvDtype,
    shape::{AttentionMask, HeadShape, KvAt, LatentShape},
};

use crate::{
    experts::linear,
    shim::{self, Arg, Launch, Memory},
    steps::{Scene, f8, rope_table, values_of},
    values::{self, TYPES, bytes, near, same, typed_noise},
};

fn launch(kernel: &str, rows: usize) -> Launch<'_> {
    Launch { file: "kv", kernel, grid: [rows, 1, 1], threads: 256, shared: 0 }
}

fn scene(dtype: Option<KvDtype>, block_size: usize, head_dim: usize) -> Scene {
    Scene {
        heads: HeadShape { query_heads: 6, kv_heads: 2, head_dim },
        latent: 0,
        block_size,
        dtype,
        mask: AttentionMask::Causal,
        sequences: vec![(0, 5), (7, 1), (30, 3)],
    }
}

const AT: KvAt = KvAt { group: 0, layer: 0 };

#[test]
fn heads_are_rotated_and_written_as_the_cpu_does() {
    if shim::is_missing() {
        return;
    }
    let kinds = [KvDtype::Bf16, KvDtype::F16, KvDtype::F32, KvDtype::Int8].map(Some);
    for (name, dtype) in TYPES {
        for (kv, shape) in kinds.into_iter().chain([None]).zip([
            (16, 64, 32),
            (8, 6, 3),
            (1, 40, 10),
            (4, 128, 64),
            (32, 80, 40),
        ]) {
            let (size, dim, pairs) = shape;
            for rotated in [true, false] {
                let scene = scene(kv, size, dim);
                let (columns, rows) = (scene.heads.fused_columns(), scene.rows());
                let (x, mut x_bytes) = typed_noise(dtype, 21, rows * columns);
                let on_cpu = Scene { dtype: kv.or(Some(KvDtype::F32)), ..scene.clone() };
                let mut judge = on_cpu.judge(pairs);
                let mut qkv = values::rows(&mut judge.device, &x, columns);
                let step = KvStep { meta: &judge.meta, at: AT };
                let rope = rotated.then_some(&judge.rope);
                // First only rotated, then rounded to the activations' type, then written.
                let pool = &mut judge.kv[0];
                judge.device.rope_write_kv(step, &mut qkv, scene.heads, rope, pool).unwrap();
                let turned = values::values(dtype, &bytes(dtype, qkv.values()));
                let mut qkv = values::rows(&mut judge.device, &turned, columns);
                judge.device.rope_write_kv(step, &mut qkv, scene.heads, None, pool).unwrap();

                let mut memory = Memory::default();
                let data = scene.data();
                x_bytes.extend(vec![0; columns * dtype.size()]);
                let qkv_at = memory.put(&x_bytes);
                let table = memory.put(&bytes(Dtype::F32, &rope_table(pairs)));
                let (fields, kv_at, scales_at) = scene.put(&mut memory, &scene.empty());
                let args = [
                    Arg::Wide(qkv_at),
                    Arg::Word(scene.heads.query_heads as u32),
                    Arg::Wide(if rotated { table } else { 0 }),
                    Arg::Word(pairs as u32),
                    Arg::Wide(data.put_positions(&mut memory)),
                    Arg::Wide(data.put_sequences(&mut memory)),
                    Arg::Wide(data.put_tables(&mut memory)),
                    Arg::Word(data.table_width as u32),
                    Arg::Struct(fields),
                ];
                let kernel = format!("rope_write_kv_{name}");
                memory.launch(launch(&kernel, rows + 1), &args);
                let found = values::values(dtype, memory.at(qkv_at));
                same(&kernel, &found[..rows * columns], &turned);
                let found = scene.layer_at(&memory, kv_at, scales_at);
                let expected = judge.layer(&on_cpu);
                if kv.is_some() {
                    assert_eq!(found, expected, "{kernel} {kv:?}");
                } else {
                    fp8_is_near(&scene.numbers(&found), &values_of(&expected.data), dim);
                }
            }
        }
    }
}

/// Each number within half a step: a sixteenth of it, or half of the smallest step of its row.
fn fp8_is_near(found: &[f32], expected: &[f32], dim: usize) {
    for (found, expected) in found.chunks(dim).zip(expected.chunks(dim)) {
        let most = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (found, expected) in found.iter().zip(expected) {
            let room = (expected.abs() / 16.0).max(most / 448.0 / 1024.0) * 1.001;
            assert!((found - expected).abs() <= room, "{found} is not {expected}");
        }
    }
}

#[test]
fn all_eight_bit_floats_are_rounded_to_themselves_and_ties_to_even() {
    if shim::is_missing() {
        return;
    }
    // One head of 254 elements in a row of its own: the codes without those of no number.
    let codes: Vec<u8> = (0..=255u8).filter(|code| code & 0x7f != 0x7f).collect();
    let scene = Scene {
        heads: HeadShape { query_heads: 1, kv_heads: 1, head_dim: codes.len() },
        latent: 0,
        block_size: 1,
        dtype: None,
        mask: AttentionMask::Causal,
        sequences: vec![(0, 1)],
    };
    // The value is between codes: ties go to the even one. Its peak is 448, so that the scale is 1.
    let key: Vec<f32> = codes.iter().map(|code| f8(*code)).collect();
    let middle = |code: u8| match code & 0x7f {
        0x7e => f8(code),
        _ => f32::midpoint(f8(code), f8(code + 1)),
    };
    let value: Vec<f32> = codes.iter().map(|code| middle(*code)).collect();
    let row = [&vec![0.0; codes.len()][..], &key, &value, &vec![0.0; 3 * codes.len()]].concat();
    let mut memory = Memory::default();
    let data = scene.data();
    let (fields, kv_at, scales_at) = scene.put(&mut memory, &scene.empty());
    let args = [
        Arg::Wide(memory.put(&bytes(Dtype::F32, &row))),
        Arg::Word(1),
        Arg::Wide(0),
        Arg::Word(0),
        Arg::Wide(data.put_positions(&mut memory)),
        Arg::Wide(data.put_sequences(&mut memory)),
        Arg::Wide(data.put_tables(&mut memory)),
        Arg::Word(data.table_width as u32),
        Arg::Struct(fields),
    ];
    memory.launch(launch("rope_write_kv_f32", 2), &args);
    let layer = scene.layer_at(&memory, kv_at, scales_at);
    assert_eq!(layer.scales[..2], [1.0, 1.0]);
    let even = |code: &u8| if code & 0x7f == 0x7e { *code } else { code + (code & 1) };
    assert_eq!(layer.data[..codes.len()], codes);
    let found = layer.data[codes.len()..2 * codes.len()].to_vec();
    assert_eq!(found, codes.iter().map(even).collect::<Vec<u8>>());
}

#[test]
fn latent_rows_are_rotated_and_written_as_the_cpu_does() {
    if shim::is_missing() {
        return;
    }
    for interleaved in [false, true] {
        let shape = LatentShape {
            heads: 9,
            rank: 20,
            nope_dim: 7,
            rope_dim: 6,
            value_dim: 10,
            interleaved,
        };
        let scene = Scene {
            heads: HeadShape { query_heads: 9, kv_heads: 1, head_dim: 26 },
            latent: shape.width(),
            block_size: 4,
            dtype: Some(KvDtype::F32),
            mask: AttentionMask::Causal,
            sequences: vec![(3, 2), (0, 5)],
        };
        let rows = scene.rows();
        for (name, dtype) in TYPES {
            let columns = shape.heads * shape.query_dim();
            let (query, mut query_bytes) = typed_noise(dtype, 31, rows * columns);
            let (latent, mut latent_bytes) = typed_noise(dtype, 32, rows * shape.width());
            let mut judge = scene.judge(3);
            let mut on_cpu = values::rows(&mut judge.device, &query, columns);
            let mut rows_on_cpu = values::rows(&mut judge.device, &latent, shape.width());
            // Not used here, but checked.
            let zeros = |device: &mut CpuDevice, shape: (usize, usize)| -> Vec<CpuLinear> {
                (0..9).map(|_| linear(device, &vec![0.0; shape.0 * shape.1], shape)).collect()
            };
            let absorb = zeros(&mut judge.device, (shape.rank, shape.nope_dim));
            let expand = zeros(&mut judge.device, (shape.value_dim, shape.rank));
            let (absorb, expand) = (&absorb, &expand);
            let call = LatentCall { shape, scale: 1.0, rope: &judge.rope, absorb, expand };
            let step = KvStep { meta: &judge.meta, at: AT };
            let pool = &mut judge.kv[0];
            judge.device.write_latent(step, &mut on_cpu, &mut rows_on_cpu, call, pool).unwrap();

            let mut memory = Memory::default();
            let data = scene.data();
            query_bytes.extend(vec![0; columns * dtype.size()]);
            latent_bytes.extend(vec![0; shape.width() * dtype.size()]);
            let (query_at, latent_at) = (memory.put(&query_bytes), memory.put(&latent_bytes));
            let (fields, kv_at, scales_at) = scene.put(&mut memory, &scene.empty());
            let args = [
                Arg::Wide(query_at),
                Arg::Wide(latent_at),
                Arg::Word(shape.heads as u32),
                Arg::Word(shape.query_dim() as u32),
                Arg::Wide(memory.put(&bytes(Dtype::F32, &rope_table(3)))),
                Arg::Word(3),
                Arg::Word(u32::from(interleaved)),
                Arg::Wide(data.put_positions(&mut memory)),
                Arg::Wide(data.put_sequences(&mut memory)),
                Arg::Wide(data.put_tables(&mut memory)),
                Arg::Word(data.table_width as u32),
                Arg::Struct(fields),
            ];
            let kernel = format!("write_latent_{name}");
            memory.launch(launch(&kernel, rows + 1), &args);
            let rounded = |values: &[f32]| values::values(dtype, &bytes(dtype, values));
            let found = values::values(dtype, memory.at(query_at));
            same(&kernel, &found[..rows * columns], &rounded(on_cpu.values()));
            let found = values::values(dtype, memory.at(latent_at));
            let turned = rounded(rows_on_cpu.values());
            same(&kernel, &found[..rows * shape.width()], &turned);
            let found = scene.layer_at(&memory, kv_at, scales_at);
            let expected = judge.layer(&scene);
            near(&kernel, dtype, &values_of(&found.data), &values_of(&expected.data), 1e-7);
        }
    }
}

#[test]
fn runs_are_copied_whatever_their_size() {
    if shim::is_missing() {
        return;
    }
    for size in [4usize, 16, 48, 1028, 4096] {
        let mut memory = Memory::default();
        let content: Vec<u8> = (0..4 * size).map(|at| (at * 7 % 251) as u8).collect();
        let wide = |offsets: [usize; 3]| -> Vec<u8> {
            offsets.iter().flat_map(|offset| (*offset as u64).to_le_bytes()).collect()
        };
        let from = memory.put(&content);
        let from_first = memory.put(&wide([2 * size, 0, 3 * size]));
        let to = memory.put(&vec![1; 5 * size]);
        let to_first = memory.put(&wide([0, 4 * size, size]));
        let args = [from, from_first, to, to_first, size as u64].map(Arg::Wide);
        memory.launch(launch("copy_runs", 3), &args);
        let ones = vec![1; size];
        let run = |at: usize| &content[at * size..(at + 1) * size];
        let expected = [run(2), run(3), &ones, &ones, run(0)].concat();
        assert_eq!(memory.at(to), expected);
    }
}

#[test]
fn scales_travel_behind_their_rows() {
    if shim::is_missing() {
        return;
    }
    let (elements, rows) = (12usize, [5u64, 0, 3]);
    let data: Vec<u8> = (0..6 * elements).map(|at| at as u8).collect();
    let scales: Vec<u8> = (0..6).flat_map(|at| (at as f32 + 0.5).to_le_bytes()).collect();
    let numbers: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
    let mut memory = Memory::default();
    let (data_at, scales_at) = (memory.put(&data), memory.put(&scales));
    let (rows_at, packed_at) = (memory.put(&numbers), memory.room(3 * (elements + 4)));
    let scaled = Launch { threads: 64, ..launch("copy_scaled_rows", 3) };
    let wide = [data_at, scales_at, rows_at, packed_at].map(Arg::Wide);
    let args = |pack| [&wide[..], &[Arg::Word(elements as u32), Arg::Word(pack)]].concat();
    memory.launch(scaled, &args(1));
    let mut expected = Vec::new();
    for row in rows {
        let row = row as usize;
        expected.extend(&data[row * elements..(row + 1) * elements]);
        expected.extend(&scales[row * 4..(row + 1) * 4]);
    }
    assert_eq!(memory.at(packed_at), expected);

    // And back, into a pool that holds nothing.
    let mut other = Memory::default();
    let (data_at, scales_at) = (other.put(&[0; 72]), other.put(&[0; 24]));
    let (rows_at, packed_at) = (other.put(&numbers), other.put(&expected));
    let wide = [data_at, scales_at, rows_at, packed_at].map(Arg::Wide);
    other.launch(scaled, &[&wide[..], &[Arg::Word(elements as u32), Arg::Word(0)]].concat());
    for row in rows.map(|row| row as usize) {
        let run = row * elements..(row + 1) * elements;
        assert_eq!(other.at(data_at)[run.clone()], data[run]);
        assert_eq!(other.at(scales_at)[row * 4..][..4], scales[row * 4..][..4]);
    }
    assert_eq!(other.at(scales_at)[4..8], [0; 4]);
}
