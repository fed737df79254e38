//! Looking through a row of logits: the largest, the first that equals it, the k-th largest.
//!
//! Rows are long (128 thousand and more), so that each of these is one straight pass in blocks that
//! the compiler turns into vector instructions; no row is ever sorted.

use super::Scratch;

/// Elements that are looked at together.
const BLOCK: usize = 64;
/// Independent running values: enough to hide the latency of one.
const LANES: usize = 16;

/// The largest element; -inf if all are.
///
/// # Errors
/// A sentence naming the first element that is NaN or +inf.
pub(super) fn maximum(row: &[f32]) -> Result<f32, String> {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let mut unusable = [0_u32; LANES];
    let (blocks, rest) = row.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            let value = block[lane];
            largest[lane] = if value > largest[lane] { value } else { largest[lane] };
            // Not `>=`: NaN must count too.
            #[expect(clippy::neg_cmp_op_on_partial_ord, reason = "NaN is smaller than nothing")]
            let bad = !(value < f32::INFINITY);
            unusable[lane] |= u32::from(bad);
        }
    }
    let rest_usable = rest.iter().all(|&value| value < f32::INFINITY);
    if !rest_usable || unusable.iter().any(|&flag| flag != 0) {
        return Err(describe_unusable(row));
    }
    let of_blocks = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    Ok(rest.iter().copied().fold(of_blocks, f32::max))
}

/// The first element equal to `value`, which is in the row.
pub(super) fn first_equal(row: &[f32], value: f32) -> usize {
    let start = row
        .chunks(BLOCK)
        .take_while(|block| block.iter().fold(0, |hits, &x| hits | u32::from(x == value)) == 0)
        .count()
        * BLOCK;
    let offset = row[start.min(row.len())..].iter().position(|&x| x == value);
    start + offset.unwrap_or(0)
}

/// The `k`-th largest element, 1 being the largest. The row holds at least `k` and no NaN.
///
/// At least k elements are no smaller than the k-th largest of the blocks' maxima, so that only
/// elements from there upwards can be it: a few times k of them instead of the row.
pub(super) fn kth_largest(row: &[f32], k: usize, scratch: &mut Scratch) -> f32 {
    let Scratch { maxima, values, .. } = scratch;
    maxima.clear();
    maxima.extend(row.chunks(BLOCK).map(|block| {
        block.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max })
    }));
    let bound = if k <= maxima.len() {
        values.clear();
        values.extend_from_slice(maxima);
        nth_largest(values, k)
    } else {
        f32::NEG_INFINITY
    };
    values.clear();
    for (block, &max) in row.chunks(BLOCK).zip(maxima.iter()) {
        if max >= bound {
            values.extend(block.iter().copied().filter(|&x| x >= bound));
        }
    }
    nth_largest(values, k)
}

fn nth_largest(values: &mut [f32], k: usize) -> f32 {
    *values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

#[cold]
fn describe_unusable(row: &[f32]) -> String {
    let (token, value) = row
        .iter()
        .enumerate()
        .find(|(_, value)| value.is_nan() || **value == f32::INFINITY)
        .unwrap_or((0, &f32::NAN));
    format!("the logit of token {token} is {value}, a finite number or -inf is needed")
}
