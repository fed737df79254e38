//! Products of codes alone: every kernel path against the reference to the bit, and against what
//! the codes mean; inputs that are divided over ranks.

#![allow(clippy::unwrap_used, reason = "tests may stop at the first surprise")]

use proptest::prelude::*;
use troupe_gpu::{
    backend::{Activations, Backend, LinearCall},
    cpu::{CpuDevice, KernelPath, packed::CpuLinear},
    dtype::Dtype,
    quant::{
        InputRounding, QuantizedPart, QuantizedSource, Zeros,
        codes::{CodeKind, CodeLayout, Codes},
    },
    tensor::{LinearSource, WeightSource},
};

use super::files::fp8;
use crate::cpu::{bits, buffer, device, devices, noise};

#[derive(Clone, Debug)]
struct Case {
    rows: usize,
    inputs: usize,
    parts: Vec<usize>,
    kind: CodeKind,
    layout: CodeLayout,
    /// Groups of inputs, which are in no order.
    groups: u32,
    zeros: bool,
    rounding: InputRounding,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let inputs = prop_oneof![1usize..70, Just(256), 250usize..270, 500usize..560];
    let parts = proptest::collection::vec(1usize..60, 1..4);
    let form = prop_oneof![
        Just((CodeKind::Fp8, CodeLayout::Bytes)),
        Just((CodeKind::Int8, CodeLayout::SignedBytes)),
        Just((CodeKind::Int8, CodeLayout::RowWords)),
        Just((CodeKind::Int8, CodeLayout::InputWords)),
        Just((CodeKind::Int4, CodeLayout::RowWords)),
        Just((CodeKind::Int4, CodeLayout::InputWords)),
        Just((CodeKind::Int4, CodeLayout::OutputWords)),
    ];
    let rounding = prop_oneof![
        Just(InputRounding::Exact),
        Just(InputRounding::Fp8Token),
        Just(InputRounding::Fp8Static(0.01)),
        Just(InputRounding::Int8Token),
        Just(InputRounding::Fp8Groups { size: 32, first: 0, inputs: 0 }),
    ];
    let rows = prop_oneof![4 => 1usize..14, 1 => 95usize..99];
    let other = (1u32..5, any::<bool>(), rounding, any::<u64>());
    (rows, inputs, parts, form, other).prop_map(
        |(rows, inputs, parts, (kind, layout), (groups, zeros, rounding, seed))| Case {
            rows,
            inputs,
            parts,
            kind,
            layout,
            groups,
            zeros: zeros && kind != CodeKind::Fp8,
            rounding: match rounding {
                InputRounding::Fp8Groups { size, first, .. } => {
                    InputRounding::Fp8Groups { size, first, inputs }
                }
                rounding => rounding,
            },
            seed,
        },
    )
}

/// One part's codes as a file has them, with some outputs and inputs around it that are not its.
struct File {
    bytes: Vec<u8>,
    stride: usize,
    outputs: usize,
}

const AROUND: usize = 3;

impl Case {
    fn file(&self, part: usize) -> File {
        let (outputs, inputs) = (self.parts[part] + 2 * AROUND, self.inputs + 2 * AROUND);
        let per_word = (32 / self.kind.bits()) as usize;
        let (stride, count) = match self.layout {
            // What a GGUF file has is compared in models.
            CodeLayout::Blocks(_) => unreachable!("no case has blocks"),
            CodeLayout::Bytes | CodeLayout::SignedBytes => (inputs, outputs * inputs),
            CodeLayout::InputWords => (outputs, inputs.div_ceil(per_word) * outputs * 4),
            CodeLayout::OutputWords => {
                let stride = outputs.div_ceil(per_word);
                (stride, inputs * stride * 4)
            }
            CodeLayout::RowWords => {
                let stride = inputs.div_ceil(per_word);
                (stride, outputs * stride * 4)
            }
        };
        let noise = noise(self.seed ^ part as u64, count);
        // All but those eight-bit floats that are no numbers.
        let byte = |value: f32| match (value * 128.0) as i8 as u8 {
            0x7f | 0xff if self.kind == CodeKind::Fp8 => 0,
            byte => byte,
        };
        File { bytes: noise.into_iter().map(byte).collect(), stride, outputs: self.parts[part] }
    }

    fn part<'a>(&self, number: usize, file: &'a File) -> QuantizedPart<'a> {
        let ranges = (AROUND..AROUND + file.outputs, AROUND..AROUND + self.inputs);
        let codes = Codes::new(&file.bytes, (self.layout, self.kind), file.stride, ranges);
        let size = self.groups as usize * file.outputs;
        let scales = noise(self.seed + number as u64, size).into_iter().map(|x| x * 0.01);
        let zeros = noise(self.seed ^ 77, size).into_iter().map(|x| (x * 7.0).round() + 8.0);
        let same = match self.kind {
            CodeKind::Fp8 => 0.0,
            // What a product of bytes takes.
            CodeKind::Int8 if self.groups == 1 => 128.0,
            _ => 8.0 * (number % 2) as f32 + 8.0,
        };
        QuantizedPart {
            codes,
            groups: (0..self.inputs as u32).map(|at| (at * 7 + at / 9) % self.groups).collect(),
            // Sixteen bits, as files have them.
            scales: scales.map(|x| half::f16::from_f32(x).to_f32()).collect(),
            zeros: if self.zeros { Zeros::Each(zeros.collect()) } else { Zeros::Same(same) },
            bias: None,
        }
    }

    fn source<'a>(&self, files: &'a [File], storage: Dtype) -> LinearSource<'a> {
        let parts = files.iter().enumerate().map(|(number, file)| self.part(number, file));
        let weights = WeightSource::Quantized(QuantizedSource {
            parts: parts.collect(),
            rounding: self.rounding,
        });
        LinearSource { in_features: self.inputs, weights, storage, quantize: None }
    }

    fn run(&self, device: &mut CpuDevice, storage: Dtype, x: &[f32]) -> Vec<f32> {
        let files: Vec<File> = (0..self.parts.len()).map(|part| self.file(part)).collect();
        let weight = device.prepare_linear(&self.source(&files, storage)).unwrap();
        let outputs: usize = self.parts.iter().sum();
        let x = buffer(device, x, self.inputs);
        let mut out = buffer(device, &vec![0.0; x.rows() * outputs], outputs);
        device.linear(&x, &weight, LinearCall::STORE, &mut out).unwrap();
        out.values().to_vec()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn codes_are_the_references_on_every_path(case in cases()) {
        let x = noise(case.seed ^ 1, case.rows * case.inputs);
        for storage in [Dtype::F32, Dtype::Bf16] {
            let truth = case.run(&mut device(KernelPath::Reference, 1).unwrap(), storage, &x);
            for mut device in devices() {
                let found = case.run(&mut device, storage, &x);
                prop_assert_eq!(bits(&found), bits(&truth), "{}", device.kernel_path());
                let last = case.run(&mut device, storage, &x[(case.rows - 1) * case.inputs..]);
                prop_assert_eq!(bits(&last), bits(&truth[truth.len() - last.len()..]));
            }
        }
    }

    #[test]
    fn codes_mean_what_their_formats_say(case in cases()) {
        let x = noise(case.seed ^ 1, case.inputs);
        let found = case.run(&mut device(KernelPath::best(), 1).unwrap(), Dtype::F32, &x);
        let mut outputs = found.iter();
        for number in 0..case.parts.len() {
            let file = case.file(number);
            let part = case.part(number, &file);
            for output in 0..file.outputs {
                let (mut truth, mut size) = (0.0f64, 0.0f64);
                for (input, x) in x.iter().enumerate() {
                    let mut code = [0];
                    part.codes.of_input(input, output, &mut code);
                    let at = part.groups[input] as usize * file.outputs + output;
                    let zero = match &part.zeros {
                        Zeros::Each(zeros) | Zeros::Offsets(zeros) => zeros[at],
                        Zeros::Same(zero) => *zero,
                    };
                    let steps = match case.kind {
                        CodeKind::Fp8 => fp8(code[0]),
                        CodeKind::Int4 | CodeKind::Int8 => f32::from(code[0]) - zero,
                    };
                    let product = f64::from(steps) * f64::from(part.scales[at]) * f64::from(*x);
                    (truth, size) = (truth + product, size + product.abs());
                }
                let off = (f64::from(*outputs.next().unwrap()) - truth).abs();
                prop_assert!(off <= 1e-5 * size + 1e-9, "{off} of {truth}");
            }
        }
    }
}

/// The codes of each layout, found from its definition.
#[test]
fn codes_are_where_each_layout_has_them() {
    let word = |nibbles: [u8; 8]| -> u32 {
        nibbles.iter().enumerate().fold(0, |word, (at, x)| word | u32::from(*x) << (4 * at))
    };
    let bytes: Vec<u8> = [word([1, 2, 3, 4, 5, 6, 7, 8]), word([9, 10, 11, 12, 13, 14, 15, 0])]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    let read = |layout, stride, (outputs, inputs): (usize, usize)| -> Vec<Vec<u8>> {
        let ranges = (0..outputs, 0..inputs);
        let codes = Codes::new(&bytes, (layout, CodeKind::Int4), stride, ranges);
        let column = |input| {
            let mut out = vec![0; outputs];
            codes.of_input(input, 0, &mut out);
            out
        };
        (0..inputs).map(column).collect()
    };
    // Two outputs of eight inputs, by rows and by words of inputs.
    let pairs: Vec<Vec<u8>> = (1..9).map(|at| vec![at, (at + 8) % 16]).collect();
    assert_eq!(read(CodeLayout::RowWords, 1, (2, 8)), pairs);
    assert_eq!(read(CodeLayout::InputWords, 2, (2, 8)), pairs);
    // Eight outputs of two inputs: a word has outputs 0, 2, 4, 6, 1, 3, 5, 7.
    let first = vec![1, 5, 2, 6, 3, 7, 4, 8];
    let second = vec![9, 13, 10, 14, 11, 15, 12, 0];
    assert_eq!(read(CodeLayout::OutputWords, 1, (8, 2)), [first, second]);
}

/// A row's inputs over two ranks, whose scales follow from both: together what one rank computes.
#[test]
fn ranks_that_share_an_input_round_it_as_one() {
    const INPUTS: usize = 96;
    const OUTPUTS: usize = 70;
    let bytes: Vec<u8> =
        noise(3, OUTPUTS * INPUTS).iter().map(|x| (x * 100.0) as i8 as u8 & 0xbf).collect();
    let mut x = noise(4, 2 * INPUTS);
    x[10] = 5.0;
    let all = [InputRounding::Int8Token, InputRounding::Fp8Token];
    let groups = InputRounding::Fp8Groups { size: 40, first: 0, inputs: INPUTS };
    for rounding in all.into_iter().chain([groups]) {
        let mut device = device(KernelPath::best(), 1).unwrap();
        let kind = match rounding {
            InputRounding::Int8Token => (CodeLayout::SignedBytes, CodeKind::Int8),
            _ => (CodeLayout::Bytes, CodeKind::Fp8),
        };
        let weight = |device: &mut CpuDevice, inputs: std::ops::Range<usize>| -> CpuLinear {
            let part = QuantizedPart {
                codes: Codes::new(&bytes, kind, INPUTS, (0..OUTPUTS, inputs.clone())),
                groups: vec![0; inputs.len()],
                scales: vec![0.01; OUTPUTS],
                zeros: Zeros::Same(if kind.1 == CodeKind::Int8 { 128.0 } else { 0.0 }),
                bias: None,
            };
            let rounding = match rounding {
                InputRounding::Fp8Groups { size, inputs: all, .. } => {
                    InputRounding::Fp8Groups { size, first: inputs.start, inputs: all }
                }
                rounding => rounding,
            };
            let source = QuantizedSource { parts: vec![part], rounding };
            let weights = WeightSource::Quantized(source);
            let (in_features, storage) = (inputs.len(), Dtype::Bf16);
            let source = LinearSource { in_features, weights, storage, quantize: None };
            device.prepare_linear(&source).unwrap()
        };
        let mut run = |inputs: std::ops::Range<usize>, peaks: Option<&[f32]>| {
            let weight = weight(&mut device, inputs.clone());
            let rows = x.chunks(INPUTS).flat_map(|row| row[inputs.clone()].to_vec());
            let x = buffer(&mut device, &rows.collect::<Vec<_>>(), inputs.len());
            let mut out = buffer(&mut device, &[0.0; 2 * OUTPUTS], OUTPUTS);
            let mut own = Vec::new();
            device.input_peaks(&x, &weight, &mut own).unwrap();
            let call = LinearCall { peaks, ..LinearCall::STORE };
            device.linear(&x, &weight, call, &mut out).unwrap();
            (out.values().to_vec(), own)
        };
        let (whole, peaks) = run(0..INPUTS, None);
        let (_, first) = run(0..33, None);
        let (_, second) = run(33..INPUTS, None);
        let largest: Vec<f32> = first.iter().zip(&second).map(|(a, b)| a.max(*b)).collect();
        assert_eq!(largest, peaks, "{rounding:?}");
        let (first, _) = run(0..33, Some(&peaks));
        let (second, _) = run(33..INPUTS, Some(&peaks));
        for ((first, second), whole) in first.iter().zip(&second).zip(&whole) {
            assert!((first + second - whole).abs() <= 1e-4 * whole.abs().max(1.0), "{rounding:?}");
        }
        let (alone, _) = run(33..INPUTS, None);
        assert_ne!(alone, second, "{rounding:?}: by its own peaks it rounds otherwise");
    }
}
