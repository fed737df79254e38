//! Activations rounded to eight bits: whole rows, groups that begin on another rank, one scale for
//! all; codes, the numbers that they stand for, and the magnitudes that scales follow from.

use troupe_gpu::dtype::Dtype;

use crate::{
    shim::{self, Arg, Launch, Memory},
    steps::f8,
    values::{self, TYPES, bytes, same, typed_noise},
};

/// Inputs of this rank in groups: so many of the first are another rank's.
#[derive(Clone, Copy, Debug)]
struct Form {
    columns: usize,
    group: usize,
    skip: usize,
    static_scale: f32,
}

impl Form {
    fn groups(self) -> usize {
        (self.columns + self.skip).div_ceil(self.group)
    }

    fn group_of(self, column: usize) -> usize {
        (column + self.skip) / self.group
    }
}

const FORMS: [Form; 4] = [
    Form { columns: 300, group: 300, skip: 0, static_scale: 0.0 },
    Form { columns: 300, group: 128, skip: 0, static_scale: 0.0 },
    Form { columns: 200, group: 128, skip: 100, static_scale: 0.0 },
    Form { columns: 130, group: 130, skip: 0, static_scale: 0.125 },
];

const ROWS: usize = 3;
/// Groups of ranks before this one.
const FIRST: usize = 2;

/// The nearest eight-bit float, of two the even one; all of them are tried.
fn nearest(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let distance = |code: u8| (f64::from(f8(code)) - f64::from(value.abs())).abs();
    let better = |best: u8, code: u8| match distance(code).total_cmp(&distance(best)) {
        std::cmp::Ordering::Less => code,
        std::cmp::Ordering::Equal if code & 1 == 0 => code,
        _ => best,
    };
    (0..0x7f).fold(0, better) | sign
}

fn launch(kernel: &str, form: Form) -> Launch<'_> {
    let grid = [ROWS, form.groups(), 1];
    Launch { file: "quantize", kernel, grid, threads: 128, shared: 0 }
}

/// The largest magnitude of each row and group, as others have found it if `doubled`.
fn peaks(x: &[f32], form: Form, doubled: bool) -> Vec<f32> {
    let mut peaks = vec![0.0f32; ROWS * (FIRST + form.groups())];
    for (row, x) in x.chunks(form.columns).enumerate() {
        for (column, x) in x.iter().enumerate() {
            let peak = &mut peaks[row * (FIRST + form.groups()) + FIRST + form.group_of(column)];
            *peak = peak.max(x.abs() * if doubled { 2.0 } else { 1.0 });
        }
    }
    peaks
}

#[test]
fn eight_bit_floats_are_the_nearest_by_groups() {
    if shim::is_missing() {
        return;
    }
    for (name, dtype) in TYPES {
        for form in FORMS {
            for doubled in [false, true] {
                let (mut x, _) = typed_noise(dtype, 161, ROWS * form.columns);
                // A row of zeros has the scale 0.
                x[form.columns..2 * form.columns].fill(0.0);
                let x_bytes = bytes(dtype, &x);
                let stride = FIRST + form.groups();
                let own = peaks(&x, form, doubled);
                let mut memory = Memory::default();
                let x_at = memory.put(&x_bytes);
                let given = if doubled { memory.put(&bytes(Dtype::F32, &own)) } else { 0 };
                let (codes_at, scales_at) =
                    (memory.room(x.len()), memory.room(ROWS * form.groups() * 4));
                let args = [
                    Arg::Wide(x_at),
                    Arg::Word(form.columns as u32),
                    Arg::Word(form.group as u32),
                    Arg::Word(form.skip as u32),
                    Arg::Float(form.static_scale),
                    Arg::Wide(given),
                    Arg::Word(stride as u32),
                    Arg::Word(FIRST as u32),
                ];
                let kernel = format!("quantize_fp8_{name}");
                let to = [Arg::Wide(codes_at), Arg::Wide(scales_at)];
                memory.launch(launch(&kernel, form), &[&args[..], &to].concat());

                let scale_of = |at: usize| match form.static_scale > 0.0 {
                    true => form.static_scale,
                    false => {
                        let (row, column) = (at / form.columns, at % form.columns);
                        own[row * stride + FIRST + form.group_of(column)] / 448.0
                    }
                };
                let divided = |at: usize| match scale_of(at) {
                    0.0 => x[at],
                    scale => x[at] / scale,
                };
                let codes: Vec<u8> = (0..x.len()).map(|at| nearest(divided(at))).collect();
                assert_eq!(memory.at(codes_at), codes, "{kernel} {form:?}");
                let scales = values::values(Dtype::F32, memory.at(scales_at));
                for at in 0..x.len() {
                    let group =
                        at / form.columns * form.groups() + form.group_of(at % form.columns);
                    assert_eq!(scales[group].to_bits(), scale_of(at).to_bits(), "{kernel}");
                }

                let out = memory.room(x_bytes.len());
                let kernel = format!("round_{name}");
                let mut round = args.to_vec();
                round.insert(2, Arg::Word(0));
                round.push(Arg::Wide(out));
                memory.launch(launch(&kernel, form), &round);
                let expected: Vec<f32> =
                    codes.iter().enumerate().map(|(at, code)| f8(*code) * scale_of(at)).collect();
                let expected = values::values(dtype, &bytes(dtype, &expected));
                same(&kernel, &values::values(dtype, memory.at(out)), &expected);
            }
        }
    }
}

#[test]
fn rows_are_rounded_to_bytes() {
    if shim::is_missing() {
        return;
    }
    let form = FORMS[0];
    for (name, dtype) in TYPES {
        let (x, x_bytes) = typed_noise(dtype, 171, ROWS * form.columns);
        let own = peaks(&x, form, false);
        let mut memory = Memory::default();
        let (x_at, out) = (memory.put(&x_bytes), memory.room(x_bytes.len()));
        let args = [
            Arg::Wide(x_at),
            Arg::Word(form.columns as u32),
            Arg::Word(1),
            Arg::Word(form.group as u32),
            Arg::Word(0),
            Arg::Float(0.0),
            Arg::Wide(0),
            Arg::Word(1),
            Arg::Word(0),
            Arg::Wide(out),
        ];
        let kernel = format!("round_{name}");
        memory.launch(launch(&kernel, form), &args);
        let expected: Vec<f32> = x
            .iter()
            .enumerate()
            .map(|(at, x)| {
                let peak = own[at / form.columns * (FIRST + 1) + FIRST];
                let code = (x * (127.0 / peak)).round_ties_even() as i8;
                f32::from(code) * (peak / 127.0)
            })
            .collect();
        let expected = values::values(dtype, &bytes(dtype, &expected));
        same(&kernel, &values::values(dtype, memory.at(out)), &expected);
    }
}

#[test]
fn magnitudes_are_found_by_row_and_group_and_no_number_stays_none() {
    if shim::is_missing() {
        return;
    }
    for (name, dtype) in TYPES {
        for form in FORMS {
            let (mut x, _) = typed_noise(dtype, 181, ROWS * form.columns);
            x[7] = f32::NAN;
            let stride = FIRST + form.groups();
            let mut memory = Memory::default();
            let x_at = memory.put(&bytes(dtype, &x));
            let out = memory.put(&bytes(Dtype::F32, &vec![0.0; ROWS * stride]));
            let args = [
                Arg::Wide(x_at),
                Arg::Word(form.columns as u32),
                Arg::Word(form.group as u32),
                Arg::Word(form.skip as u32),
                Arg::Word(stride as u32),
                Arg::Word(FIRST as u32),
                Arg::Wide(out),
            ];
            memory.launch(launch(&format!("peaks_{name}"), form), &args);
            let found = values::values(Dtype::F32, memory.at(out));
            x[7] = 0.0;
            let mut expected = peaks(&x, form, false);
            assert!(found[FIRST].is_nan(), "{name} {form:?}");
            expected[FIRST] = found[FIRST];
            same(name, &found, &expected);
        }
    }
}
