//! The sizes that steps are computed with. A graph is captured for one size, and the vendor's
//! products keep a plan for each, so there are few: a step's rows go up to the next.

/// The rows that a step of `rows` rows is computed with: each of the first few, then multiples of 8
/// up to [`MOST_DECODE_ROWS`], then multiples of 64.
pub fn rows(rows: usize) -> usize {
    match rows {
        0..=2 => rows,
        3..=4 => 4,
        5..=MOST_DECODE_ROWS => rows.next_multiple_of(8),
        _ => rows.next_multiple_of(64),
    }
}

/// The width that block tables of at most `blocks` blocks are laid out with: powers of two, from 16
/// up to what the longest sequence needs.
pub fn width(blocks: usize, most: usize) -> usize {
    blocks.next_power_of_two().max(16).min(most.max(1)).max(blocks)
}

/// All row counts that decode steps of up to `sequences` sequences are captured with.
pub fn decode_sizes(sequences: usize) -> Vec<usize> {
    let mut sizes: Vec<usize> = (1..=sequences.min(MOST_DECODE_ROWS)).map(rows).collect();
    sizes.dedup();
    sizes
}

/// Rows of the largest step that is captured.
pub const MOST_DECODE_ROWS: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_only_grow_and_hold_what_they_are_for() {
        for n in 0..10_000 {
            assert!(rows(n) >= n && rows(n + 1) >= rows(n), "{n}");
            assert_eq!(rows(rows(n)), rows(n), "a size is its own");
            assert!(rows(n) < n + 64);
        }
        assert_eq!(decode_sizes(20), [1, 2, 4, 8, 16, 24]);
        assert_eq!(decode_sizes(100_000).last(), Some(&512));
        assert_eq!([1, 16, 17, 300, 500].map(|n| width(n, 512)), [16, 16, 32, 512, 512]);
        assert_eq!(width(3, 5), 5);
        assert_eq!(width(0, 0), 1);
    }
}
