//! Who is left while filters look at the candidates.

/// Who is left. There is no way to bring somebody back.
#[derive(Clone, Debug)]
pub(crate) struct Mask {
    /// Which filter dropped it, counted from 1; 0 for whoever is left.
    dropped_by: Vec<u8>,
    left: usize,
    filter: u8,
}

// === impl Mask ===

impl Mask {
    /// Everybody.
    pub(crate) fn all(rows: usize) -> Self {
        Self { dropped_by: vec![0; rows], left: rows, filter: 1 }
    }

    /// The next filter begins.
    pub(crate) fn next(&mut self) {
        self.filter = self.filter.saturating_add(1);
    }

    /// How many are left.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// Whether a row is left.
    pub(crate) fn has(&self, row: usize) -> bool {
        self.dropped_by[row] == 0
    }

    /// Who dropped a row, counted from 1; 0 if it is left.
    pub(crate) fn dropped_by(&self, row: usize) -> u8 {
        self.dropped_by[row]
    }

    /// Those that are left.
    pub(crate) fn rows(&self) -> impl Iterator<Item = usize> {
        self.dropped_by.iter().enumerate().filter(|(_, by)| **by == 0).map(|(row, _)| row)
    }

    /// Drops those of which `keep` does not say yes.
    pub(crate) fn retain(&mut self, keep: impl Fn(usize) -> bool) {
        for (row, by) in self.dropped_by.iter_mut().enumerate() {
            if *by == 0 && !keep(row) {
                *by = self.filter;
                self.left -= 1;
            }
        }
    }

    /// The same, unless nobody would be left: a wish must not make a request homeless.
    pub(crate) fn prefer(&mut self, keep: impl Fn(usize) -> bool) {
        if self.rows().any(&keep) {
            self.retain(keep);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_that_nobody_meets_drops_nobody() {
        let mut mask = Mask::all(3);
        mask.prefer(|row| row > 5);
        assert_eq!(mask.left(), 3);
        mask.prefer(|row| row > 1);
        assert_eq!(mask.rows().collect::<Vec<_>>(), [2]);
        assert_eq!((mask.dropped_by(0), mask.dropped_by(2)), (1, 0));
    }
}
