//! One CUDA device: the driver, its kernels, the memory that operations work in, and how an
//! operation's call becomes a launch. [`super::backend`] has the operations.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    buffer::CudaBuffer,
    claim::Claim,
    driver::{Driver, Element, Fault, Product, Region},
    graph::Graphs,
    images::Images,
    kernels::{Call, Kernels},
    launch::{Rows, number, product::Dense},
    memory::{Allocation, Scratch, extent},
    options::{CudaOptions, path_name},
    sources::KERNELS,
    step::Shape,
};
use crate::{backend::Activations, cpu::simd::pool::Pool, dtype::Dtype, error::DeviceError};

/// A device that models run on.
#[derive(Debug)]
pub struct CudaDevice<D: Driver> {
    pub(super) driver: Arc<D>,
    pub(super) kernels: Kernels<D>,
    pub(super) options: CudaOptions,
    pub(super) path: &'static str,
    /// Packs quantized weights while they load.
    pub(super) pool: Pool,
    pub(super) scratch: Scratches<D>,
    /// Arrays that say where the weights of a group of products are, by the first of them and how
    /// many there are: made when they are first needed, and the same for as long as the model is.
    pointers: BTreeMap<(u64, usize), Allocation<D>>,
    /// Where rows end in groups of the same size, by that size and how many there are.
    ends: BTreeMap<(u32, u32), Allocation<D>>,
    /// The step under way, so that what works on its rows works on those that fill it up too.
    pub(super) step: Underway,
    /// Zeros: the sequence of every row where there is no step.
    no_step: Scratch<D>,
    /// Captured steps, and the shape that is being captured.
    pub(super) graphs: Graphs,
    pub(super) capturing: Option<Shape>,
    /// Last, so that the device is given back before somebody else may have it.
    claim: Option<Claim>,
}

/// What is known of the step under way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Underway {
    /// Its rows.
    pub(super) rows: usize,
    /// Those that fill it up included.
    pub(super) shape: Shape,
    /// The sequence of each row.
    pub(super) sequence_of: Option<Region>,
}

/// Memory that operations work in.
#[derive(Debug)]
pub(super) struct Scratches<D: Driver> {
    /// Parts of attention that is split by spans.
    pub(super) partial: Scratch<D>,
    /// Rows that were rounded before a product.
    pub(super) rounded: Scratch<D>,
    /// Their scales, and what all ranks found.
    pub(super) scales: Scratch<D>,
    /// Codes as numbers.
    pub(super) decoded: Scratch<D>,
    /// Logits, choices and places of experts.
    pub(super) choices: Scratch<D>,
    /// Rows of experts before, between and behind their products.
    pub(super) experts: [Scratch<D>; 4],
    /// The same of latent attention.
    pub(super) latent: [Scratch<D>; 4],
    /// Blocks on their way, and where they are.
    pub(super) blocks: [Scratch<D>; 3],
}

impl<D: Driver> CudaDevice<D> {
    /// A device behind a driver.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if it is older than the kernels, [`DeviceError::Failed`] if
    /// threads cannot be started.
    pub fn new(driver: Arc<D>, images: Images, options: CudaOptions) -> Result<Self, DeviceError> {
        let facts = driver.facts();
        let path = path_name(facts, options.batch_invariant || !driver.has_products())?;
        let none = || Scratch::new(&driver);
        let scratch = Scratches {
            partial: none()?,
            rounded: none()?,
            scales: none()?,
            decoded: none()?,
            choices: none()?,
            experts: [none()?, none()?, none()?, none()?],
            latent: [none()?, none()?, none()?, none()?],
            blocks: [none()?, none()?, none()?],
        };
        let no_step = none()?;
        Ok(Self {
            kernels: Kernels::new(Arc::clone(&driver), images),
            pool: Pool::new(options.threads.max(1))?,
            driver,
            options,
            path,
            scratch,
            pointers: BTreeMap::new(),
            ends: BTreeMap::new(),
            step: Underway::default(),
            no_step,
            graphs: Graphs::default(),
            capturing: None,
            claim: None,
        })
    }

    /// The same, which keeps others off the device for as long as it lives.
    #[must_use]
    pub fn keeping(mut self, claim: Option<Claim>) -> Self {
        self.claim = claim;
        self
    }

    /// What it speaks to.
    pub fn driver(&self) -> &Arc<D> {
        &self.driver
    }

    /// Loads the kernels of a model now, so that no request waits for it.
    ///
    /// # Errors
    /// What [`Images::of`] says when there is no image for this device.
    pub fn load_kernels(&mut self) -> Result<(), DeviceError> {
        KERNELS.iter().try_for_each(|source| self.kernels.load(source).map(|_| ()))
    }

    /// Enqueues a kernel.
    pub(super) fn run(&mut self, call: Result<Call, DeviceError>) -> Result<(), DeviceError> {
        self.kernels.launch(&call?)
    }

    /// Multiprocessors.
    pub(super) fn units(&self) -> u32 {
        self.driver.facts().multiprocessors
    }

    /// From here on this step's rows are meant.
    pub(super) fn begin_step(&mut self, step: Underway) {
        self.step = step;
    }

    /// Changes whenever memory has moved that launches of a step are given.
    pub(super) fn generation(&self) -> u64 {
        let Scratches { partial, rounded, scales, decoded, choices, experts, latent, .. } =
            &self.scratch;
        let own = [partial, rounded, scales, decoded, choices, &self.no_step];
        let all = own.into_iter().chain(experts).chain(latent);
        let step = self.step.sequence_of.map_or(0, |at| at.address.0);
        all.map(Scratch::bytes).fold(step, u64::wrapping_add)
    }

    /// The sequence of each of the rows that an operation on `rows` live rows computes.
    pub(super) fn sequence_of(&mut self, rows: usize) -> Result<Region, DeviceError> {
        match self.step.sequence_of {
            Some(sequence_of) if rows == self.step.rows => Ok(sequence_of),
            _ => {
                let bytes = extent(&[rows, 4])?;
                let zeros = self.no_step.reserve(bytes)?;
                self.driver.fill(zeros.address, 0, bytes)?;
                Ok(zeros)
            }
        }
    }

    /// The rows that an operation on `rows` live rows computes: with the step's, those that fill it
    /// up.
    pub(super) fn padded(&self, rows: usize) -> usize {
        if rows == self.step.rows { self.step.shape.rows.max(rows) } else { rows }
    }

    /// A buffer's live rows as kernels see them, with those that fill the step up if there is room
    /// for them.
    pub(super) fn view(&self, buffer: &CudaBuffer<D>) -> Result<Rows, DeviceError> {
        self.view_of(buffer, self.padded(buffer.rows()).min(buffer.capacity()))
    }

    /// A buffer's first rows as kernels see them.
    pub(super) fn view_of(&self, buffer: &CudaBuffer<D>, rows: usize) -> Result<Rows, DeviceError> {
        Ok(Rows {
            at: buffer.first_rows(rows)?,
            rows: number(rows)?,
            columns: number(buffer.columns())?,
            dtype: buffer.dtype(),
        })
    }

    /// Makes as many rows of `out` live as `x` has, and gives both as kernels see them.
    pub(super) fn pair(
        &self,
        x: &CudaBuffer<D>,
        out: &mut CudaBuffer<D>,
    ) -> Result<(Rows, Rows), DeviceError> {
        out.expect_room(x.rows())?;
        let rows = self.padded(x.rows()).min(x.capacity()).min(out.capacity());
        out.set_rows(x.rows())?;
        Ok((self.view_of(x, rows)?, self.view_of(out, rows)?))
    }

    /// `rows` rows in scratch memory as kernels see them.
    pub(super) fn rows_at(at: Region, (rows, columns): (u32, u32), dtype: Dtype) -> Rows {
        Rows { at, rows, columns, dtype }
    }

    /// Enqueues a dense product by the vendor's library, if it is meant to and can; says whether.
    pub(super) fn by_library(
        &self,
        x: Rows,
        weight: Dense,
        accumulate: bool,
        out: Rows,
    ) -> Result<bool, DeviceError> {
        if self.options.batch_invariant || !self.driver.has_products() || x.dtype != weight.dtype {
            return Ok(false);
        }
        let call = Product {
            m: x.rows,
            n: weight.outputs,
            k: weight.inputs,
            input: element(x.dtype),
            output: element(out.dtype),
            accumulate,
            x: x.at,
            weight: weight.at,
            out: out.at,
        };
        match self.driver.product(&call) {
            Ok(()) => Ok(true),
            // A shape that it has no kernel for is left to ours; what is broken stays broken.
            Err(error) if error.fault == Fault::Other => {
                tracing::debug!(%error, "a product goes without cuBLASLt");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// An array of what there is of each of some weights, by where the first is and how many there
    /// are.
    pub(super) fn table(
        &mut self,
        key: (u64, usize),
        words: impl FnOnce() -> Vec<u64>,
    ) -> Result<Region, DeviceError> {
        if !self.pointers.contains_key(&key) {
            let words = words();
            let held = Allocation::holding(&self.driver, bytemuck::cast_slice(&words))?;
            self.pointers.insert(key, held);
        }
        Ok(self.pointers[&key].all())
    }

    /// An array of where `groups` groups of `rows` rows end.
    pub(super) fn even_ends(&mut self, rows: u32, groups: u32) -> Result<Region, DeviceError> {
        let key = (rows, groups);
        if !self.ends.contains_key(&key) {
            let ends = (1..=groups).map(|group| group.checked_mul(rows));
            let Some(ends) = ends.collect::<Option<Vec<u32>>>() else {
                return Err(DeviceError::Contract(format!("{groups} groups of {rows} rows")));
            };
            let held = Allocation::holding(&self.driver, bytemuck::cast_slice(&ends))?;
            self.ends.insert(key, held);
        }
        Ok(self.ends[&key].all())
    }
}

fn element(dtype: Dtype) -> Element {
    match dtype {
        Dtype::Bf16 => Element::Bf16,
        Dtype::F16 => Element::F16,
        Dtype::F32 => Element::F32,
    }
}

impl<D: Driver> Drop for CudaDevice<D> {
    fn drop(&mut self) {
        self.graphs.clear().into_iter().for_each(|graph| self.driver.free_graph(graph));
    }
}
