//! A driver without a device: memory is the host's, launches are written down and checked, and
//! calls fail when a test wants them to.
//!
//! Every launch is held against the kernels' own declarations ([`super::kernels`] has their
//! sources): the kernel must exist, arguments must be as many and of the kinds that it declares, a
//! block must have no more threads than it was compiled for and no more shared memory than the
//! device has, and every pointer must stay within one live allocation. What a launch would compute
//! is not computed, so what is downloaded is what was uploaded, or zeros; unless there is an
//! [`Execute`], which is given every kernel with addresses of this process's own memory.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    driver::{
        Address, Arg, DeviceFacts, DeviceMemory, Driver, DriverError, Fault, Function, Geometry,
        Graph, Launch, Module, Product, Region,
    },
    kernels::signature::{Signature, signatures},
};

/// The fake.
#[derive(Debug)]
pub struct FakeDriver {
    facts: DeviceFacts,
    products: bool,
    execute: Option<Arc<dyn Execute>>,
    kernels: BTreeMap<String, Signature>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Allocations by address.
    memory: BTreeMap<u64, Block>,
    /// Kernels that were asked for; a function's number is its place here, from 1.
    functions: Vec<String>,
    /// What was enqueued, in order.
    done: Vec<Work>,
    /// What is being captured, if it is.
    capture: Option<Vec<Work>>,
    graphs: BTreeMap<u64, Vec<Work>>,
    /// Which call of a kind is to fail, counted from now, and how.
    failures: Vec<(Call, u32, Fault)>,
    lost: bool,
}

/// Runs kernels over this process's memory.
pub trait Execute: Debug + Send + Sync {
    /// Runs a kernel of a source; every pointer among its arguments was checked.
    ///
    /// # Errors
    /// What went wrong.
    fn run(
        &self,
        source: &str,
        name: &str,
        geometry: &Geometry,
        args: &[Arg],
    ) -> Result<(), String>;
}

/// An allocation.
#[derive(Debug)]
struct Block {
    /// The content, with guards around it.
    bytes: Vec<u8>,
    /// Where it begins.
    first: usize,
    /// How long it is.
    len: usize,
}

/// One thing that was enqueued.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// A kernel.
    Kernel {
        /// Its name.
        name: String,
        /// Blocks and threads.
        geometry: Geometry,
        /// What it was given.
        args: Vec<Arg>,
    },
    /// A product by the library.
    Product(Product),
    /// A copy from the host.
    Upload(Region),
    /// A copy to the host.
    Download(Region),
    /// A copy within the device.
    Copy(Region, Address),
    /// One byte, everywhere.
    Fill(Region, u8),
    /// A graph.
    Graph(Graph),
}

/// Calls that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Driver::allocate`]
    Allocate,
    /// [`Driver::load`]
    Load,
    /// [`Driver::launch`], [`Driver::product`] and [`Driver::launch_graph`]
    Launch,
    /// [`Driver::download`] and [`Driver::synchronize`]
    Wait,
    /// [`Driver::end_capture`]
    Capture,
}

impl FakeDriver {
    /// A device like an H200 with so many bytes of memory.
    pub fn new(memory: u64) -> Self {
        Self {
            facts: DeviceFacts {
                ordinal: 0,
                name: "a device that is none".into(),
                uuid: "0123456789abcdef0123456789abcdef".into(),
                capability: (9, 0),
                memory,
                multiprocessors: 132,
                shared_memory: 227 << 10,
                driver_version: 12_090,
            },
            products: false,
            execute: None,
            kernels: signatures(),
            state: Mutex::default(),
        }
    }

    /// The same with a library of products.
    #[must_use]
    pub fn with_products(self) -> Self {
        Self { products: true, ..self }
    }

    /// The same, which runs kernels.
    #[must_use]
    pub fn with_execution(self, execute: Arc<dyn Execute>) -> Self {
        Self { execute: Some(execute), ..self }
    }

    /// The same of another capability.
    #[must_use]
    pub fn with_capability(mut self, capability: (u32, u32)) -> Self {
        self.facts.capability = capability;
        self
    }

    /// Makes the `nth` call of this kind from now on (from 0) fail.
    pub fn fail(&self, call: Call, nth: u32, fault: Fault) {
        self.state().failures.push((call, nth, fault));
    }

    /// What was enqueued since this was last asked.
    pub fn take(&self) -> Vec<Work> {
        std::mem::take(&mut self.state().done)
    }

    /// Bytes that are allocated.
    pub fn allocated(&self) -> u64 {
        self.state().memory.values().map(|block| block.len as u64).sum()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails if this call is to, and every call once the device is lost.
    fn meet(&self, call: Option<Call>) -> Result<(), DriverError> {
        let mut state = self.state();
        if state.lost {
            return Err(error(Fault::Lost, "the device was lost"));
        }
        let mut found = None;
        for (number, (planned, left, fault)) in state.failures.iter_mut().enumerate() {
            if Some(*planned) != call {
                continue;
            }
            match left.checked_sub(1) {
                Some(rest) => *left = rest,
                None => found = found.or(Some((number, *fault))),
            }
        }
        let Some((number, fault)) = found else { return Ok(()) };
        state.failures.remove(number);
        state.lost = fault == Fault::Lost;
        Err(error(fault, "a test wants it so"))
    }

    /// Whether a launch is one that the kernel can be run with.
    fn check(&self, launch: &Launch<'_>) -> Result<(), String> {
        let Some(signature) = self.kernels.get(launch.name) else {
            return Err(format!("there is no kernel {}", launch.name));
        };
        let Geometry { grid, block, shared } = launch.geometry;
        let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
        if threads == 0 || threads > u64::from(signature.threads) {
            return Err(format!("{threads} threads, it is made for {}", signature.threads));
        }
        // The limits of every device since capability 3.0.
        if grid.contains(&0) || grid[0] > i32::MAX.unsigned_abs() || grid[1].max(grid[2]) > 65_535 {
            return Err(format!("a grid of {grid:?}"));
        }
        if shared > self.facts.shared_memory {
            return Err(format!("{shared} bytes of shared memory for a block"));
        }
        let kinds = &signature.kinds;
        let fits = kinds.len() == launch.args.len()
            && kinds.iter().zip(launch.args).all(|(kind, arg)| kind.takes(arg));
        if !fits {
            return Err(format!("arguments {:?}, it declares {kinds:?}", launch.args));
        }
        let state = self.state();
        let outside = launch.args.iter().flat_map(Arg::regions).find(|region| !state.holds(region));
        match outside {
            Some(region) => Err(format!("{region:?} is outside of every allocation")),
            None => Ok(()),
        }
    }

    /// Writes work down, and does it if it is not captured.
    fn enqueue(&self, work: Work) -> Result<(), DriverError> {
        let mut state = self.state();
        if let Some(captured) = &mut state.capture {
            captured.push(work);
            return Ok(());
        }
        drop(state);
        self.perform(&work)?;
        self.state().done.push(work);
        Ok(())
    }

    fn perform(&self, work: &Work) -> Result<(), DriverError> {
        match work {
            Work::Kernel { name, geometry, args } => {
                let source = self.kernels.get(name).map_or("", |kernel| kernel.source.name);
                match &self.execute {
                    Some(execute) => execute
                        .run(source, name, geometry, args)
                        .map_err(|why| error(Fault::Lost, format!("{name}: {why}"))),
                    None => Ok(()),
                }
            }
            Work::Copy(from, to) => {
                let mut state = self.state();
                let copied = state.bytes(*from).to_vec();
                state.bytes(Region { address: *to, ..*from }).copy_from_slice(&copied);
                Ok(())
            }
            Work::Fill(region, byte) => {
                self.state().bytes(*region).fill(*byte);
                Ok(())
            }
            Work::Graph(graph) => {
                let works = self.state().graphs.get(&graph.0).cloned().unwrap_or_default();
                works.iter().try_for_each(|work| self.perform(work))
            }
            Work::Product(_) | Work::Upload(_) | Work::Download(_) => Ok(()),
        }
    }

    fn expect(&self, region: Region) -> Result<(), DriverError> {
        match self.state().holds(&region) {
            true => Ok(()),
            false => Err(error(Fault::Lost, format!("{region:?} is outside of every allocation"))),
        }
    }
}

impl Block {
    fn new(len: usize) -> Self {
        let bytes = vec![GUARD; len + 3 * ALIGN];
        let start = bytes.as_ptr().addr();
        let first = (start + ALIGN).next_multiple_of(ALIGN) - start;
        Self { bytes, first, len }
    }

    fn address(&self) -> u64 {
        (self.bytes.as_ptr().addr() + self.first) as u64
    }

    fn is_whole(&self) -> bool {
        let end = self.first + self.len;
        self.bytes[..self.first].iter().chain(&self.bytes[end..]).all(|byte| *byte == GUARD)
    }
}

impl State {
    /// Whether a region lies in one allocation.
    fn holds(&self, region: &Region) -> bool {
        let found = self.memory.range(..=region.address.0).next_back();
        found.is_some_and(|(start, block)| region.end() <= start + block.len as u64)
    }

    /// The bytes of a region that is there.
    fn bytes(&mut self, region: Region) -> &mut [u8] {
        match self.memory.range_mut(..=region.address.0).next_back() {
            Some((start, block)) => {
                let first = block.first + (region.address.0 - start) as usize;
                &mut block.bytes[first..first + region.bytes as usize]
            }
            None => &mut [],
        }
    }
}

impl Driver for FakeDriver {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn memory(&self) -> Result<DeviceMemory, DriverError> {
        self.meet(None)?;
        let total = self.facts.memory;
        Ok(DeviceMemory { free: total - self.allocated(), total })
    }

    fn allocate(&self, bytes: u64) -> Result<Address, DriverError> {
        self.meet(Some(Call::Allocate))?;
        let free = self.facts.memory - self.allocated();
        if bytes > free {
            let why = format!("{bytes} bytes where {free} are free");
            return Err(error(Fault::OutOfMemory, why));
        }
        let block = Block::new(bytes as usize);
        let address = block.address();
        self.state().memory.insert(address, block);
        Ok(Address(address))
    }

    fn free(&self, address: Address) {
        let freed = self.state().memory.remove(&address.0);
        let is_whole = freed.is_none_or(|block| block.is_whole());
        assert!(is_whole || std::thread::panicking(), "something was written beyond {address}");
    }

    fn load(&self, _image: &[u8]) -> Result<Module, DriverError> {
        self.meet(Some(Call::Load))?;
        Ok(Module(1))
    }

    fn function(&self, _module: Module, name: &str) -> Result<Function, DriverError> {
        self.meet(None)?;
        if !self.kernels.contains_key(name) {
            return Err(error(Fault::Other, format!("there is no kernel {name}")));
        }
        let mut state = self.state();
        state.functions.push(name.to_owned());
        Ok(Function(state.functions.len() as u64))
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), DriverError> {
        self.meet(Some(Call::Launch))?;
        self.check(launch).map_err(|why| {
            error(Fault::Lost, format!("{} with {:?}: {why}", launch.name, launch.geometry))
        })?;
        let (name, geometry) = (launch.name.to_owned(), launch.geometry);
        self.enqueue(Work::Kernel { name, geometry, args: launch.args.to_vec() })
    }

    fn has_products(&self) -> bool {
        self.products
    }

    fn product(&self, call: &Product) -> Result<(), DriverError> {
        self.meet(Some(Call::Launch))?;
        if !self.products {
            return Err(error(Fault::Other, "there is no library of products"));
        }
        let (m, n, k) = (u64::from(call.m), u64::from(call.n), u64::from(call.k));
        let sizes = [
            (call.x, m * k * call.input.size()),
            (call.weight, n * k * call.input.size()),
            (call.out, m * n * call.output.size()),
        ];
        for (region, bytes) in sizes {
            self.expect(region)?;
            if region.bytes != bytes {
                return Err(error(Fault::Lost, format!("{region:?} of {call:?}")));
            }
        }
        self.enqueue(Work::Product(*call))
    }

    fn upload(&self, from: &[u8], to: Address) -> Result<(), DriverError> {
        self.meet(None)?;
        let region = Region { address: to, bytes: from.len() as u64 };
        self.expect(region)?;
        self.state().bytes(region).copy_from_slice(from);
        self.enqueue(Work::Upload(region))
    }

    fn download(&self, from: Address, to: &mut [u8]) -> Result<(), DriverError> {
        self.meet(Some(Call::Wait))?;
        let region = Region { address: from, bytes: to.len() as u64 };
        self.expect(region)?;
        to.copy_from_slice(self.state().bytes(region));
        self.enqueue(Work::Download(region))
    }

    fn copy(&self, from: Address, to: Address, bytes: u64) -> Result<(), DriverError> {
        self.meet(None)?;
        let (from, into) = (Region { address: from, bytes }, Region { address: to, bytes });
        self.expect(from)?;
        self.expect(into)?;
        self.enqueue(Work::Copy(from, to))
    }

    fn fill(&self, at: Address, byte: u8, bytes: u64) -> Result<(), DriverError> {
        self.meet(None)?;
        let region = Region { address: at, bytes };
        self.expect(region)?;
        self.enqueue(Work::Fill(region, byte))
    }

    fn synchronize(&self) -> Result<(), DriverError> {
        self.meet(Some(Call::Wait))
    }

    fn begin_capture(&self) -> Result<(), DriverError> {
        self.meet(None)?;
        self.state().capture = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Graph, DriverError> {
        let captured = self.state().capture.take();
        self.meet(Some(Call::Capture))?;
        let captured = captured.ok_or_else(|| error(Fault::Other, "nothing was captured"))?;
        let cannot =
            |work: &&Work| matches!(work, Work::Upload(_) | Work::Download(_) | Work::Graph(_));
        if let Some(work) = captured.iter().find(cannot) {
            return Err(error(Fault::Other, format!("{work:?} cannot be captured")));
        }
        let mut state = self.state();
        let graph = 1 + state.graphs.last_key_value().map_or(0, |(number, _)| *number);
        state.graphs.insert(graph, captured);
        Ok(Graph(graph))
    }

    fn launch_graph(&self, graph: Graph) -> Result<(), DriverError> {
        self.meet(Some(Call::Launch))?;
        let Some(works) = self.state().graphs.get(&graph.0).cloned() else {
            return Err(error(Fault::Other, format!("there is no {graph:?}")));
        };
        // What it was captured with must still be there.
        for work in &works {
            if let Work::Kernel { args, .. } = work {
                args.iter().flat_map(Arg::regions).try_for_each(|region| self.expect(region))?;
            }
        }
        self.enqueue(Work::Graph(graph))
    }

    fn free_graph(&self, graph: Graph) {
        self.state().graphs.remove(&graph.0);
    }
}

fn error(fault: Fault, detail: impl Into<String>) -> DriverError {
    DriverError { fault, call: "a fake driver", detail: detail.into() }
}

const GUARD: u8 = 0xa5;
const ALIGN: usize = 256;
