//! Panels of brain-float pairs, packed at once or when there is time.
//!
//! Packing costs more than reading: memory that nobody has used before is dear, on virtual machines
//! above all (a second and more for each GiB). So weights that a file has as brain floats stay
//! where they are when a model is loaded, in the system's cache of the file, and the model answers
//! at once. Until a panel is packed, each product packs it for itself, into memory that it uses
//! again for the next: a step then takes twice as long. While the device is idle, and a little
//! after each step, pieces are packed for good ([`Panels::settle`]), and the file's pages are given
//! back. When a weight is packed changes no bit of any product.

use std::{cell::RefCell, sync::OnceLock};

use super::{
    aligned::Aligned,
    packed::{PANEL, zeros},
    pairs::{self, BLOCK, PAIRS, PairOrder},
    simd::{Isa, pool::Pool},
};
use crate::{error::DeviceError, tensor::FileMatrix};

/// The panels of one linear layer.
#[derive(Debug)]
pub(crate) struct Panels {
    pub(crate) order: PairOrder,
    /// Words of a panel.
    words: usize,
    /// Panels of a piece.
    each: usize,
    pieces: Box<[OnceLock<Aligned<u32>>]>,
    /// Stacked rows, where not everything was packed at once.
    parts: Vec<FileMatrix>,
}

thread_local! {
    /// Where panels are packed for one product.
    static PASSING: RefCell<Option<Aligned<u32>>> = const { RefCell::new(None) };
}

impl Panels {
    /// Packed panels.
    pub(crate) fn packed(order: PairOrder, inputs: usize, data: Aligned<u32>) -> Self {
        let words = pairs::words(inputs) * PANEL;
        let each = (data.len() / words).max(1);
        Self { order, words, each, pieces: Box::new([OnceLock::from(data)]), parts: Vec::new() }
    }

    /// Rows of `inputs` brain floats that stay where they are for now; their bytes are brought in.
    pub(crate) fn in_place(
        order: PairOrder,
        inputs: usize,
        parts: Vec<FileMatrix>,
        pool: &mut Pool,
    ) -> Self {
        for part in &parts {
            let span = part.span(0..part.rows());
            part.map().keep(span.clone());
            part.map().ask_for(span.clone());
            pool.run(span.len().div_ceil(BROUGHT), &|task| {
                let start = span.start + task * BROUGHT;
                part.map().bring_in(start..span.end.min(start + BROUGHT));
            });
        }
        Self::empty(order, inputs, parts)
    }

    /// The same, packed at once. For columns of wider rows, whose pages have others' columns too.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    pub(crate) fn of_columns(
        (isa, order): (Isa, PairOrder),
        inputs: usize,
        parts: Vec<FileMatrix>,
        pool: &mut Pool,
    ) -> Result<Self, DeviceError> {
        let panels = Self::empty(order, inputs, parts);
        while panels.settle(isa, pool)? {}
        Ok(panels)
    }

    fn empty(order: PairOrder, inputs: usize, parts: Vec<FileMatrix>) -> Self {
        let panels = parts.iter().map(FileMatrix::rows).sum::<usize>().div_ceil(PANEL);
        let words = pairs::words(inputs) * PANEL;
        let each = (PIECE / (words * size_of::<u32>())).max(1);
        let pieces = (0..panels.div_ceil(each)).map(|_| OnceLock::new()).collect();
        Self { order, words, each, pieces, parts }
    }

    /// Panel `panel`, if it is packed.
    fn panel(&self, panel: usize) -> Option<&[u32]> {
        let piece = self.pieces[panel / self.each].get()?;
        Some(&piece[panel % self.each * self.words..][..self.words])
    }

    /// Calls with panel `panel`.
    pub(crate) fn with<T>(&self, isa: Isa, panel: usize, call: impl FnOnce(&[u32]) -> T) -> T {
        if let Some(panel) = self.panel(panel) {
            return call(panel);
        }
        PASSING.with_borrow_mut(|passing| {
            let room = passing.as_ref().is_some_and(|passing| passing.len() >= self.words);
            if !room {
                // A panel is small beside the weights that were read a moment ago.
                *passing = Some(Aligned::on_heap(self.words));
            }
            let mut none = [];
            let out = passing.as_mut().map_or(&mut none[..], |out| &mut out[..self.words]);
            self.pack(isa, panel, out);
            call(out)
        })
    }

    fn pack(&self, isa: Isa, panel: usize, out: &mut [u32]) {
        let mut rows: [&[u8]; PANEL] = [&[]; PANEL];
        let mut count = 0;
        let mut first = panel * PANEL;
        for part in &self.parts {
            for row in first.min(part.rows())..part.rows().min(first + PANEL - count) {
                rows[count] = part.row(row);
                count += 1;
            }
            first = first.saturating_sub(part.rows());
        }
        isa.pack_pairs(self.order, &rows[..count], out);
    }

    /// Packs one piece more for good, if there is one; says whether there was.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`]; nothing has changed then.
    pub(crate) fn settle(&self, isa: Isa, pool: &mut Pool) -> Result<bool, DeviceError> {
        let Some(number) = self.pieces.iter().position(|piece| piece.get().is_none()) else {
            return Ok(false);
        };
        let outputs: usize = self.parts.iter().map(FileMatrix::rows).sum();
        let first = number * self.each;
        let count = self.each.min(outputs.div_ceil(PANEL) - first);
        let mut data: Aligned<u32> = zeros(count, self.words / PANEL)?;
        pool.chunks(&mut data, self.words, &|panel, out| self.pack(isa, first + panel, out));
        // Only this sets pieces, and never twice.
        let _ = self.pieces[number].set(data);
        let (mut start, mut end) = (first * PANEL, (first + count) * PANEL);
        for part in &self.parts {
            let rows = start.min(part.rows())..end.min(part.rows());
            part.map().release_span(part.span(rows));
            (start, end) = (start.saturating_sub(part.rows()), end.saturating_sub(part.rows()));
        }
        Ok(true)
    }

    /// Weight of output `n` for input `k`.
    pub(crate) fn get(&self, n: usize, k: usize) -> f32 {
        let bits = match self.panel(n / PANEL) {
            Some(panel) => {
                let (word, shift) = self.order.place(k % BLOCK);
                (panel[(k / BLOCK * PAIRS + word) * PANEL + n % PANEL] >> shift) as u16
            }
            None => self.in_file(n).map_or(0, |row| of_file(&row[2 * k..])),
        };
        pairs::widen(bits)
    }

    /// All weights of output `n`, which must exist.
    pub(crate) fn row(&self, n: usize, out: &mut [f32]) {
        let Some(panel) = self.panel(n / PANEL) else {
            let row = self.in_file(n).unwrap_or_default();
            for (out, bytes) in out.iter_mut().zip(row.chunks_exact(2)) {
                *out = pairs::widen(of_file(bytes));
            }
            return;
        };
        let blocks = panel[n % PANEL..].chunks(PAIRS * PANEL);
        for (out, block) in out.chunks_mut(BLOCK).zip(blocks) {
            for (input, out) in out.iter_mut().enumerate() {
                let (word, shift) = self.order.place(input);
                *out = pairs::widen((block[word * PANEL] >> shift) as u16);
            }
        }
    }

    /// The bytes of output `n`'s weights.
    fn in_file(&self, mut n: usize) -> Option<&[u8]> {
        for part in &self.parts {
            if n < part.rows() {
                return Some(part.row(n));
            }
            n -= part.rows();
        }
        None
    }

    /// Bytes of all panels once they are packed.
    pub(crate) fn bytes(&self, outputs: usize) -> usize {
        outputs.div_ceil(PANEL) * self.words * size_of::<u32>()
    }
}

/// The first two bytes as a brain float that products take.
fn of_file(bytes: &[u8]) -> u16 {
    bytes.first_chunk::<2>().map_or(0, |bytes| pairs::without_tiny(u16::from_le_bytes(*bytes)))
}

/// Bytes that are packed at a time: some milliseconds, which a request may have to wait.
const PIECE: usize = 8 << 20;
/// Bytes that a thread brings in at a time.
const BROUGHT: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cpu::{CpuDevice, CpuOptions, KernelPath},
        dtype::Dtype,
        tensor::DenseMatrix,
        weights::map::FileMap,
    };

    #[test]
    fn panels_are_the_same_before_and_after_they_are_packed() {
        // More than a piece of the wide one; ragged in outputs and inputs; two parts.
        for (outputs, inputs) in [((3, 62), 33), ((64, 64), 64), ((1, 1), 1), ((700, 90), 5632)] {
            let rows = outputs.0 + outputs.1;
            let bits = |at: usize| (at * 40_503 % 65_521) as u16;
            let bytes: Vec<u8> = (0..rows * inputs).flat_map(|at| bits(at).to_le_bytes()).collect();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &bytes).unwrap();
            let map = FileMap::open(file.path()).unwrap();
            let whole = DenseMatrix::new(map.bytes(), Dtype::Bf16, (rows, inputs)).unwrap();
            let whole = whole.of_file(&map);
            let parts = [(0, outputs.0), (outputs.0, outputs.1)]
                .map(|(first, rows)| whole.slice_rows(first, rows).unwrap().to_file().unwrap());
            for path in KernelPath::ALL.into_iter().filter(|path| path.available()) {
                let Some(isa) = Isa::of(path) else { continue };
                let mut pool = Pool::new(2).unwrap();
                let device = CpuDevice::new(CpuOptions { threads: 1, path: Some(path) }).unwrap();
                let order = device.isa.unwrap().pair_order();
                let panels = Panels::in_place(order, inputs, parts.to_vec(), &mut pool);
                let expected = |n: usize, k: usize| {
                    pairs::widen(pairs::without_tiny(bits(n * inputs + k))).to_bits()
                };
                let mut before = Vec::new();
                for panel in 0..rows.div_ceil(PANEL) {
                    panels.with(isa, panel, |words| before.push(words.to_vec()));
                }
                let check = || {
                    let mut row = vec![0.0; inputs];
                    for n in [0, outputs.0, rows / 2, rows - 1] {
                        panels.row(n, &mut row);
                        for (k, value) in row.iter().enumerate() {
                            assert_eq!(value.to_bits(), expected(n, k), "{n} {k}");
                            assert_eq!(panels.get(n, k).to_bits(), expected(n, k), "{n} {k}");
                        }
                    }
                };
                check();
                while panels.settle(isa, &mut pool).unwrap() {
                    check();
                }
                for (panel, before) in before.iter().enumerate() {
                    assert_eq!(panels.panel(panel).unwrap(), before, "{}", path.name());
                }
            }
        }
    }
}
