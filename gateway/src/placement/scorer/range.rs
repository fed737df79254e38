//! Numbers drawn over the range from the least to the most of them.

/// The least and the most.
pub(super) fn bounds(numbers: &[f32]) -> (f32, f32) {
    let wider = |(least, most): (f32, f32), number: &f32| (least.min(*number), most.max(*number));
    numbers.iter().fold((f32::INFINITY, f32::NEG_INFINITY), wider)
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
