//! Routing, sorting rows by expert, adding up: a layer of experts is several kernels.

use troupe_gpu::{
    backend::{Backend, Epilogue, ExpertWeights},
    cpu::{CpuDevice, packed::CpuLinear},
    dtype::Dtype,
    tensor::{DenseMatrix, DensePart, LinearSource, WeightSource},
};
use troupe_runtime::model::config::{GroupScore, RouterScore, Routing};

use crate::{
    shim::{self, Arg, Fields, Launch, Memory},
    values::{self, bytes, near, noise, reference, typed_noise, unsigned, words},
};

/// A linear layer of the CPU's in `f32`.
pub(crate) fn linear(
    device: &mut CpuDevice,
    values: &[f32],
    (outputs, inputs): (usize, usize),
) -> CpuLinear {
    let matrix = DenseMatrix::new(bytes(Dtype::F32, values), Dtype::F32, (outputs, inputs));
    let parts = vec![DensePart { weight: matrix.unwrap(), bias: None }];
    device
        .prepare_linear(&LinearSource {
            in_features: inputs,
            weights: WeightSource::Dense(parts),
            storage: Dtype::F32,
            quantize: None,
        })
        .unwrap()
}

/// Groups, all of equal size, and experts of a row: what a case of routing is.
fn routings() -> Vec<(usize, usize, Routing)> {
    let plain = Routing::SOFTMAX;
    let grouped = Routing {
        score: RouterScore::Sigmoid,
        correction_bias: true,
        groups: 4,
        groups_kept: 2,
        group_score: GroupScore::BestTwo,
        normalize: true,
        scale: 2.5,
    };
    vec![
        (6, 2, plain),
        (40, 8, Routing { normalize: true, ..plain }),
        (8, 3, grouped),
        (256, 8, Routing { group_score: GroupScore::Best, correction_bias: false, ..grouped }),
    ]
}

const HIDDEN: usize = 16;

/// The layer whose experts are one and the same makes plain what is routed: each expert multiplies
/// by its own number, and the CPU's layer does so too.
#[test]
fn layers_of_experts_are_those_of_the_cpu() {
    if shim::is_missing() {
        return;
    }
    for (experts, per_token, routing) in routings() {
        let (rows, inner) = (21, 8);
        // A rank that has the second half.
        let (first, local) = (experts / 2, experts - experts / 2);
        let mut device = reference();
        let (x, x_bytes) = typed_noise(Dtype::F32, 121, rows * HIDDEN);
        let router = noise(122, experts * HIDDEN);
        let correction: Vec<f32> = noise(123, experts).iter().map(|x| x * 0.3).collect();
        let gate_up: Vec<Vec<f32>> =
            (0..local).map(|n| noise(200 + n as u64, 2 * inner * HIDDEN)).collect();
        let down: Vec<Vec<f32>> =
            (0..local).map(|n| noise(600 + n as u64, HIDDEN * inner)).collect();

        let on_cpu = |device: &mut CpuDevice| {
            let router = linear(device, &router, (experts, HIDDEN));
            let of = |device: &mut CpuDevice, all: &[Vec<f32>], shape| -> Vec<CpuLinear> {
                all.iter().map(|weight| linear(device, weight, shape)).collect()
            };
            let gate_up = of(device, &gate_up, (2 * inner, HIDDEN));
            let down = of(device, &down, (HIDDEN, inner));
            let vector = DenseMatrix::new(bytes(Dtype::F32, &correction), Dtype::F32, (1, experts));
            let vector = device.prepare_vector(&vector.unwrap()).unwrap();
            let weights = ExpertWeights {
                router: &router,
                correction: routing.correction_bias.then_some(&vector),
                routing: &routing,
                per_token,
                first,
                gate_up: &gate_up,
                down: &down,
            };
            let input = values::rows(device, &x, HIDDEN);
            let mut out = values::room(device, rows, HIDDEN);
            device.moe(&input, &weights, Epilogue::Store, &mut out).unwrap();
            let mut logits = values::room(device, rows, experts);
            let call = troupe_gpu::backend::LinearCall::STORE;
            device.linear(&input, &router, call, &mut logits).unwrap();
            (out.values().to_vec(), logits.values().to_vec())
        };
        let (expected, logits) = on_cpu(&mut device);

        // The last row is padding, of no sequence.
        let padded = rows + 1;
        let choices = padded * per_token;
        let mut memory = Memory::default();
        let mut with_padding = bytes(Dtype::F32, &logits);
        with_padding.extend(vec![0; experts * 4]);
        let logits_at = memory.put(&with_padding);
        let correction_at = memory.put(&bytes(Dtype::F32, &correction));
        let mut x_padded = x_bytes.clone();
        x_padded.extend(vec![0; HIDDEN * 4]);
        let x_at = memory.put(&x_padded);
        let mut sequence_of = vec![0u32; rows];
        sequence_of.push(u32::MAX);
        let sequences = memory.put(&words(&sequence_of));
        let (chosen, weights) = (memory.room(choices * 4), memory.room(choices * 4));
        let (counts, ends) = (memory.room(local * 4), memory.room(local * 4));
        let (place_of, row_of) = (memory.room(choices * 4), memory.room(choices * 4));
        let how = |kernel, blocks, threads| Launch {
            file: "moe",
            kernel,
            grid: [blocks, 1, 1],
            threads,
            shared: 0,
        };
        let fields = Fields::default()
            .wide(if routing.correction_bias { correction_at } else { 0 })
            .words(&[
                experts as u32,
                per_token as u32,
                u32::from(routing.score == RouterScore::Sigmoid),
                routing.groups as u32,
                routing.groups_kept as u32,
                u32::from(routing.group_score == GroupScore::BestTwo),
                u32::from(routing.normalize),
            ])
            .float(routing.scale as f32);
        let args =
            [Arg::Wide(logits_at), Arg::Struct(fields), Arg::Wide(chosen), Arg::Wide(weights)];
        memory.launch(Launch { shared: experts * 8, ..how("moe_choose", padded, 128) }, &args);
        let common = [
            Arg::Wide(chosen),
            Arg::Wide(sequences),
            Arg::Word(choices as u32),
            Arg::Word(per_token as u32),
            Arg::Word(first as u32),
            Arg::Wide(counts),
        ];
        memory.launch(how("moe_count", local, 256), &common);
        let places = [ends, place_of, row_of].map(Arg::Wide);
        memory.launch(how("moe_place", local, 256), &[&common[..], &places[..]].concat());
        let inputs = memory.room(choices * HIDDEN * 4);
        let args = [
            Arg::Wide(x_at),
            Arg::Wide(row_of),
            Arg::Wide(ends),
            Arg::Word(local as u32),
            Arg::Word(HIDDEN as u32),
            Arg::Wide(inputs),
        ];
        memory.launch(how("moe_gather_f32", choices, 256), &args);

        // Between lie products and gates, which have tests of their own: here in double precision.
        let ends_of = unsigned(memory.at(ends));
        let used = *ends_of.last().unwrap() as usize;
        let gathered = values::values(Dtype::F32, memory.at(inputs));
        let mut outputs = vec![f32::NAN; choices * HIDDEN];
        let mut begin = 0;
        for (expert, end) in ends_of.iter().map(|end| *end as usize).enumerate() {
            for place in begin..end {
                let input = &gathered[place * HIDDEN..][..HIDDEN];
                let hidden = product(&gate_up[expert], input);
                let (gate, up) = hidden.split_at(inner);
                let gated: Vec<f32> =
                    gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                outputs[place * HIDDEN..][..HIDDEN]
                    .copy_from_slice(&product(&down[expert], &gated));
            }
            begin = end;
        }
        let here = |choice: usize| {
            let expert = unsigned(memory.at(chosen))[choice] as usize;
            choice < rows * per_token && expert >= first
        };
        assert_eq!(used, (0..choices).filter(|choice| here(*choice)).count());
        let outputs_at = memory.put(&bytes(Dtype::F32, &outputs));
        let out = memory.room(padded * HIDDEN * 4);
        let args = [
            Arg::Wide(outputs_at),
            Arg::Wide(place_of),
            Arg::Wide(weights),
            Arg::Word(per_token as u32),
            Arg::Word(HIDDEN as u32),
            Arg::Word(0),
            Arg::Wide(out),
        ];
        memory.launch(how("moe_combine_f32", padded, 256), &args);
        let found = values::values(Dtype::F32, memory.at(out));
        let what = format!("{experts} experts, {routing:?}");
        near(&what, Dtype::F32, &found[..rows * HIDDEN], &expected, 2e-6);
        assert!(found[rows * HIDDEN..].iter().all(|value| *value == 0.0), "padding chose");
    }
}

fn product(weight: &[f32], x: &[f32]) -> Vec<f32> {
    let of = |row: &[f32]| -> f64 {
        row.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    weight.chunks(x.len()).map(|row| of(row) as f32).collect()
}
