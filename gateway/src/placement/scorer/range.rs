//! Numbers drawn over the range from the least to the most of them.

/// The least and the most. Several are kept at a time, or each number would wait for the one
/// before.
pub(super) fn bounds(numbers: &[f32]) -> (f32, f32) {
    let (mut least, mut most) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let mut widen = |some: &[f32]| {
        for ((least, most), number) in least.iter_mut().zip(&mut most).zip(some) {
            // What is no number is neither.
            *least = if *number < *least { *number } else { *least };
            *most = if *number > *most { *number } else { *most };
        }
    };
    let (whole, rest) = numbers.as_chunks::<LANES>();
    whole.iter().for_each(|some| widen(some));
    widen(rest);
    let least = least.into_iter().fold(f32::INFINITY, f32::min);
    (least, most.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

/// 1 for the least, 0 for the most, a line between; 1 for all if they are equal.
pub(super) fn lower_is_better(numbers: &[f32], scores: &mut [f32]) {
    let (least, most) = bounds(numbers);
    let range = most - least;
    if range <= 0.0 {
        scores.fill(1.0);
        return;
    }
    for (score, number) in scores.iter_mut().zip(numbers) {
        *score = (most - number) / range;
    }
}

const LANES: usize = 16;
